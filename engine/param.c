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
    data = sherd__at(engine->params.local, param->param_offset);
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
    return sherd__engine_check(engine, touch_param(engine, param, sherd__at(engine->params.local, param->param_offset)),
                               NULL);
}
