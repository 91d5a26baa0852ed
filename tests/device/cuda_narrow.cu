/* SPDX-License-Identifier: MIT
 *
 * Compiled for the emulator with __CUDACC__, so that the bodies are what nvcc sees: a thread's code, with barriers.
 */
#include "tests/device/cuda_narrow.h"

#include "device/cuda_body_small.h"

static __global__ void head(const __grid_constant__ sherd__cuda_convert args)
{
    __shared__ cuda__narrow_shared shared;
    cuda__narrow_head(&args, &shared);
}

static __global__ void range(const __grid_constant__ sherd__cuda_convert args)
{
    cuda__convert_block(&args, blockIdx.x, gridDim.x);
}

int narrow_head(const sherd__cuda_convert *args, void *stream)
{
    void *parameters[] = {(void *)args};
    return (int)cudaLaunchKernel(head, dim3(1), dim3(SHERD__CUDA_THREADS), parameters, 0, (cudaStream_t)stream);
}

int narrow_range(const sherd__cuda_convert *args, unsigned blocks, void *stream)
{
    void *parameters[] = {(void *)args};
    return (int)cudaLaunchKernel(range, dim3(blocks), dim3(SHERD__CUDA_THREADS), parameters, 0, (cudaStream_t)stream);
}
