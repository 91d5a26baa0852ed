/* SPDX-License-Identifier: MIT
 *
 * Loss scaling and cycled betas through whole engines: equal to the oracle, and, since the scales are powers of two and the
 * client multiplies its gradients by them, in masters and moments equal to the run without any scale. The sequence of
 * scales is the one that the rules give by hand. On the host, offloaded, and with guesses made before the vote.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

enum { STEPS = 13, BAD = 1 << 4 | 1 << 5 | 1 << 7 };

/* From 16, window 2, hysteresis 2: doubled after the third good step in a row, the first overflow is borne, the second and
 * all that come before the next doubling halve. */
static const double dynamic_scales[STEPS] = {16, 16, 16, 32, 32, 16, 16, 8, 8, 8, 16, 16, 32};

static engine_case scaled_case(uint32_t i, int32_t world)
{
    engine_case c;

    memset(&c, 0, sizeof c);
    c.world = world;
    c.stage = (int32_t)(i % 3);
    c.bucket = 3000;
    c.optimizer = i % 2 ? SHERD_SGD : SHERD_ADAMW;
    c.dtype = i / 2 % 2 ? SHERD_FP32 : SHERD_BF16;
    c.accumulation = i % 4 == 1 ? 2 : 1;
    c.steps = STEPS;
    c.clipping = 0.02;
    c.overlap = 1;
    c.bad_steps = BAD;
    c.tenths = i % 3 == 2 ? 10 : 0;
    c.speculate = i % 3 == 2;
    c.workers = 1;
    c.scaling = i % 4 == 3 ? SHERD_SCALING_STATIC : SHERD_SCALING_DYNAMIC;
    c.seed = 31 + i;
    return c;
}

static void test_scale_follows_the_rules(void **state)
{
    case_result want, plain;
    compared_run run;

    (void)state;
    for (int32_t world = 1; world <= 3; world++)
        for (uint32_t i = 0; i < 12; i++) {
            engine_case unscaled;
            run.c = scaled_case(i, world);
            compared_run_and_compare(&run, &want);
            for (int s = 0; s < STEPS; s++) {
                double expected = run.c.scaling == SHERD_SCALING_STATIC ? 128 : dynamic_scales[s];
                assert_true(run.results[0].loss_scale[s] == expected);
                assert_int_equal(run.results[0].skipped[s], BAD >> (s + 1) & 1);
            }
            unscaled = run.c;
            unscaled.scaling = SHERD_SCALING_NONE;
            case_run_oracle(&unscaled, SHERD_ORACLE_RIGHT, &plain);
            assert_memory_equal(plain.state_hash, run.results[0].state_hash, 16);
            assert_memory_equal(plain.norm, run.results[0].norm, sizeof(double) * 3);
        }
}

/* 16, borne; 16, 8, 4, 2 halved; 1 is the least. */
static void test_at_the_least_scale_it_is_an_error(void **state)
{
    compared_run run;

    (void)state;
    for (int32_t world = 1; world <= 2; world++) {
        run.c = scaled_case(0, world);
        run.c.bad_steps = ~0u;
        compared_run_world(&run);
        for (int32_t r = 0; r < world; r++) {
            const case_result *got = &run.results[r];
            assert_int_equal(got->status, SHERD_ESTATE);
            assert_non_null(strstr(got->error.text, "step 6: the loss scale is at its minimum, 1"));
            assert_non_null(strstr(got->error.text, "'odd'"));
            assert_true(got->loss_scale[4] == 2);
        }
    }
}

static void test_cycled_betas(void **state)
{
    static const sherd_optimizer kinds[] = {SHERD_ADAMW, SHERD_ADAM, SHERD_SGD, SHERD_LION, SHERD_ADAGRAD,
                                            SHERD_LAMB};
    case_result want, plain;
    compared_run run;

    (void)state;
    for (uint32_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        run.c = scaled_case(i, 1 + (int32_t)(i % 3));
        run.c.scaling = SHERD_SCALING_NONE;
        run.c.optimizer = kinds[i];
        run.c.speculate = run.c.speculate && kinds[i] != SHERD_LAMB;
        run.c.moments_bf16 = i > 1;
        run.c.one_cycle = 1;
        run.c.steps = 8;
        compared_run_and_compare(&run, &want);
        run.c.one_cycle = 0; /* it must matter */
        case_run_oracle(&run.c, SHERD_ORACLE_RIGHT, &plain);
        assert_memory_not_equal(plain.state_hash, want.state_hash, 16);
    }
}

/* The same sequence of scales in fp16, against the oracle. */
static void test_fp16(void **state)
{
    case_result want, plain;
    compared_run run;

    (void)state;
    for (uint32_t i = 0; i < 9; i++) {
        engine_case unscaled;
        run.c = scaled_case(i, 1 + (int32_t)(i / 3));
        run.c.dtype = SHERD_FP16;
        run.c.read_back = i == 4;
        compared_run_and_compare(&run, &want);
        for (int s = 0; s < STEPS; s++)
            assert_true(run.results[0].loss_scale[s] ==
                        (run.c.scaling == SHERD_SCALING_STATIC ? 128 : dynamic_scales[s]));
        unscaled = run.c;
        unscaled.scaling = SHERD_SCALING_NONE;
        case_run_oracle(&unscaled, SHERD_ORACLE_RIGHT, &plain);
        assert_int_equal(plain.updates, want.updates);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fp16),
        cmocka_unit_test(test_scale_follows_the_rules),
        cmocka_unit_test(test_at_the_least_scale_it_is_an_error),
        cmocka_unit_test(test_cycled_betas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
