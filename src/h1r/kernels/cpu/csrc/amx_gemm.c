/* C [M, N] = D + A [M, K] B [K, N] for fp32 matrices, on the tile units of x86 servers. See amx.h.
 *
 * Blocks of B are packed once by all threads together, blocks of A by the thread that multiplies them. Each output has one
 * owner and one order of its sum: results depend on neither threads nor timing.
 */
#include "amx.h"

#ifdef HAVE_TILES
#include <sys/syscall.h>
#include <unistd.h>

enum { ROWS = 256, COLUMNS = 4096, SUM = 512 }; /* of the blocks of A, of B, and of both */
enum { RUN = 128 }; /* columns of B that stay in the second-level cache, and of C that are written one after the other */

INLINE size_t packed_bytes(int64_t n, int64_t k) { return sizeof(bf16) * UNIT * parts_of(n, SIDE) * parts_of(k, TERMS); }

/* 1 when this process may use tiles; Linux wants to be asked once. -1: it said no. */
int amx_ready(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) ? -1 : 1; }

/* Element (i, k) of A is A[i * ai + k * ak], (k, j) of B is B[k * bk + j * bj]; one of each pair of strides is 1. D,
 * NULL for zero, has the row stride of C and may be C. Returns 0 without memory. */
int amx_gemm(int64_t M, int64_t N, int64_t K, const float *A, int64_t ai, int64_t ak, const float *B, int64_t bk,
               int64_t bj, const float *D, float *C, int64_t ldc, int threads)
{
    int64_t sums = parts_of(K, SUM), sum = parts_of(parts_of(K, sums), TERMS) * TERMS;
    int64_t rows = least(ROWS, parts_of(parts_of(M, threads), 2 * SIDE) * 2 * SIDE), tall = parts_of(M, rows);
    void *packed_B = NULL;
    int failed = posix_memalign(&packed_B, 64, packed_bytes(least(N, COLUMNS), sum)) != 0;
#pragma omp parallel num_threads(threads)
    {
        void *packed_A = NULL;
        if (posix_memalign(&packed_A, 64, packed_bytes(rows, sum))) {
#pragma omp atomic write
            failed = 1;
        }
        configure_tiles();
#pragma omp barrier
        for (int64_t n0 = 0; n0 < N && !failed; n0 += COLUMNS)
            for (int64_t k0 = 0; k0 < K; k0 += sum) {
                int64_t columns = least(COLUMNS, N - n0), terms = least(sum, K - k0), steps = parts_of(terms, TERMS);
                const float *b = B + k0 * bk + n0 * bj;
                /* Where there are few rows, several threads share them, each with columns of its own. */
                int64_t wide = least(parts_of(2 * threads, tall), parts_of(columns, 2 * SIDE));
                int64_t share = parts_of(parts_of(columns, wide), 2 * SIDE) * 2 * SIDE;
#pragma omp for schedule(static)
                for (int64_t u = 0; u < (bk == 1 ? parts_of(columns, SIDE) : steps); u++) {
                    if (bk == 1)
                        pack(b + u * SIDE * bj, bj, bk, least(SIDE, columns - u * SIDE), terms, 1,
                             (bf16 *)packed_B + u * steps * UNIT);
                    else
                        for (int64_t j = 0; j < columns; j += SIDE)
                            pack_unit(b + u * TERMS * bk + j * bj, bj, bk, (int)least(SIDE, columns - j),
                                      (int)least(TERMS, terms - u * TERMS), 1,
                                      (bf16 *)packed_B + (j / SIDE * steps + u) * UNIT);
                }
#pragma omp for schedule(dynamic)
                for (int64_t task = 0; task < tall * wide; task++) {
                    int64_t m0 = task / wide * rows, height = least(rows, M - m0);
                    int64_t j0 = task % wide * share, end = least(j0 + share, columns);
                    if (j0 >= end) continue;
                    pack(A + m0 * ai + k0 * ak, ai, ak, height, terms, 0, packed_A);
                    for (int64_t run = j0; run < end; run += RUN)
                        for (int64_t i = 0; i < height; i += 2 * SIDE)
                            for (int64_t j = run; j < least(end, run + RUN); j += 2 * SIDE) {
                                const bf16 *a = (bf16 *)packed_A + i / SIDE * steps * UNIT;
                                const bf16 *b = (bf16 *)packed_B + j / SIDE * steps * UNIT;
                                float *c = C + (m0 + i) * ldc + n0 + j;
                                product_block((int)least(2 * SIDE, height - i), (int)least(2 * SIDE, end - j), steps, a,
                                              steps * UNIT, b, steps * UNIT, k0 ? c : D ? D + (c - C) : NULL, c, ldc);
                            }
                }
            }
        _tile_release();
        free(packed_A);
    }
    free(packed_B);
    return !failed;
}
#else
int amx_ready(void) { return 0; }
int amx_gemm(int64_t M, int64_t N, int64_t K, const float *A, int64_t ai, int64_t ak, const float *B, int64_t bk,
               int64_t bj, const float *D, float *C, int64_t ldc, int threads)
{
    (void)M, (void)N, (void)K, (void)A, (void)ai, (void)ak, (void)B, (void)bk, (void)bj, (void)D, (void)C;
    return (void)ldc, (void)threads, 0;
}
#endif
