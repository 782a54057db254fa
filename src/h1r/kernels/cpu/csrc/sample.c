/* One token for each of many rows of logits: log-probabilities, token confidence, filters, the draw, and what ends a
 * trace. The definitions are `h1r.engine.sampling`'s; nothing is sorted but the few candidates of a nucleus.
 *
 * Rows are independent of one another, and sums are taken in double.
 */
#include "vector.h"

/* glibc 2.29 brought a second `log`, which sets no errno. With the first, libraries compiled anywhere run on 2.28. */
#if defined(__GLIBC__) && defined(__x86_64__)
__asm__(".symver log, log@GLIBC_2.2.5");
#elif defined(__GLIBC__) && defined(__aarch64__)
__asm__(".symver log, log@GLIBC_2.17");
#endif

/* Rows of all arrays are slots; `new` columns hold what each trace has said. Mirrored by `h1r.kernels.cpu.structs`, for `engine/native/slots.py`. */
typedef struct {
    float *logits;         /* [slots, V] */
    const uint8_t *ends;   /* [slots, V]: tokens that end the trace */
    int64_t *tokens;       /* [slots, new] */
    float *logprobs, *sampling_logprobs, *confidences;
    int64_t *count, *max_tokens, *window, *key, *top_k, *last;             /* [slots] each */
    double *temperature, *top_p, *min_p, *threshold, *group_sum;           /* [slots] each */
    int64_t vocab, new_tokens, confidence_top_k;
    uint8_t *reason; /* [slots]: 0 goes on */
    float *scratch;  /* [threads, 2, V up to whole blocks] */
} sampler;

const int64_t sizeof_sampler = sizeof(sampler);

#define BLOCK 64

enum { RUNS, STOPPED, DOUBTFUL, FULL, BROKEN };

static double uniform(int64_t key, int64_t position)
{
    uint64_t z = (uint64_t)key + (uint64_t)(position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)((z >> 11) + 1) * 0x1p-53;
}

/* The first place of the largest number. */
static int64_t highest(const float *x, int64_t n)
{
    vec best = splat(x[0]);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) best = choose(load(x + i) > best, load(x + i), best);
    float top = largest(best);
    for (; i < n; i++) top = x[i] > top ? x[i] : top;
    for (i = 0; i < n; i++)
        if (x[i] == top) return i;
    return n - 1; /* only where a logit is no number */
}

typedef double wide __attribute__((vector_size(8 * LANES)));

/* Sum of BLOCK numbers. */
INLINE double block_sum(const float *e)
{
    wide sums = {0};
    for (int i = 0; i < BLOCK; i += LANES) sums += __builtin_convertvector(load(e + i), wide);
    double total = 0;
    for (int i = 0; i < LANES; i++) total += sums[i];
    return total;
}

static double sum_of(const float *e, int64_t n)
{
    double total = 0;
    for (int64_t i = 0; i < n; i += BLOCK) total += block_sum(e + i);
    return total;
}

/* e [n, then zeros up to a whole block] = exp((x - top) * factor); returns the sum. */
static double exponentials(const float *x, int64_t n, float top, float factor, float *e)
{
    int64_t i = 0, whole = (n + BLOCK - 1) / BLOCK * BLOCK;
    for (; i + LANES <= n; i += LANES) store(e + i, vexp((load(x + i) - top) * factor));
    if (i < n) store_some(e + i, vexp((load_some(x + i, (int)(n - i)) - top) * factor), (int)(n - i));
    memset(e + n, 0, 4 * (size_t)(whole - n));
    return sum_of(e, n);
}

INLINE int any(ivec which)
{
    int64_t parts[LANES / 2], all = 0;
    memcpy(parts, &which, sizeof parts);
    for (int i = 0; i < LANES / 2; i++) all |= parts[i];
    return all != 0;
}

static void sink(float *heap, int64_t n, int64_t at)
{
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (heap[at] <= heap[child]) return;
        float moved = heap[at];
        heap[at] = heap[child], heap[child] = moved;
    }
}

/* heap [k] = the k <= n largest of x [n], the smallest of them first. */
static void largest_k(const float *x, int64_t n, int64_t k, float *heap)
{
    memcpy(heap, x, 4 * (size_t)k);
    for (int64_t i = k / 2; i-- > 0;) sink(heap, k, i);
    int64_t i = k;
    for (; i + LANES <= n; i += LANES) {
        if (!any(load(x + i) > splat(heap[0]))) continue;
        for (int j = 0; j < LANES; j++)
            if (x[i + j] > heap[0]) heap[0] = x[i + j], sink(heap, k, 0);
    }
    for (; i < n; i++)
        if (x[i] > heap[0]) heap[0] = x[i], sink(heap, k, 0);
}

INLINE int before(const float *x, int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); }

static void sink_place(const float *x, int32_t *heap, int64_t n, int64_t at)
{
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        child += child + 1 < n && before(x, heap[child + 1], heap[child]);
        if (before(x, heap[at], heap[child])) return;
        int32_t moved = heap[at];
        heap[at] = heap[child], heap[child] = moved;
    }
}

/* Sets e to zero outside the kept set: the longest run of most probable tokens (of two alike, the first) that top_k,
 * top_p and min_p all allow, at least one. `e` holds exponentials of sum `total`, the largest 1. */
