/* SPDX-License-Identifier: MIT
 *
 * The schedule's actions, and the few waits that they need. A wait stands here only if no other order implies it; the
 * checking device's removal test holds us to that. What orders what:
 *
 * - READY[b] before the first action on bucket b: the caller wrote its gradients on its own stream.
 * - UPDATED[0] before the step's first write into the sums, at stage 0 only: the former step's updates read sums and
 *   step scalars. Bucket 0 is updated last and reduced first, so this one wait covers every bucket, and SCALARS too.
 * Where some buckets are offloaded and some not, the last of each kind is waited for. Stages 1 and 2 need none: each
 * GATHER on this stream has waited for its bucket's update.
 * - VOTED before the first update: sums and scalars are written on the comm stream. Peers' gathers of the former step
 *   read what the update writes; they lie before the vote on their streams. With Muon it is not bucket 0 that is
 * updated last.
 * - CLOSED before the first update: the caller may read parameters after its last gradient was ready.
 * - UPDATED[b] before GATHER of b: it sends what the update wrote.
 *
 * Offloaded buckets, between the two:
 * - the sum's slot on the device must have been lowered before the next bucket is reduced into it (within a step; over
 *   steps the gathers order it);
 * - LOWER waits for the step's sum; SPECULATE and HOST_UPDATE for the lowered sum, the first of them for VOTED;
 * - a host update writes into its emit slot, or a disk slot, only when the former user's values have been raised,
 * stored;
 * - RAISE waits for the host's update, and the first of them for CLOSED; it records UPDATED, as UPDATE does, and from
 * there on nothing differs;
 * - FETCH waits for its slot (former user stored; raised too, where that raises the slot's own masters), STORE for the
 * update. Ratios of whole parameters:
 * - TRUST and HOST_TRUST wait for what the first update waits for without them, but for CLOSED: they write no
 * parameter;
 * - RATIOS waits for the last of each, the first update of each kind for RATED;
 * - a slot of the disk tier is fetched into anew when the pass before it has been WEIGHED. Where every disk bucket has
 * a slot of its own, one FETCH serves both passes. Muon's matrices, in a window that waves take in turn:
 * - the first DIRECT waits for VOTED; it writes no parameter, so CLOSED is the first update's to wait for. The first
 * DIRECT of a further wave waits (SHERD__F_WINDOW) until every rank has read what it was sent of the former one: slices
 * lie elsewhere now. Within this rank the stream's order does it, and before JOIN writes others' slices, their DIRECT,
 * which waited too;
 * - JOIN waits for DIRECTED; ORTHO, by the engine's own wait, until every rank has read its slice: it works in place;
 * - SHARE waits for TURNED, the update for SHARED.
 * Matrices that are offloaded: their directions are raised, their steps lowered, beside those on the device.
 * - the first HOST_DIRECT waits as the host's first work does; it makes the directions where the sums were, or in a place that only
 *   this bucket uses. On disk it waits for FETCHED, and its momentum stays in the slot until STORE: a wave has no more buckets
 *   than there are slots, so a fetch waits for none of its own wave. Slots are taken in the order of updates: all matrices, then
 *   the others;
 * - RAISE_DIRECT waits for AIMED. A further wave's first also waits for every rank, as DIRECT does, and for the former
 *   wave's last update on the device. The former wave's steps have been lowered: HOST_DIRECT follows their updates;
 * - ORTHO waits for DIRECTED where no JOIN has; LOWER_STEP for SHARED, or TURNED where nothing is shared; HOST_UPDATE for LANDED;
 * - what follows from these needs no wait: CLOSED, where an update on the device waits for it before the first ORTHO; the emit
 *   slot's former user, where it is of an earlier wave; the device's last update, where something is raised after it.
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

/* Of the first fetches into each slot, in a pass over the disk's buckets that follows another: the first slots were
 * used last, up to the one of the last bucket, so that the slots after that are free by then. */
static int implied_first(const sherd_plan *plan, uint32_t slot)
{
    return slot > (plan->placement.n_disk - 1) % plan->placement.disk_slots;
}

/* Read ahead: as many as there are slots, while backward runs. In the order of updates: of matrices, then of all
 * others. */
static void emit_first_fetches(const sherd_plan *plan, sherd__schedule *schedule)
{
    for (int32_t muon = 1; muon >= 0; muon--)
        for (uint32_t left = plan->placement.n_disk; left > 0; left--) {
            const sherd__bucket *bucket = &plan->buckets[left - 1];
            if (bucket->muon == muon && bucket->disk_slot.former_previous)
                emit_fetch(plan, schedule, left - 1, implied_first(plan, bucket->disk_slot.index));
        }
}

/* What the first work of the host at the boundary waits for: the lowered sums, and with the last of them all before it.
 */
