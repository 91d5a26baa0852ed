/* SPDX-License-Identifier: MIT
 *
 * Between steps: small lines between all ranks, and the sum of one number.
 */
#include <inttypes.h>
#include <string.h>

#include "engine/engine.h"

sherd_status sherd__engine_idle(sherd_engine *engine, const char *call, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);

    if (status != SHERD_OK)
        return status;
    if (engine->open || engine->micro)
        return sherd__engine_refuse(engine, err, SHERD_ESTATE,
                                    "%s: micro-step %" PRId64 " of step %" PRId64
                                    " is under way; call it between steps",
                                    call, engine->micro, engine->step);
    return sherd_engine_wait(engine, err);
}

sherd_status sherd__engine_exchange(sherd_engine *engine, const void *line, size_t bytes, sherd_error *err)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "exchange", -1);
    uint64_t own = (uint64_t)engine->rank * SHERD__SCRATCH_BYTES_PER_RANK;
    /* The caller may still be reading the last exchange's lines: nothing else lies between two calls in a row. */
    sherd_status status = sherd__engine_follow(engine, "exchange reuse");

    if (status == SHERD_OK)
        status = engine->comm->ops->released(engine->comm, stream, tag, engine->scratch_ticket, "scratch reuse");
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, sherd__at(engine->scratch.local, own), line, bytes);
    if (status == SHERD_OK)
        status = engine->comm->ops->all_gather(engine->comm, stream, tag, &engine->scratch, 0,
                                               SHERD__SCRATCH_BYTES_PER_RANK, &engine->scratch_ticket);
    engine->last_ticket = engine->scratch_ticket;
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, engine->scratch_host, engine->scratch.local, engine->scratch.bytes);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = sherd__engine_sync(engine, SHERD__COMM, "exchange sync", err);
    return status == SHERD_OK
               ? sherd__engine_touch(engine, "exchange", engine->scratch_host, engine->scratch.bytes, 0, err)
               : status;
}

/* sum(l, h) = sum(l, l+p) + sum(l+p, h), p the largest power of two below h − l (NUMERICS: Tree over ranks). */
static double tree_sum(const uint8_t *lines, int32_t low, int32_t high)
{
    int32_t power = 1;
    double value;

    if (high - low == 1) {
        memcpy(&value, lines + (size_t)low * SHERD__SCRATCH_BYTES_PER_RANK, sizeof value);
        return value;
    }
    while (power * 2 < high - low)
        power *= 2;
    return tree_sum(lines, low, low + power) + tree_sum(lines, low + power, high);
}

sherd_status sherd_engine_sum(sherd_engine *engine, double *value, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);

    if (status == SHERD_OK)
        status = sherd__engine_exchange(engine, value, sizeof *value, err);
    if (status == SHERD_OK)
        *value = tree_sum(engine->scratch_host, 0, engine->world);
    return status;
}
