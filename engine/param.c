/* SPDX-License-Identifier: MIT
 *
 * Working copies, as forward and backward read them.
 */
#include <inttypes.h>

#include "engine/engine.h"

static sherd_status touch_param(sherd_engine *engine, const sherd__plan_param *param, const void *data)
{
    sherd__access access = {data, (uint64_t)param->elems * sherd_dtype_bytes(param->dtype), 0};
    return engine->device->ops->touch(engine->device, sherd__engine_tag(engine, "client parameter", param->bucket),
                                      access);
}

/* What the client reads. */
static const void *readable(const sherd_engine *engine, const sherd__plan_param *param)
{
    return param->storage ? param->storage : sherd__at(engine->params.local, param->param_offset);
}

sherd_status sherd__engine_lend(sherd_engine *engine, uint32_t id, int64_t first, int64_t n, sherd__tag tag,
                                sherd__stream *stream)
{
    const sherd__plan_param *param = &engine->plan->params[id];
    uint64_t size = sherd_dtype_bytes(param->dtype), begin = (uint64_t)first * size;

    if (!param->storage || n == 0)
        return SHERD_OK;
    return engine->device->ops->copy(stream, tag, sherd__at(param->storage, begin),
                                     sherd__at(engine->params.local, param->param_offset + begin), (uint64_t)n * size);
}

sherd_status sherd__engine_lend_bucket(sherd_engine *engine, uint32_t index, sherd__tag tag, sherd__stream *stream)
{
    const sherd_plan *plan = engine->plan;
    const sherd__bucket *bucket = &plan->buckets[index];
    sherd_status status = SHERD_OK;

    for (uint32_t i = 0; status == SHERD_OK && engine->borrows && i < bucket->count; i++) {
        uint32_t id = plan->order[bucket->first + i];
        status = sherd__engine_lend(engine, id, 0, plan->params[id].elems, tag, stream);
    }
    return status;
}

static sherd_status unknown(sherd_engine *engine, const char *call, uint32_t id)
{
    return sherd__engine_refuse(engine, NULL, SHERD_EINVAL,
                                "%s: there is no parameter %" PRIu32 ", the plan has %" PRIu32, call, id,
                                engine->plan->n_params);
}

sherd_status sherd_param_acquire(sherd_engine *engine, uint32_t id, const void **out)
{
    const sherd__plan_param *param;
    const void *data;
    sherd_status status = sherd__engine_health(engine, NULL);

    if (status != SHERD_OK)
        return status;
    if (id >= engine->plan->n_params)
        return unknown(engine, "sherd_param_acquire", id);
    param = &engine->plan->params[id];
    data = readable(engine, param);
    if (param->elems == 0) {
        *out = engine->block; /* a valid address of which nothing is used */
        return SHERD_OK;
    }
    if (param->bucket >= 0)
        status = sherd__engine_compute_wait(
            engine, engine->buckets[param->bucket].event[engine->plan->schedule.acquire_wait], "parameter acquire");
    if (status == SHERD_OK)
        status = touch_param(engine, param, data);
    if (status == SHERD_OK)
        *out = data;
    return sherd__engine_check(engine, status, NULL);
}

sherd_status sherd_param_release(sherd_engine *engine, uint32_t id)
{
    const sherd__plan_param *param;
    sherd_status status = sherd__engine_health(engine, NULL);

    if (status != SHERD_OK)
        return status;
    if (id >= engine->plan->n_params)
        return unknown(engine, "sherd_param_release", id);
    param = &engine->plan->params[id];
    if (param->elems == 0)
        return SHERD_OK;
    return sherd__engine_check(engine, touch_param(engine, param, readable(engine, param)), NULL);
}
