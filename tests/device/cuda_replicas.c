/* SPDX-License-Identifier: MIT
 *
 * sherd.check_replicas with ranks on CUDA devices over the stub: working copies cross in pieces before they are
 * digested, so the bit that differs lies in a first piece, behind its end, in a short last one, and in a parameter that
 * is less than a piece. It shows nothing about a GPU.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "sherd/sherd_cuda.h"
#include "tests/engine/worlds.h"
#include "tests/support/cuda_stub/stub.h"

enum { WORLD = 3, PARAMS = 3, STEPS = 4, LARGE = 50000 };

static const int64_t elems[PARAMS] = {LARGE, 5, 300};
static const char *const names[PARAMS] = {"large", "small", "b"};

typedef struct run {
    int32_t world, stage;
    sherd_dtype dtype;
    int32_t param; /* of which a bit is spoilt after the second step; -1: none */
    uint64_t byte; /* of its working copy */
    sherd_error error[WORLD];
    int64_t steps[WORLD]; /* that ended well */
} run;

static sherd_device *make_device(void)
{
    sherd_cuda_options options;
    sherd_device *device = NULL;

    sherd_cuda_options_init(&options, sizeof options);
    return sherd_device_create_cuda(&options, &device, NULL) == SHERD_OK ? device : NULL;
}

/* Memory of the stub's GPU is main memory, while nobody hides it. */
static sherd_status spoil(sherd_engine *engine, const run *run, sherd_error *err)
{
    sherd_status status = sherd_engine_wait(engine, err);

    if (status == SHERD_OK)
        ((uint8_t *)engine->params.local)[engine->plan->params[run->param].param_offset + run->byte] ^= 1;
    return status;
}

/* What is spoilt is frozen: else the update, or at stages 1 and 2 the gather, would mend it. */
static sherd_status step(sherd_engine *engine, const run *run, sherd_error *err)
{
    static const uint32_t gradient[LARGE] = {0x3f800000, 0x40000000}; /* any bits of either type */
    sherd_status status = sherd_micro_begin(engine, NULL);

    for (uint32_t p = PARAMS; status == SHERD_OK && p-- > 0;)
        if (p != (uint32_t)run->param)
            status = sherd_grad_copy(engine, p, gradient, run->dtype);
    return status == SHERD_OK ? sherd_engine_step(engine, NULL, err) : sherd_engine_error(engine, err);
}

static void train(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    run *run = ctx;
    sherd_error *err = &run->error[rank];
    sherd_param params[PARAMS] = {0};
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_engine *engine = NULL;
    sherd_status status;

    sherd_config_init(&config, sizeof config);
    config.zero.stage = run->stage;
    config.train_micro_batch_size_per_gpu = 1;
    config.dtype = run->dtype;
    config.faults.check_replicas = 2;
    for (uint32_t p = 0; p < PARAMS; p++)
        params[p] = (sherd_param){.name = names[p],
                                  .shape = {elems[p]},
                                  .ndim = 1,
                                  .dtype = run->dtype,
                                  .grad_dtype = run->dtype,
                                  .flags = p == (uint32_t)run->param ? SHERD_PARAM_FROZEN : 0};
    status = sherd_plan_create(&config, params, PARAMS, run->world, &plan, err);
    if (status == SHERD_OK)
        status = sherd_engine_create(plan, device, comm, &engine, err);
    for (int s = 1; status == SHERD_OK && s <= STEPS; s++) {
        if (s == 3 && rank == run->world - 1 && run->param >= 0)
            status = spoil(engine, run, err);
        if (status == SHERD_OK)
            status = step(engine, run, err);
        run->steps[rank] += status == SHERD_OK;
    }
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static void run_world(run *run)
{
    world_options options = {.world = run->world, .fail_after_s = 30, .make_device = make_device};

    cuda_stub_reset(1, 0);
    assert_int_equal(world_run_threads(&options, train, run), 0);
    assert_true(cuda_stub_calls("update") > 0);
}

static void test_a_bit_is_found_wherever_it_lies(void **state)
{
    static const struct {
        sherd_dtype dtype;
        int32_t param;
        uint64_t byte;
    } bits[] = {{SHERD_FP32, 0, 0},
                {SHERD_FP32, 0, 65535},
                {SHERD_FP32, 0, 65536},
                {SHERD_FP32, 0, LARGE * 4 - 1},
                {SHERD_BF16, 0, LARGE * 2 - 1},
                {SHERD_BF16, 1, 9},
                {SHERD_FP32, 2, 1199},
                {SHERD_FP16, 1, 0}};

    (void)state;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++)
        for (int32_t world = 2; world <= WORLD; world++) {
            run run = {.world = world,
                       .dtype = bits[i].dtype,
                       .stage = (int32_t)i % 3,
                       .param = bits[i].param,
                       .byte = bits[i].byte};
            char says[128];
            run_world(&run);
            snprintf(says, sizeof says,
                     world == 2 ? "step 4: ranks 0 and 1 have different working copies of '%s'"
                                : "step 4: rank 2 has another working copy of '%s' than most",
                     names[bits[i].param]);
            for (int32_t r = 0; r < world; r++) {
                if (!strstr(run.error[r].text, says))
                    fail_msg("row %zu: rank %d does not say '%s' but: %s", i, (int)r, says, run.error[r].text);
                assert_int_equal(run.error[r].status, SHERD_EMISMATCH);
                assert_int_equal(run.error[r].rank, world == 2 ? -1 : 2);
                assert_int_equal(run.steps[r], 3);
            }
        }
}

static void test_equal_ranks_go_on(void **state)
{
    static const sherd_dtype types[] = {SHERD_FP32, SHERD_BF16, SHERD_FP16};

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        run run = {.world = WORLD, .dtype = types[i], .stage = (int32_t)i, .param = -1};
        run_world(&run);
        for (int32_t r = 0; r < WORLD; r++)
            if (run.steps[r] != STEPS)
                fail_msg("rank %d: %s", (int)r, run.error[r].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_bit_is_found_wherever_it_lies),
        cmocka_unit_test(test_equal_ranks_go_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
