/* The parts of a layer that look along the sequence, apart from attention: convolution and state-space recurrence.
 *
 * h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,  y_t = h_t C_t + D x_t, one token after another: with few tokens per row the
 * state is read and written once, and a chunked form would only add work.
 */
#include "decode.h"

/* a [n] rotated by half its width into `to`, times `scale`: halves (a, b) -> (a cos - b sin, b cos + a sin). */
static void rotate_into(const float *a, const float *cos, const float *sin, int64_t n, float scale, float *to)
{
    for (int64_t i = 0; i < n / 2; i++) {
        float x = a[i], y = a[i + n / 2];
        to[i] = (x * cos[i] - y * sin[i]) * scale;
        to[i + n / 2] = (y * cos[i] + x * sin[i]) * scale;
    }
}

static void convolve(const call *c, int64_t l, int64_t token, int64_t first)
{
    const model *m = c->m;
    const layer *w = m->layer + l;
    int64_t N = conv_width(m), taps = m->taps, ld = c->s.ld_projected;
    const float *tail = c->c->conv[l] + c->s.row[token] * (taps - 1) * N, *now = c->s.projected + ssm_width(m);
    float *to = c->s.conv + token * c->s.ld_conv;
    for (int64_t i = 0; i < N; i += LANES) {
        int some = N - i < LANES ? (int)(N - i) : LANES;
        vec total = w->conv_bias ? load_some(w->conv_bias + i, some) : (vec){0};
        for (int64_t j = 0; j < taps; j++) {
            int64_t at = token - (taps - 1) + j;
            const float *from = at >= first ? now + at * ld : tail + (at - first + taps - 1) * N;
            total += load_some(w->conv_weight + j * N + i, some) * load_some(from + i, some);
        }
        store_some(to + i, total * sigmoid(total), some);
    }
}

void prepare_token(const call *c, int64_t l, int64_t token, int64_t first)
{
    const model *m = c->m;
    const layer *w = m->layer + l;
    int64_t E = m->head_dim, J = m->kv_heads, position = c->s.position[token];
    convolve(c, l, token, first);
    float *dt = c->s.projected + token * c->s.ld_projected + ssm_width(m) + conv_width(m), *q = dt + m->ssm_heads;
    for (int64_t h = 0; h < m->ssm_heads; h++) {
        float v = dt[h] + w->dt_bias[h];
        v = v > 20.0f ? v : log1pf(expf(v));
        dt[h] = v < m->dt_low ? m->dt_low : v > m->dt_high ? m->dt_high : v;
    }
    const float *cos = c->c->cos + position * (E / 2), *sin = c->c->sin + position * (E / 2);
    float scale = 1.0f / sqrtf((float)E), rotated[E];
    for (int64_t h = 0; h < m->heads; h++) {
        rotate_into(q + h * E, cos, sin, E, scale, rotated);
        memcpy(q + h * E, rotated, 4 * E);
    }
    const float *k = q + m->heads * E, *v = k + J * E;
    for (int64_t h = 0; h < J; h++) {
        int64_t at = ((c->s.row[token] * J + h) * c->c->max_length + position) * E;
        rotate_into(k + h * E, cos, sin, E, 1.0f, c->c->keys[l] + at);
        memcpy(c->c->values[l] + at, v + h * E, 4 * E);
    }
}

void move_conv_tail(const call *c, int64_t l, int64_t first, int64_t count)
{
    int64_t N = conv_width(c->m), kept = c->m->taps - 1;
    float *tail = c->c->conv[l] + c->s.row[first] * kept * N;
    const float *now = c->s.projected + ssm_width(c->m);
    for (int64_t i = 0; i < kept; i++) {
        int64_t at = count - kept + i; /* of the new tokens; before them: of the old tail */
        const float *from = at >= 0 ? now + (first + at) * c->s.ld_projected : tail + (kept + at) * N;
        memcpy(tail + i * N, from, 4 * N);
    }
}

