/* SPDX-License-Identifier: MIT
 *
 * Are the schedule's waits enough, and is each of them needed? In its graph (order_graph.h) two accesses to the same
 * bytes, one of them a write, must have a path between them. Then each wait is left out in turn, and some pair must lose
 * its path.
 *
 * Callers are tried that use every parameter, and that never touch those of one bucket, whose gradients are zeros then.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/order_graph.h"

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
        found = graph_races(g, plan, NOBODY, a, SHERD__MAX_WAITS);
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
        if (graph_races(g, plan, callers[c], action, wait) > 0)
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
        assert_int_equal(graph_races(g, plan, callers[c], none, 0), 0);
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
        assert_int_equal(graph_races(g, plan, 0, move, SHERD__MAX_WAITS) > 0, !plan->full_mode && phase != SHERD__ONLY);
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
                if (graph_races(g, plan, unused_bucket, UINT32_MAX, 0) > 0)
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
