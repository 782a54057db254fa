/* Causal softmax attention inside each document on vector units, grouped queries (FlashAttention-2, Dao, arXiv
 * 2307.08691).
 *
 *   S = scale Q K^T,  P = exp(S - lse),  O = P V
 *   dV = P^T dO,  dP = dO V^T,  dS = P (dP - rows of dO . O),  dQ = scale dS K,  dK = scale dS^T Q
 *
 * One task per document, key head and part of its query heads. A task packs its keys and values once: keys transposed, in
 * panels as wide as a register tile, so that a product reads them in order. Blocks of queries meet blocks of keys, and
 * scores stay in the cache. Where a block meets the diagonal, each dozen of its rows or columns stops there.
 * q, out and their gradients are [T, H, E], k, v and theirs [T, J, E]. Each may be columns of a wider matrix; ld holds the
 * row strides, in order: q, k and v, out, the gradient of out, those of q, those of k and v (the first three in forward).
 */
#include "vector.h"

enum { QUERIES = 48, KEYS = 256, DOZEN = 12, WIDE = 2 * LANES };
enum { LDS = KEYS + 16 }; /* rows of scores begin in different sets of the cache */

typedef struct {
    int E, Ep;
    float *Kt, *V, *K, *Vt, *dK, *dV;                /* of a document */
    float *Q, *S, *O, *dO, *dP, *dQ, *top, *total;   /* of a block of queries */
} buffers;

static size_t lay_out(buffers *b, arena *a, int64_t longest, int E, int backward)
{
    int Ep = padded(E);
    size_t Lp = (longest + WIDE - 1) / WIDE * WIDE;
    b->E = E, b->Ep = Ep;
    b->Kt = take(a, E * Lp);
    b->Q = take(a, QUERIES * Ep), b->O = take(a, QUERIES * Ep), b->S = take(a, QUERIES * LDS);
    b->top = take(a, QUERIES), b->total = take(a, QUERIES);
    if (!backward) {
        b->V = take(a, Lp * Ep);
    } else {
        b->K = take(a, Lp * Ep), b->Vt = take(a, E * Lp), b->dK = take(a, Lp * Ep), b->dV = take(a, Lp * Ep);
        b->dO = take(a, QUERIES * Ep), b->dQ = take(a, QUERIES * Ep), b->dP = take(a, QUERIES * LDS);
    }
    return a->used;
}

/* What the tasks of a call are */
typedef struct {
    const int64_t *cu_seqlens;
    int64_t start, L;
    int J, R, parts, j, first, last; /* heads first to last - 1 have key head j */
} share;

static share share_of(int64_t task, const int64_t *cu_seqlens, int J, int R, int parts)
{
    int64_t document = task / (J * parts);
    int j = task / parts % J, part = task % parts;
    share s = {.start = cu_seqlens[document], .L = cu_seqlens[document + 1] - cu_seqlens[document], .j = j};
    s.first = j * R + R * part / parts, s.last = j * R + R * (part + 1) / parts;
    return s;
}

/* Rows [L, E] transposed, in panels [L / WIDE][E][WIDE] */
static void pack_panels(int64_t L, int E, const float *from, int64_t ld, float *to)
{
    for (int64_t t = 0; t < L; t += WIDE)
        transpose(L - t < WIDE ? (int)(L - t) : WIDE, E, from + t * ld, ld, to + t * E, WIDE);
}

/* C [rows, N] = A [rows, E] times panels */
static void panel_product(int rows, int N, int E, const float *A, int lda, const float *panels, float *C)
{
    for (int n = 0; n < N; n += WIDE)
        matmul(rows, padded(N - n < WIDE ? N - n : WIDE), E, A, lda, 1, panels + (long)n * E, WIDE, C + n, LDS, 0);
}

INLINE int least(int64_t a, int64_t b) { return (int)(a < b ? a : b); }

/* Of n keys from `ahead` before the first query of a block on (after it where negative), how many row r sees */
INLINE int seen_by(int64_t ahead, int r, int n) { return ahead + r + 1 < n ? (ahead + r + 1 > 0 ? (int)(ahead + r + 1) : 0) : n; }

/* C [rows, n] = A times panels, as far as a row of its dozen sees keys */
static void seen_product(const buffers *b, int64_t ahead, int rows, int n, const float *A, const float *panels, float *C)
{
    if (seen_by(ahead, 0, n) == n) {
        panel_product(rows, n, b->E, A, b->Ep, panels, C);
        return;
    }
    for (int r = 0; r < rows; r += DOZEN) {
        int some = least(DOZEN, rows - r);
        panel_product(some, seen_by(ahead, r + some - 1, n), b->E, A + r * b->Ep, b->Ep, panels, C + r * LDS);
    }
}

