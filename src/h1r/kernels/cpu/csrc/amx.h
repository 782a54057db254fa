/* fp32 numbers as the sum of three bf16 numbers, in the layout of the tile units of x86 servers (AMX).
 *
 *   x = x0 + x1 + x2 exactly, |x1| <= 2^-9 |x|, |x2| <= 2^-18 |x|      (each part is what rounding left, rounded)
 *   a b = a0 b0 + a0 b1 + a1 b0 + a0 b2 + a2 b0 + a1 b1 + rest,  |rest| < 2^-25 |a b|
 *
 * The rest is less than the rounding of one fp32 product, so six products of parts, summed in fp32, are a product of fp32
 * matrices: Henry, Tang and Heinecke, arXiv 1904.06376. Tile units multiply bf16 sixteen times as fast as vector units
 * multiply fp32. Two limits: parts and their products below 1.2e-38 are taken for zero, as these units do, so results below
 * 1e-33 lose digits; and an infinite number gives NaN.
 *
 * A unit is 16 indices by 32 terms k of the sum, as [3 parts][16][32]. Two forms: rows of one index with their 32 terms,
 * for left matrices; rows of two terms (2 j, 2 j + 1) for each of the 16 indices, for right ones.
 */
#ifndef H1R_AMX_H
#define H1R_AMX_H

#include "vector.h"

/* Clang 14 writes the first name otherwise. */
#if (defined(__AMX_BF16__) || defined(__AMXBF16__)) && defined(__AVX512BF16__) && defined(__linux__)
#define HAVE_TILES 1
#include <immintrin.h>

typedef uint16_t bf16;
enum { SIDE = 16, TERMS = 32, PART = SIDE * TERMS, UNIT = 3 * PART };

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* What a thread does before its first tile, and `_tile_release()` after the last. All tiles are 16 rows of 64 bytes. */
INLINE void configure_tiles(void)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } __attribute__((aligned(64))) shape = {.palette = 1};
    for (int i = 0; i < 8; i++) shape.row_bytes[i] = 64, shape.rows[i] = SIDE;
    _tile_loadconfig(&shape);
}

/* The parts of `low` and `high`, 16 numbers each, side by side */
INLINE void split(__m512 low, __m512 high, __m512i part[3])
{
    for (int s = 0; s < 3; s++) {
        __m512i p = (__m512i)_mm512_cvtne2ps_pbh(high, low);
        part[s] = p;
        low -= (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(p)), 16);
        high -= (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(p, 1)), 16);
    }
}

/* The first 16 of 32 bf16 numbers and the last 16 in turn */
INLINE __m512i alternate(__m512i part)
{
    static const uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                       8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_loadu_si512(order), part);
}

INLINE __m512 some_of(const float *p, int n)
{
    return n >= 16 ? _mm512_loadu_ps(p) : n <= 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps((1u << n) - 1, p);
}

/* A unit of `indices` by `terms` elements, zero where it is larger; element (i, k) is from[i * li + k * lk], where li or lk
 * is 1. More than fit are left out, and none may be left. */
static void pack_unit(const float *from, int64_t li, int64_t lk, int indices, int terms, int right, bf16 *to)
{
    __m512i rows[3][SIDE], part[3];
    if (lk == 1) { /* rows of one index */
        for (int i = 0; i < SIDE; i++) {
            int n = i < indices ? terms : 0;
            split(some_of(from + i * li, n), some_of(from + i * li + 16, n - 16), part);
            for (int s = 0; s < 3; s++) rows[s][i] = part[s];
        }
    } else { /* rows of two terms */
        for (int j = 0; j < SIDE; j++) {
            const float *pair = from + 2 * j * lk;
            split(some_of(pair, 2 * j < terms ? indices : 0), some_of(pair + lk, 2 * j + 1 < terms ? indices : 0), part);
            for (int s = 0; s < 3; s++) rows[s][j] = alternate(part[s]);
        }
    }
    for (int s = 0; s < 3; s++) { /* pairs of terms stay together: one form is the other's transpose in units of 4 bytes */
        if ((lk == 1) == right) transpose_block((vec *)rows[s]);
        for (int i = 0; i < SIDE; i++) _mm512_store_si512(to + s * PART + i * TERMS, rows[s][i]);
    }
}

