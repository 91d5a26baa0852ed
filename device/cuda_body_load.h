/* SPDX-License-Identifier: MIT
 *
 * What the kernels' bodies (cuda_body.h says what a body is) are written with: how nvcc and C compilers read them, and
 * loads and stores of what a thread takes at a time.
 */
#ifndef SHERD_DEVICE_CUDA_BODY_LOAD_H
#define SHERD_DEVICE_CUDA_BODY_LOAD_H

#include <string.h>

#include "device/cuda_launch.h"

#if defined(__CUDACC__)
#define CUDA__FN static __device__ __forceinline__
#define CUDA__EACH(t) for (int t = (int)threadIdx.x, t##_once = 1; t##_once; t##_once = 0)
#define CUDA__BARRIER() __syncthreads()
#define CUDA__UNROLL _Pragma("unroll")
#else
#define CUDA__FN static inline
#define CUDA__EACH(t) for (int t = 0; t < SHERD__CUDA_THREADS; ++t)
#define CUDA__BARRIER() ((void)0)
#define CUDA__UNROLL
#endif

/* What a thread takes at a time: 16 bytes of a 16-bit type, twice 16 of fp32. */
#define CUDA__VECTOR SHERD__CUDA_VECTOR

typedef struct cuda__eight {
    float at[CUDA__VECTOR];
} cuda__eight;

/* Streaming accesses: a step reads and writes each of these bytes once, so they are the first to leave the caches. Only
 * the 16-bit output may stay: the all-gather reads it next. Two threads' pairs of fp32 vectors share no sector of 32
 * bytes, so nothing is fetched twice. */
CUDA__FN cuda__eight cuda__load_f32(const float *from)
{
    cuda__eight out;
#if defined(__CUDACC__)
    float4 low = __ldcs((const float4 *)from), high = __ldcs((const float4 *)from + 1);
    out.at[0] = low.x;
    out.at[1] = low.y;
    out.at[2] = low.z;
    out.at[3] = low.w;
    out.at[4] = high.x;
    out.at[5] = high.y;
    out.at[6] = high.z;
    out.at[7] = high.w;
#else
    memcpy(out.at, from, sizeof out.at);
#endif
    return out;
}

CUDA__FN void cuda__store_f32(float *to, cuda__eight value)
{
#if defined(__CUDACC__)
    __stcs((float4 *)to, make_float4(value.at[0], value.at[1], value.at[2], value.at[3]));
    __stcs((float4 *)to + 1, make_float4(value.at[4], value.at[5], value.at[6], value.at[7]));
#else
    memcpy(to, value.at, sizeof value.at);
#endif
}

CUDA__FN float cuda__widen(uint16_t half, int type)
{
    return type == SHERD_FP16 ? sherd__f32_of_f16(half) : sherd__f32_of_bf16(half);
}

CUDA__FN uint16_t cuda__narrow(float value, int type)
{
    return type == SHERD_FP16 ? sherd__f16_of_f32(value) : sherd__bf16_of_f32(value);
}

typedef struct cuda__halves {
    uint32_t at[CUDA__VECTOR]; /* 16 bits each */
} cuda__halves;

CUDA__FN cuda__halves cuda__load_bits(const uint16_t *from)
{
    cuda__halves out;
#if defined(__CUDACC__)
    uint4 v = __ldcs((const uint4 *)from);
    uint32_t pair[4] = {v.x, v.y, v.z, v.w};
    CUDA__UNROLL
    for (int i = 0; i < 4; ++i) {
        out.at[2 * i] = pair[i] & 0xFFFFu;
        out.at[2 * i + 1] = pair[i] >> 16;
    }
#else
    for (int i = 0; i < CUDA__VECTOR; ++i) {
        out.at[i] = from[i];
    }
#endif
    return out;
}

CUDA__FN cuda__eight cuda__load_half(const uint16_t *from, int type)
{
    cuda__halves half = cuda__load_bits(from);
    cuda__eight out;
    CUDA__UNROLL
    for (int i = 0; i < CUDA__VECTOR; ++i) {
        out.at[i] = cuda__widen((uint16_t)half.at[i], type);
    }
    return out;
}

/* stay: it is read again soon */
CUDA__FN void cuda__store_bits(uint16_t *to, cuda__halves bits, int stay)
{
    const uint32_t *half = bits.at;
#if defined(__CUDACC__)
    uint4 v =
        make_uint4(half[0] | half[1] << 16, half[2] | half[3] << 16, half[4] | half[5] << 16, half[6] | half[7] << 16);
    if (stay) {
        *(uint4 *)to = v;
    } else {
        __stcs((uint4 *)to, v);
    }
#else
    (void)stay;
    for (int i = 0; i < CUDA__VECTOR; ++i) {
        to[i] = (uint16_t)half[i];
    }
#endif
}

CUDA__FN void cuda__store_half(uint16_t *to, int type, cuda__eight value, int stay)
{
    cuda__halves half;
    CUDA__UNROLL
    for (int i = 0; i < CUDA__VECTOR; ++i) {
        half.at[i] = cuda__narrow(value.at[i], type);
    }
    cuda__store_bits(to, half, stay);
}

/* fp32 as bf16 and what that leaves (base/half.h). */
CUDA__FN cuda__eight cuda__join(const uint16_t *half, const uint16_t *remainder)
{
    cuda__halves high = cuda__load_bits(half), low = cuda__load_bits(remainder);
    cuda__eight out;
    CUDA__UNROLL
    for (int i = 0; i < CUDA__VECTOR; ++i) {
        out.at[i] = sherd__f32_of_halves((uint16_t)high.at[i], (uint16_t)low.at[i]);
    }
    return out;
}

CUDA__FN void cuda__split(uint16_t *half, uint16_t *remainder, cuda__eight value)
{
    cuda__halves low;
    CUDA__UNROLL
    for (int i = 0; i < CUDA__VECTOR; ++i) {
        low.at[i] = sherd__remainder_of_f32(value.at[i]);
    }
    cuda__store_half(half, SHERD_BF16, value, 1);
    cuda__store_bits(remainder, low, 0);
}

CUDA__FN cuda__eight cuda__load(const void *array, int type, int64_t i)
{
    return type == SHERD_FP32 ? cuda__load_f32((const float *)array + i)
                              : cuda__load_half((const uint16_t *)array + i, type);
}

CUDA__FN float cuda__load_one(const void *array, int type, int64_t i)
{
    return type == SHERD_FP32 ? ((const float *)array)[i] : cuda__widen(((const uint16_t *)array)[i], type);
}

#endif
