/* Vectors of floats as wide as the machine's registers, exp on them, and a small matrix product.
 *
 * GCC and Clang vector extensions: one source for AVX-512, AVX2, SSE and NEON. Matrices are row-major; scratch rows are
 * padded to whole vectors, so that only the outermost loads and stores know about ragged widths.
 */
#ifndef H1R_VECTOR_H
#define H1R_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* As in omp.h, which does not come with every clang. */
int omp_get_thread_num(void);
int omp_get_num_threads(void);

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* The number of each lane */
#if LANES == 16
static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES == 8
static const ivec LANE = {0, 1, 2, 3, 4, 5, 6, 7};
#else
static const ivec LANE = {0, 1, 2, 3};
#endif

INLINE int padded(int n) { return (n + LANES - 1) / LANES * LANES; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec choose(ivec which, vec a, vec b) { return (vec)((which & (ivec)a) | (~which & (ivec)b)); }
/* The bound where x lies beyond it; a NaN stays. */
INLINE vec at_most(vec x, vec bound) { return choose(x > bound, bound, x); }
INLINE vec at_least(vec x, vec bound) { return choose(x < bound, bound, x); }

/* Lane l of the result is element which[l] of a followed by b */
INLINE vec shuffle(vec a, vec b, ivec which)
{
#ifdef __clang__
    vec out;
    for (int l = 0; l < LANES; l++) out[l] = which[l] < LANES ? a[which[l]] : b[which[l] - LANES];
    return out;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

/* By halves: a chain of LANES additions would wait for each of them. */
INLINE float sum(vec v)
{
#pragma GCC unroll 4
    for (int d = LANES / 2; d > 0; d /= 2) v += shuffle(v, v, LANE ^ d);
    return v[0];
}

INLINE float largest(vec v)
{
#pragma GCC unroll 4
    for (int d = LANES / 2; d > 0; d /= 2) v = at_least(v, shuffle(v, v, LANE ^ d));
    return v[0];
}

/* The first n floats, or as many as a vector holds */
INLINE vec load_some(const float *p, int n)
{
    if (n >= LANES) return load(p);
    vec v = {0};
    memcpy(&v, p, 4 * n);
    return v;
}
INLINE void store_some(float *p, vec v, int n)
{
    if (n >= LANES)
        store(p, v);
    else
        memcpy(p, &v, 4 * n);
}

INLINE float dot(const float *a, const float *b, long n)
{
    vec total = {0};
    for (long i = 0; i < n; i += LANES) total += load(a + i) * load(b + i);
    return sum(total);
}

/* exp to about one unit in the last place, on [-87, 88]; arguments outside are clamped to it, a NaN stays one.
 * x = n ln 2 + r with |r| <= ln(2)/2; exp(r) by its Taylor polynomial of degree 7, 2^n through the exponent bits. */
INLINE vec vexp(vec x)
{
    x = at_least(at_most(x, splat(88.0f)), splat(-87.0f));
    vec shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: the sum rounds to an integer in the low bits */
    vec n = shifted - 12582912.0f;
    vec r = x - n * 0.693145752f - n * 1.42860677e-6f;
    vec p = splat(1.98412698e-4f);
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    ivec power = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)power;
}

INLINE vec sigmoid(vec x) { return 1.0f / (1.0f + vexp(-x)); }

/* Memory for one task's scratch, aligned to a cache line; grows with each call of `take`. */
typedef struct {
    float *base;
    size_t used;
} arena;

INLINE float *take(arena *a, size_t floats)
{
    float *p = a->base ? a->base + a->used : NULL;
    a->used += (floats + 15) / 16 * 16;
    return p;
}

/* One register tile of C = A B (or C += A B): `rows` <= 6 rows, `vecs` <= 2 vectors. What is added is summed by itself
 * first: sums of sums err less than one long chain. */
INLINE void tile(int rows, int vecs, int K, const float *A, long ai, long ak, const float *B, long ldb, float *C, long ldc,
                 int add)
{
    vec c[6][2];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) c[i][j] = (vec){0};
    for (int k = 0; k < K; k++) {
        vec b[2];
        for (int j = 0; j < vecs; j++) b[j] = load(B + k * ldb + j * LANES);
        for (int i = 0; i < rows; i++) {
            vec a = splat(A[i * ai + k * ak]);
            for (int j = 0; j < vecs; j++) c[i][j] += a * b[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) {
            float *to = C + i * ldc + j * LANES;
            if (add) c[i][j] += load(to);
            store(to, c[i][j]);
        }
}

/* C [M, N] = A [M, K] B [K, N], added to C when `add`; A's element (i, k) is A[i * ai + k * ak]; N is whole vectors. */
static void matmul(int M, int N, int K, const float *A, long ai, long ak, const float *B, long ldb, float *C, long ldc,
                   int add)
{
    for (int j = 0; j < N; j += 2 * LANES) {
        int wide = N - j >= 2 * LANES;
        for (int i = 0; i < M; i += 6) {
            const float *a = A + i * ai, *b = B + j;
            float *c = C + i * ldc + j;
#define TILE(rows)                                             \
    case rows:                                                 \
        if (wide)                                              \
            tile(rows, 2, K, a, ai, ak, b, ldb, c, ldc, add);  \
        else                                                   \
            tile(rows, 1, K, a, ai, ak, b, ldb, c, ldc, add);  \
        break;
            switch (M - i < 6 ? M - i : 6) {
                TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
            }
#undef TILE
        }
    }
}

/* As `matmul` for a lower-triangular A [M, M]: rows i of C sum over k <= i only. */
static void matmul_lower(int M, int N, const float *A, long lda, const float *B, long ldb, float *C, long ldc, int add)
{
    for (int i = 0; i < M; i += 12) {
        int rows = M - i < 12 ? M - i : 12;
        matmul(rows, N, i + rows, A + i * lda, lda, 1, B, ldb, C + i * ldc, ldc, add);
    }
}

/* As `matmul` for the transpose of a lower-triangular A [M, M]: rows j of C sum over i >= j only. */
static void matmul_lower_transposed(int M, int N, const float *A, long lda, const float *B, long ldb, float *C, long ldc,
                                    int add)
{
    for (int j = 0; j < M; j += 12) {
        int rows = M - j < 12 ? M - j : 12;
        matmul(rows, N, M - j, A + j * lda + j, 1, lda, B + j * ldb, ldb, C + j * ldc, ldc, add);
    }
}

/* The LANES x LANES block in `r`, transposed: rows a distance d apart exchange their off-diagonal d x d blocks, for each
 * power of two d. */
INLINE void transpose_block(vec r[LANES])
{
#pragma GCC unroll 4
    for (int d = LANES / 2; d > 0; d /= 2) {
        ivec low, high;
#pragma GCC unroll 16
        for (int l = 0; l < LANES; l++) low[l] = l & d ? LANES + l - d : l, high[l] = l & d ? LANES + l : l + d;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & d) continue;
            vec a = r[i], b = r[i + d];
            r[i] = shuffle(a, b, low), r[i + d] = shuffle(a, b, high);
        }
    }
}

