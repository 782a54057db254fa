/* Products of few or many rows with weights packed once (pack.c): reads every weight once per call, in order.
 *
 * Each output is one chain of fused multiply-adds over k, in order, so it does not depend on the number of rows.
 */
#include "narrow.h"

#if BLOCK_ROWS == 8
#define UP_TO_8 CASE(5) CASE(6) CASE(7) CASE(8)
#define UP_TO_HALF CASE(1) CASE(2) CASE(3) CASE(4)
#else
#define UP_TO_8
#define UP_TO_HALF CASE(1) CASE(2)
#endif

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
        ask(ahead, k, pace);
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
        CASE(1) CASE(2) CASE(3) CASE(4) UP_TO_8
    }
#undef CASE
}

static void any_block_bf16(int rows, int64_t K, const float *A, int64_t lda, const float *B, const float *ahead,
                           int64_t pace, vec c[BLOCK_ROWS][PANEL_VECS])
{
#define CASE(r)                                       \
    case r:                                           \
        block_bf16(r, K, A, lda, B, ahead, pace, c);  \
        break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) UP_TO_8
    }
#undef CASE
}

static void any_block_int8(int rows, int64_t K, const int16_t *A, int64_t ldq, const float *B, const float *scale,
                           const float *ahead, int64_t pace, vec c[BLOCK_ROWS][PANEL_VECS])
{
#define CASE(r)                                              \
    case r:                                                  \
        block_int8(r, K, A, ldq, B, scale, ahead, pace, c);  \
        break;
    switch (rows) {
        UP_TO_HALF
    }
#undef CASE
}

/* c of `rows` rows from row `first` on, with panel p of the weights: products, scale and bias. */
static void panel_block(const scratch *s, int64_t first, int rows, int vecs, const float *A, int64_t lda, const matrix *w,
                        int64_t p, const float *ahead, int64_t pace, vec c[BLOCK_ROWS][PANEL_VECS])
{
    int64_t K = w->k, blocks = (K + INT8_BLOCK - 1) / INT8_BLOCK;
    const float *B = w->weight + p * cells_of(w) * PANEL, *a = A + first * lda;
    if (w->terms == 1) any_block(rows, vecs, K, a, lda, B, ahead, pace, c);
    if (w->terms == 2) {
        any_block_bf16(rows, K, a, lda, B, ahead, pace, c);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vecs; j++) c[i][j] *= load(w->scale + p * PANEL + j * LANES);
    }
    if (w->terms == 4) {
        any_block_int8(rows, K, s->q + first * s->ld_q, s->ld_q, B, w->scale + p * blocks * PANEL, ahead, pace, c);
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < vecs; j++) c[i][j] *= s->q_scale[first + i];
    }
    if (!w->bias) return;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vecs; j++) c[i][j] += load(w->bias + p * PANEL + j * LANES);
}

void gemm(const scratch *s, int64_t M, const float *A, int64_t lda, const matrix *w, float *C, int64_t ldc, int epilogue,
          int thread, int threads)
{
    int pair = epilogue == SWIGLU ? 2 : 1, tall = w->terms == 4 ? INT8_ROWS : BLOCK_ROWS;
    int64_t cells = cells_of(w), n = w->n / pair, panels = (n + PANEL - 1) / PANEL, blocks = (M + tall - 1) / tall;
    int64_t units = panels * blocks, first = units * thread / threads, last = units * (thread + 1) / threads;
    for (int64_t u = first; u < last; u++) {
        int64_t p = u / blocks, i = u % blocks * tall;
        int rows = M - i < tall ? (int)(M - i) : tall;
        int columns = n - p * PANEL < PANEL ? (int)(n - p * PANEL) : PANEL, vecs = (columns + LANES - 1) / LANES;
        /* Each block of rows asks for its share of the next panel, so that memory works as evenly as the arithmetic. */
        int64_t share = u % blocks, pace = (PANEL + blocks - 1) / blocks, more = u + blocks - share < last;
        const float *next = more ? w->weight + ((p + 1) * PANEL + share * pace) * pair * cells : NULL;
        vec c[BLOCK_ROWS][PANEL_VECS], d[BLOCK_ROWS][PANEL_VECS];
        panel_block(s, i, rows, vecs, A, lda, w, p * pair, next, pace, c);
        if (epilogue == SWIGLU) panel_block(s, i, rows, vecs, A, lda, w, p * 2 + 1, next ? next + cells * pace : NULL, pace, d);
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
