/* SPDX-License-Identifier: MIT
 *
 * Muon's matrices, in a window that waves take in turn (muon.c). What orders what:
 *
 * - The first DIRECT waits for VOTED; it writes no parameter, so CLOSED is the first update's to wait for. The first
 *   DIRECT of a further wave waits (SHERD__F_WINDOW) until every rank has read what it was sent of the former one:
 *   slices lie elsewhere now. Within this rank the stream's order does it, and before JOIN writes others' slices, their
 *   DIRECT, which waited too.
 * - JOIN waits for DIRECTED; ORTHO, by the engine's own wait, until every rank has read its slice: it works in place.
 * - SHARE waits for TURNED, the update for SHARED.
 *
 * Matrices that are offloaded: their directions are raised, their steps lowered, beside those on the device.
 * - The first HOST_DIRECT waits as the host's first work does; it makes the directions where the sums were, or in a
 *   place that only this bucket uses. On disk it waits for FETCHED, and its momentum stays in the slot until STORE: a
 *   wave has no more buckets than there are slots, so a fetch waits for none of its own wave. Slots are taken in the
 *   order of updates: all matrices, then the others.
 * - RAISE_DIRECT waits for AIMED. A further wave's first also waits for every rank, as DIRECT does, and for the former
 *   wave's last update on the device. The former wave's steps have been lowered: HOST_DIRECT follows their updates.
 * - ORTHO waits for DIRECTED where no JOIN has; LOWER_STEP for SHARED, or TURNED where nothing is shared; HOST_UPDATE
 *   for LANDED.
 * - What follows from these needs no wait: CLOSED, where an update on the device waits for it before the first ORTHO;
 *   the emit slot's former user, where it is of an earlier wave; the device's last update, where something is raised
 *   after it.
 */
#include "shard/schedule_act.h"

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
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_DIRECT, SHERD__UPDATE, bucket, flags);

    if (first && wave->number == 0)
        sherd__act_waits(action, SHERD__EV_VOTED, 0);
    if (sherd__plan_joins(plan))
        sherd__act_records(action, SHERD__EV_DIRECTED, bucket);
}

static void emit_host_direct(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket, const wave *wave,
                             int first)
{
    uint32_t flags = first && wave->number > 0 && sherd__plan_shares(plan) ? SHERD__F_WINDOW : 0;
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_HOST_DIRECT, SHERD__HOST, bucket, 0);

    if (bucket == schedule->first_raised)
        sherd__schedule_wait_for_lowered(plan, action);
    if (plan->buckets[bucket].tier == SHERD_TIER_DISK)
        sherd__act_waits(action, SHERD__EV_FETCHED, bucket);
    sherd__act_records(action, SHERD__EV_AIMED, bucket);
    action = sherd__act(schedule, &scratch, SHERD__ACT_RAISE_DIRECT, SHERD__RAISE, bucket, flags);
    sherd__act_waits(action, SHERD__EV_AIMED, bucket);
    if (first && wave->former != SHERD__NOBODY)
        sherd__act_waits(action, SHERD__EV_UPDATED, wave->former);
    sherd__act_records(action, SHERD__EV_DIRECTED, bucket);
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
        action = sherd__act(schedule, &scratch, SHERD__ACT_JOIN, SHERD__COMM, left - 1, 0);
        sherd__act_waits(action, SHERD__EV_DIRECTED, left - 1);
    }
}

static void emit_ortho(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket)
{
    int offloaded = sherd__bucket_offloaded(&plan->buckets[bucket]), shares = sherd__plan_shares(plan);
    sherd__action scratch, *action = sherd__act(schedule, &scratch, SHERD__ACT_ORTHO, SHERD__UPDATE, bucket, 0);

    if (offloaded && !sherd__plan_joins(plan))
        sherd__act_waits(action, SHERD__EV_DIRECTED, bucket);
    if (offloaded || shares)
        sherd__act_records(action, SHERD__EV_TURNED, bucket);
    if (shares) {
        action = sherd__act(schedule, &scratch, SHERD__ACT_SHARE, SHERD__COMM, bucket, 0);
        sherd__act_waits(action, SHERD__EV_TURNED, bucket);
        sherd__act_records(action, SHERD__EV_SHARED, bucket);
    }
    if (!offloaded)
        return;
    action = sherd__act(schedule, &scratch, SHERD__ACT_LOWER_STEP, SHERD__LOWER, bucket, 0);
    sherd__act_waits(action, shares ? SHERD__EV_SHARED : SHERD__EV_TURNED, bucket);
    sherd__act_records(action, SHERD__EV_LANDED, bucket);
}

/* What is no matrix; whether those on the device or those that are not. */
static void emit_others(const sherd_plan *plan, sherd__schedule *schedule, int offloaded)
{
    for (uint32_t left = plan->n_buckets; left > 0; left--)
        if (!plan->buckets[left - 1].muon && sherd__bucket_offloaded(&plan->buckets[left - 1]) == offloaded)
            sherd__schedule_update(plan, schedule, left - 1);
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
            sherd__schedule_update(plan, schedule, left - 1);
}

void sherd__schedule_waves(const sherd_plan *plan, sherd__schedule *schedule)
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
