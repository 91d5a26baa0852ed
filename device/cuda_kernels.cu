/* SPDX-License-Identifier: MIT
 *
 * Kernels and their launchers: each kernel is one body of cuda_body.h. Parameters travel in the constant bank
 * (__grid_constant__), so tables of sources and spans need no memory of their own.
 *
 * Compiled with -fmad=false -ftz=false -prec-div=true -prec-sqrt=true: fma only where written.
 */
#include "device/cuda_body_orthogonal.h"
#include "device/cuda_body_small.h"
#include "device/cuda_body_trust.h"

#define KERNEL extern "C" __global__ void __launch_bounds__(SHERD__CUDA_THREADS)

#define SUM_KERNEL(suffix, sources, type)                                                                              \
    KERNEL sherd__cuda_kernel_sum_##suffix(const __grid_constant__ sherd__cuda_sum args)                               \
    {                                                                                                                  \
        __shared__ cuda__sum_shared shared;                                                                            \
        cuda__sum_block(&args, &shared, (sources), (type), blockIdx.x, gridDim.x);                                     \
    }
CUDA__SUM_MAP(SUM_KERNEL)

#define UPDATE_KERNEL(RULE, name, moments)                                                                             \
    KERNEL sherd__cuda_kernel_update_##name(const __grid_constant__ sherd__cuda_update args)                           \
    {                                                                                                                  \
        cuda__update_##name(&args, blockIdx.x);                                                                        \
    }
SHERD__RULE_MAP(UPDATE_KERNEL)

#define TRUST_KERNEL(KIND, name, moments)                                                                              \
    KERNEL sherd__cuda_kernel_trust_##name(const __grid_constant__ sherd__cuda_update args)                            \
    {                                                                                                                  \
        __shared__ cuda__trust_shared shared;                                                                          \
        cuda__trust_##name(&args, &shared, blockIdx.x);                                                                \
    }
SHERD__OPTIM_TRUST_MAP(TRUST_KERNEL)

#define PRODUCT_KERNEL(suffix, kind, per)                                                                              \
    KERNEL sherd__cuda_kernel_product_##suffix(const __grid_constant__ sherd__cuda_product args)                       \
    {                                                                                                                  \
        __shared__ cuda__product_shared shared;                                                                        \
        cuda__product_block(&args, &shared, (kind), (per), blockIdx.x);                                                \
    }
CUDA__PRODUCT_MAP(PRODUCT_KERNEL)

KERNEL sherd__cuda_kernel_norm_clear(const __grid_constant__ sherd__cuda_orthogonal args) { cuda__norm_clear(&args); }

KERNEL sherd__cuda_kernel_norm(const __grid_constant__ sherd__cuda_orthogonal args)
{
    __shared__ cuda__sum_shared shared;
    cuda__norm_block(&args, &shared, blockIdx.x, gridDim.x);
}

KERNEL sherd__cuda_kernel_begin(const __grid_constant__ sherd__cuda_orthogonal args)
{
    __shared__ cuda__turn_shared shared;
    cuda__turn_block(&args, &shared, 1, blockIdx.x);
}

KERNEL sherd__cuda_kernel_end(const __grid_constant__ sherd__cuda_orthogonal args)
{
    __shared__ cuda__turn_shared shared;
    cuda__turn_block(&args, &shared, 0, blockIdx.x);
}

KERNEL sherd__cuda_kernel_zero(const __grid_constant__ sherd__cuda_zero args) { cuda__zero_tile(&args, blockIdx.x); }

KERNEL sherd__cuda_kernel_convert(const __grid_constant__ sherd__cuda_convert args)
{
    cuda__convert_block(&args, blockIdx.x, gridDim.x);
}

KERNEL sherd__cuda_kernel_narrow(const __grid_constant__ sherd__cuda_convert args)
{
    __shared__ cuda__narrow_shared shared;
    cuda__narrow_head(&args, &shared);
}

KERNEL sherd__cuda_kernel_reduce(const __grid_constant__ sherd__cuda_reduce args) { cuda__reduce_block(&args); }

KERNEL sherd__cuda_kernel_sources(const __grid_constant__ sherd__cuda_sources args) { cuda__sources_block(&args); }

