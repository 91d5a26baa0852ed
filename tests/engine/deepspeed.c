/* SPDX-License-Identifier: MIT
 *
 * Whole engines against DeepSpeed's rules (tests/support/deepspeed.c), configured by its JSON: what the ranks'
 * micro-batches come to under mean and sum, prescaled and predivided, scaled and clipped, with steps that overflow.
 * Plain SGD from weights of zero makes the parameters the gradients that were applied; the model works in double, rank
 * by rank.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/worlds.h"
#include "tests/support/deepspeed.h"
#include "tests/support/leaves.h"

enum { ELEMS = 700, STEPS = 20, MICROS_MAX = 4 * 3 };
#define LR 0.25

typedef struct run {
    uint64_t seed;
    int32_t world;
    char json[1024];
    sherd_config config;
    sherd_error error;
    int failed;
    double scale[STEPS], norm[STEPS];
    int32_t skipped[STEPS];
    float weights[STEPS][ELEMS];
} run;

static uint64_t pick(const run *run, uint64_t what, uint64_t below)
{
    return sherd_test_mix(run->seed, what, 11, 12, 13) % below;
}

/* Every third step or so of a run overflows, some several times in a row. */
static int overflows(const run *run, int64_t step)
{
    return pick(run, 1000 + (uint64_t)step / 2, 4) == 0;
}

static double gradient(const run *run, int64_t step, int64_t number, int64_t element)
{
    uint64_t mix = sherd_test_mix(run->seed, (uint64_t)step, (uint64_t)number, (uint64_t)element, 7);

    return ((double)(mix % 2001) - 1000) / 4096 * (double)(1 + step % 3);
}

static void write_json(run *run)
{
    static const char *const fp16[] = {
        "",
        ", \"fp16\": {\"enabled\": true, \"loss_scale\": 64}",
        ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 6, \"loss_scale_window\": 2, \"hysteresis\": 2}",
        ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 8, \"loss_scale_window\": 3, \"hysteresis\": 1, "
        "\"min_loss_scale\": 0.0625}",
        ", \"fp16\": {\"enabled\": true, \"initial_scale_power\": 5, \"loss_scale_window\": 1, \"hysteresis\": 3, "
        "\"consecutive_hysteresis\": true}",
    };
    static const double clips[] = {0, 0.5, 2, 100}, predivide[] = {1, 2, 8};

    snprintf(run->json, sizeof run->json,
             "{\"train_micro_batch_size_per_gpu\": 1, \"gradient_accumulation_steps\": %d, \"gradient_clipping\": %g, "
             "\"gradient_allreduce_op\": \"%s\", \"prescale_gradients\": %s, \"gradient_predivide_factor\": %g, "
             "\"optimizer\": {\"type\": \"SGD\", \"params\": {\"lr\": %g}}, \"zero_optimization\": {\"stage\": %d}%s}",
             (int)pick(run, 1, 3) + 1, clips[pick(run, 2, 4)], pick(run, 3, 2) ? "sum" : "mean",
             pick(run, 4, 2) ? "true" : "false", predivide[pick(run, 5, 3)], LR, (int)pick(run, 6, 3),
             fp16[run->seed % 5]);
}

/* The parameter stays fp32, so that only the rules are compared and not the types. */
static sherd_status make_plan(run *run, sherd_plan **plan, sherd_error *err)
{
    const sherd_param param = {.name = "w", .ndim = 1, .shape = {ELEMS}};

    return sherd_plan_create(&run->config, &param, 1, run->world, plan, err);
}

static sherd_status micro_step(const run *run, sherd_engine *engine, sherd_report *report, sherd_error *err)
{
    double scale = sherd_engine_loss_scale(engine);
    sherd_micro micro;
    sherd_grad grad;
    float *out;

    if (sherd_micro_begin(engine, &micro) != SHERD_OK || sherd_grad_acquire(engine, 0, &grad) != SHERD_OK) {
        return sherd_engine_error(engine, err);
    }
    out = grad.data;
    for (int64_t i = 0; i < ELEMS; i++) {
        out[i] = (float)(gradient(run, micro.step - 1, micro.number, i) * scale);
    }
    if (overflows(run, micro.step - 1) && micro.number == 0) {
        out[17] = INFINITY;
    }
    if (sherd_grad_ready(engine, 0) != SHERD_OK) {
        return sherd_engine_error(engine, err);
    }
    return sherd_engine_step(engine, report, err);
}

