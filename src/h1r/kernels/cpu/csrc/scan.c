/* The state-space dual scan of Mamba-2 (Dao & Gu, arXiv 2405.21060, sections 6 and 7), one task per document and block
 * of heads, chunk after chunk. Per head, with l_t = sum_{u <= t} dt_u A inside a chunk and h the state before it:
 *
 *   y_i = e^{l_i} C_i h + sum_{j <= i} (C_i . B_j) e^{l_i - l_j} dt_j x_j + D x_i
 *   h'  = e^{l_end} h + sum_j e^{l_end - l_j} dt_j B_j x_j^T
 *
 * Chunks begin anew in each document, so that no border lies inside one. The scores C B^T are computed once for the
 * heads of a block, which all belong to one group. A state is [S, P]. dt, y and the gradients are dense; x, B and C
 * and their gradients may be columns of wider matrices. Every sum has one owner and one order: results depend on the number of blocks, not
 * on timing.
 */
#include "vector.h"

typedef struct {
    const float *x, *dt, *A, *B, *C, *D;
    const int64_t *cu_seqlens, *first_chunk; /* [documents + 1] each */
    int64_t ldx, ldb; /* row strides of x, and of B and C */
    int H, G, P, S, Q, blocks; /* blocks of heads in a group */
} scan_input;

typedef struct {
    int S, P, Q, q, Sp, Pp, Qp; /* q rows of Q in this chunk; widths padded to vectors */
    float *B, *Bt, *C, *scores, *decay, *weight, *X, *Y, *l, *from_start, *to_end, *scaled;
} chunk;

static void lay_out(chunk *c, const scan_input *in, arena *a)
{
    c->S = in->S, c->P = in->P, c->Q = in->Q;
    c->Sp = padded(in->S), c->Pp = padded(in->P), c->Qp = padded(in->Q);
    c->B = take(a, c->Q * c->Sp), c->C = take(a, c->Q * c->Sp), c->scaled = take(a, c->Q * c->Sp);
    c->Bt = take(a, c->S * c->Qp);
    c->scores = take(a, c->Q * c->Qp), c->decay = take(a, c->Q * c->Qp), c->weight = take(a, c->Q * c->Qp);
    c->X = take(a, c->Q * c->Pp), c->Y = take(a, c->Q * c->Pp);
    c->l = take(a, c->Qp), c->from_start = take(a, c->Qp), c->to_end = take(a, c->Qp);
}

/* out [q, Qp], its lower triangle, = left [q, K] right [K, Qp] */
static void lower_product(const chunk *c, int K, const float *left, long ldl, const float *right, float *out)
{
    for (int i = 0; i < c->q; i += 12) {
        int rows = c->q - i < 12 ? c->q - i : 12;
        matmul(rows, padded(i + rows), K, left + i * ldl, ldl, 1, right, c->Qp, out + (long)i * c->Qp, c->Qp, 0);
    }
}

/* B, C and the scores of a chunk, for all heads of a block */
static void open_chunk(chunk *c, const scan_input *in, int64_t start, int g)
{
    copy_rows(c->q, c->S, in->B + start * in->ldb + (long)g * c->S, in->ldb, c->B, c->Sp);
    copy_rows(c->q, c->S, in->C + start * in->ldb + (long)g * c->S, in->ldb, c->C, c->Sp);
    transpose(c->q, c->S, c->B, c->Sp, c->Bt, c->Qp);
    lower_product(c, c->S, c->C, c->Sp, c->Bt, c->scores);
}

