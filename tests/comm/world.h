/* SPDX-License-Identifier: MIT
 *
 * Worlds of ranks for the communicator's tests: threads of this process, or forked processes that meet at a rendezvous.
 * Each rank has a device, a communicator bound to it and a stream for collectives.
 */
#ifndef SHERD_TESTS_COMM_WORLD_H
#define SHERD_TESTS_COMM_WORLD_H

#include <stdio.h>
#include <sys/types.h>

#include "comm/comm.h"

typedef enum world_kind { WORLD_THREADS, WORLD_PROCESSES } world_kind;

typedef struct rank_ctx {
    int32_t rank, world;
    sherd_comm *comm;
    sherd_device *device;
    sherd__stream *stream;
    sherd__event *event;
    void *arg;
} rank_ctx;

typedef int (*rank_fn)(rank_ctx *ctx); /* 0: all is well */

typedef struct world_options {
    double warn_after_s, fail_after_s; /* 0: the library's */
    sherd_log log;
    sherd_device_kind device;
    sherd_checker *checker;
    int32_t mortal; /* 1 + the rank (of processes) that a timer kills, whatever it is doing then; 0: none */
    long mortal_us; /* after its joining the rendezvous */
} world_options;

/* In a rank: says what is wrong and makes the rank fail. */
#define RANK_CHECK(condition)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: rank %d of %d: %s\n", __FILE__, __LINE__, (int)ctx->rank, (int)ctx->world,         \
                    #condition);                                                                                       \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Runs `body` on every rank; returns how many ranks failed. A process that does not end within 60 s is killed and
 * counts. */
int world_run(world_kind kind, int32_t world, const world_options *options, rank_fn body, void *arg);
/* The same for processes, with each rank's wait status in status[world]. */
void world_run_status(int32_t world, const world_options *options, rank_fn body, void *arg, int *status);
/* Device, binding, stream and event around a communicator; then the body. 0: all is well. */
int rank_run(sherd_comm *comm, const world_options *options, rank_fn body, void *arg);
/* Waits for the collectives' stream. */
sherd_status rank_wait(rank_ctx *ctx, sherd_error *err);

sherd__tag tag_of(const char *name, int32_t bucket);
double seconds_now(void);

#endif
