/* SPDX-License-Identifier: MIT
 *
 * A product of oneDNN, whichever generation of its C API: gemm_dnnl_run.c has what both share, gemm_dnnl2.c and
 * gemm_dnnl3.c what differs.
 */
#ifndef SHERD_MODELS_DNNL_PRODUCT_H
#define SHERD_MODELS_DNNL_PRODUCT_H

#include "models/dnnl_api.h"

#include <oneapi/dnnl/dnnl.h>

struct sherd_dnnl_context {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
};

struct sherd_dnnl_product {
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c, scratch;
    uint64_t scratch_bytes;
};

/* By generation: builds primitive and memory objects from a shape; what was made before a failure is destroyed by the
 * caller. */
dnnl_status_t sherd__dnnl_build(sherd_dnnl_context *ctx, const sherd_dnnl_shape *s, sherd_dnnl_product *p);
dnnl_status_t sherd__dnnl_append_sum(dnnl_post_ops_t ops);
/* Scratchpad from the caller; s->add adds to what is there. */
dnnl_status_t sherd__dnnl_attr(const sherd_dnnl_shape *s, dnnl_primitive_attr_t *attr);

#endif
