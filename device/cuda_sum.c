/* SPDX-License-Identifier: MIT
 *
 * Sums of many arrays to CUDA. The sources travel with the launch, as parameters; more than fit there go before it into
 * a table in the stream's pinned memory, which small kernels write in the stream's order. So the caller's table need
 * not outlive the call, a former sum still has its own, and nobody waits.
 */
#include "device/cuda.h"

static sherd_status check(sherd__cuda_stream *stream, const sherd__tag *tag, int code, const char *call)
{
    return sherd__cuda_check(stream->base.device, code, call, stream->base.name, tag);
}

sherd_status sherd__cuda_refuse(sherd__cuda_stream *stream, const sherd__op *op, const char *why)
{
    sherd_error error;
    sherd__fail(&error, SHERD_EUNSUPPORTED, "stream '%s', '%s' of bucket %d: %s", stream->base.name,
                op->tag.name ? op->tag.name : "", op->tag.bucket, why);
    return sherd__device_poison(stream->base.device, &error);
}

static const void *source(const void *const *src, uint64_t offset, uint32_t i)
{
    return (const char *)src[i] + offset;
}

static sherd_status fill_table(sherd__cuda_stream *stream, const sherd__op *op, const void *const *src, uint64_t offset,
                               uint32_t n_src)
{
    sherd_status status = SHERD_OK;
    for (uint32_t at = 0; status == SHERD_OK && at < n_src; at += SHERD__CUDA_SOURCES) {
        sherd__cuda_sources args = {.table = stream->pinned->sources + at};
        args.n = n_src - at < SHERD__CUDA_SOURCES ? n_src - at : SHERD__CUDA_SOURCES;
        for (uint32_t i = 0; i < args.n; i++)
            args.src[i] = source(src, offset, at + i);
        status = sherd__cuda_pace(stream);
        if (status == SHERD_OK)
            status = check(stream, &op->tag, sherd__cuda_launch_sources(&args, stream->handle), "sources kernel");
    }
    return status;
}

static int aligned(const void *address)
{
    return (uintptr_t)address % SHERD__CUDA_VECTOR_BYTES == 0;
}

static int sum_aligned(const sherd__tree_sum *sum)
{
    int good = aligned(sum->dst) && sum->elems % SHERD__NORM_BLOCK == 0;
    for (uint32_t i = 0; i < sum->n_src; i++)
        good = good && aligned(source(sum->src, sum->src_offset, i));
    return good;
}

sherd_status sherd__cuda_issue_tree_sum(sherd__cuda_stream *stream, const sherd__op *op)
{
    const sherd__tree_sum *sum = &op->u.tree_sum;
    sherd__cuda_sum args = {.dst = sum->dst, .norm = sum->norm, .elems = sum->elems, .first_block = sum->first_block};
    sherd_status status = SHERD_OK;
    args.n_src = sum->n_src;
    args.src_type = (uint8_t)sum->src_dtype;
    args.dst_type = (uint8_t)sum->dst_dtype;
    args.add = sum->add != 0;
    args.narrow = sum->narrow != 0;
    if (sum->n_src == 0 || sum->n_src > SHERD__CUDA_TABLE)
        return sherd__cuda_refuse(stream, op, "a sum of no or of more than 4096 contributions");
    if (!sum_aligned(sum))
        return sherd__cuda_refuse(stream, op, "a sum that is not of whole blocks of 256 elements at 16 bytes");
    if (sum->n_src > SHERD__CUDA_SOURCES) {
        status = fill_table(stream, op, sum->src, sum->src_offset, sum->n_src);
        args.table = stream->pinned->sources;
    }
    for (uint32_t i = 0; !args.table && i < sum->n_src; i++)
        args.src[i] = source(sum->src, sum->src_offset, i);
    if (status == SHERD_OK)
        status = sherd__cuda_pace(stream);
    if (status != SHERD_OK)
        return status;
    return check(stream, &op->tag, sherd__cuda_launch_sum(&args, sherd__cuda_width(stream), stream->handle),
                 "tree sum kernel");
}

sherd_status sherd__cuda_issue_reduce(sherd__cuda_stream *stream, const sherd__op *op)
{
    const void *const *src = op->u.reduce.src;
    sherd__cuda_reduce args = {.dst = op->u.reduce.dst, .n_src = op->u.reduce.n_src};
    sherd_status status = SHERD_OK;
    args.n_sum = op->u.reduce.n_sum;
    args.n_min = op->u.reduce.n_min;
    if (args.n_src > SHERD__CUDA_TABLE)
        return sherd__cuda_refuse(stream, op, "a reduction of more than 4096 arrays");
    if (args.n_src > SHERD__CUDA_SOURCES) {
        status = fill_table(stream, op, src, op->u.reduce.offset, args.n_src);
        args.table = (const uint64_t *const *)(const void *)stream->pinned->sources;
    }
    for (uint32_t i = 0; !args.table && i < args.n_src; i++)
        args.src[i] = source(src, op->u.reduce.offset, i);
    if (status == SHERD_OK)
        status = sherd__cuda_pace(stream);
    if (status != SHERD_OK)
        return status;
    return check(stream, &op->tag, sherd__cuda_launch_reduce(&args, stream->handle), "reduction kernel");
}
