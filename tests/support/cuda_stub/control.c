/* SPDX-License-Identifier: MIT
 *
 * The stub's devices, and what tests tell them.
 */
#include "tests/support/cuda_stub/state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static stub_state *const gpu = &cuda_stub_state;

cudaError_t cudaGetDeviceCount(int *count)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaGetDeviceCount");
    *count = gpu->device_count;
    return cuda_stub_leave(code != cudaSuccess ? code : gpu->device_count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = gpu->device_count ? 13000 : 0;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = cuda_stub_current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= gpu->device_count)
        return cudaErrorInvalidDevice;
    cuda_stub_current = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaGetDeviceProperties");
    memset(out, 0, sizeof *out);
    strcpy(out->name, "stub on main memory");
    out->major = 9 + device * 0;
    out->multiProcessorCount = 2;
    return cuda_stub_leave(code);
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t code = cuda_stub_last_error;
    pthread_mutex_lock(&gpu->lock);
    cuda_stub_last_error = gpu->broken; /* a broken context stays so */
    pthread_mutex_unlock(&gpu->lock);
    return code;
}

const char *cudaGetErrorName(cudaError_t code)
{
    switch (code) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice:
        return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
        return "cudaErrorInvalidDevice";
    case cudaErrorPeerAccessUnsupported:
        return "cudaErrorPeerAccessUnsupported";
    case cudaErrorMapBufferObjectFailed:
        return "cudaErrorMapBufferObjectFailed";
    case cudaErrorPeerAccessAlreadyEnabled:
        return "cudaErrorPeerAccessAlreadyEnabled";
    case cudaErrorNotReady:
        return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:
        return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    }
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t code)
{
    return code == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an error injected by a test";
}

/* ------------------------------------------------------------------------------------------------------------- tests
 */

void cuda_stub_reset(int devices, uint64_t total)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->hung = 0;
    pthread_cond_broadcast(&gpu->changed);
    /* What a broken context still has queued would run once it is whole again, on memory freed since: it is dropped
     * first. */
    while (gpu->broken != cudaSuccess && gpu->queued > 0)
        pthread_cond_wait(&gpu->changed, &gpu->lock);
    memset(gpu->counters, 0, sizeof gpu->counters);
    gpu->device_count = devices;
    gpu->total_bytes = total ? total : STUB_TOTAL_DEFAULT;
    gpu->items = gpu->break_at = gpu->hang_at = 0;
    gpu->apart = gpu->unlent = gpu->delay_us = gpu->careless = 0;
    memset(gpu->reaches, 0, sizeof gpu->reaches);
    gpu->broken = gpu->break_code = cuda_stub_last_error = cudaSuccess;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_hide_memory(int on)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->hide = on;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_show_memory(const void *address)
{
    pthread_mutex_lock(&gpu->lock);
    for (size_t i = 0; i < gpu->n_blocks; i++) {
        stub_block *at = &gpu->blocks[i];
        if (at->hidden && (const char *)address >= at->address && (const char *)address < at->address + at->bytes)
            at->shown = 1;
        if (at->shown && mprotect(at->address, at->bytes, PROT_READ | PROT_WRITE))
            abort();
    }
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_part_gpus(int on)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->apart = on;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_refuse_lending(int on)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->unlent = on;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_ignore_waits(int on)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->careless = on;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_delay(int us)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->delay_us = us;
    pthread_mutex_unlock(&gpu->lock);
}

int cuda_stub_reaches(int which, int other)
{
    pthread_mutex_lock(&gpu->lock);
    int on = gpu->reaches[which][other];
    pthread_mutex_unlock(&gpu->lock);
    return on;
}

void cuda_stub_fail_call(const char *function, uint64_t nth, cudaError_t code)
{
    pthread_mutex_lock(&gpu->lock);
    stub_counter *at = cuda_stub_counter(function);
    at->fail_at = nth;
    at->code = code;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_break_at(uint64_t nth, cudaError_t code)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->break_at = nth;
    gpu->break_code = code;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_hang_at(uint64_t nth)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->hang_at = nth;
    pthread_mutex_unlock(&gpu->lock);
}

void cuda_stub_unhang(void)
{
    pthread_mutex_lock(&gpu->lock);
    gpu->hung = 0;
    pthread_cond_broadcast(&gpu->changed);
    pthread_mutex_unlock(&gpu->lock);
}

uint64_t cuda_stub_calls(const char *function)
{
    pthread_mutex_lock(&gpu->lock);
    uint64_t calls = cuda_stub_counter(function)->calls;
    pthread_mutex_unlock(&gpu->lock);
    return calls;
}

uint64_t cuda_stub_items(void)
{
    pthread_mutex_lock(&gpu->lock);
    uint64_t n = gpu->items;
    pthread_mutex_unlock(&gpu->lock);
    return n;
}

uint64_t cuda_stub_alive(void)
{
    pthread_mutex_lock(&gpu->lock);
    uint64_t n = gpu->alive - (gpu->null_stream != NULL);
    pthread_mutex_unlock(&gpu->lock);
    return n;
}
