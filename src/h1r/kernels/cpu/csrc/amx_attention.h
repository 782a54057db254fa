/* Causal softmax attention inside each document on the tile units of x86 servers, for documents of any length. See amx.h.
 *
 *   S = scale Q K^T,  P = exp(S - lse),  O = P V
 *   dV = P^T dO,  dP = dO V^T,  dS = P (dP - rows of dO . O) scale,  dQ = dS K,  dK = dS^T Q
 *
 * Blocks of 128 queries meet blocks of 128 keys (FlashAttention-2, Dao, arXiv 2307.08691), in groups of 32 tokens: groups
 * above the diagonal are never computed. Keys and values are packed once per call. dK and dV are summed transposed, so that
 * P and dS can be right matrices as they come; each part of the heads has sums of its own, added up in order at the end.
 * q, out and their gradients are [T, H, E], k, v and theirs [T, J, E]; ld as in attention.c.
 */
#ifndef H1R_AMX_ATTENTION_H
#define H1R_AMX_ATTENTION_H

#include "amx.h"

#ifdef HAVE_TILES
enum { GROUP = 2 * SIDE, GROUPS = 4, BLOCK = GROUPS * GROUP };

typedef struct {
    const int64_t *cu_seqlens, *ld;
    int64_t documents, groups; /* groups of all documents */
    int64_t *first;            /* group of each document [documents + 1] */
    int H, J, R, E, steps, Ep; /* steps: terms of a head in units; Ep: its padded width */
    float scale;
} shape;

static int measure(shape *s, const int64_t *cu_seqlens, const int64_t *ld, int64_t documents, int H, int J, int E)
{
    *s = (shape){.cu_seqlens = cu_seqlens, .ld = ld, .documents = documents, .H = H, .J = J, .R = H / J, .E = E};
    s->steps = (int)parts_of(E, TERMS), s->Ep = s->steps * TERMS, s->scale = 1 / sqrtf(E);
    s->first = malloc(8 * (documents + 1));
    if (!s->first) return 0;
    s->first[0] = 0;
    for (int64_t d = 0; d < documents; d++)
        s->first[d + 1] = s->first[d] + parts_of(cu_seqlens[d + 1] - cu_seqlens[d], GROUP);
    s->groups = s->first[documents];
    return 1;
}

static bf16 *units(int64_t count)
{
    void *memory = NULL;
    return posix_memalign(&memory, 64, sizeof(bf16) * UNIT * count) ? NULL : memory;
}

/* [sides][steps] units of a matrix with n indices and k terms, sides `apart`; zero where it has ended. */
static void pack_sides(const float *from, int64_t li, int64_t lk, int n, int k, int right, bf16 *to, int sides, int steps,
                       int64_t apart)
{
    for (int s = 0; s < sides; s++)
        for (int t = 0; t < steps; t++)
            pack_unit(from + s * SIDE * li + t * TERMS * lk, li, lk, n - s * SIDE, k - t * TERMS, right,
                      to + s * apart + t * UNIT);
}

/* Keys or values of all documents as right matrices. across: their sums run over the head's width, units are
 * [J][groups][2][steps]; else over tokens, units are [J][document][2 steps][its groups]. For all threads of a team. */
static void pack_all(const shape *s, const float *from, int across, bf16 *to)
{
    int64_t ld = s->ld[1];
#pragma omp for schedule(static)
    for (int64_t task = 0; task < s->J * s->groups; task++) {
        int64_t j = task / s->groups, group = task % s->groups, low = 0, high = s->documents;
        while (high - low > 1) { /* the document of this group */
            int64_t middle = (low + high) / 2;
            *(s->first[middle] <= group ? &low : &high) = middle;
        }
        int64_t own = group - s->first[low], start = s->cu_seqlens[low] + own * GROUP;
        int n = (int)least(GROUP, s->cu_seqlens[low + 1] - start);
        const float *rows = from + start * ld + j * s->E;
        if (across) {
            pack_sides(rows, ld, 1, n, s->E, 1, to + task * 2 * s->steps * UNIT, 2, s->steps, s->steps * UNIT);
        } else {
            int64_t length = s->first[low + 1] - s->first[low];
            bf16 *document = to + (j * s->groups + s->first[low]) * 2 * s->steps * UNIT;
            pack_sides(rows, 1, ld, s->E, n, 1, document + own * UNIT, 2 * s->steps, 1, length * UNIT);
        }
    }
}

/* C [32, 32 n] = left right^T for a group of queries and n groups of keys, sums over the head's width */
static void scores(const shape *s, const bf16 *queries, const bf16 *keys, int n, float *C)
{
    for (int c = 0; c < n; c++)
        product_block(GROUP, GROUP, s->steps, queries, s->steps * UNIT, keys + c * 2 * s->steps * UNIT, s->steps * UNIT,
                      NULL, C + c * GROUP, BLOCK);
}

/* C [32, Ep] += left [32, 32 n] right, sums over n groups of tokens; sides of left and right are la and lb apart. */
static void add_product(const shape *s, int n, const bf16 *left, int64_t la, const bf16 *right, int64_t lb, float *C)
{
    for (int e = 0; e < s->Ep; e += GROUP)
        product_block(GROUP, GROUP, n, left, la, right + e / SIDE * lb, lb, C + e, C + e, s->Ep);
}

/* The keys that row r of group g of a block sees, of those that the block of keys begins with */
INLINE int seen_by(int diagonal, int g, int r) { return diagonal ? g * GROUP + r + 1 : BLOCK; }

/* x where its key is among the first n, counted from this vector's first; 0 elsewhere */
INLINE __m512 among(__m512 x, int n) { return n >= 16 ? x : _mm512_maskz_mov_ps(n <= 0 ? 0 : (1u << n) - 1, x); }
#endif
#endif
