/* SPDX-License-Identifier: MIT
 *
 * The schedule's actions, and the few waits that they need. A wait stands here only if no other order implies it; the
 * checking device's removal test holds us to that. What orders what:
 *
 * - READY[b] before the first action on bucket b: the caller wrote its gradients on its own stream.
 * - UPDATED[0] before the step's first write into the sums, at stage 0 only: the former step's updates read sums and
 *   step scalars. Bucket 0 is updated last and reduced first, so this one wait covers every bucket, and SCALARS too.
 *   Where some buckets are offloaded and some not, the last of each kind is waited for; with Muon it is not bucket 0
 *   that is updated last. Stages 1 and 2 need none: each GATHER on this stream has waited for its bucket's update.
 * - An offloaded bucket's LOWER waits for the step's sum; the sum's slot on the device must have been lowered before the
 *   next bucket is reduced into it (within a step; over steps the gathers order it). SPECULATE waits for the lowered
 *   sum.
 * - The boundary: schedule_boundary.c, and Muon's matrices: schedule_muon.c.
 *
 * A buffer that only this bucket uses, each step anew (host sums, second buffers), needs no wait: between two uses lies
 * UPDATED, then the gather, then the next step's reduction.
 *
 * Everything else is one stream's own order, or a collective's: a vote ends only when every rank's earlier actions on
 * its comm stream have ended, so nobody still reads a peer's sums in the next step.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "shard/build.h"
#include "shard/schedule_act.h"

static const char *const action_names[] = {
#define X(name, text) text,
    SHERD__ACTION_MAP(X)
#undef X
};

static const char *const event_names[] = {
#define X(name, text) text,
    SHERD__EVENT_MAP(X)
#undef X
};

const char *sherd__action_name(sherd__action_kind kind)
{
    return (unsigned)kind < SHERD__ACTIONS ? action_names[kind] : "unknown";
}

const char *sherd__event_name(sherd__event_kind kind)
{
    return (unsigned)kind < SHERD__EVENTS ? event_names[kind] : "none";
}

static int uses_sum_slot(const sherd_plan *plan, uint32_t bucket)
{
    return plan->placement.sum_slots > 0 && sherd__bucket_offloaded(&plan->buckets[bucket]);
}

/* 1: the step's sum is not complete yet when its last reduction is. */
static int summed_later(const sherd_plan *plan)
{
    return plan->full_mode || plan->whole_state || plan->carries > 0;
}

static void emit_lower(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_LOWER, SHERD__LOWER, bucket, 0);

    sherd__act_waits(action, summed_later(plan) ? SHERD__EV_SUMMED : SHERD__EV_REDUCED, bucket);
    sherd__act_records(action, SHERD__EV_LOWERED, bucket);
    if (!plan->buckets[bucket].speculated)
        return;
    action = sherd__act(schedule, &scratch, SHERD__ACT_SPECULATE, SHERD__HOST, bucket, 0);
    sherd__act_waits(action, SHERD__EV_LOWERED, bucket);
}

/* 1: matrices are raised in a wave after this last update on the device; or in any, where that is of no matrix, so that they all
 * are offloaded and it lies before their ORTHO. */
static int raised_after(const sherd_plan *plan, uint32_t bucket)
{
    return plan->placement.n_off > 0 && plan->n_matrices > 0 &&
           (!plan->buckets[bucket].muon || plan->buckets[bucket].wave + 1 < plan->n_waves);
}

static sherd__range emit_on_ready(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket,
                                  sherd__phase phase)
{
    int first = phase == SHERD__ONLY || phase == SHERD__FIRST, last = phase == SHERD__ONLY || phase == SHERD__LAST;
    uint32_t assign = first ? SHERD__F_ASSIGN : 0, final = last && !plan->full_mode ? SHERD__F_FINAL : 0;
    uint32_t count = plan->carries > 0 && !first ? SHERD__F_COUNT : 0;
    sherd__range range = {.begin = schedule->n_actions};
    sherd__action scratch, *action;

    action = sherd__act(schedule, &scratch, SHERD__ACT_MOVE, SHERD__COMM, bucket, SHERD__F_SLOT);
    sherd__act_waits(action, SHERD__EV_READY, bucket);
    sherd__act(schedule, &scratch, SHERD__ACT_PADS, SHERD__COMM, bucket, 0);
    if (sherd__bucket_narrowed(&plan->buckets[bucket]))
        sherd__act(schedule, &scratch, SHERD__ACT_NARROW, SHERD__COMM, bucket, 0);
    action = sherd__act(schedule, &scratch, plan->full_mode ? SHERD__ACT_ACCUMULATE : SHERD__ACT_REDUCE, SHERD__COMM, bucket,
                  assign | final | count);
    if (first && plan->whole_state && bucket == 0) {
        if (plan->placement.n_off > 0)
            sherd__act_waits(action, SHERD__EV_UPDATED, schedule->last_raised);
        if (plan->placement.n_off < plan->n_buckets && !raised_after(plan, schedule->last_update))
            sherd__act_waits(action, SHERD__EV_UPDATED, schedule->last_update);
    }
    if (uses_sum_slot(plan, bucket) && !plan->buckets[bucket].sum_slot.former_previous)
        sherd__act_waits(action, SHERD__EV_LOWERED, plan->buckets[bucket].sum_slot.former);
    sherd__act_records(action, SHERD__EV_REDUCED, bucket);
    if (count)
        action = sherd__act(schedule, &scratch, SHERD__ACT_CARRY, SHERD__COMM, bucket, final | (last ? SHERD__F_DRAIN : 0));
    if (last && plan->full_mode)
        action = sherd__act(schedule, &scratch, SHERD__ACT_REDUCE_OWN, SHERD__COMM, bucket, SHERD__F_ASSIGN | SHERD__F_FINAL);
    if (last && plan->whole_state)
        action = sherd__act(schedule, &scratch, SHERD__ACT_GATHER_SUMS, SHERD__COMM, bucket, 0);
    if (last && sherd__bucket_offloaded(&plan->buckets[bucket])) {
        if (summed_later(plan))
            sherd__act_records(action, SHERD__EV_SUMMED, bucket);
        emit_lower(plan, schedule, bucket);
    }
    if (last && bucket == 0)
        sherd__schedule_first_fetches(plan, schedule);
    range.end = schedule->n_actions;
    return range;
}

