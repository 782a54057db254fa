/* Weights in the panels that `gemm` reads (see `matrix` in decode.h), and inputs as integers. */
#include "decode.h"

int panel_width(void) { return PANEL; }
int int8_block(void) { return INT8_BLOCK; }

/* Writes weight [n, k] (row stride ldw), scaled by alpha and by scale [n] (or NULL), into columns [k0, k0 + k) of rows
 * [n0, n0 + n) of a packed matrix of `whole_k` columns. Panel p of these rows is panel p * step + offset of the matrix. */
void pack_rows(const float *weight, int64_t ldw, int64_t n, int64_t k, const float *scale, float alpha, float *packed,
               int64_t n0, int64_t k0, int64_t whole_k, int64_t step, int64_t offset, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = n0 / PANEL; p <= (n0 + n - 1) / PANEL; p++) {
        float *to = packed + ((p * step + offset) * whole_k + k0) * PANEL;
        int64_t first = p * PANEL > n0 ? p * PANEL : n0, last = (p + 1) * PANEL < n0 + n ? (p + 1) * PANEL : n0 + n;
        for (int64_t i = first; i < last; i++) {
            const float *from = weight + (i - n0) * ldw;
            float factor = alpha * (scale ? scale[i - n0] : 1.0f);
            for (int64_t j = 0; j < k; j++) to[j * PANEL + (i - p * PANEL)] = from[j] * factor;
        }
    }
}

/* The nearest bf16, of two the even one; a NaN stays one. */
static uint16_t bf16_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if (x != x) return (uint16_t)(bits >> 16 | 64);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* to: `count` integers in [-127, 127], PANEL cells apart by fours; returns what they are to be multiplied by, which is NaN
 * where a weight is no number. */
static float int8_of(const float *from, int64_t count, int8_t *to)
{
    float most = 0, whole = 0;
    for (int64_t j = 0; j < count; j++) {
        float size = fabsf(from[j]);
        most = size > most ? size : most;
        whole += 0 * size;
    }
    float factor = most > 1e-30f ? 127 / most : 0;
    for (int64_t j = 0; j < count; j++)
        to[j / 4 * 4 * PANEL + j % 4] = whole == 0 ? (int8_t)lrintf(from[j] * factor) : 0;
    return whole == 0 ? most / 127 : whole;
}

/* As `pack_rows`, of whole rows, into cells of 2 (bf16) or 4 (int8) terms. The factors alpha and by_row [n] (or NULL) go
 * into `scale`, so that weights which are bf16 stay what they are. */
void pack_narrow(const float *weight, int64_t ldw, int64_t n, int64_t k, int64_t terms, const float *by_row, float alpha,
                 float *packed, float *scale, int64_t n0, int64_t step, int64_t offset, int threads)
{
    int64_t cells = (k + terms - 1) / terms, blocks = terms == 2 ? 1 : (k + INT8_BLOCK - 1) / INT8_BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = n0 / PANEL; p <= (n0 + n - 1) / PANEL; p++) {
        float *to = packed + (p * step + offset) * cells * PANEL, *scales = scale + (p * step + offset) * blocks * PANEL;
        int64_t first = p * PANEL > n0 ? p * PANEL : n0, last = (p + 1) * PANEL < n0 + n ? (p + 1) * PANEL : n0 + n;
        for (int64_t i = first; i < last; i++) {
            const float *from = weight + (i - n0) * ldw;
            float factor = alpha * (by_row ? by_row[i - n0] : 1.0f);
            int64_t column = i - p * PANEL;
            if (terms == 2) {
                uint16_t *pair = (uint16_t *)(to + column);
                for (int64_t j = 0; j < k; j++) pair[j / 2 * 2 * PANEL + j % 2] = bf16_of(from[j]);
                scales[column] = factor;
            } else
                for (int64_t b = 0; b < blocks; b++) {
                    int64_t at = b * INT8_BLOCK, count = k - at < INT8_BLOCK ? k - at : INT8_BLOCK;
                    scales[b * PANEL + column] = factor * int8_of(from + at, count, (int8_t *)(to + at / 4 * PANEL + column));
                }
        }
    }
}

void integers(const scratch *s, const matrix *w, const float *x, int64_t i)
{
    if (w->terms != 4) return;
    int64_t k = w->k;
    int16_t *q = s->q + i * s->ld_q;
    vec most = {0}, whole = {0};
    for (int64_t j = 0; j < k; j += LANES) {
        vec v = load_some(x + j, k - j < LANES ? (int)(k - j) : LANES), size = choose(v < 0, -v, v);
        most = choose(size > most, size, most);
        whole += 0 * size;
    }
    float top = largest(most), number = sum(whole); /* 0, or NaN where an input is no number */
    float factor = top > 1e-30f && number == 0 ? 32767 / top : 0;
    typedef int16_t half __attribute__((vector_size(2 * LANES), aligned(2), may_alias));
    for (int64_t j = 0; j < up(k, 4); j += LANES) {
        vec v = load_some(x + j, k - j < LANES ? (int)(k - j) : LANES);
        vec shifted = v * factor + 12582912.0f; /* 1.5 * 2^23: the sum rounds to an integer in the low bits */
        half rounded = __builtin_convertvector((ivec)shifted, half);
        *(half *)(q + j) = rounded;
    }
    s->q_scale[i] = number == 0 ? top / 32767 : number;
}
