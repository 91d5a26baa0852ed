/* SPDX-License-Identifier: MIT
 *
 * Which kernels a call gets, and what it is told when it gets none.
 */
#include "models/attention_cuda.h"

#include <limits.h>
#include <math.h>

#include <cuda_runtime_api.h>

#include "models/attention_cuda_launch.h"

static int on_tensor_cores(sherd_dtype dtype, int64_t dim)
{
    return dtype == SHERD_BF16 && dim % 8 == 0 && dim <= SHERD__ATTENTION_MMA_DIM;
}

static sherd_status check(sherd_dtype dtype, const sherd_attention *a, sherd_error *err)
{
    if (dtype != SHERD_BF16 && dtype != SHERD_FP32 && dtype != SHERD_FP16)
        return sherd__model_fail(err, SHERD_EUNSUPPORTED, "attention on CUDA: fp32, bf16 or fp16 only");
    if (a->dim < 1 || a->dim > SHERD__ATTENTION_PLAIN_DIM)
        return sherd__model_fail(err, SHERD_EUNSUPPORTED, "attention on CUDA: heads of 1 to %d dimensions, not of %lld",
                                 SHERD__ATTENTION_PLAIN_DIM, (long long)a->dim);
    if (a->batch < 1 || a->seq < 1 || a->kv_heads < 1 || a->heads < a->kv_heads || a->heads % a->kv_heads != 0)
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "attention on CUDA: batch %lld, sequence %lld and heads %lld must be at least 1, and "
                                 "key-value heads, %lld, must divide heads",
                                 (long long)a->batch, (long long)a->seq, (long long)a->heads, (long long)a->kv_heads);
    /* Numbers of rows and of blocks are ints in the kernels. */
    if (a->seq > INT32_MAX / 2 || a->batch > INT32_MAX || a->heads > INT32_MAX / a->batch ||
        a->batch * a->heads > INT32_MAX / (a->seq / 16 + 1))
        return sherd__model_fail(err, SHERD_EUNSUPPORTED,
                                 "attention on CUDA: batch %lld of %lld heads and sequence %lld is too large for one "
                                 "launch; use a smaller micro-batch",
                                 (long long)a->batch, (long long)a->heads, (long long)a->seq);
    return SHERD_OK;
}

static sherd__attention_args args_of(const sherd_attention *a, float *delta)
{
    float scale = 1.0f / sqrtf((float)a->dim);
    return (sherd__attention_args){.q = a->q,
                                   .k = a->k,
                                   .v = a->v,
                                   .out = a->out,
                                   .lse = a->lse,
                                   .dout = a->dout,
                                   .dq = a->dq,
                                   .dk = a->dk,
                                   .dv = a->dv,
                                   .delta = delta,
                                   .batch = (int32_t)a->batch,
                                   .seq = (int32_t)a->seq,
                                   .heads = (int32_t)a->heads,
                                   .kv_heads = (int32_t)a->kv_heads,
                                   .dim = (int32_t)a->dim,
                                   .scale = scale,
                                   .scale_log2 = (float)((double)scale * 1.4426950408889634)};
}

static sherd_status outcome(int code, const char *what, const sherd_attention *a, sherd_error *err)
{
    if (code == (int)cudaSuccess)
        return SHERD_OK;
    return sherd__model_fail(err, SHERD_EDEVICE, "attention on CUDA, %s (heads of %lld dimensions): %s", what,
                             (long long)a->dim, cudaGetErrorString((cudaError_t)code));
}

sherd_status sherd__attention_cuda_prepare(sherd_dtype dtype, const sherd_attention *largest, sherd_error *err)
{
    sherd_status status = check(dtype, largest, err);
    int32_t dim = (int32_t)largest->dim;
    if (status != SHERD_OK)
        return status;
    int code = (int)cudaSuccess;
    if (on_tensor_cores(dtype, dim)) {
        code = sherd__attention_mma_prepare_forward(dim);
        code = code == (int)cudaSuccess ? sherd__attention_mma_prepare_backward(dim) : code;
    } else {
        code = sherd__attention_plain_prepare(dtype, dim);
    }
    return outcome(code, "loading the kernels", largest, err);
}

uint64_t sherd__attention_cuda_scratch(sherd_dtype dtype, const sherd_attention *largest)
{
    (void)dtype;
    return (uint64_t)(largest->batch * largest->heads * largest->seq) * sizeof(float);
}

sherd_status sherd__attention_cuda_forward(void *stream, sherd_dtype dtype, const sherd_attention *a, sherd_error *err)
{
    sherd_status status = check(dtype, a, err);
    if (status != SHERD_OK)
        return status;
    const sherd__attention_args args = args_of(a, NULL);
    int code = on_tensor_cores(dtype, a->dim) ? sherd__attention_mma_forward(&args, stream)
                                              : sherd__attention_plain_forward(&args, dtype, stream);
    return outcome(code, "forward", a, err);
}

sherd_status sherd__attention_cuda_backward(void *stream, sherd_dtype dtype, const sherd_attention *a, void *scratch,
                                            sherd_error *err)
{
    sherd_status status = check(dtype, a, err);
    if (status != SHERD_OK)
        return status;
    const sherd__attention_args args = args_of(a, scratch);
    int code = sherd__attention_delta(&args, dtype, stream);
    if (code == (int)cudaSuccess)
        code = on_tensor_cores(dtype, a->dim) ? sherd__attention_mma_backward(&args, stream)
                                              : sherd__attention_plain_backward(&args, dtype, stream);
    return outcome(code, "backward", a, err);
}
