/* SPDX-License-Identifier: MIT
 *
 * Are the schedule's waits enough, and is each of them needed? Three ranks run three steps of the schedule as a
 * graph: streams, events, collectives and a caller. Two accesses to the same bytes, one of them a write, must have a
 * path between them. Then each wait is left out in turn, and some pair must lose its path.
 *
 * The caller's own waits (parameters before reading, slots before writing, the vote) are the engine's and always
 * kept. Two callers are tried: one that uses every parameter, and one that never touches those of bucket 0, whose
 * gradients are zeros then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/make.h"

enum { RANKS = 3, STEPS = 3, MAX_NODES = 2048, WORDS = MAX_NODES / 64, MAX_ACCESSES = 16384, MAX_BUCKETS = 8 };
enum { MEM_PARAM, MEM_RING, MEM_SUM, MEM_STATE, MEM_NORM, MEM_SCALARS };

typedef struct access {
    uint32_t node;
    int32_t rank, memory, bucket;
    int64_t begin, end;
    int write;
} access;

typedef struct graph {
    const sherd_plan *plan;
    int unused;                      /* bucket 0 is never touched by the caller */
    uint32_t drop_action, drop_wait; /* left out; drop_wait == SHERD__MAX_WAITS: the slot wait of that action */
    uint32_t n_nodes, n_accesses;
    uint64_t before[MAX_NODES][WORDS];
    access accesses[MAX_ACCESSES];
    int32_t last[RANKS][SHERD__STREAMS];
    int32_t event[RANKS][SHERD__EVENTS][MAX_BUCKETS];
    int32_t reader[RANKS][MAX_BUCKETS]; /* the latest node in which that rank read a bucket's leaves */
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
    assert_true(g->n_accesses < MAX_ACCESSES);
    g->accesses[g->n_accesses++] = (access){node, rank, memory, bucket, begin, end, write};
}

static void touch_slot(graph *g, uint32_t node, int32_t rank, uint32_t bucket, int64_t begin, int64_t end, int write)
{
    int64_t base = (int64_t)g->plan->buckets[bucket].ring_offset;
    int64_t bytes = (int64_t)sherd_dtype_bytes(g->plan->buckets[bucket].grad_dtype);
    touch(g, node, rank, MEM_RING, 0, base + begin * bytes, base + end * bytes, write);
}

static int64_t content(const graph *g, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    const sherd__plan_param *param = &g->plan->params[g->plan->order[of->first + of->count - 1]];
    return param->offset + param->elems;
}

