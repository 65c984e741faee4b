/* Vectors as GCC and Clang have them on every CPU, and the two storage types: float and bfloat16.
 *
 * All arithmetic is in float. A vector has the width of the instruction set that the file is compiled for.
 */
#ifndef SENET_VECTOR_H
#define SENET_VECTOR_H

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

/* Before a loop whose length is known after inlining: its arrays become registers. */
#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(LANES * 4)));
typedef int32_t vi __attribute__((vector_size(LANES * 4)));
typedef uint32_t vu __attribute__((vector_size(LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(LANES * 2)));
/* The same in memory: at any address, whatever the memory was declared as. */
typedef float vf_mem __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t vh_mem __attribute__((vector_size(LANES * 2), aligned(2), may_alias));

typedef uint16_t bf16;

INLINE vf splat(float value)
{
    vf zero = {0};
    return zero + value;
}

INLINE vf load_float(const float *p) { return *(const vf_mem *)p; }
INLINE void store_float(float *p, vf v) { *(vf_mem *)p = v; }

INLINE vf load_bf16(const bf16 *p) { return (vf)(__builtin_convertvector((vh)*(const vh_mem *)p, vu) << 16); }

INLINE void store_bf16(bf16 *p, vf v)
{
    vu bits = (vu)v;
    /* To the nearest, ties to even; what is no number stays none. */
    vu rounded = bits + 0x7fff + ((bits >> 16) & 1);
    vu broken = (vu)(v != v);
    rounded = (rounded & ~broken) | (broken & 0x7fc00000u);
    *(vh_mem *)p = __builtin_convertvector(rounded >> 16, vh);
}

/* The first `n` < LANES elements; the other lanes are zero. */
INLINE vf load_part_float(const float *p, long n)
{
    float full[LANES] = {0};
    memcpy(full, p, (size_t)n * sizeof *p);
    return load_float(full);
}
INLINE vf load_part_bf16(const bf16 *p, long n)
{
    bf16 full[LANES] = {0};
    memcpy(full, p, (size_t)n * sizeof *p);
    return load_bf16(full);
}
INLINE void store_part_float(float *p, vf v, long n)
{
    float full[LANES];
    store_float(full, v);
    memcpy(p, full, (size_t)n * sizeof *p);
}
INLINE void store_part_bf16(bf16 *p, vf v, long n)
{
    bf16 full[LANES];
    store_bf16(full, v);
    memcpy(p, full, (size_t)n * sizeof *p);
}

/* v, and 0 where `test` <= 0; NaN passes, as in torch. */
INLINE vf where_positive(vf test, vf v) { return (vf)((vi)v & ~(vi)(test <= 0)); }

INLINE float sum_lanes(vf v)
{
    typedef float quad __attribute__((vector_size(16)));
    union {
        vf whole;
        quad quads[LANES / 4];
    } of = {v};
    quad sum = of.quads[0];
    for (int i = 1; i < LANES / 4; i++)
        sum += of.quads[i];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

#endif
