/* SPDX-License-Identifier: MIT
 *
 * The model's lifecycle and its three calls.
 */
#include "models/scratch.h"
#include "models/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sherd_model_options_init(sherd_model_options *options, size_t size)
{
    sherd_model_options o = {.dtype = SHERD_FP32, .grad_dtype = SHERD_FP32, .batch = 1, .seq = 256, .threads = 1};
    memset(options, 0, size);
    memcpy(options, &o, size < sizeof o ? size : sizeof o);
    options->size = size;
}

static sherd_status check_options(const sherd_model_shape *s, const sherd_model_options *o, sherd_error *err)
{
    sherd_status status = sherd_model_shape_check(s, err);
    if (status != SHERD_OK) {
        return status;
    }
    if (o->size < sizeof *o) {
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "model: options of %zu bytes, expected %zu; set them with "
                                 "sherd_model_options_init",
                                 o->size, sizeof *o);
    }
    if (o->batch < 1 || o->seq < 1 || o->batch > INT32_MAX / o->seq) {
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "model: a micro-batch of %lld sequences of %lld tokens; both must be at least 1 "
                                 "and their product below 2^31",
                                 (long long)o->batch, (long long)o->seq);
    }
    if (!(o->fail_after_s >= 0 && o->fail_after_s <= 1e6)) {
        return sherd__model_fail(err, SHERD_EINVAL, "model: fail_after_s is %g, expected 0 to 1e6 seconds",
                                 o->fail_after_s);
    }
    if (o->threads < 0 || o->threads > 1024) {
        return sherd__model_fail(err, SHERD_EINVAL, "model: %d threads, expected 0 to 1024", o->threads);
    }
    if ((o->dtype != SHERD_FP32 && o->dtype != SHERD_BF16 && o->dtype != SHERD_FP16) ||
        (o->grad_dtype != SHERD_FP32 && o->grad_dtype != o->dtype)) {
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "model: type %s with gradients of type %s; take fp32, bf16 or fp16, and gradients in "
                                 "fp32 or the same",
                                 sherd_dtype_name(o->dtype), sherd_dtype_name(o->grad_dtype));
    }
    return SHERD_OK;
}

static sherd_model_options completed(const sherd_model_options *options)
{
    sherd_model_options o = *options;
    o.threads = o.threads ? o.threads : 1;
    o.fail_after_s = o.fail_after_s > 0 ? o.fail_after_s : 600;
    o.device_kind = o.device ? sherd_device_kind_of(o.device) : o.device_kind;
    return o;
}

sherd_status sherd_model_memory(const sherd_model_shape *shape, const sherd_model_options *options,
                                uint64_t *activation_bytes, uint64_t *workspace_bytes, sherd_error *err)
{
    sherd_status status = check_options(shape, options, err);
    if (status != SHERD_OK) {
        return status;
    }
    sherd_model_options o = completed(options);
    sherd_activations a = {0};
    sherd_workspace w;
    sherd_ops_options ops = sherd__layout_ops(shape, &o);
    sherd__layout_counts(shape, &o, &a);
    if (activation_bytes) {
        *activation_bytes = sherd__layout_activations(shape, &o, NULL, &a);
    }
    if (workspace_bytes) {
        *workspace_bytes = sherd__layout_workspace(shape, &o, NULL, &w) + sherd__ops_bytes(&ops);
    }
    return SHERD_OK;
}

uint64_t sherd_model_activation_bytes(const sherd_model_shape *shape, sherd_dtype dtype, int64_t batch, int64_t seq,
                                      int32_t checkpointing)
{
    sherd_model_options o;
    sherd_activations a = {0};
    sherd_model_options_init(&o, sizeof o);
    o.dtype = dtype;
    o.batch = batch;
    o.seq = seq;
    o.checkpointing = checkpointing;
    sherd__layout_counts(shape, &o, &a);
    return sherd__layout_activations(shape, &o, NULL, &a);
}

/* cos and sin of position · theta^(−2i/dim), in double and rounded once. */
static void fill_rope(const sherd_model *m, float *table)
{
    int64_t dim = m->head_dim;
    for (int64_t t = 0; t < m->options.seq; t++) {
        for (int64_t i = 0; i < dim / 2; i++) {
            double angle = (double)t * pow(m->shape.rope_theta, -2.0 * (double)i / (double)dim);
            table[t * dim + i] = (float)cos(angle);
            table[t * dim + dim / 2 + i] = (float)sin(angle);
        }
    }
}

