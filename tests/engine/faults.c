/* SPDX-License-Identifier: MIT
 *
 * What goes wrong ends in one sentence: a dead rank, plans that differ, gradients that never come, calls out of order,
 * no memory.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine/case.h"
#include "tests/engine/worlds.h"

typedef struct fault_run {
    int32_t victim;
    int64_t die_at; /* collectives of the victim's life: it kills itself before gradient number die_at */
    sherd_error error[WORLD_MAX];
    int done[WORLD_MAX];
    double seconds[WORLD_MAX];
} fault_run;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static sherd_plan *small_plan(int32_t world, int ignore_unused, int64_t elems, sherd_error *err)
{
    sherd_param params[3] = {{.name = "a", .ndim = 1, .shape = {elems}},
                             {.name = "b", .ndim = 1, .shape = {300}},
                             {.name = "c", .ndim = 1, .shape = {300}}};
    sherd_config config;
    sherd_plan *plan = NULL;

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.zero.stage = 2;
    config.zero.reduce_bucket_size = 1;
    config.zero.ignore_unused_parameters = ignore_unused;
    config.sherd.exact_bucket_size = 1;
    config.sherd.fail_after_s = 30;
    return sherd_plan_create(&config, params, 3, world, &plan, err) == SHERD_OK ? plan : NULL;
}

static sherd_status one_gradient(sherd_engine *engine, uint32_t p, int64_t elems)
{
    sherd_grad grad;
    sherd_status status = sherd_grad_acquire(engine, p, &grad);
    if (status != SHERD_OK)
        return status;
    memset(grad.data, 0, (size_t)elems * sizeof(float));
    return sherd_grad_ready(engine, p);
}

