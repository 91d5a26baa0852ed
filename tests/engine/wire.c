/* SPDX-License-Identifier: MIT
 *
 * communication_data_type: every type on the wire × types of gradients × stages × accumulation, equal to the unsharded
 * oracle, which narrows each micro-batch's gradient once and then sums; with state off the device, under
 * `reproducible`, on the checking device, and with gradients that overflow by nothing but the wire.
 *
 *     test_engine_wire_types [STEPS]
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

static int64_t steps = 3;
static uint32_t combinations;

static void compare(compared_run *run, case_result *want)
{
    compared_run_and_compare(run, want);
    combinations++;
}

static void test_matrix(void **state)
{
    static const int32_t worlds[] = {1, 2, 3, 4, 8};

    (void)state;
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++) {
        compared_run run = {0};
        case_result want;
        uint64_t parked = 0;
        uint32_t i;
        for (i = 0; case_wire_at(i, worlds[w], steps, &run.c); i++) {
            compare(&run, &want);
            parked += run.results[0].parked;
        }
        assert_int_equal(i, 48);
        assert_true(parked > 0);
    }
}

/* State on the host and on disk, LAMB's second pass, discarded micro-steps and early ends. */
static void test_beside_other_things(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 24; i++) {
        compared_run run = {0};
        case_result want;
        assert_int_equal(case_wire_at(2 * i, 2 + (int32_t)(i % 2), steps, &run.c), 1);
        run.c.tenths = i % 3 == 0 ? 0 : 10;
        run.c.disk = i % 6 == 4;
        run.c.speculate = i % 6 == 1;
        run.c.workers = 1;
        run.c.optimizer = i % 6 == 5 ? SHERD_LAMB : run.c.optimizer;
        run.c.discard = i % 4 == 1;
        run.c.early = i % 4 == 3 && run.c.accumulation > 1;
        run.c.replan = i % 8 == 6;
        compare(&run, &want);
    }
}

/* Eight micro-batches on 1 to 8 ranks: the tree over narrowed leaves, whatever the world. */
static void test_reproducible(void **state)
{
    (void)state;
    for (uint32_t kind = 0; kind < 6; kind++) {
        case_result first = {0};
        for (int32_t world = 1; world <= 8; world *= 2) {
            compared_run run = {0};
            case_result want;
            assert_int_equal(case_wire_at(kind, world, steps, &run.c), 1);
            run.c.reproducible = 1;
            run.c.seed = 5 + kind;
            run.c.accumulation = 8 / world;
            run.c.stage = (int32_t)((kind + (uint32_t)world) % 3);
            compare(&run, &want);
            if (world == 1)
                first = want;
            assert_true(case_equal(&first, &want, steps));
        }
    }
}

static engine_case fp32_case(sherd_wire wire, int32_t world)
{
    engine_case c;

    assert_int_equal(case_wire_at(0, world, steps, &c), 1);
    c.bad_step = 0;
    c.grad_sum_bf16 = 0;
    c.wire = wire;
    return c;
}

/* A wire in fp32 changes nothing; what the matrix compares differs where leaves are not narrowed, or to another type.
 */
static void test_what_the_wire_changes(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 4; world++) {
        case_result as[4];
        for (sherd_wire wire = SHERD_WIRE_GRADIENT; wire <= SHERD_WIRE_FP16; wire++) {
            engine_case c = fp32_case(wire, world);
            case_run_oracle(&c, SHERD_ORACLE_RIGHT, &as[wire]);
            assert_int_equal(as[wire].updates, steps);
        }
        assert_true(case_equal(&as[SHERD_WIRE_GRADIENT], &as[SHERD_WIRE_FP32], steps));
        for (sherd_wire wire = SHERD_WIRE_BF16; wire <= SHERD_WIRE_FP16; wire++)
            assert_false(case_equal(&as[wire], &as[(wire + 1) % 4], steps));
    }
}

/* A dynamic loss scale that doubles until fp32 gradients leave fp16's range: the step is skipped, the scale falls. */
static void test_overflow_by_the_wire(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 3; world++)
        for (int32_t stage = 0; stage < 3; stage++) {
            compared_run run = {.c = fp32_case(SHERD_WIRE_FP16, world)};
            case_result want;
            int32_t skipped = 0;
            run.c.steps = 22;
            run.c.stage = stage;
            run.c.scaling = SHERD_SCALING_DYNAMIC;
            compare(&run, &want);
            for (int64_t s = 0; s < run.c.steps; s++)
                skipped += want.skipped[s];
            assert_in_range(skipped, 1, 20);
            run.c.wire = SHERD_WIRE_GRADIENT;
            case_run_oracle(&run.c, SHERD_ORACLE_RIGHT, &want);
            assert_int_equal(want.updates, run.c.steps); /* fp32 has room for all of them */
        }
}

static void test_checking_device(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 48; i += 3) {
        compared_run run = {0};
        case_result want;
        assert_int_equal(case_wire_at(i, 2 + (int32_t)(i % 2), steps, &run.c), 1);
        run.c.blind = i % 2;
        compared_run_and_check(&run, i + 1, &want);
        combinations++;
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_the_wire_changes), cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_beside_other_things),   cmocka_unit_test(test_reproducible),
        cmocka_unit_test(test_overflow_by_the_wire),  cmocka_unit_test(test_checking_device),
    };
    int failed;

    if (argc > 1)
        steps = atoll(argv[1]);
    if (steps < 2 || steps > CASE_MAX_STEPS)
        return 2;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u combinations equal the oracle\n", combinations);
    return failed;
}
