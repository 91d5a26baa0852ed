/* SPDX-License-Identifier: MIT
 *
 * Running one operation of the checking device: its effect, its clock, its accesses.
 */
#include <string.h>

#include "device/check.h"

void sherd__clock_join(sherd__clock *clock, const sherd__clock *other)
{
    for (int i = 0; i < SHERD__CHECK_COMPONENTS; i++)
        if (other->at[i] > clock->at[i])
            clock->at[i] = other->at[i];
}

void sherd__check_site(sherd_checker *checker, const char *site)
{
    for (uint32_t i = 0; i < checker->n_sites; i++)
        if (strcmp(checker->sites[i], site) == 0)
            return;
    if (checker->n_sites < SHERD__CHECK_SITES)
        checker->sites[checker->n_sites++] = site;
}

static int dropped(const sherd_checker *checker, const char *site)
{
    return checker->drop && site && strcmp(checker->drop, site) == 0;
}

/* -------------------------------------------------------------------------------------------------------- clocks */

void sherd__check_join_event(sherd_checker *checker, sherd__clock *clock, const sherd__check_event *event,
                             uint64_t number, const char *site)
{
    if (number == 0 || dropped(checker, site))
        return;
    /* A wait later than the history is long gets the oldest clock kept: too much order rather than a false report. */
    uint64_t oldest = event->reached >= SHERD__CHECK_HISTORY ? event->reached - SHERD__CHECK_HISTORY + 1 : 1;
    uint64_t at = number < oldest ? oldest : number;
    checker->late += number < oldest;
    sherd__clock_join(clock, &event->clock[at % SHERD__CHECK_HISTORY]);
}

static sherd__check_flag *flag_find(sherd_checker *checker, _Atomic uint32_t *word)
{
    sherd__check_flag *flag = checker->flags;
    while (flag && flag->flag != word)
        flag = flag->next;
    return flag;
}

static void note_signal(sherd_checker *checker, const sherd__check_stream *stream, _Atomic uint32_t *word,
                        uint32_t value)
{
    sherd__check_flag *flag = flag_find(checker, word);
    if (!flag) {
        flag = sherd__alloc(&sherd__default_allocator, 1, sizeof *flag);
        if (!flag) {
            if (checker->verdict.status == SHERD_OK)
                sherd__fail(&checker->verdict, SHERD_ENOMEM, "the checking device ran out of memory for its flags");
            return;
        }
        flag->flag = word;
        flag->next = checker->flags;
        checker->flags = flag;
    }
    uint64_t slot = flag->signals++ % SHERD__CHECK_FLAG_HISTORY;
    flag->value[slot] = value;
    flag->clock[slot] = stream->clock;
}

/* The wait may have read any signal that satisfies it; only the earliest of them is certain in every order. */
static void join_flag(sherd_checker *checker, sherd__clock *clock, _Atomic uint32_t *word, uint32_t value)
{
    const sherd__check_flag *flag = flag_find(checker, word);
    if (!flag)
        return;
    uint64_t kept = flag->signals < SHERD__CHECK_FLAG_HISTORY ? flag->signals : SHERD__CHECK_FLAG_HISTORY;
    uint64_t oldest = flag->signals - kept, n = flag->signals;
    while (n > oldest && (int32_t)(flag->value[(n - 1) % SHERD__CHECK_FLAG_HISTORY] - value) >= 0)
        n--;
    if (n == flag->signals)
        return;
    checker->late += n == oldest && n > 0 && flag->value[n % SHERD__CHECK_FLAG_HISTORY] != value;
    sherd__clock_join(clock, &flag->clock[n % SHERD__CHECK_FLAG_HISTORY]);
}

static void join_await(sherd_checker *checker, sherd__clock *clock, const sherd__await *await)
{
    if (dropped(checker, await->site))
        return;
    for (uint32_t i = 0; i < await->count; i++)
        if (await->flags[i])
            join_flag(checker, clock, await->flags[i], await->value);
}

/* ------------------------------------------------------------------------------------------------------- running */

typedef struct access_ctx {
    sherd_checker *checker;
    const sherd__check_stream *stream;
    sherd__check_access access;
} access_ctx;

