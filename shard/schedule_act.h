/* SPDX-License-Identifier: MIT
 *
 * What the files of the schedule (schedule.c, schedule_boundary.c, schedule_muon.c) write it with.
 */
#ifndef SHERD_SHARD_SCHEDULE_ACT_H
#define SHERD_SHARD_SCHEDULE_ACT_H

#include "shard/plan.h"

/* Appends; with no storage yet it only counts. The returned action may be amended until the next call. */
static inline sherd__action *sherd__act(sherd__schedule *schedule, sherd__action *scratch, sherd__action_kind kind,
                           sherd__stream_id stream, uint32_t bucket, uint32_t flags)
{
    sherd__action *action = schedule->actions ? &schedule->actions[schedule->n_actions] : scratch;
    schedule->n_actions++;
    *action = (sherd__action){
        .kind = kind, .stream = stream, .bucket = bucket, .flags = flags, .record = {SHERD__EV_NONE, 0}};
    return action;
}

static inline void sherd__act_waits(sherd__action *action, sherd__event_kind kind, uint32_t bucket)
{
    action->wait[action->n_waits++] = (sherd__event_ref){kind, bucket};
}

static inline void sherd__act_records(sherd__action *action, sherd__event_kind kind, uint32_t bucket)
{
    action->record = (sherd__event_ref){kind, bucket};
}

/* schedule_boundary.c: the vote, and all that follows from it. */
sherd__range sherd__schedule_boundary(const sherd_plan *plan, sherd__schedule *schedule);
/* A bucket's update, wherever its state is, and the gather of what it wrote. */
void sherd__schedule_update(const sherd_plan *plan, sherd__schedule *schedule, uint32_t bucket);
/* Read ahead from disk: as many as there are slots, while backward runs. */
void sherd__schedule_first_fetches(const sherd_plan *plan, sherd__schedule *schedule);
/* What the first work of the host at the boundary waits for: the lowered sums, and with the last of them all before it. */
void sherd__schedule_wait_for_lowered(const sherd_plan *plan, sherd__action *action);

/* schedule_muon.c: matrices in waves, and all other updates around them. */
void sherd__schedule_waves(const sherd_plan *plan, sherd__schedule *schedule);

#endif
