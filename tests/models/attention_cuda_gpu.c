/* SPDX-License-Identifier: MIT
 *
 * The place of attention's tests that is a GPU. Arrays lie in pinned memory, which kernels reach over the bus: slow,
 * and nothing need be copied. Without a GPU the tests say so and are skipped.
 */
#include <stdio.h>
#include <time.h>

#include <cuda_runtime_api.h>

#include "tests/models/attention_cuda_case.h"

static cudaStream_t stream;

int attention_place_open(void)
{
    int devices = 0;
    cudaError_t code = cudaGetDeviceCount(&devices);
    if (code != cudaSuccess || devices == 0) {
        printf("skipped: no GPU (%s)\n", cudaGetErrorString(code));
        return 77;
    }
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess ? 0 : 1;
}

void attention_place_close(void)
{
    (void)cudaStreamDestroy(stream);
}

void *attention_place_stream(void)
{
    return stream;
}

void *attention_place_take(size_t bytes)
{
    void *at = NULL;
    return cudaHostAlloc(&at, bytes, cudaHostAllocPortable) == cudaSuccess ? at : NULL;
}

void attention_place_give(void *at)
{
    (void)cudaFreeHost(at);
}

void attention_place_order(uint64_t seed)
{
    (void)seed;
}

int attention_place_wait(void)
{
    const struct timespec pause = {0, 50000};
    cudaError_t code = cudaErrorNotReady;
    for (int i = 0; i < 1200000 && code == cudaErrorNotReady; i++) {
        code = cudaStreamQuery(stream);
        nanosleep(&pause, NULL);
    }
    if (code != cudaSuccess)
        printf("%s\n", cudaGetErrorString(code));
    return code == cudaSuccess;
}
