/* SPDX-License-Identifier: MIT
 *
 * sherd.replan: after the first step, once, the plan is made again from the order in which rank 0's gradients came, if a
 * bucket had to wait for an earlier one. A model whose parameters are registered in another order than forward uses them
 * parks gradients and starts its reductions late; from the second step on it does neither.
 *
 * Nothing of the training changes but who keeps what: masters and moments pass through host memory (what this rank owns,
 * in fp32) while the old layout is given back and the new one is made, so that the device never holds both. Sums over ranks,
 * the norm and digests do not know about the layout: the bits stay.
 */
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "engine/engine.h"

sherd_status sherd__engine_replan_watch(sherd_engine *engine, sherd_error *err)
{
    return sherd__engine_table(engine, engine->plan->n_params, sizeof *engine->arrival, &engine->arrival, err);
}

void sherd__engine_replan_end(sherd_engine *engine)
{
    sherd__engine_table_free(engine, engine->arrival, engine->plan->n_params, sizeof *engine->arrival);
    engine->arrival = NULL;
}

void sherd__engine_replan_note(sherd_engine *engine, uint32_t id)
{
    const sherd__plan_param *param = &engine->plan->params[id];
    const sherd__ring_bucket *bucket;

    if (param->bucket < 0 || engine->micro > 0)
        return;
    if (engine->ring_params[id].ready == param->uses && engine->n_arrived < engine->plan->n_params)
        engine->arrival[engine->n_arrived++] = id;
    bucket = &engine->ring_buckets[param->bucket];
    engine->waited += bucket->state != SHERD__SLOT_STARTED &&
                      bucket->ready == engine->plan->buckets[param->bucket].contributions;
}

/* The rest behind what came: gradients that never come hold up nobody there; frozen parameters have no bucket. */
static sherd_status complete_order(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    uint8_t *seen;
    sherd_status status = sherd__engine_table(engine, plan->n_params, 1, &seen, err);

    if (status != SHERD_OK)
        return status;
    for (uint32_t i = 0; i < engine->n_arrived; i++)
        seen[engine->arrival[i]] = 1;
    for (uint32_t left = plan->n_params; left > 0; left--)
        if (!seen[left - 1])
            engine->arrival[engine->n_arrived++] = left - 1;
    sherd__engine_table_free(engine, seen, plan->n_params, 1);
    return SHERD_OK;
}

/* Rank 0's verdict and order, on every rank. */
static sherd_status agree(sherd_engine *engine, int32_t *worth, sherd_error *err)
{
    uint64_t line = engine->waited > 0 || engine->parked_count > 0;
    sherd_status status = sherd__engine_exchange(engine, &line, sizeof line, err);

    if (status != SHERD_OK)
        return status;
    memcpy(&line, engine->scratch_host, sizeof line);
    *worth = line != 0;
    if (!*worth)
        return SHERD_OK;
    status = complete_order(engine, err);
    return status == SHERD_OK ? sherd__engine_share(engine, 0, engine->arrival, engine->plan->n_params, err) : status;
}

/* What one rank brings along of a parameter: its own part; where all ranks hold all of it, rank 0 speaks. */
static int64_t brought(const sherd_plan *plan, uint32_t id, int32_t rank, int64_t *first)
{
    int64_t count = 0;

    *first = 0;
    if (plan->params[id].bucket < 0 || plan->whole_state)
        return rank == 0 ? plan->params[id].elems : 0;
    return sherd_plan_own(plan, id, rank, first, &count) == SHERD_OK ? count : 0;
}

static uint64_t luggage_bytes(const sherd_plan *plan, int32_t rank)
{
    uint64_t elems = 0;
    int64_t first;

    for (uint32_t p = 0; p < plan->n_params; p++)
        elems += (uint64_t)brought(plan, p, rank, &first) * sherd__plan_param_states(plan, p);
    return elems * sizeof(float);
}

static sherd_status pack(sherd_engine *engine, float *luggage, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    sherd_status status = SHERD_OK;

    for (uint32_t p = 0; p < plan->n_params; p++) {
        int64_t first, count = brought(plan, p, engine->rank, &first);
        for (uint32_t which = 0; status == SHERD_OK && count > 0 && which < sherd__plan_param_states(plan, p); which++, luggage += count)
            status = sherd__engine_state_read_here(engine, p, which, first, count, luggage, err);
    }
    return status;
}

