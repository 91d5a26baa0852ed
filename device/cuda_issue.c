/* SPDX-License-Identifier: MIT
 *
 * One operation to CUDA: waits that hold the issuing thread, then launches, copies and callbacks. Tables of spans
 * are read here and travel with the launch; sums are in cuda_sum.c.
 *
 * Flags of other ranks are words in host memory. An await holds the issuing thread until the flags are there. Where
 * ranks are threads of one process, a flag has a post (cuda_post.c): it is set here and now, and the await lets the
 * stream wait for the post's event. Elsewhere a signal is a callback in stream order that stores and wakes: what a peer
 * wrote before it signalled is visible to kernels issued after, because its kernels had ended before its callback ran.
 * Both ends of a collective are one operation each: one callback, or none.
 *
 * The scalars of a step are computed on the host, by the same code as on every device, in a callback between two
 * copies: a few microseconds once a step, and nobody waits.
 */
#include <string.h>

#include "device/cuda.h"
#include "device/cuda_nvtx.h"
#include "host/futex.h"
#include "optim/list.h"

/* ------------------------------------------------------------------------------------------------------------ pacing
 */

static sherd_status check(sherd__cuda_stream *stream, const sherd__tag *tag, int code, const char *call)
{
    return sherd__cuda_check(stream->base.device, code, call, stream->base.name, tag);
}

sherd_status sherd__cuda_pace(sherd__cuda_stream *stream)
{
    if (++stream->since_mark < SHERD__CUDA_MARK_EVERY)
        return SHERD_OK;
    stream->since_mark = 0;
    int code = (int)cudaEventRecord(stream->marks[stream->mark], stream->handle);
    if (code != (int)cudaSuccess)
        return check(stream, NULL, code, "cudaEventRecord");
    stream->marked[stream->mark] = 1;
    stream->mark = (stream->mark + 1) % SHERD__CUDA_MARKS;
    if (!stream->marked[stream->mark])
        return SHERD_OK;
    return sherd__cuda_await_reached(stream->base.device, stream->marks[stream->mark], stream->base.name,
                                     "stream is full");
}

/* --------------------------------------------------------------------------------------------------------- callbacks
 */

static void run_prepare(const sherd__cuda_callback *self)
{
    sherd__cuda_pinned *pinned = self->stream->pinned;
    sherd__step_prepare(self->u.rules, pinned->vote, &pinned->state, &pinned->scalars);
}

static void store_arrival(_Atomic uint32_t *const word[3], const uint32_t says[3])
{
    for (int i = 0; i < 3; i++)
        atomic_store_explicit(word[i], says[i], memory_order_release);
    sherd__futex_wake_all(word[2], SHERD__FUTEX_SHARED);
}

/* On CUDA's thread. In a poisoned device nothing is carried out, as on the host. */
static void CUDART_CB callback_main(void *arg)
{
    const sherd__cuda_callback *self = arg;
    sherd__cuda_stream *stream = self->stream;
    if (atomic_load_explicit(&stream->base.device->failed, memory_order_acquire))
        return;
    switch (self->kind) {
    case SHERD__CUDA_SIGNAL:
        atomic_store_explicit(self->u.signal.flag, self->u.signal.value, memory_order_release);
        sherd__futex_wake_all(self->u.signal.flag, SHERD__FUTEX_SHARED);
        break;
    case SHERD__CUDA_ARRIVE:
        store_arrival(self->u.arrive.word, self->u.arrive.says);
        break;
    case SHERD__CUDA_CALL:
        self->u.call.fn(self->u.call.arg);
        break;
    case SHERD__CUDA_PREPARE:
        run_prepare(self);
        break;
    case SHERD__CUDA_STAMP_BEGIN:
        stream->stamp_ns = sherd__now_ns();
        break;
    case SHERD__CUDA_STAMP_END:
        sherd__trace_add(stream->base.device, stream->base.name, self->tag, stream->stamp_ns, sherd__now_ns());
        break;
    }
}