/* ---------------------------------------------------------------------------------------------------------- launchers */

static_assert(sizeof(sherd__cuda_update) <= 4096, "kernels have at most 4096 bytes of arguments");

static const struct {
    uint32_t sources;
    int type;
    void (*kernel)(sherd__cuda_sum);
} sum_kernels[] = {
#define X(suffix, sources, type) {sources, type, sherd__cuda_kernel_sum_##suffix},
    CUDA__SUM_MAP(X)
#undef X
};

template <typename Args>
static int launch(void (*kernel)(Args), const Args *args, uint64_t blocks, void *stream)
{
    if (blocks == 0)
        return cudaSuccess;
    void *parameters[] = {(void *)args};
    /* Not <<<>>>, whose outcome is in cudaGetLastError, where the client's own mistakes are too. */
    return (int)cudaLaunchKernel((const void *)kernel, dim3((unsigned)blocks), dim3(SHERD__CUDA_THREADS), parameters, 0,
                                 (cudaStream_t)stream);
}

/* As many thread blocks as run at the same time: those that walk over many tiles would else leave a last, half empty
 * round. Asked once per kernel (sherd__cuda_load_kernels); before that, a guess. */
static unsigned blocks_of(const unsigned *resident, uint64_t work, uint32_t width)
{
    uint64_t fill = (uint64_t)width * (*resident ? *resident : 4);
    return (unsigned)(work < fill ? work : fill);
}

static unsigned resident_sums[sizeof sum_kernels / sizeof *sum_kernels], resident_convert;

int sherd__cuda_launch_sum(const sherd__cuda_sum *args, uint32_t width, void *stream)
{
    uint64_t tiles = ((uint64_t)args->elems + SHERD__CUDA_SUM_TILE - 1) / SHERD__CUDA_SUM_TILE;
    for (size_t i = 0; i < sizeof sum_kernels / sizeof *sum_kernels; ++i) {
        if (sum_kernels[i].type == args->src_type &&
            (sum_kernels[i].sources == args->n_src || sum_kernels[i].sources == 0))
            return launch(sum_kernels[i].kernel, args, blocks_of(&resident_sums[i], tiles, width), stream);
    }
    return cudaErrorInvalidValue;
}

