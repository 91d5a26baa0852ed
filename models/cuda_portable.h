/* SPDX-License-Identifier: MIT
 *
 * What the models' kernels are written with. nvcc compiles them for GPUs; where SHERD_SIMT is defined a C++ compiler
 * has them run on the host in tests, and what CUDA's own header gives is there already.
 *
 * Values are fp32 in registers; bf16 is kept as uint16_t and made by (bits + 0x8000) >> 16, a NaN as 0x7FC0, like
 * everywhere in the models; fp16 is made by nearest, ties to even, a NaN as 0x7E00. A thread moves V
 * neighbouring values at once: 16 bytes of a 16-bit or fp32 array where the shapes and addresses allow it (V = 8 or 4),
 * else one value (V = 1).
 */
#ifndef SHERD_MODELS_CUDA_PORTABLE_H
#define SHERD_MODELS_CUDA_PORTABLE_H

#include <cuda_runtime_api.h>
#include <math.h>
#include <stdint.h>

#include <initializer_list>

#if !defined(SHERD_SIMT)
#include <cuda_runtime.h>
/* One array for all kernels of a file, whatever the type. */
#define SHERD_DYNAMIC_SHARED(type, name)                                                                               \
    extern __shared__ __align__(128) unsigned char sherd__dynamic_shared[];                                            \
    type *const name = reinterpret_cast<type *>(sherd__dynamic_shared)
#endif

namespace
{

typedef uint16_t bf16;
struct fp16 { /* a type of its own, so that it can be told from bf16 */
    uint16_t bits;
};

__device__ __forceinline__ float widen(bf16 x)
{
    return __uint_as_float((uint32_t)x << 16);
}

__device__ __forceinline__ bf16 narrow(float x)
{
    uint32_t bits = __float_as_uint(x);
    return (bf16)((bits & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : (bits + 0x8000u) >> 16);
}

__device__ __forceinline__ float widen(fp16 x)
{
    uint32_t magnitude = (uint32_t)(x.bits & 0x7FFFu) << 13, sign = (uint32_t)(x.bits & 0x8000u) << 16;
    uint32_t finite = __float_as_uint(__uint_as_float(magnitude) * 0x1p112f);
    return __uint_as_float(sign | ((x.bits & 0x7C00u) == 0x7C00u ? magnitude | 0x7F800000u : finite));
}

/* As kernels_body.h's fp16_of. */
__device__ __forceinline__ uint16_t narrow_fp16(float x)
{
    uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7FFFFFFFu;
    uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
    uint32_t subnormal = __float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    uint32_t half = (bits >> 16 & 0x8000u) | (magnitude >= 0x47800000u ? 0x7C00u : finite);
    return (uint16_t)(magnitude > 0x7F800000u ? 0x7E00u : half);
}

__device__ __forceinline__ uint32_t narrow_pair(float low, float high)
{
    return (uint32_t)narrow(low) | (uint32_t)narrow(high) << 16;
}

template <int V> __device__ __forceinline__ void load(const float *from, float (&to)[V])
{
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V / 4; i++) {
            float4 v = reinterpret_cast<const float4 *>(from)[i];
            to[4 * i] = v.x;
            to[4 * i + 1] = v.y;
            to[4 * i + 2] = v.z;
            to[4 * i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            to[i] = from[i];
    }
}

template <int V> __device__ __forceinline__ void load(const bf16 *from, float (&to)[V])
{
    if constexpr (V == 8) {
        uint4 v = *reinterpret_cast<const uint4 *>(from);
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            to[2 * i] = __uint_as_float(words[i] << 16);
            to[2 * i + 1] = __uint_as_float(words[i] & 0xFFFF0000u);
        }
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            to[i] = widen(from[i]);
    }
}

template <int V> __device__ __forceinline__ void load(const fp16 *from, float (&to)[V])
{
    if constexpr (V == 8) {
        uint4 v = *reinterpret_cast<const uint4 *>(from);
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 8; i++)
            to[i] = widen(fp16{(uint16_t)(words[i / 2] >> i % 2 * 16)});
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            to[i] = widen(from[i]);
    }
}

template <int V> __device__ __forceinline__ void store(float *to, const float (&from)[V])
{
    if constexpr (V % 4 == 0) {
#pragma unroll
        for (int i = 0; i < V / 4; i++)
            reinterpret_cast<float4 *>(to)[i] =
                make_float4(from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            to[i] = from[i];
    }
}

template <int V> __device__ __forceinline__ void store(bf16 *to, const float (&from)[V])
{
    if constexpr (V == 8) {
        *reinterpret_cast<uint4 *>(to) = make_uint4(narrow_pair(from[0], from[1]), narrow_pair(from[2], from[3]),
                                                    narrow_pair(from[4], from[5]), narrow_pair(from[6], from[7]));
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            to[i] = narrow(from[i]);
    }
}

template <int V> __device__ __forceinline__ void store(fp16 *to, const float (&from)[V])
{
    if constexpr (V == 8) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            words[i] = (uint32_t)narrow_fp16(from[2 * i]) | (uint32_t)narrow_fp16(from[2 * i + 1]) << 16;
        *reinterpret_cast<uint4 *>(to) = make_uint4(words[0], words[1], words[2], words[3]);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++)
            to[i] = fp16{narrow_fp16(from[i])};
    }
}

/* The sum over a block, the same in all threads: pairs within each warp, then the warps in rising order. `shared` has a
 * place per warp. */
__device__ __forceinline__ float block_sum(float x, float *shared)
{
    unsigned warps = blockDim.x / 32;
#pragma unroll
    for (int o = 16; o > 0; o /= 2)
        x += __shfl_xor_sync(0xFFFFFFFFu, x, o);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = shared[0];
    for (unsigned w = 1; w < warps; w++)
        sum += shared[w];
    __syncthreads(); /* the next sum may write */
    return sum;
}

} // namespace

/* Threads of a block that shares a row of `work` pieces, up to `most`: whole warps. */
static inline unsigned sherd__cuda_row_threads(int64_t work, int64_t most)
{
    int64_t threads = (work + 31) / 32 * 32;
    return (unsigned)(threads < 32 ? 32 : threads > most ? most : threads);
}

/* 1: rows of `cols` values can be moved `per` at a time: every address is a multiple of 16 bytes, and so stays every
 * row's. */
static inline int sherd__cuda_wide(int64_t cols, int per, std::initializer_list<const void *> addresses)
{
    uintptr_t bits = 0;
    for (const void *address : addresses)
        bits |= (uintptr_t)address;
    return cols % per == 0 && bits % 16 == 0;
}

/* Keeps a parameter's type from being deduced from the argument. */
template <typename T> struct sherd__cuda_as {
    typedef T type;
};

/* Parameters are converted as in a call. Not <<<>>>, whose outcome is in cudaGetLastError, where the client's own
 * mistakes are too. Returns a cudaError_t. */
template <typename... Params>
static int sherd__cuda_launch(void *stream, int64_t blocks, unsigned threads, size_t shared_bytes,
                              void (*kernel)(Params...), typename sherd__cuda_as<Params>::type... params)
{
    void *pointers[] = {(void *)&params...};
    if (blocks <= 0)
        return (int)cudaSuccess;
    if (blocks > INT32_MAX)
        return (int)cudaErrorInvalidValue;
    return (int)cudaLaunchKernel(kernel, dim3((unsigned)blocks), dim3(threads), pointers, shared_bytes,
                                 (cudaStream_t)stream);
}

#endif