/* Pacing bounds how many are pending, so a place that comes round again is free. */
static sherd_status call_back(sherd__cuda_stream *stream, const sherd__cuda_callback *what)
{
    sherd_status status = sherd__cuda_pace(stream);
    if (status != SHERD_OK)
        return status;
    sherd__cuda_callback *place = &stream->callbacks[stream->callback];
    stream->callback = (stream->callback + 1) % SHERD__CUDA_CALLBACKS;
    *place = *what;
    place->stream = stream;
    return check(stream, &what->tag, (int)cudaLaunchHostFunc(stream->handle, callback_main, place),
                 "cudaLaunchHostFunc");
}

static sherd_status stamp(sherd__cuda_stream *stream, const sherd__op *op, sherd__cuda_callback_kind kind)
{
    sherd__cuda_callback what = {.kind = kind, .tag = op->tag};
    return stream->base.device->trace ? call_back(stream, &what) : SHERD_OK;
}

/* Behind the work given so far, before the flag says so. */
static sherd_status post(sherd__cuda_stream *stream, const sherd__tag *tag, sherd__post *to, uint32_t value)
{
    sherd_status status = sherd__cuda_pace(stream);
    if (status != SHERD_OK)
        return status;
    return check(stream, tag, sherd__cuda_post_record(to, value, stream->handle), "cudaEventRecord");
}

static sherd_status issue_signal(sherd__cuda_stream *stream, const sherd__op *op)
{
    if (op->u.signal.post) {
        sherd_status status = post(stream, &op->tag, op->u.signal.post, op->u.signal.value);
        if (status == SHERD_OK) {
            atomic_store_explicit(op->u.signal.flag, op->u.signal.value, memory_order_release);
            sherd__futex_wake_all(op->u.signal.flag, SHERD__FUTEX_SHARED);
        }
        return status;
    }
    sherd__cuda_callback what = {.kind = SHERD__CUDA_SIGNAL, .tag = op->tag};
    what.u.signal.flag = op->u.signal.flag;
    what.u.signal.value = op->u.signal.value;
    return call_back(stream, &what);
}

static sherd_status issue_arrival(sherd__cuda_stream *stream, const sherd__op *op)
{
    const sherd__meet *meet = &op->u.meet;
    sherd__cuda_callback what = {.kind = SHERD__CUDA_ARRIVE, .tag = op->tag};
    for (int i = 0; i < 2; i++) {
        what.u.arrive.word[i] = meet->word[i];
        what.u.arrive.says[i] = meet->says[i];
    }
    what.u.arrive.word[2] = meet->flag;
    what.u.arrive.says[2] = meet->value;
    if (!meet->post)
        return call_back(stream, &what);
    sherd_status status = post(stream, &op->tag, meet->post, meet->value);
    if (status == SHERD_OK)
        store_arrival(what.u.arrive.word, what.u.arrive.says);
    return status;
}

/* All flags are there: what their posts stand for has been issued, and the stream waits for it. */
static sherd_status join_posts(sherd__cuda_stream *stream, const sherd__op *op, const sherd__await *await)
{
    sherd_status status = SHERD_OK;
    for (uint32_t i = 0; await->posts && i < await->count && status == SHERD_OK; i++) {
        _Atomic uint32_t *flag = await->flags[i];
        uint32_t reached = flag ? atomic_load_explicit(flag, memory_order_acquire) : 0;
        const sherd__post *at = flag ? (const sherd__post *)(uintptr_t)atomic_load(await->posts[i]) : NULL;
        if (!at)
            continue;
        status = sherd__cuda_pace(stream);
        if (status == SHERD_OK)
            status = check(stream, &op->tag, sherd__cuda_post_wait(at, await->value, reached, stream->handle),
                           "cudaStreamWaitEvent");
    }
    return status;
}

static sherd_status issue_await(sherd__cuda_stream *stream, const sherd__op *op)
{
    return join_posts(stream, op, &op->u.await);
}

/* The second half of a meeting; the look is the issuing thread's: everything it looks at has been said. */
static sherd_status issue_meet(sherd__cuda_stream *stream, const sherd__op *op)
{
    sherd_status status = join_posts(stream, op, &op->u.meet.await);
    if (status == SHERD_OK)
        op->u.meet.look(op->u.meet.arg, op->u.meet.says);
    return status == SHERD_OK ? sherd__device_error(stream->base.device, NULL) : status;
}

