/* Calls the operators on inputs that every machine makes alike, and prints what they return, a line for each. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

void swiglu_forward(const float *, const float *, int64_t, float *, int64_t, int, int);
void rms_norm_forward(const float *, const float *, float *, int64_t, int, float, int);
void gate_forward(const float *, const float *, int64_t, const float *, float *, int64_t, int64_t, int, int, float, int,
                  int);
void rotate(const float *, int64_t, const float *, const float *, float *, int64_t, int64_t, int, int, float, int);
void logprobs_forward(const float *, const int64_t *, float *, float *, int64_t, int, int);
void conv_forward(const float *, int64_t, const float *, const float *, const int64_t *, float *, int64_t, int, int, int);
int attention_forward(const float *, const float *, const float *, const int64_t *, const int64_t *, int64_t, int64_t,
                      int, int, int, int, float *, float *, int);
int attention_backward(const float *, const float *, const float *, const int64_t *, const int64_t *, int64_t, int64_t,
                       int, int, int, int, const float *, const float *, const float *, float *, float *, float *, int);
int scan_forward(const float *, const float *, const float *, const float *, const float *, const float *,
                 const int64_t *, const int64_t *, int64_t, int64_t, int64_t, int, int, int, int, int, int, float *,
                 float *, int);
void scan_step(float *, const float *, int64_t, const float *, const float *, const float *, const float *, int64_t,
               const float *, float *, int64_t, int, int, int, int, int);

/* Two documents, of 13 and 24 tokens; odd widths, so that vectors are cut short. */
enum { T = 37, FIRST = 13, D = 21, H = 4, J = 2, E = 12, P = 6, S = 10, G = 2, N = 19, K = 4, Q = 8, V = 53, THREADS = 2 };

static uint32_t seed = 1;
static float number(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / (1 << 24) * 2 - 1;
}
static float *numbers(int n, float shift)
{
    float *x = malloc(n * sizeof *x); /* no slack: a sanitizer sees every step beyond an array */
    for (int i = 0; i < n; i++) x[i] = number() + shift;
    return x;
}
static void show(const char *name, float *x, int n)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++) sum += x[i] * (i % 7 + 1), squares += (double)x[i] * x[i];
    printf("%s %.9g %.9g %.9g %.9g\n", name, sum, squares, x[0], x[n - 1]);
    free(x);
}

int main(void)
{
    int64_t *borders = malloc(3 * sizeof *borders), *positions = malloc(T * sizeof *positions);
    borders[0] = 0, borders[1] = FIRST, borders[2] = T;
    for (int t = 0; t < T; t++) positions[t] = t < FIRST ? t : t - FIRST;

    float *a = numbers(T * D, 0), *b = numbers(T * D, 0), *weight = numbers(D, 1), *out = numbers(T * D, 0);
    swiglu_forward(a, b, D, out, T, D, THREADS);
    show("swiglu", out, T * D);
    out = numbers(T * D, 0);
    rms_norm_forward(a, weight, out, T, D, 1e-5f, THREADS);
    show("rms_norm", out, T * D);
    for (int norm = 0; norm < 3; norm++) {
        out = numbers(T * D, 0);
        gate_forward(a, b, D, norm ? weight : NULL, out, D, T, 3, D / 3, 1e-5f, norm, THREADS);
        show("gate", out, T * D);
    }

    float *cosine = numbers(T * E / 2, 0), *sine = numbers(T * E / 2, 0), *q = numbers(T * H * E, 0);
    out = numbers(T * H * E, 0);
    rotate(q, H * E, cosine, sine, out, H * E, T, H, E / 2, 1.0f, THREADS);
    show("rotate", out, T * H * E);

    float *logits = numbers(T * V, 0), *logprob = numbers(T, 0), *lse = numbers(T, 0);
    int64_t *target = malloc(T * sizeof *target);
    for (int t = 0; t < T; t++) target[t] = t * 5 % V;
    logprobs_forward(logits, target, logprob, lse, T, V, THREADS);
    show("logprobs", logprob, T);
    show("lse", lse, T);

    float *x = numbers(T * N, 0), *taps = numbers(K * N, 0), *bias = numbers(N, 0);
    out = numbers(T * N, 0);
    conv_forward(x, N, taps, bias, positions, out, T, N, K, THREADS);
    show("conv", out, T * N);

    float *k = numbers(T * J * E, 0), *v = numbers(T * J * E, 0), *grad = numbers(T * H * E, 0);
    float *attended = numbers(T * H * E, 0), *scores = numbers(T * H, 0);
    int64_t *strides = malloc(6 * sizeof *strides); /* q, k and v, out; and of the gradients of out, q, k and v */
    for (int i = 0; i < 6; i++) strides[i] = (i == 1 || i == 5 ? J : H) * E;
    if (!attention_forward(q, k, v, borders, strides, 2, T - FIRST, H, J, E, 1, attended, scores, THREADS)) return 1;
    float *grad_q = calloc(T * H * E, 4), *grad_k = calloc(T * J * E, 4), *grad_v = calloc(T * J * E, 4);
    if (!attention_backward(q, k, v, borders, strides, 2, T - FIRST, H, J, E, 1, attended, scores, grad, grad_q, grad_k,
                            grad_v, THREADS))
        return 1;
    show("attention", attended, T * H * E);
    show("attention lse", scores, T * H);
    show("attention d_q", grad_q, T * H * E);
    show("attention d_k", grad_k, T * J * E);
    show("attention d_v", grad_v, T * J * E);

    float *u = numbers(T * H * P, 0), *dt = numbers(T * H, 1.5f), *A = numbers(H, -2), *skip = numbers(H, 0);
    float *B = numbers(T * G * S, 0), *C = numbers(T * G * S, 0);
    int64_t *chunks = malloc(3 * sizeof *chunks);
    chunks[0] = 0, chunks[1] = (FIRST + Q - 1) / Q, chunks[2] = chunks[1] + (T - FIRST + Q - 1) / Q;
    out = numbers(T * H * P, 0);
    if (!scan_forward(u, dt, A, B, C, skip, borders, chunks, 2, H * P, G * S, H, G, P, S, Q, 1, out, NULL, THREADS))
        return 1;
    show("scan", out, T * H * P);
    float *state = numbers(2 * H * P * S, 0);
    out = numbers(2 * H * P, 0);
    scan_step(state, u, H * P, dt, A, B, C, G * S, skip, out, 2, H, G, P, S, THREADS);
    show("step", out, 2 * H * P);
    show("state", state, 2 * H * P * S);

    void *rest[] = {a, b, weight, cosine, sine, q, logits, target, x, taps, bias, k, v, grad, strides, u, dt, A, skip, B, C,
                    chunks, borders, positions};
    for (unsigned i = 0; i < sizeof rest / sizeof *rest; i++) free(rest[i]);
    return 0;
}
