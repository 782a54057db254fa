/* Products of few or many rows with weights packed once: reads every weight once per call, in order.
 *
 * Each output is one chain of fused multiply-adds over k, in order, so it does not depend on the number of rows.
 */
#include "decode.h"

/* c [rows][vecs] of one block: A [rows, K] times one panel. Of what comes next in memory, `ahead` (or NULL), `pace` <=
 * PANEL floats are asked for at each k. */
INLINE void block(int rows, int vecs, int64_t K, const float *A, int64_t lda, const float *B, const float *ahead,
                  int64_t pace, vec c[BLOCK_ROWS][PANEL_VECS])
{
    vec acc[BLOCK_ROWS][PANEL_VECS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) acc[i][j] = (vec){0};
    for (int64_t k = 0; k < K; k++) {
        const float *b = B + k * PANEL;
        vec w[PANEL_VECS];
        for (int j = 0; j < vecs; j++) w[j] = load(b + j * LANES);
        if (ahead)
            for (int j = 0; j < PANEL; j += 16)
                if (j < pace) __builtin_prefetch(ahead + k * pace + j, 0, 2);
        for (int i = 0; i < rows; i++) {
            vec a = splat(A[i * lda + k]);
            for (int j = 0; j < vecs; j++) acc[i][j] += a * w[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) c[i][j] = acc[i][j];
}

static void any_block(int rows, int vecs, int64_t K, const float *A, int64_t lda, const float *B, const float *ahead,
                      int64_t pace, vec c[BLOCK_ROWS][PANEL_VECS])
{
#define CASE(r)                                                         \
    case r:                                                             \
        if (vecs == 3)                                                  \
            block(r, 3, K, A, lda, B, ahead, pace, c);                  \
        else if (vecs == 2)                                             \
            block(r, 2, K, A, lda, B, ahead, pace, c);                  \
        else                                                            \
            block(r, 1, K, A, lda, B, ahead, pace, c);                  \
        break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4)
#if BLOCK_ROWS == 8
        CASE(5) CASE(6) CASE(7) CASE(8)
#endif
    }
#undef CASE
}

static void add_bias(int rows, int vecs, const float *bias, vec c[BLOCK_ROWS][PANEL_VECS])
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) c[i][j] += load(bias + j * LANES);
}

void gemm(int64_t M, const float *A, int64_t lda, const matrix *w, float *C, int64_t ldc, int epilogue, int thread,
          int threads)
{
    int pair = epilogue == SWIGLU ? 2 : 1;
    int64_t K = w->k, n = w->n / pair, panels = (n + PANEL - 1) / PANEL, blocks = (M + BLOCK_ROWS - 1) / BLOCK_ROWS;
    int64_t units = panels * blocks, first = units * thread / threads, last = units * (thread + 1) / threads;
    for (int64_t u = first; u < last; u++) {
        int64_t p = u / blocks, i = u % blocks * BLOCK_ROWS;
        int rows = M - i < BLOCK_ROWS ? (int)(M - i) : BLOCK_ROWS;
        int columns = n - p * PANEL < PANEL ? (int)(n - p * PANEL) : PANEL, vecs = (columns + LANES - 1) / LANES;
        const float *B = w->weight + p * pair * K * PANEL, *a = A + i * lda;
        /* Each block of rows asks for its share of the next panel, so that memory works as evenly as the arithmetic. */
        int64_t share = u % blocks, pace = (PANEL + blocks - 1) / blocks, more = u + blocks - share < last;
        const float *next = more ? B + pair * K * PANEL + share * pair * K * pace : NULL;
        vec c[BLOCK_ROWS][PANEL_VECS], d[BLOCK_ROWS][PANEL_VECS];
        any_block(rows, vecs, K, a, lda, B, next, pace, c);
        if (w->bias) add_bias(rows, vecs, w->bias + p * pair * PANEL, c);
        if (epilogue == SWIGLU) {
            any_block(rows, vecs, K, a, lda, B + K * PANEL, next ? next + K * pace : NULL, pace, d);
            if (w->bias) add_bias(rows, vecs, w->bias + (p * 2 + 1) * PANEL, d);
        }
        for (int r = 0; r < rows; r++)
            for (int j = 0; j < vecs; j++) {
                float *to = C + (i + r) * ldc + p * PANEL + j * LANES;
                int some = columns - j * LANES;
                vec value = c[r][j];
                if (epilogue == SWIGLU) value = value * sigmoid(value) * d[r][j];
                if (epilogue == ADD) value += load_some(to, some);
                store_some(to, value, some);
            }
    }
}

int panel_width(void) { return PANEL; }

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
