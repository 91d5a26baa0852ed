/* SPDX-License-Identifier: MIT
 *
 * The schedule's actions, and the few waits that they need. A wait stands here only if no other order implies it; the
 * checking device's removal test holds us to that. What orders what:
 *
 * - READY[b] before the first action on bucket b: the caller wrote its gradients on its own stream.
 * - UPDATED[0] before the step's first write into the sums, at stage 0 only: the former step's updates read sums and
 *   step scalars. Bucket 0 is updated last and reduced first, so this one wait covers every bucket, and SCALARS too. Where
 *   some buckets are offloaded and some not, the last of each kind is waited for.
 *   Stages 1 and 2 need none: each GATHER on this stream has waited for its bucket's update.
 * - VOTED before the first update: sums and scalars are written on the comm stream. Peers' gathers of the former step
 *   read what the update writes; they lie before the vote on their streams.
 * - CLOSED before the first update: the caller may read parameters after its last gradient was ready.
 * - UPDATED[b] before GATHER of b: it sends what the update wrote.
 *
 * Offloaded buckets, between the two:
 * - the sum's slot on the device must have been lowered before the next bucket is reduced into it (within a step; over
 *   steps the gathers order it);
 * - LOWER waits for the step's sum; SPECULATE and HOST_UPDATE for the lowered sum, the first of them for VOTED;
 * - a host update writes into its emit slot, or a disk slot, only when the former user's values have been raised, stored;
 * - RAISE waits for the host's update, and the first of them for CLOSED; it records UPDATED, as UPDATE does, and from there
 *   on nothing differs;
 * - FETCH waits for its slot (former user stored; raised too, where that raises the slot's own masters), STORE for the update.
 * Ratios of whole parameters:
 * - TRUST and HOST_TRUST wait for what the first update waits for without them, but for CLOSED: they write no parameter;
 * - RATIOS waits for the last of each, the first update of each kind for RATED;
 * - a slot of the disk tier is fetched into anew when the pass before it has been WEIGHED. Where every disk bucket has a slot
 *   of its own, one FETCH serves both passes.
 * A buffer that only this bucket uses, each step anew (host sums, second buffers), needs no wait: between two uses lies
 * UPDATED, then the gather, then the next step's reduction.
 *
 * Everything else is one stream's own order, or a collective's: a vote ends only when every rank's earlier actions on
 * its comm stream have ended, so nobody still reads a peer's sums in the next step.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "shard/build.h"

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

/* Appends; with no storage yet it only counts. The returned action may be amended until the next call. */
static sherd__action *emit(sherd__schedule *schedule, sherd__action *scratch, sherd__action_kind kind,
                           sherd__stream_id stream, uint32_t bucket, uint32_t flags)
{
    sherd__action *action = schedule->actions ? &schedule->actions[schedule->n_actions] : scratch;
    schedule->n_actions++;
    *action = (sherd__action){
        .kind = kind, .stream = stream, .bucket = bucket, .flags = flags, .record = {SHERD__EV_NONE, 0}};
    return action;
}

static void wait_for(sherd__action *action, sherd__event_kind kind, uint32_t bucket)
{
    action->wait[action->n_waits++] = (sherd__event_ref){kind, bucket};
}

static void record(sherd__action *action, sherd__event_kind kind, uint32_t bucket)
{
    action->record = (sherd__event_ref){kind, bucket};
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
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_LOWER, SHERD__LOWER, bucket, 0);

    wait_for(action, summed_later(plan) ? SHERD__EV_SUMMED : SHERD__EV_REDUCED, bucket);
    record(action, SHERD__EV_LOWERED, bucket);
    if (!plan->buckets[bucket].speculated)
        return;
    action = emit(schedule, &scratch, SHERD__ACT_SPECULATE, SHERD__HOST, bucket, 0);
    wait_for(action, SHERD__EV_LOWERED, bucket);
}

