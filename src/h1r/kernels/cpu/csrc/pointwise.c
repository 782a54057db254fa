/* Gates, norms, rotary positions and log-probabilities: each pass reads its inputs once. */
#include "vector.h"

/* The rows of a call are cut into `threads` equal runs; sums over rows go to one row of `partial` per run. */
#define RUNS(rows)                                                    \
    _Pragma("omp parallel for schedule(static) num_threads(threads)") \
    for (int run = 0; run < threads; run++)                           \
        for (int64_t row = (rows) * run / threads, last = (rows) * (run + 1) / threads; row < last; row++)

/* Over a row's columns in vectors, the last of which may be cut short */
#define COLUMNS(width) for (int at = 0, left; (left = (width) - at) > 0; at += LANES)
#define GET(p) load_some((p) + at, left)
#define PUT(p, v) store_some((p) + at, v, left)

/* gate and up have row stride ld, out is dense */
void swiglu_forward(const float *gate, const float *up, int64_t ld, float *out, int64_t rows, int width, int threads)
{
    RUNS(rows)
    {
        const float *g = gate + row * ld, *u = up + row * ld;
        float *o = out + row * width;
        COLUMNS(width) PUT(o, GET(u) * GET(g) * sigmoid(GET(g)));
    }
}

/* The gradients have the row stride of gate and up */
void swiglu_backward(const float *gate, const float *up, int64_t ld, const float *grad, float *grad_gate, float *grad_up,
                     int64_t rows, int width, int threads)
{
    RUNS(rows)
    {
        const float *g = gate + row * ld, *u = up + row * ld, *d = grad + row * width;
        float *dg = grad_gate + row * ld, *du = grad_up + row * ld;
        COLUMNS(width)
        {
            vec x = GET(g), s = sigmoid(x), dv = GET(d);
            PUT(du, dv * x * s);
            PUT(dg, dv * GET(u) * s * (1.0f + x * (1.0f - s)));
        }
    }
}

void rms_norm_forward(const float *x, const float *weight, float *out, int64_t rows, int width, float eps, int threads)
{
    RUNS(rows)
    {
        const float *xr = x + row * width;
        float *o = out + row * width;
        vec squares = {0};
        COLUMNS(width) squares += GET(xr) * GET(xr);
        float scale = 1.0f / sqrtf(sum(squares) / width + eps);
        COLUMNS(width) PUT(o, GET(xr) * scale * GET(weight));
    }
}

/* grad_x is added to `beside`, the gradient that goes around the norm, unless that is NULL; partial [threads, width],
 * zero on entry */
void rms_norm_backward(const float *x, const float *weight, const float *grad, const float *beside, float *grad_x,
                       float *partial, int64_t rows, int width, float eps, int threads)
{
    RUNS(rows)
    {
        const float *xr = x + row * width, *d = grad + row * width, *other = beside ? beside + row * width : NULL;
        float *dx = grad_x + row * width, *dw = partial + (long)run * width;
        vec squares = {0}, along = {0};
        COLUMNS(width)
        {
            vec xv = GET(xr);
            squares += xv * xv;
            along += GET(d) * GET(weight) * xv;
        }
        float scale = 1.0f / sqrtf(sum(squares) / width + eps);
        float back = sum(along) * scale * scale * scale / width;
        COLUMNS(width)
        {
            vec xv = GET(xr), dv = GET(d), inner = dv * GET(weight) * scale - xv * back;
            if (other) inner += GET(other);
            PUT(dx, inner);
            PUT(dw, GET(dw) + dv * xv * scale);
        }
    }
}

/* out = y SiLU(z), with a grouped RMSNorm after the product (norm = 1), before it (norm = 2), or none (norm = 0).
 * y is dense [rows, groups * width]; z and out have row strides ldz and ldo. */
void gate_forward(const float *y, const float *z, int64_t ldz, const float *weight, float *out, int64_t ldo, int64_t rows,
                  int groups, int width, float eps, int norm, int threads)
{
    RUNS(rows)
    {
        for (int g = 0; g < groups; g++) {
            const float *yr = y + (row * groups + g) * width, *zr = z + row * ldz + (long)g * width;
            const float *w = norm ? weight + (long)g * width : NULL;
            float *o = out + row * ldo + (long)g * width;
            float scale = 1;
            if (norm) {
                vec squares = {0};
                COLUMNS(width)
                {
                    vec v = GET(yr);
                    if (norm == 1) {
                        vec zv = GET(zr);
                        v *= zv * sigmoid(zv);
                    }
                    squares += v * v;
                }
                scale = 1.0f / sqrtf(sum(squares) / width + eps);
            }
            COLUMNS(width)
            {
                vec zv = GET(zr), v = GET(yr) * zv * sigmoid(zv) * scale;
                if (norm) v *= GET(w);
                PUT(o, v);
            }
        }
    }
}

