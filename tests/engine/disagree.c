/* SPDX-License-Identifier: MIT
 *
 * Ranks that disagree: on the plan, found at creation; on where they are in training, found by the vote; on the values
 * of the parameters, found by sherd.check_replicas; on which call comes next, found by the collective. Every rank's own
 * sentence says which rank and what. Ranks are threads, and processes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/engine.h"
#include "tests/engine/worlds.h"

enum { PARAMS = 4 };

typedef struct difference difference;

typedef struct run {
    int32_t world;
    const difference *what;
    sherd_error error[WORLD_MAX];
    int64_t steps[WORLD_MAX]; /* that ended well */
} run;

/* What one rank has otherwise, by reaching into its configuration and parameters, or between two steps into its engine.
 */
struct difference {
    void (*config)(sherd_config *config, sherd_param *params, uint32_t *n);
    void (*engine)(sherd_engine *engine);
    sherd_status (*call)(sherd_engine *engine, sherd_error *err); /* instead of the third step */
    void (*common)(sherd_config *config, sherd_param *params,
                   uint32_t *n); /* what all ranks have otherwise than `plain` */
    const char *says[3];
};

static sherd_status step(sherd_engine *engine, uint32_t n, sherd_error *err)
{
    sherd_status status = sherd_micro_begin(engine, NULL);

    for (uint32_t p = n; status == SHERD_OK && p-- > 0;) {
        if (engine->plan->params[p].bucket < 0)
            continue;
        static const float gradient[400] = {1, 2, 3};
        status = sherd_grad_copy(engine, p, gradient, SHERD_FP32);
    }
    if (status == SHERD_OK)
        return sherd_engine_step(engine, NULL, err);
    return sherd_engine_error(engine, err);
}

static void plain(sherd_config *config, sherd_param *params, uint32_t *n)
{
    static const char *const names[PARAMS] = {"a", "b", "c", "d"};

    sherd_config_init(config, sizeof *config);
    config->zero.stage = 1;
    config->zero.reduce_bucket_size = 300;
    config->train_micro_batch_size_per_gpu = 1;
    config->gradient_accumulation_steps = 1;
    config->gradient_clipping = 0;
    config->sherd.fail_after_s = 60;
    memset(params, 0, PARAMS * sizeof *params);
    for (uint32_t p = 0; p < PARAMS; p++)
        params[p] = (sherd_param){.name = names[p], .shape = {300}, .ndim = 1};
    *n = PARAMS;
}

