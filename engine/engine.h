/* SPDX-License-Identifier: MIT
 *
 * The engine: executes a plan's schedule on a device over a communicator. It owns no arithmetic and decides nothing
 * that the plan could have decided; what is left is a state machine (shard/ring.h) behind one short lock, and the walk
 * over a list of actions.
 *
 * Who waits for what is data: every wait goes through sherd__engine_wait_event or the communicator's `released`, each
 * with a site name, so that the checking device can remove it and prove that it is needed.
 */
#ifndef SHERD_ENGINE_ENGINE_H
#define SHERD_ENGINE_ENGINE_H

#include <pthread.h>

#include "comm/comm.h"
#include "device/device.h"
#include "offload/offload.h"
#include "shard/plan.h"
#include "shard/ring.h"

#define SHERD__ARENAS (10 + SHERD__MAX_MOMENTS) /* sums, carries, slots, shared gradients, masters, moments; trust; Muon */
#define SHERD__SPOKEN 4u

/* What one step needs on the device beside the tensors; fits SHERD__STEP_BYTES. */
typedef struct sherd__step_block {
    sherd__norm norm;  /* of this step's sums; filled by the final reductions */
    sherd__norm clear; /* constant: what norm starts from */
    uint64_t vote[SHERD__VOTE_MAX];
    /* What this rank says in the vote beside norm and bad block: rank 0's rate and group words, 0 elsewhere, and the number of
     * micro-steps. The mirror's count. */
    uint64_t says[SHERD__VOTE_SUMS - SHERD__VOTE_LR], micros[2], where[2]; /* each beside its negative */
    sherd__step_state state; /* this and the scalars go to the mirror together: they stay last */
    sherd__step_scalars scalars;
} sherd__step_block;

/* Ratios of whole parameters, where the optimizer wants them; by place in the plan's order. */
typedef struct sherd__engine_trust {
    sherd__window slices;        /* every rank's sums, where their parts differ */
    sherd__trust_sums *own;      /* this rank's: in the window, or private memory */
    sherd__trust_sums *total;    /* over ranks; `own` where there is one slice only */
    float *ratios;               /* on the device */
    sherd__trust_sums *host;     /* on the host: of offloaded parameters, then all, as summed */
    float *host_ratios;
    const void **src;            /* [trust_slices] into the window */
    sherd__byte_range clear;     /* all of `own` */
} sherd__engine_trust;

/* Where values lie: `dtype` at `at`; where `remainder` is not NULL they are fp32, bf16 of it at `at` and the rest
 * there. */
typedef struct sherd__values {
    void *at; /* NULL: nothing */
    sherd_dtype dtype;
    uint16_t *remainder;
} sherd__values;

/* Muon's matrices, where there are any. */
typedef struct sherd__engine_muon {
    sherd__window window;      /* of one wave: whole buckets in fp32 */
    float *scratch;            /* of the largest matrix */
    sherd__byte_range *others; /* for all buckets, each from its own place in the window: what other ranks orthogonalise */
    sherd__ticket shared;      /* the last SHARE */
} sherd__engine_muon;

/* Tables of one bucket, made at creation. */
typedef struct sherd__engine_bucket {
    sherd__event *event[SHERD__EVENTS]; /* READY, REDUCED, UPDATED, GATHERED; the others are the engine's */
    const sherd__span *spans;           /* of the part this rank updates */
    const sherd__byte_range *pads;      /* within the ring slot */
    uint32_t n_spans, n_pads;
    sherd__ticket slot_ticket; /* the collective that read the slot last (RING) */
    sherd__shard_state state;
    int32_t parity; /* speculated: which of the two sets of state holds the truth */
    const sherd__byte_range *others; /* Muon: of muon.others */
    uint32_t n_others;
    sherd__ticket join_ticket; /* the collective that read this rank's directions last */
} sherd__engine_bucket;

typedef struct sherd__engine_param {
    sherd__byte_range slot; /* within the ring */
    void *parked;           /* block kept once it was needed */
} sherd__engine_param;

typedef struct sherd__engine_times {
    int64_t step_begin, micro_begin, backward_begin; /* 0: not yet */
    int64_t forward, backward, last_update;
    _Atomic int64_t exposed;
} sherd__engine_times;

struct sherd_engine {
    const sherd_plan *plan;
    sherd_plan *own_plan; /* NULL, or what `plan` is: made after the first step */
    sherd_device *device;
    sherd_comm *comm;
    int32_t rank, world;

