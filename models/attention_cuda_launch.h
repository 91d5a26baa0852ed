/* SPDX-License-Identifier: MIT
 *
 * Between attention_cuda.c and the kernels: one call's shapes and pointers, and one launcher for each pass of each kind
 * of kernel. Launchers return a cudaError_t.
 */
#ifndef SHERD_MODELS_ATTENTION_CUDA_LAUNCH_H
#define SHERD_MODELS_ATTENTION_CUDA_LAUNCH_H

#include <stdint.h>

#include "sherd/sherd.h"

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct sherd__attention_args {
    const void *q, *k, *v;
    void *out; /* forward writes, backward reads */
    float *lse;
    const void *dout;
    void *dq, *dk, *dv;
    float *delta; /* [batch][heads][seq]: rowsum(dout · out) */
    int32_t batch, seq, heads, kv_heads, dim;
    float scale;      /* of the scores: 1 / sqrt(dim) */
    float scale_log2; /* the same for 2^x instead of e^x */
} sherd__attention_args;

enum { SHERD__ATTENTION_MMA_DIM = 128, SHERD__ATTENTION_PLAIN_DIM = 256 }; /* largest */

/* bf16 on tensor cores, dim a multiple of 8. */
int sherd__attention_mma_prepare_forward(int32_t dim);
int sherd__attention_mma_prepare_backward(int32_t dim);
int sherd__attention_mma_forward(const sherd__attention_args *args, void *stream);
int sherd__attention_mma_backward(const sherd__attention_args *args, void *stream);

/* fp32 arithmetic, any dim. */
int sherd__attention_plain_prepare(sherd_dtype type, int32_t dim);
int sherd__attention_plain_forward(const sherd__attention_args *args, sherd_dtype type, void *stream);
int sherd__attention_plain_backward(const sherd__attention_args *args, sherd_dtype type, void *stream);

/* delta, for either kind. */
int sherd__attention_delta(const sherd__attention_args *args, sherd_dtype type, void *stream);

#if defined(__cplusplus)
}
#endif
#endif
