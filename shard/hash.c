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

/* Numbers count as fields, with a name each, but for those of parameters and buckets. */
typedef struct writer {
    uint8_t *data; /* NULL: only count */
    size_t at;
    int unnamed;
    uint32_t field;           /* the next one's index */
    uint32_t begin, end;      /* those whose digest is asked for, */
    uint64_t digest;          /* 0 where there are none */
    sherd__plan_field *first; /* and the first of them; may be NULL */
} writer;

static uint64_t mix(uint64_t digest, uint64_t word)
{
    digest = (digest ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return digest ^ digest >> 29;
}

static void put_bytes(writer *to, const void *data, size_t bytes)
{
    if (to->data)
        memcpy(to->data + to->at, data, bytes);
    to->at += bytes;
}

static void look_at(writer *to, const char *text, uint64_t value, int real)
{
    uint32_t index = to->field;

    if (to->unnamed)
        return;
    to->field++;
    if (index < to->begin || index >= to->end)
        return;
    to->digest = mix(to->digest + 1, value);
    if (to->first && index == to->begin) {
        sherd__plan_field_name(text, to->first);
        to->first->bits = value;
        to->first->real = real;
    }
}

static void put_number(writer *to, const char *text, uint64_t value, int real)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    put_bytes(to, bytes, sizeof bytes);
    look_at(to, text, value, real);
}

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The expression's text tells which member it is. */
#define put(to, value)        put_number(to, #value, value, 0)
#define put_double(to, value) put_number(to, #value, bits_of(value), 1)

/* Left out: what only one rank's output depends on (printing), and limits of waiting. */
static void put_config(writer *to, const sherd_config *config)
{
    put(to, (uint64_t)config->train_micro_batch_size_per_gpu);
    put(to, (uint64_t)config->gradient_accumulation_steps);
    put(to, (uint64_t)config->train_batch_size); /* follows from them: it is not what is named where one of them differs */
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
    put(to, (uint64_t)config->replan);
    put(to, (uint64_t)config->wire);
}

/* What only one of the schedulers has, the loss scale, and how moments are kept. */
static void put_schedules_and_scale(writer *to, const sherd_config *config)
{
    put_double(to, config->one_cycle.min_lr);
    put_double(to, config->one_cycle.max_lr);
    put_double(to, config->one_cycle.decay_lr_rate);
    put_double(to, config->one_cycle.min_mom);
    put_double(to, config->one_cycle.max_mom);
    put_double(to, config->one_cycle.decay_mom_rate);
    put_double(to, config->lr_range_test.min_lr);
    put_double(to, config->lr_range_test.step_rate);
    put_double(to, config->scaling.loss_scale);
    put_double(to, config->scaling.min_loss_scale);
    put(to, (uint64_t)config->one_cycle.first_step_size);
    put(to, (uint64_t)config->one_cycle.second_step_size);
    put(to, (uint64_t)config->one_cycle.first_stair_count);
    put(to, (uint64_t)config->one_cycle.second_stair_count);
    put(to, (uint64_t)config->one_cycle.decay_step_size);
    put(to, (uint64_t)config->one_cycle.cycle_momentum);
    put(to, (uint64_t)config->lr_range_test.step_size);
    put(to, (uint64_t)config->lr_range_test.staircase);
    put(to, (uint64_t)config->scaling.kind);
    put(to, (uint64_t)config->scaling.initial_scale_power);
    put(to, (uint64_t)config->scaling.hysteresis);
    put(to, (uint64_t)config->scaling.consecutive_hysteresis);
    put(to, (uint64_t)config->scaling.loss_scale_window);
    put(to, (uint64_t)config->moments_bf16);
    put(to, (uint64_t)config->master_remainder);
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
    if (config->optimizer.kind == SHERD_MUON) {
        put_double(to, config->muon.muon_lr);
        put_double(to, config->muon.adam_lr);
        put(to, (uint64_t)config->muon.nesterov);
        put(to, (uint64_t)config->muon.ns_steps);
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
    to->unnamed = 1;
    for (uint32_t i = 0; i < plan->n_params; i++)
        put_param(to, &plan->params[i]);
    if (plan->arrival)
        for (uint32_t i = 0; i < plan->n_params; i++)
            put(to, plan->arrival[i]);
    to->unnamed = 0;
    put(to, plan->n_buckets);
    to->unnamed = 1;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        put(to, plan->buckets[b].count);
        put(to, (uint64_t)plan->buckets[b].slice_elems);
        put(to, plan->buckets[b].ring_offset);
    }
    to->unnamed = 0;
    put(to, plan->ring_bytes);
    put(to, plan->placement.n_disk);
    put(to, plan->placement.n_off);
    put(to, plan->placement.n_speculated);
    put(to, plan->placement.disk_slots);
    if (plan->n_matrices == 0)
        return;
    put(to, plan->n_waves);
    put(to, plan->window_bytes);
    to->unnamed = 1;
    for (uint32_t i = 0; i < plan->n_params; i++)
        put(to, (uint64_t)plan->params[i].owner);
    to->unnamed = 0;
}

sherd_status sherd__plan_seal(sherd_plan *plan, sherd_error *err)
{
    writer count = {.data = NULL};
    put_plan(&count, plan);
    writer text = {.data = sherd__alloc(&sherd__default_allocator, count.at, 1)};
    if (!text.data)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for %zu bytes to hash the plan", count.at);
    put_plan(&text, plan);
    sherd__hash_plain(text.data, text.at, plan->hash);
    sherd__free(&sherd__default_allocator, text.data, count.at, 1);
    return SHERD_OK;
}

void sherd__plan_field_at(const sherd_plan *plan, uint32_t index, sherd__plan_field *out)
{
    writer look = {.begin = index, .end = index + 1, .first = out};

    *out = (sherd__plan_field){.name = "nothing"};
    put_plan(&look, plan);
}

uint64_t sherd__plan_fields_digest(const sherd_plan *plan, uint32_t begin, uint32_t end)
{
    writer look = {.begin = begin, .end = end};

    put_plan(&look, plan);
    return look.digest;
}

uint64_t sherd__plan_params_digest(const sherd_plan *plan, uint32_t begin, uint32_t end)
{
    uint64_t digest = 1;

    for (uint32_t i = begin; i < end; i++) {
        const sherd__plan_param *p = &plan->params[i];
        for (const char *c = p->name; *c; c++)
            digest = mix(digest, (uint8_t)*c);
        for (uint32_t d = 0; d < p->ndim; d++)
            digest = mix(digest, (uint64_t)p->shape[d]);
        const uint64_t words[] = {p->ndim, p->dtype, p->grad_dtype, p->group, p->uses, p->flags};
        for (size_t w = 0; w < sizeof words / sizeof *words; w++)
            digest = mix(digest, words[w]);
    }
    return digest;
}
