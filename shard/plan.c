/* SPDX-License-Identifier: MIT
 *
 * The plan: made in one go from configuration, parameters and world, then never changed.
 */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "optim/optim.h"
#include "shard/build.h"

#define MOST_STEPS 100 /* of Newton and Schulz */

/* Beyond these bounds a gradient's factor leaves fp32. */
static sherd_status check_scaling(const sherd_config *config, sherd_error *err)
{
    const double most = 0x1p100, least = 0x1p-100;
    double scale = config->scaling.loss_scale, min = config->scaling.min_loss_scale;

    if (config->scaling.kind == SHERD_SCALING_STATIC && !(scale >= least && scale <= most))
        return sherd__fail(err, SHERD_EINVAL, "scaling.loss_scale is %g; give a number above 0, as 128", scale);
    if (config->scaling.kind != SHERD_SCALING_DYNAMIC)
        return SHERD_OK;
    if (config->scaling.initial_scale_power < 0 || config->scaling.initial_scale_power > 100 ||
        config->scaling.hysteresis < 1 || config->scaling.loss_scale_window < 1 || !(min >= least && min <= most))
        return sherd__fail(err, SHERD_EINVAL,
                           "scaling: initial_scale_power %" PRId32 ", hysteresis %" PRId32 ", loss_scale_window %" PRId64
                           ", min_loss_scale %g; give 0 to 100, then 1 or more, and a number above 0",
                           config->scaling.initial_scale_power, config->scaling.hysteresis,
                           config->scaling.loss_scale_window, min);
    return SHERD_OK;
}

static sherd_status check_faults(const sherd_config *config, sherd_error *err)
{
    if (config->faults.nonfinite == SHERD_NONFINITE_STOP && config->scaling.kind == SHERD_SCALING_DYNAMIC)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd.nonfinite \"stop\" does not go with a dynamic loss scale, which finds its value by overflows");
    if ((int)config->faults.nonfinite < 0 || config->faults.nonfinite > SHERD_NONFINITE_STOP ||
        config->faults.check_replicas < 0)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd.nonfinite is %d and sherd.check_replicas %" PRId64
                           "; give a value of sherd_nonfinite, and 0 or a number of steps",
                           (int)config->faults.nonfinite, config->faults.check_replicas);
    return SHERD_OK;
}

static sherd_status check_config(const sherd_config *config, sherd_error *err)
{
    if (config->zero.stage < 0 || config->zero.stage > 3)
        return sherd__fail(err, SHERD_EINVAL, "zero_optimization.stage is %" PRId32 "; use 0, 1 or 2",
                           config->zero.stage);
    if (config->zero.stage == 3)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "zero_optimization.stage 3 is not built yet; use 0, 1 or 2");
    if (config->zero.reduce_bucket_size < 1 || config->zero.allgather_bucket_size < 1)
        return sherd__fail(err, SHERD_EINVAL,
                           "reduce_bucket_size %" PRId64 " and allgather_bucket_size %" PRId64
                           " count elements; give 1 or more",
                           config->zero.reduce_bucket_size, config->zero.allgather_bucket_size);
    if (config->n_groups > SHERD_MAX_GROUPS)
        return sherd__fail(err, SHERD_EINVAL, "%" PRIu32 " parameter groups; at most %d", config->n_groups,
                           SHERD_MAX_GROUPS);
    if (!sherd__optim_get(config->optimizer.kind))
        return sherd__fail(err, SHERD_EINVAL, "optimizer kind %d is unknown; use a value of sherd_optimizer",
                           (int)config->optimizer.kind);
    if (config->optimizer.kind == SHERD_MUON && (config->muon.ns_steps < 1 || config->muon.ns_steps > MOST_STEPS))
        return sherd__fail(err, SHERD_EINVAL, "optimizer Muon: ns_steps is %" PRId32 "; give 1 to %d, 5 by custom",
                           config->muon.ns_steps, MOST_STEPS);
    if (config->optimizer.kind == SHERD_LAMB && !(config->lamb.min_coeff >= 0 && config->lamb.max_coeff >= config->lamb.min_coeff))
        return sherd__fail(err, SHERD_EINVAL, "optimizer Lamb: min_coeff %g and max_coeff %g; give 0 or more, the least first",
                           config->lamb.min_coeff, config->lamb.max_coeff);
    if ((unsigned)config->wire > SHERD_WIRE_FP16)
        return sherd__fail(err, SHERD_EINVAL, "wire %d is unknown; use a value of sherd_wire", (int)config->wire);
    if (check_faults(config, err) != SHERD_OK)
        return SHERD_EINVAL;
    return check_scaling(config, err);
}

