/* SPDX-License-Identifier: MIT
 *
 * Backward, written by hand. dx is the gradient of the residual stream; it passes every block unchanged and collects
 * what comes through the block's norm. Gradients are finished in the reverse of the table's order, each written where
 * the store says. The loss scale enters where gradients begin, in dlogits. dnormed, the gradient behind a norm, is
 * summed in fp32 over the products that meet there.
 */
#include "models/state.h"

/* The parameter's gradient dyᵀ·x: dy [rows][out], x [rows][in]. */
static void weight_gradient(sherd_pass *p, uint32_t param, const void *dy, const void *x, int64_t out, int64_t in)
{
    sherd_grad grad;
    if (sherd__pass_grad(p, param, &grad)) {
        sherd__pass_matmul(p, &(sherd_matmul){.m = out,
                                              .n = in,
                                              .k = p->rows,
                                              .trans_a = 1,
                                              .out = grad.dtype,
                                              .a = dy,
                                              .b = x,
                                              .d = grad.beta ? grad.data : NULL,
                                              .c = grad.data});
        sherd__pass_ready(p, param);
    }
}

/* dx [rows][in] of type `type` = dy [rows][out] · w (+ dx). */
static void input_gradient(sherd_pass *p, uint32_t param, const void *dy, void *dx, sherd_dtype type, int64_t out,
                           int64_t in, int add)
{
    const void *w = sherd__pass_acquire(p, param);
    if (w) {
        sherd__pass_matmul(
            p, &(sherd_matmul){
                   .m = p->rows, .n = in, .k = out, .out = type, .a = dy, .b = w, .d = add ? dx : NULL, .c = dx});
        sherd__pass_release(p, param);
    }
}

static void norm_gradient(sherd_pass *p, uint32_t param, const void *x, float *rstd, int clear)
{
    sherd_model *m = p->m;
    sherd_grad grad;
    const void *w = sherd__pass_acquire(p, param);
    if (!w) {
        return;
    }
    if (sherd__pass_grad(p, param, &grad)) {
        m->ops->rmsnorm_backward(m->ops, &(sherd_rmsnorm){.rows = p->rows,
                                                          .cols = m->shape.hidden,
                                                          .x = x,
                                                          .w = w,
                                                          .rstd = rstd,
                                                          .dy = m->w.dnormed,
                                                          .dx = m->w.dx,
                                                          .partials = m->w.partials,
                                                          .dw = grad.data,
                                                          .dw_type = grad.dtype,
                                                          .dw_beta = grad.beta,
                                                          .dx_clear = clear});
    }
    sherd__pass_release(p, param);
    sherd__pass_ready(p, param);
}

/* Logits of rows [row, row + n), their losses, and with `train` dlogits and dnormed. */
static void head_chunk(sherd_pass *p, const void *head, int64_t row, int64_t n, int train)
{
    sherd_model *m = p->m;
    int64_t hidden = m->shape.hidden, vocab = m->shape.vocab;
    const char *x = (const char *)m->a.normed + row * hidden * sherd__model_bytes(m->options.dtype);
    sherd__pass_matmul(
        p, &(sherd_matmul){
               .m = n, .n = vocab, .k = hidden, .trans_b = 1, .out = SHERD_FP32, .a = x, .b = head, .c = m->w.logits});
    if (p->status != SHERD_OK) {
        return;
    }
    m->ops->cross_entropy(m->ops, &(sherd_xent){.rows = n,
                                                .vocab = vocab,
                                                .logits = m->w.logits,
                                                .targets = m->w.targets + row,
                                                .scale = p->loss_scale / (float)p->rows,
                                                .dlogits = train ? m->w.dlogits : NULL,
                                                .losses = m->w.losses + row});
    if (train) {
        sherd__pass_matmul(p, &(sherd_matmul){.m = n,
                                              .n = hidden,
                                              .k = vocab,
                                              .out = SHERD_FP32,
                                              .a = m->w.dlogits,
                                              .b = head,
                                              .c = m->w.dnormed + row * hidden});
    }
}