/* C [rows, Ep] += A [rows, n] B [n, Ep]; A is zero where a row sees no key */
static void add_seen(const buffers *b, int64_t ahead, int rows, int n, const float *A, const float *B, float *C)
{
    int step = seen_by(ahead, 0, n) == n ? rows : DOZEN;
    for (int r = 0; r < rows; r += step) {
        int some = least(step, rows - r);
        matmul(some, b->Ep, seen_by(ahead, r + some - 1, n), A + r * LDS, LDS, 1, B, b->Ep, C + r * b->Ep, b->Ep, 1);
    }
}

/* C [n, Ep] += A^T [n, rows] B [rows, Ep]; A is zero where a row sees no key */
static void add_seeing(const buffers *b, int64_t ahead, int rows, int n, const float *A, const float *B, float *C)
{
    int step = seen_by(ahead, 0, n) == n ? n : DOZEN;
    for (int j = 0; j < n; j += step) {
        int some = least(step, n - j);
        int64_t r = j - ahead > 0 ? j - ahead : 0; /* the first row that sees key j */
        if (r < rows)
            matmul(some, b->Ep, rows - (int)r, A + r * LDS + j, 1, LDS, B + r * b->Ep, b->Ep, C + j * b->Ep, b->Ep, 1);
    }
}

/* exp(S - shift) of the keys that a row sees, in place, and zero for the others up to n; returns the sum */
INLINE float exponentiate(float *S, int seen, int n, float shift)
{
    vec total = {0};
    int j = 0;
    for (; j + LANES <= seen; j += LANES) {
        vec e = vexp(load(S + j) - shift);
        total += e;
        store(S + j, e);
    }
    if (j < seen) {
        vec e = choose(LANE + j < seen, vexp(load(S + j) - shift), splat(0));
        total += e;
        store(S + j, e);
        j += LANES;
    }
    for (; j < n; j += LANES) store(S + j, splat(0));
    return sum(total);
}

/* P = exp(S - top) in place; what was summed before, O and total, shrinks with the new largest score. */
static void soften(const buffers *b, int64_t ahead, int rows, int n)
{
    for (int r = 0; r < rows; r++) {
        float *S = b->S + r * LDS, *O = b->O + r * b->Ep;
        int seen = seen_by(ahead, r, n), j = 0;
        vec most = splat(b->top[r]);
        for (; j + LANES <= seen; j += LANES) most = at_least(most, load(S + j));
        if (j < seen) most = choose(LANE + j < seen, at_least(most, load(S + j)), most);
        float now = largest(most), shrink = now == b->top[r] ? 1 : expf(b->top[r] - now);
        if (shrink != 1)
            for (int e = 0; e < b->Ep; e += LANES) store(O + e, load(O + e) * shrink);
        b->top[r] = now;
        b->total[r] = b->total[r] * shrink + exponentiate(S, seen, n, now);
    }
}

/* to [rows, Ep] = from [rows, E] times scale */
static void scaled_copy(const buffers *b, int rows, const float *from, int64_t ld, float scale, float *to)
{
    copy_rows(rows, b->E, from, ld, to, b->Ep);
    for (int i = 0; i < rows * b->Ep; i += LANES) store(to + i, load(to + i) * scale);
}

/* lse [T, H]. Returns 0 without memory. */
int attention_forward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                      int64_t documents, int64_t longest, int H, int J, int E, int parts, float *out, float *lse, int threads)
{
    int failed = 0, R = H / J;
    float scale = 1.0f / sqrtf(E);
#pragma omp parallel num_threads(threads)
    {
        buffers b = {0};
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
        for (int64_t task = 0; task < documents * J * parts; task++) {
            if (failed) continue;
            share s = share_of(task, cu_seqlens, J, R, parts);
            pack_panels(s.L, E, k + s.start * ld[1] + (long)s.j * E, ld[1], b.Kt);
            copy_rows(s.L, E, v + s.start * ld[1] + (long)s.j * E, ld[1], b.V, b.Ep);
            for (int h = s.first; h < s.last; h++)
                for (int64_t i0 = 0; i0 < s.L; i0 += QUERIES) {
                    int rows = least(QUERIES, s.L - i0);
                    int64_t row = s.start + i0;
                    scaled_copy(&b, rows, q + row * ld[0] + (long)h * E, ld[0], scale, b.Q);
                    memset(b.O, 0, 4 * (size_t)rows * b.Ep);
                    for (int r = 0; r < rows; r++) b.top[r] = -INFINITY, b.total[r] = 0;
                    for (int64_t k0 = 0; k0 < i0 + rows; k0 += KEYS) {
                        int n = least(KEYS, i0 + rows - k0);
                        seen_product(&b, i0 - k0, rows, n, b.Q, b.Kt + k0 * E, b.S);
                        soften(&b, i0 - k0, rows, n);
                        add_seen(&b, i0 - k0, rows, n, b.S, b.V + k0 * b.Ep, b.O);
                    }
                    for (int r = 0; r < rows; r++) {
                        float by = 1 / b.total[r], *to = out + (row + r) * ld[2] + (long)h * E;
                        lse[(row + r) * H + h] = b.top[r] + logf(b.total[r]);
                        for (int e = 0; e < E; e += LANES) store_some(to + e, load(b.O + r * b.Ep + e) * by, E - e);
                    }
                }
        }
        free(memory);
    }
    return !failed;
}

