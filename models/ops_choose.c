/* SPDX-License-Identifier: MIT
 *
 * Which op table serves a device: the one place that knows what was built.
 */
#include "models/ops.h"

#include <stdio.h>

static int is_cublaslt(sherd_model_gemm gemm)
{
    return gemm == SHERD_MODEL_GEMM_CUBLASLT || gemm == SHERD_MODEL_GEMM_CUBLASLT_TF32;
}

static sherd_status check_gemm(const sherd_ops_options *o, sherd_error *err)
{
    if (o->kind != SHERD_DEVICE_CUDA && is_cublaslt(o->gemm)) {
        return sherd__model_fail(err, SHERD_EUNSUPPORTED,
                                 "model: products by cuBLASLt were asked for on a device that is no GPU; take AUTO");
    }
    if (o->kind == SHERD_DEVICE_CUDA && o->gemm != SHERD_MODEL_GEMM_AUTO && !is_cublaslt(o->gemm)) {
        return sherd__model_fail(err, SHERD_EUNSUPPORTED,
                                 "model: products of the host were asked for on a GPU; take AUTO or cuBLASLt");
    }
    return SHERD_OK;
}

sherd_status sherd__ops_create(const sherd_ops_options *o, sherd_ops **out, sherd_error *err)
{
    sherd_status status = check_gemm(o, err);
    if (status != SHERD_OK) {
        return status;
    }
    if (o->kind == SHERD_DEVICE_CUDA) {
#if defined(SHERD_HAVE_CUDA)
        return sherd__ops_cuda_create(o, out, err);
#else
        return sherd__model_fail(err, SHERD_EUNSUPPORTED, "model: built without CUDA; take the host device");
#endif
    }
    return sherd__ops_host_create(o, out, err);
}

uint64_t sherd__ops_bytes(const sherd_ops_options *o)
{
    if (o->kind == SHERD_DEVICE_CUDA) {
#if defined(SHERD_HAVE_CUDA)
        return sherd__ops_cuda_bytes(o);
#else
        return 0;
#endif
    }
    return sherd__ops_host_bytes(o);
}

void sherd_model_cuda_text(char *text, size_t capacity)
{
#if defined(SHERD_HAVE_CUDA)
    sherd__ops_cuda_text(text, capacity);
#else
    snprintf(text, capacity, "no: built without CUDA");
#endif
}
