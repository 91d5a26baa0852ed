/* SPDX-License-Identifier: MIT
 *
 * Matrix products on CUDA.
 */
#ifndef SHERD_MODELS_CUDA_BLAS_H
#define SHERD_MODELS_CUDA_BLAS_H

#include <cuda_runtime_api.h>

#include "models/ops.h"

typedef struct sherd_cuda_blas sherd_cuda_blas;

/* The device's GPU is current. Takes its workspace from the device (WORKSPACE) and nothing more later. */
sherd_status sherd__cuda_blas_create(const sherd_ops_options *options, int compute_major, sherd_cuda_blas **out,
                                     sherd_error *err);
void sherd__cuda_blas_destroy(sherd_cuda_blas *blas);
/* EUNSUPPORTED: the library has no algorithm for these shapes. EDEVICE: it failed. */
sherd_status sherd__cuda_blas_matmul(sherd_cuda_blas *blas, cudaStream_t stream, const sherd_matmul *args,
                                     sherd_error *err);
/* "cuBLASLt 13.0.2 (tf32), /usr/…": valid while it lives. */
const char *sherd__cuda_blas_describe(const sherd_cuda_blas *blas);

#endif
