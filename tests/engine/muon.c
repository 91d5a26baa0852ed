/* SPDX-License-Identifier: MIT
 *
 * Muon, whose matrices are stepped as wholes by owners although every rank holds slices: stages, bucket sizes, types,
 * accumulation and worlds, each a whole training run with the bits of the unsharded oracle. Buckets of one parameter,
 * of several and of all, so that matrices are cut by ranks anywhere, and meet in one wave and in several.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/checkpoints.h"
#include "tests/engine/compare.h"

enum { STEPS = 3 };

static compared_cases all;
static uint32_t combinations;

static void run_cases(compared_cases *cases, int32_t world, int processes)
{
    world_options options = {.world = world, .threads = 1 + world % 2};

    compared_cases_run(cases, &options, processes);
    compared_cases_and_oracle(cases, world);
}

static engine_case muon_case(int32_t world, uint32_t i)
{
    engine_case c;
    assert_int_equal(case_muon_at(i, world, STEPS, &c), 1);
    return c;
}

static void test_everywhere(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 4; world++) {
        all.n = 0;
        for (uint32_t i = (uint32_t)world % 2; i < CASE_LAMB_PLAIN; i += world == 4 ? 5 : 2)
            all.cases[all.n++] = muon_case(world, i);
        run_cases(&all, world, world == 3);
        combinations += all.n;
    }
}

/* Every tenth on the host, on disk, and in parts on all three: waves that lie on one tier, and on two. */
static void test_offloaded(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 3; world++) {
        all.n = 0;
        for (uint32_t i = CASE_LAMB_PLAIN + (uint32_t)world % 3; case_muon_at(i, world, STEPS, &all.cases[all.n]); i += 3)
            all.n++;
        run_cases(&all, world, world == 2);
        combinations += all.n;
        compared_cases_on_tiers(&all);
    }
}

/* What a client may do besides, each in its own run. */
static void test_rarer_ways(void **state)
{
    (void)state;
    all.n = 0;
    for (uint32_t i = 0; i < 12; i++) {
        engine_case c = muon_case(2, 4 * i + 1);
        c.ranges = i % 4 == 0;
        c.rates = i % 4 == 1;
        c.read_back = i % 4 == 2;
        c.mixed = i % 4 == 3;
        c.copy_grads = i % 3 == 1;
        c.early = i % 5 == 2 && c.accumulation > 1;
        c.discard = i % 5 == 3;
        c.unchecked = i % 6 == 5 && c.bad_step == 0;
        c.borrow = i % 5 == 1;
        c.tenths = i % 2 ? 3 + i % 8 : 0;
        c.nodes = i % 4 == 1 ? 2 : 0;
        c.remainder = i % 3 == 0;
        c.moments_bf16 = i % 4 > 1;
        c.grad_sum_bf16 = i % 3 == 1;
        all.cases[all.n++] = c;
    }
    run_cases(&all, 2, 0);
    combinations += all.n;
}

/* A wrong order of parameters is mended: other buckets, waves and owners. */
static void test_replanned(void **state)
{
    (void)state;
    all.n = 0;
    for (uint32_t i = 0; i < 6; i++) {
        engine_case c = muon_case(2, 3 * i);
        c.stage = (int32_t)(i % 3);
        c.bucket = i % 2 ? 1 : 3000;
        c.arrival = ARRIVE_FORWARD;
        c.replan = 1;
        c.tenths = (int32_t)(i % 3) * 4;
        c.disk = i == 4;
        all.cases[all.n++] = c;
    }
    run_cases(&all, 2, 0);
    for (uint32_t i = 0; i < all.n; i++)
        assert_int_equal(all.results[0][i].replanned, 1);
    combinations += all.n;
}

/* One tree over eight micro-batches: worlds cannot show either. */
static void test_reproducible(void **state)
{
    case_result first = {.status = SHERD_OK};

    (void)state;
    for (int32_t world = 1; world <= 4; world *= 2) {
        all.n = 0;
        for (int32_t stage = world == 1 ? 2 : 0; stage < (world == 1 ? 3 : 2); stage++) {
            engine_case c = muon_case(world, 9);
            c.stage = stage;
            c.seed = 5;
            c.reproducible = 1;
            c.accumulation = 8 / world;
            c.bad_step = 0;
            all.cases[all.n++] = c;
        }
        run_cases(&all, world, 0);
        first = world == 1 ? all.results[0][0] : first;
        for (uint32_t i = 0; i < all.n; i++)
            assert_memory_equal(first.state_hash, all.results[0][i].state_hash, 16);
        combinations += all.n;
    }
}

