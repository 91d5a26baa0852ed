/* SPDX-License-Identifier: MIT
 *
 * No deadlock, no overwritten slot, no lost gradient: every reachable state of up to three ranks, five buckets and
 * three slots, with parameters that are used several times or not at all. Rules broken on purpose must be found out
 * by the same explorer.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/explore.h"
#include "tests/shard/make.h"

typedef struct scenario {
    const char *name;
    const char *uses; /* one digit per parameter, in bucket order */
    int64_t bucket;   /* parameters of 256 elements per bucket */
    uint32_t slots;
    int32_t ranks, micro_steps, accumulation;
    const char *may_miss; /* likewise in bucket order: 'x' may miss */
    int copies, eager;
} scenario;

static sherd_plan *plan_of(const scenario *s)
{
    make_table table = {.n = 0};
    sherd_config config = make_config(2, s->accumulation, 256 * s->bucket);
    sherd_plan *plan = NULL;
    for (size_t i = strlen(s->uses); i > 0; i--)
        make_param(&table, 256)->uses = (uint32_t)(s->uses[i - 1] - '0');
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 1, &plan, NULL), SHERD_OK);
    assert_true(plan->n_buckets <= EXPLORE_BUCKETS && plan->n_params <= EXPLORE_PARAMS);
    if (s->slots)
        explore_relayout(plan, s->slots);
    return plan;
}

typedef enum sabotage {
    NOTHING,
    BLIND,        /* not a sabotage: the explorer looks for the deadlock alone */
    HASTY_BUCKET, /* a bucket starts one gradient too early */
    STALE_FORMER  /* a slot's former user is taken for that of the former micro-step */
} sabotage;

static explore_result run(const scenario *s, explore_rule rule, sabotage how)
{
    explore_result result;
    sherd_plan *plan = plan_of(s);
    explore_model model = {.plan = plan,
                           .ranks = s->ranks,
                           .micro_steps = s->micro_steps,
                           .accumulation = s->accumulation,
                           .copies = s->copies,
                           .eager = s->eager,
                           .rule = rule,
                           .blind = how == BLIND};
    for (uint32_t i = 0; s->may_miss && s->may_miss[i]; i++)
        model.may_miss |= s->may_miss[i] == 'x' ? 1u << plan->order[i] : 0;
    if (how == HASTY_BUCKET)
        plan->buckets[0].contributions--;
    if (how == STALE_FORMER)
        plan->buckets[plan->n_buckets - 1].ring_after_previous = 1;
    assert_int_equal(explore(&model, &result), 1);
    sherd_plan_destroy(plan);
    return result;
}

static const scenario scenarios[] = {
    /* name, uses, bucket, slots, ranks, micro-steps, accumulation, may miss, copies, eager */
    {"1 rank, 5 buckets, 3 slots", "11111", 1, 3, 1, 3, 3, NULL, 0, 0},
    {"1 rank, all may miss", "11111", 1, 3, 1, 2, 1, "xxxxx", 0, 0},
    {"2 ranks, 3 buckets, 1 slot", "111", 1, 1, 2, 2, 2, NULL, 0, 0},
    {"2 ranks, 3 buckets, 2 slots", "111", 1, 2, 2, 2, 2, NULL, 0, 0},
    {"2 ranks, 3 buckets, a vote each", "111", 1, 2, 2, 2, 1, NULL, 0, 0},
    {"2 ranks, any may miss", "111", 1, 2, 2, 2, 2, "xxx", 0, 0},
    {"2 ranks, one used twice", "121", 1, 2, 2, 2, 2, "..x", 0, 0},
    {"2 ranks, two parameters to a bucket", "1121", 2, 1, 2, 2, 2, "x...", 0, 0},
    {"2 ranks, 5 buckets, 3 slots", "11111", 1, 3, 2, 1, 1, NULL, 0, 0},
    {"2 ranks, 5 buckets, 2 slots", "11111", 1, 2, 2, 2, 2, NULL, 0, 1},
    {"3 ranks, 3 buckets, 2 slots", "111", 1, 2, 3, 2, 2, NULL, 0, 1},
    {"3 ranks, 3 buckets, used twice or missing", "121", 1, 2, 3, 2, 2, "x.x", 1, 1},
    {"3 ranks, 5 buckets, 3 slots", "11111", 1, 3, 3, 2, 2, NULL, 1, 1},
    {"3 ranks, 5 buckets, 3 slots, a vote each", "11121", 1, 3, 3, 2, 1, "x...x", 1, 1},
};