/* x and the decays of one head; dt [Qp] is the head's, zero past q. decay [i, j] = e^{l_i - l_j} for j <= i, else 0. */
static void open_head(chunk *c, const scan_input *in, int64_t start, int h, float *dt)
{
    float A = in->A[h], l = 0;
    memset(dt, 0, 4 * c->Qp);
    memset(c->l, 0, 4 * c->Qp);
    for (int i = 0; i < c->q; i++) {
        dt[i] = in->dt[(start + i) * in->H + h];
        l += dt[i] * A;
        c->l[i] = l;
    }
    for (int i = 0; i < c->Qp; i += LANES) {
        store(c->from_start + i, vexp(load(c->l + i)));
        store(c->to_end + i, vexp(l - load(c->l + i)));
    }
    copy_rows(c->q, c->P, in->x + start * in->ldx + (long)h * c->P, in->ldx, c->X, c->Pp);
    for (int i = 0; i < c->q; i++) {
        int end = padded(i / 12 * 12 + 12 < c->q ? i / 12 * 12 + 12 : c->q);
        for (int j = 0; j < end; j += LANES) {
            vec decay = vexp(at_most(c->l[i] - load(c->l + j), splat(0)));
            store(c->decay + (long)i * c->Qp + j, choose(LANE + j <= i, decay, splat(0)));
        }
    }
}

/* weight [i, j] = scores decay dt_j */
static void weigh(chunk *c, const float *dt)
{
    for (int i = 0; i < c->q; i++) {
        int end = padded(i / 12 * 12 + 12 < c->q ? i / 12 * 12 + 12 : c->q);
        long row = (long)i * c->Qp;
        for (int j = 0; j < end; j += LANES)
            store(c->weight + row + j, load(c->scores + row + j) * load(c->decay + row + j) * load(dt + j));
    }
}

static void scale_rows(int rows, int width, float *m, const float *by)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < width; j += LANES) store(m + (long)i * width + j, load(m + (long)i * width + j) * by[i]);
}

static void scale_all(long n, float *m, float by)
{
    for (long i = 0; i < n; i += LANES) store(m + i, load(m + i) * by);
}

/* scaled [q, Sp] = m [q, Sp] times (by * and) of each row; `and` may be NULL */
static void scaled_rows(chunk *c, const float *m, const float *by, const float *and)
{
    for (int i = 0; i < c->q; i++) {
        float s = by[i] * (and ? and[i] : 1);
        for (int j = 0; j < c->Sp; j += LANES) store(c->scaled + i * c->Sp + j, load(m + i * c->Sp + j) * s);
    }
}

/* Which document, group and heads a task has */
typedef struct {
    int64_t document;
    int g, block, first, last;
} share;

static share share_of(const scan_input *in, int64_t task)
{
    int per_document = in->G * in->blocks, R = in->H / in->G;
    share s = {.document = task / per_document, .g = task % per_document / in->blocks, .block = task % in->blocks};
    s.first = s.g * R + R * s.block / in->blocks;
    s.last = s.g * R + R * (s.block + 1) / in->blocks;
    return s;
}

static size_t forward_scratch(const scan_input *in, arena *a, chunk *c, float **dt, float **state)
{
    lay_out(c, in, a);
    *dt = take(a, c->Qp);
    *state = take(a, (size_t)in->H * c->S * c->Pp);
    return a->used;
}