/* grad_k and grad_v [parts][T, J, E] are partial sums over a key head's query heads. Returns 0 without memory. */
int attention_backward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                       int64_t documents, int64_t longest, int H, int J, int E, int parts, const float *out,
                       const float *lse, const float *grad, float *grad_q, float *grad_k, float *grad_v, int threads)
{
    int failed = 0, R = H / J;
    int64_t apart = cu_seqlens[documents] * ld[5];
    float scale = 1.0f / sqrtf(E);
#pragma omp parallel num_threads(threads)
    {
        buffers b = {0};
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
        for (int64_t task = 0; task < documents * J * parts; task++) {
            if (failed) continue;
            share s = share_of(task, cu_seqlens, J, R, parts);
            const float *kj = k + s.start * ld[1] + (long)s.j * E, *vj = v + s.start * ld[1] + (long)s.j * E;
            copy_rows(s.L, E, kj, ld[1], b.K, b.Ep);
            pack_panels(s.L, E, kj, ld[1], b.Kt);
            pack_panels(s.L, E, vj, ld[1], b.Vt);
            memset(b.dK, 0, 4 * (size_t)s.L * b.Ep);
            memset(b.dV, 0, 4 * (size_t)s.L * b.Ep);
            for (int h = s.first; h < s.last; h++)
                for (int64_t i0 = 0; i0 < s.L; i0 += QUERIES) {
                    int rows = least(QUERIES, s.L - i0);
                    int64_t row = s.start + i0, at = (int64_t)h * E;
                    scaled_copy(&b, rows, q + row * ld[0] + at, ld[0], scale, b.Q);
                    copy_rows(rows, E, grad + row * ld[3] + at, ld[3], b.dO, b.Ep);
                    copy_rows(rows, E, out + row * ld[2] + at, ld[2], b.O, b.Ep);
                    for (int r = 0; r < rows; r++) b.total[r] = dot(b.O + r * b.Ep, b.dO + r * b.Ep, b.Ep);
                    memset(b.dQ, 0, 4 * (size_t)rows * b.Ep);
                    for (int64_t k0 = 0; k0 < i0 + rows; k0 += KEYS) {
                        int n = least(KEYS, i0 + rows - k0);
                        int64_t ahead = i0 - k0;
                        seen_product(&b, ahead, rows, n, b.Q, b.Kt + k0 * E, b.S);
                        seen_product(&b, ahead, rows, n, b.dO, b.Vt + k0 * E, b.dP);
                        for (int r = 0; r < rows; r++) {
                            float *P = b.S + r * LDS, *d = b.dP + r * LDS, along = b.total[r];
                            int seen = seen_by(ahead, r, n), end = padded(seen);
                            exponentiate(P, seen, n, lse[(row + r) * H + h]);
                            for (int j = 0; j < end; j += LANES) store(d + j, load(P + j) * (load(d + j) - along));
                            for (int j = end; j < n; j += LANES) store(d + j, splat(0));
                        }
                        add_seeing(&b, ahead, rows, n, b.S, b.dO, b.dV + k0 * b.Ep);
                        add_seeing(&b, ahead, rows, n, b.dP, b.Q, b.dK + k0 * b.Ep);
                        add_seen(&b, ahead, rows, n, b.dP, b.K + k0 * b.Ep, b.dQ);
                    }
                    for (int r = 0; r < rows; r++)
                        for (int e = 0; e < E; e += LANES)
                            store_some(grad_q + (row + r) * ld[4] + at + e, load(b.dQ + r * b.Ep + e) * scale, E - e);
                }
            for (int64_t t = 0; t < s.L; t++) {
                int64_t to = task % parts * apart + (s.start + t) * ld[5] + (long)s.j * E;
                memcpy(grad_k + to, b.dK + t * b.Ep, 4 * E);
                memcpy(grad_v + to, b.dV + t * b.Ep, 4 * E);
            }
        }
        free(memory);
    }
    return !failed;
}