static sherd_status issue_host_call(sherd__cuda_stream *stream, const sherd__op *op)
{
    sherd__cuda_callback what = {.kind = SHERD__CUDA_CALL, .tag = op->tag};
    what.u.call.fn = op->u.call.fn;
    what.u.call.arg = op->u.call.arg;
    return call_back(stream, &what);
}

/* ------------------------------------------------------------------------------------------------------------ copies
 */

static sherd_status copy_bytes(sherd__cuda_stream *stream, const sherd__op *op, void *dst, const void *src,
                               uint64_t bytes)
{
    sherd_status status = sherd__cuda_pace(stream);
    if (status != SHERD_OK)
        return status;
    int code = (int)cudaMemcpyAsync(dst, src, (size_t)bytes, cudaMemcpyDefault, stream->handle);
    return check(stream, &op->tag, code, "cudaMemcpyAsync");
}

static sherd_status ask_pageable(sherd__cuda_stream *stream, const sherd__op *op, const void *address, int *out)
{
    return check(stream, &op->tag, sherd__cuda_pageable(address, out), "cudaPointerGetAttributes");
}

/* A copy of pageable memory may block in CUDA until the stream has come to it: that is waited for first, where it can
 * time out. */
static sherd_status issue_copy(sherd__cuda_stream *stream, const sherd__op *op)
{
    void *dst = op->u.copy.dst;
    const void *src = op->u.copy.src;
    int to = 0, from = 0;
    if (op->u.copy.bytes == 0 || dst == src)
        return SHERD_OK;
    sherd_status status = ask_pageable(stream, op, dst, &to);
    if (status == SHERD_OK)
        status = ask_pageable(stream, op, src, &from);
    if (status == SHERD_OK && (to || from))
        status = sherd__cuda_await_idle(stream, "copy of pageable memory");
    return status == SHERD_OK ? copy_bytes(stream, op, dst, src, op->u.copy.bytes) : status;
}

static sherd_status issue_prepare(sherd__cuda_stream *stream, const sherd__op *op)
{
    sherd__cuda_pinned *pinned = stream->pinned;
    sherd__cuda_callback what = {.kind = SHERD__CUDA_PREPARE, .tag = op->tag, .u.rules = op->u.prepare.rules};
    sherd_status status = copy_bytes(stream, op, pinned->vote, op->u.prepare.vote, sizeof pinned->vote);
    if (status == SHERD_OK)
        status = copy_bytes(stream, op, &pinned->state, op->u.prepare.state, sizeof pinned->state);
    if (status == SHERD_OK)
        status = call_back(stream, &what);
    if (status == SHERD_OK)
        status = copy_bytes(stream, op, op->u.prepare.state, &pinned->state, sizeof pinned->state);
    if (status == SHERD_OK)
        status = copy_bytes(stream, op, op->u.prepare.out, &pinned->scalars, sizeof pinned->scalars);
    return status;
}

/* ----------------------------------------------------------------------------------------------------------- kernels
 */

uint32_t sherd__cuda_width(const sherd__cuda_stream *stream)
{
    return ((const sherd__cuda_device *)stream->base.device)->width;
}

static int aligned(const void *address, uint64_t unit)
{
    return (uintptr_t)address % unit == 0;
}

static int update_vectors(const sherd__update *update)
{
    int good = aligned(update->sum, SHERD__CUDA_VECTOR_BYTES) && aligned(update->master, SHERD__CUDA_VECTOR_BYTES) &&
               aligned(update->master_out, SHERD__CUDA_VECTOR_BYTES) &&
               aligned(update->emit, SHERD__CUDA_VECTOR_BYTES) && aligned(update->remainder, SHERD__CUDA_VECTOR_BYTES);
    for (uint32_t m = 0; m < SHERD__MAX_MOMENTS; m++)
        good = good && aligned(update->moment[m], SHERD__CUDA_VECTOR_BYTES) &&
               aligned(update->moment_out[m], SHERD__CUDA_VECTOR_BYTES);
    return good;
}