/* `implied`: a fetch before this one waits for a later user of another slot. */
static void emit_fetch(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket, int implied)
{
    const sherd__slot *slot = &plan->buckets[bucket].disk_slot;
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_FETCH, SHERD__READ, bucket, 0);

    if (!implied)
        wait_for(action, SHERD__EV_STORED, slot->former);
    if (!implied && plan->buckets[slot->former].dtype == SHERD_FP32)
        wait_for(action, SHERD__EV_UPDATED, slot->former);
    record(action, SHERD__EV_FETCHED, bucket);
}

/* Of the first fetches into each slot, in a pass over the disk's buckets that follows another: the first slots were used last,
 * up to the one of the last bucket, so that the slots after that are free by then. */
static int implied_first(const sherd_plan *plan, uint32_t slot)
{
    return slot > (plan->placement.n_disk - 1) % plan->placement.disk_slots;
}

/* Read ahead: as many as there are slots, while backward runs. */
static void emit_first_fetches(const sherd_plan *plan, sherd__schedule *schedule)
{
    for (uint32_t n = 0; n < plan->placement.disk_slots; n++)
        emit_fetch(plan, schedule, plan->placement.n_disk - 1 - n, implied_first(plan, n));
}

/* What the first work of the host at the boundary waits for: the lowered sums, and with the last of them all before it. */
static void wait_for_lowered(const sherd_plan *plan, sherd__action *action, uint32_t bucket)
{
    wait_for(action, SHERD__EV_VOTED, 0);
    if (!plan->buckets[bucket].speculated)
        wait_for(action, SHERD__EV_LOWERED, bucket);
}

/* 1: the disk tier has fewer slots than buckets, so that each pass over them fetches anew. */
static int fetches_twice(const sherd_plan *plan)
{
    return plan->trust && plan->placement.n_disk > plan->placement.disk_slots;
}

/* The update of an offloaded bucket, as far as UPDATED. */
static void emit_host_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    const sherd__bucket *entry = &plan->buckets[bucket];
    int on_disk = entry->tier == SHERD_TIER_DISK, first = bucket == plan->placement.n_off - 1;
    int uses_emit = entry->dtype != SHERD_FP32 && !entry->speculated;
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_HOST_UPDATE, SHERD__HOST, bucket, 0);

    if (first && plan->trust)
        wait_for(action, SHERD__EV_RATED, 0);
    else if (first)
        wait_for_lowered(plan, action, bucket);
    if (on_disk && (!plan->trust || fetches_twice(plan)))
        wait_for(action, SHERD__EV_FETCHED, bucket);
    if (uses_emit && !entry->emit_slot.former_previous)
        wait_for(action, SHERD__EV_UPDATED, entry->emit_slot.former);
    record(action, SHERD__EV_STEPPED, bucket);
    action = emit(schedule, &scratch, SHERD__ACT_RAISE, SHERD__RAISE, bucket, 0);
    wait_for(action, SHERD__EV_STEPPED, bucket);
    if (first)
        wait_for(action, SHERD__EV_CLOSED, 0);
    record(action, SHERD__EV_UPDATED, bucket);
    if (!on_disk)
        return;
    action = emit(schedule, &scratch, SHERD__ACT_STORE, SHERD__WRITE, bucket, 0);
    wait_for(action, SHERD__EV_STEPPED, bucket);
    record(action, SHERD__EV_STORED, bucket);
    if (bucket >= plan->placement.disk_slots)
        emit_fetch(plan, schedule, bucket - plan->placement.disk_slots, 0);
}

/* FETCH into the slot of a bucket whose norms have been taken. */
static void emit_fetch_after_weighing(sherd__schedule *schedule, uint32_t bucket, uint32_t former, int implied)
{
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_FETCH, SHERD__READ, bucket, 0);

    if (!implied)
        wait_for(action, SHERD__EV_WEIGHED, former);
    record(action, SHERD__EV_FETCHED, bucket);
}

