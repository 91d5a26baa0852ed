/* SPDX-License-Identifier: MIT
 *
 * Are the schedule's waits enough, and is each of them needed? Three ranks run three steps of the schedule as a
 * graph: streams, events, collectives and a caller. Two accesses to the same bytes, one of them a write, must have a
 * path between them. Then each wait is left out in turn, and some pair must lose its path.
 *
 * The caller's own waits (parameters before reading, slots before writing, the vote) are the engine's and always
 * kept. Callers are tried that use every parameter, and that never touch those of one bucket, whose gradients are
 * zeros then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/make.h"

#define NOBODY INT64_C(-1)
enum { RANKS = 3, STEPS = 3, MAX_NODES = 4096, WORDS = MAX_NODES / 64, MAX_ACCESSES = 16384, MAX_BUCKETS = 8 };
enum {
    MEM_PARAM,
    MEM_RING,
    MEM_SUM,
    MEM_STATE,
    MEM_NORM,
    MEM_SCALARS,
    MEM_SUM_SLOT,
    MEM_HOST_SUM,
    MEM_EMIT_SLOT,
    MEM_EMIT,
    MEM_DISK_SLOT,
    MEM_FILE,
    MEM_GUESS,
    MEM_TRUST,
    MEM_RATIOS, /* bucket 0: the device's, 1: the host's; element b: of bucket b's parameters */
    MEM_WINDOW, /* Muon's, in elements */
    MEM_STEP    /* what an offloaded bucket's sums leave their place to, or what has one of its own */
};
enum { HEADS = 1024 };        /* chains of accesses that can meet */
enum { OTHER_SET = 1 << 20 }; /* elements of a speculated bucket's second set of state lie here */

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

static void after(graph *g, uint32_t node, int32_t earlier)
{
    if (earlier < 0)
        return;
    for (int w = 0; w < WORDS; w++)
        g->before[node][w] |= g->before[earlier][w];
    g->before[node][earlier / 64] |= (uint64_t)1 << earlier % 64;
}

static uint32_t add_node(graph *g, int32_t rank, sherd__stream_id stream)
{
    uint32_t node = g->n_nodes++;
    assert_true(node < MAX_NODES);
    after(g, node, g->last[rank][stream]);
    g->last[rank][stream] = (int32_t)node;
    return node;
}

static void touch(graph *g, uint32_t node, int32_t rank, int32_t memory, int32_t bucket, int64_t begin, int64_t end,
                  int write)
{
    uint32_t *head =
        &g->heads[((uint32_t)memory * RANKS + (uint32_t)rank) * MAX_BUCKETS + (uint32_t)bucket % MAX_BUCKETS];
    assert_true(g->n_accesses < MAX_ACCESSES && head < g->heads + HEADS);
    g->accesses[g->n_accesses] = (access){node, rank, memory, bucket, begin, end, write, *head};
    *head = ++g->n_accesses;
}

static void touch_slot(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int64_t begin, int64_t end, int write)
{
    int64_t base = (int64_t)g->plan->buckets[bucket].ring_offset;
    int64_t bytes = (int64_t)sherd_dtype_bytes(g->plan->buckets[bucket].grad_dtype);
    touch(g, node, rank, MEM_RING, 0, base + begin * bytes, base + end * bytes, write);
}

/* Leaves as they are summed: behind one another from the slot's begin on. */
static void read_leaves(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int64_t begin, int64_t end)
{
    int64_t base = (int64_t)g->plan->buckets[bucket].ring_offset;
    int64_t bytes = (int64_t)sherd_dtype_bytes(g->plan->buckets[bucket].wire_dtype);
    touch(g, node, rank, MEM_RING, 0, base + begin * bytes, base + end * bytes, 0);
}

static int64_t content(const graph *g, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    const sherd__plan_param *param = &g->plan->params[g->plan->order[of->first + of->count - 1]];
    return param->offset + param->elems;
}

static int unused(const graph *g, uint32_t bucket)
{
    return g->unused == (int64_t)bucket;
}

/* Every rank has read the slot's former contents; in FULL mode this rank alone. */
static void wait_slot(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    uint32_t former = g->plan->buckets[bucket].ring_after;
    for (int32_t r = 0; r < RANKS; r++)
        if (!g->plan->full_mode || r == rank)
            after(g, node, g->reader[r][former]);
}

static int is_collective(sherd__action_kind kind)
{
    return kind == SHERD__ACT_REDUCE || kind == SHERD__ACT_REDUCE_OWN || kind == SHERD__ACT_GATHER_SUMS ||
           kind == SHERD__ACT_VOTE || kind == SHERD__ACT_GATHER || kind == SHERD__ACT_RATIOS ||
           kind == SHERD__ACT_JOIN || kind == SHERD__ACT_SHARE;
}

