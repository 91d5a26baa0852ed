/* SPDX-License-Identifier: MIT
 *
 * Reductions run beside backward: recorded begin and end times say so. And a communicator that takes 50 ms longer per
 * bucket exposes what the schedule's forecast says, never less (a sleep cannot be hidden more than the schedule hides
 * it) and, on a machine that is not drowned in other work, little more; that upper end is printed, not asserted.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/engine/delay.h"
#include "tests/engine/worlds.h"

enum { N_PARAMS = 8, ELEMS = 4096, STEPS = 4, MAX_TRACE = 8192 };
#define GRADIENT_NS 10000000 /* backward's time per gradient */
#define DELAY_NS 50000000

typedef struct outcome {
    int failed;
    double exposed_ns, forecast_ns; /* per step, first step left out */
    int reduces, early;             /* all but the last bucket's: how many, how many began before backward's end */
} outcome;

typedef struct overlap_run {
    int64_t delay_ns;
    int overlap;
    outcome rank[WORLD_MAX];
} overlap_run;

static void spend(int64_t ns)
{
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    nanosleep(&t, NULL);
}

static sherd_plan *make_plan(int32_t world, int overlap)
{
    sherd_param params[N_PARAMS] = {0};
    char names[N_PARAMS][16];
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_error err;

    for (int p = 0; p < N_PARAMS; p++) {
        snprintf(names[p], sizeof names[p], "p%d", p);
        params[p] = (sherd_param){.name = names[p], .ndim = 1, .shape = {ELEMS}};
    }
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = 1;
    config.zero.stage = 2;
    config.zero.reduce_bucket_size = ELEMS;
    config.zero.overlap_comm = overlap;
    config.sherd.exact_bucket_size = 1;
    if (sherd_plan_create(&config, params, N_PARAMS, world, &plan, &err) != SHERD_OK)
        fprintf(stderr, "%s\n", err.text);
    return plan;
}

/* Backward stands still before its last gradient until `collectives` have run: if they waited for backward's end, this
 * would never end. */
static int wait_for_collectives(const sherd_comm *comm, int collectives)
{
    for (int tries = 0; tries < 30000 && delay_done(comm) < collectives; tries++)
        spend(1000000);
    return delay_done(comm) >= collectives;
}

static sherd_status run_step(sherd_engine *engine, const sherd_comm *comm, int collectives, sherd_report *report,
                             int64_t *backward_end)
{
    sherd_error err;
    sherd_status status = sherd_micro_begin(engine, NULL);

    for (uint32_t p = 0; status == SHERD_OK && p < N_PARAMS; p++) {
        const void *data;
        status = sherd_param_acquire(engine, p, &data);
        if (status == SHERD_OK)
            status = sherd_param_release(engine, p);
    }
    for (uint32_t p = N_PARAMS; status == SHERD_OK && p-- > 0;) {
        sherd_grad grad;
        status = sherd_grad_acquire(engine, p, &grad);
        if (status != SHERD_OK)
            break;
        spend(GRADIENT_NS);
        if (p == 0 && collectives && !wait_for_collectives(comm, collectives))
            return SHERD_ETIMEOUT;
        memset(grad.data, 0, ELEMS * sizeof(float));
        status = sherd_grad_ready(engine, p);
    }
    *backward_end = sherd__now_ns();
    return status == SHERD_OK ? sherd_engine_step(engine, report, &err) : status;
}

static void read_trace(sherd_device *device, int64_t step, int64_t backward_end, outcome *out)
{
    static _Thread_local sherd_trace_record records[MAX_TRACE];
    size_t n = sherd_device_trace(device, records, MAX_TRACE, NULL);

    for (size_t i = 0; i < n; i++) {
        if (strcmp(records[i].name, "reduce") != 0 || records[i].step != step || records[i].bucket == N_PARAMS - 1)
            continue;
        out->reduces++;
        out->early += records[i].begin_ns < backward_end;
    }
}