static void wait_for_lowered(const sherd_plan *plan, sherd__action *action)
{
    uint32_t last = plan->placement.n_off - 1;
    wait_for(action, SHERD__EV_VOTED, 0);
    if (!plan->buckets[last].speculated)
        wait_for(action, SHERD__EV_LOWERED, last);
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
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_RAISE, SHERD__RAISE, bucket, 0);

    wait_for(action, SHERD__EV_STEPPED, bucket);
    if (bucket == schedule->first_raised && !closed_before(plan, schedule, bucket))
        wait_for(action, SHERD__EV_CLOSED, 0);
    record(action, SHERD__EV_UPDATED, bucket);
    if (plan->buckets[bucket].tier != SHERD_TIER_DISK)
        return;
    action = emit(schedule, &scratch, SHERD__ACT_STORE, SHERD__WRITE, bucket, 0);
    wait_for(action, SHERD__EV_STEPPED, bucket);
    record(action, SHERD__EV_STORED, bucket);
    if (plan->buckets[bucket].disk_slot.next != SHERD__NOBODY)
        emit_fetch(plan, schedule, plan->buckets[bucket].disk_slot.next, 0);
}

/* The update of an offloaded bucket, as far as UPDATED. */
static void emit_host_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    const sherd__bucket *entry = &plan->buckets[bucket];
    int on_disk = entry->tier == SHERD_TIER_DISK, first = bucket == schedule->first_raised;
    int uses_emit = entry->dtype != SHERD_FP32 && !entry->speculated;
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_HOST_UPDATE, SHERD__HOST, bucket, 0);

    if (entry->muon)
        wait_for(action, SHERD__EV_LANDED, bucket);
    else if (first && plan->trust)
        wait_for(action, SHERD__EV_RATED, 0);
    else if (first)
        wait_for_lowered(plan, action);
    if (on_disk && !entry->muon && (!plan->trust || fetches_twice(plan)))
        wait_for(action, SHERD__EV_FETCHED, bucket);
    if (uses_emit && !emitted(plan, entry))
        wait_for(action, SHERD__EV_UPDATED, entry->emit_slot.former);
    record(action, SHERD__EV_STEPPED, bucket);
    emit_raise(plan, schedule, bucket);
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
        wait_for_lowered(plan, action);
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
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_UPDATE, SHERD__UPDATE, bucket, 0);

    if (bucket == schedule->first_update) {
        if (!steps_matrices(plan))
            wait_for(action, plan->trust ? SHERD__EV_RATED : SHERD__EV_VOTED, 0);
        wait_for(action, SHERD__EV_CLOSED, 0);
    }
    if (plan->buckets[bucket].muon && sherd__plan_shares(plan))
        wait_for(action, SHERD__EV_SHARED, bucket);
    record(action, SHERD__EV_UPDATED, bucket);
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

    action = emit(schedule, &scratch, SHERD__ACT_MOVE, SHERD__COMM, bucket, SHERD__F_SLOT);
    wait_for(action, SHERD__EV_READY, bucket);
    emit(schedule, &scratch, SHERD__ACT_PADS, SHERD__COMM, bucket, 0);
    if (sherd__bucket_narrowed(&plan->buckets[bucket]))
        emit(schedule, &scratch, SHERD__ACT_NARROW, SHERD__COMM, bucket, 0);
    action = emit(schedule, &scratch, plan->full_mode ? SHERD__ACT_ACCUMULATE : SHERD__ACT_REDUCE, SHERD__COMM, bucket,
                  assign | final | count);
    if (first && plan->whole_state && bucket == 0) {
        if (plan->placement.n_off > 0)
            wait_for(action, SHERD__EV_UPDATED, schedule->last_raised);
        if (plan->placement.n_off < plan->n_buckets && !raised_after(plan, schedule->last_update))
            wait_for(action, SHERD__EV_UPDATED, schedule->last_update);
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

static void emit_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    sherd__action scratch, *action;

    if (sherd__bucket_offloaded(&plan->buckets[bucket]))
        emit_host_update(plan, schedule, bucket);
    else
        emit_device_update(plan, schedule, bucket);
    if (plan->whole_state)
        return;
    action = emit(schedule, &scratch, SHERD__ACT_GATHER, SHERD__COMM, bucket, 0);
    wait_for(action, SHERD__EV_UPDATED, bucket);
    record(action, SHERD__EV_GATHERED, bucket);
}

/* Buckets [begin, end) and others among them. */
typedef struct wave {
    uint32_t number, begin, end;
    uint32_t former; /* of the wave before, the last on the device; SHERD__NOBODY: none is */
} wave;

/* The wave whose first bucket is the last below `end`; `before` is the one before it. */
static wave next_wave(const sherd_plan *plan, uint32_t number, uint32_t end, const wave *before)
{
    wave wave = {.number = number, .begin = end, .end = end, .former = SHERD__NOBODY};

    while (wave.begin > 0 && (!plan->buckets[wave.begin - 1].muon || plan->buckets[wave.begin - 1].wave == number))
        wave.begin--;
    for (uint32_t b = before->end; b > before->begin; b--)
        if (plan->buckets[b - 1].muon && !sherd__bucket_offloaded(&plan->buckets[b - 1]))
            wave.former = b - 1;
    return wave;
}

