/* What clang calls for OpenMP, by means of libgomp, which torch brings on Linux: clang's own runtime would be a second pool
 * of threads. Only what these sources use of it; the interface is LLVM's (openmp/runtime/src/kmp.h). On a Mac torch brings
 * that runtime itself.
 */
#if defined(__clang__) && defined(__linux__)
#include <stdarg.h>

#include "vector.h"

#define OURS __attribute__((visibility("hidden")))
#define MOST 40 /* variables that a parallel region shares */

void GOMP_parallel(void (*)(void *), void *, unsigned, unsigned);
void GOMP_barrier(void);
_Bool GOMP_loop_dynamic_start(long, long, long, long, long *, long *);
_Bool GOMP_loop_dynamic_next(long *, long *);
void GOMP_loop_end_nowait(void);
void GOMP_critical_start(void);
void GOMP_critical_end(void);

typedef struct {
    void (*body)(int32_t *, int32_t *, ...);
    void *shared[MOST];
} region;

static __thread int wanted;                     /* threads of the next region; 0: as many as the runtime likes */
static __thread long first, end;                /* of a dynamic loop, the share that came with its start */
static __thread enum { NONE, FIRST, LATER } at; /* which share is next */

/* Surplus arguments, which the body does not look at, cost nothing: callers clean up. */
static void run(void *data)
{
    region *r = data;
    void **s = r->shared;
    int32_t thread = omp_get_thread_num(), bound = thread;
#define FIVE(i) s[i], s[i + 1], s[i + 2], s[i + 3], s[i + 4]
    ((void (*)(int32_t *, int32_t *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *,
               void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *,
               void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *, void *,
               void *, void *, void *))r->body)(&thread, &bound, FIVE(0), FIVE(5), FIVE(10), FIVE(15), FIVE(20), FIVE(25),
                                                FIVE(30), FIVE(35));
#undef FIVE
}

OURS void __kmpc_fork_call(void *where, int32_t count, void (*body)(int32_t *, int32_t *, ...), ...)
{
    region r = {.body = body};
    va_list shared;
    if (count > MOST) abort();
    va_start(shared, body);
    for (int i = 0; i < count; i++) r.shared[i] = va_arg(shared, void *);
    va_end(shared);
    int threads = wanted;
    wanted = 0;
    GOMP_parallel(run, &r, (unsigned)threads, 0);
    (void)where;
}

OURS void __kmpc_push_num_threads(void *where, int32_t thread, int32_t threads)
{
    wanted = threads;
    (void)where, (void)thread;
}

/* A region whose `if` says no runs where it stands, outside of all teams. */
OURS void __kmpc_serialized_parallel(void *where, int32_t thread) { wanted = 0, (void)where, (void)thread; }
OURS void __kmpc_end_serialized_parallel(void *where, int32_t thread) { (void)where, (void)thread; }

OURS int32_t __kmpc_global_thread_num(void *where) { return (void)where, omp_get_thread_num(); }
OURS void __kmpc_barrier(void *where, int32_t thread) { (void)where, (void)thread, GOMP_barrier(); }

/* Loops of step 1 over [lower, upper], each thread's share in one piece, as long as its neighbours' or one longer. */
#define STATIC(bits)                                                                                                  \
    OURS void __kmpc_for_static_init_##bits(void *where, int32_t thread, int32_t kind, int32_t *last, INT(bits) * lower,\
                                            INT(bits) * upper, INT(bits) * stride, INT(bits) step, INT(bits) chunk)   \
    {                                                                                                                 \
        INT(bits) id = omp_get_thread_num(), team = omp_get_num_threads(), n = *upper - *lower + 1;                   \
        INT(bits) share = n / team, longer = n % team;                                                                \
        if ((kind & 0xffff) != 34 || step != 1) abort(); /* schedule(static), no chunk */                             \
        *last = n > 0 && id == team - 1;                                                                              \
        *stride = n;                                                                                                  \
        *lower += id * share + (id < longer ? id : longer);                                                           \
        *upper = *lower + share - (id >= longer);                                                                     \
        (void)where, (void)thread, (void)chunk;                                                                       \
    }
#define INT(bits) INT_##bits
#define INT_4 int32_t
#define INT_8 int64_t
#define INT_8u uint64_t
STATIC(4)
STATIC(8)
STATIC(8u) /* two loops as one */
OURS void __kmpc_for_static_fini(void *where, int32_t thread) { (void)where, (void)thread; }

OURS void __kmpc_dispatch_init_8(void *where, int32_t thread, int32_t kind, int64_t lower, int64_t upper, int64_t step,
                                 int64_t chunk)
{
    at = GOMP_loop_dynamic_start(lower, upper + 1, step, chunk, &first, &end) ? FIRST : NONE;
    (void)where, (void)thread, (void)kind;
}

OURS int32_t __kmpc_dispatch_next_8(void *where, int32_t thread, int32_t *last, int64_t *lower, int64_t *upper,
                                    int64_t *stride)
{
    if (at == LATER && !GOMP_loop_dynamic_next(&first, &end)) at = NONE;
    (void)where, (void)thread, *last = 0, *stride = 1;
    if (at == NONE) return GOMP_loop_end_nowait(), 0;
    *lower = first, *upper = end - 1;
    at = LATER;
    return 1;
}
OURS void __kmpc_dispatch_deinit(void *where, int32_t thread) { (void)where, (void)thread; }

/* A thread's own sums are added to the shared ones by itself, one thread at a time. */
OURS int32_t __kmpc_reduce_nowait(void *where, int32_t thread, int32_t count, size_t size, void *sums,
                                  void (*add)(void *, void *), void *lock)
{
    GOMP_critical_start();
    return (void)where, (void)thread, (void)count, (void)size, (void)sums, (void)add, (void)lock, 1;
}
OURS void __kmpc_end_reduce_nowait(void *where, int32_t thread, void *lock)
{
    GOMP_critical_end();
    (void)where, (void)thread, (void)lock;
}
#endif