/* The head's gradient, chunk by chunk: straight into its place, or where that has 16 bits and there are several chunks,
 * into an fp32 sum that is rounded once. */
static void head_gradient(sherd_pass *p, const sherd_grad *grad, int64_t row, int64_t n)
{
    sherd_model *m = p->m;
    int64_t hidden = m->shape.hidden, vocab = m->shape.vocab;
    int whole = n == p->rows, summed = !whole && grad->dtype != SHERD_FP32;
    void *to = summed ? (void *)m->w.dhead : grad->data;
    int add = row > 0 || (!summed && grad->beta);
    const char *x = (const char *)m->a.normed + row * hidden * sherd__model_bytes(m->options.dtype);
    sherd__pass_matmul(p, &(sherd_matmul){.m = vocab,
                                          .n = hidden,
                                          .k = n,
                                          .trans_a = 1,
                                          .out = summed ? SHERD_FP32 : grad->dtype,
                                          .a = m->w.dlogits,
                                          .b = x,
                                          .d = add ? to : NULL,
                                          .c = to});
    if (summed && row + n == p->rows && p->status == SHERD_OK) {
        m->ops->narrow(m->ops, vocab * hidden, m->w.dhead, grad->data, grad->dtype, grad->beta);
    }
}

void sherd__head_loss(sherd_pass *p, int train)
{
    sherd_model *m = p->m;
    uint32_t norm = sherd__final_norm_param(&m->shape), param = sherd__head_param(&m->shape);
    void *x = sherd__model_input(m, m->shape.layers);
    sherd_grad grad = {0};
    sherd__pass_norm(p, norm, x, m->a.normed, m->a.rstd);
    const void *head = sherd__pass_acquire(p, param);
    if (!head) {
        return;
    }
    if (!train || sherd__pass_grad(p, param, &grad)) {
        for (int64_t row = 0; row < p->rows && p->status == SHERD_OK; row += m->chunk) {
            int64_t n = sherd__model_min(m->chunk, p->rows - row);
            head_chunk(p, head, row, n, train);
            if (train) {
                head_gradient(p, &grad, row, n);
            }
        }
    }
    sherd__pass_release(p, param);
    if (train) {
        sherd__pass_ready(p, param);
        norm_gradient(p, norm, x, m->a.rstd, 1);
    }
    if (p->status == SHERD_OK) {
        m->ops->download(m->ops, m->losses, m->w.losses, (size_t)p->rows * sizeof *m->losses);
    }
}

static void mlp_backward(sherd_pass *p, int64_t layer, sherd_layer_buffers *b)
{
    sherd_model *m = p->m;
    sherd_workspace *w = &m->w;
    int64_t hidden = m->shape.hidden, wide = m->shape.intermediate;
    uint32_t gate = sherd__layer_param(layer, SHERD__GATE), up = sherd__layer_param(layer, SHERD__UP);
    uint32_t down = sherd__layer_param(layer, SHERD__DOWN);
    input_gradient(p, down, w->dx, w->act, m->options.dtype, hidden, wide, 0);
    if (p->status != SHERD_OK) {
        return;
    }
    /* gate, up and dact are read for the last time here: their gradients and the activation itself take their places */
    m->ops->swiglu_backward(m->ops, &(sherd_swiglu){.elems = p->rows * wide,
                                                    .gate = b->gate,
                                                    .up = b->up,
                                                    .out = w->act,
                                                    .dout = w->act,
                                                    .dgate = b->gate,
                                                    .dup = b->up});
    weight_gradient(p, down, w->dx, w->act, hidden, wide);
    weight_gradient(p, up, b->up, b->normed2, wide, hidden);
    weight_gradient(p, gate, b->gate, b->normed2, wide, hidden);
    input_gradient(p, up, b->up, w->dnormed, SHERD_FP32, wide, hidden, 0);
    input_gradient(p, gate, b->gate, w->dnormed, SHERD_FP32, wide, hidden, 1);
    norm_gradient(p, sherd__layer_param(layer, SHERD__NORM2), b->middle, b->rstd2, 0);
}