/* The caller's struct may be older or newer than ours: members it lacks keep their defaults. */
static sherd_status take_config(sherd_plan *plan, const sherd_config *config, int32_t world, sherd_error *err)
{
    size_t bytes = config->size < sizeof plan->config ? config->size : sizeof plan->config;
    if (config->size == 0)
        return sherd__fail(err, SHERD_EINVAL, "the configuration's size is 0; fill it with sherd_config_init");
    if (world < 1)
        return sherd__fail(err, SHERD_EINVAL, "a world of %" PRId32 " ranks; give 1 or more", world);
    sherd_config_init(&plan->config, sizeof plan->config);
    memcpy(&plan->config, config, bytes);
    plan->config.size = sizeof plan->config;
    sherd_status status = check_config(&plan->config, err);
    if (!status)
        status = sherd__plan_check_transport(&plan->config, err);
    if (!status)
        status = sherd_config_resolve(&plan->config, world, err);
    if (status)
        return status;
    plan->world = world;
    plan->full_mode = plan->config.zero.stage < 2 && plan->config.gradient_accumulation_steps > 1;
    plan->whole_state = plan->config.zero.stage == 0;
    plan->n_moments = sherd__optim_get(plan->config.optimizer.kind)->n_moments;
    plan->trust = sherd__optim_get(plan->config.optimizer.kind)->direction != NULL;
    plan->moment_dtype = plan->config.moments_bf16 ? SHERD_BF16 : SHERD_FP32;
    plan->comm_bytes = sherd__plan_comm_bytes(world);
    if (plan->config.reproducible)
        plan->carries = sherd__plan_carries(plan->config.gradient_accumulation_steps);
    if (plan->config.replan && sherd__plan_transport(&plan->config) != SHERD_TRANSPORT_DIRECT)
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "sherd.replan needs sherd.transport 'direct': the receive scratch of '%s' cannot change its size; "
                           "leave it out and register parameters in forward order of first use",
                           sherd__transport_name(sherd__plan_transport(&plan->config)));
    return sherd__plan_check_reproducible(plan, err);
}

static sherd_status build(sherd_plan *plan, const sherd_config *config, const sherd_param *params, uint32_t n_params,
                          int32_t world, sherd_error *err)
{
    sherd_status status;
    if ((status = take_config(plan, config, world, err)) ||
        (status = sherd__plan_take_params(plan, params, n_params, err)) ||
        (status = sherd__plan_form_buckets(plan, err)))
        return status;
    if ((status = sherd__plan_choose_wire(plan, err)) || (status = sherd__plan_place_ring(plan, err)))
        return status;
    sherd__plan_place_receive(plan);
    sherd__plan_place_trust(plan);
    if ((status = sherd__plan_place_muon(plan, err)))
        return status;
    if ((status = sherd__plan_place_state(plan, err)) || (status = sherd__schedule_build(plan, err)))
        return status;
    return sherd__plan_seal(plan, err);
}

