/* SPDX-License-Identifier: MIT */
#include "device/check.h"

static void access_tree_sum(const sherd__tree_sum *sum, sherd__access_fn fn, void *ctx)
{
    uint64_t src_bytes = (uint64_t)sum->elems * sherd_dtype_bytes(sum->src_dtype);
    for (uint32_t i = 0; i < sum->n_src; i++)
        fn(ctx, (const char *)sum->src[i] + sum->src_offset, src_bytes, 0);
    fn(ctx, sum->dst, (uint64_t)sum->elems * sherd_dtype_bytes(sum->dst_dtype), 1);
    if (sum->norm)
        fn(ctx, sum->norm, sizeof *sum->norm, 1);
}

/* `bytes` from byte `at` of one array of the state: updated in place, or read here and written there. */
static void access_state(const void *from, const void *out, uint64_t at, uint64_t bytes, sherd__access_fn fn, void *ctx)
{
    if (!out || out == from) {
        fn(ctx, (const char *)from + at, bytes, 1);
        return;
    }
    fn(ctx, (const char *)from + at, bytes, 0);
    fn(ctx, (const char *)out + at, bytes, 1);
}

static void access_update_span(const sherd__update *update, int64_t begin, int64_t end, sherd__access_fn fn, void *ctx)
{
    uint64_t n = (uint64_t)(end - begin), at = (uint64_t)(begin - update->origin);
    uint64_t sum_width = sherd_dtype_bytes(update->sum_dtype), width = sherd_dtype_bytes(update->moment_dtype);
    fn(ctx, (const char *)update->sum + at * sum_width, n * sum_width, 0);
    if (update->remainder)
        fn(ctx, update->remainder + at, n * sizeof *update->remainder, 1);
    else
        access_state(update->master, update->master_out, at * sizeof(float), n * sizeof(float), fn, ctx);
    for (int m = 0; m < SHERD__MAX_MOMENTS; m++)
        if (update->moment[m])
            access_state(update->moment[m], update->moment_out[m], at * width, n * width, fn, ctx);
    if (update->emit)
        fn(ctx, update->emit + at, n * sizeof *update->emit, 1);
}

/* What belongs to the parameters of all spans, which rise. */
static void access_tensors(const sherd__update *update, const void *array, uint64_t bytes, int32_t write, sherd__access_fn fn,
                           void *ctx)
{
    uint32_t first, last;
    if (!array || update->n_spans == 0)
        return;
    first = update->spans[0].tensor;
    last = update->spans[update->n_spans - 1].tensor;
    fn(ctx, (const char *)array + first * bytes, (last - first + 1) * bytes, write);
}

static void access_update(const sherd__update *update, sherd__access_fn fn, void *ctx)
{
    fn(ctx, update->scalars, sizeof *update->scalars, 0);
    access_tensors(update, update->ratios, sizeof *update->ratios, 0, fn, ctx);
    for (uint32_t i = 0; i < update->n_spans;) {
        int64_t begin = update->spans[i].begin, end = update->spans[i].end;
        for (i++; i < update->n_spans && update->spans[i].begin == end; i++)
            end = update->spans[i].end;
        access_update_span(update, begin, end, fn, ctx);
    }
}

/* Read only. */
static void access_master(const sherd__update *update, uint64_t at, uint64_t n, sherd__access_fn fn, void *ctx)
{
    if (!update->remainder) {
        fn(ctx, update->master + at, n * sizeof *update->master, 0);
        return;
    }
    fn(ctx, update->remainder + at, n * sizeof *update->remainder, 0);
    fn(ctx, update->emit + at, n * sizeof *update->emit, 0);
}

static void access_trust(const sherd__update *update, sherd__access_fn fn, void *ctx)
{
    uint64_t sum_width = sherd_dtype_bytes(update->sum_dtype), width = sherd_dtype_bytes(update->moment_dtype);
    fn(ctx, update->scalars, sizeof *update->scalars, 0);
    access_tensors(update, update->trust, sizeof *update->trust, 1, fn, ctx);
    for (uint32_t i = 0; i < update->n_spans; i++) {
        uint64_t n = (uint64_t)(update->spans[i].end - update->spans[i].begin);
        uint64_t at = (uint64_t)(update->spans[i].begin - update->origin);
        fn(ctx, (const char *)update->sum + at * sum_width, n * sum_width, 0);
        access_master(update, at, n, fn, ctx);
        for (int m = 0; m < SHERD__MAX_MOMENTS; m++)
            if (update->moment[m])
                fn(ctx, (const char *)update->moment[m] + at * width, n * width, 0);
    }
}

