/* SPDX-License-Identifier: MIT
 *
 * Where each buffer lies: one function counts the bytes and hands out the pointers, so that the prediction and the
 * allocation cannot differ. Buffers start at multiples of 64 bytes.
 */
#include "models/state.h"

#include "models/kernels.h"

/* Logits that exist at one time, and the rows that a product likes to have a multiple of. On the host they should stay
 * in a cache; a GPU needs some thousand rows to be busy. */
static const struct {
    uint64_t bytes;
    int64_t rows;
} CHUNKS[2] = {{(uint64_t)16 << 20, 48}, {(uint64_t)256 << 20, 128}};

typedef struct cursor {
    char *base;
    uint64_t at;
} cursor;

static void *take(cursor *c, int64_t elems, int64_t elem_bytes)
{
    void *here = c->base ? c->base + c->at : NULL;
    c->at += (uint64_t)sherd__model_round(elems * elem_bytes, 64);
    return here;
}

static int64_t kv_width(const sherd_model_shape *s)
{
    return s->hidden / s->heads * s->kv_heads;
}

int64_t sherd__model_chunk(const sherd_model_shape *s, const sherd_model_options *o)
{
    int gpu = o->device_kind == SHERD_DEVICE_CUDA;
    uint64_t bytes = o->logits_bytes ? o->logits_bytes : CHUNKS[gpu].bytes;
    int64_t unit = CHUNKS[gpu].rows, fit = (int64_t)(bytes / sizeof(float)) / s->vocab / unit * unit;
    return sherd__model_min(o->batch * o->seq, sherd__model_max(fit, unit));
}

static void layout_layer(cursor *c, const sherd_model_shape *s, const sherd_model_options *o, sherd_layer_buffers *b)
{
    int64_t rows = o->batch * o->seq, es = sherd__model_bytes(o->dtype), kv = kv_width(s);
    b->normed1 = take(c, rows * s->hidden, es);
    b->q = take(c, rows * s->hidden, es);
    b->k = take(c, rows * kv, es);
    b->v = take(c, rows * kv, es);
    b->attended = take(c, rows * s->hidden, es);
    b->middle = take(c, rows * s->hidden, es);
    b->normed2 = take(c, rows * s->hidden, es);
    b->gate = take(c, rows * s->intermediate, es);
    b->up = take(c, rows * s->intermediate, es);
    b->rstd1 = take(c, rows, sizeof(float));
    b->rstd2 = take(c, rows, sizeof(float));
    b->lse = take(c, rows * s->heads, sizeof(float));
}

void sherd__layout_counts(const sherd_model_shape *s, const sherd_model_options *o, sherd_activations *a)
{
    a->n_inputs = o->forward_only ? 2 : s->layers + 1;
    a->n_layers = o->forward_only || o->checkpointing ? 1 : s->layers;
}

uint64_t sherd__layout_activations(const sherd_model_shape *s, const sherd_model_options *o, void *base,
                                   sherd_activations *a)
{
    cursor c = {base, 0};
    int64_t rows = o->batch * o->seq, es = sherd__model_bytes(o->dtype);
    sherd_layer_buffers counted;
    for (int64_t i = 0; i < a->n_inputs; i++) {
        void *here = take(&c, rows * s->hidden, es);
        if (base) {
            a->inputs[i] = here;
        }
    }
    for (int64_t i = 0; i < a->n_layers; i++) {
        layout_layer(&c, s, o, base ? &a->layers[i] : &counted);
    }
    a->normed = take(&c, rows * s->hidden, es);
    a->rstd = take(&c, rows, sizeof(float));
    return c.at;
}

static void layout_backward(cursor *c, const sherd_model_shape *s, const sherd_model_options *o, int64_t chunk,
                            sherd_workspace *w)
{
    int64_t rows = o->batch * o->seq, es = sherd__model_bytes(o->dtype), kv = kv_width(s);
    w->dlogits = o->dtype == SHERD_FP32 ? (void *)w->logits : take(c, chunk * s->vocab, es);
    w->dhead = chunk < rows && o->grad_dtype != SHERD_FP32 ? take(c, s->vocab * s->hidden, sizeof(float)) : NULL;
    w->dnormed = take(c, rows * s->hidden, sizeof(float));
    w->dx = take(c, rows * s->hidden, es);
    w->dq = take(c, rows * s->hidden, es);
    w->dk = take(c, rows * kv, es);
    w->dv = take(c, rows * kv, es);
    w->dattended = take(c, rows * s->hidden, es);
    w->partials = take(c, sherd__model_ceil(rows, SHERD_NORM_ROWS) * s->hidden, sizeof(float));
    w->order = take(c, rows + 2 * s->vocab + 1, sizeof(int32_t));
}

uint64_t sherd__layout_workspace(const sherd_model_shape *s, const sherd_model_options *o, void *base,
                                 sherd_workspace *w)
{
    cursor c = {base, 0};
    int64_t rows = o->batch * o->seq, es = sherd__model_bytes(o->dtype), chunk = sherd__model_chunk(s, o);
    *w = (sherd_workspace){0};
    w->tokens = take(&c, rows, sizeof(int32_t));
    w->targets = take(&c, rows, sizeof(int32_t));
    w->rope = take(&c, o->seq * (s->hidden / s->heads), sizeof(float));
    w->act = take(&c, rows * s->intermediate, es);
    w->logits = take(&c, chunk * s->vocab, sizeof(float));
    w->losses = take(&c, rows, sizeof(double));
    if (!o->forward_only) {
        layout_backward(&c, s, o, chunk, w);
    }
    return c.at;
}

static int64_t padded(int64_t k, int64_t n)
{
    return k * sherd__model_round(n, SHERD_KERNEL_PAD);
}

sherd_ops_options sherd__layout_ops(const sherd_model_shape *s, const sherd_model_options *o)
{
    int64_t rows = o->batch * o->seq, wide = sherd__model_max(s->hidden, s->intermediate);
    sherd_ops_options out = {.dtype = o->dtype, .threads = o->threads, .gemm = o->gemm, .device = o->device};
    out.kind = o->device_kind;
    out.fail_after_s = o->fail_after_s;
    out.limits.forward_only = o->forward_only;
    out.limits.batch = o->batch;
    out.limits.heads = s->heads;
    out.limits.kv_heads = s->kv_heads;
    out.limits.row_elems = sherd__model_max(s->hidden, s->kv_heads * (s->hidden / s->heads));
    out.limits.seq = o->seq;
    out.limits.dim = s->hidden / s->heads;
    out.limits.max_k = sherd__model_max(wide, o->forward_only ? 0 : sherd__model_max(rows, s->vocab));
    int64_t kn = sherd__model_max(padded(s->hidden, wide), padded(s->intermediate, s->hidden));
    kn = sherd__model_max(kn, padded(s->hidden, s->vocab));
    if (!o->forward_only) {
        kn = sherd__model_max(kn, sherd__model_max(padded(s->vocab, s->hidden), padded(rows, wide)));
    }
    out.limits.max_kn = kn;
    return out;
}
