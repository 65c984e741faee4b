/* What the library offers: the kernel for this processor, run on the threads that PyTorch has. */

#include <stddef.h>

#include "tail.h"

#define OFFERED __attribute__((visibility("default")))

extern const struct senet_instruction_set senet_baseline;
#ifdef SENET_X86
extern const struct senet_instruction_set senet_avx2, senet_avx512;
#endif

/* The OpenMP runtime's own entry point. It is PyTorch's runtime, and so the same threads: two runtimes would fight
 * over the cores. */
typedef void parallel_region(void (*)(void *), void *, unsigned, unsigned);

static parallel_region *region;
static senet_sgemm *sgemm;

struct job {
    void (*task)(const void *, int64_t);
    const void *context;
    int64_t tasks, next;
};

static void work(void *shared)
{
    struct job *job = shared;
    int64_t i;
    while ((i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->tasks)
        job->task(job->context, i);
}

void senet_parallel(void (*task)(const void *, int64_t), const void *context, int64_t tasks, int64_t threads)
{
    struct job job = {task, context, tasks, 0};
    if (threads > tasks)
        threads = tasks;
    if (threads > 1 && region != NULL)
        region(work, &job, (unsigned)threads, 0);
    else
        work(&job);
}

static const struct senet_instruction_set *best(void)
{
#ifdef SENET_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &senet_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &senet_avx2;
#endif
    return &senet_baseline;
}

OFFERED int64_t senet_abi(void) { return SENET_ABI; }

OFFERED const char *senet_name(void) { return best()->name; }

/* GOMP_parallel of the runtime whose threads to use; NULL: one thread. */
OFFERED void senet_set_region(parallel_region *given) { region = given; }

/* `sgemm_` of the BLAS library that PyTorch has, for `senet_pointwise`. */
OFFERED void senet_set_sgemm(senet_sgemm *given) { sgemm = given; }

OFFERED int senet_tail_forward(const struct senet_tail *step, const void *x, const void *shortcut, void *y,
                               float *statistics, float *saved)
{
    return best()->forward(step, x, shortcut, y, statistics, saved);
}

OFFERED int senet_tail_backward(const struct senet_tail *step, const void *dy, const void *x, const void *y,
                                const float *saved, void *dx, void *dshortcut, const struct senet_gradients *gradients)
{
    return best()->backward(step, dy, x, y, saved, dx, dshortcut, gradients);
}

OFFERED int senet_tail_rescale(const struct senet_tail *step, const void *x, const float *gate, const void *shortcut,
                               void *y)
{
    return best()->rescale(step, x, gate, shortcut, y);
}

OFFERED int senet_pointwise(const struct senet_pointwise *step, const float *x, const float *shortcut, float *y)
{
    return best()->pointwise(step, sgemm, x, shortcut, y);
}