static void emit_trust(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    uint32_t n_off = plan->placement.n_off, n_disk = plan->placement.n_disk, slots = plan->placement.disk_slots;
    int offloaded = bucket < n_off, again = bucket < n_disk && fetches_twice(plan);
    sherd__action scratch, *action = emit(schedule, &scratch, offloaded ? SHERD__ACT_HOST_TRUST : SHERD__ACT_TRUST,
                                          offloaded ? SHERD__HOST : SHERD__UPDATE, bucket, 0);

    if (bucket == n_off - 1)
        wait_for_lowered(plan, action, bucket);
    else if (bucket == plan->n_buckets - 1)
        wait_for(action, SHERD__EV_VOTED, 0);
    if (bucket < n_disk)
        wait_for(action, SHERD__EV_FETCHED, bucket);
    if (bucket == 0 || bucket == n_off || again)
        record(action, SHERD__EV_WEIGHED, bucket);
    if (again && bucket >= slots)
        emit_fetch_after_weighing(schedule, bucket - slots, bucket, 0);
}

/* The pass over all parameters that the ratios take, and the first fetches of the next pass. */
static void emit_ratios(const sherd_plan *plan, sherd__schedule *schedule)
{
    uint32_t n_off = plan->placement.n_off, n_disk = plan->placement.n_disk, slots = plan->placement.disk_slots;
    sherd__action scratch, *action;

    for (uint32_t left = plan->n_buckets; left > 0; left--)
        emit_trust(plan, schedule, left - 1);
    for (uint32_t n = 0; fetches_twice(plan) && n < slots; n++)
        emit_fetch_after_weighing(schedule, n_disk - 1 - n, plan->buckets[n_disk - 1 - n].disk_slot.former,
                                  implied_first(plan, n));
    action = emit(schedule, &scratch, SHERD__ACT_RATIOS, SHERD__COMM, 0, 0);
    if (n_off > 0)
        wait_for(action, SHERD__EV_WEIGHED, 0);
    if (n_off < plan->n_buckets)
        wait_for(action, SHERD__EV_WEIGHED, n_off);
    record(action, SHERD__EV_RATED, 0);
}

static void emit_device_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_UPDATE, SHERD__UPDATE, bucket, 0);

    if (bucket == plan->n_buckets - 1) {
        wait_for(action, plan->trust ? SHERD__EV_RATED : SHERD__EV_VOTED, 0);
        wait_for(action, SHERD__EV_CLOSED, 0);
    }
    record(action, SHERD__EV_UPDATED, bucket);
}

static sherd__range emit_on_ready(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket,
                                  sherd__phase phase)
{
    int first = phase == SHERD__ONLY || phase == SHERD__FIRST, last = phase == SHERD__ONLY || phase == SHERD__LAST;
    uint32_t assign = first ? SHERD__F_ASSIGN : 0, final = last && !plan->full_mode ? SHERD__F_FINAL : 0;
    uint32_t count = plan->carries > 0 && !first ? SHERD__F_COUNT : 0;
    sherd__range range = {.begin = schedule->n_actions};
    sherd__action scratch, *action;

    action = emit(schedule, &scratch, SHERD__ACT_MOVE, SHERD__COMM, bucket, SHERD__F_SLOT);
    wait_for(action, SHERD__EV_READY, bucket);
    emit(schedule, &scratch, SHERD__ACT_PADS, SHERD__COMM, bucket, 0);
    if (sherd__bucket_narrowed(&plan->buckets[bucket]))
        emit(schedule, &scratch, SHERD__ACT_NARROW, SHERD__COMM, bucket, 0);
    action = emit(schedule, &scratch, plan->full_mode ? SHERD__ACT_ACCUMULATE : SHERD__ACT_REDUCE, SHERD__COMM,
                  bucket, assign | final | count);
    if (first && plan->whole_state && bucket == 0) {
        uint32_t n_off = plan->placement.n_off;
        wait_for(action, SHERD__EV_UPDATED, 0);
        if (n_off > 0 && n_off < plan->n_buckets)
            wait_for(action, SHERD__EV_UPDATED, n_off);
    }
    if (uses_sum_slot(plan, bucket) && !plan->buckets[bucket].sum_slot.former_previous)
        wait_for(action, SHERD__EV_LOWERED, plan->buckets[bucket].sum_slot.former);
    record(action, SHERD__EV_REDUCED, bucket);
    if (count)
        action = emit(schedule, &scratch, SHERD__ACT_CARRY, SHERD__COMM, bucket, final | (last ? SHERD__F_DRAIN : 0));
    if (last && plan->full_mode)
        action = emit(schedule, &scratch, SHERD__ACT_REDUCE_OWN, SHERD__COMM, bucket, SHERD__F_ASSIGN | SHERD__F_FINAL);
    if (last && plan->whole_state)
        action = emit(schedule, &scratch, SHERD__ACT_GATHER_SUMS, SHERD__COMM, bucket, 0);
    if (last && sherd__bucket_offloaded(&plan->buckets[bucket])) {
        if (summed_later(plan))
            record(action, SHERD__EV_SUMMED, bucket);
        emit_lower(plan, schedule, bucket);
    }
    if (last && bucket == 0)
        emit_first_fetches(plan, schedule);
    range.end = schedule->n_actions;
    return range;
}

