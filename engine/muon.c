/* SPDX-License-Identifier: MIT
 *
 * Muon's matrices (shard/muon.c says how they go through the window). Where every rank holds whole buckets (stage 0)
 * all have the directions already: each matrix then travels once, from its owner.
 */
#include <string.h>

#include "engine/engine.h"
#include "optim/muon.h"

static void *in_window(const sherd_engine *engine, uint32_t index, int64_t elem)
{
    return sherd__at(engine->muon.window.local,
                     engine->plan->buckets[index].window_offset + (uint64_t)elem * sizeof(float));
}

static const sherd__plan_param *nth_param(const sherd_engine *engine, const sherd__bucket *bucket, uint32_t i)
{
    return &engine->plan->params[engine->plan->order[bucket->first + i]];
}

/* The own slice's place must have been read by everybody who was sent the former wave's. */
static sherd_status wait_for_window(sherd_engine *engine, const sherd__action *action, sherd__tag tag,
                                    sherd__stream *stream)
{
    if (!(action->flags & SHERD__F_WINDOW))
        return SHERD_OK;
    return engine->comm->ops->released(engine->comm, stream, tag, engine->muon.shared, "window release");
}

sherd_status sherd__engine_execute_direct(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    sherd__tag tag = sherd__engine_tag(engine, "direct", (int32_t)action->bucket);
    sherd__update update = sherd__engine_update_of(engine, action->bucket);
    sherd_status status = wait_for_window(engine, action, tag, stream);

    update.part = SHERD__PART_DIRECT;
    update.master = in_window(engine, action->bucket, update.origin);
    update.emit = update.remainder = NULL;
    return status == SHERD_OK ? engine->device->ops->update(stream, tag, &update) : status;
}

static float *own_part(const sherd_engine *engine, uint32_t index)
{
    return in_window(engine, index, sherd__engine_part_begin(engine, &engine->plan->buckets[index]));
}

sherd_status sherd__engine_execute_host_direct(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    return sherd__offload_direct(engine->offload, stream,
                                 sherd__engine_tag(engine, "host_direct", (int32_t)action->bucket), action->bucket);
}

sherd_status sherd__engine_execute_raise_direct(sherd_engine *engine, const sherd__action *action,
                                                sherd__stream *stream)
{
    sherd__tag tag = sherd__engine_tag(engine, "raise_direct", (int32_t)action->bucket);
    sherd_status status = wait_for_window(engine, action, tag, stream);

    return status == SHERD_OK ? sherd__offload_raise_direct(engine->offload, stream, tag, action->bucket,
                                                            own_part(engine, action->bucket))
                              : status;
}

sherd_status sherd__engine_execute_lower_step(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    return sherd__offload_lower_step(engine->offload, stream,
                                     sherd__engine_tag(engine, "lower_step", (int32_t)action->bucket), action->bucket,
                                     own_part(engine, action->bucket));
}

void sherd__engine_muon_apply(const sherd_engine *engine, uint32_t bucket, sherd__update *update)
{
    update->part = SHERD__PART_APPLY;
    update->sum = in_window(engine, bucket, update->origin);
    update->sum_dtype = SHERD_FP32;
    update->moment[0] = NULL;
}

sherd_status sherd__engine_execute_join(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = &engine->plan->buckets[action->bucket];
    sherd_status status = engine->comm->ops->all_gather(
        engine->comm, stream, sherd__engine_tag(engine, "join", (int32_t)action->bucket), &engine->muon.window,
        bucket->window_offset, (uint64_t)bucket->slice_elems * sizeof(float), &engine->last_ticket);

    engine->buckets[action->bucket].join_ticket = engine->last_ticket;
    return status;
}

/* In place: every rank must have its copy of this rank's directions. */
static sherd_status begin_in_place(sherd_engine *engine, uint32_t index, sherd__tag tag, sherd__stream *stream)
{
    const sherd__engine_bucket *entry = &engine->buckets[index];
    sherd_status status;

    if (!sherd__plan_joins(engine->plan))
        return SHERD_OK;
    status = engine->comm->ops->released(engine->comm, stream, tag, entry->join_ticket, "directions release");
    if (status != SHERD_OK || entry->n_others == 0)
        return status;
    return engine->device->ops->zero(stream, tag, in_window(engine, index, 0), entry->others, entry->n_others);
}