/* One token through `rows` <= LANES rows of one head's state: `whole` vectors and `rest` floats wide. */
INLINE void step_rows(float *state, int rows, int whole, int rest, float decay, const float *B, const float *C,
                      const float *x, float dt, float skip, float *y)
{
    int S = whole * LANES + rest;
    vec sums[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        sums[i] = (vec){0};
        if (i >= rows) continue;
        float *s = state + i * S, in = dt * x[i];
        for (int j = 0; j < whole * LANES; j += LANES) {
            vec v = load(s + j) * decay + load(B + j) * in;
            store(s + j, v);
            sums[i] += v * load(C + j);
        }
        if (rest) {
            int j = whole * LANES;
            vec v = load_some(s + j, rest) * decay + load_some(B + j, rest) * in;
            store_some(s + j, v, rest);
            sums[i] += v * load_some(C + j, rest);
        }
    }
    store_some(y, row_sums(sums) + load_some(x, rows) * skip, rows);
}

void ssm_tokens(const call *c, int64_t l, int64_t first, int64_t count, int64_t h0, int64_t h1)
{
    const model *m = c->m;
    const layer *w = m->layer + l;
    int64_t P = m->ssm_head_dim, S = m->d_state, W = ssm_width(m), per_group = m->ssm_heads / m->groups;
    int whole = (int)(S / LANES), rest = (int)(S % LANES);
    float *states = c->c->ssm[l] + c->s.row[first] * W * S;
    for (int64_t h = h0; h < h1; h++) {
        int64_t g = h / per_group;
        for (int64_t p = 0; p < P; p += LANES) {
            int rows = P - p < LANES ? (int)(P - p) : LANES;
            float *state = states + (h * P + p) * S;
            for (int64_t t = first; t < first + count; t++) {
                const float *act = c->s.conv + t * c->s.ld_conv, *B = act + W + g * S, *C = B + m->groups * S;
                float dt = c->s.projected[t * c->s.ld_projected + W + conv_width(m) + h], decay = expf(dt * w->A[h]);
                float *y = c->s.mixed + t * c->s.ld_mixed + h * P + p;
                const float *x = act + h * P + p;
                if (rows == LANES && rest == 0 && whole == 2)
                    step_rows(state, LANES, 2, 0, decay, B, C, x, dt, w->skip[h], y);
                else if (rows == LANES && rest == 0)
                    step_rows(state, LANES, whole, 0, decay, B, C, x, dt, w->skip[h], y);
                else
                    step_rows(state, rows, whole, rest, decay, B, C, x, dt, w->skip[h], y);
            }
        }
    }
}

void gate_token(const call *c, int64_t l, int64_t token)
{
    const model *m = c->m;
    const float *weight = m->layer[l].gate_norm, *z = c->s.projected + token * c->s.ld_projected;
    float *y = c->s.mixed + token * c->s.ld_mixed;
    int64_t W = ssm_width(m), width = weight ? W / m->groups : W;
    for (int64_t start = 0; start < W; start += width) {
        float squares = 0;
        for (int64_t i = start; i < start + width; i += LANES) {
            int some = start + width - i < LANES ? (int)(start + width - i) : LANES;
            vec v = load_some(y + i, some);
            if (!weight || !m->norm_before_gate) {
                vec gate = load_some(z + i, some);
                v *= gate * sigmoid(gate);
                store_some(y + i, v, some);
            }
            squares += sum(v * v);
        }
        if (!weight) continue;
        float factor = 1.0f / sqrtf(squares / width + m->eps);
        for (int64_t i = start; i < start + width; i += LANES) {
            int some = start + width - i < LANES ? (int)(start + width - i) : LANES;
            vec v = load_some(y + i, some) * factor * load_some(weight + i, some);
            if (m->norm_before_gate) {
                vec gate = load_some(z + i, some);
                v *= gate * sigmoid(gate);
            }
            store_some(y + i, v, some);
        }
    }
}