static void train_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    run *run = ctx;
    sherd_plan *plan = NULL;
    sherd_engine *engine = NULL;
    sherd_error err = {.text = ""};
    static const float zeros[ELEMS];
    sherd_status status = make_plan(run, &plan, &err);

    if (status == SHERD_OK) {
        status = sherd_engine_create(plan, device, comm, &engine, &err);
    }
    if (status == SHERD_OK) {
        status = sherd_param_write(engine, 0, zeros, &err);
    }
    for (int s = 0; s < STEPS && status == SHERD_OK; s++) {
        float weights[ELEMS];
        sherd_report report;

        sherd_report_init(&report, sizeof report);
        for (int64_t k = 0; k < run->config.gradient_accumulation_steps && status == SHERD_OK; k++) {
            status = micro_step(run, engine, &report, &err);
        }
        if (status == SHERD_OK) {
            status = sherd_param_read(engine, 0, weights, &err);
        }
        if (rank == 0) {
            run->scale[s] = report.loss_scale;
            run->norm[s] = report.grad_norm;
            run->skipped[s] = report.skipped;
            memcpy(run->weights[s], weights, sizeof weights);
        }
    }
    if (rank == 0) {
        run->failed = status != SHERD_OK;
        run->error = err;
    }
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
}

/* What the ranks send and what they get back, as DeepSpeed does it; still scaled. Returns its norm. Which rank computes
 * which micro-batch does not matter here: sums are compared within rounding. */
static double averaged(const run *run, int64_t step, double scale, double out[ELEMS])
{
    ds_average average = ds_average_of(&run->config, run->world);
    int64_t micros = run->world * run->config.gradient_accumulation_steps;
    double squares = 0;

    for (int64_t i = 0; i < ELEMS; i++) {
        double sum = 0;

        for (int64_t m = 0; m < micros; m++) {
            sum += gradient(run, step, m, i) * scale * average.before;
        }
        out[i] = sum * average.after;
        squares += out[i] * out[i];
    }
    return sqrt(squares);
}

static int near(double a, double b, double scale)
{
    return fabs(a - b) <= 2e-6 * scale;
}

/* Returns 0, or the step that is not the model's, from 1. */
static int compare(const run *run, const char **what)
{
    double weights[ELEMS] = {0}, out[ELEMS], largest = 0;
    ds_scaler scaler;

    ds_scaler_init(&scaler, &run->config);
    for (int s = 0; s < STEPS; s++) {
        int overflow = overflows(run, s);
        double norm = averaged(run, s, scaler.scale, out);

        *what = "loss scale";
        if (run->scale[s] != scaler.scale || run->skipped[s] != overflow) {
            return s + 1;
        }
        *what = "norm";
        if (!overflow && !near(run->norm[s], norm / scaler.scale, norm / scaler.scale)) {
            return s + 1;
        }
        *what = "weights";
        for (int i = 0; i < ELEMS; i++) {
            weights[i] -= overflow ? 0 : LR * out[i] / ds_divisor(norm, scaler.scale, run->config.gradient_clipping);
            largest = fmax(largest, fabs(weights[i]));
        }
        for (int i = 0; i < ELEMS; i++) {
            if (!near(run->weights[s][i], weights[i], largest)) {
                return s + 1;
            }
        }
        if (ds_scaler_update(&scaler, overflow)) {
            *what = "the end at the least scale";
            return s + 1;
        }
    }
    return 0;
}

static void engines_follow_the_rules(void **state)
{
    static run run;
    int skipped = 0, clipped = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 60; seed++) {
        world_options options = {.threads = 1};
        const char *what = "";
        int step;

        memset(&run, 0, sizeof run);
        run.seed = seed;
        options.world = run.world = 1 + (int32_t)(seed % 4);
        write_json(&run);
        sherd_config_init(&run.config, sizeof run.config);
        assert_int_equal(sherd_config_parse(&run.config, run.json, strlen(run.json), "ds.json", NULL, 0, NULL, NULL),
                         0);
        assert_int_equal(sherd_config_resolve(&run.config, run.world, NULL), 0);
        assert_int_equal(world_run_threads(&options, train_rank, &run), 0);
        if (run.failed) {
            fail_msg("%s on %d ranks: %s", run.json, run.world, run.error.text);
        }
        step = compare(&run, &what);
        if (step != 0) {
            fail_msg("%s on %d ranks: the %s of step %d is not that of the rules", run.json, run.world, what, step);
        }
        for (int s = 0; s < STEPS; s++) {
            skipped += run.skipped[s];
            clipped +=
                !run.skipped[s] && run.config.gradient_clipping > 0 && run.norm[s] > run.config.gradient_clipping;
        }
        run.config.allreduce_sum ^= 1; /* the comparison can fail */
        assert_true(run.world == 1 || compare(&run, &what) != 0);
    }
    print_message("60 runs: %d steps skipped, %d clipped\n", skipped, clipped);
    assert_true(skipped > 100 && clipped > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(engines_follow_the_rules)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