/* Trains until the engine fails (or 100000 steps: it must not get there). */
static void train_until_failure(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    fault_run *run = ctx;
    sherd_error *err = &run->error[rank];
    sherd_plan *plan = small_plan(sherd_comm_world(comm), 1, 300, err);
    sherd_engine *engine = NULL;
    sherd_status status = sherd_engine_create(plan, device, comm, &engine, err);
    int64_t gradient = 0;

    for (int s = 0; status == SHERD_OK && s < 100000; s++) {
        status = sherd_micro_begin(engine, NULL);
        for (uint32_t p = 3; status == SHERD_OK && p-- > 0;) {
            if (rank == run->victim && gradient++ == run->die_at)
                raise(SIGKILL);
            status = one_gradient(engine, p, 300);
        }
        if (status == SHERD_OK)
            status = sherd_engine_step(engine, NULL, err);
        else
            sherd_engine_error(engine, err);
        run->seconds[rank] = now_s();
    }
    run->seconds[rank] = now_s() - run->seconds[rank];
    run->done[rank] = status != SHERD_OK;
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static void test_dead_rank(void **state)
{
    (void)state;
    for (int32_t victim = 0; victim < 3; victim++) {
        fault_run *run = world_shared(sizeof *run);
        world_options options = {.world = 3, .fail_after_s = 30};
        double begin = now_s();

        assert_non_null(run);
        run->victim = victim;
        run->die_at = 7 + 11 * victim;
        assert_int_equal(world_run_processes(&options, 20, train_until_failure, run), 1);
        assert_true(now_s() - begin < 10); /* the promise: every survivor ends by itself within 10 s */
        for (int32_t r = 0; r < 3; r++) {
            char name[32];
            if (r == victim)
                continue;
            snprintf(name, sizeof name, "rank %d (pid ", victim);
            assert_true(run->done[r]);
            assert_int_equal(run->error[r].status, SHERD_ERANKDEAD);
            assert_int_equal(run->error[r].rank, victim);
            if (!strstr(run->error[r].text, name) || !strstr(run->error[r].text, "died during"))
                fail_msg("rank %d says: %s", r, run->error[r].text);
        }
        printf("rank %d says: %s\n", victim == 0, run->error[victim == 0].text);
    }
}

static void other_plan(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    fault_run *run = ctx;
    sherd_plan *plan = small_plan(sherd_comm_world(comm), 1, rank == 1 ? 301 : 300, &run->error[rank]);
    sherd_engine *engine = NULL;
    run->done[rank] = sherd_engine_create(plan, device, comm, &engine, &run->error[rank]) != SHERD_OK;
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static void test_plans_differ(void **state)
{
    static fault_run run;
    world_options options = {.world = 3};
    int mismatches = 0;

    (void)state;
    assert_int_equal(world_run_threads(&options, other_plan, &run), 0);
    for (int r = 0; r < 3; r++) {
        assert_true(run.done[r]);
        assert_true(run.error[r].status == SHERD_EMISMATCH || run.error[r].status == SHERD_EABORTED);
        mismatches += run.error[r].status == SHERD_EMISMATCH && strstr(run.error[r].text, "holds another plan");
    }
    assert_true(mismatches >= 1);
}

static void missing_gradient(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    fault_run *run = ctx;
    sherd_plan *plan = small_plan(1, 0, 300, &run->error[rank]);
    sherd_engine *engine = NULL;
    sherd_status status = sherd_engine_create(plan, device, comm, &engine, &run->error[rank]);

    if (status == SHERD_OK)
        status = sherd_micro_begin(engine, NULL);
    if (status == SHERD_OK)
        status = one_gradient(engine, 2, 300);
    if (status == SHERD_OK)
        run->done[rank] = sherd_engine_step(engine, NULL, &run->error[rank]) != SHERD_OK;
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static void test_missing_gradients_are_named(void **state)
{
    static fault_run run;
    world_options options = {.world = 1};

    (void)state;
    assert_int_equal(world_run_threads(&options, missing_gradient, &run), 0);
    assert_true(run.done[0]);
    assert_non_null(strstr(run.error[0].text, "'a', 'b'"));
    assert_null(strstr(run.error[0].text, "'c'"));
}

/* cmocka's own assertions jump, which other threads may not. */
#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition) && !run->done[1])                                                                             \
            run->done[1] = __LINE__;                                                                                   \
    } while (0)

static void wrong_calls(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    fault_run *run = ctx;
    sherd_error err;
    sherd_plan *plan = small_plan(1, 1, 300, &err);
    sherd_engine *engine = NULL;
    sherd_grad grad;
    const void *data;
    uint8_t hash[16];

    (void)rank;
    EXPECT(sherd_engine_create(plan, device, comm, &engine, &err) == SHERD_OK);
    EXPECT(sherd_grad_acquire(engine, 0, &grad) == SHERD_ESTATE); /* no micro-step is open */
    EXPECT(sherd_engine_step(engine, NULL, &err) == SHERD_ESTATE);
    EXPECT(sherd_param_acquire(engine, 3, &data) == SHERD_EINVAL);
    EXPECT(sherd_engine_error(engine, &err) == SHERD_EINVAL);
    EXPECT(strstr(err.text, "no parameter 3"));
    EXPECT(sherd_micro_begin(engine, NULL) == SHERD_OK);
    EXPECT(sherd_micro_begin(engine, NULL) == SHERD_ESTATE);
    EXPECT(sherd_engine_hash(engine, hash, NULL, &err) == SHERD_ESTATE);
    EXPECT(sherd_grad_ready(engine, 1) == SHERD_ESTATE); /* not acquired */
    EXPECT(one_gradient(engine, 1, 300) == SHERD_OK);
    EXPECT(sherd_grad_acquire(engine, 1, &grad) == SHERD_ESTATE); /* has one use */
    EXPECT(sherd_grad_acquire(engine, 9, &grad) == SHERD_ESTATE);
    EXPECT(sherd_engine_step(engine, NULL, &err) == SHERD_OK); /* none of that broke it */
    EXPECT(sherd_engine_hash(engine, hash, NULL, &err) == SHERD_OK);
    run->done[0] = 1;
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static void test_wrong_calls_are_refused(void **state)
{
    static fault_run run;
    world_options options = {.world = 1};

    (void)state;
    assert_int_equal(world_run_threads(&options, wrong_calls, &run), 0);
    if (run.done[1])
        fail_msg("the expectation in line %d does not hold", run.done[1]);
    assert_true(run.done[0]);
}

/* A budget one byte below what creation needs: a sentence, nothing held, and a bit more works. */
static void test_memory_limit(void **state)
{
    sherd_error err;
    sherd_plan *plan = small_plan(1, 1, 5000, &err);
    sherd_memory planned, live;
    int refused = 0, made = 0;

    (void)state;
    assert_int_equal(sherd_plan_memory(plan, 0, &planned), SHERD_OK);
    for (uint64_t limit = 1000; limit < 8 * sherd_memory_total(&planned, SHERD_TIER_DEVICE) && !made; limit += 7001) {
        sherd_device_options options;
        sherd_device *device;
        sherd_comm *comm;
        sherd_engine *engine = NULL;
        sherd_device_options_init(&options, sizeof options);
        options.memory_limit = limit;
        assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_OK);
        assert_int_equal(sherd_comm_create_self(NULL, &comm, &err), SHERD_OK);
        if (sherd_engine_create(plan, device, comm, &engine, &err) == SHERD_OK) {
            made = 1;
        } else {
            assert_int_equal(err.status, SHERD_ENOMEM);
            refused++;
        }
        sherd_engine_destroy(engine);
        sherd_comm_destroy(comm);
        sherd_device_memory(device, &live, NULL);
        assert_int_equal(sherd_memory_total(&live, SHERD_TIER_DEVICE), 0);
        sherd_device_destroy(device);
    }
    assert_true(refused > 3 && made);
    sherd_plan_destroy(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dead_rank),
        cmocka_unit_test(test_plans_differ),
        cmocka_unit_test(test_missing_gradients_are_named),
        cmocka_unit_test(test_wrong_calls_are_refused),
        cmocka_unit_test(test_memory_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
