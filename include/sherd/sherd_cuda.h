/* SPDX-License-Identifier: MIT
 *
 * sherd_cuda.h: a CUDA device on a chosen GPU and on the client's own stream. Needs no CUDA header; link libsherd built
 * with SHERD_CUDA. sherd_device_create with SHERD_DEVICE_CUDA takes the calling thread's current GPU and a stream of
 * its own.
 */
#ifndef SHERD_SHERD_CUDA_H
#define SHERD_SHERD_CUDA_H

#include "sherd/sherd.h"

#if defined(__cplusplus)
extern "C" {
#endif

typedef struct sherd_cuda_options {
    size_t size;
    sherd_device_options device; /* kind is ignored */
    int32_t ordinal;             /* the GPU's number; -1: the calling thread's current one */
    int32_t adopt_stream;        /* 1: `stream` is the compute stream; 0: the device makes one */
    void *stream;                /* a cudaStream_t of that GPU (NULL is CUDA's default stream); it must outlive the
                                    device, and is never destroyed by it */
} sherd_cuda_options;

SHERD_API void sherd_cuda_options_init(sherd_cuda_options *options, size_t size);
/* EUNSUPPORTED where there is no driver or no such GPU; the sentence names it. */
SHERD_API sherd_status sherd_device_create_cuda(const sherd_cuda_options *options, sherd_device **out,
                                                sherd_error *err);
/* The compute stream, a cudaStream_t: gradients are written and parameters read by kernels on it, after the acquire and
 * before the ready or release. */
SHERD_API void *sherd_device_cuda_stream(sherd_device *device);
/* The GPU's number; -1: not a CUDA device. A thread that enqueues on the stream has this GPU as its current one. */
SHERD_API int32_t sherd_device_cuda_ordinal(const sherd_device *device);

/* A GPU as the driver describes it; `size` is the caller's, set before the call. */
typedef struct sherd_cuda_gpu {
    size_t size;
    char name[128];
    int32_t major, minor; /* compute capability */
    int32_t multiprocessors;
    uint64_t total_bytes, free_bytes; /* of this moment; the rest is held by any process, contexts included */
} sherd_cuda_gpu;

/* How many GPUs. EUNSUPPORTED where there is no driver or no GPU, with the sentence of sherd_device_create_cuda. A process
 * that has called this cannot fork processes that use CUDA: so does CUDA's runtime. */
SHERD_API sherd_status sherd_cuda_count(int32_t *gpus, sherd_error *err);
/* Makes this GPU the calling thread's current one, for calls that take that. */
SHERD_API sherd_status sherd_cuda_use(int32_t ordinal, sherd_error *err);
/* Makes the GPU's context, as any use does. */
SHERD_API sherd_status sherd_cuda_gpu_read(int32_t ordinal, sherd_cuda_gpu *out, sherd_error *err);

/* Ranks talk through NCCL, which is opened when this is called (libnccl.so.2, 2.19.3 or later: EUNSUPPORTED with what was
 * looked for where there is none). COLLECTIVE: every rank is a process, or a thread, with a GPU of its own, which is the
 * calling thread's current one. `allgather` as in sherd_comm_create_local; it carries NCCL's unique id, and where all ranks
 * are on one host also what lets a rank say which peer died, gave up or did not come. World 1: it may be NULL. Takes a CUDA
 * device on that GPU, and plans made for SHERD_TRANSPORT_NCCL. What NCCL takes of the GPU's memory is booked as `runtime`. */
SHERD_API sherd_status sherd_comm_create_nccl(const sherd_comm_options *options, int32_t rank, int32_t world,
                                              sherd_allgather_fn allgather, void *ctx, sherd_comm **out,
                                              sherd_error *err);
/* The same over the ranks of an ncclComm_t of the client's, by splitting it: COLLECTIVE, with no operation of it pending. It
 * must outlive this call only, and is neither destroyed nor aborted. Without a bootstrap a rank learns that a peer is gone
 * from NCCL or from its own limit. */
SHERD_API sherd_status sherd_comm_adopt_nccl(const sherd_comm_options *options, void *nccl_comm, sherd_comm **out,
                                             sherd_error *err);

#if defined(__cplusplus)
}
#endif
#endif
