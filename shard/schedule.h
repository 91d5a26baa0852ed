/* SPDX-License-Identifier: MIT
 *
 * The schedule: what a step does, as a list of actions. Each action runs on one stream, first waits for named events,
 * then may record one. Streams execute in order; everything else that must be ordered is a wait in this list.
 *
 * Per micro-step and bucket, when the bucket's last gradient is ready and those before it have started (comm stream):
 *   RING: MOVE, PADS, REDUCE[, GATHER_SUMS at stage 0 in the last micro-step]
 *   FULL: MOVE, PADS, ACCUMULATE[, REDUCE_OWN (, GATHER_SUMS) in the last]
 * Where leaves have another type than the client's gradients, NARROW stands before REDUCE and ACCUMULATE.
 * Under `reproducible` REDUCE and ACCUMULATE are followed by CARRY; which places they work on depends on the micro-step
 * (sherd__plan_count).
 * At the boundary: VOTE and SCALARS on the comm stream; UPDATE of every bucket on the update stream, last bucket
 * first (it is used first by the next forward); GATHER of each (stages 1 and 2) on the comm stream.
 *
 * Offloaded buckets: LOWER as soon as the step's sum is there, SPECULATE where that is on, and at the boundary instead of
 * UPDATE: HOST_UPDATE (which for a speculated bucket only looks whether the guess was right), RAISE, which records
 * UPDATED. Buckets on disk: FETCH before, STORE after.
 *
 * Where the optimizer wants ratios of whole parameters, the boundary has two passes: TRUST of every bucket (HOST_TRUST of the
 * offloaded ones, FETCH before those on disk), which reads what the update will read and changes nothing but sums; RATIOS; then
 * the updates as ever.
 *
 * Muon's matrices are stepped as wholes, in waves of buckets (shard/muon.c). Of each wave, for all its buckets: DIRECT, after
 * which JOIN gathers (stages 1 and 2); ORTHO; SHARE; UPDATE and GATHER. What is no matrix is updated right after the first
 * wave's DIRECT, so that the update stream has work while directions travel. Of offloaded matrices HOST_DIRECT and RAISE_DIRECT
 * stand for DIRECT; LOWER_STEP fetches the own slice's results before HOST_UPDATE.
 */
#ifndef SHERD_SHARD_SCHEDULE_H
#define SHERD_SHARD_SCHEDULE_H

#include <stdint.h>

#include "sherd/sherd.h"

/* X(name, text) */
#define SHERD__ACTION_MAP(X)                                                                                         \
    X(MOVE, "move")               /* shared, parked and missing (zero) gradients into the slot; often nothing */     \
    X(PADS, "pads")               /* zero the padding between parameters and at the bucket's end */                  \
    X(REDUCE, "reduce")           /* own slice: tree sum of every rank's leaf into the sums */                       \
    X(ACCUMULATE, "accumulate")   /* whole bucket: own leaf added to the full-size sums */                           \
    X(REDUCE_OWN, "reduce_own")   /* own slice: tree sum of every rank's full-size sums, in place */                 \
    X(GATHER_SUMS, "gather_sums") /* stage 0: every rank gets every slice's sums */                                  \
    X(VOTE, "vote")               /* all-reduce of norm limbs, bad block, lr */                                      \
    X(SCALARS, "scalars")         /* vote → step scalars */                                                        \
    X(UPDATE, "update")           /* fused unscale, clip, optimizer, 16-bit emit */                                  \
    X(GATHER, "gather")           /* all-gather of the working copy */                                               \
    X(LOWER, "lower")             /* the own part's sum to the host */                                               \
    X(SPECULATE, "speculate")     /* host update into second buffers with guessed scalars */                         \
    X(HOST_UPDATE, "host_update") /* host update; after SPECULATE only if the guess was wrong */                     \
    X(RAISE, "raise")             /* the updated values to the working copy */                                       \
    X(FETCH, "fetch")             /* master and moments from disk into a slot */                                     \
    X(STORE, "store")             /* and back */                                                                     \
    X(CARRY, "carry")             /* reproducible: sums of as many micro-steps each are joined in pairs */           \
    X(TRUST, "trust")             /* norms of the parameters and of their directions */                              \
    X(HOST_TRUST, "host_trust")   /* the same of an offloaded bucket */                                              \
    X(RATIOS, "ratios")           /* all ranks' norms → each parameter's ratio */                                    \
    X(NARROW, "narrow")           /* the slot's gradients into the wire's type, in place */                         \
    X(DIRECT, "direct")           /* Muon: the own part's momentum and direction, into the window */                 \
    X(JOIN, "join")               /* all-gather of the directions */                                                 \
    X(ORTHO, "ortho")             /* the own matrices are orthogonalised in the window, others zeroed */             \
    X(SHARE, "share")             /* own slice: sum of every rank's results; stage 0: each from its owner */            \
    X(HOST_DIRECT, "host_direct") /* offloaded: momentum and direction, on the host */                               \
    X(RAISE_DIRECT, "raise_direct") /* the directions into the window */                                             \
    X(LOWER_STEP, "lower_step")   /* the own part's results to the host */

typedef enum sherd__action_kind {
#define X(name, text) SHERD__ACT_##name,
    SHERD__ACTION_MAP(X)
#undef X
    SHERD__ACTIONS
} sherd__action_kind;

