/* SPDX-License-Identifier: MIT
 *
 * Placement at its edges: every budget around every candidate's bytes, by exhaustion. What leaves the device is counted
 * by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/make.h"

enum { BUCKETS = 6, ELEMS = 1000, SLICE = 512 /* at two ranks: 1000 is padded to 1024 */, STATE = 12 };

static make_table table;

static sherd_status make(const sherd_config *config, sherd_plan **plan, sherd_error *err)
{
    *plan = NULL;
    return sherd_plan_create(config, table.params, table.n, 2, plan, err);
}

static sherd_config config_of(int32_t stage)
{
    table.n = 0;
    for (int i = 0; i < BUCKETS; i++) {
        sherd_param *param = make_param(&table, ELEMS);
        param->dtype = param->grad_dtype = SHERD_BF16;
    }
    return make_config(stage, 1, 1);
}

static sherd_memory memory_of(const sherd_config *config)
{
    sherd_memory memory;
    sherd_plan *plan;
    sherd_error err;
    if (make(config, &plan, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    assert_int_equal(sherd_plan_memory(plan, 0, &memory), SHERD_OK);
    sherd_plan_destroy(plan);
    return memory;
}

static sherd__placement placement_of(const sherd_config *config)
{
    sherd__placement placement;
    sherd_plan *plan;
    sherd_error err;
    if (make(config, &plan, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    placement = plan->placement;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd_bucket_info info;
        assert_int_equal(sherd_plan_bucket(plan, b, &info), SHERD_OK);
        assert_int_equal(info.tier, b < placement.n_disk  ? SHERD_TIER_DISK
                                    : b < placement.n_off ? SHERD_TIER_HOST
                                                          : SHERD_TIER_DEVICE);
        assert_int_equal(info.speculated, b >= placement.n_disk && b < placement.n_disk + placement.n_speculated);
    }
    sherd_plan_destroy(plan);
    return placement;
}

static uint64_t host_total(const sherd_config *config)
{
    sherd_memory memory = memory_of(config);
    return sherd_memory_total(&memory, SHERD_TIER_HOST);
}

static uint64_t device_total(const sherd_config *config)
{
    sherd_memory memory = memory_of(config);
    return sherd_memory_total(&memory, SHERD_TIER_DEVICE);
}

/* Offloads the first n buckets by ratio. */
static sherd_config offload_n(sherd_config config, int n)
{
    config.offload.tier = SHERD_TIER_HOST;
    config.offload.ratio = n / (double)BUCKETS;
    assert_int_equal(placement_of(&config).n_off, n);
    return config;
}

static void test_bytes(void **state)
{
    (void)state;
    sherd_config plain = config_of(2);
    sherd_memory none = memory_of(&plain);
    for (int n = 1; n <= BUCKETS; n++) {
        sherd_config config = offload_n(plain, n);
        sherd_memory got = memory_of(&config);
        const uint64_t *device = got.bytes[SHERD_TIER_DEVICE], *host = got.bytes[SHERD_TIER_HOST];
        const uint64_t *before = none.bytes[SHERD_TIER_DEVICE];
        uint64_t elems = (uint64_t)n * SLICE;
        int slots = n < (int)SHERD__SUM_SLOTS ? n : (int)SHERD__SUM_SLOTS;
        assert_int_equal(before[SHERD_CAT_MASTER] - device[SHERD_CAT_MASTER], 4 * elems);
        assert_int_equal(before[SHERD_CAT_MOMENTS] - device[SHERD_CAT_MOMENTS], 8 * elems);
        assert_int_equal(before[SHERD_CAT_GRAD_SUMS] - device[SHERD_CAT_GRAD_SUMS], 4 * elems);
        assert_int_equal(device[SHERD_CAT_STAGING], slots * 4 * SLICE);
        assert_int_equal(device[SHERD_CAT_PARAMETERS], before[SHERD_CAT_PARAMETERS]);
        assert_int_equal(device[SHERD_CAT_GRADIENTS], before[SHERD_CAT_GRADIENTS]);
        assert_int_equal(host[SHERD_CAT_MASTER], 4 * elems);
        assert_int_equal(host[SHERD_CAT_MOMENTS], 8 * elems);
        assert_int_equal(host[SHERD_CAT_GRAD_SUMS], 4 * elems);
        assert_int_equal(host[SHERD_CAT_STAGING], slots * 2 * SLICE);
        assert_int_equal(host[SHERD_CAT_SPECULATION], 0);
        config.offload.speculate = 1; /* twice the state, and an emit of its own: 30 bytes in all with the sum */
        got = memory_of(&config);
        assert_int_equal(host[SHERD_CAT_SPECULATION], (STATE + 2) * elems);
        assert_int_equal(host[SHERD_CAT_STAGING], 0);
        assert_int_equal(host[SHERD_CAT_MASTER] + host[SHERD_CAT_MOMENTS] + host[SHERD_CAT_GRAD_SUMS] +
                             host[SHERD_CAT_SPECULATION],
                         30 * elems);
    }
}

static void test_sums_stay_where_they_are_added(void **state)
{
    (void)state;
    sherd_config config = config_of(2);
    sherd_memory none, got;
    config.gradient_accumulation_steps = 3; /* sums cross once per step, so they live on the device until then */
    none = memory_of(&config);
    config = offload_n(config, BUCKETS);
    got = memory_of(&config);
    assert_int_equal(got.bytes[SHERD_TIER_DEVICE][SHERD_CAT_GRAD_SUMS],
                     none.bytes[SHERD_TIER_DEVICE][SHERD_CAT_GRAD_SUMS]);
    assert_int_equal(got.bytes[SHERD_TIER_DEVICE][SHERD_CAT_STAGING], 0);
    assert_int_equal(got.bytes[SHERD_TIER_HOST][SHERD_CAT_GRAD_SUMS], 4 * BUCKETS * SLICE);
}

static void test_device_budgets(void **state)
{
    (void)state;
    for (int32_t stage = 0; stage <= 2; stage++) {
        sherd_config plain = config_of(stage), config = plain;
        uint64_t total[BUCKETS + 1], least = UINT64_MAX;
        for (int n = 0; n <= BUCKETS; n++) {
            config = n == 0 ? plain : offload_n(plain, n);
            total[n] = device_total(&config);
            least = total[n] < least ? total[n] : least;
        }
        for (int n = 0; n <= BUCKETS; n++)
            for (int off = -1; off <= 1; off++) {
                uint64_t budget = total[n] + (uint64_t)(int64_t)off;
                sherd_plan *plan;
                sherd_error err;
                int expect = 0;
                while (expect <= BUCKETS && total[expect] > budget)
                    expect++;
                config = plain;
                config.offload.device_memory_budget = (int64_t)budget;
                if (expect > BUCKETS) {
                    assert_int_equal(make(&config, &plan, &err), SHERD_EINVAL);
                    assert_non_null(strstr(err.text, "device_memory_budget"));
                    continue;
                }
                assert_int_equal(placement_of(&config).n_off, expect);
                assert_true(device_total(&config) <= budget);
            }
        config.offload.device_memory_budget = (int64_t)total[0] * 10; /* more than all */
        assert_int_equal(placement_of(&config).n_off, 0);
        config.offload.device_memory_budget = (int64_t)least; /* exactly enough */
        assert_true(device_total(&config) == least);
        sherd_plan *plan;
        sherd_error err;
        config.offload.device_memory_budget = 0;
        assert_int_equal(make(&config, &plan, &err), SHERD_EINVAL);
    }
}

static void test_host_budgets(void **state)
{
    (void)state;
    sherd_config plain = offload_n(config_of(2), 5), config = plain;
    uint64_t all = host_total(&plain), budget;
    uint32_t before = 0;
    sherd_plan *plan;
    sherd_error err;

    config.offload.host_memory_budget = (int64_t)all;
    assert_int_equal(placement_of(&config).n_disk, 0);
    config.offload.host_memory_budget = (int64_t)all - 1;
    assert_int_equal(make(&config, &plan, &err), SHERD_EINVAL); /* no folder for the rest */
    assert_non_null(strstr(err.text, "nvme_path"));
    strcpy(config.offload.nvme_path, "/somewhere");
    config.offload.buffer_count = 1;
    for (budget = all; budget > all / 3; budget -= 256) {
        sherd__placement placement;
        config.offload.host_memory_budget = (int64_t)budget;
        if (make(&config, &plan, &err) != SHERD_OK) {
            assert_non_null(strstr(err.text, "host_memory_budget"));
            break;
        }
        sherd_plan_destroy(plan);
        placement = placement_of(&config);
        assert_int_equal(placement.n_off, 5);
        assert_true(host_total(&config) <= budget);
        assert_true(placement.n_disk >= before); /* less memory, more on disk */
        before = placement.n_disk;
    }
    assert_true(budget > all / 3);
}

static void test_speculation_takes_what_is_left(void **state)
{
    (void)state;
    sherd_config config = offload_n(config_of(2), 5);
    uint64_t without = host_total(&config);
    uint32_t before = 0;

    config.offload.speculate = 1;
    assert_int_equal(placement_of(&config).n_speculated, 5);
    for (uint64_t budget = without; budget < without + 5 * SLICE * (STATE + 2) + 1; budget += 128) {
        sherd__placement placement;
        config.offload.host_memory_budget = (int64_t)budget;
        placement = placement_of(&config);
        assert_int_equal(placement.n_off, 5);
        assert_true(placement.n_speculated >= before && placement.n_speculated <= 5);
        assert_true(host_total(&config) <= budget);
        before = placement.n_speculated;
    }
    assert_int_equal(before, 5);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        double ratio;
        int64_t device, host;
        int32_t buffers;
        const char *says;
    } bad[] = {
        {1.5, -1, -1, 4, "ratio"},       {1, SHERD_BUDGET_AUTO, -1, 4, "auto"}, {1, -1, SHERD_BUDGET_AUTO, 4, "auto"},
        {1, -7, -1, 4, "memory budget"}, {1, -1, -1, 0, "buffer_count"},        {1, -1, -1, 65, "buffer_count"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sherd_config config = config_of(2);
        sherd_plan *plan;
        sherd_error err;
        config.offload.tier = SHERD_TIER_HOST;
        config.offload.ratio = bad[i].ratio;
        config.offload.device_memory_budget = bad[i].device;
        config.offload.host_memory_budget = bad[i].host;
        config.offload.buffer_count = bad[i].buffers;
        assert_int_equal(make(&config, &plan, &err), SHERD_EINVAL);
        if (!strstr(err.text, bad[i].says))
            fail_msg("'%s' does not say '%s'", err.text, bad[i].says);
    }
}

static void test_ratio(void **state)
{
    (void)state;
    sherd_config config = config_of(1);
    config.offload.tier = SHERD_TIER_HOST;
    for (int tenth = 0; tenth <= 10; tenth++) {
        uint32_t n;
        config.offload.ratio = tenth / 10.0;
        n = placement_of(&config).n_off;
        assert_true(n * 10 >= (uint32_t)(tenth * BUCKETS));                /* at least the share … */
        assert_true(n == 0 || (n - 1) * 10 < (uint32_t)(tenth * BUCKETS)); /* … and no bucket more */
    }
}

/* Two bytes instead of four for every master that stays on the device, so that less need leave it; nothing off it. */
static void test_remainders(void **state)
{
    sherd_config config = config_of(2), with = config;
    sherd_memory memory, less;
    uint64_t all = BUCKETS * SLICE;

    (void)state;
    with.master_remainder = 1;
    memory = memory_of(&config);
    less = memory_of(&with);
    assert_int_equal(memory.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER], all * 4);
    assert_int_equal(less.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER], all * 2);
    assert_int_equal(sherd_memory_total(&memory, SHERD_TIER_DEVICE) - sherd_memory_total(&less, SHERD_TIER_DEVICE),
                     all * 2);
    config.offload.device_memory_budget = with.offload.device_memory_budget =
        (int64_t)sherd_memory_total(&less, SHERD_TIER_DEVICE);
    assert_int_equal(placement_of(&with).n_off, 0);
    assert_true(placement_of(&config).n_off > 0);
    with.offload.device_memory_budget--;
    assert_true(placement_of(&with).n_off > 0);
    with.offload.device_memory_budget = SHERD_BUDGET_NONE;
    with.offload.tier = SHERD_TIER_HOST;
    with.offload.ratio = 0.5;
    less = memory_of(&with);
    assert_int_equal(less.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER], all / 2 * 2);
    assert_int_equal(less.bytes[SHERD_TIER_HOST][SHERD_CAT_MASTER], all / 2 * 4);
}