/* y [T, H, P]; states [chunks, H, S, padded P], the state before each chunk, or NULL. Returns 0 without memory. */
int scan_forward(const float *x, const float *dt_, const float *A, const float *B, const float *C, const float *D,
                 const int64_t *cu_seqlens, const int64_t *first_chunk, int64_t documents, int64_t ldx, int64_t ldb, int H,
                 int G, int P, int S, int Q, int blocks, float *y, float *states, int threads)
{
    scan_input in = {x, dt_, A, B, C, D, cu_seqlens, first_chunk, ldx, ldb, H, G, P, S, Q, blocks};
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        chunk c;
        float *dt, *state;
        arena a = {0};
        size_t need = forward_scratch(&in, &a, &c, &dt, &state);
        void *memory = NULL;
        if (posix_memalign(&memory, 64, need * 4)) {
#pragma omp atomic write
            failed = 1;
        } else {
            a = (arena){memory, 0};
            forward_scratch(&in, &a, &c, &dt, &state);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < documents * G * blocks; task++) {
            if (failed) continue;
            share s = share_of(&in, task);
            int64_t end = cu_seqlens[s.document + 1], number = first_chunk[s.document];
            long size = (long)S * c.Pp;
            memset(state, 0, 4 * size * (s.last - s.first));
            for (int64_t start = cu_seqlens[s.document]; start < end; start += Q, number++) {
                c.q = end - start < Q ? (int)(end - start) : Q;
                open_chunk(&c, &in, start, s.g);
                for (int h = s.first; h < s.last; h++) {
                    float *hs = state + size * (h - s.first);
                    if (states) memcpy(states + (number * H + h) * size, hs, 4 * size);
                    open_head(&c, &in, start, h, dt);
                    weigh(&c, dt);
                    matmul(c.q, c.Pp, S, c.C, c.Sp, 1, hs, c.Pp, c.Y, c.Pp, 0);
                    scale_rows(c.q, c.Pp, c.Y, c.from_start);
                    matmul_lower(c.q, c.Pp, c.weight, c.Qp, c.X, c.Pp, c.Y, c.Pp, 1);
                    for (int i = 0; i < c.q; i++) {
                        float *to = y + ((start + i) * H + h) * P;
                        for (int p = 0; p < P; p += 16) __builtin_prefetch(to + P + p, 1);
                        for (int p = 0; p < P; p += LANES) {
                            vec v = load(c.Y + i * c.Pp + p) + D[h] * load(c.X + i * c.Pp + p);
                            store_some(to + p, v, P - p);
                        }
                    }
                    scaled_rows(&c, c.B, c.to_end, dt);
                    scale_all(size, hs, c.from_start[c.q - 1]);
                    matmul(S, c.Pp, c.q, c.scaled, 1, c.Sp, c.X, c.Pp, hs, c.Pp, 1);
                }
            }
        }
        free(memory);
    }
    return !failed;
}

typedef struct {
    chunk c;
    float *dt, *grad_state, *dY, *dX, *Xt, *dW, *dscores, *hT, *dhT, *M, *dB, *dC, *dl, *ddt, *column;
} backward_chunk;

static size_t backward_scratch(const scan_input *in, arena *a, backward_chunk *b)
{
    chunk *c = &b->c;
    lay_out(c, in, a);
    b->dt = take(a, c->Qp), b->dl = take(a, c->Qp), b->ddt = take(a, c->Qp), b->column = take(a, c->Qp);
    b->grad_state = take(a, (size_t)in->H * c->S * c->Pp);
    b->dY = take(a, c->Q * c->Pp), b->dX = take(a, c->Q * c->Pp);
    b->Xt = take(a, c->P * c->Qp);
    b->dW = take(a, c->Q * c->Qp), b->dscores = take(a, c->Q * c->Qp);
    b->hT = take(a, c->P * c->Sp), b->dhT = take(a, c->P * c->Sp);
    b->M = take(a, c->Q * c->Sp), b->dB = take(a, c->Q * c->Sp), b->dC = take(a, c->Q * c->Sp);
    return a->used;
}

/* For the rows of a chunk: to_i += by_i M_i, and products_i = M_i . with_i */
static void add_scaled(const chunk *c, float *to, const float *M, const float *with, const float *by, float *products)
{
    for (int i = 0; i < c->q; i++) {
        long row = (long)i * c->Sp;
        for (int j = 0; j < c->Sp; j += LANES) store(to + row + j, load(to + row + j) + load(M + row + j) * by[i]);
        products[i] = dot(M + row, with + row, c->Sp);
    }
}

/* The pairs inside a chunk: gradients of the scores, and of l and dt through weight = scores decay dt. */
static void pairs_backward(backward_chunk *b)
{
    chunk *c = &b->c;
    memset(b->column, 0, 4 * c->Qp);
    for (int i = 0; i < c->q; i++) {
        long row = (long)i * c->Qp;
        vec across = {0};
        for (int j = 0; j < padded(i + 1); j += LANES) {
            vec through = load(b->dW + row + j) * load(c->decay + row + j), dt = load(b->dt + j);
            vec u = through * load(c->scores + row + j);
            across += u * dt;
            store(b->column + j, load(b->column + j) + u);
            store(b->dscores + row + j, load(b->dscores + row + j) + through * dt);
        }
        b->dl[i] += sum(across);
    }
    for (int j = 0; j < c->q; j++) {
        b->ddt[j] += b->column[j];
        b->dl[j] -= b->dt[j] * b->column[j];
    }
}