static int unused(const graph *g, uint32_t bucket)
{
    return g->unused && bucket == 0;
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
           kind == SHERD__ACT_VOTE || kind == SHERD__ACT_GATHER;
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

static void touch_reduce(graph *g, uint32_t node, int32_t rank, const sherd__action *action)
{
    const sherd__bucket *bucket = &g->plan->buckets[action->bucket];
    int64_t begin = rank * bucket->slice_elems, end = begin + bucket->slice_elems;
    for (int32_t q = 0; q < RANKS; q++)
        if (action->kind == SHERD__ACT_REDUCE)
            touch_slot(g, node, q, action->bucket, begin, end, 0);
        else
            touch(g, node, q, MEM_SUM, (int32_t)action->bucket, begin, end, 0);
    touch(g, node, rank, MEM_SUM, (int32_t)action->bucket, begin, end, 1);
    if (action->flags & SHERD__F_FINAL)
        touch(g, node, rank, MEM_NORM, 0, 0, 1, 1);
}

static void touch_update(graph *g, uint32_t node, int32_t rank, uint32_t bucket)
{
    const sherd__bucket *of = &g->plan->buckets[bucket];
    int64_t begin = g->plan->whole_state ? 0 : rank * of->slice_elems;
    int64_t end = g->plan->whole_state ? of->elems : begin + of->slice_elems;
    touch(g, node, rank, MEM_SCALARS, 0, 0, 1, 0);
    touch(g, node, rank, MEM_SUM, (int32_t)bucket, begin, end, 0);
    touch(g, node, rank, MEM_STATE, (int32_t)bucket, begin, end, 1);
    touch(g, node, rank, MEM_PARAM, (int32_t)bucket, begin, end, 1);
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
    case SHERD__ACT_REDUCE:
        g->reader[rank][action->bucket] = (int32_t)node;
        touch_reduce(g, node, rank, action);
        break;
    case SHERD__ACT_REDUCE_OWN: touch_reduce(g, node, rank, action); break;
    case SHERD__ACT_ACCUMULATE:
        g->reader[rank][action->bucket] = (int32_t)node;
        touch_slot(g, node, rank, action->bucket, 0, bucket->elems, 0);
        touch(g, node, rank, MEM_SUM, (int32_t)action->bucket, 0, bucket->elems, 1);
        break;
    case SHERD__ACT_GATHER_SUMS: touch_gather(g, node, rank, MEM_SUM, action->bucket); break;
    case SHERD__ACT_VOTE: touch(g, node, rank, MEM_NORM, 0, 0, 1, 1); break;
    case SHERD__ACT_SCALARS:
        touch(g, node, rank, MEM_NORM, 0, 0, 1, 0);
        touch(g, node, rank, MEM_SCALARS, 0, 0, 1, 1);
        break;
    case SHERD__ACT_UPDATE: touch_update(g, node, rank, action->bucket); break;
    case SHERD__ACT_GATHER: touch_gather(g, node, rank, MEM_PARAM, action->bucket); break;
    case SHERD__ACTIONS: fail();
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
    return node;
}

static void run_action(graph *g, uint32_t index)
{
    const sherd__action *action = &g->plan->schedule.actions[index];
    uint32_t node[RANKS], arrived[RANKS];
    for (int32_t r = 0; r < RANKS; r++)
        node[r] = arrived[r] = arrive(g, r, index);
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

static void run_step(graph *g)
{
    int64_t accumulation = g->plan->config.gradient_accumulation_steps;
    for (int64_t k = 0; k < accumulation; k++) {
        for (uint32_t left = g->plan->n_buckets; left > 0; left--)
            for (int32_t r = 0; r < RANKS && !unused(g, left - 1); r++)
                read_params(g, r, left - 1);
        for (uint32_t b = 0; b < g->plan->n_buckets; b++)
            backward(g, b, sherd__phase_of(k, accumulation));
    }
    for (int32_t r = 0; r < RANKS; r++)
        g->event[r][SHERD__EV_CLOSED][0] = (int32_t)add_node(g, r, SHERD__COMPUTE);
    run_range(g, g->plan->schedule.boundary);
    for (int32_t r = 0; r < RANKS; r++)
        after(g, add_node(g, r, SHERD__COMPUTE), g->event[r][SHERD__EV_VOTED][0]);
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

static uint64_t races(graph *g, const sherd_plan *plan, int unused_bucket, uint32_t drop_action, uint32_t drop_wait)
{
    uint64_t found = 0;
    memset(g, 0, sizeof *g);
    memset(g->last, -1, sizeof g->last);
    memset(g->event, -1, sizeof g->event);
    memset(g->reader, -1, sizeof g->reader);
    g->plan = plan;
    g->unused = unused_bucket;
    g->drop_action = drop_action;
    g->drop_wait = drop_wait;
    for (int s = 0; s < STEPS; s++)
        run_step(g);
    for (uint32_t i = 0; i < g->n_accesses; i++)
        for (uint32_t j = 0; j < i; j++)
            found +=
                conflict(&g->accesses[i], &g->accesses[j]) && !ordered(g, g->accesses[i].node, g->accesses[j].node);
    return found;
}

static sherd_plan *make_plan(int32_t stage, int64_t accumulation)
{
    make_table table = {.n = 0};
    sherd_plan *plan = NULL;
    sherd_config config = make_config(stage, accumulation, 1);
    for (int i = 0; i < 4; i++)
        make_param(&table, 700);
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, RANKS, &plan, NULL), SHERD_OK);
    assert_int_equal(plan->n_buckets, 4);
    assert_true(plan->ring_bytes < 4 * plan->buckets[0].ring_bytes); /* a slot is taken over within a micro-step */
    return plan;
}

static void check_plan(graph *g, const sherd_plan *plan, uint32_t *waits)
{
    const uint32_t none = UINT32_MAX;
    assert_int_equal(races(g, plan, 0, none, 0), 0);
    assert_int_equal(races(g, plan, 1, none, 0), 0);
    assert_true(g->n_accesses > 300);
    for (uint32_t a = 0; a < plan->schedule.n_actions; a++) {
        const sherd__action *action = &plan->schedule.actions[a];
        for (uint32_t w = 0; w < action->n_waits; w++, ++*waits)
            if (races(g, plan, 0, a, w) + races(g, plan, 1, a, w) == 0)
                fail_msg("stage %d, action %u: %s %u needs no wait for %s[%u]", plan->config.zero.stage, a,
                         sherd__action_name(action->kind), action->bucket, sherd__event_name(action->wait[w].kind),
                         action->wait[w].bucket);
    }
    /* The slot wait of the only bucket that is left to the comm stream here; in FULL mode the stream's own order
     * covers it. */
    uint32_t phase = plan->config.gradient_accumulation_steps == 1 ? SHERD__ONLY : SHERD__LAST;
    uint32_t move = plan->schedule.on_ready[phase][0].begin;
    assert_int_equal(plan->schedule.actions[move].flags, SHERD__F_SLOT);
    assert_int_equal(races(g, plan, 1, move, SHERD__MAX_WAITS) > 0, !plan->full_mode && phase != SHERD__ONLY);
}

static void test_waits(void **state)
{
    (void)state;
    graph *g = test_malloc(sizeof *g);
    uint32_t waits = 0;
    for (int32_t stage = 0; stage <= 2; stage++)
        for (int64_t accumulation = 1; accumulation <= 3; accumulation++) {
            sherd_plan *plan = make_plan(stage, accumulation);
            check_plan(g, plan, &waits);
            sherd_plan_destroy(plan);
        }
    assert_true(waits > 80);
    print_message("%u waits, each of them needed\n", waits);
    test_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_waits)};
    return cmocka_run_group_tests_name("shard/order", tests, NULL, NULL);
}
