/* SPDX-License-Identifier: MIT
 *
 * Steps that end early, micro-steps that are discarded at any point, and parameters read outside micro-steps: the bits
 * are the oracle's, which knows of the first only. Ranks that disagree end with a sentence.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

static engine_case micro_case(uint32_t i, int32_t world)
{
    engine_case c = case_plain(world, i, 6);

    c.accumulation = 1 + (int64_t)(i / 3 % 3);
    c.early = i % 2;
    c.discard = i % 3 != 1 || i % 2 == 0;
    c.evaluate = 1;
    c.arrival = (case_arrival)(i % 3);
    if (i % 5 > 2) {
        c.tenths = 10;
        c.disk = i % 5 == 4;
        c.speculate = i % 5 == 3;
        c.workers = 1;
    }
    return c;
}

static void test_equal_to_the_oracle(void **state)
{
    uint64_t discarded = 0, restarted = 0, speculated = 0;
    case_result want;
    compared_run run;

    (void)state;
    for (int32_t world = 1; world <= 3; world++)
        for (uint32_t i = 0; i < 18; i++) {
            run.c = micro_case(i, world);
            compared_run_and_compare(&run, &want);
            discarded += run.results[0].discarded;
            restarted += run.results[0].restarted;
            speculated += run.results[0].speculated;
        }
    assert_true(discarded > 100 && restarted > 10 && speculated > 0);
}

/* The mean is over the micro-steps there are: the same step without the early end has other bits. */
static void test_early_matters(void **state)
{
    case_result early, whole;
    engine_case c = micro_case(3, 2);

    (void)state;
    c.accumulation = 3;
    c.early = 1;
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &early);
    c.early = 0;
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &whole);
    assert_memory_not_equal(early.state_hash, whole.state_hash, 16);
}

/* ------------------------------------------------------------------------------------------------- disagreements */

enum { ELEMS = 600, K = 3 };

typedef struct quarrel {
    int32_t stage;
    int act; /* what rank 1 does otherwise: 0 ends the step early, 1 discards, 2 discards the last one */
    sherd_status status[2];
    sherd_error err[2];
} quarrel;

static sherd_status one_micro(sherd_engine *engine, int last, int discard, sherd_error *err)
{
    sherd_grad grad;
    sherd_status status = sherd_micro_begin(engine, NULL);

    if (status == SHERD_OK && last)
        status = sherd_micro_last(engine, err);
    if (status == SHERD_OK)
        status = sherd_grad_acquire(engine, 0, &grad);
    if (status == SHERD_OK)
        memset(grad.data, 0, ELEMS * sizeof(float));
    if (status == SHERD_OK)
        status = sherd_grad_ready(engine, 0);
    if (status == SHERD_OK)
        status = discard ? sherd_micro_discard(engine, err) : sherd_engine_step(engine, NULL, err);
    if (status != SHERD_OK)
        sherd_engine_error(engine, err);
    return status;
}

static void quarrel_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    quarrel *q = ctx;
    sherd_param param = {.name = "w", .ndim = 1, .shape = {ELEMS}};
    sherd_engine *engine = NULL;
    sherd_plan *plan = NULL;
    sherd_config config;
    sherd_status status;
    sherd_error *err = &q->err[rank];

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.gradient_accumulation_steps = K;
    config.zero.stage = q->stage;
    config.sherd.fail_after_s = 20;
    status = sherd_plan_create(&config, &param, 1, 2, &plan, err);
    if (status == SHERD_OK)
        status = sherd_engine_create(plan, device, comm, &engine, err);
    for (int step = 0; status == SHERD_OK && step < 3; step++)
        for (int k = 0; status == SHERD_OK && k < K; k++) {
            int odd = rank == 1 && step == 1 && k == (q->act == 2 ? K - 1 : 1);
            status = one_micro(engine, odd && q->act == 0, odd && q->act > 0, err);
            if (odd)
                k = q->act == 0 ? K : k;
        }
    q->status[rank] = status;
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static void test_disagreement_is_a_sentence(void **state)
{
    world_options options = {.world = 2, .threads = 1, .fail_after_s = 20};

    (void)state;
    for (int32_t stage = 0; stage < 3; stage++)
        for (int act = 0; act < 3; act++) {
            quarrel q = {.stage = stage, .act = act};
            assert_int_equal(world_run_threads(&options, quarrel_rank, &q), 0);
            for (int r = 0; r < 2; r++) {
                if (q.status[r] != SHERD_EMISMATCH && q.status[r] != SHERD_EABORTED)
                    fail_msg("stage %d, act %d, rank %d: %s: %s", stage, act, r, sherd_status_name(q.status[r]),
                             q.err[r].text);
                printf("stage %d, act %d, rank %d: %s\n", stage, act, r, q.err[r].text);
            }
            assert_true(q.status[0] == SHERD_EMISMATCH || q.status[1] == SHERD_EMISMATCH);
        }
}

static void test_refusals(void **state)
{
    sherd_param param = {.name = "w", .ndim = 1, .shape = {ELEMS}};
    sherd_device *device;
    sherd_engine *engine;
    sherd_config config;
    sherd_micro micro;
    sherd_comm *comm;
    sherd_plan *plan;
    sherd_error err;
    sherd_grad grad;

    (void)state;
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.gradient_accumulation_steps = K;
    assert_int_equal(sherd_plan_create(&config, &param, 1, 1, &plan, NULL), SHERD_OK);
    assert_int_equal(sherd_device_create(NULL, &device, NULL), SHERD_OK);
    assert_int_equal(sherd_comm_create_self(NULL, &comm, NULL), SHERD_OK);
    assert_int_equal(sherd_engine_create(plan, device, comm, &engine, NULL), SHERD_OK);
    assert_int_equal(sherd_micro_last(engine, &err), SHERD_ESTATE);
    assert_non_null(strstr(err.text, "no micro-step is open"));
    assert_int_equal(sherd_micro_discard(engine, &err), SHERD_ESTATE);
    assert_int_equal(sherd_grad_acquire(engine, 0, &grad), SHERD_ESTATE); /* evaluation has no gradients */
    assert_int_equal(sherd_micro_begin(engine, &micro), SHERD_OK);
    assert_int_equal(sherd_grad_acquire(engine, 0, &grad), SHERD_OK);
    assert_int_equal(sherd_micro_last(engine, &err), SHERD_ESTATE);
    assert_non_null(strstr(err.text, "have come already"));
    assert_int_equal(sherd_micro_discard(engine, &err), SHERD_OK);
    /* Declared with a micro-step, gone with it. */
    assert_int_equal(sherd_micro_begin(engine, &micro), SHERD_OK);
    assert_int_equal(sherd_micro_last(engine, &err), SHERD_OK);
    assert_int_equal(sherd_micro_discard(engine, &err), SHERD_OK);
    assert_int_equal(sherd_micro_begin(engine, &micro), SHERD_OK);
    assert_true(micro.index == 0 && !micro.last && micro.step == 1);
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_to_the_oracle),
        cmocka_unit_test(test_early_matters),
        cmocka_unit_test(test_disagreement_is_a_sentence),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