static void unrotate(sherd_pass *p, void *x, int64_t heads)
{
    sherd_model *m = p->m;
    m->ops->rope(m->ops, &(sherd_rope){.batch = p->batch,
                                       .seq = p->seq,
                                       .heads = heads,
                                       .dim = m->head_dim,
                                       .table = m->w.rope,
                                       .backward = 1,
                                       .x = x});
}

static void attention_backward(sherd_pass *p, int64_t layer, sherd_layer_buffers *b)
{
    sherd_model *m = p->m;
    sherd_workspace *w = &m->w;
    int64_t hidden = m->shape.hidden, kv = m->kv_width;
    uint32_t o = sherd__layer_param(layer, SHERD__O), q = sherd__layer_param(layer, SHERD__Q);
    uint32_t k = sherd__layer_param(layer, SHERD__K), v = sherd__layer_param(layer, SHERD__V);
    weight_gradient(p, o, w->dx, b->attended, hidden, hidden);
    input_gradient(p, o, w->dx, w->dattended, m->options.dtype, hidden, hidden, 0);
    if (p->status != SHERD_OK) {
        return;
    }
    m->ops->attention_backward(m->ops, &(sherd_attention){.batch = p->batch,
                                                          .seq = p->seq,
                                                          .heads = m->shape.heads,
                                                          .kv_heads = m->shape.kv_heads,
                                                          .dim = m->head_dim,
                                                          .q = b->q,
                                                          .k = b->k,
                                                          .v = b->v,
                                                          .out = b->attended,
                                                          .lse = b->lse,
                                                          .dout = w->dattended,
                                                          .dq = w->dq,
                                                          .dk = w->dk,
                                                          .dv = w->dv});
    unrotate(p, w->dq, m->shape.heads);
    unrotate(p, w->dk, m->shape.kv_heads);
    weight_gradient(p, v, w->dv, b->normed1, kv, hidden);
    weight_gradient(p, k, w->dk, b->normed1, kv, hidden);
    weight_gradient(p, q, w->dq, b->normed1, hidden, hidden);
    input_gradient(p, v, w->dv, w->dnormed, SHERD_FP32, kv, hidden, 0);
    input_gradient(p, k, w->dk, w->dnormed, SHERD_FP32, kv, hidden, 1);
    input_gradient(p, q, w->dq, w->dnormed, SHERD_FP32, hidden, hidden, 1);
    norm_gradient(p, sherd__layer_param(layer, SHERD__NORM1), sherd__model_input(m, layer), b->rstd1, 0);
}

static void embedding_gradient(sherd_pass *p)
{
    sherd_model *m = p->m;
    sherd_grad grad;
    if (sherd__pass_grad(p, SHERD__EMBED, &grad)) {
        m->ops->embedding_backward(m->ops, &(sherd_embedding){.rows = p->rows,
                                                              .cols = m->shape.hidden,
                                                              .vocab = m->shape.vocab,
                                                              .tokens = m->w.tokens,
                                                              .dx = m->w.dx,
                                                              .order = m->w.order,
                                                              .dtable = grad.data,
                                                              .dtable_type = grad.dtype,
                                                              .beta = grad.beta});
        sherd__pass_ready(p, SHERD__EMBED);
    }
}

void sherd__backward_layers(sherd_pass *p)
{
    sherd_model *m = p->m;
    for (int64_t layer = m->shape.layers; layer-- > 0 && p->status == SHERD_OK;) {
        sherd_layer_buffers *b = sherd__model_layer(m, layer);
        if (m->options.checkpointing) {
            sherd__forward_layer(p, layer, sherd__model_input(m, layer), NULL);
        }
        mlp_backward(p, layer, b);
        attention_backward(p, layer, b);
    }
    embedding_gradient(p);
}
