/* SPDX-License-Identifier: MIT */
#include "device/op.h"

#include <string.h>

static void run_zero(const sherd__op *op)
{
    for (uint32_t i = 0; i < op->u.zero.n; i++) {
        sherd__byte_range range = op->u.zero.ranges[i];
        memset((char *)op->u.zero.base + range.begin, 0, (size_t)(range.end - range.begin));
    }
}

static void run_convert(const sherd__op *op, const sherd__host_math *math, sherd__team *team)
{
    if (!op->u.convert.remainder)
        math->convert(team, op->u.convert.dst, op->u.convert.dst_dtype, op->u.convert.src, op->u.convert.src_dtype,
                      op->u.convert.elems, op->u.convert.add);
    else if (op->u.convert.src_dtype == SHERD_FP32)
        math->split(team, op->u.convert.dst, op->u.convert.remainder, op->u.convert.src, op->u.convert.elems);
    else
        math->join(team, op->u.convert.dst, op->u.convert.src, op->u.convert.remainder, op->u.convert.elems);
}

void sherd__op_run(const sherd__op *op, const sherd__host_math *math, sherd__team *team)
{
    switch (op->kind) {
    case SHERD__OP_COPY:
        if (op->u.copy.bytes > 0 && op->u.copy.dst != op->u.copy.src)
            math->copy(team, op->u.copy.dst, op->u.copy.src, op->u.copy.bytes);
        break;
    case SHERD__OP_ZERO:
        run_zero(op);
        break;
    case SHERD__OP_CONVERT:
        run_convert(op, math, team);
        break;
    case SHERD__OP_NARROW:
        sherd__host_narrow(math, team, op->u.convert.dst, op->u.convert.dst_dtype, op->u.convert.src_dtype,
                           op->u.convert.elems);
        break;
    case SHERD__OP_TREE_SUM:
        math->tree_sum(team, &op->u.tree_sum);
        break;
    case SHERD__OP_REDUCE_U64:
        sherd__host_reduce_u64(op->u.reduce.dst, op->u.reduce.src, op->u.reduce.n_src, op->u.reduce.offset,
                               op->u.reduce.n_sum, op->u.reduce.n_min);
        break;
    case SHERD__OP_PREPARE:
        sherd__step_prepare(op->u.prepare.rules, op->u.prepare.vote, op->u.prepare.state, op->u.prepare.out);
        break;
    case SHERD__OP_UPDATE:
        math->update(team, &op->u.update);
        break;
    case SHERD__OP_TRUST:
        math->trust(team, &op->u.update);
        break;
    case SHERD__OP_ORTHOGONAL:
        math->orthogonalise(team, &op->u.orthogonal);
        break;
    case SHERD__OP_HOST_CALL:
        op->u.call.fn(op->u.call.arg);
        break;
    case SHERD__OP_MEET:
        op->u.meet.look(op->u.meet.arg, op->u.meet.says);
        break;
    case SHERD__OP_HOOK:
    case SHERD__OP_RECORD:
    case SHERD__OP_WAIT:
    case SHERD__OP_SIGNAL:
    case SHERD__OP_AWAIT:
    case SHERD__OP_TOUCH:
    case SHERD__OP_HOST_WORK: /* see sherd__op_do_work */
        break;
    }
}

int sherd__await_satisfied(const sherd__await *await, uint32_t *which)
{
    for (uint32_t i = 0; i < await->count; i++) {
        _Atomic uint32_t *flag = await->flags[i];
        if (flag && (int32_t)(atomic_load_explicit(flag, memory_order_acquire) - await->value) < 0) {
            *which = i;
            return 0;
        }
    }
    return 1;
}

sherd_status sherd__op_hook(sherd__stream *stream, sherd__tag tag,
                            sherd_status (*fn)(const void *args, sherd__stream *stream, const sherd__tag *tag),
                            const void *args, size_t bytes)
{
    sherd__op op = {.kind = SHERD__OP_HOOK, .tag = tag, .u.hook.fn = fn};
    memcpy(op.u.hook.args, args, bytes);
    return stream->submit(stream, &op);
}

