/* SPDX-License-Identifier: MIT
 *
 * The plan's hash: a digest of a canonical little-endian text of everything that ranks must agree on before they
 * exchange a byte. Derived values (offsets, schedule) are left out where they follow from what is in, so that the
 * hash does not depend on how they are computed; the buckets are in, because a change of their rule must be noticed.
 */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "shard/build.h"

#define FORMAT_VERSION 1

typedef struct writer {
    uint8_t *data; /* NULL: only count */
    size_t at;
} writer;

static void put_bytes(writer *to, const void *data, size_t bytes)
{
    if (to->data)
        memcpy(to->data + to->at, data, bytes);
    to->at += bytes;
}

static void put(writer *to, uint64_t value)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    put_bytes(to, bytes, sizeof bytes);
}

static void put_double(writer *to, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(to, bits);
}

/* Left out: what only one rank's output depends on (printing), and limits of waiting. */
static void put_config(writer *to, const sherd_config *config)
{
    put(to, (uint64_t)config->train_batch_size);
    put(to, (uint64_t)config->train_micro_batch_size_per_gpu);
    put(to, (uint64_t)config->gradient_accumulation_steps);
    put_double(to, config->gradient_clipping);
    put_double(to, config->gradient_predivide_factor);
    put(to, (uint64_t)config->prescale_gradients);
    put(to, (uint64_t)config->allreduce_sum);
    put(to, (uint64_t)config->dtype);
    put(to, (uint64_t)config->check_grad_overflow);
    put(to, (uint64_t)config->zero.stage);
    put(to, (uint64_t)config->zero.reduce_bucket_size);
    put(to, (uint64_t)config->zero.allgather_bucket_size);
    put(to, (uint64_t)config->zero.overlap_comm);
    put(to, (uint64_t)config->zero.ignore_unused_parameters);
    put(to, (uint64_t)config->sherd.grad_sum_bf16);
    put(to, (uint64_t)config->sherd.exact_bucket_size);
    put(to, (uint64_t)sherd__plan_transport(config));
    put(to, (uint64_t)config->transport.reduction);
    put(to, (uint64_t)config->reproducible);
    put(to, (uint64_t)config->faults.nonfinite);
    put(to, (uint64_t)config->faults.check_replicas);
}

/* What only one of the schedulers has, and the loss scale. */
static void put_schedules_and_scale(writer *to, const sherd_config *config)
{
    const sherd_one_cycle *cycle = &config->one_cycle;
    const double reals[] = {cycle->min_lr,  cycle->max_lr,         cycle->decay_lr_rate,         cycle->min_mom,
                            cycle->max_mom, cycle->decay_mom_rate, config->lr_range_test.min_lr,
                            config->lr_range_test.step_rate, config->scaling.loss_scale, config->scaling.min_loss_scale};
    const int64_t counts[] = {cycle->first_step_size,
                              cycle->second_step_size,
                              cycle->first_stair_count,
                              cycle->second_stair_count,
                              cycle->decay_step_size,
                              cycle->cycle_momentum,
                              config->lr_range_test.step_size,
                              config->lr_range_test.staircase,
                              config->scaling.kind,
                              config->scaling.initial_scale_power,
                              config->scaling.hysteresis,
                              config->scaling.consecutive_hysteresis,
                              config->scaling.loss_scale_window};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        put_double(to, reals[i]);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        put(to, (uint64_t)counts[i]);
}

static void put_rules(writer *to, const sherd_config *config)
{
    put(to, (uint64_t)config->optimizer.kind);
    put_double(to, config->optimizer.lr);
    put_double(to, config->optimizer.beta1);
    put_double(to, config->optimizer.beta2);
    put_double(to, config->optimizer.eps);
    put_double(to, config->optimizer.weight_decay);
    put_double(to, config->optimizer.momentum);
    put(to, (uint64_t)config->optimizer.bias_correction);
    put(to, (uint64_t)config->scheduler.kind);
    put_double(to, config->scheduler.warmup_min_lr);
    put_double(to, config->scheduler.warmup_max_lr);
    put_double(to, config->scheduler.warmup_min_ratio);
    put_double(to, config->scheduler.cos_min_ratio);
    put(to, (uint64_t)config->scheduler.warmup_num_steps);
    put(to, (uint64_t)config->scheduler.total_num_steps);
    put(to, (uint64_t)config->scheduler.warmup_linear);
    put_schedules_and_scale(to, config);
    if (config->optimizer.kind == SHERD_LAMB) {
        put_double(to, config->lamb.max_coeff);
        put_double(to, config->lamb.min_coeff);
    }
    put(to, config->n_groups);
    for (uint32_t g = 0; g < config->n_groups; g++) {
        put_double(to, config->groups[g].lr);
        put_double(to, config->groups[g].weight_decay);
    }
}

static void put_param(writer *to, const sherd__plan_param *param)
{
    size_t length = strlen(param->name);
    put(to, length);
    put_bytes(to, param->name, length);
    put(to, param->ndim);
    for (uint32_t d = 0; d < param->ndim; d++)
        put(to, (uint64_t)param->shape[d]);
    put(to, (uint64_t)param->dtype);
    put(to, (uint64_t)param->grad_dtype);
    put(to, param->group);
    put(to, param->uses);
    put(to, param->flags);
}

static void put_plan(writer *to, const sherd_plan *plan)
{
    put(to, FORMAT_VERSION);
    put(to, (uint64_t)plan->world);
    put_config(to, &plan->config);
    put_rules(to, &plan->config);
    put(to, plan->n_params);
    for (uint32_t i = 0; i < plan->n_params; i++)
        put_param(to, &plan->params[i]);
    put(to, plan->n_buckets);
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        put(to, plan->buckets[b].count);
        put(to, (uint64_t)plan->buckets[b].slice_elems);
        put(to, plan->buckets[b].ring_offset);
    }
    put(to, plan->ring_bytes);
    put(to, plan->placement.n_disk);
    put(to, plan->placement.n_off);
    put(to, plan->placement.n_speculated);
    put(to, plan->placement.disk_slots);
}

sherd_status sherd__plan_seal(sherd_plan *plan, sherd_error *err)
{
    writer count = {NULL, 0};
    put_plan(&count, plan);
    writer text = {sherd__alloc(&sherd__default_allocator, count.at, 1), 0};
    if (!text.data)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for %zu bytes to hash the plan", count.at);
    put_plan(&text, plan);
    sherd__hash_plain(text.data, text.at, plan->hash);
    sherd__free(&sherd__default_allocator, text.data, count.at, 1);
    return SHERD_OK;
}