static void check_access(void *arg, const void *address, uint64_t bytes, int32_t write)
{
    access_ctx *ctx = arg;
    if (!address)
        return;
    ctx->access.begin = (uintptr_t)address;
    ctx->access.end = (uintptr_t)address + bytes;
    ctx->access.write = write;
    sherd__shadow_access(ctx->checker, &ctx->access, &ctx->stream->clock);
}

static void check_accesses(sherd_checker *checker, sherd__check_stream *stream, const sherd__op *op)
{
    const sherd__check_device *device = (const sherd__check_device *)stream->base.device;
    access_ctx ctx = {.checker = checker, .stream = stream};
    ctx.access.component = stream->component;
    ctx.access.epoch = ++stream->clock.at[stream->component];
    ctx.access.rank = device->rank;
    ctx.access.stream = stream->base.name;
    ctx.access.tag = op->tag;
    sherd__op_accesses(op, check_access, &ctx);
}

static void run_kernel(sherd__check_device *device, sherd__check_stream *stream, const sherd__op *op)
{
    int64_t begin = sherd__now_ns();
    uint64_t former = sherd__float_mode_enter();
    check_accesses(device->checker, stream, op);
    if (op->kind == SHERD__OP_HOST_WORK)
        (void)sherd__op_do_work(&device->base, op);
    else
        sherd__op_run(op, device->math, NULL);
    sherd__float_mode_leave(former);
    if (op->kind != SHERD__OP_TOUCH)
        sherd__trace_add(&device->base, stream->base.name, op->tag, begin, sherd__now_ns());
}

static void run_record(sherd__check_stream *stream, const sherd__op *op)
{
    sherd__check_event *event = (sherd__check_event *)op->u.event.event;
    event->reached = op->u.event.number;
    event->time_ns = sherd__now_ns();
    event->clock[event->reached % SHERD__CHECK_HISTORY] = stream->clock;
}

static void note_order(sherd_checker *checker, const sherd__check_stream *stream, const sherd__op *op)
{
    uint64_t what = (uint64_t)stream->component << 8 | (uint64_t)op->kind;
    checker->operations++;
    checker->order = (checker->order ^ what) * UINT64_C(0x100000001B3);
}

void sherd__check_run(sherd__check_stream *stream, const sherd__op *op, const sherd__clock *host)
{
    sherd__check_device *device = (sherd__check_device *)stream->base.device;
    sherd_checker *checker = device->checker;
    int failed = atomic_load(&device->base.failed);
    note_order(checker, stream, op);
    sherd__clock_join(&stream->clock, host);
    if (op->kind == SHERD__OP_RECORD)
        run_record(stream, op);
    if (failed)
        return;
    switch (op->kind) {
    case SHERD__OP_RECORD:
        break;
    case SHERD__OP_WAIT:
        sherd__check_join_event(checker, &stream->clock, (const sherd__check_event *)op->u.event.event,
                                op->u.event.number, op->u.event.site);
        break;
    case SHERD__OP_SIGNAL:
        note_signal(checker, stream, op->u.signal.flag, op->u.signal.value);
        atomic_store_explicit(op->u.signal.flag, op->u.signal.value, memory_order_release);
        break;
    case SHERD__OP_AWAIT:
        join_await(checker, &stream->clock, &op->u.await);
        break;
    default:
        run_kernel(device, stream, op);
        break;
    }
}

int sherd__check_runnable(const sherd__check_stream *stream)
{
    uint32_t which;
    if (stream->count == 0)
        return 0;
    if (atomic_load(&stream->base.device->failed))
        return 1;
    const sherd__op *op = &stream->ring[stream->head].op;
    if (op->kind == SHERD__OP_WAIT)
        return ((const sherd__check_event *)op->u.event.event)->reached >= op->u.event.number;
    if (op->kind == SHERD__OP_AWAIT)
        return sherd__await_satisfied(&op->u.await, &which);
    return 1;
}

void sherd__check_run_head(sherd__check_stream *stream)
{
    sherd__check_op *op = &stream->ring[stream->head];
    sherd__check_run(stream, &op->op, &op->host);
    stream->head = stream->head + 1 == stream->capacity ? 0 : stream->head + 1;
    stream->count--;
    stream->head_since_ns = stream->polled_ns = sherd__now_ns();
}