static sherd_status upload_rope(sherd_model *m, sherd_error *err)
{
    size_t bytes = (size_t)(m->options.seq * m->head_dim) * sizeof(float);
    float *table = malloc(bytes);
    if (!table) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the rotary table");
    }
    fill_rope(m, table);
    m->ops->upload(m->ops, m->w.rope, table, bytes);
    free(table);
    return m->ops->settle(m->ops, err);
}

static sherd_status allocate(sherd_model *m, sherd_error *err)
{
    const sherd_model_shape *s = &m->shape;
    const sherd_model_options *o = &m->options;
    sherd__layout_counts(s, o, &m->a);
    m->a.inputs = calloc((size_t)m->a.n_inputs, sizeof *m->a.inputs);
    m->a.layers = calloc((size_t)m->a.n_layers, sizeof *m->a.layers);
    m->losses = calloc((size_t)(o->batch * o->seq), sizeof *m->losses);
    if (!m->a.inputs || !m->a.layers || !m->losses) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the tables of %lld layers",
                                 (long long)s->layers);
    }
    uint64_t bytes = sherd__layout_activations(s, o, NULL, &m->a);
    sherd_status status = sherd_device_alloc(o->device, bytes, SHERD_CAT_ACTIVATIONS, &m->activation_block, err);
    if (status != SHERD_OK) {
        return status;
    }
    sherd__layout_activations(s, o, m->activation_block, &m->a);
    bytes = sherd__layout_workspace(s, o, NULL, &m->w);
    status = sherd_device_alloc(o->device, bytes, SHERD_CAT_WORKSPACE, &m->workspace_block, err);
    if (status != SHERD_OK) {
        return status;
    }
    sherd__layout_workspace(s, o, m->workspace_block, &m->w);
    return SHERD_OK;
}

sherd_status sherd_model_create(const sherd_model_shape *shape, const sherd_model_options *options, sherd_model **out,
                                sherd_error *err)
{
    sherd_status status = check_options(shape, options, err);
    if (status == SHERD_OK && !options->device) {
        status = sherd__model_fail(err, SHERD_EINVAL, "model: no device; create one with sherd_device_create");
    }
    if (status != SHERD_OK) {
        return status;
    }
    sherd_model *m = calloc(1, sizeof *m);
    if (!m) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the handle");
    }
    m->shape = *shape;
    m->options = completed(options);
    m->head_dim = shape->hidden / shape->heads;
    m->kv_width = m->head_dim * shape->kv_heads;
    m->chunk = sherd__model_chunk(shape, &m->options);
    sherd_ops_options ops = sherd__layout_ops(shape, &m->options);
    status = allocate(m, err);
    if (status == SHERD_OK) {
        status = sherd__ops_create(&ops, &m->ops, err);
    }
    if (status == SHERD_OK) {
        status = upload_rope(m, err);
    }
    if (status != SHERD_OK) {
        sherd_model_destroy(m);
        return status;
    }
    *out = m;
    return SHERD_OK;
}

void sherd_model_destroy(sherd_model *m)
{
    if (!m) {
        return;
    }
    if (m->ops) {
        m->ops->destroy(m->ops);
    }
    sherd__release(m->options.device, m->workspace_block);
    sherd__release(m->options.device, m->activation_block);
    free(m->losses);
    free(m->a.layers);
    free(m->a.inputs);
    free(m);
}

const char *sherd_model_describe(const sherd_model *m)
{
    return m->ops->describe(m->ops);
}

static sherd_status check_ids(const sherd_model *m, const char *what, const int32_t *ids, int64_t n, sherd_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= m->shape.vocab) {
            return sherd__model_fail(err, SHERD_EINVAL, "model: %s %lld is %d, the vocabulary has %lld", what,
                                     (long long)i, ids[i], (long long)m->shape.vocab);
        }
    }
    return SHERD_OK;
}