/* Updates begin with the last bucket, which the next forward needs first; its gather overlaps the next bucket's
 * update. */
static sherd__range emit_boundary(const sherd_plan *plan, sherd__schedule *schedule)
{
    sherd__range range = {.begin = schedule->n_actions};
    sherd__action scratch, *action;
    emit(schedule, &scratch, SHERD__ACT_VOTE, SHERD__COMM, 0, 0);
    action = emit(schedule, &scratch, SHERD__ACT_SCALARS, SHERD__COMM, 0, 0);
    record(action, SHERD__EV_VOTED, 0);
    if (plan->trust)
        emit_ratios(plan, schedule);
    for (uint32_t left = plan->n_buckets; left > 0; left--) {
        uint32_t bucket = left - 1;
        if (sherd__bucket_offloaded(&plan->buckets[bucket]))
            emit_host_update(plan, schedule, bucket);
        else
            emit_device_update(plan, schedule, bucket);
        if (plan->whole_state)
            continue;
        action = emit(schedule, &scratch, SHERD__ACT_GATHER, SHERD__COMM, bucket, 0);
        wait_for(action, SHERD__EV_UPDATED, bucket);
        record(action, SHERD__EV_GATHERED, bucket);
    }
    range.end = schedule->n_actions;
    return range;
}

static int phase_occurs(const sherd_plan *plan, sherd__phase phase)
{
    int64_t accumulation = plan->config.gradient_accumulation_steps;
    switch (phase) {
    case SHERD__ONLY: return accumulation == 1 || !plan->config.reproducible; /* or of a step that ends after its first */
    case SHERD__MIDDLE: return accumulation > 2;
    default: return accumulation > 1;
    }
}

static void emit_all(const sherd_plan *plan, sherd__schedule *schedule)
{
    schedule->n_actions = 0;
    for (int phase = 0; phase < SHERD__PHASES; phase++)
        for (uint32_t b = 0; b < plan->n_buckets && phase_occurs(plan, (sherd__phase)phase); b++)
            schedule->on_ready[phase][b] = emit_on_ready(plan, schedule, b, (sherd__phase)phase);
    schedule->boundary = emit_boundary(plan, schedule);
}

sherd_status sherd__schedule_build(struct sherd_plan *plan, sherd_error *err)
{
    sherd__schedule *schedule = &plan->schedule;
    for (int phase = 0; phase < SHERD__PHASES; phase++) {
        schedule->on_ready[phase] = sherd__alloc(&sherd__default_allocator, plan->n_buckets, sizeof(sherd__range));
        if (!schedule->on_ready[phase])
            return sherd__fail(err, SHERD_ENOMEM, "no memory for the schedule of %" PRIu32 " buckets",
                               plan->n_buckets);
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
