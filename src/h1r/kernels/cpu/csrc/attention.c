/* Causal softmax attention inside each document, grouped queries, one task per document and key head.
 *
 * Queries go in blocks; a block's scores against all keys that it may see fit the cache for documents of a few thousand
 * tokens, which is what this is for. The backward pass recomputes the probabilities from the saved log-sum-exp.
 * q, out and their gradients are [T, H, E], k, v and theirs [T, J, E]. Each may be columns of a wider matrix; ld holds the
 * row strides, in order: q, k and v, out, the gradient of out, those of q, those of k and v (the first three in forward).
 */
#include "vector.h"

enum { BLOCK = 24 }; /* queries at a time: four register tiles */

typedef struct {
    int E, Ep, L, Lp;
    float *K, *V, *Kt, *Vt, *Q, *P, *out;
    float *dO, *dP, *dK, *dV, *dQ;
} buffers;

static size_t lay_out(buffers *b, arena *a, int longest, int E, int backward)
{
    int Ep = padded(E), Lp = padded(longest);
    b->E = E, b->Ep = Ep;
    b->Kt = take(a, (size_t)E * Lp);
    b->V = take(a, (size_t)Lp * Ep);
    b->Q = take(a, (size_t)BLOCK * Ep), b->out = take(a, (size_t)BLOCK * Ep);
    b->P = take(a, (size_t)BLOCK * Lp);
    if (backward) {
        b->K = take(a, (size_t)Lp * Ep);
        b->Vt = take(a, (size_t)E * Lp);
        b->dO = take(a, (size_t)BLOCK * Ep), b->dQ = take(a, (size_t)BLOCK * Ep);
        b->dP = take(a, (size_t)BLOCK * Lp);
        b->dK = take(a, (size_t)Lp * Ep), b->dV = take(a, (size_t)Lp * Ep);
    }
    return a->used;
}

/* Scales a row of scores in place; returns the largest of the first `seen`. */
INLINE float scale_row(float *scores, int seen, int end, float scale)
{
    vec top = splat(-INFINITY);
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int j = 0; j < end; j += LANES) {
        vec s = load(scores + j) * scale;
        store(scores + j, s);
        top = at_least(top, choose(lane + j < seen, s, splat(-INFINITY)));
    }
    return largest(top);
}

/* exp(scores - shift) in place over the keys that query `seen - 1` sees, zero past them up to `end`; returns the sum */
INLINE float exponentiate(float *scores, int seen, int end, float shift)
{
    vec total = {0};
    ivec lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int j = 0; j < end; j += LANES) {
        vec e = choose(lane + j < seen, vexp(load(scores + j) - shift), splat(0));
        total += e;
        store(scores + j, e);
    }
    return sum(total);
}

/* lse [T, H]. Returns 0 without memory. */
int attention_forward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                      int64_t documents, int64_t longest, int H, int J, int E, float *out, float *lse, int threads)
{
    int failed = 0, R = H / J;
    float scale = 1.0f / sqrtf(E);
#pragma omp parallel num_threads(threads)
    {
        buffers b;
        arena a = {0};
        size_t need = lay_out(&b, &a, longest, E, 0);
        void *memory = NULL;
        if (posix_memalign(&memory, 64, need * 4)) {
#pragma omp atomic write
            failed = 1;
        } else {
            a = (arena){memory, 0};
            lay_out(&b, &a, longest, E, 0);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < documents * J; task++) {
            if (failed) continue;
            int64_t start = cu_seqlens[task / J];
            int j = task % J, L = (int)(cu_seqlens[task / J + 1] - start), Lp = padded(L);
            transpose(L, E, k + start * ld[1] + (long)j * E, ld[1], b.Kt, Lp);
            copy_rows(L, E, v + start * ld[1] + (long)j * E, ld[1], b.V, b.Ep);
            for (int h = j * R; h < j * R + R; h++)
                for (int i0 = 0; i0 < L; i0 += BLOCK) {
                    int rows = L - i0 < BLOCK ? L - i0 : BLOCK, keys = i0 + rows, end = padded(keys);
                    copy_rows(rows, E, q + (start + i0) * ld[0] + (long)h * E, ld[0], b.Q, b.Ep);
                    matmul(rows, end, E, b.Q, b.Ep, 1, b.Kt, Lp, b.P, Lp, 0);
                    for (int i = 0; i < rows; i++) {
                        float *row = b.P + (long)i * Lp;
                        int seen = i0 + i + 1;
                        float top = scale_row(row, seen, end, scale);
                        float total = exponentiate(row, seen, end, top);
                        lse[(start + i0 + i) * H + h] = top + logf(total);
                        for (int n = 0; n < end; n += LANES) store(row + n, load(row + n) / total);
                    }
                    matmul(rows, b.Ep, keys, b.P, Lp, 1, b.V, b.Ep, b.out, b.Ep, 0);
                    for (int i = 0; i < rows; i++)
                        memcpy(out + (start + i0 + i) * ld[2] + (long)h * E, b.out + (long)i * b.Ep, 4 * E);
                }
        }
        free(memory);
    }
    return !failed;
}

