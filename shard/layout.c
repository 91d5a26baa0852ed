/* SPDX-License-Identifier: MIT
 *
 * Where everything lies: one arena per kind of data, filled in bucket order. Bucket sizes are multiples of 256
 * elements, so every offset is a multiple of 512 bytes or more. Padded sizes were bounded when the buckets were
 * formed.
 */
#include "base/checked.h"
#include "shard/build.h"

#define SHARED_ALIGN_BYTES 64

/* The device's arenas. Sums that pass through slots lie in STAGING, not here. */
static void place_on_device(sherd_plan *plan, sherd__bucket *bucket)
{
    uint64_t state = (uint64_t)sherd__plan_part_elems(plan, bucket);
    bucket->param_offset = plan->param_bytes;
    plan->param_bytes += (uint64_t)bucket->elems * sherd_dtype_bytes(bucket->dtype);
    if (!sherd__bucket_offloaded(bucket) || plan->placement.sum_slots == 0) {
        bucket->sum_offset = plan->sum_bytes;
        plan->sum_bytes += (uint64_t)sherd__plan_sum_elems(plan, bucket) * sherd__plan_sum_elem_bytes(plan, bucket);
    }
    if (sherd__bucket_offloaded(bucket))
        return;
    bucket->state_offset = plan->moment_elems;
    plan->moment_elems += state;
    if (sherd__bucket_moments(plan, bucket) > 1) {
        bucket->second_offset = plan->second_elems;
        plan->second_elems += state;
    }
    if (bucket->remainder) {
        bucket->master_offset = plan->remainder_elems;
        plan->remainder_elems += state;
        return;
    }
    bucket->master_offset = plan->master_elems;
    plan->master_elems += bucket->dtype == SHERD_FP32 ? 0 : state;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* The host's arenas and the files: the owned part only, the master always, since the working copy is elsewhere. */
static void place_on_host(sherd_plan *plan, sherd__bucket *bucket)
{
    sherd__placement *placement = &plan->placement;
    uint64_t state = (uint64_t)sherd__plan_part_elems(plan, bucket);
    uint64_t sum = state * sherd__plan_sum_elem_bytes(plan, bucket);

    bucket->host_sum_offset = placement->host_sum_bytes;
    placement->host_sum_bytes += sum;
    if (sherd__bucket_has_step(plan, bucket))
        placement->host_sum_bytes += state * sizeof(float);
    if (placement->sum_slots > 0)
        placement->sum_slot_bytes = larger(placement->sum_slot_bytes, sum);
    if (bucket->dtype != SHERD_FP32 && !bucket->speculated)
        placement->emit_slot_elems = larger(placement->emit_slot_elems, state);
    if (bucket->tier == SHERD_TIER_DISK) {
        bucket->host_master_offset = placement->disk_elems;
        placement->disk_elems += state;
        placement->disk_moment_elems += state * sherd__bucket_moments(plan, bucket);
        placement->disk_slot_bytes =
            larger(placement->disk_slot_bytes, state * sherd__plan_state_bytes_per_elem(plan, bucket));
        return;
    }
    bucket->host_master_offset = placement->host_master_elems;
    placement->host_master_elems += state;
    placement->host_moment_elems += state * sherd__bucket_moments(plan, bucket);
    if (!bucket->speculated)
        return;
    bucket->shadow_offset = placement->shadow_elems;
    placement->shadow_elems += state;
    if (bucket->dtype != SHERD_FP32) {
        bucket->shadow_emit_offset = placement->shadow_emit_elems;
        placement->shadow_emit_elems += state;
    }
}

static sherd__slot *sum_slot_of(sherd__bucket *bucket)
{
    return &bucket->sum_slot;
}
static sherd__slot *emit_slot_of(sherd__bucket *bucket)
{
    return &bucket->emit_slot;
}
static sherd__slot *disk_slot_of(sherd__bucket *bucket)
{
    return &bucket->disk_slot;
}

/* Who used each slot last, and how many users there were. */
typedef struct turns {
    sherd__slot *(*slot_of)(sherd__bucket *bucket);
    uint32_t slots, n;
    uint32_t latest[SHERD__MAX_SLOTS];
} turns;

static void take_turn(turns *turns, sherd_plan *plan, uint32_t bucket)
{
    uint32_t index = turns->n % turns->slots, former = turns->latest[index];

    *turns->slot_of(&plan->buckets[bucket]) = (sherd__slot){index, former, turns->n < turns->slots, SHERD__NOBODY};
    if (turns->n >= turns->slots)
        turns->slot_of(&plan->buckets[former])->next = bucket;
    turns->latest[index] = bucket;
    turns->n++;
}

/* Buckets [0, end) in the order of the host's updates: from the last down, Muon's matrices before all others. */
static void take_turns_to_update(sherd_plan *plan, uint32_t end, uint32_t slots,
                                 sherd__slot *(*slot_of)(sherd__bucket *))
{
    turns turns = {.slot_of = slot_of, .slots = slots};

    for (int step = 0; step < 2 && slots > 0; step++) { /* the first for who comes last in a step */
        turns.n = 0;
        for (int32_t muon = 1; muon >= 0; muon--)
            for (uint32_t left = end; left > 0; left--)
                if (plan->buckets[left - 1].muon == muon)
                    take_turn(&turns, plan, left - 1);
    }
}

/* Users of the emit slots: offloaded buckets that are not speculated. These are two runs, with the speculated ones
 * between them; all take a number, the speculated ones do not use it. */
static void place_slots(sherd_plan *plan)
{
    const sherd__placement *placement = &plan->placement;
    turns turns = {.slot_of = sum_slot_of, .slots = placement->sum_slots};

    for (int step = 0; step < 2 && turns.slots > 0; step++) {
        turns.n = 0;
        for (uint32_t b = 0; b < placement->n_off; b++)
            take_turn(&turns, plan, b);
    }
    take_turns_to_update(plan, placement->n_off, placement->emit_slots, emit_slot_of);
    take_turns_to_update(plan, placement->n_disk, placement->disk_slots, disk_slot_of);
}

static uint32_t fewer(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* From the three numbers that say which buckets live where, everything else about placement. */
static void start_placement(sherd_plan *plan)
{
    uint32_t n_disk = plan->placement.n_disk, n_off = plan->placement.n_off,
             n_speculated = plan->placement.n_speculated;

    plan->placement = (sherd__placement){.n_disk = n_disk, .n_off = n_off, .n_speculated = n_speculated};
    /* Sums that are complete within one micro-step need no place of their own on the device: they pass through. */
    if (!plan->whole_state && plan->config.gradient_accumulation_steps == 1)
        plan->placement.sum_slots = fewer(n_off, SHERD__SUM_SLOTS);
    plan->placement.emit_slots = fewer(n_off, SHERD__EMIT_SLOTS);
    plan->placement.disk_slots = fewer(n_disk, (uint32_t)plan->config.offload.buffer_count);
    plan->param_bytes = plan->sum_bytes = plan->shared_bytes = 0;
    plan->master_elems = plan->remainder_elems = plan->moment_elems = plan->second_elems = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__bucket *bucket = &plan->buckets[b];
        bucket->tier = b < n_disk ? SHERD_TIER_DISK : b < n_off ? SHERD_TIER_HOST : SHERD_TIER_DEVICE;
        bucket->speculated = b >= n_disk && b < n_disk + n_speculated;
        bucket->remainder = /* the working copy must lie beside it */
            plan->config.master_remainder && bucket->dtype == SHERD_BF16 && bucket->tier == SHERD_TIER_DEVICE;
    }
}

static void place_buckets(sherd_plan *plan)
{
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        place_on_device(plan, &plan->buckets[b]);
        if (sherd__bucket_offloaded(&plan->buckets[b]))
            place_on_host(plan, &plan->buckets[b]);
    }
    if (plan->placement.emit_slot_elems == 0)
        plan->placement.emit_slots = 0; /* fp32, or all speculated */
    place_slots(plan);
}

