/* SPDX-License-Identifier: MIT
 *
 * The gradient ring as a pure state machine. Why nobody waits for ever: WAIT is only answered for a bucket that this
 * rank has started, and ranks start buckets in one order. Among all buckets that ranks wait for, take the earliest:
 * whoever has not started it yet is not waiting (it could only wait for an earlier one), so its caller goes on and
 * starts it.
 */
#include <assert.h>
#include <string.h>

#include "shard/ring.h"

static void move_slot(sherd__ring_bucket *bucket, sherd__slot_state to)
{
    assert(sherd__slot_move_legal(bucket->state, to));
    bucket->state = to;
}

void sherd__ring_init(sherd__ring *ring, const sherd_plan *plan, sherd__ring_param *params,
                      sherd__ring_bucket *buckets)
{
    *ring = (sherd__ring){.plan = plan, .params = params, .buckets = buckets};
    memset(params, 0, plan->n_params * sizeof *params);
    memset(buckets, 0, plan->n_buckets * sizeof *buckets);
}

void sherd__ring_begin(sherd__ring *ring)
{
    const sherd_plan *plan = ring->plan;
    memset(ring->params, 0, plan->n_params * sizeof *ring->params);
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__ring_bucket *bucket = &ring->buckets[b];
        if (bucket->state == SHERD__SLOT_STARTED)
            move_slot(bucket, SHERD__SLOT_EMPTY);
        bucket->ready = 0;
        bucket->slot_free = ring->micro_steps == 0 && plan->buckets[b].ring_after_previous;
    }
    ring->next = 0;
    ring->open = 1;
    ring->micro_steps++;
}

static sherd__ring_answer refuse(const char **why, const char *reason)
{
    if (why)
        *why = reason;
    return SHERD__RING_REFUSED;
}

/* What makes a gradient call on `param` wrong in any state, or NULL. */
static const char *objection(const sherd__ring *ring, uint32_t param)
{
    if (!ring->open)
        return "no micro-step is open";
    if (param >= ring->plan->n_params)
        return "there is no such parameter";
    if (ring->plan->params[param].flags & SHERD_PARAM_FROZEN)
        return "the parameter is frozen and has no gradient";
    return NULL;
}

/* 1 if the former user of the slot has been started here, so that its release depends on nothing the caller still has
 * to do. */
static int former_started(const sherd__ring *ring, const sherd__bucket *bucket)
{
    return bucket->ring_after_previous || bucket->ring_after < ring->next;
}

sherd__ring_answer sherd__ring_acquire(sherd__ring *ring, uint32_t param, sherd__grad_place *place, int32_t *beta,
                                       const char **why)
{
    const char *reason = objection(ring, param);
    if (reason)
        return refuse(why, reason);
    const sherd__plan_param *of = &ring->plan->params[param];
    sherd__ring_param *state = &ring->params[param];
    *place = SHERD__GRAD_NONE;
    *beta = 0;
    if (of->bucket < 0)
        return SHERD__RING_PLACED;
    if (state->acquired == of->uses)
        return refuse(why, "the gradient was acquired more often in this micro-step than the parameter has uses");
    sherd__ring_bucket *bucket = &ring->buckets[of->bucket];
    if (of->uses > 1) {
        *place = SHERD__GRAD_SHARED;
        *beta = state->acquired > 0;
    } else if (bucket->slot_free) {
        *place = SHERD__GRAD_SLOT;
        if (bucket->state == SHERD__SLOT_EMPTY)
            move_slot(bucket, SHERD__SLOT_FILLING);
    } else if (former_started(ring, &ring->plan->buckets[of->bucket])) {
        return SHERD__RING_WAIT;
    } else {
        *place = SHERD__GRAD_PARKED;
    }
    state->place = *place;
    state->acquired++;
    return SHERD__RING_PLACED;
}

void sherd__ring_released(sherd__ring *ring, uint32_t bucket)
{
    ring->buckets[bucket].slot_free = 1;
}

static void start(sherd__ring *ring)
{
    sherd__ring_bucket *bucket = &ring->buckets[ring->next++];
    if (bucket->state == SHERD__SLOT_EMPTY)
        move_slot(bucket, SHERD__SLOT_FILLING); /* by MOVE, which runs first */
    move_slot(bucket, SHERD__SLOT_STARTED);
}

sherd__ring_answer sherd__ring_ready(sherd__ring *ring, uint32_t param, uint32_t *from, uint32_t *to,
                                     const char **why)
{
    const sherd_plan *plan = ring->plan;
    const char *reason = objection(ring, param);
    *from = *to = ring->next;
    if (reason)
        return refuse(why, reason);
    if (plan->params[param].bucket < 0)
        return SHERD__RING_PLACED;
    if (ring->params[param].ready == ring->params[param].acquired)
        return refuse(why, "the gradient was made ready without being acquired");
    ring->params[param].ready++;
    ring->buckets[plan->params[param].bucket].ready++;
    while (ring->next < plan->n_buckets && ring->buckets[ring->next].ready == plan->buckets[ring->next].contributions)
        start(ring);
    *to = ring->next;
    return SHERD__RING_PLACED;
}

sherd__ring_answer sherd__ring_close(sherd__ring *ring, uint32_t *from, uint32_t *to, const char **why)
{
    const sherd_plan *plan = ring->plan;
    *from = *to = ring->next;
    if (!ring->open)
        return refuse(why, "no micro-step is open");
    for (uint32_t p = 0; p < plan->n_params; p++)
        if (ring->params[p].ready != ring->params[p].acquired)
            return refuse(why, "a gradient was acquired and not made ready");
    while (ring->next < plan->n_buckets)
        start(ring);
    *to = ring->next;
    ring->open = 0;
    return SHERD__RING_PLACED;
}

/* Slots that are left FILLING are filled anew by the next micro-step. */
void sherd__ring_discard(sherd__ring *ring, int32_t must_start, uint32_t *from, uint32_t *to)
{
    *from = ring->next;
    while (must_start && ring->next < ring->plan->n_buckets)
        start(ring);
    *to = ring->next;
    ring->open = 0;
}

uint32_t sherd__ring_missing(const sherd__ring *ring, uint32_t param)
{
    const sherd_plan *plan = ring->plan;
    while (param < plan->n_params &&
           (plan->params[param].bucket < 0 || ring->params[param].ready == plan->params[param].uses))
        param++;
    return param;
}