int attention_backward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                       int64_t documents, int64_t longest, int H, int J, int E, const float *out, const float *lse,
                       const float *grad, float *grad_q, float *grad_k, float *grad_v, int threads)
{
    int failed = 0, R = H / J;
    float scale = 1.0f / sqrtf(E);
#pragma omp parallel num_threads(threads)
    {
        buffers b;
        arena a = {0};
        size_t need = lay_out(&b, &a, longest, E, 1);
        void *memory = NULL;
        if (posix_memalign(&memory, 64, need * 4)) {
#pragma omp atomic write
            failed = 1;
        } else {
            a = (arena){memory, 0};
            lay_out(&b, &a, longest, E, 1);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < documents * J; task++) {
            if (failed) continue;
            int64_t start = cu_seqlens[task / J];
            int j = task % J, L = (int)(cu_seqlens[task / J + 1] - start), Lp = padded(L);
            const float *kj = k + start * ld[1] + (long)j * E, *vj = v + start * ld[1] + (long)j * E;
            copy_rows(L, E, kj, ld[1], b.K, b.Ep);
            transpose(L, E, kj, ld[1], b.Kt, Lp);
            transpose(L, E, vj, ld[1], b.Vt, Lp);
            memset(b.dK, 0, 4 * (size_t)L * b.Ep);
            memset(b.dV, 0, 4 * (size_t)L * b.Ep);
            for (int h = j * R; h < j * R + R; h++)
                for (int i0 = 0; i0 < L; i0 += BLOCK) {
                    int rows = L - i0 < BLOCK ? L - i0 : BLOCK, keys = i0 + rows, end = padded(keys);
                    int64_t row = start + i0;
                    long at = (long)h * E;
                    copy_rows(rows, E, q + row * ld[0] + at, ld[0], b.Q, b.Ep);
                    copy_rows(rows, E, grad + row * ld[3] + at, ld[3], b.dO, b.Ep);
                    copy_rows(rows, E, out + row * ld[2] + at, ld[2], b.out, b.Ep);
                    matmul(rows, end, E, b.Q, b.Ep, 1, b.Kt, Lp, b.P, Lp, 0);
                    matmul(rows, end, E, b.dO, b.Ep, 1, b.Vt, Lp, b.dP, Lp, 0);
                    for (int i = 0; i < rows; i++) {
                        float *p = b.P + (long)i * Lp, *d = b.dP + (long)i * Lp;
                        scale_row(p, i0 + i + 1, end, scale);
                        exponentiate(p, i0 + i + 1, end, lse[(start + i0 + i) * H + h]);
                        float along = dot(b.out + (long)i * b.Ep, b.dO + (long)i * b.Ep, b.Ep);
                        for (int n = 0; n < end; n += LANES) store(d + n, load(p + n) * (load(d + n) - along) * scale);
                    }
                    matmul(keys, b.Ep, rows, b.P, 1, Lp, b.dO, b.Ep, b.dV, b.Ep, 1);
                    matmul(keys, b.Ep, rows, b.dP, 1, Lp, b.Q, b.Ep, b.dK, b.Ep, 1);
                    matmul(rows, b.Ep, keys, b.dP, Lp, 1, b.K, b.Ep, b.dQ, b.Ep, 0);
                    for (int i = 0; i < rows; i++)
                        memcpy(grad_q + (row + i) * ld[4] + at, b.dQ + (long)i * b.Ep, 4 * E);
                }
            for (int i = 0; i < L; i++) {
                memcpy(grad_k + (start + i) * ld[5] + (long)j * E, b.dK + (long)i * b.Ep, 4 * E);
                memcpy(grad_v + (start + i) * ld[5] + (long)j * E, b.dV + (long)i * b.Ep, 4 * E);
            }
        }
        free(memory);
    }
    return !failed;
}
