/* SiLU of the causal depthwise convolution over documents laid end to end.
 *
 *   pre_t = bias + sum_{k < K, k <= position_t} w_k x_{t-k},   out_t = SiLU(pre_t)
 *
 * `taps` is [K, N] with the newest token's tap first; x and its gradient have row strides ldx and lddx, all other arrays
 * are dense [T, N]. */
#include "vector.h"

INLINE vec before_silu(const float *x, int64_t ldx, const float *taps, const float *bias, int reach, int N, int n)
{
    vec total = bias ? load(bias + n) : (vec){0};
    for (int k = 0; k < reach; k++) total += load(taps + (long)k * N + n) * load(x - k * ldx + n);
    return total;
}

/* Channels past the last whole vector, one at a time */
INLINE float before_silu_at(const float *x, int64_t ldx, const float *taps, const float *bias, int reach, int N, int n)
{
    float total = bias ? bias[n] : 0;
    for (int k = 0; k < reach; k++) total += taps[(long)k * N + n] * x[n - k * ldx];
    return total;
}

INLINE int least(int64_t a, int b) { return a < b ? (int)a : b; }

void conv_forward(const float *x, int64_t ldx, const float *taps, const float *bias, const int64_t *position, float *out,
                  int64_t T, int N, int K, int threads)
{
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t t = 0; t < T; t++) {
        int reach = least(position[t] + 1, K), n = 0;
        const float *row = x + t * ldx;
        for (; n + LANES <= N; n += LANES) {
            vec pre = reach == 4 ? before_silu(row, ldx, taps, bias, 4, N, n)
                                 : before_silu(row, ldx, taps, bias, reach, N, n);
            store(out + t * N + n, pre * sigmoid(pre));
        }
        for (; n < N; n++) {
            float pre = before_silu_at(row, ldx, taps, bias, reach, N, n);
            out[t * N + n] = pre / (1 + expf(-pre));
        }
    }
}

/* grad_pre [T, N] is scratch; partial [threads, K + 1, N], zero on entry, gets the taps' gradients and the bias's. */
void conv_backward(const float *x, int64_t ldx, const float *taps, const float *bias, const int64_t *position,
                   const int64_t *remaining, const float *grad, float *grad_pre, float *grad_x, int64_t lddx, float *partial,
                   int64_t T, int N, int K, int threads)
{
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int run = 0; run < threads; run++) {
            float *sums = partial + (long)run * (K + 1) * N;
            for (int64_t t = T * run / threads; t < T * (run + 1) / threads; t++) {
                int reach = least(position[t] + 1, K), n = 0;
                const float *row = x + t * ldx;
                for (; n + LANES <= N; n += LANES) {
                    vec pre = reach == 4 ? before_silu(row, ldx, taps, bias, 4, N, n)
                                         : before_silu(row, ldx, taps, bias, reach, N, n);
                    vec s = sigmoid(pre), d = load(grad + t * N + n) * s * (1.0f + pre * (1.0f - s));
                    store(grad_pre + t * N + n, d);
                    for (int k = 0; k < reach; k++) {
                        float *to = sums + (long)k * N + n;
                        store(to, load(to) + d * load(row - k * ldx + n));
                    }
                    store(sums + (long)K * N + n, load(sums + (long)K * N + n) + d);
                }
                for (; n < N; n++) {
                    float pre = before_silu_at(row, ldx, taps, bias, reach, N, n), s = 1 / (1 + expf(-pre));
                    float d = grad[t * N + n] * s * (1 + pre * (1 - s));
                    grad_pre[t * N + n] = d;
                    for (int k = 0; k < reach; k++) sums[(long)k * N + n] += d * row[n - k * ldx];
                    sums[(long)K * N + n] += d;
                }
            }
        }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < T; t++) {
            int reach = least(remaining[t] + 1, K), n = 0;
            const float *row = grad_pre + t * N;
            for (; n + LANES <= N; n += LANES) {
                vec total = {0};
                for (int k = 0; k < reach; k++) total += load(taps + (long)k * N + n) * load(row + (long)k * N + n);
                store(grad_x + t * lddx + n, total);
            }
            for (; n < N; n++) {
                float total = 0;
                for (int k = 0; k < reach; k++) total += taps[(long)k * N + n] * row[(long)k * N + n];
                grad_x[t * lddx + n] = total;
            }
        }
    }
}