/* In turn: everybody's slice of `memory`, read where it lies; the peers' slices here, written. */
static void touch_gather(graph *g, uint32_t node, int32_t rank, int32_t memory, uint32_t bucket)
{
    int64_t slice = g->plan->buckets[bucket].slice_elems;
    for (int32_t q = 0; q < RANKS; q++) {
        if (q == rank)
            continue;
        touch(g, node, q, memory, (int32_t)bucket, q * slice, (q + 1) * slice, 0);
        touch(g, node, rank, memory, (int32_t)bucket, q * slice, (q + 1) * slice, 1);
    }
}

/* [begin, end) of the bucket's sums on the device, in the own slice where they pass through a slot. */
static void touch_sum(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int64_t begin, int64_t end, int write)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    if (g->plan->placement.sum_slots > 0 && sherd__bucket_offloaded(of))
        touch(g, node, rank, MEM_SUM_SLOT, (int32_t)of->sum_slot.index, 0, end - begin, write);
    else
        touch(g, node, rank, MEM_SUM, (int32_t)bucket, begin, end, write);
}

static void touch_reduce(graph *g, uint32_t node, int32_t rank, const sherd__action *action)
{
    const sherd__bucket *bucket = &g->plan->buckets[action->bucket];
    int64_t begin = rank * bucket->slice_elems, end = begin + bucket->slice_elems;
    for (int32_t q = 0; q < RANKS; q++)
        if (action->kind == SHERD__ACT_REDUCE)
            read_leaves(g, node, q, action->bucket, begin, end);
        else
            touch(g, node, q, MEM_SUM, (int32_t)action->bucket, begin, end, 0);
    touch_sum(g, node, rank, action->bucket, begin, end, 1);
    if (action->flags & SHERD__F_FINAL)
        touch(g, node, rank, MEM_NORM, 0, 0, 1, 1);
}

/* Elements [begin, end) of a bucket, in the window. */
static void touch_window(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int64_t begin, int64_t end, int write)
{
    int64_t base = (int64_t)(g->plan->buckets[bucket].window_offset / sizeof(float));
    touch(g, node, rank, MEM_WINDOW, 0, base + begin, base + end, write);
}

static void touch_direct(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    int64_t begin = g->plan->whole_state ? 0 : rank * of->slice_elems;
    int64_t end = g->plan->whole_state ? of->elems : begin + of->slice_elems;
    touch(g, node, rank, MEM_SCALARS, 0, 0, 1, 0);
    touch(g, node, rank, MEM_SUM, (int32_t)bucket, begin, end, 0);
    touch(g, node, rank, MEM_STATE, (int32_t)bucket, begin, end, 1);
    touch_window(g, node, rank, bucket, begin, end, 1);
}

static void touch_join(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    int64_t slice = g->plan->buckets[bucket].slice_elems;
    for (int32_t q = 0; q < RANKS; q++) {
        if (q == rank)
            continue;
        touch_window(g, node, q, bucket, q * slice, (q + 1) * slice, 0);
        touch_window(g, node, rank, bucket, q * slice, (q + 1) * slice, 1);
    }
    g->joined[rank][bucket] = (int32_t)node;
}

static void touch_share(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    int64_t begin = rank * of->slice_elems, end = begin + of->slice_elems;
    for (int32_t q = 0; q < RANKS && !g->plan->whole_state; q++)
        touch_window(g, node, q, bucket, begin, end, q == rank);
    for (uint32_t i = 0; i < of->count && g->plan->whole_state; i++) {
        const sherd__plan_param *param = &g->plan->params[g->plan->order[of->first + i]];
        if (param->owner == rank)
            continue;
        touch_window(g, node, param->owner, bucket, param->offset, param->offset + param->elems, 0);
        touch_window(g, node, rank, bucket, param->offset, param->offset + param->elems, 1);
    }
    g->shared[rank] = (int32_t)node;
}

static void touch_update(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    int64_t begin = g->plan->whole_state ? 0 : rank * of->slice_elems;
    int64_t end = g->plan->whole_state ? of->elems : begin + of->slice_elems;
    touch(g, node, rank, MEM_SCALARS, 0, 0, 1, 0);
    if (of->muon)
        touch_window(g, node, rank, bucket, begin, end, 0);
    else
        touch(g, node, rank, MEM_SUM, (int32_t)bucket, begin, end, 0);
    touch(g, node, rank, MEM_STATE, (int32_t)bucket, begin, end, 1);
    touch(g, node, rank, MEM_PARAM, (int32_t)bucket, begin, end, 1);
    if (g->plan->trust)
        touch(g, node, rank, MEM_RATIOS, 0, bucket, bucket + 1, 0);
}

/* Reads what the update will read; parameters whose working copy is the master as well. */
static void touch_trust(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    int64_t begin = g->plan->whole_state ? 0 : rank * of->slice_elems;
    int64_t end = g->plan->whole_state ? of->elems : begin + of->slice_elems;
    touch(g, node, rank, MEM_SCALARS, 0, 0, 1, 0);
    touch(g, node, rank, MEM_SUM, (int32_t)bucket, begin, end, 0);
    touch(g, node, rank, MEM_STATE, (int32_t)bucket, begin, end, 0);
    if (of->dtype == SHERD_FP32)
        touch(g, node, rank, MEM_PARAM, (int32_t)bucket, begin, end, 0);
    touch(g, node, rank, MEM_TRUST, 0, bucket, bucket + 1, 1);
}

