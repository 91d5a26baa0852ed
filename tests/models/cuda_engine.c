/* SPDX-License-Identifier: MIT
 *
 * Training through the engine with ranks on CUDA devices over the stubs, worlds 1 and 2 as threads: losses fall and
 * stay beside the host's, ranks agree, and a second run gives the same bits. It shows nothing about a GPU.
 */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/model.h"
#include "tests/models/cuda_copy.h"
#include "tests/support/cublaslt_stub/cublaslt_stub.h"
#include "tests/support/cuda_stub/simt_control.h"

enum { RANKS = 2, STEPS = 4, PARAMS = 24, BATCH = 2, SEQ = 13, VOCAB = 60 };

typedef struct setting {
    int32_t world;
    int stage, micro_steps;
    sherd_dtype dtype;
    sherd_device_kind kind;
    int checkpointing;
} setting;

typedef struct outcome {
    double losses[STEPS]; /* of the last micro-step */
    double norm;
    uint8_t hash[16];
} outcome;

typedef struct rank {
    pthread_t thread;
    const setting *s;
    int32_t number;
    sherd_comm *comm;
    sherd_device *device;
    sherd_engine *engine;
    sherd_plan *plan;
    sherd_model *model;
    sherd_model_shape shape;
    sherd_param params[PARAMS];
    char names[PARAMS * SHERD_MODEL_NAME_MAX];
    uint32_t n_params;
    sherd_status status;
    sherd_error err;
    outcome result;
} rank;

static int kept(rank *r, sherd_status status)
{
    r->status = r->status == SHERD_OK ? status : r->status;
    return r->status == SHERD_OK;
}

static int make_plan(rank *r)
{
    const setting *s = r->s;
    sherd_config config;
    r->shape = (sherd_model_shape){.size = sizeof r->shape,
                                   .layers = 2,
                                   .hidden = 48,
                                   .heads = 3,
                                   .kv_heads = 3,
                                   .intermediate = 80,
                                   .vocab = VOCAB,
                                   .tied = 1,
                                   .rope_theta = 1e4,
                                   .norm_eps = 1e-5,
                                   .init_std = 0.05};
    r->n_params = sherd_model_param_count(&r->shape);
    if (r->n_params > PARAMS ||
        !kept(r, sherd_model_params(&r->shape, s->dtype, s->dtype, 0, r->params, r->names, &r->err))) {
        return 0;
    }
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = BATCH;
    config.gradient_accumulation_steps = s->micro_steps;
    config.gradient_clipping = 1.0;
    config.dtype = s->dtype;
    config.zero.stage = s->stage;
    config.optimizer.lr = 3e-3;
    config.sherd.fail_after_s = 60;
    return kept(r, sherd_config_resolve(&config, s->world, &r->err)) &&
           kept(r, sherd_plan_create(&config, r->params, r->n_params, s->world, &r->plan, &r->err));
}

static int make_engine(rank *r)
{
    sherd_device_options device;
    sherd_model_options model;
    sherd_device_options_init(&device, sizeof device);
    device.kind = r->s->kind;
    sherd_model_options_init(&model, sizeof model);
    model.dtype = model.grad_dtype = r->s->dtype;
    model.batch = BATCH;
    model.seq = SEQ;
    model.checkpointing = r->s->checkpointing;
    if (!kept(r, sherd_device_create(&device, &r->device, &r->err)) ||
        !kept(r, sherd_engine_create(r->plan, r->device, r->comm, &r->engine, &r->err))) {
        return 0;
    }
    model.device = r->device;
    return kept(r, sherd_model_create(&r->shape, &model, &r->model, &r->err));
}

static int write_weights(rank *r)
{
    for (uint32_t p = 0; p < r->n_params; p++) {
        int64_t n = r->params[p].shape[0] * (r->params[p].ndim > 1 ? r->params[p].shape[1] : 1);
        float *values = malloc((size_t)n * sizeof *values);
        sherd_model_init_values(&r->shape, &r->params[p], 3, 0, n, values);
        int good = kept(r, sherd_param_write(r->engine, p, values, &r->err));
        free(values);
        if (!good) {
            return 0;
        }
    }
    return 1;
}

/* Micro-batch g: a short cycle of tokens that can be learnt. */
static void fill_tokens(int64_t g, int32_t *tokens, int32_t *targets)
{
    for (int64_t i = 0; i < BATCH * SEQ; i++) {
        tokens[i] = (int32_t)((i * (1 + g % 3)) % VOCAB);
        targets[i] = (int32_t)(((i + 1) * (1 + g % 3)) % VOCAB);
    }
}