/* `first`: of the wave's, on its stream. */
static void emit_direct(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket, const wave *wave, int first)
{
    uint32_t flags = first && wave->number > 0 && sherd__plan_shares(plan) ? SHERD__F_WINDOW : 0;
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_DIRECT, SHERD__UPDATE, bucket, flags);

    if (first && wave->number == 0)
        wait_for(action, SHERD__EV_VOTED, 0);
    if (sherd__plan_joins(plan))
        record(action, SHERD__EV_DIRECTED, bucket);
}

static void emit_host_direct(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket, const wave *wave,
                             int first)
{
    uint32_t flags = first && wave->number > 0 && sherd__plan_shares(plan) ? SHERD__F_WINDOW : 0;
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_HOST_DIRECT, SHERD__HOST, bucket, 0);

    if (bucket == schedule->first_raised)
        wait_for_lowered(plan, action);
    if (plan->buckets[bucket].tier == SHERD_TIER_DISK)
        wait_for(action, SHERD__EV_FETCHED, bucket);
    record(action, SHERD__EV_AIMED, bucket);
    action = emit(schedule, &scratch, SHERD__ACT_RAISE_DIRECT, SHERD__RAISE, bucket, flags);
    wait_for(action, SHERD__EV_AIMED, bucket);
    if (first && wave->former != SHERD__NOBODY)
        wait_for(action, SHERD__EV_UPDATED, wave->former);
    record(action, SHERD__EV_DIRECTED, bucket);
}

static void emit_directions(const sherd_plan *plan, sherd__schedule *schedule, const wave *wave)
{
    sherd__action scratch, *action;
    int first[2] = {1, 1}; /* on the device, offloaded */

    for (uint32_t left = wave->end; left > wave->begin; left--) {
        int offloaded = sherd__bucket_offloaded(&plan->buckets[left - 1]);
        if (!plan->buckets[left - 1].muon)
            continue;
        if (offloaded)
            emit_host_direct(plan, schedule, left - 1, wave, first[1]);
        else
            emit_direct(plan, schedule, left - 1, wave, first[0]);
        first[offloaded] = 0;
        if (!sherd__plan_joins(plan))
            continue;
        action = emit(schedule, &scratch, SHERD__ACT_JOIN, SHERD__COMM, left - 1, 0);
        wait_for(action, SHERD__EV_DIRECTED, left - 1);
    }
}

static void emit_ortho(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    int offloaded = sherd__bucket_offloaded(&plan->buckets[bucket]), shares = sherd__plan_shares(plan);
    sherd__action scratch, *action = emit(schedule, &scratch, SHERD__ACT_ORTHO, SHERD__UPDATE, bucket, 0);

    if (offloaded && !sherd__plan_joins(plan))
        wait_for(action, SHERD__EV_DIRECTED, bucket);
    if (offloaded || shares)
        record(action, SHERD__EV_TURNED, bucket);
    if (shares) {
        action = emit(schedule, &scratch, SHERD__ACT_SHARE, SHERD__COMM, bucket, 0);
        wait_for(action, SHERD__EV_TURNED, bucket);
        record(action, SHERD__EV_SHARED, bucket);
    }
    if (!offloaded)
        return;
    action = emit(schedule, &scratch, SHERD__ACT_LOWER_STEP, SHERD__LOWER, bucket, 0);
    wait_for(action, shares ? SHERD__EV_SHARED : SHERD__EV_TURNED, bucket);
    record(action, SHERD__EV_LANDED, bucket);
}

/* What is no matrix; whether those on the device or those that are not. */
static void emit_others(const sherd_plan *plan, sherd__schedule *schedule, int offloaded)
{
    for (uint32_t left = plan->n_buckets; left > 0; left--)
        if (!plan->buckets[left - 1].muon && sherd__bucket_offloaded(&plan->buckets[left - 1]) == offloaded)
            emit_update(plan, schedule, left - 1);
}

static void emit_wave(const sherd_plan *plan, sherd__schedule *schedule, const wave *wave)
{
    emit_directions(plan, schedule, wave);
    if (wave->number == 0)
        emit_others(plan, schedule, 0);
    for (uint32_t left = wave->end; left > wave->begin; left--)
        if (plan->buckets[left - 1].muon)
            emit_ortho(plan, schedule, left - 1);
    for (uint32_t left = wave->end; left > wave->begin; left--)
        if (plan->buckets[left - 1].muon)
            emit_update(plan, schedule, left - 1);
}

static void emit_waves(const sherd_plan *plan, sherd__schedule *schedule)
{
    wave wave = {.begin = plan->n_buckets, .end = plan->n_buckets};

    while (!plan->buckets[wave.begin - 1].muon)
        wave.begin--;
    wave.end = wave.begin;
    for (uint32_t number = 0; number < plan->n_waves; number++) {
        wave = next_wave(plan, number, wave.begin, &wave);
        emit_wave(plan, schedule, &wave);
    }
    emit_others(plan, schedule, 1);
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
    if (plan->n_matrices > 0)
        emit_waves(plan, schedule);
    for (uint32_t left = plan->n_buckets; left > 0 && plan->n_matrices == 0; left--)
        emit_update(plan, schedule, left - 1);
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
    schedule->boundary = emit_boundary(plan, schedule);
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
