/* SPDX-License-Identifier: MIT
 *
 * sherd.master_remainder: masters of bf16 parameters in two halves, the working copy and 16 bits beside it. The oracle
 * knows nothing of it and keeps fp32: all optimizers, stages, bucket sizes, both types of moments, worlds, tiers, and
 * what else can happen to state must give its bits; ledgers must be the plans; checkpoints must be the same files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/checkpoints.h"
#include "tests/engine/compare.h"

enum { STEPS = 4, PLAIN = 63 };

static uint32_t combinations;

static engine_case bf16_case(uint32_t i, int32_t world)
{
    static const int64_t buckets[] = {1, 3000, (int64_t)1 << 40};
    engine_case c = case_plain(world, i, STEPS);

    c.dtype = SHERD_BF16;
    c.stage = (int32_t)(i % 3);
    c.bucket = buckets[i / 3 % 3];
    c.optimizer = (sherd_optimizer)(i / 9 % (SHERD_MUON + 1));
    c.accumulation = i % 5 == 4 ? 3 : 1;
    c.moments_bf16 = (int32_t)(i % 2);
    c.read_back = i % 3 == 1;
    c.remainder = 1;
    return c;
}

static void run_and_compare(engine_case c)
{
    compared_run run = {.c = c};
    case_result want;

    compared_run_and_compare(&run, &want);
    for (int32_t r = 0; r < c.world; r++)
        if (!run.results[r].memory_matches)
            fail_msg("%s: rank %d: the ledger is not the plan", case_name(&c), r);
    combinations++;
}

static void test_everywhere(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 4; world++)
        for (uint32_t i = 0; i < PLAIN; i++)
            run_and_compare(bf16_case(i, world));
}

/* What is on the device in halves, on the host and on disk as fp32. */
static void test_offloaded_in_parts(void **state)
{
    engine_case c;

    (void)state;
    for (int32_t world = 1; world <= 3; world++)
        for (uint32_t i = (uint32_t)world; case_offload_at(i, world, STEPS, &c); i += 3) {
            c.remainder = 1;
            c.dtype = SHERD_BF16;
            run_and_compare(c);
        }
}

/* Types side by side; lent memory; reads and writes by range; micro-steps that are discarded and steps that end early;
 * a new plan on the way; one tree over all micro-batches; comparisons of replicas. */
static void test_what_else_happens(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 60; i++) {
        engine_case c = bf16_case(i * 7, 1 + (int32_t)(i % 3));
        switch (i / 3 % 10) {
        case 0:
            c.mixed = 1;
            break;
        case 1:
            c.borrow = c.read_back = 1;
            break;
        case 2:
            c.ranges = c.read_back = 1;
            break;
        case 3:
            c.discard = c.early = 1;
            c.accumulation = 3;
            break;
        case 4:
            c.replan = 1;
            c.arrival = ARRIVE_FORWARD;
            break;
        case 5:
            c.reproducible = 1;
            c.accumulation = c.world == 3 ? 1 : 4;
            break;
        case 6:
            c.check_replicas = 1;
            break;
        case 7:
            c.evaluate = c.borrow = c.mixed = c.ranges = 1;
            break;
        case 8:
            c.rates = 1;
            break;
        default:
            c.replan = c.mixed = c.ranges = 1;
            c.arrival = ARRIVE_FORWARD;
            break;
        }
        run_and_compare(c);
    }
}

/* Masters that become NaN and infinite. */
static void test_not_finite(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 18; i++) {
        engine_case c = bf16_case(3 * i, 1 + (int32_t)(i % 3));
        c.bad_step = 2;
        c.unchecked = 1;
        c.clipping = i % 2 ? 0 : 0.02;
        c.read_back = c.borrow = 1; /* the working copies are looked at too */
        run_and_compare(c);
    }
}

static void test_processes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        compared_run *run = world_shared(sizeof *run);
        world_options options = {.world = 3, .threads = 2};
        case_result want;
        run->c = bf16_case(5 + 13 * i, 3);
        assert_int_equal(world_run_processes(&options, 60, compared_run_rank, run), 0);
        case_run_oracle(&run->c, SHERD_ORACLE_RIGHT, &want);
        for (int32_t r = 0; r < 3; r++)
            assert_true(case_equal(&want, &run->results[r], STEPS) && run->results[r].memory_matches);
        combinations++;
    }
}

static void test_checking_device(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        compared_run run = {.c = bf16_case(i + 45 * (i % 2) + 9 * (i % 4 == 3), 2 + (int32_t)(i % 2))};
        world_options options = {.world = run.c.world, .threads = 1};
        case_result want;
        sherd_error err;
        uint64_t operations = 0;
        run.c.blind = i % 3 == 2;
        run.c.ranges = i % 4 == 1;
        assert_int_equal(sherd_checker_create(run.c.world, i + 1, &options.checker, &err), SHERD_OK);
        assert_int_equal(world_run_threads(&options, compared_run_rank, &run), 0);
        if (sherd_checker_verdict(options.checker, &operations, &err) != SHERD_OK)
            fail_msg("%s: %s", case_name(&run.c), err.text);
        case_run_oracle(&run.c, SHERD_ORACLE_RIGHT, &want);
        for (int32_t r = 0; r < run.c.world; r++)
            if (!case_equal(&want, &run.results[r], STEPS))
                fail_msg("%s: rank %d: %s", case_name(&run.c), r, run.results[r].error.text);
        assert_true(operations > 100);
        sherd_checker_destroy(options.checker);
        combinations++;
    }
}

