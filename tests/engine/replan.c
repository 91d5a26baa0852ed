/* SPDX-License-Identifier: MIT
 *
 * sherd.replan: a model whose parameters are registered in the wrong order parks gradients in its first step and none
 * afterwards, and ends with the oracle's bits, which know nothing of plans; whatever the stage, the type and the tiers. A model
 * that is registered as it should be keeps its plan.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

enum { STEPS = 4, CASES = 24 };

static engine_case wrong_order(uint32_t i, int32_t world)
{
    engine_case c = case_plain(world, i, STEPS);

    c.arrival = ARRIVE_FORWARD;
    c.replan = 1;
    c.bucket = i % 3 ? 1 : 3000;
    c.tenths = i % 4 == 0 ? 0 : i % 4 == 3 ? 5 : 10;
    c.speculate = i % 4 == 1;
    c.disk = i % 4 == 2 ? 1 : 0;
    c.workers = 1;
    c.read_back = i % 2;
    c.bad_step = i % 5 == 1 ? 1 : 0;
    return c;
}

static void test_wrong_order_is_mended(void **state)
{
    case_result want;
    uint64_t parked = 0;

    (void)state;
    for (int32_t world = 1; world <= 3; world++)
        for (uint32_t i = (uint32_t)world % 2; i < CASES; i += 2) {
            compared_run run = {.c = wrong_order(i, world)};
            compared_run_and_compare(&run, &want);
            for (int32_t r = 0; r < world; r++) {
                assert_true(run.results[r].replanned);
                /* in later micro-steps of the first step, too; then never again */
                assert_true(run.results[r].parked == run.results[r].parked_first);
            }
            parked += run.results[0].parked;
            if (i > 2)
                continue;
            run.c.replan = 0;
            compared_run_and_compare(&run, &want);
            assert_false(run.results[0].replanned);
            assert_true(run.results[0].parked == STEPS * run.results[0].parked_first);
        }
    assert_true(parked > 100);
}

static void test_right_order_stays(void **state)
{
    case_result want;
    (void)state;
    for (int32_t stage = 0; stage < 3; stage++) {
        compared_run run = {.c = wrong_order(0, 2)};
        run.c.stage = stage;
        run.c.arrival = ARRIVE_BACKWARD;
        run.c.all_used = 1;
        run.c.tied_large = 1; /* else the tied parameter waits, and so does its bucket */
        compared_run_and_compare(&run, &want);
        assert_int_equal(run.results[0].parked, 0);
        assert_false(run.results[0].replanned);
    }
}

static void test_checking_device(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        compared_run run = {.c = wrong_order(i, 2 + (int32_t)(i % 2))};
        case_result want;
        run.c.read_back = 0;
        run.c.blind = i % 3 == 2;
        compared_run_and_check(&run, i + 1, &want);
        assert_true(run.results[0].replanned);
    }
}

/* Ranks that are processes; and with `reproducible` on top. */
static void test_processes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        compared_run *run = world_shared(sizeof *run);
        world_options options = {.world = 2, .threads = 1};
        case_result want;
        run->c = wrong_order(i, 2);
        run->c.reproducible = 1;
        run->c.accumulation = 4;
        case_run_oracle(&run->c, SHERD_ORACLE_RIGHT, &want);
        assert_int_equal(world_run_processes(&options, 60, compared_run_rank, run), 0);
        for (int32_t r = 0; r < 2; r++)
            assert_true(case_equal(&want, &run->results[r], STEPS) && run->results[r].replanned);
    }
}

/* No memory for a table, at any moment: an error, and nothing is left. */
static void test_allocations(void **state)
{
    engine_case c = wrong_order(0, 1);

    (void)state;
    c.steps = 1;
    c.read_back = 0;
    c.tenths = 10;
    c.dtype = SHERD_BF16;
    c.accumulation = 1;
    assert_true(compared_fail_allocations(&c) > 40);
}

static void test_refusal(void **state)
{
    const sherd_param param = {.name = "p", .shape = {300}, .ndim = 1};
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_error err;

    (void)state;
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.replan = 1;
    config.transport.kind = SHERD_TRANSPORT_NCCL;
    assert_int_equal(sherd_plan_create(&config, &param, 1, 2, &plan, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "sherd.replan needs sherd.transport 'direct'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_order_is_mended), cmocka_unit_test(test_right_order_stays),
        cmocka_unit_test(test_checking_device),       cmocka_unit_test(test_processes),
        cmocka_unit_test(test_refusal),               cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
