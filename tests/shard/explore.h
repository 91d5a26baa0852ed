/* SPDX-License-Identifier: MIT
 *
 * Exhaustive exploration of several ranks' ring machines, callers and streams.
 */
#ifndef SHERD_TESTS_SHARD_EXPLORE_H
#define SHERD_TESTS_SHARD_EXPLORE_H

#include "shard/ring.h"

enum { EXPLORE_RANKS = 3, EXPLORE_BUCKETS = 5, EXPLORE_PARAMS = 6 };

typedef enum explore_rule {
    EXPLORE_AS_BUILT,
    EXPLORE_WAIT_FOR_PARK, /* broken: waits where the gradient should be parked */
    EXPLORE_SLOT_FOR_WAIT, /* broken: hands out the slot where the caller should wait for its release */
    EXPLORE_EARLY_START    /* broken: the comm stream does not wait for the slot's release */
} explore_rule;

typedef enum explore_outcome {
    EXPLORE_FINE,
    EXPLORE_DEADLOCK,        /* a state without a move that is not the end */
    EXPLORE_WAITS_ON_CALLER, /* acquire told the caller to wait for a bucket that this rank has not started */
    EXPLORE_OVERWRITE,       /* bytes written that some rank has yet to read */
    EXPLORE_GRADIENT_LOST,   /* a bucket started without a gradient that came, or a gradient came twice */
    EXPLORE_ORDER,           /* buckets not started one after the other, each once in a micro-step */
    EXPLORE_ILLEGAL_MOVE     /* of a slot or a shard */
} explore_outcome;

typedef struct explore_model {
    const sherd_plan *plan;
    int32_t ranks;
    int32_t micro_steps, accumulation; /* micro_steps is a multiple of accumulation: a vote after every so many */
    uint32_t may_miss;                 /* bit per parameter: its gradients may fail to come, whole or in part */
    int copies;                        /* 1: callers acquire and make ready in one call */
    int eager;                         /* 1: streams move as soon as they can, so that only callers interleave */
    explore_rule rule;
    int blind; /* 1: does not look at what acquire waits for, so that a deadlock itself has to be found */
} explore_model;

typedef struct explore_result {
    explore_outcome outcome;
    uint64_t states, moves, waits, parks, ends;
} explore_result;

/* Visits every reachable state, breadth first, up to the first fault. 0 if memory was not enough for that. */
int explore(const explore_model *model, explore_result *result);

/* Gives every bucket the slot (number mod slots) of a ring of equal slots, with the former users found by search. */
void explore_relayout(sherd_plan *plan, uint32_t slots);

#endif
