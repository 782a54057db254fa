/* The backward pass of attention on tile units: see amx_attention.h. */
#include "amx_attention.h"

#ifdef HAVE_TILES
/* What the pairs of a group of queries and n groups of keys give: P and dS as right matrices [8][4], of which this group is
 * step g, and dS as a left one [2][4]. lse and along [32]: of each row, the latter dO . O. */
static void pairs(const shape *s, const float *S, const float *dP, int n, int diagonal, int g, const float *lse,
                  const float *along, bf16 *P, bf16 *dS, bf16 *dS_left)
{
    for (int r = 0; r < GROUP; r += 2)
        for (int j = 0; j < n * GROUP; j += GROUP) {
            __m512 p[2][2], d[2][2];
            __m512i part[3];
            for (int i = 0; i < 2; i++)
                for (int half = 0; half < 2; half++) {
                    const int at = (r + i) * BLOCK + j + half * 16;
                    p[i][half] = (__m512)vexp(load(S + at) * s->scale - lse[r + i]);
                    if (diagonal) p[i][half] = among(p[i][half], seen_by(1, g, r + i) - j - half * 16);
                    d[i][half] = p[i][half] * (_mm512_loadu_ps(dP + at) - along[r + i]) * s->scale;
                }
            for (int half = 0; half < 2; half++) {
                int64_t to = ((j / SIDE + half) * GROUPS + g) * UNIT + r / 2 * TERMS;
                split(p[0][half], p[1][half], part);
                for (int t = 0; t < 3; t++) _mm512_store_si512(P + to + t * PART, alternate(part[t]));
                split(d[0][half], d[1][half], part);
                for (int t = 0; t < 3; t++) _mm512_store_si512(dS + to + t * PART, alternate(part[t]));
            }
            for (int i = 0; i < 2; i++) {
                bf16 *to = dS_left + ((r + i) / SIDE * GROUPS + j / GROUP) * UNIT + (r + i) % SIDE * TERMS;
                split(d[i][0], d[i][1], part);
                for (int t = 0; t < 3; t++) _mm512_store_si512(to + t * PART, part[t]);
            }
        }
}

/* Scratch of one thread. The first four hold a block of queries: rows, and columns, of q and of the gradient of out. */
typedef struct {
    bf16 *Q, *dO, *Qt, *dOt, *P, *dS, *dS_left;
    float *S, *dP, *dQ, *lse, *along;
} buffers;

static void *lay_out(buffers *b, const shape *s)
{
    int64_t block = 2 * GROUPS * s->steps, pair = 2 * GROUPS * GROUPS;
    bf16 *memory = units(4 * block + 2 * pair + 2 * GROUPS + parts_of(2 * (2 * GROUP * BLOCK + BLOCK * (s->Ep + 2)), UNIT));
    if (!memory) return NULL;
    b->Q = memory, b->dO = b->Q + block * UNIT, b->Qt = b->dO + block * UNIT, b->dOt = b->Qt + block * UNIT;
    b->P = b->dOt + block * UNIT, b->dS = b->P + pair * UNIT, b->dS_left = b->dS + pair * UNIT;
    b->S = (float *)(b->dS_left + 2 * GROUPS * UNIT), b->dP = b->S + GROUP * BLOCK, b->dQ = b->dP + GROUP * BLOCK;
    b->lse = b->dQ + BLOCK * s->Ep, b->along = b->lse + BLOCK;
    return memory;
}

/* Who has what: the heads of each key head in `blocks` parts, the blocks of queries of a document in `splits`. */
typedef struct {
    int blocks, splits;
    float *dK, *dV; /* [parts][J][groups][Ep][32], transposed sums of each part */
} division;

/* One head's block of queries against all keys before it: adds to dK and dV, writes dQ. */
static void block_backward(const shape *s, buffers *u, int64_t d, int64_t b, int h, const float *q, const float *out,
                           const float *lse, const float *grad, const bf16 *key, const bf16 *value, const bf16 *key_across,
                           float *dK, float *dV, float *grad_q)
{
    const int64_t *ld = s->ld, start = s->cu_seqlens[d], L = s->cu_seqlens[d + 1] - start, at = start + b * BLOCK;
    int64_t groups = s->first[d + 1] - s->first[d], size = 2 * s->steps * UNIT, column = (int64_t)h * s->E;
    int rows = (int)least(BLOCK, L - b * BLOCK), mine = (int)parts_of(rows, GROUP), E = s->E;
    const float *q_rows = q + at * ld[0] + column, *grad_rows = grad + at * ld[3] + column;
    pack_sides(q_rows, ld[0], 1, rows, E, 0, u->Q, 2 * mine, s->steps, s->steps * UNIT);
    pack_sides(grad_rows, ld[3], 1, rows, E, 0, u->dO, 2 * mine, s->steps, s->steps * UNIT);
    pack_sides(q_rows, 1, ld[0], E, rows, 0, u->Qt, 2 * s->steps, mine, GROUPS * UNIT);
    pack_sides(grad_rows, 1, ld[3], E, rows, 0, u->dOt, 2 * s->steps, mine, GROUPS * UNIT);
    for (int i = 0; i < BLOCK; i++) {
        u->lse[i] = u->along[i] = 0;
        if (i >= rows) continue;
        u->lse[i] = lse[(at + i) * s->H + h];
        vec along = {0};
        for (int e = 0; e < E; e += LANES)
            along += load_some(out + (at + i) * ld[2] + column + e, E - e) * load_some(grad_rows + i * ld[3] + e, E - e);
        u->along[i] = sum(along);
    }
    memset(u->dQ, 0, 4 * BLOCK * s->Ep);
    for (int64_t kb = 0; kb <= b; kb++) {
        int diagonal = kb == b;
        for (int g = 0; g < mine; g++) {
            int n = diagonal ? g + 1 : GROUPS, i = g * GROUP;
            scores(s, u->Q + g * size, key + kb * GROUPS * size, n, u->S);
            scores(s, u->dO + g * size, value + kb * GROUPS * size, n, u->dP);
            pairs(s, u->S, u->dP, n, diagonal, g, u->lse + i, u->along + i, u->P, u->dS, u->dS_left);
            add_product(s, n, u->dS_left, GROUPS * UNIT, key_across + kb * GROUPS * UNIT, groups * UNIT, u->dQ + i * s->Ep);
        }
        for (int c = 0; c < (diagonal ? mine : GROUPS); c++) {
            int first = diagonal ? c : 0; /* groups of queries before it do not see these keys */
            int64_t from = (2 * c * GROUPS + first) * UNIT, to = (kb * GROUPS + c) * s->Ep * GROUP;
            for (int e = 0; e < s->Ep; e += GROUP) {
                int64_t left = (e / SIDE * GROUPS + first) * UNIT;
                float *v = dV + to + e * GROUP, *k = dK + to + e * GROUP;
                product_block(GROUP, GROUP, mine - first, u->dOt + left, GROUPS * UNIT, u->P + from, GROUPS * UNIT, v, v, GROUP);
                product_block(GROUP, GROUP, mine - first, u->Qt + left, GROUPS * UNIT, u->dS + from, GROUPS * UNIT, k, k, GROUP);
            }
        }
    }
    for (int i = 0; i < rows; i++) memcpy(grad_q + (at + i) * ld[4] + column, u->dQ + i * s->Ep, 4 * E);
}

