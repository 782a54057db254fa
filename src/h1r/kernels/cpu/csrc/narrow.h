/* Products of a few rows with weights of 16 or 8 bits: one block of rows times one panel (see `matrix` in decode.h).
 *
 * bf16: a cell is two terms of one output; both are widened to fp32 by a shift or a mask, and summed in order, as fp32
 * weights are.
 * int8: the input comes as integers of 16 bits. Products of INT8_BLOCK terms are summed exactly, in 32 bits
 * (32767 * 127 * 128 < 2^31), then scaled in fp32: one rounding for each block, the same on every instruction set.
 */
#ifndef H1R_NARROW_H
#define H1R_NARROW_H

#include "decode.h"
#if defined(__SSE2__)
#include <immintrin.h>
#endif

enum { INT8_ROWS = BLOCK_ROWS / 2, CELLS = 2 * PANEL_VECS };

typedef int16_t hvec __attribute__((vector_size(4 * LANES), aligned(2), may_alias));
typedef int8_t bvec __attribute__((vector_size(2 * LANES), aligned(1), may_alias));
typedef int64_t lvec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Asks for `pace` <= PANEL cells of what comes next in memory. */
INLINE void ask(const float *ahead, int64_t step, int64_t pace)
{
    if (ahead)
        for (int j = 0; j < PANEL; j += 16)
            if (j < pace) __builtin_prefetch(ahead + step * pace + j, 0, 2);
}

INLINE void block_bf16(int rows, int64_t K, const float *A, int64_t lda, const float *B, const float *ahead, int64_t pace,
                       vec c[BLOCK_ROWS][PANEL_VECS])
{
    vec acc[BLOCK_ROWS][PANEL_VECS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < PANEL_VECS; j++) acc[i][j] = (vec){0};
    for (int64_t k = 0; k < K; k += 2) {
        const float *b = B + k / 2 * PANEL;
        vec w[PANEL_VECS];
        ask(ahead, k / 2, pace);
        for (int j = 0; j < PANEL_VECS; j++) w[j] = (vec)(*(const ivec *)(b + j * LANES) << 16);
        for (int i = 0; i < rows; i++) {
            vec a = splat(A[i * lda + k]);
            for (int j = 0; j < PANEL_VECS; j++) acc[i][j] += a * w[j];
        }
        if (k + 1 == K) break;
        for (int j = 0; j < PANEL_VECS; j++) w[j] = (vec)(*(const ivec *)(b + j * LANES) & (int32_t)0xffff0000);
        for (int i = 0; i < rows; i++) {
            vec a = splat(A[i * lda + k + 1]);
            for (int j = 0; j < PANEL_VECS; j++) acc[i][j] += a * w[j];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < PANEL_VECS; j++) c[i][j] = acc[i][j];
}

INLINE hvec widen(const int8_t *from)
{
#if LANES == 16 && defined(__AVX512BW__) /* compilers of 2022 make two halves of it */
    return (hvec)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from));
#elif LANES == 8 && defined(__AVX2__)
    return (hvec)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
#elif LANES == 4 && defined(__SSE4_1__)
    return (hvec)_mm_cvtepi8_epi16(_mm_loadl_epi64((const __m128i *)from));
#else
    return __builtin_convertvector(*(const bvec *)from, hvec);
#endif
}

/* acc + the sums of two products side by side */
INLINE ivec dot_pairs(ivec acc, hvec a, hvec w)
{
#if LANES == 16 && defined(__AVX512VNNI__)
    return (ivec)_mm512_dpwssd_epi32((__m512i)acc, (__m512i)a, (__m512i)w);
#elif LANES == 16 && defined(__AVX512BW__)
    return acc + (ivec)_mm512_madd_epi16((__m512i)a, (__m512i)w);
#elif LANES == 8 && defined(__AVX2__)
    return acc + (ivec)_mm256_madd_epi16((__m256i)a, (__m256i)w);
#elif LANES == 4 && defined(__SSE2__)
    return acc + (ivec)_mm_madd_epi16((__m128i)a, (__m128i)w);
#else
    ivec x = (ivec)a, y = (ivec)w;
    return acc + (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}

/* The sums of lanes two by two, of a and then of b */
INLINE vec sum_pairs(ivec a, ivec b)
{
    ivec even, odd;
    for (int l = 0; l < LANES; l++) even[l] = 2 * l, odd[l] = 2 * l + 1;
    ivec total = (ivec)shuffle((vec)a, (vec)b, even) + (ivec)shuffle((vec)a, (vec)b, odd);
    return __builtin_convertvector(total, vec);
}

/* A [rows, ldq] integers, zero up to whole cells past K. */
INLINE void block_int8(int rows, int64_t K, const int16_t *A, int64_t ldq, const float *B, const float *scale,
                       const float *ahead, int64_t pace, vec c[BLOCK_ROWS][PANEL_VECS])
{
    vec total[INT8_ROWS][PANEL_VECS];
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < PANEL_VECS; j++) total[i][j] = (vec){0};
    for (int64_t k0 = 0; k0 < K; k0 += INT8_BLOCK, scale += PANEL) {
        int64_t end = K < k0 + INT8_BLOCK ? K : k0 + INT8_BLOCK;
        ivec acc[INT8_ROWS][CELLS];
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < CELLS; j++) acc[i][j] = (ivec){0};
        for (int64_t k = k0; k < end; k += 4) {
            const int8_t *b = (const int8_t *)(B + k / 4 * PANEL);
            hvec w[CELLS];
            ask(ahead, k / 4, pace);
            for (int j = 0; j < CELLS; j++) w[j] = widen(b + j * 2 * LANES);
            for (int i = 0; i < rows; i++) {
                int64_t four;
                memcpy(&four, A + i * ldq + k, 8);
                hvec a = (hvec)(four - (lvec){0});
                for (int j = 0; j < CELLS; j++) acc[i][j] = dot_pairs(acc[i][j], a, w[j]);
            }
        }
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < PANEL_VECS; j++)
                total[i][j] += sum_pairs(acc[i][2 * j], acc[i][2 * j + 1]) * load(scale + j * LANES);
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < PANEL_VECS; j++) c[i][j] = total[i][j];
}

#endif