/* One head of one chunk. `before` is the state before the chunk; `after`, the gradient of the state after it, becomes
 * the gradient of the state before it. */
static void head_backward(backward_chunk *b, const scan_input *in, int64_t start, int h, const float *grad,
                          const float *before, float *after, float *grad_x, int64_t lddx, float *grad_dt, float *grad_A,
                          float *grad_D)
{
    chunk *c = &b->c;
    int q = c->q, P = c->P, S = c->S, H = in->H;
    long size = (long)S * c->Pp;
    float D = in->D[h], A = in->A[h];
    open_head(c, in, start, h, b->dt);
    weigh(c, b->dt);
    copy_rows(q, P, grad + (start * H + h) * P, (long)H * P, b->dY, c->Pp);
    transpose(q, P, c->X, c->Pp, b->Xt, c->Qp);
    transpose(S, P, before, c->Pp, b->hT, c->Sp);
    transpose(S, P, after, c->Pp, b->dhT, c->Sp);
    memset(b->dl, 0, 4 * c->Qp);
    memset(b->ddt, 0, 4 * c->Qp);

    scaled_rows(c, c->B, c->to_end, b->dt);
    matmul(q, c->Pp, S, c->scaled, c->Sp, 1, after, c->Pp, b->dX, c->Pp, 0);
    matmul_lower_transposed(q, c->Pp, c->weight, c->Qp, b->dY, c->Pp, b->dX, c->Pp, 1);
    for (int i = 0; i < q; i++) {
        float *to = grad_x + (start + i) * lddx + (long)h * P;
        for (int p = 0; p < P; p += 16) __builtin_prefetch(to + P + p, 1);
        for (int p = 0; p < P; p += LANES)
            store_some(to + p, load(b->dX + i * c->Pp + p) + D * load(b->dY + i * c->Pp + p), P - p);
    }
    *grad_D += dot(b->dY, c->X, (long)q * c->Pp);

    lower_product(c, P, b->dY, c->Pp, b->Xt, b->dW);
    pairs_backward(b);

    float survive = c->from_start[q - 1];
    matmul(q, c->Sp, P, b->dY, c->Pp, 1, b->hT, c->Sp, b->M, c->Sp, 0);
    add_scaled(c, b->dC, b->M, c->C, c->from_start, b->column);
    for (int i = 0; i < q; i++) b->dl[i] += c->from_start[i] * b->column[i];

    matmul(q, c->Sp, P, c->X, c->Pp, 1, b->dhT, c->Sp, b->M, c->Sp, 0);
    for (int j = 0; j < q; j++) c->l[j] = c->to_end[j] * b->dt[j]; /* l itself is no longer needed */
    add_scaled(c, b->dB, b->M, c->B, c->l, b->column);
    for (int j = 0; j < q; j++) {
        b->ddt[j] += c->to_end[j] * b->column[j];
        b->dl[j] -= c->l[j] * b->column[j];
        b->dl[q - 1] += c->l[j] * b->column[j];
    }
    b->dl[q - 1] += survive * dot(after, before, size);

    scaled_rows(c, c->C, c->from_start, NULL);
    scale_all(size, after, survive);
    matmul(S, c->Pp, q, c->scaled, 1, c->Sp, b->dY, c->Pp, after, c->Pp, 1);

    float total = 0;
    for (int i = q - 1; i >= 0; i--) {
        total += b->dl[i];
        *grad_A += b->dt[i] * total;
        grad_dt[(start + i) * H + h] = b->ddt[i] + A * total;
    }
}

/* grad_x [T, H, P] with row stride lddx, grad_dt [T, H]; grad_B and grad_C [blocks, T, G, S] with row stride lddb, and
 * grad_A and grad_D [documents, H] are partial sums, the latter two zero on entry. Returns 0 without memory. */