/* grad_k or grad_v of all groups of 32 tokens: the parts' sums, turned over. For all threads of a team. */
static void gather(const shape *s, int parts, const float *sums, float *to)
{
    int64_t size = (int64_t)s->Ep * GROUP;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < s->documents * s->J; task++) {
        int64_t d = task / s->J, j = task % s->J, start = s->cu_seqlens[d], L = s->cu_seqlens[d + 1] - start;
        for (int64_t i = 0; i < L; i++)
            for (int e = 0; e < s->E; e++) {
                const float *from = sums + (j * s->groups + s->first[d] + i / GROUP) * size + e * GROUP + i % GROUP;
                float total = 0;
                for (int part = 0; part < parts; part++) total += from[part * s->J * s->groups * size];
                to[(start + i) * s->ld[5] + j * s->E + e] = total;
            }
    }
}

int amx_attention_backward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                             int64_t documents, int H, int J, int E, const float *out, const float *lse, const float *grad,
                             float *grad_q, float *grad_k, float *grad_v, int threads)
{
    shape s;
    if (!measure(&s, cu_seqlens, ld, documents, H, J, E)) return 0;
    int64_t wanted = threads > 1 ? parts_of(4 * threads, documents * J) : 1;
    division by = {.blocks = (int)least(wanted, s.R)};
    by.splits = (int)parts_of(wanted, by.blocks);
    int parts = by.blocks * by.splits;
    int64_t size = 2 * s.steps * UNIT, sums = J * s.groups * s.Ep * GROUP, packed = J * s.groups * 2 * s.steps;
    bf16 *keys = units(packed), *values = units(packed), *across = units(packed);
    by.dK = malloc(4 * sums * parts), by.dV = malloc(4 * sums * parts);
    int failed = !keys || !values || !across || !by.dK || !by.dV;
#pragma omp parallel num_threads(threads)
    {
        buffers u;
        void *memory = lay_out(&u, &s);
        if (!memory) {
#pragma omp atomic write
            failed = 1;
        }
        configure_tiles();
#pragma omp barrier
        if (!failed) {
            pack_all(&s, k, 1, keys);
            pack_all(&s, v, 1, values);
            pack_all(&s, k, 0, across);
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < documents * J * parts; task++) {
                int64_t d = task / (J * parts), j = task / parts % J, block = task % parts / by.splits, split = task % by.splits;
                int64_t place = j * s.groups + s.first[d], blocks = parts_of(cu_seqlens[d + 1] - cu_seqlens[d], BLOCK);
                int64_t to = (task % parts * J * s.groups + place) * s.Ep * GROUP;
                size_t bytes = 4 * (s.first[d + 1] - s.first[d]) * s.Ep * GROUP;
                memset(by.dK + to, 0, bytes);
                memset(by.dV + to, 0, bytes);
                for (int64_t h = j * s.R + s.R * block / by.blocks; h < j * s.R + s.R * (block + 1) / by.blocks; h++)
                    for (int64_t b = split; b < blocks; b += by.splits)
                        block_backward(&s, &u, d, b, (int)h, q, out, lse, grad, keys + place * size, values + place * size,
                                       across + place * size, by.dK + to, by.dV + to, grad_q);
            }
            gather(&s, parts, by.dK, grad_k);
            gather(&s, parts, by.dV, grad_v);
        }
        _tile_release();
        free(memory);
    }
    free(keys), free(values), free(across), free(by.dK), free(by.dV), free(s.first);
    return !failed;
}
#else
int amx_attention_backward(const float *q, const float *k, const float *v, const int64_t *cu_seqlens, const int64_t *ld,
                             int64_t documents, int H, int J, int E, const float *out, const float *lse, const float *grad,
                             float *grad_q, float *grad_k, float *grad_v, int threads)
{
    (void)q, (void)k, (void)v, (void)cu_seqlens, (void)ld, (void)documents, (void)H, (void)J, (void)E, (void)out, (void)lse;
    return (void)grad, (void)grad_q, (void)grad_k, (void)grad_v, (void)threads, 0;
}
#endif
