/* SPDX-License-Identifier: MIT
 *
 * A plan's schedule as a graph: three ranks run three steps of it. Streams, events, collectives and a caller give the
 * paths; every action and the caller touch bytes. Include after cmocka.h.
 *
 * The caller's own waits (parameters before reading, slots before writing, the vote) are the engine's and always kept.
 */
#ifndef SHERD_TESTS_SHARD_ORDER_GRAPH_H
#define SHERD_TESTS_SHARD_ORDER_GRAPH_H

#include "tests/shard/make.h"

#define NOBODY INT64_C(-1)
enum { RANKS = 3, STEPS = 3, MAX_NODES = 4096, WORDS = MAX_NODES / 64, MAX_ACCESSES = 16384, MAX_BUCKETS = 8 };
enum { HEADS = 1024 };        /* chains of accesses that can meet */

typedef struct access {
    uint32_t node;
    int32_t rank, memory, bucket;
    int64_t begin, end;
    int write;
    uint32_t former; /* the one before in its chain, plus one */
} access;

typedef struct graph {
    const sherd_plan *plan;
    int64_t unused;                  /* the bucket that the caller never touches; NOBODY: it uses all */
    uint32_t drop_action, drop_wait; /* left out; drop_wait == SHERD__MAX_WAITS: the slot wait of that action */
    uint32_t n_nodes, n_accesses;
    int parity; /* of speculated buckets, in this step */
    uint64_t before[MAX_NODES][WORDS];
    access accesses[MAX_ACCESSES];
    uint32_t heads[HEADS]; /* each chain's latest access, plus one */
    int32_t last[RANKS][SHERD__STREAMS];
    int32_t event[RANKS][SHERD__EVENTS][MAX_BUCKETS];
    int32_t reader[RANKS][MAX_BUCKETS];                /* the latest node in which that rank read a bucket's leaves */
    int32_t joined[RANKS][MAX_BUCKETS], shared[RANKS]; /* the latest in which it read what the window had for it */
} graph;

/* Runs the steps on *g, which it clears, with one wait left out (SHERD__MAX_WAITS: that action's own for its slot or
 * window; action UINT32_MAX: none). Returns how many pairs of accesses to the same bytes, one of them a write, have no
 * path between them. */
uint64_t graph_races(graph *g, const sherd_plan *plan, int64_t unused_bucket, uint32_t drop_action, uint32_t drop_wait);

#endif
