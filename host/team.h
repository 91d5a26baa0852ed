/* SPDX-License-Identifier: MIT
 *
 * A team of worker threads that share out one loop at a time. The caller takes part; a team of 1 has no threads. Chunks
 * are numbered, so the work of a chunk depends on its number only, never on who does it: results do not depend on the
 * team's size.
 *
 * Members may be seated: each is pinned to a processor and belongs to a memory node, and a loop can be split by node,
 * so that members work on what lies in their own node's memory.
 */
#ifndef SHERD_HOST_TEAM_H
#define SHERD_HOST_TEAM_H

#include "host/share.h"

typedef struct sherd__team sherd__team;
typedef void (*sherd__team_fn)(void *arg, int64_t chunk, int32_t worker);

typedef struct sherd__team_options {
    const sherd_allocator *allocator; /* NULL: malloc */
    int32_t threads;                  /* ≥ 1, the caller included */
    const sherd__seat *seats;         /* [threads], by node; [0] is the caller's. NULL: nobody is pinned, one node */
    int64_t spin_ns; /* how long an idle worker looks for the next loop before it sleeps: within it no system call wakes
                        it */
    const char *name; /* of the threads, at most 8 letters; NULL: "sherd" */
} sherd__team_options;

/* A worker that cannot be pinned runs unpinned: see sherd__team_unpinned. Workers keep their own floating-point mode
 * (nearest, no flush to zero). */
sherd_status sherd__team_make(const sherd__team_options *options, sherd__team **out, sherd_error *err);
/* Unpinned, no spinning. */
sherd_status sherd__team_create(const sherd_allocator *allocator, int32_t threads, sherd__team **out, sherd_error *err);
void sherd__team_destroy(sherd__team *team);
int32_t sherd__team_threads(const sherd__team *team);
/* Different nodes of the seats, in their order (1 without seats); os number of the n-th (−1 without seats). */
int32_t sherd__team_nodes(const sherd__team *team);
int32_t sherd__team_node(const sherd__team *team, int32_t n);
/* How many workers run unpinned although a seat was given; *text (may be NULL) gets a sentence that stays valid, "" if
 * none. */
int32_t sherd__team_unpinned(const sherd__team *team, const char **text);
/* Loops whose start needed a system call because a worker slept. */
uint64_t sherd__team_wakes(const sherd__team *team);
/* Pins the calling thread, which is going to be the team's caller, to seat 0. SHERD_ESYSTEM: it stays as it was. */
sherd_status sherd__team_pin_caller(const sherd__team *team, sherd_error *err);

/* Calls fn(arg, c, w) for c in [0, chunks), w in [0, threads) distinct at any one time; returns when all are done. If
 * the team is busy with another stream's loop, the caller does everything itself as worker 0 of its own. Never
 * allocates. `team` NULL: the caller alone. In a child of fork(), which has no workers, the caller does everything. */
void sherd__team_run(sherd__team *team, int64_t chunks, sherd__team_fn fn, void *arg);

typedef enum sherd__team_how {
    SHERD__TEAM_HELP = 0, /* who has finished its own node's chunks goes on with the next node's */
    SHERD__TEAM_STAY =
        1, /* members do their own node's chunks only; after 2 s without progress the caller does the rest */
} sherd__team_how;

/* The same, split by node: chunks [ends[n − 1], ends[n]) belong to the team's n-th node (ends[−1] is 0), n <
 * sherd__team_nodes. */
void sherd__team_run_nodes(sherd__team *team, const int64_t *ends, sherd__team_how how, sherd__team_fn fn, void *arg);

/* Sets the calling thread's floating-point mode to the library's (nearest even, subnormals kept) and returns the
 * former; restore puts it back. For work done on a caller's thread. */
uint64_t sherd__float_mode_enter(void);
void sherd__float_mode_leave(uint64_t former);

#endif
