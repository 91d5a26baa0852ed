/* SPDX-License-Identifier: MIT
 *
 * Gradients: the ring machine decides under the lock, this file executes. Any thread of the caller may come here at
 * once.
 */
#include <inttypes.h>

#include "base/log.h"
#include "engine/engine.h"

static sherd_status start_bucket(sherd_engine *engine, uint32_t bucket)
{
    const sherd_plan *plan = engine->plan;
    const sherd__schedule *schedule = &plan->schedule;
    sherd__phase phase = sherd__phase_of(engine->micro, engine->micros);
    sherd__event_ref ready = {SHERD__EV_READY, bucket};
    sherd_status status =
        engine->device->ops->event_record(engine->device->compute, sherd__engine_event(engine, ready));

    return status == SHERD_OK ? sherd__engine_execute_range(engine, schedule->on_ready[phase][bucket]) : status;
}

/* Under the lock. The order of starts is the plan's on every rank. */
sherd_status sherd__engine_start(sherd_engine *engine, uint32_t from, uint32_t to)
{
    sherd_status status = SHERD_OK;
    for (uint32_t b = from; status == SHERD_OK && b < to; b++)
        status = start_bucket(engine, b);
    return status;
}

/* overlap_comm false: backward stands still until the reductions it has just caused are done. */
static sherd_status serialise(sherd_engine *engine, uint32_t from, uint32_t to)
{
    if (engine->plan->config.zero.overlap_comm || from == to)
        return SHERD_OK;
    return sherd__engine_compute_wait(engine, engine->buckets[to - 1].event[SHERD__EV_REDUCED], "serialised reduction");
}

static sherd_status wait_release(sherd_engine *engine, uint32_t bucket)
{
    uint32_t former = engine->plan->buckets[bucket].ring_after;

    if (engine->plan->full_mode)
        return sherd__engine_compute_wait(engine, engine->buckets[former].event[SHERD__EV_REDUCED],
                                          "slot release (compute)");
    return sherd__engine_compute_released(engine, sherd__engine_tag(engine, "slot", (int32_t)bucket),
                                          engine->buckets[former].slot_ticket, "slot release (compute)");
}

static sherd_status parked_block(sherd_engine *engine, uint32_t id, sherd_error *err)
{
    const sherd__plan_param *param = &engine->plan->params[id];
    uint64_t bytes = (uint64_t)param->elems * sherd_dtype_bytes(param->grad_dtype);

    engine->parked_count++;
    if (!engine->parked_logged) {
        engine->parked_logged = 1;
        sherd__log(&engine->device->log, SHERD_LOG_WARNING,
                   "gradient of '%s' came while an earlier bucket of the ring was incomplete: parked in %" PRIu64
                   " bytes outside the ring (said once; register parameters in forward order of first use)",
                   param->name, bytes);
    }
    if (engine->param[id].parked)
        return SHERD_OK;
    return sherd__device_alloc(engine->device, SHERD_TIER_DEVICE, SHERD_CAT_GRADIENTS_PARKED, bytes,
                               &engine->param[id].parked, err);
}

static void *grad_address(sherd_engine *engine, uint32_t id, sherd__grad_place place)
{
    const sherd__plan_param *param = &engine->plan->params[id];

    switch (place) {
    case SHERD__GRAD_SLOT:
        return sherd__at(engine->ring.local, engine->param[id].slot.begin);
    case SHERD__GRAD_SHARED:
        return sherd__at(engine->shared, param->shared_offset);
    case SHERD__GRAD_PARKED:
        return engine->param[id].parked;
    case SHERD__GRAD_NONE:
        break;
    }
    return engine->block; /* an empty parameter: a valid address of which nothing is used */
}

static sherd_status touch_grad(sherd_engine *engine, uint32_t id, const void *data)
{
    const sherd__plan_param *param = &engine->plan->params[id];
    sherd__access access = {data, (uint64_t)param->elems * sherd_dtype_bytes(param->grad_dtype), 1};

    if (param->bucket < 0)
        return SHERD_OK;
    return engine->device->ops->touch(engine->device, sherd__engine_tag(engine, "client gradient", param->bucket),
                                      access);
}

/* A buffer outside the ring is free again once the copy of its former contents has run, before its bucket's reduction.
 */
static sherd_status wait_reuse(sherd_engine *engine, uint32_t id, sherd__grad_place place, int32_t beta)
{
    int32_t bucket = engine->plan->params[id].bucket;

    if (beta || (place != SHERD__GRAD_SHARED && place != SHERD__GRAD_PARKED))
        return SHERD_OK;
    return sherd__engine_compute_wait(engine, engine->buckets[bucket].event[SHERD__EV_REDUCED],
                                      "gradient buffer reuse");
}