typedef enum sherd__stream_id {
    SHERD__COMPUTE = 0,
    SHERD__COMM = 1,
    SHERD__UPDATE = 2,
    SHERD__LOWER = 3,
    SHERD__RAISE = 4,
    SHERD__HOST = 5, /* this and those below: the CPU's work */
    SHERD__READ = 6,
    SHERD__WRITE = 7,
    SHERD__STREAMS = 8
} sherd__stream_id;

/* Events. Per bucket: READY (recorded on the compute stream when the last gradient is ready), REDUCED (recorded after
 * REDUCE or ACCUMULATE: the own slot has been read by this rank), UPDATED (the own part of the working copy is new),
 * GATHERED; SUMMED (the step's sum is complete, where REDUCED does not say it), LOWERED, STEPPED (the host has updated), FETCHED,
 * STORED; WEIGHED (TRUST and HOST_TRUST are done, so far as somebody waits for that one); DIRECTED, TURNED (ORTHO is done)
 * and SHARED (SHARE is, on this rank); AIMED (HOST_DIRECT is done) and LANDED (LOWER_STEP is). Per step (bucket 0): CLOSED
 * (compute stream, at the boundary), VOTED, RATED (the ratios are known). */
#define SHERD__EVENT_MAP(X)                                                                                          \
    X(READY, "ready")                                                                                                \
    X(REDUCED, "reduced")                                                                                            \
    X(UPDATED, "updated")                                                                                            \
    X(GATHERED, "gathered")                                                                                          \
    X(SUMMED, "summed")                                                                                              \
    X(LOWERED, "lowered")                                                                                            \
    X(STEPPED, "stepped")                                                                                            \
    X(FETCHED, "fetched")                                                                                            \
    X(STORED, "stored")                                                                                              \
    X(CLOSED, "closed")                                                                                              \
    X(VOTED, "voted")                                                                                                \
    X(WEIGHED, "weighed")                                                                                            \
    X(RATED, "rated")                                                                                                \
    X(DIRECTED, "directed")                                                                                          \
    X(TURNED, "turned")                                                                                              \
    X(SHARED, "shared")                                                                                              \
    X(AIMED, "aimed")                                                                                                \
    X(LANDED, "landed")
typedef enum sherd__event_kind {
#define X(name, text) SHERD__EV_##name,
    SHERD__EVENT_MAP(X)
#undef X
    SHERD__EVENTS,
    SHERD__EV_NONE = SHERD__EVENTS
} sherd__event_kind;

typedef struct sherd__event_ref {
    sherd__event_kind kind;
    uint32_t bucket;
} sherd__event_ref;

#define SHERD__MAX_WAITS 4
#define SHERD__F_ASSIGN  1u /* first contribution of the step: assign, do not add */
#define SHERD__F_FINAL   2u /* last of the step: norm in the same pass, narrowing */
/* begins by waiting, on this stream, for the slot's release by its former user where the caller did not */
#define SHERD__F_SLOT 4u
/* where and whether to add or assign is sherd__plan_count's; the norm is taken by whichever of the micro-step's actions comes
 * last */
#define SHERD__F_COUNT 8u
#define SHERD__F_WINDOW 32u /* direct, raise_direct: begins by waiting until every rank has read what the former wave shared */
#define SHERD__F_DRAIN 16u /* carry: the last micro-step, everything goes into the first place */

typedef struct sherd__action {
    sherd__action_kind kind;
    sherd__stream_id stream;
    uint32_t bucket;
    uint32_t flags;
    uint32_t n_waits;
    sherd__event_ref wait[SHERD__MAX_WAITS];
    sherd__event_ref record; /* kind NONE: none */
} sherd__action;

/* Micro-steps of a step: ONLY (K = 1, or a step that ends early after its first), FIRST, MIDDLE, LAST. */
typedef enum sherd__phase {
    SHERD__ONLY = 0,
    SHERD__FIRST = 1,
    SHERD__MIDDLE = 2,
    SHERD__LAST = 3,
    SHERD__PHASES = 4
} sherd__phase;

typedef struct sherd__range {
    uint32_t begin, end; /* into actions */
} sherd__range;

typedef struct sherd__schedule {
    sherd__action *actions;
    uint32_t n_actions;
    sherd__range *on_ready[SHERD__PHASES]; /* [n_buckets] each; phases that cannot occur have empty ranges */
    sherd__range boundary;
    /* What the compute stream waits for before it reads a bucket's working copy: GATHERED, or UPDATED at stage 0; and
     * before it writes into a ring slot: the slot's release (RING: by every rank; FULL: event REDUCED of ring_after).
     */
    sherd__event_kind acquire_wait;
    uint32_t first_update, last_update; /* of the device's buckets, where there are any */
    uint32_t first_raised, last_raised; /* of the offloaded ones, where there are any */
} sherd__schedule;

static inline sherd__phase sherd__phase_of(int64_t k, int64_t accumulation)
{
    if (accumulation == 1)
        return SHERD__ONLY;
    return k == 0 ? SHERD__FIRST : k == accumulation - 1 ? SHERD__LAST : SHERD__MIDDLE;
}

const char *sherd__action_name(sherd__action_kind kind);
const char *sherd__event_name(sherd__event_kind kind);

struct sherd_plan;
/* Fills plan->schedule from everything else in the plan. */
sherd_status sherd__schedule_build(struct sherd_plan *plan, sherd_error *err);
void sherd__schedule_destroy(struct sherd_plan *plan);

#endif
