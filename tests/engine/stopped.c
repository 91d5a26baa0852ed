/* SPDX-License-Identifier: MIT
 *
 * A rank that stands still in the middle of training: a process under SIGSTOP, a thread that sleeps. Nobody helps the
 * others: each warns, ends at its limit with a sentence that names the rank and what it was to do, and the one that
 * wakes up later learns that it is alone and ends too.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine/worlds.h"

enum { WORLD = 3, STOPPED = 1, AT_STEP = 3 };

typedef struct run {
    int processes;
    _Atomic int32_t pid, over; /* of the stopped one; survivors that have ended */
    _Atomic int32_t warned;    /* lines that say for whom somebody waits */
    sherd_error error[WORLD];
    double seconds[WORLD]; /* from the beginning of the step that failed */
    int64_t steps[WORLD];
} run;

static void count_warning(void *ctx, sherd_log_level level, const char *text)
{
    run *run = ctx;

    if (level == SHERD_LOG_WARNING && strstr(text, run->processes ? " for rank 1 (pid " : " for rank 1 in ") &&
        strstr(text, " of bucket "))
        atomic_fetch_add(&run->warned, 1);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void stand_still(run *run)
{
    if (run->processes) {
        atomic_store(&run->pid, (int32_t)getpid());
        raise(SIGSTOP);
        return;
    }
    for (int ms = 0; ms < 20000 && atomic_load(&run->over) < WORLD - 1; ms += 5)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

static sherd_status step(sherd_engine *engine, run *run, int stop, sherd_error *err)
{
    static const float gradient[600] = {1, 2, 3};
    sherd_status status = sherd_micro_begin(engine, NULL);

    for (uint32_t p = 2; status == SHERD_OK && p-- > 0;) {
        if (stop && p == 0)
            stand_still(run);
        status = sherd_grad_copy(engine, p, gradient, SHERD_FP32);
    }
    if (status == SHERD_OK)
        return sherd_engine_step(engine, NULL, err);
    return sherd_engine_error(engine, err);
}

static void train(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    run *run = ctx;
    sherd_param params[2] = {{.name = "a", .ndim = 1, .shape = {600}}, {.name = "b", .ndim = 1, .shape = {600}}};
    sherd_error *err = &run->error[rank];
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_engine *engine = NULL;
    sherd_status status;
    double begin = now_s();

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.zero.stage = 2;
    config.zero.reduce_bucket_size = 1;
    config.sherd.exact_bucket_size = 1;
    config.sherd.fail_after_s = 2;
    status = sherd_plan_create(&config, params, 2, WORLD, &plan, err);
    if (status == SHERD_OK)
        status = sherd_engine_create(plan, device, comm, &engine, err);
    for (int64_t s = 1; status == SHERD_OK && s <= AT_STEP + 2; s++) {
        begin = now_s();
        status = step(engine, run, rank == STOPPED && s == AT_STEP, err);
        run->steps[rank] += status == SHERD_OK;
    }
    run->seconds[rank] = now_s() - begin;
    if (rank != STOPPED && atomic_fetch_add(&run->over, 1) == WORLD - 2 && run->processes)
        kill(atomic_load(&run->pid), SIGCONT);
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static void check(const run *run)
{
    assert_true(atomic_load(&run->warned) >= 1);
    for (int32_t r = 0; r < WORLD; r++) {
        const sherd_error *error = &run->error[r];
        assert_int_equal(run->steps[r], AT_STEP - 1);
        if (r == STOPPED) { /* its peers have given up, and left */
            assert_true(error->status == SHERD_EABORTED || error->status == SHERD_ETIMEOUT ||
                        error->status == SHERD_ERANKDEAD);
            assert_true(error->text[0] != '\0');
            continue;
        }
        /* whoever waits first tells the others, who pass its sentence on */
        if (!strstr(error->text, run->processes ? "rank 1 (pid " : "rank 1 did not") ||
            !strstr(error->text, "did not arrive within 2 s at ") || !strstr(error->text, " of bucket "))
            fail_msg("rank %d says: %s", r, error->text);
        assert_true(error->status == SHERD_ETIMEOUT || error->status == SHERD_EABORTED);
        assert_true(run->seconds[r] >= 1.5 && run->seconds[r] < 12);
    }
}

static void test_process(void **state)
{
    run *run = world_shared(sizeof *run);
    world_options options = {
        .world = WORLD, .fail_after_s = 2, .warn_after_s = 0.5, .log = {.fn = count_warning, .ctx = run}};

    (void)state;
    assert_non_null(run);
    run->processes = 1;
    assert_int_equal(world_run_processes(&options, 30, train, run), 0);
    check(run);
}

static void test_thread(void **state)
{
    static run here;
    world_options options = {
        .world = WORLD, .fail_after_s = 2, .warn_after_s = 0.5, .log = {.fn = count_warning, .ctx = &here}};

    (void)state;
    assert_int_equal(world_run_threads(&options, train, &here), 0);
    check(&here);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_process),
        cmocka_unit_test(test_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
