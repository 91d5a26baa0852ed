/* SPDX-License-Identifier: MIT
 *
 * What the steps need besides the plan: spans and paddings of this rank's part, slots of parameters, events.
 * All of it is made here, so that a step only walks.
 */
#include <string.h>

#include "engine/engine.h"

sherd_status sherd__engine_table(sherd_engine *engine, size_t count, size_t bytes, void *out, sherd_error *err)
{
    sherd_device *device = engine->device;
    sherd_status status =
        sherd__ledger_add(&device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, count * bytes, 0, err);
    void *block;

    if (status != SHERD_OK)
        return status;
    block = sherd__alloc(&device->allocator, count, bytes);
    if (!block) {
        sherd__ledger_sub(&device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, count * bytes, 0);
        return sherd__fail(err, SHERD_ENOMEM, "engine: no memory for a table of %zu × %zu bytes", count, bytes);
    }
    memcpy(out, &block, sizeof block);
    return SHERD_OK;
}

void sherd__engine_table_free(sherd_engine *engine, void *block, size_t count, size_t bytes)
{
    if (!block)
        return;
    sherd__free(&engine->device->allocator, block, count, bytes);
    sherd__ledger_sub(&engine->device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, count * bytes, 0);
}

static uint32_t part_spans(const sherd_engine *engine, uint32_t index, sherd__span *out, uint32_t capacity)
{
    const sherd__bucket *bucket = &engine->plan->buckets[index];
    int64_t begin = sherd__engine_part_begin(engine, bucket);
    return sherd__plan_spans(engine->plan, index, begin, begin + sherd__engine_part_elems(engine, bucket), out,
                             capacity);
}

/* Padding of a bucket's slot, in bytes from the slot's begin; returns how many ranges, writes them where out is not
 * NULL. */
static uint32_t bucket_pads(const sherd_plan *plan, const sherd__bucket *bucket, sherd__byte_range *out)
{
    uint64_t bytes = sherd_dtype_bytes(bucket->grad_dtype);
    uint32_t n = 0;
    int64_t at = 0;

    for (uint32_t i = 0; i <= bucket->count; i++) {
        const sherd__plan_param *param = i < bucket->count ? &plan->params[plan->order[bucket->first + i]] : NULL;
        int64_t next = param ? param->offset : bucket->elems;
        if (next > at) {
            if (out)
                out[n] = (sherd__byte_range){(uint64_t)at * bytes, (uint64_t)next * bytes};
            n++;
        }
        if (param)
            at = param->offset + param->elems;
    }
    return n;
}

static void fill_buckets(sherd_engine *engine)
{
    const sherd_plan *plan = engine->plan;
    uint32_t span = 0, pad = 0;

    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__engine_bucket *entry = &engine->buckets[b];
        entry->spans = engine->spans + span;
        entry->n_spans = part_spans(engine, b, engine->spans + span, engine->n_spans - span);
        span += entry->n_spans;
        entry->pads = engine->pads + pad;
        entry->n_pads = bucket_pads(plan, &plan->buckets[b], engine->pads + pad);
        pad += entry->n_pads;
    }
}

static void fill_params(sherd_engine *engine)
{
    const sherd_plan *plan = engine->plan;

    for (uint32_t p = 0; p < plan->n_params; p++) {
        const sherd__plan_param *param = &plan->params[p];
        uint64_t bytes = sherd_dtype_bytes(param->grad_dtype);
        uint64_t begin;
        if (param->bucket < 0)
            continue;
        begin = plan->buckets[param->bucket].ring_offset + (uint64_t)param->offset * bytes;
        engine->param[p].slot = (sherd__byte_range){begin, begin + (uint64_t)param->elems * bytes};
    }
}

static sherd_status create_muon_events(sherd_engine *engine, sherd__engine_bucket *bucket, int offloaded,
                                       sherd_error *err)
{
    static const sherd__event_kind kinds[] = {SHERD__EV_DIRECTED, SHERD__EV_TURNED, SHERD__EV_SHARED, SHERD__EV_AIMED,
                                              SHERD__EV_LANDED};
    const size_t n = sizeof kinds / sizeof *kinds - (offloaded ? 0 : 2);
    sherd_status status = SHERD_OK;

    for (size_t k = 0; status == SHERD_OK && k < n; k++)
        status = engine->device->ops->event_create(engine->device, &bucket->event[kinds[k]], err);
    return status;
}