    sherd__window params, ring, sums_window, scratch;
    void *sums;              /* sums_window.local, or private memory where no peer reads them */
    const void *ring_source; /* ring.local: the one source of ACCUMULATE */
    void *carries;           /* places 1 … of the counter: arenas like `sums`, one after the other */
    const void *carry_source; /* the same: the one source of CARRY */
    float *master;
    uint16_t *remainder; /* of masters whose other half is the working copy */
    void *moment[SHERD__MAX_MOMENTS]; /* of the plan's moment_dtype */
    void *shared;
    void *sum_slots;           /* on the device: sums on their way to the host */
    sherd__offload *offload;   /* NULL: nothing is offloaded */
    sherd__topology topology;  /* of this host, where something is */
    const sherd__span **off_spans; /* [n_off] */
    uint32_t *n_off_spans;         /* [n_off] */
    char (*pci)[16];               /* [local ranks]: their GPUs */
    sherd__share_device *neighbours; /* [local ranks] */
    int32_t n_neighbours;
    int32_t several_nodes; /* 1: on some rank a part is cut over several memory nodes */
    sherd__step_scalars *guess; /* [2], on the host */
    int32_t guess_parity;
    uint64_t speculated, speculation_missed;
    sherd__step_block *block;  /* on the device */
    sherd__step_block *mirror; /* on the host: what the host writes for the device and reads from it */
    float *stage;              /* on the host, SHERD__STAGE_BYTES: device values pass through it to be read */
    sherd__step_rules rules;
    sherd__engine_trust trust;
    sherd__engine_muon muon;

    sherd__stream *stream[SHERD__STREAMS];
    sherd__event *closed, *voted, *rated, *sync[SHERD__STREAMS];
    int32_t borrows; /* 1: some parameter's working copy lies in the client's memory too */
    sherd__engine_bucket *buckets;
    sherd__engine_param *param;
    sherd__ring_param *ring_params;
    sherd__ring_bucket *ring_buckets;
    sherd__span *spans;
    sherd__byte_range *pads;
    uint32_t n_spans, n_pads;
    sherd__byte_range clear[SHERD__ARENAS]; /* what creation zeroes: stays valid while that is enqueued */
    uint32_t n_clear;
    uint8_t *scratch_host;        /* world × SHERD__SCRATCH_BYTES_PER_RANK */
    sherd__ticket scratch_ticket; /* last collective that read the scratch window */
    sherd__ticket last_ticket;    /* last collective that reads this rank's windows: they live until it is released */

    pthread_mutex_t lock; /* of everything below: short, never held while waiting for a peer */
    sherd__ring ring_state;
    int64_t step, micro; /* step from 1, index k of the open or next micro-step */
    int64_t micros;      /* how many the step has: as configured, or fewer once its last one was declared */
    int32_t open;
    uint64_t parked_count;
    uint32_t *arrival;  /* sherd.replan, until the first step is done: parameters as their gradients came in its first
                           micro-step */
    uint32_t n_arrived, waited; /* waited: buckets that were complete before an earlier one was */
    int32_t parked_logged;
    sherd_error refused; /* last refused call's sentence */
    int32_t aborted;     /* peers have been told */

    sherd__engine_times times;
    sherd_report last;
    double loss_scale; /* of the next step */
    uint64_t set[2 * SHERD_MAX_GROUPS]; /* rank 0: rates and decays that were set, as the vote's words */
    int32_t stuck;     /* the last step overflowed at the least loss scale */
    uint64_t spoken[SHERD__SPOKEN]; /* at the last vote: micro-steps, step, updates so far, bits of the loss scale */
    int64_t judged;    /* the last skipped step that sherd_engine_step has returned an error for */
    sherd_report closing; /* of the step whose vote is not collected yet: its times */
    int32_t uncollected;
};

/* execute.c: one action of the schedule. */
sherd_status sherd__engine_execute(sherd_engine *engine, const sherd__action *action);
sherd_status sherd__engine_execute_range(sherd_engine *engine, sherd__range range);
sherd__event *sherd__engine_event(sherd_engine *engine, sherd__event_ref ref);

/* param.c: working copies into the client's own memory, where it has lent some: of a bucket, and elements [first, first + n) of
 * one parameter. */
sherd_status sherd__engine_lend_bucket(sherd_engine *engine, uint32_t bucket, sherd__tag tag, sherd__stream *stream);
sherd_status sherd__engine_lend(sherd_engine *engine, uint32_t param, int64_t first, int64_t n, sherd__tag tag,
                                sherd__stream *stream);