/* grad and grad_z have row strides ldg and lddz; partial [threads, groups * width], zero on entry, is unused without a
 * norm */
void gate_backward(const float *y, const float *z, int64_t ldz, const float *weight, const float *grad, int64_t ldg,
                   float *grad_y, float *grad_z, int64_t lddz, float *partial, int64_t rows, int groups, int width, float eps,
                   int norm, int threads)
{
    RUNS(rows)
    {
        for (int g = 0; g < groups; g++) {
            long at_group = (row * groups + g) * width;
            const float *yr = y + at_group, *zr = z + row * ldz + (long)g * width, *d = grad + row * ldg + (long)g * width;
            const float *w = norm ? weight + (long)g * width : NULL;
            float *dy = grad_y + at_group, *dz = grad_z + row * lddz + (long)g * width;
            float *dw = norm ? partial + ((long)run * groups + g) * width : NULL;
            float scale = 1, back = 0;
            if (norm) { /* of the vector v that is normalised: sum v^2, and sum v times its incoming gradient */
                vec squares = {0}, along = {0};
                COLUMNS(width)
                {
                    vec zv = GET(zr), opened = zv * sigmoid(zv), v = GET(yr), dv = GET(d) * GET(w);
                    if (norm == 1)
                        v *= opened;
                    else
                        dv *= opened;
                    squares += v * v;
                    along += v * dv;
                }
                scale = 1.0f / sqrtf(sum(squares) / width + eps);
                back = sum(along) * scale * scale * scale / width;
            }
            COLUMNS(width)
            {
                vec zv = GET(zr), s = sigmoid(zv), opened = zv * s, slope = s * (1.0f + zv * (1.0f - s));
                vec yv = GET(yr), dv = GET(d);
                if (norm == 0) {
                    PUT(dy, dv * opened);
                    PUT(dz, dv * yv * slope);
                } else if (norm == 1) {
                    vec v = yv * opened, inner = dv * GET(w) * scale - v * back;
                    PUT(dy, inner * opened);
                    PUT(dz, inner * yv * slope);
                    PUT(dw, GET(dw) + dv * v * scale);
                } else {
                    PUT(dy, dv * opened * GET(w) * scale - yv * back);
                    PUT(dz, dv * yv * scale * GET(w) * slope);
                    PUT(dw, GET(dw) + dv * opened * yv * scale);
                }
            }
        }
    }
}

/* Rotary positions by halves: x and out [rows, heads, 2 half] with row strides ldx and ldo, and may be the same; cos and
 * sin [rows, half]; sign -1 turns back. */
void rotate(const float *x, int64_t ldx, const float *cosine, const float *sine, float *out, int64_t ldo, int64_t rows,
            int heads, int half, float sign, int threads)
{
    RUNS(rows)
    {
        const float *c = cosine + row * half, *s = sine + row * half;
        for (int h = 0; h < heads; h++) {
            const float *first = x + row * ldx + 2L * h * half, *second = first + half;
            float *o = out + row * ldo + 2L * h * half, *p = o + half;
            COLUMNS(half)
            {
                vec a = GET(first), b = GET(second), cv = GET(c), sv = GET(s) * sign;
                PUT(o, a * cv - b * sv);
                PUT(p, b * cv + a * sv);
            }
        }
    }
}

/* logprob[t] = logits[t, target[t]] - lse[t] */
void logprobs_forward(const float *logits, const int64_t *target, float *logprob, float *lse, int64_t rows, int width,
                      int threads)
{
    RUNS(rows)
    {
        const float *x = logits + row * width;
        vec top = splat(-INFINITY), total = {0};
        float rest = 0;
        int whole = width / LANES * LANES;
        for (int at = 0; at < whole; at += LANES) top = at_least(top, load(x + at));
        float most = largest(top);
        for (int at = whole; at < width; at++) most = x[at] > most ? x[at] : most;
        for (int at = 0; at < whole; at += LANES) total += vexp(load(x + at) - most);
        for (int at = whole; at < width; at++) rest += expf(x[at] - most);
        lse[row] = most + logf(sum(total) + rest);
        logprob[row] = x[target[row]] - lse[row];
    }
}

void logprobs_backward(const float *logits, const int64_t *target, const float *lse, const float *grad, float *grad_logits,
                       int64_t rows, int width, int threads)
{
    RUNS(rows)
    {
        const float *x = logits + row * width;
        float *d = grad_logits + row * width;
        COLUMNS(width) PUT(d, vexp(GET(x) - lse[row]) * -grad[row]);
        d[target[row]] += grad[row];
    }
}
