/* SPDX-License-Identifier: MIT
 *
 * Compiled for the emulator with __CUDACC__, so that the bodies are what nvcc sees: a thread's code, with barriers. Once more with
 * SIMT_LOOSE, where the barriers are nothing.
 */
#include "tests/device/cuda_orthogonal_simt.h"

#include "device/cuda_body.h"

#if defined(SIMT_LOOSE)
#undef CUDA__BARRIER
#define CUDA__BARRIER() ((void)0)
#define LAUNCHER(name) name##_loose
#else
#define LAUNCHER(name) name
#endif

#include "device/cuda_body_orthogonal.h"

#define PRODUCT_KERNEL(suffix, kind, per)                                                                              \
    static __global__ void product_##suffix(const __grid_constant__ sherd__cuda_product args)                          \
    {                                                                                                                  \
        __shared__ cuda__product_shared shared;                                                                        \
        cuda__product_block(&args, &shared, (kind), (per), blockIdx.x);                                                \
    }
CUDA__PRODUCT_MAP(PRODUCT_KERNEL)

static __global__ void norm_clear(const __grid_constant__ sherd__cuda_orthogonal args)
{
    cuda__norm_clear(&args);
}

static __global__ void norm(const __grid_constant__ sherd__cuda_orthogonal args)
{
    __shared__ cuda__sum_shared shared;
    cuda__norm_block(&args, &shared, blockIdx.x, gridDim.x);
}

static __global__ void begin(const __grid_constant__ sherd__cuda_orthogonal args)
{
    __shared__ cuda__turn_shared shared;
    cuda__turn_block(&args, &shared, 1, blockIdx.x);
}

static __global__ void end(const __grid_constant__ sherd__cuda_orthogonal args)
{
    __shared__ cuda__turn_shared shared;
    cuda__turn_block(&args, &shared, 0, blockIdx.x);
}

template <typename Args> static int launch(void (*kernel)(Args), const void *args, uint64_t blocks, void *stream)
{
    void *parameters[] = {const_cast<void *>(args)};
    return (int)cudaLaunchKernel(kernel, dim3((unsigned)blocks), dim3(SHERD__CUDA_THREADS), parameters, 0,
                                 (cudaStream_t)stream);
}

int LAUNCHER(simt_product)(const sherd__cuda_product *args, int per, void *stream)
{
#define X(suffix, kind_, per_)                                                                                         \
    if (args->kind == (kind_) && per == (per_))                                                                        \
        return launch(product_##suffix, args, sherd__cuda_product_tiles(args, per), stream);
    CUDA__PRODUCT_MAP(X)
#undef X
    return (int)cudaErrorInvalidValue;
}

int LAUNCHER(simt_part)(const sherd__cuda_orthogonal *args, sherd__cuda_part part, void *stream)
{
    uint64_t blocks = (uint64_t)(sherd__cuda_turn_blocks(args->rows) * sherd__cuda_turn_blocks(args->cols));
    switch (part) {
    case SHERD__CUDA_CLEAR: return launch(norm_clear, args, 1, stream);
    case SHERD__CUDA_NORM: return launch(norm, args, 3, stream);
    case SHERD__CUDA_BEGIN: return launch(begin, args, blocks, stream);
    case SHERD__CUDA_END: return launch(end, args, blocks, stream);
    }
    return (int)cudaErrorInvalidValue;
}
