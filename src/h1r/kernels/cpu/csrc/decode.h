/* Generation: new tokens of many sequences go through the whole model in one call. Layouts and the steps of a layer.
 *
 * Letters: M new tokens of all rows, D hidden, H query heads, J key/value heads, E head width, N convolution channels,
 * W = H_ssm * P, S d_state, G groups, F feed-forward width, V vocabulary, L cache length. The structs mirror
 * `h1r.kernels.cpu.structs`, field by field; Python compares their sizes when it loads the library.
 *
 * Every number of a token is computed by the same operations in the same order, whatever else is in the call and however
 * its sequence was cut into calls: results do not depend on the batch, to the last bit.
 */
#ifndef H1R_DECODE_H
#define H1R_DECODE_H

#include "vector.h"

/* Columns of one panel of a packed matrix, and rows of one block: with 32 registers, 8 x 3 accumulators. */
#define PANEL_VECS 3
#define PANEL (PANEL_VECS * LANES)
#if defined(__AVX512F__) || defined(__aarch64__)
#define BLOCK_ROWS 8
#else
#define BLOCK_ROWS 4
#endif

/* A weight [n, k] as panels [ceil(n / PANEL)][ceil(k / terms)][PANEL] of cells of 4 bytes, zero past n and k; bias
 * [ceil(n / PANEL) * PANEL] or NULL. A cell holds the next `terms` terms of one output:
 *   1  fp32
 *   2  bf16, times scale [ceil(n / PANEL) * PANEL]
 *   4  int8, times scale [ceil(n / PANEL)][ceil(k / INT8_BLOCK)][PANEL]; the input is then the scratch's `q` */
typedef struct {
    const float *weight, *bias, *scale;
    int64_t n, k, terms;
} matrix;

#define INT8_BLOCK 128 /* terms of one output that have one scale */

typedef struct {
    matrix in;      /* D -> z [W], xBC [N], dt [H_ssm], q [H E], k [J E], v [J E] */
    matrix out;     /* gated y [W] and attention [H E], side by side -> D */
    matrix gate_up; /* D -> panels of the gate and of up in turn */
    matrix down;    /* F -> D */
    const float *input_norm, *mlp_norm, *gate_norm; /* gate_norm: NULL without a norm */
    const float *conv_weight;                       /* [taps, N] */
    const float *conv_bias;                         /* [N] or NULL */
    const float *dt_bias, *A, *skip;                /* [H_ssm] each; A < 0 */
} layer;

typedef struct {
    int64_t layers, hidden, ff, vocab, heads, kv_heads, head_dim, ssm_heads, ssm_head_dim, groups, d_state, taps;
    int64_t norm_before_gate;
    float eps, dt_low, dt_high, embedding_scale;
    float mixer_scale, attention_scale; /* of y and attention before `out`; 1 where its weights have them */
    const float *embedding, *final_norm;
    const layer *layer;
    matrix head;
} model;

/* Slots are rows [0, rows) of: keys and values [rows, J, L, E], conv [rows, taps - 1, N], ssm [rows, H_ssm, P, S]. */
typedef struct {
    float *const *keys, *const *values, *const *conv, *const *ssm; /* one of each per layer */
    const float *cos, *sin;                                        /* [L, E / 2] */
    int64_t *lengths;                                              /* [rows] */
    int64_t max_length;
} cache;

/* Scratch of one call, rows of whole panels. */
typedef struct {
    float *x, *h, *projected, *conv, *mixed, *inner, *gathered;
    int64_t ld_hidden, ld_projected, ld_conv, ld_mixed, ld_inner;
    int64_t *row, *position; /* of each token */
    int16_t *q;              /* [tokens, ld_q]: rows of a product's input as integers, times q_scale [tokens]; or NULL */
    float *q_scale;
    int64_t ld_q;
} scratch;

typedef struct {
    const model *m;
    const cache *c;
    scratch s;
    int64_t tokens;
    int threads;
} call;

enum { STORE, ADD, SWIGLU };

/* This thread's share of C [M, n] = A [M, k] W^T + bias; ADD adds it to C, SWIGLU combines gate and up panels. Of int8
 * weights, A is what `integers` made of it in `s`. */
void gemm(const scratch *s, int64_t M, const float *A, int64_t lda, const matrix *w, float *C, int64_t ldc, int epilogue,
          int thread, int threads);
/* Row i of a product's input, x [k], as integers of 16 bits, where these weights are int8; else nothing. */
void integers(const scratch *s, const matrix *w, const float *x, int64_t i);

/* One token: convolution and SiLU, rotation of q and k, keys and values into the cache. */
void prepare_token(const call *c, int64_t l, int64_t token, int64_t first);
/* Tokens [first, first + count) of one row through SSM heads [h0, h1): the state moves on, y goes to `mixed`. */
void ssm_tokens(const call *c, int64_t l, int64_t first, int64_t count, int64_t h0, int64_t h1);
void move_conv_tail(const call *c, int64_t l, int64_t first, int64_t count);
/* y SiLU(z) of one token, with its norm. */
void gate_token(const call *c, int64_t l, int64_t token);
/* `count` tokens of one row, one key/value head; attention goes to `mixed`. */
void attend(const call *c, int64_t l, int64_t first, int64_t count, int64_t head);

#define QUERY_TOKENS 4 /* consecutive tokens of a row that read keys and values together */

/* Folds pairs of vectors into one: lanes in groups of `width`, of a and of b in turn, each the sum of two of a's or b's
 * groups. `width` is a constant where it is called, so that the shuffles are. */
INLINE void fold_pairs(vec rows[LANES], const int width)
{
    ivec even, odd;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        int group = i / width, from = (group & 1) * LANES + group / 2 * 2 * width + i % width;
        even[i] = from;
        odd[i] = from + width;
    }
#pragma GCC unroll 8
    for (int i = 0; i < LANES / (2 * width); i++) {
        vec a = rows[2 * i], b = rows[2 * i + 1];
        rows[i] = shuffle(a, b, even) + shuffle(a, b, odd);
    }
}

/* Lane i: the sum of rows[i] over its lanes. */
INLINE vec row_sums(vec rows[LANES])
{
    fold_pairs(rows, 1);
    fold_pairs(rows, 2);
    if (LANES > 4) fold_pairs(rows, LANES > 4 ? 4 : 1);
    if (LANES > 8) fold_pairs(rows, LANES > 8 ? 8 : 1);
    return rows[0];
}

INLINE int64_t up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }
INLINE int64_t cells_of(const matrix *w) { return (w->k + w->terms - 1) / w->terms; } /* of one output */
INLINE int64_t conv_width(const model *m) { return m->ssm_heads * m->ssm_head_dim + 2 * m->groups * m->d_state; }
INLINE int64_t ssm_width(const model *m) { return m->ssm_heads * m->ssm_head_dim; }
INLINE int64_t projected_width(const model *m)
{
    return ssm_width(m) + conv_width(m) + m->ssm_heads + (m->heads + 2 * m->kv_heads) * m->head_dim;
}

#endif
