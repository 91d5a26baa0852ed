/* SPDX-License-Identifier: MIT
 *
 * The decoder through the engine as its store, world 1: one SGD step of rate 1 takes exactly the gradient the plain
 * store shows off every parameter, tied embedding included; and some steps of AdamW learn a short text by heart.
 */
#include "tests/models/rig.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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
    rig_case c = {.layers = 2,
                  .hidden = 48,
                  .heads = 6,
                  .kv_heads = 2,
                  .intermediate = 72,
                  .vocab = 90,
                  .batch = 2,
                  .seq = 19,
                  .threads = 1};
    int compared = 0;
    for (int bits = 0; bits < 8; bits++, compared++) {
        c.tied = bits & 1;
        c.dtype = c.grad_dtype = bits & 2 ? SHERD_BF16 : SHERD_FP32;
        c.checkpointing = bits >> 2;
        check_sgd(&c, bits % 3);
    }
    assert_int_equal(compared, 8);
}

static void adamw_learns_a_batch_by_heart(void **state)
{
    (void)state;
    rig_case c = {.layers = 2,
                  .hidden = 64,
                  .heads = 4,
                  .kv_heads = 2,
                  .intermediate = 96,
                  .vocab = 60,
                  .tied = 1,
                  .batch = 2,
                  .seq = 24,
                  .threads = 1,
                  .dtype = SHERD_BF16,
                  .grad_dtype = SHERD_BF16};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sgd_takes_the_gradient_off),
        cmocka_unit_test(adamw_learns_a_batch_by_heart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