static void place_params(sherd_plan *plan)
{
    uint32_t with_bucket =
        plan->n_buckets ? plan->buckets[plan->n_buckets - 1].first + plan->buckets[plan->n_buckets - 1].count : 0;
    for (uint32_t i = 0; i < with_bucket; i++) {
        sherd__plan_param *param = &plan->params[plan->order[i]];
        const sherd__bucket *bucket = &plan->buckets[param->bucket];
        param->param_offset = bucket->param_offset + (uint64_t)param->offset * sherd_dtype_bytes(param->dtype);
        if (param->uses > 1) {
            uint64_t bytes = (uint64_t)param->elems * sherd_dtype_bytes(param->grad_dtype);
            param->shared_offset = plan->shared_bytes;
            plan->shared_bytes += (bytes + SHARED_ALIGN_BYTES - 1) / SHARED_ALIGN_BYTES * SHARED_ALIGN_BYTES;
        }
    }
}

static void place_frozen(sherd_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_params; i++) {
        sherd__plan_param *param = &plan->params[i];
        if (param->bucket >= 0 || param->elems == 0)
            continue;
        param->param_offset = plan->param_bytes;
        plan->param_bytes +=
            (uint64_t)sherd__round_up(param->elems, SHERD__ALIGN_ELEMS) * sherd_dtype_bytes(param->dtype);
    }
}

void sherd__plan_place_arenas(sherd_plan *plan)
{
    int any_bf16 = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++)
        any_bf16 |= plan->buckets[b].dtype == SHERD_BF16;
    plan->narrow_sums = plan->config.sherd.grad_sum_bf16 && any_bf16;
    plan->sums_bf16 = plan->narrow_sums && plan->config.gradient_accumulation_steps == 1;
    start_placement(plan);
    place_buckets(plan);
    place_params(plan);
    place_frozen(plan);
}
