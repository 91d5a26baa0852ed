/* SPDX-License-Identifier: MIT
 *
 * The boundary of a step: the vote, the ratios of whole parameters where the optimizer wants them, and the updates on
 * every tier. What orders what (schedule.c says the rest):
 *
 * - VOTED before the first update: sums and scalars are written on the comm stream. Peers' gathers of the former step
 *   read what the update writes; they lie before the vote on their streams.
 * - CLOSED before the first update: the caller may read parameters after its last gradient was ready.
 * - UPDATED[b] before GATHER of b: it sends what the update wrote.
 *
 * Offloaded buckets:
 * - the first HOST_UPDATE waits for VOTED and for the lowered sums;
 * - a host update writes into its emit slot, or a disk slot, only when the former user's values have been raised,
 *   stored;
 * - RAISE waits for the host's update, and the first of them for CLOSED; it records UPDATED, as UPDATE does, and from
 *   there on nothing differs;
 * - FETCH waits for its slot (former user stored; raised too, where that raises the slot's own masters), STORE for the
 *   update.
 *
 * Ratios of whole parameters:
 * - TRUST and HOST_TRUST wait for what the first update waits for without them, but for CLOSED: they write no
 *   parameter;
 * - RATIOS waits for the last of each, the first update of each kind for RATED;
 * - a slot of the disk tier is fetched into anew when the pass before it has been WEIGHED. Where every disk bucket has
 *   a slot of its own, one FETCH serves both passes.
 */
#include "shard/schedule_act.h"

/* `implied`: a fetch before this one waits for a later user of another slot. */
static void emit_fetch(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket, int implied)
{
    const sherd__slot *slot = &plan->buckets[bucket].disk_slot;
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_FETCH, SHERD__READ, bucket, 0);

    if (!implied)
        sherd__act_waits(action, SHERD__EV_STORED, slot->former);
    if (!implied && plan->buckets[slot->former].dtype == SHERD_FP32)
        sherd__act_waits(action, SHERD__EV_UPDATED, slot->former);
    sherd__act_records(action, SHERD__EV_FETCHED, bucket);
}

/* Of the first fetches into each slot, in a pass over the disk's buckets that follows another: the first slots were
 * used last, up to the one of the last bucket, so that the slots after that are free by then. */
static int implied_first(const sherd_plan *plan, uint32_t slot)
{
    return slot > (plan->placement.n_disk - 1) % plan->placement.disk_slots;
}

/* In the order of updates: of matrices, then of all others. */
void sherd__schedule_first_fetches(const sherd_plan *plan, sherd__schedule *schedule)
{
    for (int32_t muon = 1; muon >= 0; muon--)
        for (uint32_t left = plan->placement.n_disk; left > 0; left--) {
            const sherd__bucket *bucket = &plan->buckets[left - 1];
            if (bucket->muon == muon && bucket->disk_slot.former_previous)
                emit_fetch(plan, schedule, left - 1, implied_first(plan, bucket->disk_slot.index));
        }
}

void sherd__schedule_wait_for_lowered(const sherd_plan *plan, sherd__action *action)
{
    uint32_t last = plan->placement.n_off - 1;
    sherd__act_waits(action, SHERD__EV_VOTED, 0);
    if (!plan->buckets[last].speculated)
        sherd__act_waits(action, SHERD__EV_LOWERED, last);
}

/* 1: the disk tier has fewer slots than buckets, so that each pass over them fetches anew. */
static int fetches_twice(const sherd_plan *plan)
{
    return plan->trust && plan->placement.n_disk > plan->placement.disk_slots;
}

/* 1: the former user of the bucket's emit slot need not be waited for. Between a wave's updates and those of the next
 * but one lie the directions of one, which are raised after the values of the former and before steps are lowered. */
static int emitted(const sherd_plan *plan, const sherd__bucket *entry)
{
    const sherd__bucket *former = &plan->buckets[entry->emit_slot.former];
    return entry->emit_slot.former_previous ||
           (former->muon && former->wave != (entry->muon ? entry->wave : plan->n_waves - 1));
}

/* 1: an update on the device waits for CLOSED, and lies before the bucket's ORTHO. */
static int closed_before(const sherd_plan *plan, const sherd__schedule *schedule, uint32_t bucket)
{
    const sherd__bucket *entry = &plan->buckets[bucket], *first = &plan->buckets[schedule->first_update];
    return entry->muon && plan->placement.n_off < plan->n_buckets && (!first->muon || first->wave < entry->wave);
}

static void emit_raise(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_RAISE, SHERD__RAISE, bucket, 0);

    sherd__act_waits(action, SHERD__EV_STEPPED, bucket);
    if (bucket == schedule->first_raised && !closed_before(plan, schedule, bucket))
        sherd__act_waits(action, SHERD__EV_CLOSED, 0);
    sherd__act_records(action, SHERD__EV_UPDATED, bucket);
    if (plan->buckets[bucket].tier != SHERD_TIER_DISK)
        return;
    action = sherd__act(schedule, &scratch, SHERD__ACT_STORE, SHERD__WRITE, bucket, 0);
    sherd__act_waits(action, SHERD__EV_STEPPED, bucket);
    sherd__act_records(action, SHERD__EV_STORED, bucket);
    if (plan->buckets[bucket].disk_slot.next != SHERD__NOBODY)
        emit_fetch(plan, schedule, plan->buckets[bucket].disk_slot.next, 0);
}

