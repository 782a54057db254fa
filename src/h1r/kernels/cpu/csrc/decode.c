/* New tokens of many sequences through the whole model: one parallel region, phases with a barrier between them.
 *
 * Each layer: norm | z, xBC, dt, q, k, v in one product | convolution, rotation, keys and values into the cache |
 * recurrence and attention, one task per (row, heads) | gate | both output projections in one product, added to the
 * stream | norm | gate and up in one product, SwiGLU | down, added.
 */
#include "decode.h"

const int64_t sizeof_matrix = sizeof(matrix), sizeof_layer = sizeof(layer), sizeof_model = sizeof(model),
              sizeof_cache = sizeof(cache), sizeof_scratch = sizeof(scratch);

#define FOR_SHARE(i, n) for (int64_t i = (n) * id / team; i < (n) * (id + 1) / team; i++)

typedef struct {
    int64_t first, count; /* tokens of one row */
} segment;

static void norm(const float *x, const float *weight, int64_t n, float eps, float *to)
{
    vec squares = {0};
    for (int64_t i = 0; i < n; i += LANES) {
        vec v = load_some(x + i, n - i < LANES ? (int)(n - i) : LANES);
        squares += v * v;
    }
    float factor = 1.0f / sqrtf(sum(squares) / n + eps);
    for (int64_t i = 0; i < n; i += LANES) {
        int some = n - i < LANES ? (int)(n - i) : LANES;
        store_some(to + i, load_some(x + i, some) * factor * load_some(weight + i, some), some);
    }
}

static void mix(const call *c, int64_t l, const segment *segments, int64_t rows, int team)
{
    const model *m = c->m;
    int64_t blocks = rows >= 2 * team ? 1 : m->ssm_heads < team ? m->ssm_heads : team, queries = 0, longest = 0;
    for (int64_t r = 0; r < rows; r++) longest = segments[r].count > longest ? segments[r].count : longest;
    queries = (longest + QUERY_TOKENS - 1) / QUERY_TOKENS;
    int64_t attention = rows * m->kv_heads * queries, tasks = attention + rows * blocks;
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < tasks; task++) {
        segment s = segments[task < attention ? task / (m->kv_heads * queries) : (task - attention) / blocks];
        if (!s.count) continue;
        if (task < attention) {
            /* The last tokens see most: they go first. */
            int64_t block = (s.count + QUERY_TOKENS - 1) / QUERY_TOKENS - 1 - task % queries, at = block * QUERY_TOKENS;
            if (block < 0) continue;
            int64_t left = s.count - at;
            attend(c, l, s.first + at, left < QUERY_TOKENS ? left : QUERY_TOKENS, task / queries % m->kv_heads);
        } else {
            int64_t b = (task - attention) % blocks;
            ssm_tokens(c, l, s.first, s.count, m->ssm_heads * b / blocks, m->ssm_heads * (b + 1) / blocks);
            if (b == 0) move_conv_tail(c, l, s.first, s.count);
        }
    }
}

/* The stream, normed, as input of `next`. */
static void normed(const call *c, const float *weight, const matrix *next, int id, int team)
{
    const scratch *s = &c->s;
    FOR_SHARE(i, c->tokens) {
        float *h = s->h + i * s->ld_hidden;
        norm(s->x + i * s->ld_hidden, weight, c->m->hidden, c->m->eps, h);
        integers(s, next, h, i);
    }
}

static void scale_mixed(const call *c, int64_t token)
{
    const model *m = c->m;
    float *y = c->s.mixed + token * c->s.ld_mixed;
    int64_t W = ssm_width(m), whole = W + m->heads * m->head_dim;
    if (m->mixer_scale == 1 && m->attention_scale == 1) return;
    for (int64_t i = 0; i < W; i++) y[i] *= m->mixer_scale;
    for (int64_t i = W; i < whole; i++) y[i] *= m->attention_scale;
}

static void layers(const call *c, const segment *segments, int64_t rows)
{
    const model *m = c->m;
    const scratch *s = &c->s;
    int64_t M = c->tokens;
    int id = omp_get_thread_num(), team = omp_get_num_threads();
    for (int64_t l = 0; l < m->layers; l++) {
        const layer *w = m->layer + l;
        normed(c, w->input_norm, &w->in, id, team);
#pragma omp barrier
        gemm(s, M, s->h, s->ld_hidden, &w->in, s->projected, s->ld_projected, STORE, id, team);
#pragma omp barrier
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < segments[r].count; i++)
                prepare_token(c, l, segments[r].first + i, segments[r].first);
        mix(c, l, segments, rows, team);
        FOR_SHARE(i, M) {
            gate_token(c, l, i);
            scale_mixed(c, i);
            integers(s, &w->out, s->mixed + i * s->ld_mixed, i);
        }
#pragma omp barrier
        gemm(s, M, s->mixed, s->ld_mixed, &w->out, s->x, s->ld_hidden, ADD, id, team);
#pragma omp barrier
        normed(c, w->mlp_norm, &w->gate_up, id, team);
#pragma omp barrier
        gemm(s, M, s->h, s->ld_hidden, &w->gate_up, s->inner, s->ld_inner, SWIGLU, id, team);
#pragma omp barrier
        if (s->q) {
            FOR_SHARE(i, M) integers(s, &w->down, s->inner + i * s->ld_inner, i);
#pragma omp barrier
        }
        gemm(s, M, s->inner, s->ld_inner, &w->down, s->x, s->ld_hidden, ADD, id, team);
#pragma omp barrier
    }
}

/* counts[r] new tokens (or none) for each of rows [0, rows) of the cache, their ids end to end. Writes the logits
 * [wanted, V] of the tokens `wanted` (places in `ids`). Returns 0 when there was no memory. */
int decode_tokens(const model *m, const cache *c, const scratch *s, int64_t rows, const int64_t *counts,
                  const int64_t *ids, int64_t wanted_count, const int64_t *wanted, float *logits, int threads)
{
    segment *segments = malloc(sizeof(segment) * (size_t)rows);
    if (!segments) return 0;
    call shared = {m, c, *s, 0, threads};
    int64_t D = m->hidden, ld = s->ld_hidden;
    for (int64_t r = 0; r < rows; r++) {
        segments[r] = (segment){shared.tokens, counts[r]};
        for (int64_t i = 0; i < counts[r]; i++) {
            s->row[shared.tokens + i] = r;
            s->position[shared.tokens + i] = c->lengths[r] + i;
        }
        shared.tokens += counts[r];
    }
    int64_t M = shared.tokens;
#pragma omp parallel num_threads(threads)
    {
        int id = omp_get_thread_num(), team = omp_get_num_threads();
        FOR_SHARE(i, M)
            for (int64_t d = 0; d < D; d++) s->x[i * ld + d] = m->embedding[ids[i] * D + d] * m->embedding_scale;
#pragma omp barrier
        layers(&shared, segments, rows);
        FOR_SHARE(i, wanted_count) {
            norm(s->x + wanted[i] * ld, m->final_norm, D, m->eps, s->gathered + i * ld);
            integers(s, &m->head, s->gathered + i * ld, i);
        }
#pragma omp barrier
        gemm(s, wanted_count, s->gathered, ld, &m->head, logits, m->vocab, STORE, id, team);
    }
    for (int64_t r = 0; r < rows; r++) c->lengths[r] += counts[r];
    free(segments);
    return 1;
}