static sherd_status create(const sherd_config *config, const sherd_param *params, uint32_t n_params, int32_t world,
                           const uint32_t *arrival, sherd_plan **out, sherd_error *err)
{
    sherd_plan *plan = sherd__alloc(&sherd__default_allocator, 1, sizeof *plan);
    if (!plan)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a plan");
    plan->arrival = arrival;
    sherd_status status = build(plan, config, params, n_params, world, err);
    plan->arrival = NULL;
    if (status) {
        sherd_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return SHERD_OK;
}

sherd_status sherd_plan_create(const sherd_config *config, const sherd_param *params, uint32_t n_params,
                               int32_t world, sherd_plan **out, sherd_error *err)
{
    if (!config || !out || (!params && n_params))
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_plan_create needs a configuration, parameters and a place for the plan");
    return create(config, params, n_params, world, NULL, out, err);
}

sherd_status sherd__plan_reordered(const sherd_plan *plan, const uint32_t *arrival, sherd_plan **out, sherd_error *err)
{
    sherd_param *params = sherd__alloc(&sherd__default_allocator, plan->n_params, sizeof *params);
    sherd_status status;

    if (!params)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a table of %" PRIu32 " parameters", plan->n_params);
    for (uint32_t i = 0; i < plan->n_params; i++) {
        const sherd__plan_param *from = &plan->params[i];
        params[i] = (sherd_param){.name = from->name,
                                  .ndim = from->ndim,
                                  .dtype = from->dtype,
                                  .grad_dtype = from->grad_dtype,
                                  .group = from->group,
                                  .uses = from->uses,
                                  .flags = from->flags,
                                  .storage = from->storage};
        memcpy(params[i].shape, from->shape, sizeof from->shape);
    }
    status = create(&plan->config, params, plan->n_params, plan->world, arrival, out, err);
    sherd__free(&sherd__default_allocator, params, plan->n_params, sizeof *params);
    return status;
}

void sherd_plan_destroy(sherd_plan *plan)
{
    if (!plan)
        return;
    sherd__schedule_destroy(plan);
    for (uint32_t i = 0; i < plan->n_params; i++)
        if (plan->params[i].name)
            sherd__free(&sherd__default_allocator, plan->params[i].name, strlen(plan->params[i].name) + 1, 1);
    sherd__free(&sherd__default_allocator, plan->buckets, plan->n_params, sizeof *plan->buckets);
    sherd__free(&sherd__default_allocator, plan->order, plan->n_params, sizeof *plan->order);
    sherd__free(&sherd__default_allocator, plan->params, plan->n_params, sizeof *plan->params);
    sherd__free(&sherd__default_allocator, plan, 1, sizeof *plan);
}

void sherd_plan_hash(const sherd_plan *plan, uint8_t out[16])
{
    memcpy(out, plan->hash, 16);
}

const sherd_config *sherd_plan_config(const sherd_plan *plan)
{
    return &plan->config;
}

int32_t sherd_plan_world(const sherd_plan *plan)
{
    return plan->world;
}

uint32_t sherd_plan_params(const sherd_plan *plan)
{
    return plan->n_params;
}

int64_t sherd_plan_elems(const sherd_plan *plan)
{
    return plan->total_elems;
}

uint32_t sherd_plan_buckets(const sherd_plan *plan)
{
    return plan->n_buckets;
}

sherd_status sherd_plan_bucket(const sherd_plan *plan, uint32_t bucket, sherd_bucket_info *out)
{
    if (!plan || !out || bucket >= plan->n_buckets)
        return SHERD_EINVAL;
    const sherd__bucket *from = &plan->buckets[bucket];
    *out = (sherd_bucket_info){.n_params = from->count,
                               .elems = from->elems,
                               .slice_elems = from->slice_elems,
                               .ring_offset = from->ring_offset,
                               .ring_bytes = from->ring_bytes,
                               .dtype = from->dtype,
                               .grad_dtype = from->grad_dtype,
                               .tier = from->tier,
                               .speculated = from->speculated};
    return SHERD_OK;
}

int32_t sherd_plan_param_bucket(const sherd_plan *plan, uint32_t param)
{
    return param < plan->n_params ? plan->params[param].bucket : -1;
}

sherd_status sherd_plan_own(const sherd_plan *plan, uint32_t param, int32_t rank, int64_t *first, int64_t *count)
{
    int64_t begin, end;

    if (param >= plan->n_params || rank < 0 || rank >= plan->world)
        return SHERD_EINVAL;
    const sherd__plan_param *of = &plan->params[param];
    *first = *count = 0;
    if (of->bucket < 0)
        return SHERD_OK;
    begin = sherd__plan_part_begin(plan, &plan->buckets[of->bucket], rank) - of->offset;
    end = begin + sherd__plan_part_elems(plan, &plan->buckets[of->bucket]);
    begin = begin > 0 ? begin : 0;
    end = end < of->elems ? end : of->elems;
    if (begin < end) {
        *first = begin;
        *count = end - begin;
    }
    return SHERD_OK;
}

const char *sherd_plan_state(const sherd_plan *plan, uint32_t which)
{
    const sherd__optim *optim = sherd__optim_get(plan->config.optimizer.kind);

    if (which > plan->n_moments)
        return plan->n_matrices > 0 && which == plan->n_moments + 1 ? optim->matrix->moment_names[0] : NULL;
    return which == 0 ? "master" : optim->moment_names[which - 1];
}

const char *sherd_plan_param_state(const sherd_plan *plan, uint32_t param, uint32_t which)
{
    if (param >= plan->n_params || which >= sherd__plan_param_states(plan, param))
        return NULL;
    if (which > 0 && plan->params[param].owner >= 0)
        return sherd__optim_get(plan->config.optimizer.kind)->matrix->moment_names[which - 1];
    return sherd_plan_state(plan, which);
}

int64_t sherd__plan_micro_number(const sherd_plan *plan, int32_t rank, int64_t k)
{
    return plan->full_mode ? rank * plan->config.gradient_accumulation_steps + k : k * plan->world + rank;
}