/* Where parts differ, everybody's sums are read where they lie, as a gather does. */
static void touch_ratios(graph *g, uint32_t node, int32_t rank)
{
    int64_t n = g->plan->n_buckets;
    touch(g, node, rank, MEM_TRUST, 1, 0, n, 1); /* overwritten with all ranks', cleared */
    for (int32_t q = 0; q < RANKS; q++)
        if (!g->plan->whole_state || q == rank)
            touch(g, node, q, MEM_TRUST, 0, 0, n, 0);
    touch(g, node, rank, MEM_RATIOS, 0, 0, n, 1);
    touch(g, node, rank, MEM_RATIOS, 1, 0, n, 1);
}

static int64_t part_elems(const graph *g, uint32_t bucket)
{
    return g->plan->whole_state ? g->plan->buckets[bucket].elems : g->plan->buckets[bucket].slice_elems;
}

static void touch_lower(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    int64_t begin = g->plan->whole_state ? 0 : rank * g->plan->buckets[bucket].slice_elems;
    touch_sum(g, node, rank, bucket, begin, begin + part_elems(g, bucket), 0);
    touch(g, node, rank, MEM_HOST_SUM, (int32_t)bucket, 0, part_elems(g, bucket), 1);
}

/* The state that a step reads and the one that it writes, on any tier. */
static void touch_state(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int write)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    int64_t at = of->speculated && (g->parity != 0) != (write != 0) ? OTHER_SET : 0;
    if (of->tier == SHERD_TIER_DISK)
        touch(g, node, rank, MEM_DISK_SLOT, (int32_t)of->disk_slot.index, 0, 1, write);
    else
        touch(g, node, rank, MEM_STATE, (int32_t)bucket, at, at + part_elems(g, bucket), write);
}

static void touch_emit(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int write)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    if (of->dtype == SHERD_FP32)
        touch_state(g, node, rank, bucket, 1); /* what the step has written is raised */
    else if (of->speculated)
        touch(g, node, rank, MEM_EMIT, (int32_t)bucket, 0, 1, write);
    else
        touch(g, node, rank, MEM_EMIT_SLOT, (int32_t)of->emit_slot.index, 0, 1, write);
}

/* Directions and steps of an offloaded bucket, on the host. */
static void touch_step(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int write)
{
    int own = sherd__bucket_has_step(g->plan, &g->plan->buckets[bucket]);
    touch(g, node, rank, own ? MEM_STEP : MEM_HOST_SUM, (int32_t)bucket, 0, part_elems(g, bucket), write);
}

static void touch_host_update(graph *g, uint32_t node, int32_t rank, const sherd__action *action)
{
    uint32_t bucket = action->bucket;
    if (action->kind == SHERD__ACT_HOST_UPDATE)
        touch(g, node, rank, MEM_SCALARS, 1, 0, 1, 0);
    if (g->plan->buckets[bucket].speculated)
        touch(g, node, rank, MEM_GUESS, g->parity, 0, 1, 0);
    if (g->plan->buckets[bucket].muon)
        touch_step(g, node, rank, bucket, 0);
    else
        touch(g, node, rank, MEM_HOST_SUM, (int32_t)bucket, 0, part_elems(g, bucket), 0);
    touch_state(g, node, rank, bucket, 0);
    touch_state(g, node, rank, bucket, 1);
    touch_emit(g, node, rank, bucket, 1);
    if (g->plan->trust)
        touch(g, node, rank, MEM_RATIOS, 1, bucket, bucket + 1, 0);
}

static void touch_host_trust(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    touch(g, node, rank, MEM_SCALARS, 1, 0, 1, 0);
    touch(g, node, rank, MEM_HOST_SUM, (int32_t)bucket, 0, part_elems(g, bucket), 0);
    touch_state(g, node, rank, bucket, 0);
    touch(g, node, rank, MEM_TRUST, 1, bucket, bucket + 1, 1);
}

static void touch_host_direct(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    touch(g, node, rank, MEM_SCALARS, 1, 0, 1, 0);
    touch(g, node, rank, MEM_HOST_SUM, (int32_t)bucket, 0, part_elems(g, bucket), 0);
    touch_step(g, node, rank, bucket, 1);
    touch_state(g, node, rank, bucket, 1);
}

/* The own part of the window and its place on the host, one of which is written. */
static void touch_passage(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int down)
{
    int64_t begin = g->plan->whole_state ? 0 : rank * g->plan->buckets[bucket].slice_elems;
    touch_window(g, node, rank, bucket, begin, begin + part_elems(g, bucket), !down);
    touch_step(g, node, rank, bucket, down);
}

