/* SPDX-License-Identifier: MIT
 *
 * The few calls of oneDNN that the provider needs, in one form for its 2.x and 3.x C APIs (gemm_dnnl2.c, gemm_dnnl3.c).
 */
#ifndef SHERD_MODELS_DNNL_API_H
#define SHERD_MODELS_DNNL_API_H

#include "models/internal.h"

/* C (fp32, [m][ldc]) = A·B (+ C). All members are int64_t so that two shapes compare by memcmp. */
typedef struct sherd_dnnl_shape {
    int64_t m, n, k;
    int64_t a_row, a_col, b_row, b_col, ldc; /* strides in elements */
    int64_t bf16;                            /* of A and B; else fp32 */
    int64_t add;
} sherd_dnnl_shape;

typedef struct sherd_dnnl_product
    sherd_dnnl_product; /* a compiled primitive with its memory objects: one thread at a time */
typedef struct sherd_dnnl_context sherd_dnnl_context; /* engine and stream: one thread at a time */

sherd_status sherd__dnnl_context_create(sherd_dnnl_context **out, sherd_error *err);
void sherd__dnnl_context_destroy(sherd_dnnl_context *context);
sherd_status sherd__dnnl_product_create(sherd_dnnl_context *context, const sherd_dnnl_shape *shape,
                                        sherd_dnnl_product **out, sherd_error *err);
void sherd__dnnl_product_destroy(sherd_dnnl_product *product);
uint64_t sherd__dnnl_product_scratch(const sherd_dnnl_product *product);
sherd_status sherd__dnnl_product_run(sherd_dnnl_context *context, sherd_dnnl_product *product, const void *a,
                                     const void *b, float *c, void *scratch, sherd_error *err);
const char *sherd__dnnl_product_name(const sherd_dnnl_product *product); /* oneDNN's name of the kernel */
/* The effective instruction set has bf16 products. */
int sherd__dnnl_native_bf16(void);
/* Sets how many OpenMP threads oneDNN's calls by the calling thread use; returns how many it was (0: built without
 * OpenMP, nothing is set; passing 0 does nothing). */
int sherd__dnnl_set_threads(int threads);
void sherd__dnnl_version(char *text, size_t capacity); /* "oneDNN 2.6.3" */

#endif