static int phase_occurs(const sherd_plan *plan, sherd__phase phase)
{
    int64_t accumulation = plan->config.gradient_accumulation_steps;
    switch (phase) {
    case SHERD__ONLY:
        return accumulation == 1 || !plan->config.reproducible; /* or of a step that ends after its first */
    case SHERD__MIDDLE:
        return accumulation > 2;
    default:
        return accumulation > 1;
    }
}

/* Of offloaded buckets matrices come first, all others last. */
static void find_raised(const sherd_plan *plan, sherd__schedule *schedule)
{
    uint32_t n_off = plan->placement.n_off, first = n_off, last = 0;

    while (first > 0 && !plan->buckets[first - 1].muon)
        first--;
    schedule->first_raised = first > 0 ? first - 1 : n_off ? n_off - 1 : 0;
    while (last < n_off && plan->buckets[last].muon)
        last++;
    schedule->last_raised = last < n_off ? last : 0;
}

/* Under Muon what is no matrix is updated before matrices are. */
static void find_ends(const sherd_plan *plan, sherd__schedule *schedule)
{
    uint32_t first = plan->n_buckets, last = plan->placement.n_off;

    while (first > last && plan->buckets[first - 1].muon)
        first--;
    schedule->first_update = first > last ? first - 1 : plan->n_buckets - 1;
    while (plan->n_matrices > 0 && last < plan->n_buckets && !plan->buckets[last].muon)
        last++;
    schedule->last_update = last < plan->n_buckets ? last : plan->placement.n_off;
}

static void emit_all(const sherd_plan *plan, sherd__schedule *schedule)
{
    schedule->n_actions = 0;
    for (int phase = 0; phase < SHERD__PHASES; phase++)
        for (uint32_t b = 0; b < plan->n_buckets && phase_occurs(plan, (sherd__phase)phase); b++)
            schedule->on_ready[phase][b] = emit_on_ready(plan, schedule, b, (sherd__phase)phase);
    schedule->boundary = sherd__schedule_boundary(plan, schedule);
}

sherd_status sherd__schedule_build(struct sherd_plan *plan, sherd_error *err)
{
    sherd__schedule *schedule = &plan->schedule;
    find_ends(plan, schedule);
    find_raised(plan, schedule);
    for (int phase = 0; phase < SHERD__PHASES; phase++) {
        schedule->on_ready[phase] = sherd__alloc(&sherd__default_allocator, plan->n_buckets, sizeof(sherd__range));
        if (!schedule->on_ready[phase])
            return sherd__fail(err, SHERD_ENOMEM, "no memory for the schedule of %" PRIu32 " buckets", plan->n_buckets);
    }
    emit_all(plan, schedule);
    uint32_t count = schedule->n_actions;
    schedule->actions = sherd__alloc(&sherd__default_allocator, count, sizeof(sherd__action));
    if (!schedule->actions)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a schedule of %" PRIu32 " actions", count);
    emit_all(plan, schedule);
    schedule->acquire_wait = plan->whole_state ? SHERD__EV_UPDATED : SHERD__EV_GATHERED;
    return SHERD_OK;
}

void sherd__schedule_destroy(struct sherd_plan *plan)
{
    sherd__schedule *schedule = &plan->schedule;
    sherd__free(&sherd__default_allocator, schedule->actions, schedule->n_actions, sizeof(sherd__action));
    for (int phase = 0; phase < SHERD__PHASES; phase++)
        sherd__free(&sherd__default_allocator, schedule->on_ready[phase], plan->n_buckets, sizeof(sherd__range));
}