static void touch_raise(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    int64_t begin = g->plan->whole_state ? 0 : rank * of->slice_elems;
    if (of->dtype == SHERD_FP32) { /* the master that was just written, read */
        int64_t at = of->speculated && !g->parity ? OTHER_SET : 0;
        if (of->tier == SHERD_TIER_DISK)
            touch(g, node, rank, MEM_DISK_SLOT, (int32_t)of->disk_slot.index, 0, 1, 0);
        else
            touch(g, node, rank, MEM_STATE, (int32_t)bucket, at, at + part_elems(g, bucket), 0);
    } else {
        touch_emit(g, node, rank, bucket, 0);
    }
    touch(g, node, rank, MEM_PARAM, (int32_t)bucket, begin, begin + part_elems(g, bucket), 1);
}

static void touch_disk(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int fetch)
{
    touch(g, node, rank, MEM_DISK_SLOT, (int32_t)g->plan->buckets[bucket].disk_slot.index, 0, 1, fetch);
    touch(g, node, rank, MEM_FILE, (int32_t)bucket, 0, 1, !fetch);
}

static void touch_action(graph *g, uint32_t node, int32_t rank, const sherd__action *action)
{
    const sherd__bucket *bucket = &g->plan->buckets[action->bucket];
    switch (action->kind) {
    case SHERD__ACT_MOVE:
        if (unused(g, action->bucket))
            touch_slot(g, node, rank, action->bucket, 0, content(g, action->bucket), 1);
        break;
    case SHERD__ACT_PADS:
        touch_slot(g, node, rank, action->bucket, content(g, action->bucket), bucket->elems, 1);
        break;
    case SHERD__ACT_NARROW:
        touch_slot(g, node, rank, action->bucket, 0, bucket->elems, 1);
        break;
    case SHERD__ACT_REDUCE:
        g->reader[rank][action->bucket] = (int32_t)node;
        touch_reduce(g, node, rank, action);
        break;
    case SHERD__ACT_REDUCE_OWN:
        touch_reduce(g, node, rank, action);
        break;
    case SHERD__ACT_ACCUMULATE:
        g->reader[rank][action->bucket] = (int32_t)node;
        read_leaves(g, node, rank, action->bucket, 0, bucket->elems);
        touch(g, node, rank, MEM_SUM, (int32_t)action->bucket, 0, bucket->elems, 1);
        break;
    case SHERD__ACT_CARRY:
        if (action->flags & SHERD__F_FINAL)
            touch(g, node, rank, MEM_NORM, 0, 0, 1, 1);
        if (g->plan->full_mode)
            touch(g, node, rank, MEM_SUM, (int32_t)action->bucket, 0, bucket->elems, 1);
        else
            touch_sum(g, node, rank, action->bucket, rank * bucket->slice_elems, (rank + 1) * bucket->slice_elems, 1);
        break;
    case SHERD__ACT_GATHER_SUMS:
        touch_gather(g, node, rank, MEM_SUM, action->bucket);
        break;
    case SHERD__ACT_VOTE:
        touch(g, node, rank, MEM_NORM, 0, 0, 1, 1);
        break;
    case SHERD__ACT_SCALARS:
        touch(g, node, rank, MEM_NORM, 0, 0, 1, 0);
        touch(g, node, rank, MEM_SCALARS, 0, 0, 1, 1);
        touch(g, node, rank, MEM_SCALARS, 1, 0, 1, 1); /* the host's */
        if (g->plan->trust)
            touch(g, node, rank, MEM_TRUST, 0, 0, g->plan->n_buckets, 1);
        break;
    case SHERD__ACT_TRUST:
        touch_trust(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_HOST_TRUST:
        touch_host_trust(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_RATIOS:
        touch_ratios(g, node, rank);
        break;
    case SHERD__ACT_DIRECT:
        touch_direct(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_JOIN:
        touch_join(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_ORTHO:
        touch_window(g, node, rank, action->bucket, 0, bucket->elems, 1);
        break;
    case SHERD__ACT_SHARE:
        touch_share(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_HOST_DIRECT:
        touch_host_direct(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_RAISE_DIRECT:
        touch_passage(g, node, rank, action->bucket, 0);
        break;
    case SHERD__ACT_LOWER_STEP:
        touch_passage(g, node, rank, action->bucket, 1);
        break;
    case SHERD__ACT_UPDATE:
        touch_update(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_GATHER:
        touch_gather(g, node, rank, MEM_PARAM, action->bucket);
        break;
    case SHERD__ACT_LOWER:
        touch_lower(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_SPECULATE:
    case SHERD__ACT_HOST_UPDATE:
        touch_host_update(g, node, rank, action);
        break;
    case SHERD__ACT_RAISE:
        touch_raise(g, node, rank, action->bucket);
        break;
    case SHERD__ACT_FETCH:
        touch_disk(g, node, rank, action->bucket, 1);
        break;
    case SHERD__ACT_STORE:
        touch_disk(g, node, rank, action->bucket, 0);
        break;
    case SHERD__ACTIONS:
        fail();
    }
}

/* The node in which a rank arrives: its waits and, for all but collectives, the work too. */
static uint32_t arrive(graph *g, int32_t rank, uint32_t index)
{
    const sherd__action *action = &g->plan->schedule.actions[index];
    uint32_t node = add_node(g, rank, action->stream);
    for (uint32_t w = 0; w < action->n_waits; w++)
        if (index != g->drop_action || w != g->drop_wait)
            after(g, node, g->event[rank][action->wait[w].kind][action->wait[w].bucket]);
    if (action->flags & SHERD__F_SLOT && unused(g, action->bucket) &&
        (index != g->drop_action || g->drop_wait != SHERD__MAX_WAITS))
        wait_slot(g, node, rank, action->bucket);
    for (int32_t q = 0; q < RANKS && (index != g->drop_action || g->drop_wait != SHERD__MAX_WAITS); q++) {
        if (action->kind == SHERD__ACT_ORTHO && sherd__plan_joins(g->plan)) /* every rank has this rank's directions */
            after(g, node, g->joined[q][action->bucket]);
        if (action->flags & SHERD__F_WINDOW) /* and its results, of the former wave */
            after(g, node, g->shared[q]);
    }
    return node;
}

static void run_action(graph *g, uint32_t index)
{
    const sherd__action *action = &g->plan->schedule.actions[index];
    uint32_t node[RANKS], arrived[RANKS];
    for (int32_t r = 0; r < RANKS; r++)
        node[r] = arrived[r] = arrive(g, r, index);
    for (int32_t r = 0; r < RANKS && action->kind == SHERD__ACT_RATIOS; r++) { /* before it arrives */
        touch(g, arrived[r], r, MEM_TRUST, 1, 0, g->plan->placement.n_off, 0);
        touch(g, arrived[r], r, MEM_TRUST, 0, 0, g->plan->placement.n_off, 1);
    }
    for (int32_t r = 0; r < RANKS && is_collective(action->kind); r++) {
        node[r] = add_node(g, r, action->stream);
        for (int32_t q = 0; q < RANKS; q++)
            after(g, node[r], (int32_t)arrived[q]);
    }
    for (int32_t r = 0; r < RANKS; r++) {
        touch_action(g, node[r], r, action);
        if (action->record.kind != SHERD__EV_NONE)
            g->event[r][action->record.kind][action->record.bucket] = (int32_t)node[r];
    }
}

static void run_range(graph *g, sherd__range range)
{
    for (uint32_t a = range.begin; a < range.end; a++)
        run_action(g, a);
}

static void read_params(graph *g, int32_t rank, uint32_t bucket)
{
    uint32_t node = add_node(g, rank, SHERD__COMPUTE);
    after(g, node, g->event[rank][g->plan->schedule.acquire_wait][bucket]);
    touch(g, node, rank, MEM_PARAM, (int32_t)bucket, 0, g->plan->buckets[bucket].elems, 0);
}

static void backward(graph *g, uint32_t bucket, sherd__phase phase)
{
    for (int32_t r = 0; r < RANKS; r++) {
        uint32_t node = add_node(g, r, SHERD__COMPUTE);
        if (!unused(g, bucket)) {
            wait_slot(g, node, r, bucket);
            touch_slot(g, node, r, bucket, 0, content(g, bucket), 1);
        }
        g->event[r][SHERD__EV_READY][bucket] = (int32_t)node;
        if (!unused(g, bucket))
            read_params(g, r, bucket); /* the gradient of its input, after that of the weight */
    }
    run_range(g, g->plan->schedule.on_ready[phase][bucket]);
}

/* The step between two whole ones ends early. */
static void run_step(graph *g, int64_t accumulation)
{
    for (int64_t k = 0; k < accumulation; k++) {
        for (int32_t r = 0; r < RANKS && k == accumulation - 1 && g->plan->placement.n_speculated > 0; r++)
            touch(g, add_node(g, r, SHERD__COMPUTE), r, MEM_GUESS, g->parity, 0, 1, 1);
        for (uint32_t left = g->plan->n_buckets; left > 0; left--)
            for (int32_t r = 0; r < RANKS && !unused(g, left - 1); r++)
                read_params(g, r, left - 1);
        for (uint32_t b = 0; b < g->plan->n_buckets; b++)
            backward(g, b, sherd__phase_of(k, accumulation));
    }
    for (uint32_t b = 0; b < g->plan->n_buckets; b++) /* the caller may look at any of them once more */
        for (int32_t r = 0; r < RANKS && !unused(g, b); r++)
            read_params(g, r, b);
    for (int32_t r = 0; r < RANKS; r++)
        g->event[r][SHERD__EV_CLOSED][0] = (int32_t)add_node(g, r, SHERD__COMPUTE);
    run_range(g, g->plan->schedule.boundary);
    for (int32_t r = 0; r < RANKS; r++)
        after(g, add_node(g, r, SHERD__COMPUTE), g->event[r][SHERD__EV_VOTED][0]);
    g->parity = !g->parity;
}

static int conflict(const access *a, const access *b)
{
    return (a->write || b->write) && a->node != b->node && a->rank == b->rank && a->memory == b->memory &&
           a->bucket == b->bucket && a->begin < b->end && b->begin < a->end;
}

/* Nodes are numbered in an order of time, so that only the later can follow the earlier. */
static int ordered(const graph *g, uint32_t a, uint32_t b)
{
    uint32_t early = a < b ? a : b, late = a < b ? b : a;
    return (int)(g->before[late][early / 64] >> early % 64 & 1);
}

static uint64_t races(graph *g, const sherd_plan *plan, int64_t unused_bucket, uint32_t drop_action, uint32_t drop_wait)
{
    uint64_t found = 0;
    memset(g, 0, sizeof *g);
    memset(g->last, -1, sizeof g->last);
    memset(g->event, -1, sizeof g->event);
    memset(g->reader, -1, sizeof g->reader);
    memset(g->joined, -1, sizeof g->joined);
    memset(g->shared, -1, sizeof g->shared);
    g->plan = plan;
    g->unused = unused_bucket;
    g->drop_action = drop_action;
    g->drop_wait = drop_wait;
    for (int s = 0; s < STEPS; s++)
        run_step(g, s == 1 && !plan->config.reproducible ? 1 : plan->config.gradient_accumulation_steps);
    for (uint32_t i = 0; i < g->n_accesses; i++)
        for (uint32_t j = g->accesses[i].former; j > 0; j = g->accesses[j - 1].former)
            found += conflict(&g->accesses[i], &g->accesses[j - 1]) &&
                     !ordered(g, g->accesses[i].node, g->accesses[j - 1].node);
    return found;
}

typedef struct where {
    sherd_tier tier;
    double ratio;
    int speculate;
    sherd_dtype dtype;
    sherd_optimizer optimizer;
    int32_t slots; /* of the disk tier; 0: 2. Muon: 1: one wave */
} where;

static void place(sherd_config *config, const where *where)
{
    config->offload.tier = where->tier;
    config->offload.ratio = where->ratio;
    config->offload.speculate = where->speculate;
    config->offload.buffer_count = where->slots ? where->slots : 2;
    config->optimizer.kind = where->optimizer;
    strcpy(config->offload.nvme_path, "/nowhere");
}

static sherd_plan *make_plan(int32_t stage, int64_t accumulation, int reproducible, sherd_wire wire, const where *where)
{
    make_table table = {.n = 0};
    sherd_plan *plan = NULL;
    sherd_config config = make_config(stage, accumulation, 1);
    for (int i = 0; i < 4; i++) {
        sherd_param *param = make_param(&table, 700);
        param->dtype = param->grad_dtype = where->dtype;
        if (where->optimizer == SHERD_MUON && (i > 0 || where->slots > 1)) {
            param->ndim = 2;
            param->shape[0] = 28;
            param->shape[1] = 25 + 40 * (i == 2); /* slices of two sizes */
            param->flags = SHERD_PARAM_MUON;
        }
    }
    if (where->optimizer == SHERD_MUON && where->slots == 1)
        make_param(&table, 1 << 20)->flags = SHERD_PARAM_FROZEN; /* a wave is an eighth of it */
    place(&config, where);
    config.reproducible = reproducible;
    config.wire = wire;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, RANKS, &plan, NULL), SHERD_OK);
    assert_int_equal(plan->n_buckets, 4);
    if (where->optimizer != SHERD_MUON) /* a slot is taken over within a micro-step */
        assert_true(plan->ring_bytes < 4 * plan->buckets[0].ring_bytes);
    return plan;
}

/* Where slices are alike in both waves, nobody reads from what the next one writes: then at stages 1 and 2 that wait is
 * spare. */
static void check_window_waits(graph *g, const sherd_plan *plan)
{
    uint32_t waits = 0, needed = 0;
    for (uint32_t a = 0; a < plan->schedule.n_actions; a++) {
        const sherd__action *action = &plan->schedule.actions[a];
        uint64_t found;
        if (!(action->flags & SHERD__F_WINDOW) && (action->kind != SHERD__ACT_ORTHO || !sherd__plan_joins(plan)))
            continue;
        found = races(g, plan, NOBODY, a, SHERD__MAX_WAITS);
        if (!(action->flags & SHERD__F_WINDOW) || plan->whole_state) {
            if (found == 0)
                fail_msg("stage %d, action %u: %s %u need not wait for the window", plan->config.zero.stage, a,
                         sherd__action_name(action->kind), action->bucket);
            continue;
        }
        waits++;
        needed += found > 0;
    }
    assert_true(needed > 0 || waits == 0);
}

static int needed(graph *g, const sherd_plan *plan, const int64_t *callers, size_t n, uint32_t action, uint32_t wait)
{
    for (size_t c = 0; c < n; c++)
        if (races(g, plan, callers[c], action, wait) > 0)
            return 1;
    return 0;
}

static void check_plan(graph *g, const sherd_plan *plan, uint32_t *waits)
{
    const uint32_t none = UINT32_MAX;
    /* One that uses every bucket; others never touch the first, the lowest on the device, the one whose values are
     * raised last. */
    const uint32_t n_off = plan->placement.n_off;
    const int64_t callers[] = {NOBODY, 0, n_off < plan->n_buckets ? (int64_t)n_off : 0,
                               n_off > 0 ? plan->schedule.last_raised : 0};
    for (size_t c = 0; c < 4; c++)
        assert_int_equal(races(g, plan, callers[c], none, 0), 0);
    assert_true(g->n_accesses > 300);
    for (uint32_t a = 0; a < plan->schedule.n_actions; a++) {
        const sherd__action *action = &plan->schedule.actions[a];
        for (uint32_t w = 0; w < action->n_waits; w++, ++*waits)
            if (!needed(g, plan, callers, 4, a, w))
                fail_msg("stage %d, %u buckets offloaded, action %u: %s %u needs no wait for %s[%u]",
                         plan->config.zero.stage, n_off, a, sherd__action_name(action->kind), action->bucket,
                         sherd__event_name(action->wait[w].kind), action->wait[w].bucket);
    }
    check_window_waits(g, plan);
    /* The slot wait of the only bucket that is left to the comm stream here; in FULL mode the stream's own order
     * covers it. */
    uint32_t phase = plan->config.gradient_accumulation_steps == 1 ? SHERD__ONLY : SHERD__LAST;
    uint32_t move = plan->schedule.on_ready[phase][0].begin;
    assert_int_equal(plan->schedule.actions[move].flags, SHERD__F_SLOT);
    if (plan->n_matrices == 0) /* those are of several sizes, and the ring has other neighbours */
        assert_int_equal(races(g, plan, 0, move, SHERD__MAX_WAITS) > 0, !plan->full_mode && phase != SHERD__ONLY);
}

static const where places[] = {
    {SHERD_TIER_DEVICE, 0, 0, SHERD_FP32, SHERD_ADAMW, 0}, {SHERD_TIER_HOST, 1, 0, SHERD_FP32, SHERD_ADAMW, 0},
    {SHERD_TIER_HOST, 1, 0, SHERD_BF16, SHERD_ADAMW, 0},   {SHERD_TIER_HOST, 0.5, 0, SHERD_BF16, SHERD_ADAMW, 0},
    {SHERD_TIER_HOST, 1, 1, SHERD_BF16, SHERD_ADAMW, 0},   {SHERD_TIER_HOST, 0.5, 1, SHERD_FP32, SHERD_ADAMW, 0},
    {SHERD_TIER_DISK, 1, 0, SHERD_BF16, SHERD_ADAMW, 0},   {SHERD_TIER_DISK, 1, 0, SHERD_FP32, SHERD_ADAMW, 0},
    {SHERD_TIER_DISK, 0.5, 0, SHERD_FP32, SHERD_ADAMW, 0}, {SHERD_TIER_DEVICE, 0, 0, SHERD_FP32, SHERD_LAMB, 0},
    {SHERD_TIER_DEVICE, 0, 0, SHERD_BF16, SHERD_LAMB, 0},  {SHERD_TIER_HOST, 1, 0, SHERD_BF16, SHERD_LAMB, 0},
    {SHERD_TIER_HOST, 0.5, 0, SHERD_FP32, SHERD_LAMB, 0},  {SHERD_TIER_DISK, 1, 0, SHERD_BF16, SHERD_LAMB, 0},
    {SHERD_TIER_DISK, 1, 0, SHERD_FP32, SHERD_LAMB, 0},    {SHERD_TIER_DISK, 0.5, 0, SHERD_BF16, SHERD_LAMB, 0},
    {SHERD_TIER_DISK, 0.75, 0, SHERD_BF16, SHERD_LAMB, 0}, {SHERD_TIER_DISK, 1, 0, SHERD_BF16, SHERD_LAMB, 3},
    {SHERD_TIER_DISK, 1, 0, SHERD_BF16, SHERD_LAMB, 1},    {SHERD_TIER_DEVICE, 0, 0, SHERD_FP32, SHERD_MUON, 0},
    {SHERD_TIER_DEVICE, 0, 0, SHERD_BF16, SHERD_MUON, 1},  {SHERD_TIER_DEVICE, 0, 0, SHERD_BF16, SHERD_MUON, 2},
    {SHERD_TIER_HOST, 1, 0, SHERD_FP32, SHERD_MUON, 0},    {SHERD_TIER_HOST, 1, 0, SHERD_BF16, SHERD_MUON, 1},
    {SHERD_TIER_HOST, 1, 0, SHERD_BF16, SHERD_MUON, 2},    {SHERD_TIER_HOST, 0.5, 0, SHERD_FP32, SHERD_MUON, 1},
    {SHERD_TIER_HOST, 0.5, 0, SHERD_BF16, SHERD_MUON, 0},  {SHERD_TIER_HOST, 0.75, 0, SHERD_BF16, SHERD_MUON, 2},
    {SHERD_TIER_HOST, 0.75, 0, SHERD_FP32, SHERD_MUON, 0}, {SHERD_TIER_HOST, 0.1, 0, SHERD_BF16, SHERD_MUON, 0},
    {SHERD_TIER_DISK, 1, 0, SHERD_FP32, SHERD_MUON, 0},    {SHERD_TIER_DISK, 1, 0, SHERD_BF16, SHERD_MUON, 1},
    {SHERD_TIER_DISK, 1, 0, SHERD_BF16, SHERD_MUON, 2},    {SHERD_TIER_DISK, 0.5, 0, SHERD_BF16, SHERD_MUON, 0},
    {SHERD_TIER_DISK, 0.75, 0, SHERD_FP32, SHERD_MUON, 2},
};

static void test_waits(void **state)
{
    (void)state;
    graph *g = test_malloc(sizeof *g);
    uint32_t waits = 0;
    for (int32_t stage = 0; stage <= 2; stage++)
        for (int64_t accumulation = 1; accumulation <= 3; accumulation += 2)
            for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
                sherd_plan *plan = make_plan(stage, accumulation, 0, SHERD_WIRE_GRADIENT, &places[i]);
                check_plan(g, plan, &waits);
                sherd_plan_destroy(plan);
            }
    for (int32_t stage = 0; stage < 2; stage++)
        for (size_t i = 0; i < 4; i += 3) {
            sherd_plan *plan = make_plan(stage, 4, 1, SHERD_WIRE_GRADIENT, &places[i]);
            assert_int_equal(plan->carries, 1);
            check_plan(g, plan, &waits);
            sherd_plan_destroy(plan);
        }
    for (int32_t stage = 0; stage <= 2; stage++) /* leaves that are narrowed in their slots: 4 bytes to 2, and 2 to 2 */
        for (size_t i = 0; i < 4; i += 3) {
            sherd_plan *plan =
                make_plan(stage, 1 + 2 * (stage % 2), 0, i ? SHERD_WIRE_FP16 : SHERD_WIRE_BF16, &places[i]);
            assert_true(sherd__bucket_narrowed(&plan->buckets[0]));
            check_plan(g, plan, &waits);
            sherd_plan_destroy(plan);
        }
    assert_true(waits > 400);
    print_message("%u waits, each of them needed\n", waits);
    test_free(g);
}

/* Matrices and others in every order, in waves that lie on one tier or on several: the waits are enough. */
static void test_mixtures(void **state)
{
    (void)state;
    graph *g = test_malloc(sizeof *g);
    uint32_t mixed = 0, in_slots = 0;
    for (uint32_t kinds = 1; kinds < 64; kinds++)
        for (uint32_t i = 0; i < 12; i++) {
            static const sherd_tier tiers[] = {SHERD_TIER_HOST, SHERD_TIER_DISK};
            where where = {tiers[i % 2], (1 + i / 2 % 6) / 6.0, 0, kinds % 2 ? SHERD_FP32 : SHERD_BF16,
                           SHERD_MUON,   1 + (int32_t)(i % 3)};
            make_table table = {.n = 0};
            sherd_plan *plan = NULL;
            sherd_config config = make_config((int32_t)((kinds + i) % 3), 1 + 2 * (i / 3 % 2), 1);
            for (int p = 0; p < 6; p++) {
                sherd_param *param = make_param(&table, 300 + 200 * (p % 3));
                param->dtype = param->grad_dtype = where.dtype;
                param->ndim = kinds >> p & 1 ? 2 : 1;
                param->shape[1] = kinds >> p & 1 ? 2 : 0;
                param->flags = kinds >> p & 1 ? SHERD_PARAM_MUON : 0;
            }
            if (i % 4 > 1)
                make_param(&table, 1 << 16)->flags = SHERD_PARAM_FROZEN; /* large waves */
            place(&config, &where);
            assert_int_equal(sherd_plan_create(&config, table.params, table.n, RANKS, &plan, NULL), SHERD_OK);
            assert_int_equal(plan->n_buckets, 6);
            for (int64_t unused_bucket = NOBODY; unused_bucket < 6; unused_bucket++)
                if (races(g, plan, unused_bucket, UINT32_MAX, 0) > 0)
                    fail_msg("kinds %x, placement %u, bucket %d unused: a wait is missing", kinds, i,
                             (int)unused_bucket);
            for (uint32_t b = 1; b < 6; b++)
                mixed += plan->buckets[b].muon && plan->buckets[b - 1].muon &&
                         plan->buckets[b].wave == plan->buckets[b - 1].wave &&
                         plan->buckets[b].tier != plan->buckets[b - 1].tier;
            in_slots += plan->placement.n_disk > plan->placement.disk_slots;
            sherd_plan_destroy(plan);
        }
    assert_true(mixed > 20 && in_slots > 100);
    print_message("%u waves on two tiers, %u plans with more buckets on disk than slots\n", mixed, in_slots);
    test_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_waits), cmocka_unit_test(test_mixtures)};
    return cmocka_run_group_tests_name("shard/order", tests, NULL, NULL);
}