sherd_status sherd__engine_execute_ortho(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = &engine->plan->buckets[action->bucket];
    sherd__tag tag = sherd__engine_tag(engine, "ortho", (int32_t)action->bucket);
    sherd_status status = begin_in_place(engine, action->bucket, tag, stream);

    for (uint32_t i = 0; status == SHERD_OK && i < bucket->count; i++) {
        const sherd__plan_param *param = nth_param(engine, bucket, i);
        sherd__orthogonal job = {.scalars = &engine->block->scalars,
                                 .matrix = in_window(engine, action->bucket, param->offset),
                                 .scratch = engine->muon.scratch,
                                 .rows = param->shape[0],
                                 .cols = param->shape[1],
                                 .steps = engine->plan->config.muon.ns_steps};
        if (param->owner == engine->rank)
            status = engine->device->ops->orthogonalise(stream, tag, &job);
    }
    return status;
}

/* Results and zeros: whoever adds them up, and in whatever order, has the results. */
static sherd_status share_slices(sherd_engine *engine, uint32_t index, sherd__tag tag, sherd__stream *stream)
{
    const sherd__bucket *bucket = &engine->plan->buckets[index];
    sherd__tree_sum sum = {.src_dtype = SHERD_FP32,
                           .dst_dtype = SHERD_FP32,
                           .dst = in_window(engine, index, engine->rank * bucket->slice_elems),
                           .elems = bucket->slice_elems};

    return engine->comm->ops->reduce_scatter(engine->comm, stream, tag, &engine->muon.window, bucket->window_offset,
                                             &sum, &engine->last_ticket);
}

sherd_status sherd__engine_execute_share(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = &engine->plan->buckets[action->bucket];
    sherd__tag tag = sherd__engine_tag(engine, "share", (int32_t)action->bucket);
    sherd_status status = SHERD_OK;

    if (sherd__plan_joins(engine->plan))
        status = share_slices(engine, action->bucket, tag, stream);
    for (uint32_t i = 0; status == SHERD_OK && engine->plan->whole_state && i < bucket->count; i++) {
        const sherd__plan_param *param = nth_param(engine, bucket, i);
        status =
            engine->comm->ops->broadcast(engine->comm, stream, tag, &engine->muon.window,
                                         bucket->window_offset + (uint64_t)param->offset * sizeof(float),
                                         (uint64_t)param->elems * sizeof(float), param->owner, &engine->last_ticket);
    }
    engine->muon.shared = engine->last_ticket;
    return status;
}

/* ----------------------------------------------------------------------------------------------------------- lifetime
 */

static void list_others(sherd_engine *engine)
{
    sherd__byte_range *next = engine->muon.others;

    for (uint32_t b = 0; b < engine->plan->n_buckets; b++) {
        const sherd__bucket *bucket = &engine->plan->buckets[b];
        sherd__engine_bucket *entry = &engine->buckets[b];
        entry->others = next;
        for (uint32_t i = 0; bucket->muon && i < bucket->count; i++) {
            const sherd__plan_param *param = nth_param(engine, bucket, i);
            uint64_t begin = (uint64_t)param->offset * sizeof(float);
            if (param->owner != engine->rank)
                *next++ = (sherd__byte_range){begin, begin + (uint64_t)param->elems * sizeof(float)};
        }
        entry->n_others = (uint32_t)(next - entry->others);
    }
}

sherd_status sherd__engine_muon_create(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    sherd_status status;

    if (plan->n_matrices == 0)
        return SHERD_OK;
    status = sherd__engine_table(engine, plan->n_matrices, sizeof *engine->muon.others, &engine->muon.others, err);
    if (status == SHERD_OK)
        status = sherd__engine_window(engine, plan->window_bytes, SHERD_CAT_COMMUNICATION, &engine->muon.window, err);
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, plan->ortho_bytes, SHERD_CAT_COMMUNICATION, &engine->muon.scratch, err);
    if (status == SHERD_OK)
        list_others(engine);
    return status;
}

void sherd__engine_muon_destroy(sherd_engine *engine)
{
    sherd_device_free(engine->device, engine->muon.scratch);
    engine->comm->ops->window_destroy(engine->comm, &engine->muon.window);
    sherd__engine_table_free(engine, engine->muon.others, engine->plan->n_matrices, sizeof *engine->muon.others);
    engine->muon = (sherd__engine_muon){0};
}
