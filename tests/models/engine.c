/* SPDX-License-Identifier: MIT
 *
 * The decoder through the engine as its store, world 1: one SGD step of rate 1 takes exactly the gradient the plain
 * store shows off every parameter, tied embedding included; and some steps of AdamW learn a short text by heart.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/models/words.h"

typedef struct world {
    sherd_comm *comm;
    sherd_plan *plan;
    sherd_engine *engine;
    sherd_model_store store;
} world;

static void good(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fail_msg("%s: %s", sherd_status_name(status), err->text);
    }
}

static int scale_power = -1; /* of the next world's first dynamic loss scale; -1: none */

static void open_world(world *w, rig *r, sherd_optimizer kind, double lr, int stage)
{
    sherd_error err = {0};
    sherd_config config;
    sherd_comm_options options;
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = r->c.batch;
    config.gradient_accumulation_steps = 1;
    config.gradient_clipping = 0;
    config.dtype = r->c.dtype;
    config.zero.stage = stage;
    config.zero.ignore_unused_parameters = 0;
    config.optimizer.kind = kind;
    config.optimizer.lr = lr;
    config.optimizer.weight_decay = 0;
    config.optimizer.momentum = 0;
    if (scale_power >= 0) {
        config.scaling.kind = SHERD_SCALING_DYNAMIC;
        config.scaling.initial_scale_power = scale_power;
        config.scaling.hysteresis = 1;
    }
    good(sherd_config_resolve(&config, 1, &err), &err);
    good(sherd_plan_create(&config, r->params, r->n_params, 1, &w->plan, &err), &err);
    sherd_comm_options_init(&options, sizeof options);
    good(sherd_comm_create_self(&options, &w->comm, &err), &err);
    good(sherd_engine_create(w->plan, r->device, w->comm, &w->engine, &err), &err);
    for (uint32_t p = 0; p < r->n_params; p++) {
        good(sherd_param_write(w->engine, p, r->weights[p], &err), &err);
    }
    w->store = sherd_model_engine_store(w->engine);
}

static void close_world(world *w)
{
    sherd_engine_destroy(w->engine);
    sherd_comm_destroy(w->comm);
    sherd_plan_destroy(w->plan);
}

static double engine_step(world *w, rig *r)
{
    sherd_error err = {0};
    sherd_micro micro;
    double loss = NAN;
    good(sherd_micro_begin(w->engine, &micro), &err);
    good(sherd_model_step(r->model, &w->store, r->tokens, r->targets, r->c.batch, r->c.seq, &loss, &err), &err);
    good(sherd_engine_step(w->engine, NULL, &err), &err);
    return loss;
}

static void check_sgd(const rig_case *c, int stage)
{
    rig r;
    world w;
    sherd_error err = {0};
    double plain = 0;
    good(rig_open(&r, c, &err), &err);
    good(rig_step(&r, &plain, &err), &err);
    open_world(&w, &r, SHERD_SGD, 1.0, stage);
    assert_true(engine_step(&w, &r) == plain);
    good(sherd_engine_wait(w.engine, &err), &err);
    for (uint32_t p = 0; p < r.n_params; p++) {
        int64_t n = rig_elems(&r.params[p]);
        float *after = malloc((size_t)n * sizeof *after), *grad = rig_grad(&r, p);
        good(sherd_param_read(w.engine, p, after, &err), &err);
        for (int64_t i = 0; i < n; i++) {
            if (after[i] != r.weights[p][i] - grad[i]) {
                fail_msg("%s[%lld]: %.9g, expected %.9g - %.9g (stage %d)", r.params[p].name, (long long)i, after[i],
                         r.weights[p][i], grad[i], stage);
            }
        }
        free(grad);
        free(after);
    }
    close_world(&w);
    rig_close(&r);
}

static void sgd_takes_the_gradient_off(void **state)
{
    (void)state;
    rig_case c = SMALL;
    int compared = 0;
    for (int bits = 0; bits < 12; bits++, compared++) {
        c.tied = bits & 1;
        c.dtype = c.grad_dtype = (sherd_dtype)(bits / 4);
        c.checkpointing = (bits >> 1) & 1;
        check_sgd(&c, bits % 3);
    }
    assert_int_equal(compared, 12);
}

static rig_case two_layers(sherd_dtype dtype)
{
    return (rig_case){.layers = 2,
                      .hidden = 64,
                      .heads = 4,
                      .kv_heads = 2,
                      .intermediate = 96,
                      .vocab = 60,
                      .tied = 1,
                      .batch = 2,
                      .seq = 24,
                      .threads = 1,
                      .dtype = dtype,
                      .grad_dtype = dtype};
}

static void adamw_learns_a_batch_by_heart(void **state)
{
    (void)state;
    rig_case c = two_layers(SHERD_BF16);
    rig r;
    world w;
    sherd_error err = {0};
    double first = 0, last = 0;
    good(rig_open(&r, &c, &err), &err);
    open_world(&w, &r, SHERD_ADAMW, 3e-3, 2);
    for (int i = 0; i < 60; i++) {
        last = engine_step(&w, &r);
        first = i ? first : last;
    }
    assert_true(first > 3.5 && last < 0.5);
    close_world(&w);
    rig_close(&r);
}

enum { UPDATES = 40 };

/* Losses before each update; how many steps were skipped, and the last scale. */
typedef struct course {
    double losses[UPDATES], scale;
    int skipped;
} course;

static course run_course(sherd_dtype dtype, int power)
{
    rig_case c = two_layers(dtype);
    course out = {.scale = 1};
    rig r;
    world w;
    sherd_error err = {0};
    good(rig_open(&r, &c, &err), &err);
    scale_power = power;
    open_world(&w, &r, SHERD_ADAMW, 1e-3, 2);
    scale_power = -1;
    for (int made = 0; made < UPDATES;) {
        sherd_report report;
        double loss = engine_step(&w, &r);
        sherd_report_init(&report, sizeof report);
        good(sherd_engine_wait(w.engine, &err), &err);
        sherd_engine_report(w.engine, &report);
        out.skipped += report.skipped;
        assert_true(out.skipped < 60 && isfinite(loss));
        out.losses[made] = loss;
        made += !report.skipped;
    }
    out.scale = sherd_engine_loss_scale(w.engine);
    close_world(&w);
    rig_close(&r);
    return out;
}

/* The first scale, 2^40, overflows in fp16 until 17 or more halvings later; from there on fp16's losses are fp32's to
 * 1 %: no derived bound, Adam turns a gradient's rounding into a step of its own; 0.2 % was measured. A gradient
 * without its scale taken out would change nothing under Adam but eps and the clip, so the norm is compared too, above.
 */
static void fp16_learns_as_fp32_does(void **state)
{
    (void)state;
    course full = run_course(SHERD_FP32, -1), half = run_course(SHERD_FP16, 40);
    assert_int_equal(full.skipped, 0);
    assert_true(half.skipped >= 17 && half.scale == ldexp(1, 40 - half.skipped));
    for (int i = 0; i < UPDATES; i++) {
        if (!(fabs(half.losses[i] - full.losses[i]) <= 0.01 * full.losses[i])) {
            fail_msg("update %d: loss %.9g, in fp32 %.9g", i, half.losses[i], full.losses[i]);
        }
    }
    assert_true(half.losses[UPDATES - 1] < 0.6 * half.losses[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_takes_the_gradient_off),
        cmocka_unit_test(adamw_learns_a_batch_by_heart),
        cmocka_unit_test(fp16_learns_as_fp32_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
