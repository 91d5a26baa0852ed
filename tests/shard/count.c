/* SPDX-License-Identifier: MIT
 *
 * The counter joins micro-steps into the one tree that the recursion gives, within the places the plan reports; and
 * where no such tree can be had, the plan says so.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/make.h"

enum { MOST = 300, PLACES = 16 };

/* A sum that remembers its shape: any other tree over the same numbers gives another value. */
static uint64_t joined(uint64_t low, uint64_t high)
{
    uint64_t mix = (low ^ 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
    return (mix ^ mix >> 29) * 0x94D049BB133111EBu + high * 0x2545F4914F6CDD1Du + (high >> 31);
}

/* sum(l, h) = sum(l, l + p) + sum(l + p, h), p the largest power of two below h - l. */
static uint64_t tree(int64_t low, int64_t high)
{
    int64_t power = 1;
    if (high - low == 1)
        return (uint64_t)low + 1;
    while (power * 2 < high - low)
        power *= 2;
    return joined(tree(low, low + power), tree(low + power, high));
}

static uint64_t counted(int64_t steps, uint32_t *highest)
{
    uint64_t places[PLACES] = {0};
    *highest = 0;
    for (int64_t k = 0; k < steps; k++) {
        sherd__count count = sherd__plan_count(k);
        uint32_t joins = k == steps - 1 ? count.place : count.joins;
        assert_true(count.place < PLACES && count.joins <= count.place);
        *highest = count.place > *highest ? count.place : *highest;
        places[count.place] = count.assign ? (uint64_t)k + 1 : joined(places[count.place], (uint64_t)k + 1);
        for (uint32_t place = count.place; joins > 0; joins--, place--)
            places[place - 1] = joined(places[place - 1], places[place]);
    }
    return places[0];
}

static void test_counter_is_the_tree(void **state)
{
    (void)state;
    for (int64_t steps = 1; steps <= MOST; steps++) {
        uint32_t highest;
        assert_true(counted(steps, &highest) == tree(0, steps));
        assert_int_equal(highest, sherd__plan_carries(steps));
        if (steps > 2)
            assert_true((int64_t)1 << sherd__plan_carries(steps) < steps); /* fewer places than the number has digits */
    }
    assert_int_equal(sherd__plan_carries((int64_t)1 << 40), 39);
}

static void test_bytes(void **state)
{
    (void)state;
    for (int32_t stage = 0; stage < 3; stage++) {
        make_table table = {.n = 0};
        sherd_config config = make_config(stage, 8, 1);
        sherd_memory usual, more;
        sherd_plan *plan;
        make_param(&table, 700);
        make_param(&table, 5000);
        assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
        sherd_plan_memory(plan, 0, &usual);
        sherd_plan_destroy(plan);
        config.reproducible = 1;
        assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
        sherd_plan_memory(plan, 0, &more);
        sherd_plan_destroy(plan);
        assert_int_equal(more.bytes[0][SHERD_CAT_GRAD_SUMS], 3 * usual.bytes[0][SHERD_CAT_GRAD_SUMS]);
        assert_int_equal(sherd_memory_total(&more, SHERD_TIER_DEVICE) - sherd_memory_total(&usual, SHERD_TIER_DEVICE),
                         2 * usual.bytes[0][SHERD_CAT_GRAD_SUMS]);
    }
}

static void test_refusals(void **state)
{
    static const struct {
        int32_t stage, world;
        int64_t steps;
        const char *says;
    } rows[] = {{2, 3, 2, "the 3 of each micro-step"}, {2, 3, 1, NULL}, {2, 4, 3, NULL},      {2, 1, 3, NULL},
                {1, 2, 3, "the 3 of each rank"},       {1, 3, 4, NULL}, {0, 6, 12, "the 12"}, {0, 1, 12, NULL}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        make_table table = {.n = 0};
        sherd_config config = make_config(rows[i].stage, rows[i].steps, 1);
        sherd_plan *plan = NULL;
        sherd_error err = {0};
        make_param(&table, 700);
        config.reproducible = 1;
        sherd_status status = sherd_plan_create(&config, table.params, table.n, rows[i].world, &plan, &err);
        assert_int_equal(status, rows[i].says ? SHERD_EINVAL : SHERD_OK);
        if (rows[i].says && !strstr(err.text, rows[i].says))
            fail_msg("'%s' is not in '%s'", rows[i].says, err.text);
        sherd_plan_destroy(plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counter_is_the_tree), cmocka_unit_test(test_bytes),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests_name("shard/count", tests, NULL, NULL);
}
