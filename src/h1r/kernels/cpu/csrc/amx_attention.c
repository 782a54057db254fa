/* The forward pass of attention on tile units: see amx_attention.h. */
#include "amx_attention.h"

#ifdef HAVE_TILES
/* P = exp(S - top) as a left matrix [2][4] and its row sums; what was summed before, O [32, Ep] and total, shrinks with
 * the new largest score. */
static void soften(const shape *s, const float *S, int n, int diagonal, int g, float *top, float *total, float *O, bf16 *P)
{
    for (int r = 0; r < GROUP; r++) {
        const float *row = S + r * BLOCK;
        int seen = seen_by(diagonal, g, r);
        __m512 most = _mm512_set1_ps(-INFINITY), sums = _mm512_setzero_ps();
        for (int j = 0; j < n * GROUP; j += 16) {
            int left = seen - j;
            __mmask16 which = left >= 16 ? 0xffff : left <= 0 ? 0 : (1u << left) - 1;
            most = _mm512_mask_max_ps(most, which, most, _mm512_loadu_ps(row + j));
        }
        float now = _mm512_reduce_max_ps(most) * s->scale, old = top[r];
        if (now < old) now = old;
        for (int j = 0; j < n * GROUP; j += GROUP) {
            __m512i part[3];
            __m512 low = (__m512)vexp(load(row + j) * s->scale - now), high = (__m512)vexp(load(row + j + 16) * s->scale - now);
            low = among(low, seen - j), high = among(high, seen - j - 16);
            sums += low + high;
            split(low, high, part);
            for (int p = 0; p < 3; p++)
                _mm512_store_si512(P + (r / SIDE * GROUPS + j / GROUP) * UNIT + p * PART + r % SIDE * TERMS, part[p]);
        }
        float shrink = expf(old - now);
        total[r] = total[r] * shrink + _mm512_reduce_add_ps(sums);
        top[r] = now;
        if (shrink != 1)
            for (int e = 0; e < s->Ep; e += 16) store(O + r * s->Ep + e, load(O + r * s->Ep + e) * shrink);
    }
}

/* lse [T, H]. Returns 0 without memory. */
int amx_attention_forward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                            int64_t documents, int H, int J, int E, float *out, float *lse, int threads)
{
    shape s;
    if (!measure(&s, cu_seqlens, ld, documents, H, J, E)) return 0;
    bf16 *keys = units(J * s.groups * 2 * s.steps), *values = units(J * s.groups * 2 * s.steps);
    int failed = !keys || !values;
#pragma omp parallel num_threads(threads)
    {
        bf16 *Q = units(2 * GROUPS * s.steps), *P = units(2 * GROUPS);
        float *S = NULL, *O, *top, *total;
        if (!Q || !P || posix_memalign((void **)&S, 64, 4 * (GROUP * BLOCK + BLOCK * (s.Ep + 2)))) {
#pragma omp atomic write
            failed = 1;
        }
        O = S + GROUP * BLOCK, top = O + BLOCK * s.Ep, total = top + BLOCK;
        configure_tiles();
#pragma omp barrier
        if (!failed) {
            pack_all(&s, k, 1, keys);
            pack_all(&s, v, 0, values);
        }
        for (int64_t d = 0; d < documents && !failed; d++) {
            int64_t start = cu_seqlens[d], L = cu_seqlens[d + 1] - start, blocks = parts_of(L, BLOCK);
            int64_t groups = s.first[d + 1] - s.first[d];
#pragma omp for schedule(dynamic) nowait
            for (int64_t task = 0; task < blocks * H; task++) { /* the longest ones first */
                int64_t b = blocks - 1 - task / H, h = task % H, at = start + b * BLOCK, size = 2 * s.steps * UNIT;
                int rows = (int)least(BLOCK, L - b * BLOCK), mine = (int)parts_of(rows, GROUP);
                bf16 *key = keys + (h / s.R * s.groups + s.first[d]) * size;
                bf16 *value = values + (h / s.R * s.groups + s.first[d]) * size;
                pack_sides(q + at * ld[0] + h * E, ld[0], 1, rows, E, 0, Q, 2 * mine, s.steps, s.steps * UNIT);
                memset(O, 0, 4 * BLOCK * s.Ep);
                for (int i = 0; i < BLOCK; i++) top[i] = -INFINITY, total[i] = 0;
                for (int64_t kb = 0; kb <= b; kb++)
                    for (int g = 0; g < mine; g++) {
                        int n = kb < b ? GROUPS : g + 1, i = g * GROUP;
                        scores(&s, Q + g * size, key + kb * GROUPS * size, n, S);
                        soften(&s, S, n, kb == b, g, top + i, total + i, O + i * s.Ep, P);
                        add_product(&s, n, P, GROUPS * UNIT, value + kb * GROUPS * UNIT, groups * UNIT, O + i * s.Ep);
                    }
                for (int i = 0; i < rows; i++) {
                    lse[(at + i) * H + h] = top[i] + logf(total[i]);
                    for (int e = 0; e < E; e += LANES)
                        store_some(out + (at + i) * ld[2] + h * E + e, load(O + i * s.Ep + e) / total[i], E - e);
                }
            }
        }
        _tile_release();
        free(S), free(Q), free(P);
    }
    free(keys), free(values), free(s.first);
    return !failed;
}
#else
int amx_attention_forward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                            int64_t documents, int H, int J, int E, float *out, float *lse, int threads)
{
    (void)q, (void)k, (void)v, (void)cu_seqlens, (void)ld, (void)documents, (void)H, (void)J, (void)E, (void)out, (void)lse;
    return (void)threads, 0;
}
#endif
