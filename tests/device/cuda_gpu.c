/* SPDX-License-Identifier: MIT
 *
 * Instead of the stub, for tests that are written for it but prove something on a GPU too: what a test tells the stub
 * is ignored, and memory of the GPU is pinned main memory, which kernels reach and the test's client, a CPU, as well.
 * So streams, events, kernels and their order are the GPU's own; its memory is shown by device_cuda_present and by the
 * decoder. Linked with
 * --wrap=cudaMalloc, --wrap=cudaFree. Without a GPU the program says so and ends as skipped.
 */
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sherd/sherd_cuda.h"
#include "tests/support/cuda_stub/stub.h"

enum { SKIPPED = 77 };

cudaError_t __wrap_cudaMalloc(void **out, size_t bytes);
cudaError_t __wrap_cudaFree(void *block);

cudaError_t __wrap_cudaMalloc(void **out, size_t bytes)
{
    return cudaHostAlloc(out, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
}

cudaError_t __wrap_cudaFree(void *block)
{
    return cudaFreeHost(block);
}

void cuda_stub_reset(int devices, uint64_t total)
{
    (void)devices;
    (void)total;
}

void cuda_stub_hide_memory(int on)
{
    (void)on;
}

void cuda_stub_show_memory(const void *address)
{
    (void)address;
}

uint64_t cuda_stub_calls(const char *function)
{
    (void)function;
    return 1;
}

uint64_t cuda_stub_items(void)
{
    return 1;
}

uint64_t cuda_stub_alive(void)
{
    return 0;
}

void cuda_stub_refuse_lending(int on)
{
    (void)on; /* pinned memory cannot be lent: the other way is taken each time */
}

/* In a child: tests fork ranks, which a process that has used CUDA cannot. */
__attribute__((constructor)) static void look_for_a_gpu(void)
{
    int status = 0;
    pid_t child = fork();

    if (child == 0) {
        int32_t gpus = 0;
        sherd_error err = {0};
        int absent = sherd_cuda_count(&gpus, &err) != SHERD_OK;

        if (absent) {
            printf("skipped: %s\n", err.text);
            fflush(stdout);
        }
        _exit(absent ? SKIPPED : 0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        _exit(child > 0 && WIFEXITED(status) ? WEXITSTATUS(status) : 1);
    }
}