/* Asks the ring until the gradient is placed. Returns with the lock released. */
static sherd_status place_grad(sherd_engine *engine, uint32_t id, sherd__grad_place *place, int32_t *beta)
{
    const char *why = "";
    sherd_status status = SHERD_OK;
    sherd_error err;

    pthread_mutex_lock(&engine->lock);
    if (!engine->times.backward_begin)
        engine->times.backward_begin = sherd__now_ns();
    for (;;) {
        sherd__ring_answer answer = sherd__ring_acquire(&engine->ring_state, id, place, beta, &why);
        uint32_t bucket;
        if (answer == SHERD__RING_REFUSED) {
            pthread_mutex_unlock(&engine->lock);
            return sherd__engine_refuse(engine, NULL, SHERD_ESTATE, "sherd_grad_acquire of '%s': %s",
                                        id < engine->plan->n_params ? engine->plan->params[id].name : "?", why);
        }
        if (answer == SHERD__RING_PLACED)
            break;
        bucket = (uint32_t)engine->plan->params[id].bucket;
        pthread_mutex_unlock(&engine->lock);
        status = sherd__engine_check(engine, wait_release(engine, bucket), NULL);
        if (status != SHERD_OK)
            return status;
        pthread_mutex_lock(&engine->lock);
        sherd__ring_released(&engine->ring_state, bucket);
    }
    if (*place == SHERD__GRAD_PARKED) {
        status = parked_block(engine, id, &err);
        if (status != SHERD_OK)
            sherd__device_poison(engine->device, &err); /* the ring already counts on this gradient */
    }
    pthread_mutex_unlock(&engine->lock);
    return status;
}

sherd_status sherd_grad_acquire(sherd_engine *engine, uint32_t id, sherd_grad *out)
{
    sherd__grad_place place = SHERD__GRAD_NONE;
    int32_t beta = 0;
    sherd_status status = sherd__engine_health(engine, NULL);

    if (status == SHERD_OK)
        status = place_grad(engine, id, &place, &beta);
    if (status == SHERD_OK)
        status = sherd__engine_check(engine, wait_reuse(engine, id, place, beta), NULL);
    if (status != SHERD_OK)
        return status;
    out->data = grad_address(engine, id, place);
    out->beta = beta;
    out->dtype = engine->plan->params[id].grad_dtype;
    return sherd__engine_check(engine, touch_grad(engine, id, out->data), NULL);
}

sherd_status sherd_grad_ready(sherd_engine *engine, uint32_t id)
{
    const char *why = "";
    uint32_t from = 0, to = 0;
    sherd__ring_answer answer;
    sherd_status status = sherd__engine_health(engine, NULL);

    if (status == SHERD_OK && id < engine->plan->n_params && engine->ring_params[id].place != SHERD__GRAD_NONE)
        status = sherd__engine_check(
            engine, touch_grad(engine, id, grad_address(engine, id, engine->ring_params[id].place)), NULL);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&engine->lock);
    answer = sherd__ring_ready(&engine->ring_state, id, &from, &to, &why);
    if (answer == SHERD__RING_PLACED && engine->arrival)
        sherd__engine_replan_note(engine, id);
    if (answer == SHERD__RING_PLACED)
        status = sherd__engine_start(engine, from, to);
    pthread_mutex_unlock(&engine->lock);
    if (answer == SHERD__RING_REFUSED)
        return sherd__engine_refuse(engine, NULL, SHERD_ESTATE, "sherd_grad_ready of '%s': %s",
                                    id < engine->plan->n_params ? engine->plan->params[id].name : "?", why);
    status = sherd__engine_check(engine, status, NULL);
    if (status == SHERD_OK)
        status = sherd__engine_check(engine, serialise(engine, from, to), NULL);
    return status;
}

sherd_status sherd_grad_copy(sherd_engine *engine, uint32_t id, const void *data, sherd_dtype dtype)
{
    sherd_grad grad;
    sherd_status status;

    if (dtype != SHERD_FP32 && dtype != SHERD_BF16 && dtype != SHERD_FP16)
        return sherd__engine_refuse(engine, NULL, SHERD_EINVAL,
                                    "sherd_grad_copy: a buffer of unknown type %d; pass fp32, bf16 or fp16", (int)dtype);
    status = sherd_grad_acquire(engine, id, &grad);
    if (status == SHERD_OK && engine->plan->params[id].bucket >= 0)
        status = sherd__engine_check(
            engine,
            engine->device->ops->convert(engine->device->compute,
                                         sherd__engine_tag(engine, "grad copy", engine->plan->params[id].bucket),
                                         grad.data, grad.dtype, data, dtype, engine->plan->params[id].elems, grad.beta),
            NULL);
    return status == SHERD_OK ? sherd_grad_ready(engine, id) : status;
}
