/* SPDX-License-Identifier: MIT
 *
 * Rates and weight decays that are set while training, and state that is read and written by ranges, on every stage and
 * tier: equal to the oracle in every bit, though ranks other than 0 set other values.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

static engine_case rates_case(uint32_t i, int32_t world)
{
    static const sherd_optimizer kinds[] = {SHERD_ADAMW, SHERD_SGD, SHERD_LION, SHERD_ADAM, SHERD_ADAGRAD};
    engine_case c = case_plain(world, i, 6);

    c.optimizer = kinds[i % 5];
    c.rates = c.ranges = 1;
    c.bad_step = i % 3 == 1 ? 3 : 0;
    if (i % 4 > 0) {
        c.tenths = i % 4 == 1 ? 10 : 6;
        c.disk = i % 4 == 2 ? 1 : i % 4 == 3 ? 2 : 0;
        c.speculate = i % 4 == 1;
        c.workers = 1;
        c.nodes = i % 8 == 5 ? 2 : 0;
    }
    return c;
}

static void test_equal_to_the_oracle(void **state)
{
    case_result want, plain;
    compared_run run;

    (void)state;
    for (int32_t world = 1; world <= 3; world++)
        for (uint32_t i = 0; i < 12; i++) {
            run.c = rates_case(i, world);
            compared_run_and_compare(&run, &want);
            run.c.rates = 0; /* it must matter */
            case_run_oracle(&run.c, SHERD_ORACLE_RIGHT, &plain);
            assert_memory_not_equal(plain.state_hash, want.state_hash, 16);
        }
}

/* A guess that has not heard of the new rate is corrected. */
static void test_speculation_is_corrected(void **state)
{
    case_result want;
    compared_run run;

    (void)state;
    run.c = rates_case(1, 2);
    run.c.clipping = 0;
    run.c.bad_step = 0;
    compared_run_and_compare(&run, &want);
    assert_true(run.results[0].speculated > 0);
    assert_true(run.results[0].missed > 0 && run.results[0].missed < run.results[0].speculated);
}

static sherd_engine *small_engine(sherd_plan **plan, sherd_device **device, sherd_comm **comm)
{
    sherd_param param = {.name = "w", .ndim = 1, .shape = {1000}};
    sherd_config config;
    sherd_engine *engine;

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    assert_int_equal(sherd_plan_create(&config, &param, 1, 1, plan, NULL), SHERD_OK);
    assert_int_equal(sherd_device_create(NULL, device, NULL), SHERD_OK);
    assert_int_equal(sherd_comm_create_self(NULL, comm, NULL), SHERD_OK);
    assert_int_equal(sherd_engine_create(*plan, *device, *comm, &engine, NULL), SHERD_OK);
    return engine;
}

static void refused(sherd_status status, const sherd_error *err, const char *text)
{
    assert_int_equal(status, SHERD_EINVAL);
    if (!strstr(err->text, text))
        fail_msg("'%s' does not say '%s'", err->text, text);
}

static void test_refusals(void **state)
{
    static const double bad[] = {-2.0, NAN, INFINITY, -INFINITY};
    float values[8] = {0};
    int64_t first, count;
    sherd_device *device;
    sherd_engine *engine;
    sherd_comm *comm;
    sherd_plan *plan;
    sherd_error err;

    (void)state;
    engine = small_engine(&plan, &device, &comm);
    refused(sherd_engine_set_lr(engine, 1, 0.1, &err), &err, "there is no group 1");
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        refused(sherd_engine_set_lr(engine, 0, bad[i], &err), &err, "not a number from 0 up");
        refused(sherd_engine_set_weight_decay(engine, 0, bad[i], &err), &err, "not a number from 0 up");
    }
    refused(sherd_state_read(engine, 1, 0, 0, 1, values, &err), &err, "there is no parameter 1");
    refused(sherd_state_read(engine, 0, 3, 0, 1, values, &err), &err, "there is no state 3");
    refused(sherd_state_read(engine, 0, 0, 995, 6, values, &err), &err, "6 elements from 995");
    refused(sherd_state_read(engine, 0, 0, -1, 1, values, &err), &err, "not within");
    refused(sherd_state_read(engine, 0, 0, 1001, 0, values, &err), &err, "not within");
    refused(sherd_state_read(engine, 0, 0, 0, -1, values, &err), &err, "not within");
    refused(sherd_state_read(engine, 0, 0, 1, INT64_MAX, values, &err), &err, "not within");
    refused(sherd_state_read_own(engine, 0, 0, 1, INT64_MAX, values, &err), &err, "not within");
    refused(sherd_state_write(engine, 0, 1, 0, 4, NULL, &err), &err, "rank 0 must pass");
    assert_int_equal(sherd_state_read(engine, 0, 2, 1000, 0, NULL, &err), SHERD_OK);
    assert_int_equal(sherd_micro_begin(engine, NULL), SHERD_OK);
    assert_int_equal(sherd_state_read(engine, 0, 0, 0, 1, values, &err), SHERD_ESTATE);
    assert_int_equal(sherd_plan_own(plan, 0, 1, &first, &count), SHERD_EINVAL);
    assert_int_equal(sherd_plan_own(plan, 1, 0, &first, &count), SHERD_EINVAL);
    assert_string_equal(sherd_plan_state(plan, 0), "master");
    assert_string_equal(sherd_plan_state(plan, 2), "exp_avg_sq");
    assert_null(sherd_plan_state(plan, 3));
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_the_oracle),
        cmocka_unit_test(test_speculation_is_corrected),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
