/* SPDX-License-Identifier: MIT
 *
 * LAMB, whose step looks at whole parameters although nobody holds one: stages, bucket sizes, types, accumulation,
 * worlds and tiers, each a whole training run with the bits of the unsharded oracle. Buckets of one parameter, of
 * several and of all, so that parameters are cut by ranks anywhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

enum { STEPS = 4 };

static compared_cases all;
static uint32_t combinations;

static void run_cases(int32_t world, int processes)
{
    world_options options = {.world = world, .threads = 1 + world % 2};

    compared_cases_run(&all, &options, processes);
    compared_cases_and_oracle(&all, world);
    combinations += all.n;
}

static engine_case lamb_case(int32_t world, uint32_t i)
{
    engine_case c;
    assert_int_equal(case_lamb_at(i, world, STEPS, &c), 1);
    return c;
}

static void test_everywhere(void **state)
{
    static const int32_t worlds[] = {1, 2, 3, 4};
    (void)state;
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++) {
        for (all.n = 0; all.n < (worlds[w] == 4 ? 9 : CASE_LAMB_PLAIN); all.n++)
            all.cases[all.n] = lamb_case(worlds[w], all.n);
        run_cases(worlds[w], worlds[w] == 3);
    }
}

/* Every tenth on the host, on disk, and in parts on all three; the first passes twice over the disk. */
static void test_offloaded(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 3; world++) {
        for (all.n = 0; case_lamb_at(CASE_LAMB_PLAIN + all.n, world, STEPS, &all.cases[all.n]);)
            all.n++;
        run_cases(world, world == 2);
        compared_cases_on_tiers(&all);
    }
}

static void test_speculation_is_refused(void **state)
{
    engine_case c = lamb_case(1, 0);
    sherd_param params[16];
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_error err;
    uint32_t n;

    (void)state;
    c.tenths = 10;
    c.speculate = 1;
    assert_int_equal(case_config(&c, &config, &err), SHERD_OK);
    case_params(&c, params, &n);
    assert_int_equal(sherd_plan_create(&config, params, n, 1, &plan, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "set it to false"));
    config.offload.speculate = 0;
    config.lamb.max_coeff = 0.001;
    assert_int_equal(sherd_plan_create(&config, params, n, 1, &plan, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "max_coeff 0.001"));
}

/* A comparison that could not fail would prove nothing. */
static void test_wrong_ratio_differs(void **state)
{
    engine_case c = lamb_case(2, 0);
    case_result right, wrong;

    (void)state;
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &right);
    case_run_oracle(&c, SHERD_ORACLE_OTHER_RATIO, &wrong);
    assert_false(case_equal(&right, &wrong, STEPS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_ratio_differs),
        cmocka_unit_test(test_speculation_is_refused),
        cmocka_unit_test(test_everywhere),
        cmocka_unit_test(test_offloaded),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u combinations with LAMB equal the oracle\n", combinations);
    return failed;
}
