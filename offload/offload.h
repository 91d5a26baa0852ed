/* SPDX-License-Identifier: MIT
 *
 * Offloading: the owned part of offloaded buckets in host memory (or in files), and the work that is done there. It
 * owns memory, the team of threads and the files; what happens when is the schedule's, how an element is updated is the
 * optimizers'.
 *
 * Every bucket's part is cut into one place per memory node (multiples of 256 elements), so that each node's threads
 * work on their node's memory. A place of a speculated bucket has two sets of state; which one holds the truth is the
 * parity, a number that the caller counts: it changes with every step, whether the guess was right or not, since a
 * wrong guess is redone into the same second set.
 *
 * Everything is made at creation; the calls that enqueue only walk tables.
 */
#ifndef SHERD_OFFLOAD_OFFLOAD_H
#define SHERD_OFFLOAD_OFFLOAD_H

#include "device/device.h"
#include "host/share.h"
#include "shard/plan.h"

typedef struct sherd__offload sherd__offload;

typedef struct sherd__offload_options {
    const sherd_plan *plan;
    sherd_device *device;
    int32_t rank;                       /* of the world: names files, places the slice */
    const sherd__topology *topology;    /* of this host; kept until destroy */
    int32_t local_ranks, local_rank;    /* ranks of this host */
    const sherd__share_device *devices; /* [local_ranks], or NULL */
    const sherd__span *const *spans;    /* [n_off] of each offloaded bucket's part; stay valid */
    const uint32_t *n_spans;            /* [n_off] */
    const sherd__step_scalars *scalars; /* on the host, as voted */
    sherd__step_scalars *guess[2];      /* on the host, by parity; [0] is filled by the caller */
    const sherd__step_state *state;     /* on the host, as voted */
    sherd__trust_sums *trust;           /* on the host, by place in the plan's order; NULL where nobody wants ratios */
    const float *ratios;                /* likewise */
    /* Makes the next step's guess; called by the host's work of the step, after the vote. */
    void (*guess_next)(void *ctx, sherd__step_scalars *out);
    void *guess_ctx;
} sherd__offload_options;

/* Host memory, threads and files for everything the plan offloads; booked in the device's ledger. State starts as
 * zeros. Errors: ENOMEM, ESYSTEM, EIO, with the remedy. */
sherd_status sherd__offload_create(const sherd__offload_options *options, sherd__offload **out, sherd_error *err);
/* Streams that worked for it are gone. NULL is legal. */
void sherd__offload_destroy(sherd__offload *offload);

/* Enqueue one action on `stream`; waits and records are the caller's. `sum` and `working` are the own part on the
 * device. */
sherd_status sherd__offload_lower(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                  const void *sum);
sherd_status sherd__offload_speculate(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                      int32_t parity);
/* Parity is what it was at SPECULATE; afterwards the truth is in the other set. */
sherd_status sherd__offload_step(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                 int32_t parity);
/* Adds the norms of the bucket's parameters and directions to options.trust; writes nothing else. */
sherd_status sherd__offload_trust(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket);
/* Muon's matrices: momentum and direction of the own part; the direction to `window`, the own part's place in the window on the
 * device; and the orthogonal step back from there, which the bucket's step then applies. */
sherd_status sherd__offload_direct(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket);
sherd_status sherd__offload_raise_direct(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                         float *window);
sherd_status sherd__offload_lower_step(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                       const float *window);
sherd_status sherd__offload_raise(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket,
                                  int32_t parity, void *working);
sherd_status sherd__offload_fetch(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket);
sherd_status sherd__offload_store(sherd__offload *offload, sherd__stream *stream, sherd__tag tag, uint32_t bucket);

/* A host call, in stream order right after the vote: guesses that have not been made by then are left out, and the
 * updates are made with the vote's own scalars, last bucket first. `offload` is a sherd__offload. */
void sherd__offload_voted(void *offload);

/* State `which` (0: master, then the moments; its type is the plan's) of a bucket's part from element `local` on; *run: how many elements
 * follow in a row there. A disk bucket's is valid between fetch and store. */
void *sherd__offload_state(const sherd__offload *offload, uint32_t bucket, int32_t parity, uint32_t which,
                            int64_t local, int64_t *run);
/* Memory nodes that a part is cut over. */
int32_t sherd__offload_nodes(const sherd__offload *offload);
/* Threads, nodes, arenas (asked for and really there), files: lines for people; returns the length it wanted. */
size_t sherd__offload_print(sherd__offload *offload, char *text, size_t bytes);

#endif
