/* SPDX-License-Identifier: MIT
 *
 * Memory of the GPU and pinned memory of the host. Sizes are rounded here to what the driver takes, so that what is
 * booked is what is gone: 2 MiB pages for large blocks, 512 bytes within shared pages for small ones.
 */
#include "device/cuda.h"

#include <unistd.h>

#include "base/checked.h"

#define PAGED_FROM_BYTES (UINT64_C(1) << 20)
#define PAGE_BYTES (UINT64_C(2) << 20)
#define SMALL_BYTES UINT64_C(512)
#define NAP_US 200

static uint64_t unit_of(sherd_tier tier, uint64_t bytes)
{
    long page = sysconf(_SC_PAGESIZE);
    if (tier == SHERD_TIER_HOST)
        return page > 0 ? (uint64_t)page : 4096;
    return bytes >= PAGED_FROM_BYTES ? PAGE_BYTES : SMALL_BYTES;
}

uint64_t sherd__cuda_rounded(sherd_tier tier, uint64_t bytes)
{
    uint64_t unit = unit_of(tier, bytes), sum;
    if (!sherd__add_u64(bytes ? bytes : 1, unit - 1, &sum) || sum > INT64_MAX)
        return 0;
    return sum / unit * unit;
}

sherd_status sherd__cuda_memory_get(sherd_device *device, sherd_tier tier, uint64_t bytes, void **out,
                                    uint64_t *rounding, sherd_error *err)
{
    if (tier != SHERD_TIER_DEVICE && tier != SHERD_TIER_HOST)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "memory on tier '%s' is not built yet", sherd_tier_name(tier));
    uint64_t whole = sherd__cuda_rounded(tier, bytes);
    size_t free_bytes = 0, total_bytes = 0;
    int code = (int)cudaErrorMemoryAllocation, former = sherd__cuda_enter(device);
    if (whole > 0)
        code = tier == SHERD_TIER_DEVICE ? (int)cudaMalloc(out, (size_t)whole)
                                         : (int)cudaHostAlloc(out, (size_t)whole, cudaHostAllocPortable);
    if (code == (int)cudaErrorMemoryAllocation && whole > 0 && tier == SHERD_TIER_DEVICE &&
        sherd__cuda_recycle_flush(device)) {
        (void)cudaGetLastError();
        code = (int)cudaMalloc(out, (size_t)whole);
    }
    if (code == (int)cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* the device is as good as before */
        (void)cudaMemGetInfo(&free_bytes, &total_bytes);
    }
    sherd__cuda_leave(device, former);
    if (code == (int)cudaErrorMemoryAllocation)
        return tier == SHERD_TIER_DEVICE
                   ? sherd__fail(err, SHERD_ENOMEM, "the GPU has no %llu bytes: %llu of %llu are free",
                                 (unsigned long long)bytes, (unsigned long long)free_bytes,
                                 (unsigned long long)total_bytes)
                   : sherd__fail(err, SHERD_ENOMEM, "the system has no %llu bytes of pinned main memory",
                                 (unsigned long long)bytes);
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, tier == SHERD_TIER_DEVICE ? "cudaMalloc" : "cudaHostAlloc");
    *rounding = whole - bytes;
    return SHERD_OK;
}

int sherd__cuda_pageable(const void *address, int *pageable)
{
    struct cudaPointerAttributes attributes = {.type = cudaMemoryTypeUnregistered};
    int code = (int)cudaPointerGetAttributes(&attributes, address);
    *pageable = code != (int)cudaSuccess || attributes.type == cudaMemoryTypeUnregistered;
    if (code != (int)cudaErrorInvalidValue)
        return code;
    (void)cudaGetLastError(); /* older runtimes say so of memory that they do not know */
    return (int)cudaSuccess;
}

static int busy(sherd__cuda_device *device)
{
    int found = 0;
    pthread_mutex_lock(&device->stream_lock);
    for (sherd__cuda_stream *stream = device->streams; stream && !found; stream = stream->next)
        found = cudaStreamQuery(stream->handle) == cudaErrorNotReady;
    pthread_mutex_unlock(&device->stream_lock);
    return found;
}

static void give_up(sherd__cuda_device *device)
{
    atomic_store(&device->stuck, 1);
    sherd__cuda_gpu_hangs(device->ordinal);
}

int sherd__cuda_settle(sherd_device *base)
{
    sherd__cuda_device *device = (sherd__cuda_device *)base;
    int64_t begin = sherd__now_ns();
    while (!atomic_load(&device->stuck) && busy(device)) {
        if (sherd__now_ns() - begin > atomic_load(&base->wait_limit_ns))
            give_up(device);
        else
            usleep(NAP_US);
    }
    return !atomic_load(&device->stuck);
}

sherd_status sherd__cuda_watch(sherd_device *device, const void *address, uint64_t bytes, sherd_error *err)
{
    int former = sherd__cuda_enter(device), pageable = 0, code = sherd__cuda_pageable(address, &pageable);
    if (code == (int)cudaSuccess && bytes > 0 && pageable)
        code = (int)cudaHostRegister((void *)(uintptr_t)address, (size_t)bytes,
                                     cudaHostRegisterPortable | cudaHostRegisterMapped);
    if (code != (int)cudaSuccess)
        (void)cudaGetLastError();
    sherd__cuda_leave(device, former);
    if (code == (int)cudaSuccess)
        return SHERD_OK;
    return sherd__fail(err, code == (int)cudaErrorMemoryAllocation ? SHERD_ENOMEM : SHERD_EDEVICE,
                       "a window of %llu bytes could not be pinned for the GPU (cudaHostRegister: %s); see ulimit -l",
                       (unsigned long long)bytes, cudaGetErrorString((cudaError_t)code));
}

/* cudaFree and its like wait for all of the GPU without a limit, so they are called only when that ends. */
static int may_free(sherd_device *device)
{
    return sherd__cuda_settle(device) && sherd__cuda_gpu_runs(((sherd__cuda_device *)device)->ordinal, device);
}

void sherd__cuda_unwatch(sherd_device *device, const void *address, uint64_t bytes)
{
    int former = sherd__cuda_enter(device);
    if (bytes > 0 && may_free(device) && cudaHostUnregister((void *)(uintptr_t)address) != cudaSuccess)
        (void)cudaGetLastError(); /* another's memory, which was reachable as it was */
    sherd__cuda_leave(device, former);
}

void sherd__cuda_memory_put(sherd_device *device, sherd_tier tier, void *block, uint64_t bytes)
{
    (void)bytes;
    int former = sherd__cuda_enter(device);
    if (may_free(device))
        (void)(tier == SHERD_TIER_DEVICE ? cudaFree(block) : cudaFreeHost(block));
    sherd__cuda_leave(device, former);
}

sherd_status sherd__cuda_memory_free(sherd_device *base, uint64_t *out, sherd_error *err)
{
    uint64_t limit = base->ledger.limit[SHERD_TIER_DEVICE], held;
    size_t free_bytes = 0, total_bytes = 0;
    sherd_memory live;
    (void)sherd__cuda_recycle_flush(base);
    int former = sherd__cuda_enter(base), code = (int)cudaMemGetInfo(&free_bytes, &total_bytes);

    sherd__cuda_leave(base, former);
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, "cudaMemGetInfo");
    sherd__ledger_read(&base->ledger, &live, NULL, NULL);
    held = sherd_memory_total(&live, SHERD_TIER_DEVICE);
    *out = free_bytes;
    if (limit > 0 && (limit > held ? limit - held : 0) < *out)
        *out = limit > held ? limit - held : 0;
    return SHERD_OK;
}