static sherd_status create_events(sherd_engine *engine, sherd_error *err)
{
    const sherd__device_ops *ops = engine->device->ops;
    static const sherd__event_kind kinds[] = {SHERD__EV_READY,    SHERD__EV_REDUCED, SHERD__EV_UPDATED,
                                              SHERD__EV_GATHERED, SHERD__EV_SUMMED,  SHERD__EV_LOWERED,
                                              SHERD__EV_STEPPED,  SHERD__EV_FETCHED, SHERD__EV_STORED};
    const size_t usual = 4, offloaded = 3, all = sizeof kinds / sizeof *kinds; /* the last two only on disk */
    sherd_status status = ops->event_create(engine->device, &engine->closed, err);

    if (status == SHERD_OK)
        status = ops->event_create(engine->device, &engine->voted, err);
    if (status == SHERD_OK && engine->plan->trust)
        status = ops->event_create(engine->device, &engine->rated, err);
    for (uint32_t b = 0; status == SHERD_OK && engine->plan->trust && b < engine->plan->n_buckets; b++)
        status = ops->event_create(engine->device, &engine->buckets[b].event[SHERD__EV_WEIGHED], err);
    for (uint32_t b = 0; status == SHERD_OK && b < engine->plan->n_buckets; b++)
        if (engine->plan->buckets[b].muon)
            status = create_muon_events(engine, &engine->buckets[b], sherd__bucket_offloaded(&engine->plan->buckets[b]),
                                        err);
    for (int s = 0; status == SHERD_OK && s < SHERD__STREAMS; s++)
        status = ops->event_create(engine->device, &engine->sync[s], err);
    for (uint32_t b = 0; status == SHERD_OK && b < engine->plan->n_buckets; b++)
        for (size_t k = 0, n = engine->plan->buckets[b].tier == SHERD_TIER_DEVICE ? usual
                               : engine->plan->buckets[b].tier == SHERD_TIER_HOST ? usual + offloaded
                                                                                  : all;
             status == SHERD_OK && k < n; k++)
            status = ops->event_create(engine->device, &engine->buckets[b].event[kinds[k]], err);
    return status;
}

static void destroy_events(sherd_engine *engine)
{
    const sherd__device_ops *ops = engine->device->ops;

    for (uint32_t b = 0; engine->buckets && b < engine->plan->n_buckets; b++)
        for (int k = 0; k < SHERD__EVENTS; k++)
            if (engine->buckets[b].event[k])
                ops->event_destroy(engine->buckets[b].event[k]);
    for (int s = 0; s < SHERD__STREAMS; s++) {
        if (engine->sync[s])
            ops->event_destroy(engine->sync[s]);
        engine->sync[s] = NULL;
    }
    if (engine->rated)
        ops->event_destroy(engine->rated);
    engine->rated = NULL;
    if (engine->voted)
        ops->event_destroy(engine->voted);
    if (engine->closed)
        ops->event_destroy(engine->closed);
    engine->voted = engine->closed = NULL;
}

sherd_status sherd__engine_tables_create(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    sherd_status status;

    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        engine->n_spans += part_spans(engine, b, NULL, 0);
        engine->n_pads += bucket_pads(plan, &plan->buckets[b], NULL);
    }
    status = sherd__engine_table(engine, plan->n_buckets, sizeof *engine->buckets, &engine->buckets, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, plan->n_params, sizeof *engine->param, &engine->param, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, plan->n_params, sizeof *engine->ring_params, &engine->ring_params, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, plan->n_buckets, sizeof *engine->ring_buckets, &engine->ring_buckets, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, engine->n_spans, sizeof *engine->spans, &engine->spans, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, engine->n_pads, sizeof *engine->pads, &engine->pads, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, (size_t)engine->world, SHERD__SCRATCH_BYTES_PER_RANK,
                                     &engine->scratch_host, err);
    if (status != SHERD_OK)
        return status;
    fill_buckets(engine);
    fill_params(engine);
    return create_events(engine, err);
}

void sherd__engine_tables_destroy(sherd_engine *engine)
{
    const sherd_plan *plan = engine->plan;

    destroy_events(engine);
    sherd__engine_table_free(engine, engine->scratch_host, (size_t)engine->world, SHERD__SCRATCH_BYTES_PER_RANK);
    sherd__engine_table_free(engine, engine->pads, engine->n_pads, sizeof *engine->pads);
    sherd__engine_table_free(engine, engine->spans, engine->n_spans, sizeof *engine->spans);
    sherd__engine_table_free(engine, engine->ring_buckets, plan->n_buckets, sizeof *engine->ring_buckets);
    sherd__engine_table_free(engine, engine->ring_params, plan->n_params, sizeof *engine->ring_params);
    sherd__engine_table_free(engine, engine->param, plan->n_params, sizeof *engine->param);
    sherd__engine_table_free(engine, engine->buckets, plan->n_buckets, sizeof *engine->buckets);
    engine->scratch_host = NULL;
    engine->pads = NULL;
    engine->spans = NULL;
    engine->ring_buckets = NULL;
    engine->ring_params = NULL;
    engine->param = NULL;
    engine->buckets = NULL;
    engine->n_spans = engine->n_pads = 0;
}
