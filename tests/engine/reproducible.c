/* SPDX-License-Identifier: MIT
 *
 * `reproducible`: with the same micro-batches per step, worlds, stages, bucket sizes, orders of arrival and placements
 * end with the same bits: those of the unsharded oracle, which sums one tree over the micro-batches' numbers and knows
 * nothing of ranks and micro-steps. Without the key they do not.
 *
 *     test_engine_reproducible [STEPS]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

enum { PLACEMENTS = 4 };

static int64_t steps = 3;
static uint32_t combinations;

static engine_case plain_case(int32_t world, int64_t micro_batches, uint32_t kind)
{
    engine_case c;

    memset(&c, 0, sizeof c);
    c.world = world;
    c.accumulation = micro_batches / world;
    c.steps = steps;
    c.clipping = 0.02;
    c.overlap = 1;
    c.dtype = kind % 3 == 0 ? SHERD_BF16 : kind % 3 == 1 ? SHERD_FP32 : SHERD_FP16;
    c.grad_sum_bf16 = kind % 3 == 0;
    c.optimizer = kind % 2 ? SHERD_SGD : SHERD_ADAMW;
    c.bad_step = kind == 2 ? 2 : 0;
    c.reproducible = 1;
    c.bucket = 3000;
    c.workers = 1;
    c.seed = 51 + kind;
    return c;
}

static void place_state(engine_case *c, uint32_t way)
{
    c->tenths = way == 0 ? 0 : way == 3 ? 5 : 10;
    c->speculate = way == 1;
    c->disk = way == 2;
}

/* Every rank ends as `want` did, holding what the plan says. */
static void run_and_compare(compared_run *run, const case_result *want)
{
    compared_run_world(run);
    compared_results(run, want);
    combinations++;
}

static void test_eight_micro_batches(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < 3; kind++) {
        engine_case alone = plain_case(1, 8, kind);
        case_result want;
        case_run_oracle(&alone, SHERD_ORACLE_RIGHT, &want);
        for (int32_t world = 1; world <= 8; world *= 2)
            for (int32_t stage = 0; stage < 3; stage++)
                for (uint32_t way = (kind + (uint32_t)stage) % 2; way < PLACEMENTS; way += 2) {
                    compared_run run = {.c = plain_case(world, 8, kind)};
                    run.c.stage = stage;
                    run.c.bucket = (way / 2 + (uint32_t)(world / 2)) % 2 ? 1 : 3000;
                    run.c.arrival = (case_arrival)((way + kind) % 3);
                    run.c.copy_grads = way == 3;
                    place_state(&run.c, way);
                    run_and_compare(&run, &want);
                }
    }
}

/* LAMB's norms too are of the same sums, whatever the world: exact, and of whole parameters. */
static void test_lamb(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < 3; kind++) {
        engine_case alone = plain_case(1, 8, kind);
        case_result want;
        alone.optimizer = SHERD_LAMB;
        case_run_oracle(&alone, SHERD_ORACLE_RIGHT, &want);
        for (int32_t world = 1; world <= 8; world *= 2)
            for (int32_t stage = 0; stage < 3; stage++) {
                compared_run run = {.c = plain_case(world, 8, kind)};
                run.c.optimizer = SHERD_LAMB;
                run.c.stage = stage;
                run.c.bucket = stage == 1 ? 1 : 3000;
                place_state(&run.c, (kind + (uint32_t)stage) % 2 ? 2 : 0);
                run_and_compare(&run, &want);
            }
    }
}

/* Other numbers: every division that the plan takes gives the tree's bits, the others are refused with a reason. */
static void test_odd_numbers(void **state)
{
    static const int64_t totals[] = {3, 6, 7, 12, 20};
    uint32_t refused = 0;

    (void)state;
    for (size_t i = 0; i < sizeof totals / sizeof *totals; i++) {
        engine_case alone = plain_case(1, totals[i], (uint32_t)i);
        case_result want;
        case_run_oracle(&alone, SHERD_ORACLE_RIGHT, &want);
        for (int32_t world = 1; world <= WORLD_MAX; world++)
            for (int32_t stage = 0; stage < 3 && totals[i] % world == 0; stage++) {
                compared_run run = {.c = plain_case(world, totals[i], (uint32_t)i)};
                int64_t each = run.c.accumulation, block = stage == 2 ? world : each,
                        blocks = stage == 2 ? each : world;
                run.c.stage = stage;
                if (each == 1 || blocks == 1 || (block & (block - 1)) == 0) {
                    run_and_compare(&run, &want);
                    continue;
                }
                compared_run_world(&run);
                assert_int_equal(run.results[0].status, SHERD_EINVAL);
                assert_non_null(strstr(run.results[0].error.text, "power of two"));
                refused++;
            }
    }
    assert_true(refused > 4);
}

static void test_checking_device(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        compared_run run = {.c = plain_case(i % 2 ? 2 : 4, 16, i % 3)};
        case_result want;
        run.c.stage = (int32_t)(i / 2 % 3);
        run.c.arrival = (case_arrival)(i % 3);
        run.c.blind = i % 4 == 0;
        place_state(&run.c, i / 3 % PLACEMENTS);
        compared_run_and_check(&run, i + 1, &want);
        combinations++;
    }
}

/* What all of the above would compare if the sums were formed in another order, or the key did nothing. */
static void test_other_orders_differ(void **state)
{
    case_result right, wrong;

    (void)state;
    for (int32_t world = 1; world <= 8; world *= 2)
        for (int32_t stage = 0; stage < 3; stage++) {
            engine_case c = plain_case(world, 8, 1);
            c.stage = stage;
            case_run_oracle(&c, SHERD_ORACLE_RIGHT, &right);
            c.reproducible = 0;
            case_run_oracle(&c, SHERD_ORACLE_RIGHT, &wrong);
            /* at 8 ranks, and where a rank has two micro-batches, the usual order is the tree */
            assert_int_equal(case_equal(&right, &wrong, steps), world >= 4);
            case_run_oracle(&c, SHERD_ORACLE_LEFT_TO_RIGHT, &wrong);
            assert_false(case_equal(&right, &wrong, steps));
        }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_orders_differ),
        cmocka_unit_test(test_eight_micro_batches),
        cmocka_unit_test(test_lamb),
        cmocka_unit_test(test_odd_numbers),
        cmocka_unit_test(test_checking_device),
    };
    int failed;

    if (argc > 1)
        steps = atoll(argv[1]);
    if (steps < 2 || steps > CASE_MAX_STEPS)
        return 2;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u combinations of %lld steps have the bits of the tree over micro-batches\n", combinations,
           (long long)steps);
    return failed;
}