static void same_file(const char *a, const char *b, const char *name)
{
    char path[2][CHECKPOINTS_NAME + 96];
    unsigned char *data[2];
    size_t bytes[2];

    snprintf(path[0], sizeof path[0], "%s/%s", a, name);
    snprintf(path[1], sizeof path[1], "%s/%s", b, name);
    for (int k = 0; k < 2; k++) {
        data[k] = checkpoints_read(path[k], &bytes[k]);
        assert_true(data[k] != NULL && bytes[k] > 0);
    }
    if (bytes[0] != bytes[1] || memcmp(data[0], data[1], bytes[0]) != 0)
        fail_msg("'%s' is not the same with remainders as without", name);
    free(data[0]);
    free(data[1]);
}

/* The whole checkpoint is the same with and without; and each kind of run goes on from the other's. */
static void test_checkpoints(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 12; i++) {
        engine_case c = bf16_case(i * 5, 1 + (int32_t)(i % 3));
        char folder[2][CHECKPOINTS_NAME], name[96];
        c.mixed = i % 4 == 3;
        c.save_at = 2;
        for (int k = 0; k < 2; k++) {
            checkpoints_folder(folder[k]);
            c.save_to = folder[k];
            c.remainder = k;
            run_and_compare(c);
        }
        same_file(folder[0], folder[1], "latest");
        same_file(folder[0], folder[1], "step-2/manifest.json");
        same_file(folder[0], folder[1], "step-2/model.safetensors");
        for (int32_t r = 0; r < c.world; r++) {
            snprintf(name, sizeof name, "step-2/optimizer-%05d-of-%05d.safetensors", r, c.world);
            same_file(folder[0], folder[1], name);
        }
        c.save_to = NULL;
        c.first = 2;
        for (int k = 0; k < 2; k++) {
            compared_run run = {.c = c};
            case_result want;
            run.c.load_from = folder[!k];
            run.c.remainder = k;
            run.c.stage = c.accumulation == 1 ? (int32_t)((i + 1) % 3) : c.stage;
            run.c.tenths = c.optimizer == SHERD_MUON ? 0 : (int32_t)(i % 4 * 3);
            run.c.read_back = 1;
            compared_run_world(&run);
            case_run_oracle(&c, SHERD_ORACLE_RIGHT, &want);
            for (int32_t r = 0; r < c.world; r++)
                if (run.results[r].status != SHERD_OK || memcmp(run.results[r].state_hash, want.state_hash, 16) != 0)
                    fail_msg("%s: resumed, rank %d: %s", case_name(&run.c), r, run.results[r].error.text);
            combinations++;
        }
        checkpoints_remove(folder[0]);
        checkpoints_remove(folder[1]);
    }
}

static sherd_memory memory_of(engine_case c, int remainder)
{
    sherd_param params[16];
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_memory memory;
    uint32_t n;

    c.remainder = remainder;
    case_params(&c, params, &n);
    assert_int_equal(case_config(&c, &config, NULL), SHERD_OK);
    assert_int_equal(sherd_plan_create(&config, params, n, c.world, &plan, NULL), SHERD_OK);
    assert_int_equal(sherd_plan_memory(plan, 0, &memory), SHERD_OK);
    sherd_plan_destroy(plan);
    return memory;
}

/* Half of what masters took, and not a byte elsewhere; nothing at all where no bf16 bucket is on the device. */
static void test_memory(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 24; i++) {
        engine_case c = bf16_case(i, 1 + (int32_t)(i % 4));
        sherd_memory with, without;
        int effect = i / 12 % 2 == 0;
        if (i >= 12) {
            c.dtype = i % 3 == 0 ? SHERD_FP32 : i % 3 == 1 ? SHERD_FP16 : SHERD_BF16;
            c.tenths = c.dtype == SHERD_BF16 ? 10 : 0;
        }
        with = memory_of(c, 1);
        without = memory_of(c, 0);
        if (effect) {
            uint64_t *half = &with.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER];
            assert_true(*half > 0 && 2 * *half == without.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER]);
            *half *= 2;
        }
        assert_memory_equal(&with, &without, sizeof with);
    }
}

/* No memory for something, at any moment: an error, and nothing is left. */
static void test_allocations(void **state)
{
    engine_case c = bf16_case(0, 1);

    (void)state;
    c.steps = 1;
    c.mixed = 1;
    c.ranges = 1;
    c.moments_bf16 = 0;
    assert_true(compared_fail_allocations(&c) > 30);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_everywhere),
        cmocka_unit_test(test_offloaded_in_parts),
        cmocka_unit_test(test_what_else_happens),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_checking_device),
        cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_allocations),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u combinations with masters in halves\n", combinations);
    return failed;
}
