/* SPDX-License-Identifier: MIT
 *
 * Copies between a test's memory and a CUDA device's on the stub, in order with the compute stream.
 */
#ifndef SHERD_TESTS_MODELS_CUDA_COPY_H
#define SHERD_TESTS_MODELS_CUDA_COPY_H

#include <unistd.h>

#include <cuda_runtime_api.h>

#include "sherd/sherd_cuda.h"
#include "tests/support/cuda_stub/stub.h"

static inline void cuda_copy(void *ctx, sherd_device *device, void *to, const void *from, size_t bytes)
{
    cudaStream_t stream = (cudaStream_t)sherd_device_cuda_stream(device);
    (void)ctx;
    (void)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
    while (cudaStreamQuery(stream) == cudaErrorNotReady) {
        usleep(50);
    }
}

/* Streams of the stub end a moment after they were destroyed. */
static inline uint64_t cuda_left_alive(void)
{
    for (int i = 0; i < 2000 && cuda_stub_alive() > 0; i++) {
        usleep(1000);
    }
    return cuda_stub_alive();
}

#endif