/* Checks and uploads a micro-batch; targets may be NULL. */
static sherd_status open_pass(sherd_pass *p, const int32_t *tokens, const int32_t *targets)
{
    sherd_model *m = p->m;
    const sherd_model_options *o = &m->options;
    if (p->batch < 1 || p->seq < 1 || p->seq > o->seq || p->batch * p->seq > o->batch * o->seq) {
        return sherd__model_fail(p->err, SHERD_EINVAL,
                                 "model: a micro-batch of %lld × %lld tokens, but the model was made for at most "
                                 "%lld × %lld",
                                 (long long)p->batch, (long long)p->seq, (long long)o->batch, (long long)o->seq);
    }
    p->rows = p->batch * p->seq;
    sherd_status status = check_ids(m, "token", tokens, p->rows, p->err);
    if (status == SHERD_OK && targets) {
        status = check_ids(m, "target", targets, p->rows, p->err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    m->ops->upload(m->ops, m->w.tokens, tokens, (size_t)p->rows * sizeof *tokens);
    if (targets) {
        m->ops->upload(m->ops, m->w.targets, targets, (size_t)p->rows * sizeof *targets);
    }
    return SHERD_OK;
}

/* After a failure too: nothing may be on its way to the caller's memory when the call returns. */
static void settle(sherd_pass *p)
{
    sherd_error error = {.status = SHERD_OK, .rank = -1};
    sherd_status status = p->m->ops->settle(p->m->ops, &error);
    if (status != SHERD_OK && p->status == SHERD_OK) {
        p->status = status;
        if (p->err) {
            *p->err = error;
        }
    }
}

static double mean_loss(const sherd_pass *p)
{
    double sum = 0.0;
    for (int64_t i = 0; i < p->rows; i++) {
        sum += p->m->losses[i];
    }
    return sum / (double)p->rows;
}

static sherd_status pass_loss(sherd_pass *p, const int32_t *tokens, const int32_t *targets, int train, double *loss)
{
    p->status = open_pass(p, tokens, targets);
    if (p->status == SHERD_OK) {
        sherd__forward_layers(p);
    }
    if (p->status == SHERD_OK) {
        sherd__head_loss(p, train);
    }
    if (train && p->status == SHERD_OK) {
        sherd__backward_layers(p);
    }
    settle(p); /* the loss was made before backward: here the host waits little or not at all */
    if (p->status == SHERD_OK) {
        *loss = mean_loss(p);
    }
    return p->status;
}

sherd_status sherd_model_step(sherd_model *m, const sherd_model_store *store, const int32_t *tokens,
                              const int32_t *targets, int64_t batch, int64_t seq, double *loss, sherd_error *err)
{
    if (m->options.forward_only) {
        return sherd__model_fail(err, SHERD_ESTATE, "model: made with forward_only, it has no room for backward");
    }
    sherd_pass p = {.m = m, .store = store, .err = err, .batch = batch, .seq = seq, .loss_scale = 1.0f};
    if (store->loss_scale) {
        p.loss_scale = (float)store->loss_scale(store->ctx);
    }
    return pass_loss(&p, tokens, targets, 1, loss);
}

sherd_status sherd_model_loss(sherd_model *m, const sherd_model_store *store, const int32_t *tokens,
                              const int32_t *targets, int64_t batch, int64_t seq, double *loss, sherd_error *err)
{
    sherd_pass p = {.m = m, .store = store, .err = err, .batch = batch, .seq = seq};
    return pass_loss(&p, tokens, targets, 0, loss);
}

sherd_status sherd_model_logits(sherd_model *m, const sherd_model_store *store, const int32_t *tokens, int64_t seq,
                                float *logits, sherd_error *err)
{
    sherd_pass p = {.m = m, .store = store, .err = err, .batch = 1, .seq = seq};
    int64_t hidden = m->shape.hidden, vocab = m->shape.vocab;
    uint32_t head = sherd__head_param(&m->shape);
    p.status = open_pass(&p, tokens, NULL);
    if (p.status == SHERD_OK) {
        sherd__forward_layers(&p);
    }
    const char *last = (const char *)sherd__model_input(m, m->shape.layers) +
                       (p.rows - 1) * hidden * sherd__model_bytes(m->options.dtype);
    p.rows = 1;
    sherd__pass_norm(&p, sherd__final_norm_param(&m->shape), last, m->a.normed, m->a.rstd);
    const void *w = sherd__pass_acquire(&p, head);
    if (w) {
        sherd__pass_matmul(&p, &(sherd_matmul){.m = 1,
                                               .n = vocab,
                                               .k = hidden,
                                               .trans_b = 1,
                                               .out = SHERD_FP32,
                                               .a = m->a.normed,
                                               .b = w,
                                               .c = m->w.logits});
        sherd__pass_release(&p, head);
    }
    if (p.status == SHERD_OK) {
        m->ops->download(m->ops, logits, m->w.logits, (size_t)vocab * sizeof *logits);
    }
    settle(&p);
    return p.status;
}
