/* SPDX-License-Identifier: MIT
 *
 * What others read of a plan: its hash, its text, and the list of actions.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/make.h"

static void hash_of(const sherd_config *config, const make_table *table, int32_t world, uint8_t out[16])
{
    sherd_plan *plan = NULL;
    sherd_error err = {0};
    if (sherd_plan_create(config, table->params, table->n, world, &plan, &err))
        fail_msg("%s", err.text);
    sherd_plan_hash(plan, out);
    sherd_plan_destroy(plan);
}

/* Into the caller's table, which holds the names too and so cannot be copied. */
static void three_params(make_table *table)
{
    table->n = 0;
    for (int i = 0; i < 3; i++)
        make_param(table, 1000);
}

static sherd_config two_groups(void)
{
    sherd_config config = make_config(1, 2, 2000);
    config.n_groups = 2;
    config.groups[0] = (sherd_group){.lr = 0.1, .weight_decay = 0.01};
    config.groups[1] = (sherd_group){.lr = 0.2, .weight_decay = 0};
    config.scheduler.kind = SHERD_SCHED_WARMUP;
    config.scheduler.warmup_num_steps = 10;
    config.scheduler.total_num_steps = 100;
    return config;
}

static void must_differ(const uint8_t base[16], const sherd_config *config, const make_table *table, int32_t world,
                        const char *what)
{
    uint8_t hash[16];
    hash_of(config, table, world, hash);
    if (!memcmp(hash, base, 16))
        fail_msg("the hash does not notice a change of %s", what);
}

#define CONFIG_CHANGES(X)                                                                                            \
    X(train_micro_batch_size_per_gpu = 2)                                                                            \
    X(gradient_accumulation_steps = 3)                                                                               \
    X(gradient_clipping = 0.5)                                                                                       \
    X(gradient_predivide_factor = 2)                                                                                 \
    X(prescale_gradients = 1)                                                                                        \
    X(allreduce_sum = 1)                                                                                             \
    X(reproducible = 1)                                                                                              \
    X(replan = 1)                                                                                                    \
    X(wire = SHERD_WIRE_BF16)                                                                                        \
    X(dtype = SHERD_BF16)                                                                                            \
    X(check_grad_overflow ^= 1)                                                                                      \
    X(zero.stage = 2)                                                                                                \
    X(zero.reduce_bucket_size = 1999)                                                                                \
    X(zero.allgather_bucket_size = 12345)                                                                            \
    X(zero.overlap_comm ^= 1)                                                                                        \
    X(zero.ignore_unused_parameters ^= 1)                                                                            \
    X(optimizer.kind = SHERD_ADAM)                                                                                   \
    X(optimizer.lr *= 2)                                                                                             \
    X(optimizer.beta1 = 0.5)                                                                                         \
    X(optimizer.beta2 = 0.5)                                                                                         \
    X(optimizer.eps = 1e-3)                                                                                          \
    X(optimizer.weight_decay += 1)                                                                                   \
    X(optimizer.momentum = 0.25)                                                                                     \
    X(optimizer.bias_correction ^= 1)                                                                                \
    X(scheduler.kind = SHERD_SCHED_WARMUP_DECAY)                                                                     \
    X(scheduler.warmup_min_lr += 0.5)                                                                                \
    X(scheduler.warmup_max_lr += 0.5)                                                                                \
    X(scheduler.warmup_min_ratio += 0.5)                                                                             \
    X(scheduler.cos_min_ratio += 0.5)                                                                                \
    X(scheduler.warmup_num_steps = 11)                                                                               \
    X(scheduler.total_num_steps = 101)                                                                               \
    X(scheduler.warmup_linear ^= 1)                                                                                  \
    X(n_groups = 1)                                                                                                  \
    X(groups[1].lr = 0.3)                                                                                            \
    X(groups[0].weight_decay = 0.3)                                                                                  \
    X(sherd.grad_sum_bf16 = 1)                                                                                       \
    X(moments_bf16 = 1)                                                                                              \
    X(master_remainder = 1)                                                                                          \
    X(sherd.exact_bucket_size = 0)                                                                                   \
    X(transport.kind = SHERD_TRANSPORT_NCCL)

