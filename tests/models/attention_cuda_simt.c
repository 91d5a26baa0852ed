/* SPDX-License-Identifier: MIT
 *
 * The place of attention's tests that is no GPU: the stub of CUDA's runtime and the emulator of a thread block.
 */
#include <stdlib.h>
#include <time.h>

#include "tests/models/attention_cuda_case.h"
#include "tests/support/cuda_stub/simt_control.h"
#include "tests/support/cuda_stub/stub.h"

static cudaStream_t stream;

int attention_place_open(void)
{
    cuda_stub_reset(1, 0);
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

/* No more than asked for: AddressSanitizer sees what is behind. */
void *attention_place_take(size_t bytes)
{
    void *at;
    return posix_memalign(&at, 64, bytes) == 0 ? at : NULL;
}

void attention_place_give(void *at)
{
    free(at);
}

void attention_place_order(uint64_t seed)
{
    simt_seed(seed);
}

int attention_place_wait(void)
{
    const struct timespec pause = {0, 50000};
    for (int i = 0; i < 1200000; i++) {
        if (cudaStreamQuery(stream) != cudaErrorNotReady)
            return 1;
        nanosleep(&pause, NULL);
    }
    return 0;
}
