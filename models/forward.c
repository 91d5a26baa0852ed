/* SPDX-License-Identifier: MIT
 *
 * Forward: h = x + Wo·attention(norm(x)); y = h + Wd·(silu(Wg·n)·Wu·n) with n = norm(h). Each residual addition is the
 * epilogue of the product before it.
 */
#include "models/state.h"

void *sherd__model_input(const sherd_model *m, int64_t layer)
{
    return m->a.inputs[m->options.forward_only ? layer % 2 : layer];
}

sherd_layer_buffers *sherd__model_layer(const sherd_model *m, int64_t layer)
{
    return &m->a.layers[m->a.n_layers == 1 ? 0 : layer];
}

static void rotate(sherd_pass *p, void *x, int64_t heads)
{
    sherd_model *m = p->m;
    m->ops->rope(m->ops,
                 &(sherd_rope){
                     .batch = p->batch, .seq = p->seq, .heads = heads, .dim = m->head_dim, .table = m->w.rope, .x = x});
}

static void attention_block(sherd_pass *p, int64_t layer, const void *in)
{
    sherd_model *m = p->m;
    sherd_layer_buffers *b = sherd__model_layer(m, layer);
    int64_t hidden = m->shape.hidden;
    sherd__pass_norm(p, sherd__layer_param(layer, SHERD__NORM1), in, b->normed1, b->rstd1);
    sherd__pass_linear(p, sherd__layer_param(layer, SHERD__Q), b->normed1, b->q, hidden, hidden, NULL);
    sherd__pass_linear(p, sherd__layer_param(layer, SHERD__K), b->normed1, b->k, m->kv_width, hidden, NULL);
    sherd__pass_linear(p, sherd__layer_param(layer, SHERD__V), b->normed1, b->v, m->kv_width, hidden, NULL);
    if (p->status != SHERD_OK) {
        return;
    }
    rotate(p, b->q, m->shape.heads);
    rotate(p, b->k, m->shape.kv_heads);
    m->ops->attention(m->ops, &(sherd_attention){.batch = p->batch,
                                                 .seq = p->seq,
                                                 .heads = m->shape.heads,
                                                 .kv_heads = m->shape.kv_heads,
                                                 .dim = m->head_dim,
                                                 .q = b->q,
                                                 .k = b->k,
                                                 .v = b->v,
                                                 .out = b->attended,
                                                 .lse = b->lse});
    sherd__pass_linear(p, sherd__layer_param(layer, SHERD__O), b->attended, b->middle, hidden, hidden, in);
}

void sherd__forward_layer(sherd_pass *p, int64_t layer, const void *in, void *out)
{
    sherd_model *m = p->m;
    sherd_layer_buffers *b = sherd__model_layer(m, layer);
    int64_t hidden = m->shape.hidden, wide = m->shape.intermediate;
    attention_block(p, layer, in);
    sherd__pass_norm(p, sherd__layer_param(layer, SHERD__NORM2), b->middle, b->normed2, b->rstd2);
    sherd__pass_linear(p, sherd__layer_param(layer, SHERD__GATE), b->normed2, b->gate, wide, hidden, NULL);
    sherd__pass_linear(p, sherd__layer_param(layer, SHERD__UP), b->normed2, b->up, wide, hidden, NULL);
    if (p->status != SHERD_OK || !out) {
        return;
    }
    m->ops->swiglu(m->ops, &(sherd_swiglu){.elems = p->rows * wide, .gate = b->gate, .up = b->up, .out = m->w.act});
    sherd__pass_linear(p, sherd__layer_param(layer, SHERD__DOWN), m->w.act, out, hidden, wide, b->middle);
}

void sherd__forward_layers(sherd_pass *p)
{
    sherd_model *m = p->m;
    const void *table = sherd__pass_acquire(p, SHERD__EMBED);
    if (!table) {
        return;
    }
    m->ops->embedding(m->ops, &(sherd_embedding){.rows = p->rows,
                                                 .cols = m->shape.hidden,
                                                 .vocab = m->shape.vocab,
                                                 .tokens = m->w.tokens,
                                                 .table = table,
                                                 .out = sherd__model_input(m, 0)});
    sherd__pass_release(p, SHERD__EMBED);
    for (int64_t layer = 0; layer < m->shape.layers && p->status == SHERD_OK; layer++) {
        sherd__forward_layer(p, layer, sherd__model_input(m, layer), sherd__model_input(m, layer + 1));
    }
}