/* One line of the report says on what it works. */
static void test_remainders_are_reported(void **state)
{
    sherd_config config = config_of(2);
    sherd_plan *plan;
    sherd_error err;
    static char text[1 << 16];

    (void)state;
    config.master_remainder = 1;
    config.offload.tier = SHERD_TIER_HOST;
    config.offload.ratio = 0.1;
    table.params[2].dtype = table.params[2].grad_dtype = SHERD_FP16;
    table.params[3].dtype = table.params[3].grad_dtype = SHERD_FP32;
    assert_int_equal(make(&config, &plan, &err), SHERD_OK);
    assert_true(sherd_plan_text(plan, text, sizeof text) < sizeof text);
    sherd_plan_destroy(plan);
    if (!strstr(text,
                "masters of 3 of 6 buckets are 16-bit remainders; master_remainder is without effect on 1 in fp32 (the "
                "working copy is the master), 1 in fp16, 1 in bf16 but off the device\n"))
        fail_msg("%s", text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_remainders),   cmocka_unit_test(test_remainders_are_reported),
        cmocka_unit_test(test_bytes),        cmocka_unit_test(test_sums_stay_where_they_are_added),
        cmocka_unit_test(test_ratio),        cmocka_unit_test(test_device_budgets),
        cmocka_unit_test(test_host_budgets), cmocka_unit_test(test_speculation_takes_what_is_left),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests_name("shard/placement", tests, NULL, NULL);
}
