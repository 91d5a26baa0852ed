/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/order_graph.h"

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
enum { OTHER_SET = 1 << 20 }; /* elements of a speculated bucket's second set of state lie here */

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

uint64_t graph_races(graph *g, const sherd_plan *plan, int64_t unused_bucket, uint32_t drop_action, uint32_t drop_wait)
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