sherd_status sherd__op_copy(sherd__stream *stream, sherd__tag tag, void *dst, const void *src, uint64_t bytes)
{
    sherd__op op = {.kind = SHERD__OP_COPY, .tag = tag, .u.copy = {.dst = dst, .src = src, .bytes = bytes}};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_zero(sherd__stream *stream, sherd__tag tag, void *base, const sherd__byte_range *ranges,
                            uint32_t n)
{
    sherd__op op = {.kind = SHERD__OP_ZERO, .tag = tag, .u.zero = {.base = base, .ranges = ranges, .n = n}};
    return stream->submit(stream, &op);
}

/* Whatever reads one array as one type and writes it, or another, as another. */
static sherd_status submit_convert(sherd__stream *stream, sherd__op *op, void *dst, sherd_dtype dst_dtype,
                                   const void *src, sherd_dtype src_dtype, int64_t elems)
{
    op->u.convert.dst = dst;
    op->u.convert.src = src;
    op->u.convert.elems = elems;
    op->u.convert.dst_dtype = dst_dtype;
    op->u.convert.src_dtype = src_dtype;
    return stream->submit(stream, op);
}

sherd_status sherd__op_convert(sherd__stream *stream, sherd__tag tag, void *dst, sherd_dtype dst_dtype, const void *src,
                               sherd_dtype src_dtype, int64_t elems, int32_t add)
{
    sherd__op op = {.kind = SHERD__OP_CONVERT, .tag = tag, .u.convert.add = add};
    return submit_convert(stream, &op, dst, dst_dtype, src, src_dtype, elems);
}

sherd_status sherd__op_narrow(sherd__stream *stream, sherd__tag tag, void *data, sherd_dtype to, sherd_dtype from,
                              int64_t elems)
{
    sherd__op op = {.kind = SHERD__OP_NARROW, .tag = tag};
    return submit_convert(stream, &op, data, to, data, from, elems);
}

static sherd_status convert_halves(sherd__stream *stream, sherd__tag tag, void *dst, sherd_dtype dst_dtype,
                                   const void *src, const uint16_t *remainder, int64_t elems)
{
    sherd__op op = {.kind = SHERD__OP_CONVERT, .tag = tag, .u.convert.remainder = (uint16_t *)remainder};
    return submit_convert(stream, &op, dst, dst_dtype, src, dst_dtype == SHERD_FP32 ? SHERD_BF16 : SHERD_FP32, elems);
}

sherd_status sherd__op_split(sherd__stream *stream, sherd__tag tag, uint16_t *half, uint16_t *remainder,
                             const float *values, int64_t elems)
{
    return convert_halves(stream, tag, half, SHERD_BF16, values, remainder, elems);
}

sherd_status sherd__op_join(sherd__stream *stream, sherd__tag tag, float *values, const uint16_t *half,
                            const uint16_t *remainder, int64_t elems)
{
    return convert_halves(stream, tag, values, SHERD_FP32, half, remainder, elems);
}

sherd_status sherd__op_tree_sum(sherd__stream *stream, sherd__tag tag, const sherd__tree_sum *sum)
{
    sherd__op op = {.kind = SHERD__OP_TREE_SUM, .tag = tag, .u.tree_sum = *sum};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_reduce_u64(sherd__stream *stream, sherd__tag tag, uint64_t *dst, const void *const *src,
                                  uint32_t n_src, uint64_t offset, uint32_t n_sum, uint32_t n_min)
{
    sherd__op op = {.kind = SHERD__OP_REDUCE_U64, .tag = tag};
    op.u.reduce.dst = dst;
    op.u.reduce.src = src;
    op.u.reduce.offset = offset;
    op.u.reduce.n_src = n_src;
    op.u.reduce.n_sum = n_sum;
    op.u.reduce.n_min = n_min;
    return stream->submit(stream, &op);
}

sherd_status sherd__op_prepare(sherd__stream *stream, sherd__tag tag, const sherd__step_rules *rules,
                               const uint64_t *vote, sherd__step_state *state, sherd__step_scalars *out)
{
    sherd__op op = {.kind = SHERD__OP_PREPARE, .tag = tag};
    op.u.prepare.rules = rules;
    op.u.prepare.vote = vote;
    op.u.prepare.state = state;
    op.u.prepare.out = out;
    return stream->submit(stream, &op);
}

sherd_status sherd__op_update(sherd__stream *stream, sherd__tag tag, const sherd__update *update)
{
    sherd__op op = {.kind = SHERD__OP_UPDATE, .tag = tag, .u.update = *update};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_trust(sherd__stream *stream, sherd__tag tag, const sherd__update *update)
{
    sherd__op op = {.kind = SHERD__OP_TRUST, .tag = tag, .u.update = *update};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_orthogonalise(sherd__stream *stream, sherd__tag tag, const sherd__orthogonal *orthogonal)
{
    sherd__op op = {.kind = SHERD__OP_ORTHOGONAL, .tag = tag, .u.orthogonal = *orthogonal};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_signal(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value)
{
    sherd__op op = {.kind = SHERD__OP_SIGNAL, .tag = tag, .u.signal = {.flag = flag, .value = value}};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_await(sherd__stream *stream, sherd__tag tag, const sherd__await *await)
{
    sherd__op op = {.kind = SHERD__OP_AWAIT, .tag = tag, .u.await = *await};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_announce(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value,
                                sherd__post *post)
{
    (void)post;
    return sherd__op_signal(stream, tag, flag, value);
}

sherd_status sherd__op_meet(sherd__stream *stream, sherd__tag tag, const sherd__meet *meet)
{
    sherd__op look = {.kind = SHERD__OP_MEET, .tag = tag, .u.meet = *meet};
    sherd_status status = SHERD_OK;
    for (int i = 0; i < 2 && status == SHERD_OK; i++)
        status = sherd__op_signal(stream, tag, meet->word[i], meet->says[i]);
    if (status == SHERD_OK)
        status = sherd__op_signal(stream, tag, meet->flag, meet->value);
    if (status == SHERD_OK)
        status = sherd__op_await(stream, tag, &meet->await);
    return status == SHERD_OK ? stream->submit(stream, &look) : status;
}

sherd_status sherd__op_host_call(sherd__stream *stream, sherd__tag tag, sherd__host_fn fn, void *arg,
                                 const sherd__access *accesses, uint32_t n)
{
    sherd__op op = {.kind = SHERD__OP_HOST_CALL, .tag = tag};
    if (n > SHERD__OP_ACCESSES) {
        sherd_error error;
        sherd__fail(&error, SHERD_EINVAL, "host call '%s' declares %u accesses; %d are possible: split the call",
                    tag.name, n, SHERD__OP_ACCESSES);
        return sherd__device_poison(stream->device, &error);
    }
    op.u.call.fn = fn;
    op.u.call.arg = arg;
    op.u.call.n = n;
    for (uint32_t i = 0; i < n; i++)
        op.u.call.access[i] = accesses[i];
    return stream->submit(stream, &op);
}

sherd_status sherd__op_host_work(sherd__stream *stream, sherd__tag tag, sherd__work_fn fn, void *arg,
                                 const sherd__access *accesses, uint32_t n)
{
    sherd__op op = {.kind = SHERD__OP_HOST_WORK, .tag = tag, .u.work = {.fn = fn, .arg = arg, .access = accesses, .n = n}};
    return stream->submit(stream, &op);
}

sherd_status sherd__op_do_work(sherd_device *device, const sherd__op *op)
{
    sherd_error error = {SHERD_OK, -1, ""};
    sherd_status status = op->u.work.fn(op->u.work.arg, &error);
    return status == SHERD_OK ? SHERD_OK : sherd__device_poison(device, &error);
}