int sherd__cuda_launch_update(const sherd__cuda_update *args, void *stream)
{
    switch ((sherd__rule)args->rule) {
#define X(RULE, name, moments)                                                                                         \
    case SHERD__RULE_##RULE:                                                                                           \
        return launch(sherd__cuda_kernel_update_##name, args, args->n_tiles, stream);
        SHERD__RULE_MAP(X)
#undef X
    }
    return cudaErrorInvalidValue;
}

int sherd__cuda_launch_trust(const sherd__cuda_update *args, void *stream)
{
    switch ((sherd__rule)args->rule) {
#define X(KIND, name, moments)                                                                                         \
    case SHERD__RULE_##KIND:                                                                                           \
        return launch(sherd__cuda_kernel_trust_##name, args, args->n_tiles, stream);
        SHERD__OPTIM_TRUST_MAP(X)
#undef X
    default:
        return cudaErrorInvalidValue;
    }
}

int sherd__cuda_launch_product(const sherd__cuda_product *args, uint32_t width, void *stream)
{
    int per = sherd__cuda_product_tiles(args, 8) >= width ? 8 : 4;
#define X(suffix, kind_, per_)                                                                                         \
    if (args->kind == (kind_) && per == (per_))                                                                        \
        return launch(sherd__cuda_kernel_product_##suffix, args, sherd__cuda_product_tiles(args, per), stream);
    CUDA__PRODUCT_MAP(X)
#undef X
    return cudaErrorInvalidValue;
}

int sherd__cuda_launch_orthogonal(const sherd__cuda_orthogonal *args, sherd__cuda_part part, uint32_t width, void *stream)
{
    uint64_t tiles = ((uint64_t)(args->rows * args->cols) + SHERD__CUDA_SUM_TILE - 1) / SHERD__CUDA_SUM_TILE;
    uint64_t blocks = (uint64_t)(sherd__cuda_turn_blocks(args->rows) * sherd__cuda_turn_blocks(args->cols));
    switch (part) {
    case SHERD__CUDA_CLEAR:
        return launch(sherd__cuda_kernel_norm_clear, args, 1, stream);
    case SHERD__CUDA_NORM:
        return launch(sherd__cuda_kernel_norm, args, tiles < 4 * (uint64_t)width ? tiles : 4 * (uint64_t)width, stream);
    case SHERD__CUDA_BEGIN:
        return launch(sherd__cuda_kernel_begin, args, blocks, stream);
    case SHERD__CUDA_END:
        return launch(sherd__cuda_kernel_end, args, blocks, stream);
    }
    return cudaErrorInvalidValue;
}

int sherd__cuda_launch_zero(const sherd__cuda_zero *args, void *stream)
{
    return launch(sherd__cuda_kernel_zero, args, args->n_tiles, stream);
}

int sherd__cuda_launch_convert(const sherd__cuda_convert *args, uint32_t width, void *stream)
{
    uint64_t tile = SHERD__CUDA_VECTOR * SHERD__CUDA_THREADS, tiles = ((uint64_t)args->elems + tile - 1) / tile;
    return launch(sherd__cuda_kernel_convert, args, blocks_of(&resident_convert, tiles, width), stream);
}

int sherd__cuda_launch_narrow(const sherd__cuda_convert *args, void *stream)
{
    if (args->elems > SHERD__CUDA_NARROW_HEAD)
        return cudaErrorInvalidValue;
    return launch(sherd__cuda_kernel_narrow, args, args->elems > 0, stream);
}

int sherd__cuda_launch_reduce(const sherd__cuda_reduce *args, void *stream)
{
    return launch(sherd__cuda_kernel_reduce, args, 1, stream);
}

int sherd__cuda_launch_sources(const sherd__cuda_sources *args, void *stream)
{
    return launch(sherd__cuda_kernel_sources, args, 1, stream);
}

template <typename Args> static int load(void (*kernel)(Args), unsigned *resident = NULL)
{
    cudaFuncAttributes attributes;
    int blocks = 0, code = (int)cudaFuncGetAttributes(&attributes, (const void *)kernel);
    if (code == cudaSuccess && resident) {
        code = (int)cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, (const void *)kernel, SHERD__CUDA_THREADS, 0);
        __atomic_store_n(resident, (unsigned)blocks, __ATOMIC_RELAXED); /* GPUs of one machine differ little */
    }
    return code;
}

int sherd__cuda_load_kernels(void)
{
    int code = load(sherd__cuda_kernel_zero);
    for (size_t i = 0; code == cudaSuccess && i < sizeof sum_kernels / sizeof *sum_kernels; ++i)
        code = load(sum_kernels[i].kernel, &resident_sums[i]);
    if (code == cudaSuccess)
        code = load(sherd__cuda_kernel_convert, &resident_convert);
    if (code == cudaSuccess)
        code = load(sherd__cuda_kernel_narrow);
    if (code == cudaSuccess)
        code = load(sherd__cuda_kernel_reduce);
    if (code == cudaSuccess)
        code = load(sherd__cuda_kernel_sources);
#define X(RULE, name, moments)                                                                                         \
    if (code == cudaSuccess)                                                                                           \
        code = load(sherd__cuda_kernel_update_##name);
    SHERD__RULE_MAP(X)
#undef X
#define X(KIND, name, moments)                                                                                         \
    if (code == cudaSuccess)                                                                                           \
        code = load(sherd__cuda_kernel_trust_##name);
    SHERD__OPTIM_TRUST_MAP(X)
#undef X
#define X(suffix, kind, per)                                                                                           \
    if (code == cudaSuccess)                                                                                           \
        code = load(sherd__cuda_kernel_product_##suffix);
    CUDA__PRODUCT_MAP(X)
#undef X
    void (*const parts[])(sherd__cuda_orthogonal) = {sherd__cuda_kernel_norm_clear, sherd__cuda_kernel_norm,
                                                     sherd__cuda_kernel_begin, sherd__cuda_kernel_end};
    for (size_t i = 0; code == cudaSuccess && i < sizeof parts / sizeof *parts; ++i)
        code = load(parts[i]);
    return code;
}