/* All units of a matrix, read in the order of its memory. to: [ceil(n / 16)][ceil(k / 32)] units. */
static void pack(const float *from, int64_t li, int64_t lk, int64_t n, int64_t k, int right, bf16 *to)
{
    int64_t steps = (k + TERMS - 1) / TERMS, sides = (n + SIDE - 1) / SIDE;
    for (int64_t u = 0; u < sides * steps; u++) {
        int64_t side = lk == 1 ? u / steps : u % sides, step = lk == 1 ? u % steps : u / sides;
        int64_t i = side * SIDE, t = step * TERMS;
        if (lk != 1) /* rows too far apart for the processor to foresee */
            for (int r = 0; r < TERMS; r++) __builtin_prefetch(from + i * li + (t + TERMS + r) * lk, 0, 2);
        pack_unit(from + i * li + t * lk, li, lk, n - i < SIDE ? (int)(n - i) : SIDE, k - t < TERMS ? (int)(k - t) : TERMS,
                  right, to + (side * steps + step) * UNIT);
    }
}

/* C [16 m, 16 n] = a b; m, n <= 2 are constants where it is called. a: m, b: n runs of `steps` units, `la` and `lb` apart.
 * In each step the small products come first, in an order that loads each part once, but one of b. */
INLINE void tile_product(int m, int n, int64_t steps, const bf16 *a, int64_t la, const bf16 *b, int64_t lb, float *C,
                         int64_t ldc)
{
#define LEFT(s)                          \
    _tile_loadd(4, a + s * PART, 64);    \
    if (m > 1) _tile_loadd(5, a + la + s * PART, 64)
#define RIGHT(s)                         \
    _tile_loadd(6, b + s * PART, 64);    \
    if (n > 1) _tile_loadd(7, b + lb + s * PART, 64)
#define MULTIPLY                         \
    _tile_dpbf16ps(0, 4, 6);             \
    if (n > 1) _tile_dpbf16ps(1, 4, 7);  \
    if (m > 1) _tile_dpbf16ps(2, 5, 6);  \
    if (m > 1 && n > 1) _tile_dpbf16ps(3, 5, 7)
    __asm__ volatile("" ::: "memory"); /* compilers do not know that tile loads read what was packed */
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < steps; k++, a += UNIT, b += UNIT) {
        LEFT(2);
        RIGHT(0);
        MULTIPLY;
        LEFT(1);
        MULTIPLY;
        RIGHT(1);
        MULTIPLY;
        LEFT(0);
        MULTIPLY;
        RIGHT(2);
        MULTIPLY;
        RIGHT(0);
        MULTIPLY;
    }
    _tile_stored(0, C, ldc * 4);
    if (n > 1) _tile_stored(1, C + SIDE, ldc * 4);
    if (m > 1) _tile_stored(2, C + SIDE * ldc, ldc * 4);
    if (m > 1 && n > 1) _tile_stored(3, C + SIDE * ldc + SIDE, ldc * 4);
#undef LEFT
#undef RIGHT
#undef MULTIPLY
}

/* C [rows, columns] <= [32, 32] = D + a b, D being NULL, C or another matrix of its stride; nothing is touched beyond. */
static void product_block(int rows, int columns, int64_t steps, const bf16 *a, int64_t la, const bf16 *b, int64_t lb,
                          const float *D, float *C, int64_t ldc)
{
    float whole[4 * SIDE * SIDE] __attribute__((aligned(64)));
    int m = rows > SIDE ? 2 : 1, n = columns > SIDE ? 2 : 1, direct = !D && rows == m * SIDE && columns == n * SIDE;
    float *to = direct ? C : whole;
    int64_t ld = direct ? ldc : 2 * SIDE;
    if (m == 2 && n == 2)
        tile_product(2, 2, steps, a, la, b, lb, to, ld);
    else if (m == 2)
        tile_product(2, 1, steps, a, la, b, lb, to, ld);
    else if (n == 2)
        tile_product(1, 2, steps, a, la, b, lb, to, ld);
    else
        tile_product(1, 1, steps, a, la, b, lb, to, ld);
    if (direct) return;
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < columns; j += LANES) {
            int some = columns - j;
            vec value = load(whole + i * ld + j);
            if (D) value += load_some(D + i * ldc + j, some);
            store_some(C + i * ldc + j, value, some);
        }
}
#endif
#endif