/* The update of an offloaded bucket, as far as UPDATED. */
static void emit_host_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    const sherd__bucket *entry = &plan->buckets[bucket];
    int on_disk = entry->tier == SHERD_TIER_DISK, first = bucket == schedule->first_raised;
    int uses_emit = entry->dtype != SHERD_FP32 && !entry->speculated;
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_HOST_UPDATE, SHERD__HOST, bucket, 0);

    if (entry->muon)
        sherd__act_waits(action, SHERD__EV_LANDED, bucket);
    else if (first && plan->trust)
        sherd__act_waits(action, SHERD__EV_RATED, 0);
    else if (first)
        sherd__schedule_wait_for_lowered(plan, action);
    if (on_disk && !entry->muon && (!plan->trust || fetches_twice(plan)))
        sherd__act_waits(action, SHERD__EV_FETCHED, bucket);
    if (uses_emit && !emitted(plan, entry))
        sherd__act_waits(action, SHERD__EV_UPDATED, entry->emit_slot.former);
    sherd__act_records(action, SHERD__EV_STEPPED, bucket);
    emit_raise(plan, schedule, bucket);
}

/* FETCH into the slot of a bucket whose norms have been taken. */
static void emit_fetch_after_weighing(sherd__schedule *schedule, uint32_t bucket, uint32_t former, int implied)
{
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_FETCH, SHERD__READ, bucket, 0);

    if (!implied)
        sherd__act_waits(action, SHERD__EV_WEIGHED, former);
    sherd__act_records(action, SHERD__EV_FETCHED, bucket);
}

static void emit_trust(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    uint32_t n_off = plan->placement.n_off, n_disk = plan->placement.n_disk, slots = plan->placement.disk_slots;
    int offloaded = bucket < n_off, again = bucket < n_disk && fetches_twice(plan);
    sherd__action scratch, *action = sherd__act(schedule, &scratch, offloaded ? SHERD__ACT_HOST_TRUST : SHERD__ACT_TRUST,
                                          offloaded ? SHERD__HOST : SHERD__UPDATE, bucket, 0);

    if (bucket == n_off - 1)
        sherd__schedule_wait_for_lowered(plan, action);
    else if (bucket == plan->n_buckets - 1)
        sherd__act_waits(action, SHERD__EV_VOTED, 0);
    if (bucket < n_disk)
        sherd__act_waits(action, SHERD__EV_FETCHED, bucket);
    if (bucket == 0 || bucket == n_off || again)
        sherd__act_records(action, SHERD__EV_WEIGHED, bucket);
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
    action = sherd__act(schedule, &scratch, SHERD__ACT_RATIOS, SHERD__COMM, 0, 0);
    if (n_off > 0)
        sherd__act_waits(action, SHERD__EV_WEIGHED, 0);
    if (n_off < plan->n_buckets)
        sherd__act_waits(action, SHERD__EV_WEIGHED, n_off);
    sherd__act_records(action, SHERD__EV_RATED, 0);
}

/* 1: some matrices have their state on the device. */
static int steps_matrices(const sherd_plan *plan)
{
    uint32_t b = plan->placement.n_off;
    while (b < plan->n_buckets && !plan->buckets[b].muon)
        b++;
    return b < plan->n_buckets;
}

static void emit_device_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_UPDATE, SHERD__UPDATE, bucket, 0);

    if (bucket == schedule->first_update) {
        if (!steps_matrices(plan))
            sherd__act_waits(action, plan->trust ? SHERD__EV_RATED : SHERD__EV_VOTED, 0);
        sherd__act_waits(action, SHERD__EV_CLOSED, 0);
    }
    if (plan->buckets[bucket].muon && sherd__plan_shares(plan))
        sherd__act_waits(action, SHERD__EV_SHARED, bucket);
    sherd__act_records(action, SHERD__EV_UPDATED, bucket);
}

void sherd__schedule_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    sherd__action scratch, *action;

    if (sherd__bucket_offloaded(&plan->buckets[bucket]))
        emit_host_update(plan, schedule, bucket);
    else
        emit_device_update(plan, schedule, bucket);
    if (plan->whole_state)
        return;
    action = sherd__act(schedule, &scratch, SHERD__ACT_GATHER, SHERD__COMM, bucket, 0);
    sherd__act_waits(action, SHERD__EV_UPDATED, bucket);
    sherd__act_records(action, SHERD__EV_GATHERED, bucket);
}

/* Updates begin with the last bucket, which the next forward needs first; its gather overlaps the next bucket's
 * update. */
sherd__range sherd__schedule_boundary(const sherd_plan *plan, sherd__schedule *schedule)
{
    sherd__range range = {.begin = schedule->n_actions};
    sherd__action scratch, *action;
    sherd__act(schedule, &scratch, SHERD__ACT_VOTE, SHERD__COMM, 0, 0);
    action = sherd__act(schedule, &scratch, SHERD__ACT_SCALARS, SHERD__COMM, 0, 0);
    sherd__act_records(action, SHERD__EV_VOTED, 0);
    if (plan->trust)
        emit_ratios(plan, schedule);
    if (plan->n_matrices > 0)
        sherd__schedule_waves(plan, schedule);
    for (uint32_t left = plan->n_buckets; left > 0 && plan->n_matrices == 0; left--)
        sherd__schedule_update(plan, schedule, left - 1);
    range.end = schedule->n_actions;
    return range;
}
