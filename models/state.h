/* SPDX-License-Identifier: MIT
 *
 * The model's buffers and one pass over them. rows = batch·seq of the largest micro-batch.
 */
#ifndef SHERD_MODELS_STATE_H
#define SHERD_MODELS_STATE_H

#include "models/ops.h"
#include "models/params.h"

/* What a layer keeps for its backward. With checkpointing, or forward only, all layers share one. */
typedef struct sherd_layer_buffers {
    void *normed1, *q, *k, *v, *attended, *middle, *normed2, *gate, *up;
    float *rstd1, *rstd2, *lse;
} sherd_layer_buffers;

/* Category ACTIVATIONS. */
typedef struct sherd_activations {
    void **inputs;               /* layers + 1: each layer's input, and the last output (forward only: two in turn) */
    sherd_layer_buffers *layers; /* n_layers */
    int64_t n_inputs, n_layers;
    void *normed; /* after the last norm */
    float *rstd;
} sherd_activations;

/* Category WORKSPACE. */
typedef struct sherd_workspace {
    int32_t *tokens, *targets;
    float *rope;    /* [seq][dim] */
    void *act;      /* [rows][intermediate] */
    float *logits;  /* [chunk][vocab] */
    double *losses; /* [rows] */
    /* backward only, NULL otherwise */
    void *dlogits;  /* [chunk][vocab], model type; fp32: the logits themselves */
    float *dhead;   /* [vocab][hidden], where chunks of a 16-bit head gradient are summed; else NULL */
    float *dnormed; /* [rows][hidden] */
    void *dx;       /* [rows][hidden]: the gradient of the residual stream */
    void *dq, *dk, *dv, *dattended;
    float *partials;
    int32_t *order;
} sherd_workspace;

struct sherd_model {
    sherd_model_shape shape;
    sherd_model_options options;
    sherd_ops *ops;
    int64_t head_dim, kv_width, chunk;
    sherd_activations a;
    sherd_workspace w;
    void *activation_block, *workspace_block;
    double *losses; /* the caller's side of w.losses */
};

/* Rows whose logits exist at one time. */
int64_t sherd__model_chunk(const sherd_model_shape *shape, const sherd_model_options *options);
/* Lays the buffers out from `base` (NULL: only counts). Returns the bytes. a->inputs and a->layers must have room. */
uint64_t sherd__layout_activations(const sherd_model_shape *s, const sherd_model_options *o, void *base,
                                   sherd_activations *a);
uint64_t sherd__layout_workspace(const sherd_model_shape *s, const sherd_model_options *o, void *base,
                                 sherd_workspace *w);
void sherd__layout_counts(const sherd_model_shape *s, const sherd_model_options *o, sherd_activations *a);
sherd_ops_options sherd__layout_ops(const sherd_model_shape *s, const sherd_model_options *o);

/* One pass. The first failure sticks; later calls do nothing, so that the passes read straight down. */
typedef struct sherd_pass {
    sherd_model *m;
    const sherd_model_store *store;
    sherd_error *err;
    sherd_status status;
    int64_t batch, seq, rows;
    float loss_scale; /* of dlogits */
} sherd_pass;

/* NULL after a failure. Every non-NULL acquire is followed by its release. */
const void *sherd__pass_acquire(sherd_pass *p, uint32_t param);
void sherd__pass_release(sherd_pass *p, uint32_t param);
/* 1: the gradient's place is in *out. */
int sherd__pass_grad(sherd_pass *p, uint32_t param, sherd_grad *out);
void sherd__pass_ready(sherd_pass *p, uint32_t param);
void sherd__pass_matmul(sherd_pass *p, const sherd_matmul *mm);
/* y = x·wᵀ + d: x [rows][in], w the parameter [out][in], all of the model type */
void sherd__pass_linear(sherd_pass *p, uint32_t param, const void *x, void *y, int64_t out, int64_t in, const void *d);
void sherd__pass_norm(sherd_pass *p, uint32_t param, const void *x, void *y, float *rstd);

/* Embedding and layers; the last layer's output is inputs[layers]. keep: every layer's buffers stay for backward. */
void sherd__forward_layers(sherd_pass *p);
/* One layer again or for the first time: from `in` to `out` (NULL: the part behind the activation is not needed). */
void sherd__forward_layer(sherd_pass *p, int64_t layer, const void *in, void *out);
/* Last norm, head and the rows' losses, on their way to m->losses; with gradients into dx and the parameters if
 * `train`. */
void sherd__head_loss(sherd_pass *p, int train);
void sherd__backward_layers(sherd_pass *p);
void *sherd__model_input(const sherd_model *m, int64_t layer);
sherd_layer_buffers *sherd__model_layer(const sherd_model *m, int64_t layer);

#endif
