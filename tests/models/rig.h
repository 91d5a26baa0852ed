/* SPDX-License-Identifier: MIT
 *
 * A decoder with its parameters in the plain store, on the host device or another, weights spread so that every
 * gradient matters, and one random micro-batch.
 */
#ifndef SHERD_TESTS_MODELS_RIG_H
#define SHERD_TESTS_MODELS_RIG_H

#include "models/model.h"

typedef struct rig_case {
    int64_t layers, hidden, heads, kv_heads, intermediate, vocab;
    int tied;
    int64_t batch, seq;
    int checkpointing;
    sherd_dtype dtype, grad_dtype;
    sherd_model_gemm gemm;
    int threads;
    uint64_t memory_limit; /* of the device; 0: none */
    uint64_t logits_bytes; /* 0: the default */
    double fail_after_s;   /* 0: the default */
    sherd_device_kind device;
    /* Between the test's memory and the device's, done when it returns; NULL: memcpy. */
    void (*copy)(void *ctx, sherd_device *device, void *to, const void *from, size_t bytes);
    void *copy_ctx;
} rig_case;

typedef struct rig {
    rig_case c;
    sherd_model_shape shape;
    sherd_device *device;
    sherd_model *model;
    sherd_model_memory_store *store;
    sherd_model_store view;
    sherd_param *params;
    char *names;
    uint32_t n_params;
    float **weights; /* as the model sees them: already rounded to its type */
    int32_t *tokens, *targets;
} rig;

/* After a failure rig_close takes what was made. */
sherd_status rig_open(rig *r, const rig_case *c, sherd_error *err);
void rig_close(rig *r);
sherd_status rig_step(rig *r, double *loss, sherd_error *err);
int64_t rig_elems(const sherd_param *param);
float *rig_grad(rig *r, uint32_t param); /* widened; the caller frees */
void rig_set_weight(rig *r, uint32_t param, int64_t at, float value);
/* n of them. */
void rig_set_weights(rig *r, uint32_t param, int64_t at, int64_t n, const float *values);

#endif
