/* SPDX-License-Identifier: MIT
 *
 * What the two generations of oneDNN's C API share: objects, running, names. gemm_dnnl2.c and gemm_dnnl3.c hold the
 * rest.
 */
#include "models/dnnl_product.h"

#include <stdio.h>
#include <stdlib.h>

static sherd_status fail(sherd_error *err, const char *what, dnnl_status_t status)
{
    return sherd__model_fail(err, status == dnnl_out_of_memory ? SHERD_ENOMEM : SHERD_EDEVICE,
                             "oneDNN: %s failed with status %d", what, (int)status);
}

sherd_status sherd__dnnl_context_create(sherd_dnnl_context **out, sherd_error *err)
{
    sherd_dnnl_context *c = calloc(1, sizeof *c);
    if (!c) {
        return sherd__model_fail(err, SHERD_ENOMEM, "oneDNN: no memory for a context");
    }
    dnnl_status_t status = dnnl_engine_create(&c->engine, dnnl_cpu, 0);
    if (status == dnnl_success) {
        status = dnnl_stream_create(&c->stream, c->engine, dnnl_stream_default_flags);
    }
    if (status != dnnl_success) {
        sherd__dnnl_context_destroy(c);
        return fail(err, "creating an engine", status);
    }
    *out = c;
    return SHERD_OK;
}

void sherd__dnnl_context_destroy(sherd_dnnl_context *c)
{
    if (!c) {
        return;
    }
    if (c->stream) {
        dnnl_stream_destroy(c->stream);
    }
    if (c->engine) {
        dnnl_engine_destroy(c->engine);
    }
    free(c);
}

dnnl_status_t sherd__dnnl_attr(const sherd_dnnl_shape *s, dnnl_primitive_attr_t *attr)
{
    dnnl_post_ops_t ops = NULL;
    dnnl_status_t status = dnnl_primitive_attr_create(attr);
    if (status == dnnl_success) {
        status = dnnl_primitive_attr_set_scratchpad_mode(*attr, dnnl_scratchpad_mode_user);
    }
    if (status != dnnl_success || !s->add) {
        return status;
    }
    status = dnnl_post_ops_create(&ops);
    if (status == dnnl_success) {
        status = sherd__dnnl_append_sum(ops);
    }
    if (status == dnnl_success) {
        status = dnnl_primitive_attr_set_post_ops(*attr, ops);
    }
    dnnl_post_ops_destroy(ops);
    return status;
}

sherd_status sherd__dnnl_product_create(sherd_dnnl_context *context, const sherd_dnnl_shape *shape,
                                        sherd_dnnl_product **out, sherd_error *err)
{
    sherd_dnnl_product *p = calloc(1, sizeof *p);
    if (!p) {
        return sherd__model_fail(err, SHERD_ENOMEM, "oneDNN: no memory for a product");
    }
    dnnl_status_t status = sherd__dnnl_build(context, shape, p);
    if (status != dnnl_success) {
        sherd__dnnl_product_destroy(p);
        return fail(err, "preparing a product", status);
    }
    *out = p;
    return SHERD_OK;
}

void sherd__dnnl_product_destroy(sherd_dnnl_product *p)
{
    if (!p) {
        return;
    }
    dnnl_memory_t memories[] = {p->a, p->b, p->c, p->scratch};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; i++) {
        if (memories[i]) {
            dnnl_memory_destroy(memories[i]);
        }
    }
    if (p->primitive) {
        dnnl_primitive_destroy(p->primitive);
    }
    free(p);
}

uint64_t sherd__dnnl_product_scratch(const sherd_dnnl_product *product)
{
    return product->scratch_bytes;
}

const char *sherd__dnnl_product_name(const sherd_dnnl_product *product)
{
    const_dnnl_primitive_desc_t pd = NULL;
    const char *name = "unknown";
    if (dnnl_primitive_get_primitive_desc(product->primitive, &pd) == dnnl_success) {
        dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name);
    }
    return name;
}

/* oneDNN takes its inputs through non-const pointers and does not write to them. */
static dnnl_status_t point(dnnl_memory_t memory, const void *data)
{
    union {
        const void *in;
        void *out;
    } pun = {data};
    return dnnl_memory_set_data_handle(memory, pun.out);
}

sherd_status sherd__dnnl_product_run(sherd_dnnl_context *context, sherd_dnnl_product *p, const void *a, const void *b,
                                     float *c, void *scratch, sherd_error *err)
{
    dnnl_exec_arg_t args[] = {
        {DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}, {DNNL_ARG_SCRATCHPAD, p->scratch}};
    dnnl_status_t status = point(p->a, a);
    if (status == dnnl_success) {
        status = point(p->b, b);
    }
    if (status == dnnl_success) {
        status = point(p->c, c);
    }
    if (status == dnnl_success && p->scratch) {
        status = point(p->scratch, scratch);
    }
    if (status == dnnl_success) {
        status = dnnl_primitive_execute(p->primitive, context->stream, p->scratch ? 4 : 3, args);
    }
    if (status == dnnl_success) {
        status = dnnl_stream_wait(context->stream);
    }
    return status == dnnl_success ? SHERD_OK : fail(err, "a product", status);
}

int sherd__dnnl_native_bf16(void)
{
    dnnl_cpu_isa_t isa = dnnl_get_effective_cpu_isa();
    return (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

void sherd__dnnl_version(char *text, size_t capacity)
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, capacity, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}