/* to [cols, ldt] = from [rows, ldf] transposed; columns of `to` past `rows` become zero up to whole vectors. */
static void transpose(int rows, int cols, const float *from, long ldf, float *to, long ldt)
{
    for (int i = 0; i < rows; i += LANES)
        for (int j = 0; j < cols; j += LANES) {
            vec r[LANES];
            for (int k = 0; k < LANES; k++)
                r[k] = i + k < rows ? load_some(from + (long)(i + k) * ldf + j, cols - j) : (vec){0};
            transpose_block(r);
            for (int k = 0; k < LANES && j + k < cols; k++) store(to + (long)(j + k) * ldt + i, r[k]);
        }
}

/* to [rows, ldt] = from [rows, ldf]; columns past `cols` become zero. The columns that follow in `from`, which are those
 * of the next head, are asked for: rows of many heads lie too far apart for the processor to foresee. */
static void copy_rows(int rows, int cols, const float *from, long ldf, float *to, long ldt)
{
    for (int i = 0; i < rows; i++) {
        const float *row = from + i * ldf;
        for (int j = 0; j < cols; j += 16) __builtin_prefetch(row + cols + j);
        for (int j = 0; j < cols; j += LANES) store(to + i * ldt + j, load_some(row + j, cols - j));
    }
}

#endif
