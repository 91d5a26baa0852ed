/* SPDX-License-Identifier: MIT
 *
 * oneDNN 3.x: matmul on strided memory, scratchpad from the caller.
 */
#include "models/dnnl_product.h"

dnnl_status_t sherd__dnnl_append_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}

static dnnl_status_t matrix(dnnl_memory_desc_t *md, int64_t rows, int64_t cols, int64_t row, int64_t col, int64_t bf16)
{
    return dnnl_memory_desc_create_with_strides(md, 2, (dnnl_dims_t){rows, cols}, bf16 ? dnnl_bf16 : dnnl_f32,
                                                (dnnl_dims_t){row, col});
}

/* Builds primitive and memory objects from a descriptor. */
static dnnl_status_t finish(sherd_dnnl_context *ctx, dnnl_primitive_desc_t pd, const dnnl_memory_desc_t md[3],
                            sherd_dnnl_product *p)
{
    const_dnnl_memory_desc_t scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    dnnl_status_t status = dnnl_primitive_create(&p->primitive, pd);
    dnnl_memory_t *memories[] = {&p->a, &p->b, &p->c};
    p->scratch_bytes = scratch ? dnnl_memory_desc_get_size(scratch) : 0;
    for (int i = 0; i < 3 && status == dnnl_success; i++) {
        status = dnnl_memory_create(memories[i], md[i], ctx->engine, DNNL_MEMORY_NONE);
    }
    if (status == dnnl_success && p->scratch_bytes) {
        status = dnnl_memory_create(&p->scratch, scratch, ctx->engine, DNNL_MEMORY_NONE);
    }
    return status;
}

static dnnl_status_t build_with(sherd_dnnl_context *ctx, const sherd_dnnl_shape *s, const dnnl_memory_desc_t md[3],
                                sherd_dnnl_product *p)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_status_t status = sherd__dnnl_attr(s, &attr);
    if (status == dnnl_success) {
        status = dnnl_matmul_primitive_desc_create(&pd, ctx->engine, md[0], md[1], NULL, md[2], attr);
    }
    if (status == dnnl_success) {
        status = finish(ctx, pd, md, p);
        dnnl_primitive_desc_destroy(pd);
    }
    dnnl_primitive_attr_destroy(attr);
    return status;
}

dnnl_status_t sherd__dnnl_build(sherd_dnnl_context *ctx, const sherd_dnnl_shape *s, sherd_dnnl_product *p)
{
    dnnl_memory_desc_t md[3] = {NULL, NULL, NULL};
    dnnl_status_t status = matrix(&md[0], s->m, s->k, s->a_row, s->a_col, s->bf16);
    if (status == dnnl_success) {
        status = matrix(&md[1], s->k, s->n, s->b_row, s->b_col, s->bf16);
    }
    if (status == dnnl_success) {
        status = matrix(&md[2], s->m, s->n, s->ldc, 1, 0);
    }
    if (status == dnnl_success) {
        status = build_with(ctx, s, md, p);
    }
    for (int i = 0; i < 3; i++) {
        if (md[i]) {
            dnnl_memory_desc_destroy(md[i]);
        }
    }
    return status;
}
