/* SPDX-License-Identifier: MIT
 *
 * The launchers on the host: the kernels' own bodies (device/cuda_body.h, cuda_body_small.h), one thread block after another, in stream
 * order. What a GPU does at once runs in rising order here; nothing may depend on that.
 */
#include "device/cuda_body_orthogonal.h"
#include "device/cuda_body_small.h"
#include "device/cuda_body_trust.h"
#include "tests/support/cuda_stub/stub.h"

typedef struct sum_launch {
    sherd__cuda_sum args;
    int64_t blocks;
} sum_launch;

typedef struct convert_launch {
    sherd__cuda_convert args;
    int64_t blocks;
} convert_launch;

static void sum_block(const sherd__cuda_sum *args, cuda__sum_shared *shared, int64_t block, int64_t blocks)
{
#define X(suffix, sources, type)                                                                                       \
    if (args->src_type == (type) && ((sources) == 0 || args->n_src == (sources))) {                                    \
        cuda__sum_block(args, shared, (sources), (type), block, blocks);                                               \
        return;                                                                                                        \
    }
    CUDA__SUM_MAP(X)
#undef X
}

static void run_sum(const void *args)
{
    const sum_launch *launch = args;
    cuda__sum_shared shared;
    for (int64_t block = 0; block < launch->blocks; block++)
        sum_block(&launch->args, &shared, block, launch->blocks);
}

static void run_update(const void *arg)
{
    const sherd__cuda_update *args = arg;
    for (uint32_t tile = 0; tile < args->n_tiles; tile++) {
        switch ((sherd__rule)args->rule) {
#define X(RULE, name, moments)                                                                                         \
    case SHERD__RULE_##RULE:                                                                                           \
        cuda__update_##name(args, tile);                                                                               \
        break;
            SHERD__RULE_MAP(X)
#undef X
        }
    }
}

static void run_trust(const void *arg)
{
    const sherd__cuda_update *args = arg;
    cuda__trust_shared shared;
    for (uint32_t tile = 0; tile < args->n_tiles; tile++) {
        switch ((sherd__rule)args->rule) {
#define X(KIND, name, moments)                                                                                         \
    case SHERD__RULE_##KIND:                                                                                           \
        cuda__trust_##name(args, &shared, tile);                                                                       \
        break;
            SHERD__OPTIM_TRUST_MAP(X)
#undef X
        default:
            break;
        }
    }
}

typedef struct orthogonal_launch {
    sherd__cuda_orthogonal args;
    sherd__cuda_part part;
} orthogonal_launch;

static void run_product(const void *arg)
{
    const sherd__cuda_product *args = arg;
    cuda__product_shared shared;
    /* As on a GPU of four multiprocessors: wide tiles where there are as many of them. */
    int per = sherd__cuda_product_tiles(args, 8) >= 4 ? 8 : 4;
    for (uint32_t block = 0; block < sherd__cuda_product_tiles(args, per); block++) {
#define X(suffix, kind_, per_)                                                                                         \
    if (args->kind == (kind_) && per == (per_))                                                                        \
        cuda__product_block(args, &shared, (kind_), (per_), block);
        CUDA__PRODUCT_MAP(X)
#undef X
    }
}

static void run_orthogonal(const void *arg)
{
    const orthogonal_launch *launch = arg;
    const sherd__cuda_orthogonal *args = &launch->args;
    int64_t blocks = sherd__cuda_turn_blocks(args->rows) * sherd__cuda_turn_blocks(args->cols), norm_blocks = 3;
    cuda__sum_shared sums;
    cuda__turn_shared turn;
    if (launch->part == SHERD__CUDA_CLEAR)
        cuda__norm_clear(args);
    for (int64_t block = 0; block < norm_blocks && launch->part == SHERD__CUDA_NORM; block++)
        cuda__norm_block(args, &sums, block, norm_blocks);
    for (int64_t block = 0; block < blocks && launch->part == SHERD__CUDA_BEGIN; block++)
        cuda__turn_block(args, &turn, 1, (uint32_t)block);
    for (int64_t block = 0; block < blocks && launch->part == SHERD__CUDA_END; block++)
        cuda__turn_block(args, &turn, 0, (uint32_t)block);
}

