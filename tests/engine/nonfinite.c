/* SPDX-License-Identifier: MIT
 *
 * Gradients that are not finite, by policy: skipped although bf16.check_grad_overflow is off; stopped with a sentence
 * that names step and parameter on every rank, after which the engine is as after a skipped step. Both end in the
 * oracle's bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

enum { STEPS = 6, BAD = 1 << 2 | 1 << 5 };

static engine_case bad_case(uint32_t i, sherd_nonfinite policy)
{
    engine_case c = case_plain(1 + (int32_t)(i % 3), i, STEPS);

    c.unchecked = 1;
    c.nonfinite = policy;
    c.bad_step = 0;
    c.bad_steps = BAD;
    c.tenths = i % 4 == 3 ? 10 : 0;
    c.speculate = i % 8 == 7;
    return c;
}

static void run_and_compare(compared_run *run, uint32_t i, sherd_nonfinite policy)
{
    case_result want;

    run->c = bad_case(i, policy);
    compared_run_and_compare(run, &want);
}

static void test_skip(void **state)
{
    compared_run run;

    (void)state;
    for (uint32_t i = 0; i < 16; i++) {
        run_and_compare(&run, i, SHERD_NONFINITE_SKIP);
        assert_int_equal(run.results[0].updates, STEPS - 2);
        assert_int_equal(run.results[0].stops, 0);
    }
}

static void test_stop(void **state)
{
    compared_run run;

    (void)state;
    for (uint32_t i = 0; i < 16; i++) {
        run_and_compare(&run, i, SHERD_NONFINITE_STOP);
        for (int32_t r = 0; r < run.c.world; r++) {
            const case_result *got = &run.results[r];
            assert_int_equal(got->updates, STEPS - 2);
            assert_int_equal(got->stops, 2);
            assert_int_equal(got->error.status, SHERD_ESTATE);
            if (!strstr(got->error.text, "step 5: the gradient of 'odd' is not finite") ||
                !strstr(got->error.text, "\"stop\""))
                fail_msg("rank %d says: %s", r, got->error.text);
        }
    }
}

/* Without either, the update is made with what there is. */
static void test_auto_asks_the_old_key(void **state)
{
    compared_run run;

    (void)state;
    run_and_compare(&run, 1, SHERD_NONFINITE_AUTO);
    assert_int_equal(run.results[0].updates, STEPS);
}

static void test_stop_and_a_dynamic_scale_exclude_each_other(void **state)
{
    static const char *const sets[] = {"fp16.enabled=true", "sherd.nonfinite=stop"};
    sherd_config config;
    sherd_error err;
    sherd_plan *plan = NULL;
    sherd_param param = {.name = "a", .shape = {4}, .ndim = 1};

    (void)state;
    sherd_config_init(&config, sizeof config);
    assert_int_equal(sherd_config_read(&config, NULL, sets, 2, NULL, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "sherd.nonfinite"));
    assert_non_null(strstr(err.text, "fp16.loss_scale"));
    sherd_config_init(&config, sizeof config);
    config.train_batch_size = 1;
    config.scaling.kind = SHERD_SCALING_DYNAMIC;
    config.faults.nonfinite = SHERD_NONFINITE_STOP;
    assert_int_equal(sherd_plan_create(&config, &param, 1, 1, &plan, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "sherd.nonfinite"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_skip),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_auto_asks_the_old_key),
        cmocka_unit_test(test_stop_and_a_dynamic_scale_exclude_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