/* With separate calls of acquire and ready, and streams that dawdle, where the quick ones take them together. */
static const scenario large[] = {
    {"2 ranks, 4 buckets, 3 slots, lazy streams", "1111", 1, 3, 2, 2, 2, NULL, 0, 0},
    {"3 ranks, 3 buckets, 2 slots, lazy streams", "111", 1, 2, 3, 2, 2, NULL, 0, 0},
    {"3 ranks, 4 buckets, 3 slots, 2 micro-steps", "1111", 1, 3, 3, 2, 2, NULL, 0, 1},
    {"3 ranks, 5 buckets, 3 slots", "11111", 1, 3, 3, 1, 1, NULL, 0, 1},
    {"3 ranks, 3 buckets, any may miss", "111", 1, 2, 3, 2, 2, "xxx", 0, 0},
    {"3 ranks, 3 buckets, one used twice", "121", 1, 2, 3, 2, 1, ".x.", 0, 1},
};

static void explore_all(const scenario *list, size_t n)
{
    uint64_t states = 0, waits = 0, parks = 0;
    for (size_t i = 0; i < n; i++) {
        explore_result result = run(&list[i], EXPLORE_AS_BUILT, NOTHING);
        print_message("%-44s %8llu states, %9llu moves, %8llu waits, %8llu parked\n", list[i].name,
                      (unsigned long long)result.states, (unsigned long long)result.moves,
                      (unsigned long long)result.waits, (unsigned long long)result.parks);
        assert_int_equal(result.outcome, EXPLORE_FINE);
        assert_true(result.ends > 0);
        states += result.states;
        waits += result.waits;
        parks += result.parks;
    }
    assert_true(waits > 1000 && parks > 1000);
    print_message("%llu states in all, none without a move but the end\n", (unsigned long long)states);
}

static void test_no_deadlock(void **state)
{
    (void)state;
    explore_all(scenarios, sizeof scenarios / sizeof scenarios[0]);
}

static void test_large(void **state)
{
    (void)state;
    explore_all(large, sizeof large / sizeof large[0]);
}

static void test_broken_rules(void **state)
{
    (void)state;
    static const scenario alone = {"", "111", 1, 1, 1, 1, 1, NULL, 0, 0},
                          pair = {"", "111", 1, 2, 2, 2, 2, NULL, 0, 0};
    static const scenario missing = {"", "111", 1, 2, 2, 2, 2, "xxx", 0, 0},
                          twice = {"", "121", 2, 2, 1, 1, 1, NULL, 0, 0};
    const struct {
        const scenario *of;
        explore_rule rule;
        sabotage how;
        explore_outcome want;
    } cases[] = {
        {&alone, EXPLORE_AS_BUILT, NOTHING, EXPLORE_FINE},
        {&alone, EXPLORE_WAIT_FOR_PARK, BLIND, EXPLORE_DEADLOCK},
        {&pair, EXPLORE_WAIT_FOR_PARK, BLIND, EXPLORE_DEADLOCK},
        {&pair, EXPLORE_WAIT_FOR_PARK, NOTHING, EXPLORE_WAITS_ON_CALLER},
        {&pair, EXPLORE_SLOT_FOR_WAIT, NOTHING, EXPLORE_OVERWRITE},
        {&missing, EXPLORE_EARLY_START, NOTHING, EXPLORE_OVERWRITE},
        {&twice, EXPLORE_AS_BUILT, NOTHING, EXPLORE_FINE},
        {&twice, EXPLORE_AS_BUILT, HASTY_BUCKET, EXPLORE_GRADIENT_LOST},
        {&pair, EXPLORE_AS_BUILT, STALE_FORMER, EXPLORE_OVERWRITE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (run(cases[i].of, cases[i].rule, cases[i].how).outcome != cases[i].want)
            fail_msg("case %zu was not judged as %d", i, (int)cases[i].want);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest quick[] = {cmocka_unit_test(test_broken_rules), cmocka_unit_test(test_no_deadlock)};
    const struct CMUnitTest full[] = {cmocka_unit_test(test_large)};
    if (argc > 1 && !strcmp(argv[1], "full"))
        return cmocka_run_group_tests_name("shard/deadlock, full", full, NULL, NULL);
    return cmocka_run_group_tests_name("shard/deadlock", quick, NULL, NULL);
}
