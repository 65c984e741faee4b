/* What the library offers: the kernel for this processor, run on the threads that PyTorch has. */

#include <stddef.h>

#include "kernel.h"

#define OFFERED __attribute__((visibility("default")))

extern const struct senet_instruction_set senet_baseline;
#ifdef SENET_X86
extern const struct senet_instruction_set senet_avx2, senet_avx512;
#endif
#ifdef SENET_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

extern const struct senet_instruction_set senet_amx;

/* Whether the processor multiplies tiles of bfloat16, and the system lets this process use them. */
static int has_tiles(void)
{
    const unsigned tiles = 1u << 24 | 1u << 22, bfloat16 = 1u << 5;
    const long request = 0x1023, tile_data = 18; /* ARCH_REQ_XCOMP_PERM */
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & tiles) != tiles)
        return 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & bfloat16))
        return 0;
    return syscall(SYS_arch_prctl, request, tile_data) == 0;
}
#endif

/* The OpenMP runtime's own entry point. It is PyTorch's runtime, and so the same threads: two runtimes would fight
 * over the cores. */
typedef void parallel_region(void (*)(void *), void *, unsigned, unsigned);

typedef int thread_number(void);

static parallel_region *region;
static thread_number *number;

enum { MOST_THREADS = 256 };

struct job {
    void (*task)(const void *, int64_t);
    const void *context;
    int64_t tasks, threads;
    int64_t next[MOST_THREADS]; /* of each thread's own tasks */
};

/* First this thread's own tasks, divided as in oneDNN, since their data is in this core's cache. Then the tasks that other
 * threads haven't begun. */
static void work(void *shared)
{
    struct job *job = shared;
    const int64_t self = number == NULL ? 0 : number();
    for (int64_t k = 0; k < job->threads; k++) {
        const int64_t whose = (self + k) % job->threads, end = (whose + 1) * job->tasks / job->threads;
        int64_t i;
        while ((i = __atomic_fetch_add(&job->next[whose], 1, __ATOMIC_RELAXED)) < end)
            job->task(job->context, i);
    }
}

void senet_parallel(void (*task)(const void *, int64_t), const void *context, int64_t tasks, int64_t threads)
{
    if (threads > tasks)
        threads = tasks;
    if (threads <= 1 || region == NULL) {
        for (int64_t i = 0; i < tasks; i++)
            task(context, i);
        return;
    }
    struct job job;
    job.task = task;
    job.context = context;
    job.tasks = tasks;
    job.threads = threads < MOST_THREADS ? threads : MOST_THREADS;
    for (int64_t i = 0; i < job.threads; i++)
        job.next[i] = i * tasks / job.threads;
    region(work, &job, (unsigned)job.threads, 0);
}

static const struct senet_instruction_set *found(void)
{
#ifdef SENET_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
#ifdef SENET_AMX
        if (has_tiles())
            return &senet_amx;
#endif
        return &senet_avx512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &senet_avx2;
#endif
    return &senet_baseline;
}

static const struct senet_instruction_set *best(void)
{
    static const struct senet_instruction_set *chosen;
    const struct senet_instruction_set *set = __atomic_load_n(&chosen, __ATOMIC_RELAXED);
    if (set == NULL) { /* several threads may find the same */
        set = found();
        __atomic_store_n(&chosen, set, __ATOMIC_RELAXED);
    }
    return set;
}

OFFERED int64_t senet_abi(void) { return SENET_ABI; }

OFFERED const char *senet_name(void) { return best()->name; }

/* GOMP_parallel of the runtime whose threads to use; NULL: one thread. */
OFFERED void senet_set_region(parallel_region *given) { region = given; }

/* omp_get_thread_num of that runtime; NULL: the thread's own tasks are unknown. */
OFFERED void senet_set_number(thread_number *given) { number = given; }

OFFERED int senet_step_forward(const struct senet_step *step, const void *x, const void *shortcut, void *y,
                               float *statistics, float *saved)
{
    return best()->forward(step, x, shortcut, y, statistics, saved);
}

OFFERED int senet_step_backward(const struct senet_step *step, const void *dy, const void *x, const void *y,
                                const float *saved, void *dx, void *dshortcut, const struct senet_gradients *gradients)
{
    return best()->backward(step, dy, x, y, saved, dx, dshortcut, gradients);
}

OFFERED int senet_step_rescale(const struct senet_step *step, const void *x, const float *gate, const void *shortcut,
                               void *y)
{
    return best()->rescale(step, x, gate, shortcut, y);
}

OFFERED int senet_gated_step_forward(const struct senet_step *step, int64_t activation, const void *x, float *statistics,
                                     float *saved, float *z)
{
    return best()->gated_forward(step, activation, x, statistics, saved, z);
}

OFFERED int senet_gated_step_excite(const struct senet_step *step, int64_t activation, const float *z, float *units,
                                    float *gate)
{
    return best()->gated_excite(step, activation, z, units, gate);
}

OFFERED int senet_gated_step_excite_back(const struct senet_step *step, int64_t activation, const float *z,
                                         const float *units, const float *gate, const float *dgate, float *dz,
                                         const struct senet_gradients *gradients)
{
    return best()->gated_excite_back(step, activation, z, units, gate, dgate, dz, gradients);
}

OFFERED int senet_gated_step_apply(const struct senet_step *step, int64_t activation, const void *x, const float *saved,
                                   const float *gate, void *y)
{
    return best()->gated_apply(step, activation, x, saved, gate, y);
}

OFFERED int senet_gated_step_sums(const struct senet_step *step, int64_t activation, const void *dy, const void *x,
                                  const float *saved, float *sums)
{
    return best()->gated_sums(step, activation, dy, x, saved, sums);
}

OFFERED int senet_gated_step_backward(const struct senet_step *step, int64_t activation, const void *dy, const void *x,
                                      const float *saved, const float *gate, const float *dz, const float *sums,
                                      void *dx, const struct senet_gradients *gradients)
{
    return best()->gated_backward(step, activation, dy, x, saved, gate, dz, sums, dx, gradients);
}

OFFERED int senet_convolve(const struct senet_convolution *layer, int64_t n, int64_t h, int64_t w, int64_t oh, int64_t ow,
                           int64_t threads, const float *x, const float *factors, const float *scale,
                           const float *added, float *y, float *s)
{
    return best()->convolution(layer, n, h, w, oh, ow, threads, x, factors, scale, added, y, s);
}

OFFERED int senet_depthwise_convolve(const struct senet_depthwise *layer, int64_t n, int64_t h, int64_t w, int64_t oh,
                                     int64_t ow, int64_t threads, const float *x, const float *factors, float *y,
                                     float *means)
{
    return best()->depthwise(layer, n, h, w, oh, ow, threads, x, factors, y, means);
}

OFFERED int senet_excite(const struct senet_excitation *e, int64_t n, int64_t hw, int64_t threads, const float *x,
                         const float *means, float *gate, float *y)
{
    return best()->excite(e, n, hw, threads, x, means, gate, y);
}

/* Whether senet_convolve_bf16 can be called. */
OFFERED int64_t senet_has_bf16(void) { return best()->convolution_bf16 != NULL; }

OFFERED int senet_convolve_bf16(const struct senet_convolution_bf16 *layer, int64_t n, int64_t h, int64_t w, int64_t oh,
                                int64_t ow, int64_t threads, const uint16_t *x, const float *scale,
                                const uint16_t *added, uint16_t *y, float *s)
{
    return best()->convolution_bf16(layer, n, h, w, oh, ow, threads, x, scale, added, y, s);
}
