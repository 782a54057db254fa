/* Grouped-query attention of new tokens over the cache: one pass with a running maximum (online softmax).
 *
 * The query heads of a group, and up to QUERY_TOKENS tokens of a row, read each block of keys and values together. A
 * block that lies past a token's own position changes none of its numbers, so neighbours do not matter.
 */
#include "decode.h"

#define POSITIONS 64 /* per block: four vectors of scores at 16 lanes */
#define QUERIES 4    /* worked on at once */

typedef struct {
    float q[QUERIES][256], acc[QUERIES][256], top[QUERIES], total[QUERIES];
    int64_t visible[QUERIES]; /* positions that the query may see */
} group;

/* Scores of `n` <= LANES positions for one query; E is `whole` vectors and `rest` floats. */
INLINE vec scores_of(const float *q, const float *k, int n, int whole, int rest)
{
    int E = whole * LANES + rest;
    vec partial[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        partial[i] = (vec){0};
        if (i >= n) continue;
        for (int e = 0; e < whole * LANES; e += LANES) partial[i] += load(q + e) * load(k + i * E + e);
        if (rest) partial[i] += load(q + whole * LANES) * load_some(k + i * E + whole * LANES, rest);
    }
    return row_sums(partial);
}

/* acc[r] [E] += p[r][j] v[j] over `n` positions, `vecs` vectors of E at a time. */
INLINE void gather_values(int queries, int vecs, const float *v, int64_t n, int E, int e, int some, float p[][POSITIONS],
                          group *g)
{
    vec acc[QUERIES][2];
    for (int r = 0; r < queries; r++)
        for (int j = 0; j < vecs; j++) acc[r][j] = load(g->acc[r] + e + j * LANES);
    for (int64_t i = 0; i < n; i++)
        for (int j = 0; j < vecs; j++) {
            vec value = load_some(v + i * E + e + j * LANES, some - j * LANES);
            for (int r = 0; r < queries; r++) acc[r][j] += p[r][i] * value;
        }
    for (int r = 0; r < queries; r++)
        for (int j = 0; j < vecs; j++) store(g->acc[r] + e + j * LANES, acc[r][j]);
}

static void one_block(group *g, int queries, const float *k, const float *v, int64_t start, int64_t n, int E)
{
    float p[QUERIES][POSITIONS];
    int whole = E / LANES, rest = E % LANES;
    for (int r = 0; r < queries; r++) {
        int seen = (int)(g->visible[r] - start < n ? g->visible[r] - start : n);
        vec best = splat(-INFINITY);
        for (int j = 0; j < POSITIONS; j += LANES) {
            int some = seen - j;
            vec s = splat(-INFINITY);
            if (some >= LANES && rest == 0)
                s = whole == 2   ? scores_of(g->q[r], k + (int64_t)j * E, LANES, 2, 0)
                    : whole == 4 ? scores_of(g->q[r], k + (int64_t)j * E, LANES, 4, 0)
                                 : scores_of(g->q[r], k + (int64_t)j * E, LANES, whole, 0);
            else if (some > 0)
                s = choose(LANE < (ivec){0} + some, scores_of(g->q[r], k + (int64_t)j * E, some < LANES ? some : LANES, whole, rest), s);
            store(p[r] + j, s);
            best = choose(s > best, s, best);
        }
        float top = largest(best);
        top = top > g->top[r] ? top : g->top[r];
        vec total = {0};
        for (int j = 0; j < POSITIONS; j += LANES) {
            vec s = load(p[r] + j);
            s = choose(LANE < (ivec){0} + (seen - j), vexp(s - top), (vec){0});
            store(p[r] + j, s);
            total += s;
        }
        if (top != g->top[r]) { /* only then: a block that shows nothing new must not round anything */
            float shrink = g->top[r] == -INFINITY ? 0.0f : expf(g->top[r] - top);
            g->total[r] *= shrink;
            for (int e = 0; e < E; e += LANES) store(g->acc[r] + e, load(g->acc[r] + e) * shrink);
            g->top[r] = top;
        }
        g->total[r] += sum(total);
    }
    for (int e = 0; e < E; e += 2 * LANES) {
#define CASE(r)                                                             \
    case r:                                                                 \
        if (E - e >= 2 * LANES)                                             \
            gather_values(r, 2, v, n, E, e, 2 * LANES, p, g);               \
        else if (E - e > LANES)                                             \
            gather_values(r, 2, v, n, E, e, E - e, p, g);                   \
        else                                                                \
            gather_values(r, 1, v, n, E, e, E - e, p, g);                   \
        break;
        switch (queries) {
            CASE(1) CASE(2) CASE(3) CASE(4)
        }
#undef CASE
    }
}

void attend(const call *c, int64_t l, int64_t first, int64_t count, int64_t head)
{
    const model *m = c->m;
    int64_t E = m->head_dim, J = m->kv_heads, share = m->heads / J, queries = share * count;
    int64_t at = (c->s.row[first] * J + head) * c->c->max_length * E;
    const float *k = c->c->keys[l] + at, *v = c->c->values[l] + at;
    int64_t q_column = ssm_width(m) + conv_width(m) + m->ssm_heads + head * share * E;
    int64_t longest = c->s.position[first + count - 1] + 1, groups = (queries + QUERIES - 1) / QUERIES;
    group g[groups];
    for (int64_t i = 0; i < queries; i++) {
        group *mine = g + i / QUERIES;
        int r = (int)(i % QUERIES);
        int64_t token = first + i / share;
        const float *q = c->s.projected + token * c->s.ld_projected + q_column + i % share * E;
        memset(mine->q[r], 0, 4 * (size_t)up(E, LANES));
        memset(mine->acc[r], 0, 4 * (size_t)up(E, LANES));
        memcpy(mine->q[r], q, 4 * E);
        mine->top[r] = -INFINITY;
        mine->total[r] = 0;
        mine->visible[r] = c->s.position[token] + 1;
    }
    for (int64_t start = 0; start < longest; start += POSITIONS) {
        int64_t n = longest - start < POSITIONS ? longest - start : POSITIONS;
        for (int64_t i = 0; i < groups; i++) {
            int left = (int)(queries - i * QUERIES), used = left < QUERIES ? left : QUERIES;
            if (g[i].visible[used - 1] > start) one_block(g + i, used, k + start * E, v + start * E, start, n, (int)E);
        }
    }
    for (int64_t i = 0; i < queries; i++) {
        const group *mine = g + i / QUERIES;
        int r = (int)(i % QUERIES);
        float *to = c->s.mixed + (first + i / share) * c->s.ld_mixed + ssm_width(m) + (head * share + i % share) * E;
        for (int64_t e = 0; e < E; e++) to[e] = mine->acc[r][e] / mine->total[r];
    }
}
