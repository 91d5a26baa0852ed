/* SPDX-License-Identifier: MIT
 *
 * Providers of the host's matrix products. AUTO takes what is fastest for the type on this CPU; gemm_choose.c says why.
 */
#ifndef SHERD_MODELS_GEMM_H
#define SHERD_MODELS_GEMM_H

#include "models/kernels.h"
#include "models/ops.h"
#include "models/pool.h"

typedef struct sherd_gemm sherd_gemm;
struct sherd_gemm {
    void (*destroy)(sherd_gemm *gemm);
    const char *(*describe)(const sherd_gemm *gemm);
    sherd_status (*matmul)(sherd_gemm *gemm, const sherd_matmul *args, sherd_error *err);
};

/* Own blocked GEMM: any type, no library, results independent of the number of threads. */
sherd_status sherd__gemm_portable_create(const sherd_ops_options *options, const sherd_kernels *kernels,
                                         sherd_pool *pool, sherd_gemm **out, sherd_error *err);
uint64_t sherd__gemm_portable_bytes(const sherd_ops_options *options);
/* oneDNN (gemm_dnnl2.c or gemm_dnnl3.c, one of them is built where SHERD_HAVE_DNNL). */
sherd_status sherd__gemm_dnnl_create(const sherd_ops_options *options, const sherd_kernels *kernels, sherd_pool *pool,
                                     sherd_gemm **out, sherd_error *err);
/* The CPU multiplies bf16 natively and oneDNN uses it. */
int sherd__gemm_dnnl_native_bf16(void);

sherd_status sherd__gemm_create(const sherd_ops_options *options, const sherd_kernels *kernels, sherd_pool *pool,
                                sherd_gemm **out, sherd_error *err);
uint64_t sherd__gemm_bytes(const sherd_ops_options *options);

#endif
