/* SPDX-License-Identifier: MIT
 *
 * Worlds of ranks for tests: threads with host devices, threads on the checking device, forked processes over shared
 * memory.
 */
#ifndef SHERD_TESTS_ENGINE_WORLDS_H
#define SHERD_TESTS_ENGINE_WORLDS_H

#include "sherd/sherd.h"

#define WORLD_MAX 8

/* Called once per rank. `device` and `comm` are the rank's own. */
typedef void (*world_fn)(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm);

typedef struct world_options {
    int32_t world, threads; /* threads: per rank, of reductions and updates; 0: 1 */
    sherd_checker *checker; /* not NULL: the checking device */
    uint32_t trace_capacity;
    double fail_after_s; /* 0: 60 */
    double warn_after_s; /* 0: the default */
    sherd_log log;       /* of the communicators */
    sherd_device *(*make_device)(void); /* of each rank; NULL: the host's, or the checking one. NULL from it: it failed */
} world_options;

/* Ranks as threads of this process. Returns 0, or prints why not and returns 1. */
int world_run_threads(const world_options *options, world_fn fn, void *ctx);
/* Ranks as processes; what fn leaves in memory got from world_shared is seen by the parent. Returns the number of ranks
 * that did not exit with 0. A rank that is still there after `limit_s` is killed and counted. */
int world_run_processes(const world_options *options, double limit_s, world_fn fn, void *ctx);
/* Zeroed memory shared with ranks forked later. NULL: none. Never freed: tests end. */
void *world_shared(size_t bytes);

#endif