static void run_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    overlap_run *run = ctx;
    outcome *out = &run->rank[rank];
    sherd_plan *plan = make_plan(sherd_comm_world(comm), run->overlap);
    sherd_profile profile = {.size = sizeof profile,
                             .ready_ns_per_elem = (double)GRADIENT_NS / ELEMS,
                             .collective_ns = (double)run->delay_ns};
    sherd_forecast forecast;
    sherd_engine *engine = NULL;
    sherd_report report;
    sherd_error err;

    out->failed = 1;
    sherd_report_init(&report, sizeof report);
    if (!plan || sherd_engine_create(plan, device, comm, &engine, &err) != SHERD_OK)
        return;
    delay_install(comm, run->delay_ns);
    for (int64_t s = 1; s <= STEPS; s++) {
        int64_t backward_end;
        /* gathers of the steps before, their reductions, and this step's but the last */
        int collectives = run->delay_ns ? 0 : (int)((s - 1) * 2 * N_PARAMS + N_PARAMS - 1);
        if (run_step(engine, comm, collectives, &report, &backward_end) != SHERD_OK)
            return;
        if (s > 1)
            out->exposed_ns += (double)report.exposed_comm_ns / (STEPS - 1);
        read_trace(device, s, backward_end, out);
    }
    out->failed = sherd_plan_forecast(plan, &profile, &forecast) != SHERD_OK;
    out->forecast_ns = forecast.exposed_comm_ns;
    delay_remove(comm);
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

static overlap_run run_world(int64_t delay_ns, int overlap)
{
    overlap_run run = {.delay_ns = delay_ns, .overlap = overlap};
    world_options options = {.world = 2, .trace_capacity = MAX_TRACE};

    assert_int_equal(world_run_threads(&options, run_rank, &run), 0);
    for (int r = 0; r < 2; r++)
        assert_false(run.rank[r].failed);
    return run;
}

static void test_reductions_start_during_backward(void **state)
{
    overlap_run run = run_world(0, 1);
    (void)state;
    for (int r = 0; r < 2; r++) {
        assert_true(run.rank[r].reduces >= STEPS * (N_PARAMS - 1)); /* one reduction may be several operations */
        assert_int_equal(run.rank[r].early,
                         run.rank[r].reduces); /* by their recorded times; the wait above makes it certain */
    }
}

/* The vote is not delayed here and takes one collective in the forecast. */
static int exposes_enough(const overlap_run *run)
{
    return run->rank[0].exposed_ns >= run->rank[0].forecast_ns - DELAY_NS - 1e6;
}

/* A thread that other work keeps from the processor computes longer than the forecast thinks, and waits less: then the
 * delays are measured again. */
static void test_delay_exposes_what_the_schedule_says(void **state)
{
    int shown = 0;

    (void)state;
    for (int tries = 0; tries < 5 && !shown; tries++) {
        overlap_run quick = run_world(0, 1), slow = run_world(DELAY_NS, 1), serial = run_world(DELAY_NS, 0);
        double added = slow.rank[0].exposed_ns - quick.rank[0].exposed_ns;
        printf("exposed per step: %.1f ms without delay, %.1f ms with 50 ms per collective; added %.1f ms, forecast "
               "%.1f ms (ratio %.3f)\n",
               quick.rank[0].exposed_ns * 1e-6, slow.rank[0].exposed_ns * 1e-6, added * 1e-6,
               slow.rank[0].forecast_ns * 1e-6, added / slow.rank[0].forecast_ns);
        printf("with overlap_comm false: %.1f ms, forecast %.1f ms\n", serial.rank[0].exposed_ns * 1e-6,
               serial.rank[0].forecast_ns * 1e-6);
        assert_true(slow.rank[0].forecast_ns > 0);
        assert_true(slow.rank[0].forecast_ns < serial.rank[0].forecast_ns);
        shown = exposes_enough(&slow) && exposes_enough(&serial);
    }
    assert_true(shown);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reductions_start_during_backward),
                                       cmocka_unit_test(test_delay_exposes_what_the_schedule_says)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