static void filter(const float *x, float *e, int64_t n, double total, int64_t top_k, double top_p, double min_p,
                   float *scratch)
{
    int32_t *heap = (int32_t *)scratch;
    float least_x = -INFINITY, least_e = 0;
    if (top_k > 0 && top_k < n) {
        largest_k(x, n, top_k, scratch);
        least_x = scratch[0];
    }
    /* Tokens of less than (1 - p) / n of the mass cannot hold more than 1 - p together: the nucleus needs none. */
    if (top_p < 1) least_e = (float)((1 - top_p) * total / (double)n * 0.999);
    if (min_p > least_e) least_e = (float)min_p;
    int64_t count = 0, kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (x[i] >= least_x && e[i] >= least_e) heap[count++] = (int32_t)i;
    for (int64_t i = count / 2; i-- > 0;) sink_place(x, heap, count, i);
    double mass = 0;
    int32_t last = (int32_t)highest(x, n);
    while (count && (top_k <= 0 || kept < top_k) && (kept == 0 || top_p >= 1 || mass < top_p * total)) {
        last = heap[0];
        mass += e[last];
        kept++;
        heap[0] = heap[--count];
        sink_place(x, heap, count, 0);
    }
    for (int64_t i = 0; i < n; i++)
        if (!before(x, (int32_t)i, last) && i != last) e[i] = 0;
}

/* The first token whose cumulative sum reaches `target`. */
static int64_t draw(const float *e, int64_t n, double target)
{
    int64_t i = 0, some = n - 1;
    double below = 0;
    for (; i + BLOCK < n; i += BLOCK) {
        double part = block_sum(e + i);
        if (below + part >= target) break;
        below += part;
    }
    for (int64_t end = i + BLOCK < n ? i + BLOCK : n; i < end; i++) {
        below += e[i];
        if (e[i] > 0) some = i;
        if (below >= target && e[i] > 0) return i;
    }
    return some; /* the sums of a block, taken in another order, differ in the last bit */
}

static void choose_token(const sampler *s, int64_t slot, float *e)
{
    int64_t V = s->vocab, at = slot * s->new_tokens + s->count[slot], k = s->confidence_top_k < V ? s->confidence_top_k : V;
    const float *x = s->logits + slot * V;
    float *scratch = e + (V + BLOCK - 1) / BLOCK * BLOCK;
    double temperature = s->temperature[slot];
    int64_t best = highest(x, V), token = best;
    float top = x[best];
    double total = exponentials(x, V, top, 1.0f, e), log_total = log(total), scaled_log_total = log_total, inverse = 1;
    if (temperature > 0) {
        if (temperature != 1) {
            inverse = 1 / temperature;
            total = exponentials(x, V, top, (float)inverse, e);
            scaled_log_total = log(total);
        }
        if (s->top_k[slot] > 0 || s->top_p[slot] < 1 || s->min_p[slot] > 0) {
            filter(x, e, V, total, s->top_k[slot], s->top_p[slot], s->min_p[slot], scratch);
            total = sum_of(e, V);
        }
        token = draw(e, V, uniform(s->key[slot], s->count[slot]) * total);
    }
    largest_k(x, V, k, scratch);
    double likely = 0;
    for (int64_t i = 0; i < k; i++) likely += scratch[i];
    s->tokens[at] = s->last[slot] = token;
    s->logprobs[at] = (float)((double)x[token] - top - log_total);
    s->sampling_logprobs[at] = (float)(((double)x[token] - top) * inverse - scaled_log_total);
    s->confidences[at] = (float)(top + log_total - likely / (double)k);
}

/* Why the trace ends with the token just chosen, if it does. DOUBTFUL is `is_doubtful` of `h1r.engine.protocol`. */
static int verdict(const sampler *s, int64_t slot)
{
    int64_t count = s->count[slot], window = s->window[slot];
    const float *confidences = s->confidences + slot * s->new_tokens;
    if (isnan(s->logprobs[slot * s->new_tokens + count])) {
        s->count[slot] = count + 1;
        return BROKEN; /* some logit is no number, or infinite: there was nothing to choose from */
    }
    s->group_sum[slot] += (double)confidences[count] - (count >= window ? (double)confidences[count - window] : 0.0);
    s->count[slot] = ++count;
    if (s->ends[slot * s->vocab + s->last[slot]]) return STOPPED;
    if (count >= window && s->group_sum[slot] / (double)window < s->threshold[slot]) return DOUBTFUL;
    return count >= s->max_tokens[slot] ? FULL : RUNS;
}

/* One token for each slot [0, rows); returns how many traces end with it. */
int64_t sample_rows(const sampler *s, int64_t rows, int threads)
{
    int64_t ended = 0, wide_row = 2 * ((s->vocab + BLOCK - 1) / BLOCK * BLOCK);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : ended) if (rows > 1)
    for (int64_t slot = 0; slot < rows; slot++) {
        choose_token(s, slot, s->scratch + omp_get_thread_num() * wide_row);
        s->reason[slot] = (uint8_t)verdict(s, slot);
        ended += s->reason[slot] != RUNS;
    }
    return ended;
}
