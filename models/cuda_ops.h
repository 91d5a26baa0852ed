/* SPDX-License-Identifier: MIT
 *
 * Between ops_cuda.c and the row and element kernels: launchers with C names. Each enqueues its kernels on `stream` (a
 * cudaStream_t) and returns a cudaError_t as int: the launch's own. `type` is the model type.
 */
#ifndef SHERD_MODELS_CUDA_OPS_H
#define SHERD_MODELS_CUDA_OPS_H

#include "models/ops.h"

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct sherd_cuda_narrow {
    int64_t elems;
    const float *x;
    void *y;
    sherd_dtype type;
    int beta;
} sherd_cuda_narrow;

/* cuda_norm.cu */
int sherd__cuda_rmsnorm(void *stream, sherd_dtype type, const sherd_rmsnorm *args);
int sherd__cuda_rmsnorm_backward(void *stream, sherd_dtype type, const sherd_rmsnorm *args);
/* cuda_point.cu */
int sherd__cuda_rope(void *stream, sherd_dtype type, const sherd_rope *args);
int sherd__cuda_swiglu(void *stream, sherd_dtype type, const sherd_swiglu *args);
int sherd__cuda_swiglu_backward(void *stream, sherd_dtype type, const sherd_swiglu *args);
int sherd__cuda_narrow(void *stream, const sherd_cuda_narrow *args);
/* cuda_embedding.cu */
int sherd__cuda_embedding(void *stream, sherd_dtype type, const sherd_embedding *args);
int sherd__cuda_embedding_backward(void *stream, sherd_dtype type, const sherd_embedding *args);
/* cuda_xent.cu */
int sherd__cuda_cross_entropy(void *stream, sherd_dtype type, const sherd_xent *args);

#if defined(__cplusplus)
}
#endif
#endif