static void train(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    run *run = ctx;
    sherd_error *err = &run->error[rank];
    int odd = rank == run->world - 1;
    sherd_config config;
    sherd_param params[PARAMS];
    sherd_plan *plan = NULL;
    sherd_engine *engine = NULL;
    sherd_status status;
    uint32_t n;

    plain(&config, params, &n);
    if (run->what->common)
        run->what->common(&config, params, &n);
    if (odd && run->what->config)
        run->what->config(&config, params, &n);
    else if (!run->what->config)
        config.faults.check_replicas = 2;
    status = sherd_plan_create(&config, params, n, run->world, &plan, err);
    if (status == SHERD_OK)
        status = sherd_engine_create(plan, device, comm, &engine, err);
    for (int s = 1; status == SHERD_OK && s <= 4; s++) {
        if (s == 3 && odd && run->what->engine)
            run->what->engine(engine);
        status = s == 3 && odd && run->what->call ? run->what->call(engine, err) : step(engine, n, err);
        run->steps[rank] += status == SHERD_OK;
    }
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

/* All ranks end, by themselves, with these words. Returns how many steps rank 0 made. */
static int64_t expect(int32_t world, int processes, const difference *what, sherd_status status)
{
    run *run = world_shared(sizeof *run);
    world_options options = {.world = world, .fail_after_s = 30};

    assert_non_null(run);
    run->world = world;
    run->what = what;
    assert_int_equal(
        processes ? world_run_processes(&options, 40, train, run) : world_run_threads(&options, train, run), 0);
    for (int32_t r = 0; r < world; r++) {
        for (int i = 0; i < 3 && what->says[i]; i++)
            if (!strstr(run->error[r].text, what->says[i]))
                fail_msg("rank %d of %d does not say '%s' but: %s", r, world, what->says[i], run->error[r].text);
        assert_int_equal(run->error[r].status, status);
        if (!what->call)
            assert_int_equal(run->error[r].rank, world > 2 ? world - 1 : -1);
    }
    return run->steps[0];
}

/* --------------------------------------------------------------------------------------------------------------- plans
 */

#define CONFIG(name, statement)                                                                                        \
    static void name(sherd_config *config, sherd_param *params, uint32_t *n)                                           \
    {                                                                                                                  \
        (void)config, (void)params, (void)n;                                                                           \
        statement;                                                                                                     \
    }
CONFIG(other_stage, config->zero.stage = 2)
CONFIG(other_rate, config->optimizer.lr = 0.0625)
CONFIG(other_accumulation, config->gradient_accumulation_steps = 3)
CONFIG(other_clipping, config->gradient_clipping = 0.5)
CONFIG(other_scheduler, config->scheduler.warmup_num_steps = 77)
CONFIG(other_scale, config->scaling.loss_scale = 64)
CONFIG(other_cycle, config->one_cycle.max_lr = 0.5)
CONFIG(other_policy, config->faults.nonfinite = SHERD_NONFINITE_STOP)
CONFIG(other_optimizer, config->optimizer.kind = SHERD_LION)
CONFIG(other_schedule, config->scheduler.kind = SHERD_SCHED_WARMUP_COSINE)
CONFIG(other_sums, config->sherd.grad_sum_bf16 = 1)
CONFIG(other_reduction, config->allreduce_sum = 1)
CONFIG(other_overlap, config->zero.overlap_comm = 0)
CONFIG(other_wire, config->wire = SHERD_WIRE_BF16)
CONFIG(other_type, params[2].dtype = params[2].grad_dtype = SHERD_BF16)
CONFIG(other_groups, (config->n_groups = 1, config->groups[0].lr = 1e-3))
CONFIG(other_offload, (config->offload.tier = SHERD_TIER_HOST, config->offload.ratio = 1.0))
CONFIG(other_count, *n = 3)
CONFIG(other_size, params[2].shape[0] = 301)
CONFIG(other_uses, params[3].uses = 2)
CONFIG(other_name, params[1].name = "z")

static const difference plans[] = {
    {.config = other_stage,
     .says = {"holds another plan than rank 0: zero_optimization.stage is 2 on rank ", "and 1 on rank 0"}},
    {.config = other_rate, .says = {": optimizer.params.lr is 0.0625 on rank "}},
    {.config = other_accumulation, .says = {"gradient_accumulation_steps is 3 on rank "}},
    {.config = other_clipping, .says = {": gradient_clipping is 0.5 on rank ", "and 0 on rank 0"}},
    {.config = other_scheduler, .says = {": scheduler.params.warmup_num_steps is 77 on rank "}},
    {.config = other_scale, .says = {": fp16.loss_scale is 64 on rank "}},
    {.config = other_cycle, .says = {": scheduler.params.cycle_max_lr is 0.5 on rank "}},
    {.config = other_policy, .says = {": sherd.nonfinite is stop on rank ", "and auto on rank 0"}},
    {.config = other_optimizer, .says = {": optimizer.type is Lion on rank ", "and AdamW on rank 0"}},
    {.config = other_schedule, .says = {": scheduler.type is WarmupCosineLR on rank ", "and none on rank 0"}},
    {.config = other_sums, .says = {": sherd.grad_sum is bf16 on rank ", "and fp32 on rank 0"}},
    {.config = other_reduction, .says = {": gradient_allreduce_op is sum on rank ", "and mean on rank 0"}},
    {.config = other_overlap, .says = {": zero_optimization.overlap_comm is false on rank ", "and true on rank 0"}},
    {.config = other_wire, .says = {": communication_data_type is bf16 on rank ", "and absent on rank 0"}},
    {.config = other_type, .says = {": the type of parameter 2 ('c') is bf16 on rank ", "and fp32 on rank 0"}},
    {.config = other_groups, .says = {": the number of parameter groups is 1 on rank "}},
    {.config = other_offload, .says = {": the number of buckets off the device"}},
    {.config = other_count, .says = {": the number of parameters is 3 on rank ", "and 4 on rank 0"}},
    {.config = other_size,
     .says = {": the number of elements of parameter 2 ('c') is 301 on rank ", "and 300 on rank 0"}},
    {.config = other_uses, .says = {": the number of uses of parameter 3 ('d') is 2 on rank "}},
    {.config = other_name, .says = {": the name or shape (its digest) of parameter 1 ('"}},
};

static void test_another_plan_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++) {
        int32_t world = 2 + (int32_t)(i % 3);
        if (plans[i].config == other_accumulation) /* the batch follows from it, and is written down first */
            world = 2;
        assert_int_equal(expect(world, i % 4 == 1, &plans[i], SHERD_EMISMATCH), 0);
    }
}