#define PARAM_CHANGES(X)                                                                                             \
    X(name = "other")                                                                                                \
    X(shape[0] = 1001)                                                                                               \
    X(ndim = 0)                                                                                                      \
    X(dtype = SHERD_BF16)                                                                                            \
    X(group = 1)                                                                                                     \
    X(uses = 2)                                                                                                      \
    X(flags = SHERD_PARAM_FROZEN)

static void test_hash_notices(void **state)
{
    (void)state;
    uint8_t base[16];
    make_table table;
    sherd_config config = two_groups();
    three_params(&table);
    hash_of(&config, &table, 2, base);
    must_differ(base, &config, &table, 3, "the world");
#define X(change)                                                                                                    \
    {                                                                                                                \
        sherd_config changed = config;                                                                               \
        changed.change;                                                                                              \
        must_differ(base, &changed, &table, 2, #change);                                                             \
    }
    CONFIG_CHANGES(X)
#undef X
#define X(change)                                                                                                    \
    for (int i = 0; i < 3; i++) {                                                                                    \
        make_table changed;                                                                                          \
        three_params(&changed);                                                                                      \
        changed.params[i].change;                                                                                    \
        must_differ(base, &config, &changed, 2, #change);                                                            \
    }
    PARAM_CHANGES(X)
#undef X
    table.n = 2;
    must_differ(base, &config, &table, 2, "the number of parameters");
    three_params(&table);
    for (int i = 0; i < 3; i++)
        table.params[i].dtype = SHERD_BF16;
    hash_of(&config, &table, 2, base);
    table.params[2].grad_dtype = SHERD_BF16;
    must_differ(base, &config, &table, 2, "a gradient's type");
    three_params(&table);
    hash_of(&config, &table, 2, base);
    table.params[0].shape[0] = 40; /* the same number of elements in another shape */
    table.params[0].shape[1] = 25;
    table.params[0].ndim = 2;
    must_differ(base, &config, &table, 2, "a shape");
}

/* Equal plans, and what one rank may set differently from another. */
static void test_hash_ignores(void **state)
{
    (void)state;
    uint8_t base[16], same[16];
    make_table table, again;
    sherd_config config = two_groups();
    three_params(&table);
    three_params(&again);
    hash_of(&config, &table, 2, base);
    config.steps_per_print = 1;
    config.wall_clock_breakdown ^= 1;
    config.memory_breakdown ^= 1;
    config.sherd.warn_after_s = 1;
    config.sherd.fail_after_s = 2;
    config.train_batch_size = 4; /* what would be inferred */
    config.groups[7].lr = 3;     /* not in use */
    again.params[1].uses = 1;    /* 0 counts as 1 */
    again.params[2].shape[5] = 9;
    hash_of(&config, &again, 2, same);
    assert_memory_equal(base, same, 16);
}

/* Calls twice, as the header says; short buffers get a terminated beginning. */
static char *text_of(const sherd_plan *plan)
{
    size_t length = sherd_plan_text(plan, NULL, 0);
    char *text = test_malloc(length + 1);
    assert_int_equal(sherd_plan_text(plan, text, length + 1), length);
    assert_int_equal(strlen(text), length);
    for (size_t capacity = 1; capacity < 40; capacity++) {
        char start[41];
        memset(start, 'x', sizeof start);
        assert_int_equal(sherd_plan_text(plan, start, capacity), length);
        assert_int_equal(strlen(start), capacity - 1);
        assert_memory_equal(start, text, capacity - 1);
        assert_int_equal(start[capacity], 'x');
    }
    return text;
}

static void check_text(int32_t stage, int64_t accumulation, sherd_wire wire, const char *const *parts)
{
    make_table table;
    sherd_config config = make_config(stage, accumulation, 1);
    sherd_plan *plan = NULL;
    config.wire = wire;
    three_params(&table);
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
    char *text = text_of(plan), *at = text;
    for (; *parts; parts++) {
        char *found = strstr(at, *parts);
        if (!found)
            fail_msg("'%s' is missing, or not in its place, in:\n%s", *parts, text);
        at = found + 1;
    }
    test_free(text);
    sherd_plan_destroy(plan);
}

static void test_text(void **state)
{
    (void)state;
    static const char *const stage2[] = {"ranks 2, ZeRO stage 2, micro-steps 1",
                                         "parameters 3, elements 3000, buckets 3",
                                         "buckets, in order",
                                         "1024",
                                         "ring: 12288 bytes",
                                         "parameters                    12288",
                                         "moments                       12288",
                                         "total",
                                         "reads a bucket's parameters after gathered[bucket]",
                                         "in the only micro-step",
                                         "comm    move        0 slot  waits ready[0]",
                                         "comm    pads        0",
                                         "comm    reduce      0 assign final  records reduced[0]",
                                         "comm    move        2 slot  waits ready[2]",
                                         "at the step's end",
                                         "comm    vote",
                                         "comm    scalars      records voted",
                                         "update  update      2  waits voted, closed  records updated[2]",
                                         "comm    gather      2  waits updated[2]  records gathered[2]",
                                         "update  update      0  records updated[0]",
                                         "comm    gather      0  waits updated[0]  records gathered[0]",
                                         NULL};
    static const char *const stage0[] = {"ZeRO stage 0, micro-steps 3",
                                         "parameters after updated[bucket]",
                                         "in the first micro-step",
                                         "accumulate  0 assign  waits updated[0]  records reduced[0]",
                                         "accumulate  1 assign  records reduced[1]",
                                         "in each micro-step between",
                                         "accumulate  0  records reduced[0]",
                                         "in the last micro-step",
                                         "accumulate  0  records reduced[0]",
                                         "reduce_own  0 assign final",
                                         "gather_sums 0",
                                         "at the step's end",
                                         "update      2  waits voted, closed",
                                         NULL};
    static const char *const narrowed[] = {"ring: 12288 bytes\n",
                                           "leaves: 3 of 3 buckets are narrowed to bf16 in their slots",
                                           "12288 bytes come and 6144 are read",
                                           "comm    pads        0",
                                           "comm    narrow      0\n",
                                           "comm    reduce      0",
                                           NULL};
    check_text(2, 1, SHERD_WIRE_GRADIENT, stage2);
    check_text(0, 3, SHERD_WIRE_FP32, stage0);
    check_text(2, 1, SHERD_WIRE_BF16, narrowed);
}

/* ------------------------------------------------------------------------------------------- the list of actions */

/* The kinds of a range as one letter each: M P R A O S V C U G, and + for carry. */
static void check_kinds(const sherd_plan *plan, sherd__range range, const char *want)
{
    static const char letters[] = "MPRAOSVCUG......+...N";
    char got[64] = {0};
    assert_true(range.end - range.begin < sizeof got);
    for (uint32_t a = range.begin; a < range.end; a++)
        got[a - range.begin] = letters[plan->schedule.actions[a].kind];
    assert_string_equal(got, want);
}

typedef struct shape {
    int32_t stage;
    int64_t accumulation;
    const char *phase[SHERD__PHASES];
    const char *boundary;
    int32_t reproducible;
    sherd_wire wire; /* of fp32 gradients */
} shape;

static void check_flags(const sherd_plan *plan, uint32_t phase, sherd__range range)
{
    int first = phase == SHERD__ONLY || phase == SHERD__FIRST, last = phase == SHERD__ONLY || phase == SHERD__LAST;
    for (uint32_t a = range.begin; a < range.end; a++) {
        const sherd__action *action = &plan->schedule.actions[a];
        uint32_t want = 0;
        if (action->kind == SHERD__ACT_MOVE)
            want = SHERD__F_SLOT;
        if (action->kind == SHERD__ACT_CARRY)
            want = (last ? SHERD__F_DRAIN : 0) | (last && !plan->full_mode ? SHERD__F_FINAL : 0);
        if (action->kind == SHERD__ACT_REDUCE || action->kind == SHERD__ACT_ACCUMULATE)
            want |= (plan->carries && !first ? SHERD__F_COUNT : 0) |
                    (first ? SHERD__F_ASSIGN : 0) | (last && !plan->full_mode ? SHERD__F_FINAL : 0);
        if (action->kind == SHERD__ACT_REDUCE_OWN)
            want = SHERD__F_ASSIGN | SHERD__F_FINAL;
        assert_int_equal(action->flags, want);
        assert_int_equal(action->stream, SHERD__COMM);
    }
}

static void test_actions(void **state)
{
    (void)state;
    static const shape shapes[] = {
        {2, 1, {"MPR", "", "", ""}, "VCUGUGUG", 0, SHERD_WIRE_GRADIENT},
        {2, 2, {"MPR", "MPR", "", "MPR"}, "VCUGUGUG", 0, SHERD_WIRE_GRADIENT},
        {2, 3, {"MPR", "MPR", "MPR", "MPR"}, "VCUGUGUG", 0, SHERD_WIRE_GRADIENT},
        {1, 1, {"MPR", "", "", ""}, "VCUGUGUG", 0, SHERD_WIRE_GRADIENT},
        {1, 2, {"MPAO", "MPA", "", "MPAO"}, "VCUGUGUG", 0, SHERD_WIRE_GRADIENT},
        {1, 3, {"MPAO", "MPA", "MPA", "MPAO"}, "VCUGUGUG", 0, SHERD_WIRE_GRADIENT},
        {0, 1, {"MPRS", "", "", ""}, "VCUUU", 0, SHERD_WIRE_GRADIENT},
        {0, 2, {"MPAOS", "MPA", "", "MPAOS"}, "VCUUU", 0, SHERD_WIRE_GRADIENT},
        {0, 3, {"MPAOS", "MPA", "MPA", "MPAOS"}, "VCUUU", 0, SHERD_WIRE_GRADIENT},
        {2, 1, {"MPR", "", "", ""}, "VCUGUGUG", 1, SHERD_WIRE_GRADIENT},
        {2, 2, {"", "MPR", "", "MPR"}, "VCUGUGUG", 1, SHERD_WIRE_GRADIENT},
        {2, 3, {"", "MPR", "MPR+", "MPR+"}, "VCUGUGUG", 1, SHERD_WIRE_GRADIENT},
        {1, 4, {"", "MPA", "MPA+", "MPA+O"}, "VCUGUGUG", 1, SHERD_WIRE_GRADIENT},
        {0, 4, {"", "MPA", "MPA+", "MPA+OS"}, "VCUUU", 1, SHERD_WIRE_GRADIENT},
        {2, 2, {"MPNR", "MPNR", "", "MPNR"}, "VCUGUGUG", 0, SHERD_WIRE_BF16},
        {2, 1, {"MPR", "", "", ""}, "VCUGUGUG", 0, SHERD_WIRE_FP32},
        {0, 3, {"MPNAOS", "MPNA", "MPNA", "MPNAOS"}, "VCUUU", 0, SHERD_WIRE_FP16},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        make_table table;
        sherd_config config = make_config(shapes[i].stage, shapes[i].accumulation, 1);
        sherd_plan *plan = NULL;
        uint32_t covered = 0;
        config.reproducible = shapes[i].reproducible;
        config.wire = shapes[i].wire;
        three_params(&table);
        assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
        for (uint32_t phase = 0; phase < SHERD__PHASES; phase++)
            for (uint32_t b = 0; b < 3; b++) {
                sherd__range range = plan->schedule.on_ready[phase][b];
                check_kinds(plan, range, shapes[i].phase[phase]);
                check_flags(plan, phase, range);
                for (uint32_t a = range.begin; a < range.end; a++)
                    assert_int_equal(plan->schedule.actions[a].bucket, b);
                covered += range.end - range.begin;
            }
        check_kinds(plan, plan->schedule.boundary, shapes[i].boundary);
        covered += plan->schedule.boundary.end - plan->schedule.boundary.begin;
        assert_int_equal(covered, plan->schedule.n_actions);
        assert_int_equal(plan->schedule.acquire_wait, shapes[i].stage ? SHERD__EV_GATHERED : SHERD__EV_UPDATED);
        sherd_plan_destroy(plan);
    }
}

static void test_phases(void **state)
{
    (void)state;
    assert_int_equal(sherd__phase_of(0, 1), SHERD__ONLY);
    assert_int_equal(sherd__phase_of(0, 2), SHERD__FIRST);
    assert_int_equal(sherd__phase_of(1, 2), SHERD__LAST);
    assert_int_equal(sherd__phase_of(1, 3), SHERD__MIDDLE);
    assert_string_equal(sherd__action_name(SHERD__ACT_GATHER_SUMS), "gather_sums");
    assert_string_equal(sherd__event_name(SHERD__EV_VOTED), "voted");
    assert_string_equal(sherd__action_name(SHERD__ACTIONS), "unknown");
    assert_string_equal(sherd__event_name(SHERD__EV_NONE), "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_notices), cmocka_unit_test(test_hash_ignores), cmocka_unit_test(test_text),
        cmocka_unit_test(test_actions),      cmocka_unit_test(test_phases),
    };
    return cmocka_run_group_tests_name("shard/report", tests, NULL, NULL);
}