static int train(rank *r)
{
    int32_t tokens[BATCH * SEQ], targets[BATCH * SEQ];
    sherd_model_store store = sherd_model_engine_store(r->engine);
    sherd_report report;
    sherd_report_init(&report, sizeof report);
    for (int step = 0; step < STEPS; step++) {
        for (int k = 0; k < r->s->micro_steps; k++) {
            sherd_micro micro;
            if (!kept(r, sherd_micro_begin(r->engine, &micro))) {
                return 0;
            }
            fill_tokens(micro.number, tokens, targets);
            if (!kept(r, sherd_model_step(r->model, &store, tokens, targets, BATCH, SEQ, &r->result.losses[step],
                                          &r->err)) ||
                !kept(r, sherd_engine_step(r->engine, &report, &r->err))) {
                return 0;
            }
        }
    }
    if (!kept(r, sherd_engine_wait(r->engine, &r->err)))
        return 0;
    sherd_engine_report(r->engine, &report); /* on a GPU the last step's is to be had only now */
    r->result.norm = report.grad_norm;
    return report.step == STEPS && kept(r, sherd_engine_hash(r->engine, NULL, r->result.hash, &r->err));
}

static void *rank_main(void *arg)
{
    rank *r = arg;
    if (make_plan(r) && make_engine(r) && write_weights(r)) {
        train(r);
    }
    sherd_engine_destroy(r->engine);
    sherd_model_destroy(r->model);
    sherd_comm_destroy(r->comm);
    sherd_device_destroy(r->device);
    sherd_plan_destroy(r->plan);
    return NULL;
}

static void run(const setting *s, outcome out[RANKS])
{
    rank *ranks = calloc(RANKS, sizeof *ranks);
    sherd_comm *comms[RANKS];
    sherd_comm_options options;
    sherd_comm_options_init(&options, sizeof options);
    options.fail_after_s = 60;
    assert_int_equal(sherd_comm_create_threads(&options, s->world, comms, NULL), SHERD_OK);
    for (int32_t i = 0; i < s->world; i++) {
        ranks[i].s = s;
        ranks[i].number = i;
        ranks[i].comm = comms[i];
        assert_int_equal(pthread_create(&ranks[i].thread, NULL, rank_main, &ranks[i]), 0);
    }
    for (int32_t i = 0; i < s->world; i++) {
        pthread_join(ranks[i].thread, NULL);
    }
    for (int32_t i = 0; i < s->world; i++) {
        if (ranks[i].status != SHERD_OK) {
            fail_msg("rank %d: %s: %s", i, sherd_status_name(ranks[i].status), ranks[i].err.text);
        }
        out[i] = ranks[i].result;
    }
    free(ranks);
}

static void check(setting s)
{
    outcome host[RANKS], gpu[RANKS], again[RANKS];
    double bound = s.dtype == SHERD_FP32 ? 1e-4 : 0.03; /* of the losses: rounding, and what four steps make of it */
    s.kind = SHERD_DEVICE_HOST;
    run(&s, host);
    s.kind = SHERD_DEVICE_CUDA;
    simt_seed(0);
    run(&s, gpu);
    simt_seed(77);
    run(&s, again);
    for (int32_t i = 0; i < s.world; i++) {
        assert_memory_equal(&gpu[i], &again[i], sizeof gpu[i]);
        assert_memory_equal(gpu[i].hash, gpu[0].hash, sizeof gpu[0].hash);
        assert_true(gpu[i].losses[STEPS - 1] < gpu[i].losses[0] - 0.05);
        for (int k = 0; k < STEPS; k++) {
            double error = fabs(gpu[i].losses[k] - host[i].losses[k]);
            if (!(error <= bound * host[i].losses[k])) {
                fail_msg("step %d of rank %d: loss %.9g, on the host %.9g", k, i, gpu[i].losses[k], host[i].losses[k]);
            }
        }
    }
    assert_true(fabs(gpu[0].norm - host[0].norm) <= 10 * bound * host[0].norm);
    assert_int_equal(cublaslt_stub_alive(), 0);
    assert_int_equal(cuda_left_alive(), 0);
}

static void one_rank_trains(void **state)
{
    (void)state;
    check((setting){.world = 1, .stage = 1, .micro_steps = 1, .dtype = SHERD_FP32});
    check((setting){.world = 1, .stage = 2, .micro_steps = 2, .dtype = SHERD_BF16, .checkpointing = 1});
}

static void two_ranks_train(void **state)
{
    (void)state;
    check((setting){.world = 2, .stage = 2, .micro_steps = 1, .dtype = SHERD_BF16});
    check((setting){.world = 2, .stage = 1, .micro_steps = 2, .dtype = SHERD_FP16});
    check((setting){.world = 2, .stage = 0, .micro_steps = 2, .dtype = SHERD_FP32, .checkpointing = 1});
}

static int hide(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    cuda_stub_hide_memory(1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_trains),
        cmocka_unit_test(two_ranks_train),
    };
    return cmocka_run_group_tests(tests, hide, NULL);
}
