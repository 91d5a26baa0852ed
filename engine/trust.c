/* SPDX-License-Identifier: MIT
 *
 * Ratios of whole parameters (optim/trust.h). Every rank adds up the norms of its part, in integers; the slices are
 * gathered, added up on every rank alike, and made ratios by the host, whose arithmetic is the only one that may not be
 * done twice differently: a root and a division in double. Kilobytes, once a step.
 *
 * Sums of offloaded parameters are formed in host memory and copied into the slice, which the device's part of the pass
 * left untouched there. Where every rank has whole buckets nothing is exchanged.
 */
#include <string.h>

#include "engine/engine.h"

/* The own slice may be cleared when the vote is over: then every rank has read the former step's. */
sherd_status sherd__engine_trust_clear(sherd_engine *engine, sherd__stream *stream)
{
    return engine->device->ops->zero(stream, sherd__engine_tag(engine, "trust clear", -1), engine->trust.own,
                                     &engine->trust.clear, 1);
}

sherd_status sherd__engine_execute_trust(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    sherd__update update = sherd__engine_update_of(engine, action->bucket);

    return engine->device->ops->trust(stream, sherd__engine_tag(engine, "trust", (int32_t)action->bucket), &update);
}

sherd_status sherd__engine_execute_host_trust(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    return sherd__offload_trust(engine->offload, stream,
                                sherd__engine_tag(engine, "host_trust", (int32_t)action->bucket), action->bucket);
}

/* Parameters of offloaded buckets come first in the plan's order. */
static uint32_t offloaded_tensors(const sherd_plan *plan)
{
    uint32_t n_off = plan->placement.n_off;
    return n_off ? plan->buckets[n_off - 1].first + plan->buckets[n_off - 1].count : 0;
}

/* Leaves the host's sums as the next step wants them. */
static void make_ratios(void *arg)
{
    const sherd_engine *engine = arg;
    const sherd__engine_trust *trust = &engine->trust;

    for (uint32_t t = 0; t < engine->plan->n_tensors; t++)
        trust->host_ratios[t] = sherd__trust_ratio(&trust->host[t], engine->rules.min_coeff, engine->rules.max_coeff);
    memset(trust->host, 0, engine->plan->trust_slice_bytes);
}

static sherd_status add_ranks(sherd_engine *engine, sherd__tag tag, sherd__stream *stream)
{
    const sherd_plan *plan = engine->plan;
    sherd__engine_trust *trust = &engine->trust;
    sherd_status status;

    if (plan->trust_slices == 1)
        return SHERD_OK;
    status = engine->comm->ops->all_gather(engine->comm, stream, tag, &trust->slices, 0, plan->trust_slice_bytes,
                                           &engine->last_ticket);
    if (status != SHERD_OK)
        return status;
    return engine->device->ops->reduce_u64(stream, tag, trust->total->weight, trust->src, plan->trust_slices, 0,
                                           plan->n_tensors * SHERD__TRUST_WORDS, 0);
}

sherd_status sherd__engine_execute_ratios(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__device_ops *ops = engine->device->ops;
    const sherd_plan *plan = engine->plan;
    sherd__engine_trust *trust = &engine->trust;
    sherd__tag tag = sherd__engine_tag(engine, "ratios", -1);
    uint64_t bytes = plan->n_tensors * sizeof *trust->own, offloaded = offloaded_tensors(plan) * sizeof *trust->own;
    sherd__access accesses[] = {{trust->host, plan->trust_slice_bytes, 1}, {trust->host_ratios, plan->ratio_bytes, 1}};
    sherd_status status = SHERD_OK;

    (void)action;
    if (offloaded > 0)
        status = ops->copy(stream, tag, trust->own, trust->host, offloaded);
    if (status == SHERD_OK)
        status = add_ranks(engine, tag, stream);
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, trust->host, trust->total, bytes);
    if (status == SHERD_OK)
        status = ops->host_call(stream, tag, make_ratios, engine, accesses, 2);
    return status == SHERD_OK ? ops->copy(stream, tag, trust->ratios, trust->host_ratios, plan->ratio_bytes) : status;
}

static sherd_status create_host(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    uint64_t bytes = plan->trust_slice_bytes + plan->ratio_bytes;
    void *host;
    sherd_status status =
        sherd__device_alloc(engine->device, SHERD_TIER_HOST, SHERD_CAT_COMMUNICATION, bytes, &host, err);

    if (status != SHERD_OK)
        return status;
    memset(host, 0, bytes);
    engine->trust.host = host;
    engine->trust.host_ratios = sherd__at(host, plan->trust_slice_bytes);
    return SHERD_OK;
}

static sherd_status create_slices(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    sherd__engine_trust *trust = &engine->trust;
    uint64_t slice = plan->trust_slice_bytes;
    sherd_status status;

    if (plan->trust_slices == 1) {
        status = sherd__engine_arena(engine, slice, SHERD_CAT_COMMUNICATION, &trust->own, err);
        trust->total = trust->own;
        return status;
    }
    status = sherd__engine_window(engine, plan->trust_slices * slice, SHERD_CAT_COMMUNICATION, &trust->slices, err);
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, slice, SHERD_CAT_COMMUNICATION, &trust->total, err);
    if (status == SHERD_OK)
        status = sherd__engine_table(engine, plan->trust_slices, sizeof *trust->src, &trust->src, err);
    if (status != SHERD_OK)
        return status;
    for (uint32_t r = 0; r < plan->trust_slices; r++)
        trust->src[r] = sherd__at(trust->slices.local, r * slice);
    trust->own = sherd__at(trust->slices.local, (uint64_t)engine->rank * slice);
    return SHERD_OK;
}

sherd_status sherd__engine_trust_create(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    sherd_status status;

    if (!plan->trust)
        return SHERD_OK;
    engine->trust.clear = (sherd__byte_range){0, plan->trust_slice_bytes};
    status = create_host(engine, err);
    if (status == SHERD_OK)
        status = create_slices(engine, err);
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, plan->ratio_bytes, SHERD_CAT_COMMUNICATION, &engine->trust.ratios, err);
    return status;
}

void sherd__engine_trust_destroy(sherd_engine *engine)
{
    sherd__engine_trust *trust = &engine->trust;

    sherd_device_free(engine->device, trust->ratios);
    sherd__engine_table_free(engine, trust->src, engine->plan->trust_slices, sizeof *trust->src);
    sherd_device_free(engine->device, trust->total); /* or the one slice */
    engine->comm->ops->window_destroy(engine->comm, &trust->slices);
    sherd_device_free(engine->device, trust->host);
    *trust = (sherd__engine_trust){0};
}
