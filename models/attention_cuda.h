/* SPDX-License-Identifier: MIT
 *
 * Fused causal attention on CUDA, behind the op table's sherd_attention (shapes and layouts: models/ops.h). Kernels are
 * enqueued on `stream` (a cudaStream_t) and nothing is waited for. Deterministic: no floating-point atomics, orders
 * depend on shapes alone. Every pointer is device memory and aligned to 64 bytes; nothing is allocated.
 */
#ifndef SHERD_MODELS_ATTENTION_CUDA_H
#define SHERD_MODELS_ATTENTION_CUDA_H

#include "models/ops.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* Once, when the ops are made, with the largest batch and seq; pointers may be NULL. EUNSUPPORTED with a sentence for a
 * type (fp32, bf16 and fp16 are there) or head dimension that no kernel takes on the calling thread's current GPU; EDEVICE
 * where the kernels cannot be loaded or their shared memory cannot be set. */
sherd_status sherd__attention_cuda_prepare(sherd_dtype dtype, const sherd_attention *largest, sherd_error *err);
/* Bytes of scratch that backward needs for these shapes (rowsum(dout · out) and whatever else). Pure; grows with each
 * shape, so the bytes of the largest micro-batch do for all. */
uint64_t sherd__attention_cuda_scratch(sherd_dtype dtype, const sherd_attention *largest);

/* Reads q, k, v; writes out, and lse (log-sum-exp of the scaled scores, natural logarithm). EDEVICE: a launch failed.
 */
sherd_status sherd__attention_cuda_forward(void *stream, sherd_dtype dtype, const sherd_attention *args,
                                           sherd_error *err);
/* Reads q, k, v, out, lse, dout; writes dq, dk, dv. `scratch`: what sherd__attention_cuda_scratch asks for. */
sherd_status sherd__attention_cuda_backward(void *stream, sherd_dtype dtype, const sherd_attention *args, void *scratch,
                                            sherd_error *err);

#if defined(__cplusplus)
}
#endif
#endif