/* Spans [*at, …) as many as fit; returns how many tiles they are. */
static void fill_spans(sherd__cuda_update *args, const sherd__update *update, uint32_t *at)
{
    args->n_spans = args->n_tiles = 0;
    for (; *at < update->n_spans && args->n_spans < SHERD__CUDA_SPANS; ++*at) {
        const sherd__span *span = &update->spans[*at];
        int64_t elems = span->end - span->begin;
        int64_t tiles = (elems + SHERD__CUDA_UPDATE_TILE - 1) / SHERD__CUDA_UPDATE_TILE;
        if (elems <= 0)
            continue;
        if (args->n_spans > 0 && args->n_tiles + tiles > INT32_MAX)
            break; /* a grid has at most 2^31 - 1 thread blocks */
        args->span[args->n_spans++] = (sherd__cuda_span){.begin = span->begin - update->origin,
                                                         .end = span->end - update->origin,
                                                         .group = span->group,
                                                         .tensor = span->tensor,
                                                         .first_tile = args->n_tiles};
        args->vectors = args->vectors && (span->begin - update->origin) % SHERD__CUDA_VECTOR == 0;
        args->n_tiles += (uint32_t)tiles;
    }
}

/* An update, or the pass before it, in as many launches as its spans take. */
static sherd_status issue_spans(sherd__cuda_stream *stream, const sherd__op *op,
                                int (*launch)(const sherd__cuda_update *args, void *stream), const char *what)
{
    const sherd__update *update = &op->u.update;
    sherd__cuda_update args = {.scalars = update->scalars, .sum = update->sum, .master = update->master};
    sherd_status status = SHERD_OK;
    args.ratios = update->ratios;
    args.trust = update->trust;
    args.emit = update->emit;
    args.remainder = update->remainder;
    args.rule = (uint8_t)sherd__rule_of(update->kind, update->part);
    args.sum_type = (uint8_t)update->sum_dtype;
    args.moment_type = (uint8_t)update->moment_dtype;
    args.emit_type = update->emit_dtype == SHERD_FP16 ? SHERD_FP16 : SHERD_BF16;
    args.master_out = update->master_out ? update->master_out : update->master;
    for (uint32_t m = 0; m < SHERD__MAX_MOMENTS; m++) {
        args.moment[m] = update->moment[m];
        args.moment_out[m] = update->moment_out[m] ? update->moment_out[m] : update->moment[m];
    }
    for (uint32_t at = 0; status == SHERD_OK && at < update->n_spans;) {
        args.vectors = (uint8_t)update_vectors(update);
        fill_spans(&args, update, &at);
        status = sherd__cuda_pace(stream);
        if (status == SHERD_OK && args.n_tiles > 0)
            status = check(stream, &op->tag, launch(&args, stream->handle), what);
    }
    return status;
}

static sherd_status issue_update(sherd__cuda_stream *stream, const sherd__op *op)
{
    return issue_spans(stream, op, sherd__cuda_launch_update, "update kernel");
}

static sherd_status issue_trust(sherd__cuda_stream *stream, const sherd__op *op)
{
    return issue_spans(stream, op, sherd__cuda_launch_trust, "trust kernel");
}

static sherd_status issue_zero(sherd__cuda_stream *stream, const sherd__op *op)
{
    sherd__cuda_zero args = {.base = op->u.zero.base};
    sherd_status status = SHERD_OK;
    for (uint32_t at = 0; status == SHERD_OK && at < op->u.zero.n;) {
        args.n_ranges = 0;
        args.n_tiles = 0;
        for (; at < op->u.zero.n && args.n_ranges < SHERD__CUDA_RANGES; at++) {
            sherd__byte_range range = op->u.zero.ranges[at];
            if (range.end <= range.begin)
                continue;
            args.range[args.n_ranges++] = (sherd__cuda_zero_range){range.begin, range.end, args.n_tiles};
            args.n_tiles += (range.end - range.begin + SHERD__CUDA_ZERO_TILE - 1) / SHERD__CUDA_ZERO_TILE;
        }
        status = sherd__cuda_pace(stream);
        if (status == SHERD_OK && args.n_ranges > 0)
            status = check(stream, &op->tag, sherd__cuda_launch_zero(&args, stream->handle), "zero kernel");
    }
    return status;
}