/* ------------------------------------------------------------------------------------------------------------ progress
 */

static void more_updates(sherd_engine *engine)
{
    engine->last.updates += 5;
}

static void later_step(sherd_engine *engine)
{
    engine->step += 1;
}

static void other_loss_scale(sherd_engine *engine)
{
    engine->loss_scale = 32;
}

static void test_another_place_is_named(void **state)
{
    static const difference places[] = {
        {.engine = more_updates,
         .says = {"step 3: ranks disagree on where they are: the number of updates so far is 7 on rank "}},
        {.engine = later_step, .says = {"ranks disagree on where they are: the number of the step is 4 on rank "}},
        {.engine = other_loss_scale, .says = {"the loss scale is 32 on rank ", "and 1 on rank 0"}},
    };

    (void)state;
    for (int32_t i = 0; i < 3; i++)
        for (int32_t world = 2; world <= 3; world++)
            assert_int_equal(expect(world, (i + world) % 2, &places[i], SHERD_EMISMATCH), 2);
}

/* ------------------------------------------------------------------------------------------------------------ replicas
 */

static void flip_a_bit(sherd_engine *engine)
{
    sherd_error err;

    if (sherd_engine_wait(engine, &err) == SHERD_OK)
        ((uint8_t *)engine->params.local)[engine->plan->params[2].param_offset + 1196] ^= 16;
}

/* At stage 0 every rank computes all parameters itself; at the others only frozen ones are not gathered anew in each
 * step. */
CONFIG(at_stage_0, config->zero.stage = 0)
CONFIG(frozen_at_stage_2, (config->zero.stage = 2, params[2].flags = SHERD_PARAM_FROZEN))

static void test_another_working_copy_is_named(void **state)
{
    static const char *const most = "another working copy of 'c' than most", *const two = "one of the two is wrong";
    const difference hits[] = {
        {.engine = flip_a_bit, .common = at_stage_0, .says = {"step 4: rank 2 has", most}},
        {.engine = flip_a_bit, .common = frozen_at_stage_2, .says = {"step 4: rank 2 has", most}},
        {.engine = flip_a_bit, .common = at_stage_0, .says = {"step 4: ranks 0 and 1 have", "of 'c'", two}},
        {.engine = flip_a_bit, .common = frozen_at_stage_2, .says = {"step 4: ranks 0 and 1 have", "of 'c'", two}},
    };

    (void)state;
    for (int i = 0; i < 4; i++)
        for (int processes = 0; processes <= 1; processes++)
            assert_int_equal(expect(i < 2 ? 3 : 2, processes, &hits[i], SHERD_EMISMATCH), 3);
}

static void do_nothing(sherd_engine *engine)
{
    (void)engine;
}

static void test_equal_ranks_go_on(void **state)
{
    static const difference none = {.engine = do_nothing, .says = {""}};
    run *run = world_shared(sizeof *run);
    world_options options = {.world = 3};

    (void)state;
    assert_non_null(run);
    run->world = 3;
    run->what = &none;
    assert_int_equal(world_run_threads(&options, train, run), 0);
    for (int r = 0; r < 3; r++)
        assert_int_equal(run->steps[r], 4);
}

/* --------------------------------------------------------------------------------------------------------------- order
 */

static sherd_status digest_instead(sherd_engine *engine, sherd_error *err)
{
    return sherd_engine_hash(engine, NULL, NULL, err);
}

static void test_another_call_is_named(void **state)
{
    static const difference order = {.call = digest_instead,
                                     .says = {"called all-reduce", "called reduce-scatter of bucket 0", " where rank "}};

    (void)state;
    assert_int_equal(expect(2, 0, &order, SHERD_EMISMATCH), 2);
    assert_int_equal(expect(3, 1, &order, SHERD_EMISMATCH), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_another_plan_is_named),         cmocka_unit_test(test_another_place_is_named),
        cmocka_unit_test(test_another_working_copy_is_named), cmocka_unit_test(test_equal_ranks_go_on),
        cmocka_unit_test(test_another_call_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
