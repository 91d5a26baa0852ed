/* SPDX-License-Identifier: MIT
 *
 * What the files of this layer share: places.c cuts memory into places, step.c updates them, disk.c moves them.
 */
#ifndef SHERD_OFFLOAD_INTERNAL_H
#define SHERD_OFFLOAD_INTERNAL_H

#include "device/host_math.h"
#include "host/arena.h"
#include "offload/offload.h"
#include "store/aio.h"

#define SHERD__STATES (1 + SHERD__MAX_MOMENTS) /* master, moments */

/* One bucket's part on one node. */
typedef struct sherd__place {
    int64_t begin, end; /* elements of the part; may be empty */
    void *sum;
    float *step; /* Muon's matrices: the directions, then the steps; where sums are fp32, in the sums' own place */
    void *state[SHERD__STATES];  /* fp32 master, moments of the plan's type */
    void *shadow[SHERD__STATES]; /* NULL where not speculated */
    uint16_t *emit;               /* NULL for fp32, whose master is what is raised */
    void *record;                 /* disk: state[] lie in it, one after the other */
    uint64_t record_bytes, file_offset;
    sherd__aio_op op;
} sherd__place;

typedef enum sherd__work_kind {
    SHERD__WORK_STEP,
    SHERD__WORK_SPECULATE,
    SHERD__WORK_FETCH,
    SHERD__WORK_STORE,
    SHERD__WORK_TRUST,
    SHERD__WORK_DIRECT,
    SHERD__WORKS
} sherd__work_kind;

/* The argument of one piece of work: constant, since a later step may be enqueued before an earlier one has run. */
typedef struct sherd__work {
    sherd__offload *offload;
    uint32_t bucket;
    int32_t parity;
    sherd__access *access;
    uint32_t n_access;
} sherd__work;

struct sherd__offload {
    const sherd_plan *plan;
    sherd_device *device;
    int32_t rank;
    const sherd__host_math *math;
    const sherd__span *const *spans;
    const uint32_t *n_spans;
    const sherd__step_scalars *scalars;
    sherd__step_scalars *guess[2];
    const sherd__step_state *state;
    sherd__trust_sums *trust;
    const float *ratios;
    void (*guess_next)(void *ctx, sherd__step_scalars *out);
    void *guess_ctx;
    int32_t seated;         /* the host stream's thread has taken its seat */
    _Atomic uint64_t votes; /* known so far */
    uint64_t steps;         /* begun so far by the host's work; its thread only, as the two below */
    uint8_t *left_out;      /* [n_off]: 1: its guess was not made, since the vote was there already */
    int32_t turn;           /* of the guesses: the parity of the step in progress; the host's work only */
    sherd__share share;
    sherd__team *team;
    int32_t n_nodes;
    int32_t share_made;
    sherd__arena **arenas; /* [n_nodes] */
    uint64_t *arena_bytes; /* [n_nodes] */
    sherd__place *places;  /* [n_off][n_nodes] */
    sherd__work *works;    /* [n_off][SHERD__WORKS][2] */
    sherd__access *accesses;
    size_t n_accesses;
    int64_t *ends; /* [n_nodes]: of the loop in progress */
    uint64_t mapped_bytes; /* of all arenas */
    sherd_memory booked;
    sherd__aio *aio;
    sherd__aio_file *file;
    uint64_t file_bytes;
    void **slot_area;          /* [n_nodes]: its disk slots, one after the other */
    uint64_t *slot_area_bytes; /* [n_nodes] */
};

static inline sherd__place *sherd__places(const sherd__offload *offload, uint32_t bucket)
{
    return offload->places + (size_t)bucket * (size_t)offload->n_nodes;
}

static inline sherd__work *sherd__work_of(const sherd__offload *offload, uint32_t bucket, sherd__work_kind kind,
                                          int32_t parity)
{
    return offload->works + ((size_t)bucket * SHERD__WORKS + (size_t)kind) * 2 + (size_t)parity;
}

/* places.c: cuts; counts each node's bytes; then, with the arenas there, gives every place its addresses. */
void sherd__places_cut(sherd__offload *offload);
void sherd__places_address(sherd__offload *offload);
/* The set that holds the truth at this parity, and the one that the step writes. */
static inline void *sherd__place_now(const sherd__place *place, int32_t parity, uint32_t which)
{
    return parity ? place->shadow[which] : place->state[which];
}

static inline void *sherd__place_next(const sherd__place *place, int32_t parity, uint32_t which)
{
    return place->shadow[which] && !parity ? place->shadow[which] : place->state[which];
}

/* 1: this bucket's step is the first of the step, and makes the guess for the next. */
static inline int sherd__work_guesses(const sherd__offload *offload, uint32_t bucket)
{
    const sherd__placement *placement = &offload->plan->placement;
    return placement->n_speculated > 0 && bucket == placement->n_off - 1;
}

/* access.c: what each piece of work reads and writes. */
sherd_status sherd__works_create(sherd__offload *offload, sherd_error *err);
void sherd__works_destroy(sherd__offload *offload);

/* disk.c */
sherd_status sherd__disk_open(sherd__offload *offload, sherd_error *err);
/* Tells the queue about the slots, once they have addresses. */
sherd_status sherd__disk_register(sherd__offload *offload, sherd_error *err);
void sherd__disk_close(sherd__offload *offload);

#endif
