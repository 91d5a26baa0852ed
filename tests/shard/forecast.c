/* SPDX-License-Identifier: MIT
 *
 * Forecasts against sums worked out by hand. Four buckets of 1024 elements, fp32, at two ranks: 4096 bytes each.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/make.h"

enum { BUCKETS = 4, ELEMS = 1024, BYTES = 4096 };

static sherd_forecast forecast_of(int32_t buckets, sherd_config config, sherd_profile profile)
{
    make_table table = {.n = 0};
    sherd_plan *plan = NULL;
    sherd_forecast out = {0};
    for (int i = 0; i < buckets; i++)
        make_param(&table, ELEMS);
    profile.size = sizeof profile;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, 2, &plan, NULL), SHERD_OK);
    assert_int_equal(sherd_plan_buckets(plan), buckets);
    assert_int_equal(sherd_plan_forecast(plan, &profile, &out), SHERD_OK);
    profile.size = 8;
    assert_int_equal(sherd_plan_forecast(plan, &profile, &out), SHERD_EINVAL);
    sherd_plan_destroy(plan);
    return out;
}

static sherd_forecast forecast(sherd_config config, sherd_profile profile)
{
    return forecast_of(BUCKETS, config, profile);
}

static void check(sherd_forecast got, double step, double comm, double update)
{
    double slack = 1e-9 * (step + 1);
    if (fabs(got.step_ns - step) > slack || fabs(got.exposed_comm_ns - comm) > slack ||
        fabs(got.exposed_update_ns - update) > slack)
        fail_msg("step %.3f, comm %.3f, update %.3f; expected %.3f, %.3f, %.3f", got.step_ns, got.exposed_comm_ns,
                 got.exposed_update_ns, step, comm, update);
}

static const double compute = BUCKETS * ELEMS * (2.0 + 1.0); /* at 2 ns of backward and 1 of forward per element */
static const sherd_profile base = {.ready_ns_per_elem = 2, .forward_ns_per_elem = 1};

static void test_nothing_costs(void **state)
{
    (void)state;
    for (int32_t stage = 0; stage <= 2; stage++)
        for (int64_t k = 1; k <= 64; k *= 2)
            check(forecast(make_config(stage, k, 1), base), compute * (double)k, 0, 0);
}

/* Reductions hide behind backward but the last, which the vote waits for. A reduction takes less than a bucket's
 * backward. */
static void test_last_reduction(void **state)
{
    (void)state;
    sherd_profile profile = base;
    profile.reduce_ns_per_byte = 0.25; /* 1024 ns against 2048 of backward */
    check(forecast(make_config(2, 1, 1), profile), compute + BYTES * 0.25, BYTES * 0.25, 0);
    profile.collective_ns =
        100; /* reductions stay hidden; then vote and the first gather; the rest hide behind forward */
    check(forecast(make_config(2, 1, 1), profile), compute + BYTES * 0.25 + 300, BYTES * 0.25 + 300, 0);
    sherd_config serial = make_config(2, 1, 1);
    serial.zero.overlap_comm = 0;
    check(forecast(serial, profile), compute + BUCKETS * (BYTES * 0.25 + 100) + 200,
          BUCKETS * (BYTES * 0.25 + 100) + 200, 0);
}

/* Narrowed leaves are half the bytes, at every stage where leaves are what is reduced. */
static void test_narrow_leaves(void **state)
{
    (void)state;
    sherd_profile profile = base;
    profile.reduce_ns_per_byte = 0.25;
    sherd_config config = make_config(2, 1, 1), sums = make_config(1, 2, 1);
    config.wire = sums.wire = SHERD_WIRE_BF16;
    check(forecast(config, profile), compute + BYTES / 2 * 0.25, BYTES / 2 * 0.25, 0);
    check(forecast(sums, profile), 2 * compute + BYTES * 0.25, BYTES * 0.25, 0);
    config.wire = SHERD_WIRE_FP32;
    check(forecast(config, profile), compute + BYTES * 0.25, BYTES * 0.25, 0);
}

/* Communication that takes longer than everything else: what a delay per bucket adds is known to the nanosecond. */
static void test_delay(void **state)
{
    (void)state;
    sherd_profile profile = base;
    profile.collective_ns = 50e6;
    sherd_forecast got = forecast(make_config(2, 1, 1), profile);
    /* The first reduction starts after one bucket's backward, then one by one: 4 of them, the vote, 4 gathers; of
     * forward only the last bucket is not hidden. */
    double step = ELEMS * 2.0 + (BUCKETS + 1 + BUCKETS) * 50e6 + ELEMS * 1.0;
    check(got, step, step - compute, 0);
}

/* Updates: stage 2 updates half of each bucket, stage 0 all of it. Last bucket first; each forward waits for its own.
 */
static void test_update(void **state)
{
    (void)state;
    sherd_profile profile = base;
    profile.update_ns_per_elem = 1.5; /* 768 and 1536 ns per bucket against 1024 of forward */
    check(forecast(make_config(2, 1, 1), profile), compute + 768, 0, 768);
    check(forecast(make_config(0, 1, 1), profile), compute + 4 * 1536 - 3 * 1024, 0, 4 * 1536 - 3 * 1024);
}

/* Accumulation: stage 2 reduces every micro-step, stages 0 and 1 only the last. */
static void test_accumulation(void **state)
{
    (void)state;
    sherd_profile profile = base;
    profile.collective_ns = 1e6; /* dwarfs compute */
    for (int64_t k = 2; k <= 512; k *= 4) {
        sherd_forecast two = forecast(make_config(2, k, 1), profile), one = forecast(make_config(1, k, 1), profile);
        /* The comm stream rests once in a micro-step: bucket 0 takes over bucket 3's slot of the three and is filled
         * when that is released. Of forward only the last bucket is not hidden. */
        double step = (double)k * ELEMS * 2.0 + (double)(BUCKETS * k + 1 + BUCKETS) * 1e6 + ELEMS * 1.0;
        check(two, step, step - compute * (double)k, 0);
        double last = ELEMS * 2.0 + (BUCKETS + 1 + BUCKETS) * 1e6 + ELEMS * 1.0;
        check(one, compute * (double)(k - 1) + last, last - compute, 0);
    }
}

/* Two buckets have a slot each, so that the comm stream never rests: there is always a reduction in line. */
static void test_no_rest(void **state)
{
    (void)state;
    sherd_profile profile = base;
    profile.collective_ns = 1e6;
    for (int64_t k = 1; k <= 100; k++) {
        double step = ELEMS * 2.0 + (double)(2 * k + 1 + 2) * 1e6 + ELEMS * 1.0;
        check(forecast_of(2, make_config(2, k, 1), profile), step, step - compute / 2 * (double)k, 0);
    }
}

/* Micro-steps beyond counting are not simulated one by one. */
static void test_many_micro_steps(void **state)
{
    (void)state;
    int64_t k = (int64_t)1 << 40;
    check(forecast(make_config(2, k, 1), base), compute * (double)k, 0, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_costs), cmocka_unit_test(test_narrow_leaves),
        cmocka_unit_test(test_last_reduction),
        cmocka_unit_test(test_delay),
        cmocka_unit_test(test_update),
        cmocka_unit_test(test_accumulation),
        cmocka_unit_test(test_no_rest),
        cmocka_unit_test(test_many_micro_steps),
    };
    return cmocka_run_group_tests_name("shard/forecast", tests, NULL, NULL);
}
