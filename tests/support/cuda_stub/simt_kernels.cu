/* SPDX-License-Identifier: MIT */
#include "tests/support/cuda_stub/simt_kernels.h"

#define FULL 0xFFFFFFFFu

static __device__ int warp_sum(int value)
{
    for (int bit = 16; bit > 0; bit /= 2)
        value += __shfl_xor_sync(FULL, value, bit);
    return value;
}

template <bool BARRIER> static __global__ void sum(const int32_t *in, int32_t *out)
{
    SHERD_DYNAMIC_SHARED(int, parts);
    int mine = warp_sum(in[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = mine;
    if (BARRIER)
        __syncthreads();
    if (threadIdx.x == 0) {
        int all = 0;
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++)
            all += parts[warp];
        out[blockIdx.x] = all;
    }
}

static __global__ void votes(const int32_t *in, int32_t *out)
{
    int value = in[threadIdx.x], lane = (int)threadIdx.x % 32;
    unsigned half = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    int odd = (int)(__ballot_sync(FULL, value & 1) >> lane & 1);
    int sum = odd + 2 * __shfl_sync(FULL, value, 3) + 4 * __shfl_down_sync(FULL, value, 1);
    sum += 8 * __shfl_up_sync(FULL, value, 2) + 16 * __shfl_xor_sync(FULL, value, 4, 8);
    if (lane < 16) /* the halves go different ways for a while */
        sum += __reduce_max_sync(half, value);
    else
        sum += 3 * __reduce_add_sync(half, value);
    out[threadIdx.x] = sum + __syncthreads_count(value > 0);
}

template <bool WAIT> static __global__ void copies(const int32_t *in, int32_t *out)
{
    SHERD_DYNAMIC_SHARED(int4, tile);
    const int4 *from = reinterpret_cast<const int4 *>(in);
    int4 *mine = tile + 2 * threadIdx.x;
    sherd__copy_async(mine, from + 2 * threadIdx.x, 16);
    sherd__copy_async_commit();
    sherd__copy_async(mine + 1, from + 2 * threadIdx.x + 1, 8);
    sherd__copy_async_commit();
    if (WAIT)
        sherd__copy_async_wait<1>();
    int sum = mine->x + mine->w;
    if (WAIT)
        sherd__copy_async_wait<0>();
    out[threadIdx.x] = sum + mine[1].y + mine[1].z;
}

static __global__ void mma(const int32_t *in, int32_t *out)
{
    SHERD_DYNAMIC_SHARED(uint16_t, rows); /* a: 16 × 16, then b: 16 × 8 in rows of 8 */
    int lane = (int)threadIdx.x;
    for (int i = lane; i < 16 * 16 + 16 * 8; i += 32)
        rows[i] = (uint16_t)in[i];
    __syncwarp();
    uint32_t a[4], b[4];
    sherd__ldmatrix_x4(a, sherd__shared_address(rows + (lane % 16) * 16 + lane / 16 * 8));
    sherd__ldmatrix_x4_trans(b, sherd__shared_address(rows + 256 + lane % 16 * 8));
    float c[4] = {0, 0, 0, 0};
    sherd__mma_bf16(c, a, b[0], b[1]);
    for (int e = 0; e < 4; e++)
        out[(lane / 4 + 8 * (e / 2)) * 8 + lane % 4 * 2 + e % 2] = (int)c[e];
}

static __global__ void atomics(const int32_t *in, int32_t *out)
{
    atomicAdd(out, in[0] + (int)threadIdx.x);
    atomicMax(out + 1, (int)(blockIdx.x * blockDim.x + threadIdx.x));
}

static __global__ void left_early(const int32_t *in, int32_t *out)
{
    if (threadIdx.x >= blockDim.x / 2)
        return;
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

static __global__ void two_places(const int32_t *in, int32_t *out)
{
    if (threadIdx.x % 64 < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

static __global__ void half_a_warp(const int32_t *in, int32_t *out)
{
    if (threadIdx.x % 32 < 16)
        out[threadIdx.x] = __shfl_sync(FULL, in[0], 0);
}

static __global__ void beyond_shared(const int32_t *in, int32_t *out)
{
    SHERD_DYNAMIC_SHARED(int, parts);
    parts[threadIdx.x + 1] = in[threadIdx.x];
    out[threadIdx.x] = 0;
}

static __global__ void odd_row(const int32_t *in, int32_t *out)
{
    SHERD_DYNAMIC_SHARED(uint16_t, rows);
    uint32_t r[4];
    sherd__ldmatrix_x4(r, sherd__shared_address(rows + 1));
    out[threadIdx.x] = in[0] + (int)r[0];
}

static __global__ void trap(const int32_t *in, int32_t *out)
{
    if (in[threadIdx.x] == 7)
        __trap();
    out[threadIdx.x] = 0;
}

static void (*const kernels[])(const int32_t *, int32_t *) = {
    sum<true>,  sum<false>, votes,       copies<true>,  copies<false>, mma,  atomics,
    left_early, two_places, half_a_warp, beyond_shared, odd_row,       trap,
};

int simt_run(simt_kernel which, unsigned blocks, unsigned threads, size_t shared_bytes, const int32_t *in, int32_t *out,
             void *stream)
{
    void *args[] = {&in, &out};
    return (int)cudaLaunchKernel(kernels[which], dim3(blocks), dim3(threads), args, shared_bytes, (cudaStream_t)stream);
}

int simt_allow_shared(simt_kernel which, int bytes)
{
    return (int)cudaFuncSetAttribute(kernels[which], cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}
