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

#include "tests/engine/case.h"
#include "tests/engine/worlds.h"

enum { STEPS = 6, BAD = 1 << 2 | 1 << 5 };

typedef struct run {
    engine_case c;
    case_result results[WORLD_MAX];
} run;

static void run_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    run *run = ctx;
    case_run_rank(&run->c, device, comm, &run->results[rank]);
}

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

static void run_and_compare(run *run, uint32_t i, sherd_nonfinite policy)
{
    world_options options = {.threads = 1};
    case_result want;

    run->c = bad_case(i, policy);
    options.world = run->c.world;
    assert_int_equal(world_run_threads(&options, run_rank, run), 0);
    case_run_oracle(&run->c, SHERD_ORACLE_RIGHT, &want);
    for (int32_t r = 0; r < run->c.world; r++) {
        if (run->results[r].status != SHERD_OK)
            fail_msg("%s: rank %d: %s", case_name(&run->c), r, run->results[r].error.text);
        if (!case_equal(&want, &run->results[r], STEPS))
            fail_msg("%s: rank %d differs from the oracle", case_name(&run->c), r);
    }
}

static void test_skip(void **state)
{
    run run;

    (void)state;
    for (uint32_t i = 0; i < 16; i++) {
        run_and_compare(&run, i, SHERD_NONFINITE_SKIP);
        assert_int_equal(run.results[0].updates, STEPS - 2);
        assert_int_equal(run.results[0].stops, 0);
    }
}

static void test_stop(void **state)
{
    run run;

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
    run run;

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
