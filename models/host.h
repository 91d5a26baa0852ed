/* SPDX-License-Identifier: MIT
 *
 * The host implementation of the op table, shared by ops_host.c and attention_host.c.
 */
#ifndef SHERD_MODELS_HOST_H
#define SHERD_MODELS_HOST_H

#include "models/gemm.h"

#include <string.h>

typedef struct sherd_host_ops {
    sherd_ops base;
    const sherd_kernels *kernels;
    sherd_pool *pool;
    sherd_gemm *gemm;
    sherd_device *device;
    float *rows;       /* per worker: SHERD_HOST_ROWS runs of row_elems */
    int64_t row_elems; /* rounded up to SHERD_KERNEL_PAD */
    float *attention;  /* per worker: attention_elems */
    int64_t attention_elems;
    char text[256];
} sherd_host_ops;

#define SHERD_HOST_ROWS 5

/* Floats of attention scratch a worker needs for sequences of `seq` and heads of `dim`. */
int64_t sherd__host_attention_elems(int64_t seq, int64_t dim);
void sherd__host_attention(sherd_ops *ops, const sherd_attention *args);
void sherd__host_attention_backward(sherd_ops *ops, const sherd_attention *args);

static inline float *sherd__host_row(const sherd_host_ops *h, int worker, int which)
{
    return h->rows + ((int64_t)worker * SHERD_HOST_ROWS + which) * h->row_elems;
}

/* n values at element `at`, as fp32: in place, or widened into tmp. */
static inline const float *sherd__host_get(const sherd_host_ops *h, const void *base, int64_t at, int64_t n, float *tmp)
{
    if (h->base.dtype == SHERD_FP32) {
        return (const float *)base + at;
    }
    h->kernels->widen(n, (const uint16_t *)base + at, tmp);
    return tmp;
}

/* Always a copy in tmp. */
static inline void sherd__host_copy(const sherd_host_ops *h, const void *base, int64_t at, int64_t n, float *tmp)
{
    if (h->base.dtype == SHERD_FP32) {
        memcpy(tmp, (const float *)base + at, (size_t)n * sizeof *tmp);
    } else {
        h->kernels->widen(n, (const uint16_t *)base + at, tmp);
    }
}

/* Where results of n values at element `at` are computed: in place, or in tmp until put. */
static inline float *sherd__host_target(sherd_dtype type, void *base, int64_t at, float *tmp)
{
    return type == SHERD_FP32 ? (float *)base + at : tmp;
}

static inline void sherd__host_put(const sherd_host_ops *h, sherd_dtype type, const float *x, void *base, int64_t at,
                                   int64_t n)
{
    if (type != SHERD_FP32) {
        h->kernels->narrow(n, x, (uint16_t *)base + at);
    } else if (x != (float *)base + at) {
        memcpy((float *)base + at, x, (size_t)n * sizeof *x);
    }
}

#endif