/* `old` says who brought what. */
static sherd_status unpack(sherd_engine *engine, const sherd_plan *old, const float *luggage, sherd_error *err)
{
    sherd_status status = SHERD_OK;

    for (uint32_t p = 0; p < old->n_params; p++)
        for (int32_t rank = 0; rank < engine->world; rank++) {
            int64_t first, count = brought(old, p, rank, &first);
            for (uint32_t which = 0; status == SHERD_OK && count > 0 && which < sherd__plan_param_states(old, p); which++) {
                const float *data = engine->rank == rank ? luggage : NULL;
                status = sherd__engine_state_write_from(engine, rank, p, which, first, count, data, err);
                luggage += engine->rank == rank ? count : 0;
            }
        }
    return status;
}

static sherd_status move(sherd_engine *engine, sherd_plan *plan, float *luggage, sherd_error *err)
{
    const sherd_plan *old = engine->plan;
    sherd_status status = pack(engine, luggage, err);

    if (status == SHERD_OK)
        status = sherd__engine_settle(engine, err);
    if (status != SHERD_OK) {
        sherd_plan_destroy(plan);
        return status;
    }
    sherd__engine_replan_end(engine);
    sherd__engine_layout_release(engine);
    engine->plan = engine->own_plan = plan;
    status = sherd__engine_layout_create(engine, err);
    if (status != SHERD_OK)
        return status;
    sherd__ring_init(&engine->ring_state, plan, engine->ring_params, engine->ring_buckets);
    return unpack(engine, old, luggage, err);
}

static void tell(sherd_engine *engine)
{
    sherd__log(&engine->device->log, SHERD_LOG_INFO,
               "engine: rank %" PRId32 " made its plan again from the order in which gradients came: %" PRIu32
               " bucket%s; %" PRIu64 " gradients were parked before",
               engine->rank, engine->plan->n_buckets, engine->plan->n_buckets == 1 ? "" : "s", engine->parked_count);
}

static sherd_status change(sherd_engine *engine, sherd_plan *plan, sherd_error *err)
{
    uint64_t bytes = luggage_bytes(engine->plan, engine->rank);
    void *luggage = NULL;
    sherd_status status = SHERD_OK;

    if (bytes > 0)
        status = sherd__device_alloc(engine->device, SHERD_TIER_HOST, SHERD_CAT_WORKSPACE, bytes, &luggage, err);
    if (status != SHERD_OK) {
        sherd_plan_destroy(plan);
        return status;
    }
    status = move(engine, plan, luggage, err);
    sherd_device_free(engine->device, luggage);
    if (status == SHERD_OK)
        tell(engine);
    return status;
}

/* Every rank comes to the same plan, or to the same refusal: then all go on as they are. */
static sherd_status reorder(sherd_engine *engine, sherd_error *err)
{
    sherd_plan *plan = NULL;
    sherd_status status;
    sherd_error why;
    uint32_t same = 0, placed = 0;

    for (uint32_t i = 0; i < engine->plan->n_params; i++)
        if (engine->plan->params[engine->arrival[i]].bucket >= 0)
            same += engine->plan->order[placed++] == engine->arrival[i];
    if (same == placed)
        return SHERD_OK;
    status = sherd__plan_reordered(engine->plan, engine->arrival, &plan, &why);
    if (status == SHERD_OK)
        return change(engine, plan, err);
    if (status == SHERD_ENOMEM)
        return sherd__pass(err, &why);
    sherd__log(&engine->device->log, SHERD_LOG_WARNING, "sherd.replan: the plan stays as it is: %s", why.text);
    return SHERD_OK;
}

sherd_status sherd__engine_replan(sherd_engine *engine, sherd_error *err)
{
    sherd_error error = {SHERD_OK, -1, ""};
    int32_t worth = 0;
    sherd_status status = sherd_engine_wait(engine, &error);

    if (status == SHERD_OK)
        status = agree(engine, &worth, &error);
    if (status == SHERD_OK && worth)
        status = reorder(engine, &error);
    sherd__engine_replan_end(engine);
    if (status == SHERD_OK)
        return SHERD_OK;
    if (sherd__engine_health(engine, err) == SHERD_OK) /* the other ranks wait for this one's part: there is no way on */
        sherd__device_poison(engine->device, &error);
    return sherd__engine_health(engine, err);
}

const sherd_plan *sherd_engine_plan(const sherd_engine *engine)
{
    return engine->plan;
}