/* at: of the operation's elements, where dst and src begin. */
static sherd_status launch_convert(sherd__cuda_stream *stream, const sherd__op *op, void *dst, const void *src,
                                   int64_t at, int64_t elems)
{
    sherd__cuda_convert args = {.dst = dst, .src = src, .elems = elems, .add = op->u.convert.add != 0};
    args.remainder = op->u.convert.remainder ? op->u.convert.remainder + at : NULL;
    args.dst_type = (uint8_t)op->u.convert.dst_dtype;
    args.src_type = (uint8_t)op->u.convert.src_dtype;
    args.vectors = aligned(dst, SHERD__CUDA_VECTOR_BYTES) && aligned(src, SHERD__CUDA_VECTOR_BYTES) &&
                   aligned(args.remainder, SHERD__CUDA_VECTOR_BYTES);
    sherd_status status = sherd__cuda_pace(stream);
    if (status != SHERD_OK || elems == 0)
        return status;
    return check(stream, &op->tag, sherd__cuda_launch_convert(&args, sherd__cuda_width(stream), stream->handle),
                 "convert kernel");
}

/* From or to memory that kernels cannot reach, piece by piece through pinned memory. Between steps only. */
static sherd_status convert_pageable(sherd__cuda_stream *stream, const sherd__op *op, int dst_outside, int src_outside)
{
    size_t dst_bytes = (size_t)sherd_dtype_bytes(op->u.convert.dst_dtype);
    size_t src_bytes = (size_t)sherd_dtype_bytes(op->u.convert.src_dtype);
    char *bounce = (char *)stream->pinned->bounce;
    sherd_status status = SHERD_OK;
    if (dst_outside && (src_outside || op->u.convert.add))
        return sherd__cuda_refuse(stream, op, "a conversion into pageable memory with addition, or from pageable memory");
    for (int64_t at = 0, n; status == SHERD_OK && at < op->u.convert.elems; at += n) {
        n = op->u.convert.elems - at;
        n = n < SHERD__CUDA_BOUNCE_ELEMS ? n : SHERD__CUDA_BOUNCE_ELEMS;
        char *dst = (char *)op->u.convert.dst + (size_t)at * dst_bytes;
        const char *src = (const char *)op->u.convert.src + (size_t)at * src_bytes;
        status = sherd__cuda_await_idle(stream, "conversion of pageable memory");
        if (status == SHERD_OK && src_outside)
            memcpy(bounce, src, (size_t)n * src_bytes);
        if (status == SHERD_OK)
            status = launch_convert(stream, op, dst_outside ? bounce : dst, src_outside ? bounce : src, at, n);
        if (status == SHERD_OK && dst_outside) {
            status = sherd__cuda_await_idle(stream, "conversion of pageable memory");
            if (status == SHERD_OK)
                memcpy(dst, bounce, (size_t)n * dst_bytes);
        }
    }
    return status;
}

static sherd_status issue_convert(sherd__cuda_stream *stream, const sherd__op *op)
{
    int same = op->u.convert.dst_dtype == op->u.convert.src_dtype && !op->u.convert.add;
    if (op->u.convert.elems <= 0)
        return SHERD_OK;
    if (same) {
        sherd__op copy = {.kind = SHERD__OP_COPY, .tag = op->tag};
        copy.u.copy.dst = op->u.convert.dst;
        copy.u.copy.src = op->u.convert.src;
        copy.u.copy.bytes = (uint64_t)op->u.convert.elems * sherd_dtype_bytes(op->u.convert.dst_dtype);
        return issue_copy(stream, &copy);
    }
    int dst_outside = 0, src_outside = 0;
    sherd_status status = ask_pageable(stream, op, op->u.convert.dst, &dst_outside);
    if (status == SHERD_OK)
        status = ask_pageable(stream, op, op->u.convert.src, &src_outside);
    if (status != SHERD_OK)
        return status;
    if (dst_outside || src_outside)
        return convert_pageable(stream, op, dst_outside, src_outside);
    return launch_convert(stream, op, op->u.convert.dst, op->u.convert.src, 0, op->u.convert.elems);
}

/* Where elements shrink: one thread block reads the first of them before it writes any; then ever more, since [a, 2a)
 * goes where [a / 2, a) was. So the launches are as many as the elements have binary digits, less the head's. */