static void access_orthogonal(const sherd__orthogonal *job, sherd__access_fn fn, void *ctx)
{
    if (job->scalars)
        fn(ctx, job->scalars, sizeof *job->scalars, 0);
    fn(ctx, job->matrix, (uint64_t)(job->rows * job->cols) * sizeof *job->matrix, 1);
    fn(ctx, job->scratch, (uint64_t)sherd__muon_scratch_elems(job->rows, job->cols) * sizeof *job->scratch, 1);
}

static void access_reduce(const sherd__op *op, sherd__access_fn fn, void *ctx)
{
    uint64_t bytes = ((uint64_t)op->u.reduce.n_sum + op->u.reduce.n_min) * sizeof(uint64_t);
    for (uint32_t i = 0; i < op->u.reduce.n_src; i++)
        fn(ctx, (const char *)op->u.reduce.src[i] + op->u.reduce.offset, bytes, 0);
    fn(ctx, op->u.reduce.dst, bytes, 1);
}

void sherd__op_accesses(const sherd__op *op, sherd__access_fn fn, void *ctx)
{
    switch (op->kind) {
    case SHERD__OP_COPY:
        if (op->u.copy.dst != op->u.copy.src) {
            fn(ctx, op->u.copy.src, op->u.copy.bytes, 0);
            fn(ctx, op->u.copy.dst, op->u.copy.bytes, 1);
        }
        break;
    case SHERD__OP_ZERO:
        for (uint32_t i = 0; i < op->u.zero.n; i++)
            fn(ctx, (char *)op->u.zero.base + op->u.zero.ranges[i].begin,
               op->u.zero.ranges[i].end - op->u.zero.ranges[i].begin, 1);
        break;
    case SHERD__OP_CONVERT:
        fn(ctx, op->u.convert.src, (uint64_t)op->u.convert.elems * sherd_dtype_bytes(op->u.convert.src_dtype), 0);
        fn(ctx, op->u.convert.dst, (uint64_t)op->u.convert.elems * sherd_dtype_bytes(op->u.convert.dst_dtype), 1);
        if (op->u.convert.remainder)
            fn(ctx, op->u.convert.remainder, (uint64_t)op->u.convert.elems * sizeof *op->u.convert.remainder,
               op->u.convert.src_dtype == SHERD_FP32);
        break;
    case SHERD__OP_NARROW:
        fn(ctx, op->u.convert.dst, (uint64_t)op->u.convert.elems * sherd_dtype_bytes(op->u.convert.src_dtype), 1);
        break;
    case SHERD__OP_TREE_SUM:
        access_tree_sum(&op->u.tree_sum, fn, ctx);
        break;
    case SHERD__OP_REDUCE_U64:
        access_reduce(op, fn, ctx);
        break;
    case SHERD__OP_PREPARE:
        fn(ctx, op->u.prepare.vote, (SHERD__VOTE_SUMS + SHERD__VOTE_MINS) * sizeof(uint64_t), 0);
        fn(ctx, op->u.prepare.state, sizeof *op->u.prepare.state, 1);
        fn(ctx, op->u.prepare.out, sizeof *op->u.prepare.out, 1);
        break;
    case SHERD__OP_UPDATE:
        access_update(&op->u.update, fn, ctx);
        break;
    case SHERD__OP_TRUST:
        access_trust(&op->u.update, fn, ctx);
        break;
    case SHERD__OP_ORTHOGONAL:
        access_orthogonal(&op->u.orthogonal, fn, ctx);
        break;
    case SHERD__OP_HOST_CALL:
    case SHERD__OP_TOUCH:
        for (uint32_t i = 0; i < op->u.call.n; i++)
            fn(ctx, op->u.call.access[i].address, op->u.call.access[i].bytes, op->u.call.access[i].write);
        break;
    case SHERD__OP_HOST_WORK:
        for (uint32_t i = 0; i < op->u.work.n; i++)
            fn(ctx, op->u.work.access[i].address, op->u.work.access[i].bytes, op->u.work.access[i].write);
        break;
    case SHERD__OP_RECORD:
    case SHERD__OP_WAIT:
    case SHERD__OP_SIGNAL:
    case SHERD__OP_AWAIT:
    case SHERD__OP_MEET:
    case SHERD__OP_HOOK:
        break;
    }
}