static void run_zero(const void *arg)
{
    const sherd__cuda_zero *args = arg;
    for (uint64_t tile = 0; tile < args->n_tiles; tile++)
        cuda__zero_tile(args, tile);
}

static void run_convert(const void *arg)
{
    const convert_launch *launch = arg;
    for (int64_t block = 0; block < launch->blocks; block++)
        cuda__convert_block(&launch->args, block, launch->blocks);
}

static void run_narrow(const void *args)
{
    cuda__narrow_shared shared;
    cuda__narrow_head(args, &shared);
}

static void run_reduce(const void *args) { cuda__reduce_block(args); }

static void run_sources(const void *args) { cuda__sources_block(args); }

int sherd__cuda_launch_sum(const sherd__cuda_sum *args, uint32_t width, void *stream)
{
    sum_launch launch = {*args, (args->elems + SHERD__CUDA_SUM_TILE - 1) / SHERD__CUDA_SUM_TILE};
    launch.blocks = launch.blocks < 8 * width ? launch.blocks : 8 * width;
    return (int)cuda_stub_launch(stream, "sum", run_sum, &launch, sizeof launch);
}

int sherd__cuda_launch_update(const sherd__cuda_update *args, void *stream)
{
    return (int)cuda_stub_launch(stream, "update", run_update, args, sizeof *args);
}

int sherd__cuda_launch_trust(const sherd__cuda_update *args, void *stream)
{
    return (int)cuda_stub_launch(stream, "trust", run_trust, args, sizeof *args);
}

int sherd__cuda_launch_product(const sherd__cuda_product *args, uint32_t width, void *stream)
{
    (void)width;
    return (int)cuda_stub_launch(stream, "product", run_product, args, sizeof *args);
}

int sherd__cuda_launch_orthogonal(const sherd__cuda_orthogonal *args, sherd__cuda_part part, uint32_t width, void *stream)
{
    orthogonal_launch launch = {*args, part};
    (void)width;
    return (int)cuda_stub_launch(stream, "orthogonal", run_orthogonal, &launch, sizeof launch);
}

int sherd__cuda_launch_zero(const sherd__cuda_zero *args, void *stream)
{
    return (int)cuda_stub_launch(stream, "zero", run_zero, args, sizeof *args);
}

int sherd__cuda_launch_convert(const sherd__cuda_convert *args, uint32_t width, void *stream)
{
    convert_launch launch = {*args, (args->elems + SHERD__CUDA_VECTOR * SHERD__CUDA_THREADS - 1) /
                                         (SHERD__CUDA_VECTOR * SHERD__CUDA_THREADS)};
    launch.blocks = launch.blocks < 8 * width ? launch.blocks : 8 * width;
    return (int)cuda_stub_launch(stream, "convert", run_convert, &launch, sizeof launch);
}

int sherd__cuda_launch_narrow(const sherd__cuda_convert *args, void *stream)
{
    if (args->elems > SHERD__CUDA_NARROW_HEAD)
        return (int)cudaErrorInvalidValue;
    return (int)cuda_stub_launch(stream, "narrow", run_narrow, args, sizeof *args);
}

int sherd__cuda_launch_reduce(const sherd__cuda_reduce *args, void *stream)
{
    return (int)cuda_stub_launch(stream, "reduce", run_reduce, args, sizeof *args);
}

int sherd__cuda_launch_sources(const sherd__cuda_sources *args, void *stream)
{
    return (int)cuda_stub_launch(stream, "sources", run_sources, args, sizeof *args);
}

int sherd__cuda_load_kernels(void) { return (int)cudaSuccess; }