/* N ranks save, M load and go on; the second half in other buckets and stages, and on other tiers. */
static void test_checkpoints(void **state)
{
    static const int32_t worlds[] = {1, 2, 3, 4};
    static compared_cases saved;

    (void)state;
    for (uint32_t n = 0; n < 4; n++) {
        char folder[CHECKPOINTS_NAME];
        checkpoints_folder(folder);
        saved.n = 1;
        saved.cases[0] = muon_case(worlds[n], 9 * n + n);
        saved.cases[0].bad_step = 0;
        saved.cases[0].save_to = folder;
        saved.cases[0].save_at = STEPS;
        saved.cases[0].tenths = (int32_t)n * 3;
        saved.cases[0].disk = n == 3;
        run_cases(&saved, worlds[n], 0);
        for (uint32_t m = 0; m < 4; m++) {
            static compared_run loaded;
            loaded.c = saved.cases[0];
            loaded.c.save_to = NULL;
            loaded.c.load_from = folder;
            loaded.c.first = STEPS;
            loaded.c.world = worlds[m];
            loaded.c.stage = (int32_t)((n + m) % 3);
            loaded.c.bucket = m % 2 ? 1 : 3000;
            loaded.c.tenths = (int32_t)((n + m) % 3) * 4;
            loaded.c.disk = m == 2;
            compared_run_world(&loaded);
            for (int32_t r = 0; r < worlds[m]; r++) {
                if (loaded.results[r].status != SHERD_OK)
                    fail_msg("%d to %d: %s", (int)worlds[n], (int)worlds[m], loaded.results[r].error.text);
                assert_memory_equal(saved.results[0][0].state_hash, loaded.results[r].state_hash, 16);
            }
            combinations++;
        }
        checkpoints_remove(folder);
    }
}

static void refused(const sherd_config *config, const sherd_param *params, uint32_t n, const char *text)
{
    sherd_plan *plan = NULL;
    sherd_error err;

    assert_int_equal(sherd_plan_create(config, params, n, 2, &plan, &err), SHERD_EINVAL);
    if (!strstr(err.text, text))
        fail_msg("'%s' is not in '%s'", text, err.text);
}

static void test_refusals(void **state)
{
    engine_case c = muon_case(2, 0);
    sherd_param params[16];
    sherd_config config;
    uint32_t n;

    (void)state;
    assert_int_equal(case_config(&c, &config, NULL), SHERD_OK);
    case_params(&c, params, &n);
    config.muon.ns_steps = 0;
    refused(&config, params, n, "ns_steps is 0");
    config.muon.ns_steps = 5;
    params[0].flags = SHERD_PARAM_MUON;
    params[0].ndim = 1;
    refused(&config, params, n, "SHERD_PARAM_MUON is for matrices");
    params[0].ndim = 2;
    params[0].shape[1] = 0;
    refused(&config, params, n, "SHERD_PARAM_MUON is for matrices");
    case_params(&c, params, &n);
    config.offload.tier = SHERD_TIER_HOST;
    config.offload.ratio = 1;
    config.offload.speculate = 1;
    refused(&config, params, n, "sherd.speculate is on");
}

/* Without the flag Muon keeps AdamW's states of everything. (With it other optimizers keep theirs: all tests of this
 * folder.) */
static void test_without_matrices_it_is_adamw(void **state)
{
    engine_case muon = muon_case(1, 0);
    sherd_param params[16];
    sherd_config config;
    sherd_plan *plan = NULL;
    uint32_t n;

    (void)state;
    assert_int_equal(case_config(&muon, &config, NULL), SHERD_OK);
    case_params(&muon, params, &n);
    for (uint32_t p = 0; p < n; p++)
        params[p].flags &= ~SHERD_PARAM_MUON;
    assert_int_equal(sherd_plan_create(&config, params, n, 1, &plan, NULL), SHERD_OK);
    assert_string_equal(sherd_plan_state(plan, 2), "exp_avg_sq");
    assert_null(sherd_plan_state(plan, 3));
    sherd_plan_destroy(plan);
}

/* The k-th allocation fails, for every k: a sentence, and nothing stays behind. */
static void test_failed_allocations(void **state)
{
    engine_case c = muon_case(1, 3);

    (void)state;
    c.steps = 1;
    assert_true(compared_fail_allocations(&c) > 20);
    c.tenths = 7;
    c.disk = 1;
    assert_true(compared_fail_allocations(&c) > 30);
}

/* Comparisons that could not fail would prove nothing. */
static void test_wrong_length_differs(void **state)
{
    engine_case c = muon_case(2, 0), adamw = c;
    case_result right, wrong;

    (void)state;
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &right);
    case_run_oracle(&c, SHERD_ORACLE_OTHER_RATIO, &wrong);
    assert_false(case_equal(&right, &wrong, STEPS));
    adamw.optimizer = SHERD_ADAMW;
    case_run_oracle(&adamw, SHERD_ORACLE_RIGHT, &wrong);
    assert_false(case_equal(&right, &wrong, STEPS));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_length_differs),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_without_matrices_it_is_adamw),
        cmocka_unit_test(test_everywhere),
        cmocka_unit_test(test_offloaded),
        cmocka_unit_test(test_rarer_ways),
        cmocka_unit_test(test_replanned),
        cmocka_unit_test(test_reproducible),
        cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_failed_allocations),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u combinations with Muon equal the oracle\n", combinations);
    return failed;
}