/* grad.c: starts buckets [from, to), in this order. Under the lock. */
sherd_status sherd__engine_start(sherd_engine *engine, uint32_t from, uint32_t to);

/* tables.c: everything that is derived from the plan for this rank. */
sherd_status sherd__engine_tables_create(sherd_engine *engine, sherd_error *err);
void sherd__engine_tables_destroy(sherd_engine *engine);
/* Metadata memory, booked in the ledger. */
sherd_status sherd__engine_table(sherd_engine *engine, size_t count, size_t bytes, void *out, sherd_error *err);
void sherd__engine_table_free(sherd_engine *engine, void *block, size_t count, size_t bytes);

/* execute.c: where one bucket's update on the device finds everything. */
sherd__update sherd__engine_update_of(const sherd_engine *engine, uint32_t bucket);

/* trust.c: the pass before the updates, where the optimizer wants ratios of whole parameters. */
sherd_status sherd__engine_trust_create(sherd_engine *engine, sherd_error *err);
void sherd__engine_trust_destroy(sherd_engine *engine);
sherd_status sherd__engine_trust_clear(sherd_engine *engine, sherd__stream *stream); /* before the step's first TRUST */
sherd_status sherd__engine_execute_trust(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_host_trust(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_ratios(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);

/* muon.c: matrices that are stepped as wholes. Apply: makes a bucket's update that of its results in the window. */
sherd_status sherd__engine_muon_create(sherd_engine *engine, sherd_error *err);
void sherd__engine_muon_destroy(sherd_engine *engine);
sherd_status sherd__engine_execute_direct(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_join(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_ortho(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_share(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_host_direct(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_raise_direct(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
sherd_status sherd__engine_execute_lower_step(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);
void sherd__engine_muon_apply(const sherd_engine *engine, uint32_t bucket, sherd__update *update);

/* create.c: memory of the engine's categories; nothing for 0 bytes. The arena is zeroed on the comm stream: creation ends by
 * waiting for that. */
sherd_status sherd__engine_window(sherd_engine *engine, uint64_t bytes, sherd_category category, sherd__window *out,
                                  sherd_error *err);
sherd_status sherd__engine_arena(sherd_engine *engine, uint64_t bytes, sherd_category category, void *out,
                                 sherd_error *err);

/* offload.c: what the engine adds to offload/: which ranks share this host, guessed scalars, state between steps. */
sherd_status sherd__engine_offload_create(sherd_engine *engine, sherd_error *err);
void sherd__engine_offload_destroy(sherd_engine *engine);
/* When the vote is known. */
void sherd__engine_guessed(sherd_engine *engine);
/* State `which` (0: master, then the moments) from element `local` of the own part on; *run: how many follow in a row.
 * On any tier, for the device's operations; between open and close, the streams idle. */
sherd__values sherd__engine_state(const sherd_engine *engine, uint32_t bucket, uint32_t which, int64_t local,
                                  int64_t *run);
sherd_status sherd__engine_state_open(sherd_engine *engine, uint32_t bucket, sherd_error *err);
sherd_status sherd__engine_state_close(sherd_engine *engine, uint32_t bucket, int32_t changed, sherd_error *err);

/* values.c: enqueued on the comm stream: `n` values out to `to`, and in from there. Of remainders: as fp32. */
sherd_status sherd__engine_values_out(sherd_engine *engine, sherd__tag tag, void *to, sherd_dtype dtype,
                                      sherd__values from, int64_t n);
sherd_status sherd__engine_values_in(sherd_engine *engine, sherd__tag tag, sherd__values to, const void *from,
                                     sherd_dtype dtype, int64_t n);
static inline sherd__values sherd__values_of(const void *at, sherd_dtype dtype)
{
    return (sherd__values){(void *)at, dtype, NULL};
}
sherd__values sherd__values_from(sherd__values values, int64_t elem);

/* wait.c: waits of the calling thread, timed as exposed where they are the compute stream's, and failure. */
sherd_status sherd__engine_compute_wait(sherd_engine *engine, sherd__event *event, const char *site);
/* The calling thread itself waits, on every device: for what it is about to read. */
sherd_status sherd__engine_host_wait(sherd_engine *engine, sherd__event *event, const char *site);
sherd_status sherd__engine_compute_released(sherd_engine *engine, sherd__tag tag, sherd__ticket ticket,
                                            const char *site);
/* Waits for everything enqueued so far on one stream. */
sherd_status sherd__engine_sync(sherd_engine *engine, sherd__stream_id stream, const char *site, sherd_error *err);
/* The comm stream goes on only after what the calling thread has read so far, between steps. */
sherd_status sherd__engine_follow(sherd_engine *engine, const char *site);
/* The calling thread itself reads or writes this memory here: said to the checking device. */
sherd_status sherd__engine_touch(sherd_engine *engine, const char *who, const void *address, uint64_t bytes,
                                 int32_t write, sherd_error *err);
/* SHERD_OK, or the first error: peers are told, *err (may be NULL) gets the sentence. */
sherd_status sherd__engine_health(sherd_engine *engine, sherd_error *err);
/* A status that came back from a device or communicator call: OK, or as sherd__engine_health. */
sherd_status sherd__engine_check(sherd_engine *engine, sherd_status status, sherd_error *err);
/* A call the contract forbids: kept for sherd_engine_error, nothing is poisoned. */
sherd_status sherd__engine_refuse(sherd_engine *engine, sherd_error *err, sherd_status status, const char *format, ...)
    SHERD__PRINTF(4, 5);

/* 1: the open (or next) micro-step closes the step. */
static inline int sherd__engine_last_micro(const sherd_engine *engine)
{
    return engine->micro == engine->micros - 1;
}

/* step.c: waits for the last step's vote and reports it, where that was left for later. */
sherd_status sherd__engine_collect(sherd_engine *engine, sherd_error *err);

/* create.c: all that follows from the plan, and what is left out where it is there already: step block and scratch window.
 * Release leaves these two, the comm stream and the lock; the streams are idle and peers have read what they read. */
sherd_status sherd__engine_layout_create(sherd_engine *engine, sherd_error *err);
void sherd__engine_layout_release(sherd_engine *engine);
/* Peers may still be reading this rank's windows. A healthy engine waits for them, within the limit; a failed one does not. */
sherd_status sherd__engine_settle(sherd_engine *engine, sherd_error *err);

/* replan.c: sherd.replan. Watch: at creation. Note: under the lock, when a gradient has become ready. Replan: COLLECTIVE, after
 * the first step; an error ends the engine. */
sherd_status sherd__engine_replan_watch(sherd_engine *engine, sherd_error *err);
void sherd__engine_replan_note(sherd_engine *engine, uint32_t id);
sherd_status sherd__engine_replan(sherd_engine *engine, sherd_error *err);
void sherd__engine_replan_end(sherd_engine *engine);

/* state.c: elements [first, first + count) of a state, as sherd_state_read and _write take it. Read: what this rank has
 * itself, local. Write: COLLECTIVE, from `root`'s data. Share: COLLECTIVE, root's words to every rank. */
sherd_status sherd__engine_state_read_here(sherd_engine *engine, uint32_t id, uint32_t which, int64_t first, int64_t count,
                                           float *out, sherd_error *err);
sherd_status sherd__engine_state_write_from(sherd_engine *engine, int32_t root, uint32_t id, uint32_t which, int64_t first,
                                            int64_t count, const float *data, sherd_error *err);
sherd_status sherd__engine_share(sherd_engine *engine, int32_t root, uint32_t *words, int64_t count, sherd_error *err);

/* transfer.c: between-steps movement of small things. `err` as everywhere. */
sherd_status sherd__engine_idle(sherd_engine *engine, const char *call,
                                sherd_error *err); /* between steps, streams drained */
/* Every rank's 64-byte line to every rank: engine->scratch_host afterwards holds world lines. */
sherd_status sherd__engine_exchange(sherd_engine *engine, const void *line, size_t bytes, sherd_error *err);

static inline sherd__tag sherd__engine_tag(const sherd_engine *engine, const char *name, int32_t bucket)
{
    sherd__tag tag = {name, bucket, engine->step};
    return tag;
}

/* Where this rank's part of a bucket begins, and how much it is: whole buckets at stage 0, else its slice. Elements. */
static inline int64_t sherd__engine_part_begin(const sherd_engine *engine, const sherd__bucket *bucket)
{
    return sherd__plan_part_begin(engine->plan, bucket, engine->rank);
}

static inline int64_t sherd__engine_part_elems(const sherd_engine *engine, const sherd__bucket *bucket)
{
    return sherd__plan_part_elems(engine->plan, bucket);
}

static inline void *sherd__at(const void *base, uint64_t bytes)
{
    return (unsigned char *)(uintptr_t)base + bytes;
}

#endif
