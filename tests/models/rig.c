/* SPDX-License-Identifier: MIT */
#include "tests/models/rig.h"

#include "tests/models/half.h"

#include <stdlib.h>
#include <string.h>

#define SEED 20240229u

int64_t rig_elems(const sherd_param *param)
{
    int64_t n = 1;
    for (uint32_t i = 0; i < param->ndim; i++) {
        n *= param->shape[i];
    }
    return n;
}

static void copy(rig *r, void *to, const void *from, size_t bytes)
{
    if (r->c.copy) {
        r->c.copy(r->c.copy_ctx, r->device, to, from, bytes);
    } else {
        memcpy(to, from, bytes);
    }
}

void rig_set_weights(rig *r, uint32_t param, int64_t at, int64_t n, const float *values)
{
    size_t bytes = (size_t)sherd_dtype_bytes(r->c.dtype);
    char *data = sherd_model_memory_store_param(r->store, param);
    uint16_t *half = malloc((size_t)n * sizeof *half);
    for (int64_t i = 0; i < n; i++) {
        half[i] = half_of(r->c.dtype, values[i]);
        r->weights[param][at + i] = r->c.dtype == SHERD_FP32 ? values[i] : float_of(r->c.dtype, half[i]);
    }
    copy(r, data + (size_t)at * bytes, r->c.dtype == SHERD_FP32 ? (const void *)values : half, (size_t)n * bytes);
    free(half);
}

void rig_set_weight(rig *r, uint32_t param, int64_t at, float value)
{
    rig_set_weights(r, param, at, 1, &value);
}

/* Matrices normal(0, 0.08); norms 1 + normal(0, 0.2): their gradients differ from what weights of 1 would hide. */
static void set_weights(rig *r)
{
    for (uint32_t p = 0; p < r->n_params; p++) {
        int64_t n = rig_elems(&r->params[p]);
        sherd_param matrix = r->params[p];
        matrix.ndim = 2;
        r->weights[p] = calloc((size_t)n, sizeof(float));
        float *fresh = calloc((size_t)n, sizeof *fresh);
        sherd_model_init_values(&r->shape, &matrix, SEED, 0, n, fresh);
        for (int64_t i = 0; i < n && r->params[p].ndim == 1; i++) {
            fresh[i] = 1.0f + 2.5f * fresh[i];
        }
        rig_set_weights(r, p, 0, n, fresh);
        free(fresh);
    }
}

static void set_tokens(rig *r)
{
    uint64_t state = SEED;
    int64_t n = r->c.batch * r->c.seq;
    for (int64_t i = 0; i < 2 * n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        (i < n ? r->tokens : r->targets)[i % n] = (int32_t)((state >> 33) % (uint64_t)r->c.vocab);
    }
}

static sherd_status create(rig *r, sherd_error *err)
{
    const rig_case *c = &r->c;
    sherd_device_options device;
    sherd_model_options options;
    sherd_device_options_init(&device, sizeof device);
    device.memory_limit = c->memory_limit;
    device.kind = c->device;
    sherd_status status = sherd_device_create(&device, &r->device, err);
    if (status != SHERD_OK) {
        return status;
    }
    sherd_model_options_init(&options, sizeof options);
    options.dtype = c->dtype;
    options.grad_dtype = c->grad_dtype;
    options.batch = c->batch;
    options.seq = c->seq;
    options.threads = c->threads;
    options.checkpointing = c->checkpointing;
    options.gemm = c->gemm;
    options.logits_bytes = c->logits_bytes;
    options.fail_after_s = c->fail_after_s;
    options.device = r->device;
    status = sherd_model_params(&r->shape, c->dtype, c->grad_dtype, 0, r->params, r->names, err);
    if (status == SHERD_OK) {
        status = sherd_model_memory_store_create(r->params, r->n_params, r->device, &r->store, err);
    }
    return status == SHERD_OK ? sherd_model_create(&r->shape, &options, &r->model, err) : status;
}

sherd_status rig_open(rig *r, const rig_case *c, sherd_error *err)
{
    *r = (rig){.c = *c};
    r->shape = (sherd_model_shape){.size = sizeof r->shape,
                                   .layers = c->layers,
                                   .hidden = c->hidden,
                                   .heads = c->heads,
                                   .kv_heads = c->kv_heads,
                                   .intermediate = c->intermediate,
                                   .vocab = c->vocab,
                                   .tied = c->tied,
                                   .rope_theta = 10000.0,
                                   .norm_eps = 1e-5,
                                   .init_std = 0.08};
    r->n_params = sherd_model_param_count(&r->shape);
    r->params = calloc(r->n_params, sizeof *r->params);
    r->names = calloc(r->n_params, SHERD_MODEL_NAME_MAX);
    r->weights = calloc(r->n_params, sizeof *r->weights);
    r->tokens = calloc((size_t)(c->batch * c->seq), sizeof *r->tokens);
    r->targets = calloc((size_t)(c->batch * c->seq), sizeof *r->targets);
    sherd_status status = create(r, err);
    if (status == SHERD_OK) {
        r->view = sherd_model_memory_store_view(r->store);
        set_weights(r);
        set_tokens(r);
    }
    return status;
}

void rig_close(rig *r)
{
    for (uint32_t p = 0; p < r->n_params; p++) {
        free(r->weights[p]);
    }
    sherd_model_destroy(r->model);
    sherd_model_memory_store_destroy(r->store);
    sherd_device_destroy(r->device);
    free(r->targets);
    free(r->tokens);
    free(r->weights);
    free(r->names);
    free(r->params);
}

sherd_status rig_step(rig *r, double *loss, sherd_error *err)
{
    sherd_model_memory_store_begin(r->store);
    return sherd_model_step(r->model, &r->view, r->tokens, r->targets, r->c.batch, r->c.seq, loss, err);
}

float *rig_grad(rig *r, uint32_t param)
{
    int64_t n = rig_elems(&r->params[param]);
    sherd_dtype dtype = r->params[param].grad_dtype;
    float *out = malloc((size_t)n * sizeof *out);
    void *data = malloc((size_t)n * sizeof *out);
    copy(r, data, sherd_model_memory_store_grad(r->store, param), (size_t)n * sherd_dtype_bytes(dtype));
    for (int64_t i = 0; i < n; i++) {
        out[i] = dtype == SHERD_FP32 ? ((const float *)data)[i] : float_of(dtype, ((const uint16_t *)data)[i]);
    }
    free(data);
    return out;
}