int scan_backward(const float *x, const float *dt_, const float *A, const float *B, const float *C, const float *D,
                  const int64_t *cu_seqlens, const int64_t *first_chunk, int64_t documents, int64_t ldx, int64_t ldb, int H,
                  int G, int P, int S, int Q, int blocks, const float *grad, const float *states, float *grad_x, int64_t lddx,
                  float *grad_dt, float *grad_A, float *grad_B, float *grad_C, int64_t lddb, float *grad_D, int threads)
{
    scan_input in = {x, dt_, A, B, C, D, cu_seqlens, first_chunk, ldx, ldb, H, G, P, S, Q, blocks};
    int64_t T = cu_seqlens[documents];
    int failed = 0;
#pragma omp parallel num_threads(threads)
    {
        backward_chunk b;
        arena a = {0};
        size_t need = backward_scratch(&in, &a, &b);
        void *memory = NULL;
        if (posix_memalign(&memory, 64, need * 4)) {
#pragma omp atomic write
            failed = 1;
        } else {
            a = (arena){memory, 0};
            backward_scratch(&in, &a, &b);
        }
#pragma omp barrier
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < documents * G * blocks; task++) {
            if (failed) continue;
            share s = share_of(&in, task);
            chunk *c = &b.c;
            int64_t begin = cu_seqlens[s.document], chunks = first_chunk[s.document + 1] - first_chunk[s.document];
            long size = (long)S * c->Pp;
            memset(b.grad_state, 0, 4 * size * (s.last - s.first));
            for (int64_t k = chunks - 1; k >= 0; k--) {
                int64_t start = begin + k * Q, left = cu_seqlens[s.document + 1] - start;
                c->q = left < Q ? (int)left : Q;
                open_chunk(c, &in, start, s.g);
                memset(b.dB, 0, 4 * (size_t)c->q * c->Sp);
                memset(b.dC, 0, 4 * (size_t)c->q * c->Sp);
                memset(b.dscores, 0, 4 * (size_t)c->Q * c->Qp);
                for (int h = s.first; h < s.last; h++)
                    head_backward(&b, &in, start, h, grad, states + ((first_chunk[s.document] + k) * H + h) * size,
                                  b.grad_state + size * (h - s.first), grad_x, lddx, grad_dt, grad_A + s.document * H + h,
                                  grad_D + s.document * H + h);
                matmul_lower(c->q, c->Sp, b.dscores, c->Qp, c->B, c->Sp, b.dC, c->Sp, 1);
                matmul_lower_transposed(c->q, c->Sp, b.dscores, c->Qp, c->C, c->Sp, b.dB, c->Sp, 1);
                for (int i = 0; i < c->q; i++) {
                    int64_t at = ((int64_t)s.block * T + start + i) * lddb + (long)s.g * S;
                    memcpy(grad_B + at, b.dB + (long)i * c->Sp, 4 * S);
                    memcpy(grad_C + at, b.dC + (long)i * c->Sp, 4 * S);
                }
            }
        }
        free(memory);
    }
    return !failed;
}

/* One token of each of `rows` sequences; state [rows, H, P, S] is updated in place. B and C have row stride ldb. */
void scan_step(float *state, const float *x, int64_t ldx, const float *dt, const float *A, const float *B, const float *C,
               int64_t ldb, const float *D, float *y, int64_t rows, int H, int G, int P, int S, int threads)
{
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
    for (int64_t row = 0; row < rows; row++)
        for (int h = 0; h < H; h++) {
            int g = h / (H / G), whole = S / LANES * LANES;
            const float *b = B + row * ldb + (long)g * S, *c = C + row * ldb + (long)g * S;
            float step = dt[row * H + h], decay = expf(step * A[h]);
            for (int p = 0; p < P; p++) {
                float *s = state + ((row * H + h) * P + p) * S, value = x[row * ldx + (long)h * P + p], rest = 0;
                vec total = {0};
                for (int i = 0; i < whole; i += LANES) {
                    vec v = load(s + i) * decay + load(b + i) * (step * value);
                    store(s + i, v);
                    total += v * load(c + i);
                }
                for (int i = whole; i < S; i++) {
                    s[i] = s[i] * decay + b[i] * (step * value);
                    rest += s[i] * c[i];
                }
                y[(row * H + h) * P + p] = sum(total) + rest + D[h] * value;
            }
        }
}