static sherd_status issue_narrow(sherd__cuda_stream *stream, const sherd__op *op)
{
    char *data = op->u.convert.dst;
    int64_t elems = op->u.convert.elems, at = elems < SHERD__CUDA_NARROW_HEAD ? elems : SHERD__CUDA_NARROW_HEAD, n;
    sherd__cuda_convert head = {.dst = data, .src = data, .elems = at};
    int outside = 0;
    sherd_status status = ask_pageable(stream, op, data, &outside);
    if (status == SHERD_OK && outside)
        return sherd__cuda_refuse(stream, op, "narrowing in pageable memory");
    if (status == SHERD_OK && sherd_dtype_bytes(op->u.convert.dst_dtype) == sherd_dtype_bytes(op->u.convert.src_dtype))
        return launch_convert(stream, op, data, data, 0, elems);
    head.dst_type = (uint8_t)op->u.convert.dst_dtype;
    head.src_type = (uint8_t)op->u.convert.src_dtype;
    head.vectors = aligned(data, SHERD__CUDA_VECTOR_BYTES);
    if (status == SHERD_OK)
        status = sherd__cuda_pace(stream);
    if (status == SHERD_OK && at > 0)
        status = check(stream, &op->tag, sherd__cuda_launch_narrow(&head, stream->handle), "narrow kernel");
    for (; status == SHERD_OK && at < elems; at += n) {
        n = elems - at < at ? elems - at : at;
        status = launch_convert(stream, op, data + at * 2, data + at * 4, 0, n);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------------------ events
 */

static sherd_status issue_record(sherd__cuda_stream *stream, const sherd__op *op)
{
    sherd__cuda_event *event = (sherd__cuda_event *)op->u.event.event;
    sherd_status status = sherd__cuda_pace(stream);
    if (status == SHERD_OK)
        status = check(stream, NULL, (int)cudaEventRecord(event->handle, stream->handle), "cudaEventRecord");
    return status;
}

static sherd_status issue_wait(sherd__cuda_stream *stream, const sherd__op *op)
{
    sherd__cuda_event *event = (sherd__cuda_event *)op->u.event.event;
    sherd_status status = sherd__cuda_pace(stream);
    if (status == SHERD_OK)
        status = check(stream, NULL, (int)cudaStreamWaitEvent(stream->handle, event->handle, 0), "cudaStreamWaitEvent");
    return status;
}

/* ---------------------------------------------------------------------------------------------------------- dispatch
 */

typedef sherd_status (*issue_fn)(sherd__cuda_stream *stream, const sherd__op *op);

static const struct {
    issue_fn issue;
    int traced;
} issues[] = {
    [SHERD__OP_HOOK] = {NULL, 0},
    [SHERD__OP_RECORD] = {issue_record, 0},
    [SHERD__OP_WAIT] = {issue_wait, 0},
    [SHERD__OP_SIGNAL] = {issue_signal, 0},
    [SHERD__OP_AWAIT] = {issue_await, 0},
    [SHERD__OP_COPY] = {issue_copy, 1},
    [SHERD__OP_ZERO] = {issue_zero, 1},
    [SHERD__OP_CONVERT] = {issue_convert, 1},
    [SHERD__OP_NARROW] = {issue_narrow, 1},
    [SHERD__OP_TREE_SUM] = {sherd__cuda_issue_tree_sum, 1},
    [SHERD__OP_REDUCE_U64] = {sherd__cuda_issue_reduce, 1},
    [SHERD__OP_PREPARE] = {issue_prepare, 1},
    [SHERD__OP_UPDATE] = {issue_update, 1},
    [SHERD__OP_TRUST] = {issue_trust, 1},
    [SHERD__OP_ORTHOGONAL] = {sherd__cuda_issue_orthogonal, 1},
    [SHERD__OP_HOST_CALL] = {issue_host_call, 0},
    [SHERD__OP_MEET] = {issue_meet, 0},
    [SHERD__OP_TOUCH] = {NULL, 0},
    [SHERD__OP_HOST_WORK] = {NULL, 0}, /* do_host_work */
};

static sherd_status issue_locked(sherd__cuda_stream *stream, const sherd__op *op)
{
    sherd_status status = SHERD_OK;
    pthread_mutex_lock(&stream->lock);
    if (issues[op->kind].traced) {
        sherd__cuda_range_begin(&op->tag);
        status = stamp(stream, op, SHERD__CUDA_STAMP_BEGIN);
    }
    if (status == SHERD_OK)
        status = issues[op->kind].issue(stream, op);
    if (status == SHERD_OK && issues[op->kind].traced)
        status = stamp(stream, op, SHERD__CUDA_STAMP_END);
    if (issues[op->kind].traced)
        sherd__cuda_range_end();
    pthread_mutex_unlock(&stream->lock);
    return status;
}

/* What other libraries enqueue on the stream. They may wait (within their limits) and may come back here, so the lock
 * is not held; the place they need was made before. */
static sherd_status issue_hook(sherd__cuda_stream *stream, const sherd__op *op)
{
    pthread_mutex_lock(&stream->lock);
    sherd_status status = stamp(stream, op, SHERD__CUDA_STAMP_BEGIN);
    if (status == SHERD_OK)
        status = sherd__cuda_pace(stream);
    pthread_mutex_unlock(&stream->lock);
    if (status == SHERD_OK)
        status = op->u.hook.fn(op->u.hook.args, &stream->base, &op->tag);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&stream->lock);
    status = stamp(stream, op, SHERD__CUDA_STAMP_END);
    pthread_mutex_unlock(&stream->lock);
    return status;
}

/* The CPU's own work happens on the issuing thread, once the GPU has done what was issued before; what is issued next comes after it
 * by the thread's own order. The lock is not held: it may take long. */
static sherd_status do_host_work(sherd__stream *base, const sherd__op *op)
{
    int64_t begin;
    sherd_status status = sherd__cuda_await_idle((sherd__cuda_stream *)base, op->tag.name);
    if (status != SHERD_OK)
        return status;
    begin = sherd__now_ns();
    status = sherd__op_do_work(base->device, op);
    sherd__trace_add(base->device, base->name, op->tag, begin, sherd__now_ns());
    return status;
}

static sherd_status arrive(sherd__stream *base, const sherd__op *op)
{
    sherd__cuda_stream *stream = (sherd__cuda_stream *)base;
    sherd_status status = sherd__device_error(base->device, NULL);
    if (status != SHERD_OK)
        return status;
    int former = sherd__cuda_enter(base->device);
    pthread_mutex_lock(&stream->lock);
    status = issue_arrival(stream, op);
    pthread_mutex_unlock(&stream->lock);
    sherd__cuda_leave(base->device, former);
    return status;
}

/* What must be there before the operation may be issued; the stream's lock is not held. */
static sherd_status hold_back(sherd__stream *stream, const sherd__op *op)
{
    if (op->kind == SHERD__OP_WAIT)
        return sherd__cuda_await_issued((sherd__cuda_event *)op->u.event.event, op->u.event.number, stream->name,
                                        op->u.event.site);
    if (op->kind == SHERD__OP_AWAIT)
        return sherd__cuda_await_flags(stream->device, stream->name, op->tag, &op->u.await);
    if (op->kind == SHERD__OP_MEET) {
        sherd_status status = arrive(stream, op);
        if (status == SHERD_OK)
            status = sherd__cuda_await_flags(stream->device, stream->name, op->tag, &op->u.meet.await);
        return status;
    }
    return sherd__device_error(stream->device, NULL);
}

sherd_status sherd__cuda_issue(sherd__stream *stream, const sherd__op *op)
{
    sherd_status status = hold_back(stream, op);
    if (status == SHERD_OK &&
        (issues[op->kind].issue || op->kind == SHERD__OP_HOOK || op->kind == SHERD__OP_HOST_WORK)) {
        int former = sherd__cuda_enter(stream->device);
        status = op->kind == SHERD__OP_HOOK        ? issue_hook((sherd__cuda_stream *)stream, op)
                 : op->kind == SHERD__OP_HOST_WORK ? do_host_work(stream, op)
                                                   : issue_locked((sherd__cuda_stream *)stream, op);
        sherd__cuda_leave(stream->device, former);
    }
    if (op->kind == SHERD__OP_RECORD) /* whatever became of it: who waits for it finds the error */
        sherd__cuda_event_issued((sherd__cuda_event *)op->u.event.event, op->u.event.number);
    return status;
}
