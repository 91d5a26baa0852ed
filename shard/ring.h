/* SPDX-License-Identifier: MIT
 *
 * The gradient ring as a pure state machine: which gradient goes where, which bucket may start. The engine executes
 * its decisions under a short lock; a test explores every reachable state of several ranks.
 *
 *   slot:  EMPTY ─acquire→ FILLING ─last ready, those before started→ STARTED ─(next micro-step)→ EMPTY
 *
 * acquire never tells the caller to wait for something that only the caller can bring about: WAIT names a bucket
 * whose reduction has been started here (so it ends by the other ranks' progress alone); otherwise the gradient is
 * parked.
 */
#ifndef SHERD_SHARD_RING_H
#define SHERD_SHARD_RING_H

#include "shard/plan.h"

typedef enum sherd__slot_state {
    SHERD__SLOT_EMPTY = 0,
    SHERD__SLOT_FILLING = 1,
    SHERD__SLOT_STARTED = 2
} sherd__slot_state;
typedef enum sherd__grad_place {
    SHERD__GRAD_NONE = 0, /* not acquired in this micro-step: zeros when the bucket starts */
    SHERD__GRAD_SLOT,     /* written straight into the slot */
    SHERD__GRAD_SHARED,   /* uses > 1: in gradients/shared until the bucket starts */
    SHERD__GRAD_PARKED    /* outside the ring until the bucket starts */
} sherd__grad_place;

typedef enum sherd__ring_answer {
    SHERD__RING_PLACED, /* *place says where; *beta is 0 or 1 */
    SHERD__RING_WAIT, /* wait for the release of bucket ring_after (see sherd__bucket), call sherd__ring_released, ask
                         again */
    SHERD__RING_REFUSED /* the caller broke the contract; the reason is in *why */
} sherd__ring_answer;

typedef struct sherd__ring_param {
    uint32_t acquired, ready; /* uses so far in this micro-step */
    sherd__grad_place place;
} sherd__ring_param;

typedef struct sherd__ring_bucket {
    sherd__slot_state state;
    uint32_t ready;    /* contributions so far */
    int32_t slot_free; /* the former user's release has been seen in this micro-step (or never was one) */
} sherd__ring_bucket;

typedef struct sherd__ring {
    const sherd_plan *plan;      /* borrowed */
    sherd__ring_param *params;   /* [n_params], caller's storage */
    sherd__ring_bucket *buckets; /* [n_buckets], caller's storage */
    uint32_t next;               /* buckets [0, next) have been started in this micro-step */
    int32_t open;                /* 1 between begin and close */
    uint64_t micro_steps;        /* begun so far */
} sherd__ring;

void sherd__ring_init(sherd__ring *ring, const sherd_plan *plan, sherd__ring_param *params,
                      sherd__ring_bucket *buckets);
/* Opens a micro-step. */
void sherd__ring_begin(sherd__ring *ring);
sherd__ring_answer sherd__ring_acquire(sherd__ring *ring, uint32_t param, sherd__grad_place *place, int32_t *beta,
                                       const char **why);
/* The former user of this bucket's slot has been released by every rank. */
void sherd__ring_released(sherd__ring *ring, uint32_t bucket);
/* One use's gradient is complete. Buckets [*from, *to) are to be started now, in this order (perhaps none). REFUSED
 * with *why. */
sherd__ring_answer sherd__ring_ready(sherd__ring *ring, uint32_t param, uint32_t *from, uint32_t *to,
                                     const char **why);
/* Closes the micro-step: [*from, *to) are to be started, missing gradients as zeros. Acquired but not ready: REFUSED.
 */
sherd__ring_answer sherd__ring_close(sherd__ring *ring, uint32_t *from, uint32_t *to, const char **why);
/* Closes it as void, whatever was acquired: [*from, *to) are to be started if they must be (start 1), with what is there. */
void sherd__ring_discard(sherd__ring *ring, int32_t start, uint32_t *from, uint32_t *to);
/* First parameter, from `param` on (in registration order), whose gradient is not complete; n_params if none. Before
 * close. */
uint32_t sherd__ring_missing(const sherd__ring *ring, uint32_t param);

/* Legal moves of a shard, CLEAN → ACCUMULATING → SUMMED → STEPPING → STEPPED → CLEAN, as a table; 1 if legal. */
typedef enum sherd__shard_state {
    SHERD__CLEAN,
    SHERD__ACCUMULATING,
    SHERD__SUMMED,
    SHERD__STEPPING,
    SHERD__STEPPED
} sherd__shard_state;
int sherd__slot_move_legal(sherd__slot_state from, sherd__slot_state to);
int sherd__shard_move_legal(sherd__shard_state from, sherd__shard_state to);

#endif
