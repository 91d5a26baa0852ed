/* SPDX-License-Identifier: MIT
 *
 * Memory of the GPU that other ranks' kernels read: windows. Ranks of one process hand each other the address; where
 * they use two GPUs, both must let the other in. Ranks of several processes lend it by CUDA's handles.
 *
 * What is lent is whole pages of 2 MiB, so that it shows nothing of its neighbours.
 */
#include <string.h>

#include "device/cuda.h"

#define PAGE_BYTES (UINT64_C(2) << 20)
#define SMALL_BYTES UINT64_C(4096)

static int32_t number(const sherd_device *device)
{
    return ((const sherd__cuda_device *)device)->ordinal;
}

static uint64_t whole(uint64_t bytes, int32_t lent)
{
    if (bytes > (uint64_t)INT64_MAX - PAGE_BYTES)
        return 0;
    uint64_t unit = lent ? PAGE_BYTES : SMALL_BYTES;
    return sherd__cuda_rounded(SHERD_TIER_DEVICE, bytes == 0 ? unit : (bytes + unit - 1) / unit * unit);
}

/* On a stream of its own: the compute stream may be the client's, and busy. */
static sherd_status clear(sherd_device *device, void *block, uint64_t bytes, sherd_error *err)
{
    cudaStream_t stream;
    const char *call = "cudaStreamCreateWithFlags";
    int code = (int)cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, call);
    call = "cudaMemsetAsync";
    code = (int)cudaMemsetAsync(block, 0, (size_t)bytes, stream);
    sherd_status status = code == (int)cudaSuccess ? sherd__cuda_await_handle(device, stream, "window", "clearing")
                                                   : sherd__cuda_refused(err, code, call);
    (void)cudaStreamDestroy(stream);
    return code == (int)cudaSuccess && status != SHERD_OK ? sherd__device_error(device, err) : status;
}

static sherd_status get(sherd_device *device, uint64_t bytes, void **out, sherd_error *err)
{
    uint64_t rounding;
    void *block = NULL;
    sherd_status status = sherd__cuda_memory_get(device, SHERD_TIER_DEVICE, bytes, &block, &rounding, err);
    if (status != SHERD_OK)
        return status;
    int former = sherd__cuda_enter(device);
    status = clear(device, block, bytes, err);
    sherd__cuda_leave(device, former);
    if (status != SHERD_OK) {
        sherd__cuda_memory_put(device, SHERD_TIER_DEVICE, block, bytes);
        return status;
    }
    *out = block;
    return SHERD_OK;
}

static void put(sherd_device *device, int32_t ordinal, void *block)
{
    int former = ordinal;
    if ((device && !sherd__cuda_settle(device)) || !sherd__cuda_gpu_runs(ordinal, device))
        return;
    (void)cudaGetDevice(&former);
    if (former != ordinal)
        (void)cudaSetDevice(ordinal);
    (void)cudaFree(block);
    if (former != ordinal)
        (void)cudaSetDevice(former);
}

/* What this GPU cannot do is no error of the device. */
static sherd_status unsupported(sherd_device *device, int code, const char *what, sherd_error *err)
{
    (void)cudaGetLastError();
    return sherd__fail(err, SHERD_EUNSUPPORTED, "GPU %d: %s: %s", number(device), what,
                       cudaGetErrorString((cudaError_t)code));
}

static sherd_status reach(sherd_device *device, int32_t other, sherd_error *err)
{
    int own = number(device), can = 0, code = (int)cudaSuccess;
    if (other == own)
        return SHERD_OK;
    int former = sherd__cuda_enter(device);
    sherd_status status = SHERD_OK;
    code = (int)cudaDeviceCanAccessPeer(&can, own, other);
    if (code == (int)cudaSuccess && can)
        code = (int)cudaDeviceEnablePeerAccess(other, 0);
    if (code == (int)cudaErrorPeerAccessAlreadyEnabled) {
        (void)cudaGetLastError();
        code = (int)cudaSuccess;
    }
    if (code != (int)cudaSuccess)
        status = unsupported(device, code, "no access to another GPU's memory", err);
    else if (!can)
        status = sherd__fail(err, SHERD_EUNSUPPORTED, "GPU %d cannot reach the memory of GPU %d", own, other);
    sherd__cuda_leave(device, former);
    return status;
}

static sherd_status lend(sherd_device *device, void *block, unsigned char out[64], sherd_error *err)
{
    cudaIpcMemHandle_t handle;
    _Static_assert(sizeof handle == 64, "a handle has room in an offer");
    int former = sherd__cuda_enter(device), code = (int)cudaIpcGetMemHandle(&handle, block);
    sherd_status status = SHERD_OK;
    if (code == (int)cudaSuccess)
        memcpy(out, &handle, sizeof handle);
    else
        status = unsupported(device, code, "its memory cannot be lent to another process", err);
    sherd__cuda_leave(device, former);
    return status;
}

static sherd_status borrow(sherd_device *device, const unsigned char from[64], void **out, sherd_error *err)
{
    cudaIpcMemHandle_t handle;
    memcpy(&handle, from, sizeof handle);
    int former = sherd__cuda_enter(device);
    int code = (int)cudaIpcOpenMemHandle(out, handle, cudaIpcMemLazyEnablePeerAccess);
    sherd_status status =
        code == (int)cudaSuccess ? SHERD_OK : unsupported(device, code, "no access to another process's memory", err);
    sherd__cuda_leave(device, former);
    return status;
}

static void give_back(sherd_device *device, void *block)
{
    int former = sherd__cuda_enter(device);
    if (sherd__cuda_settle(device) && cudaIpcCloseMemHandle(block) != cudaSuccess)
        (void)cudaGetLastError();
    sherd__cuda_leave(device, former);
}

const sherd__share_ops sherd__cuda_share = {
    .number = number,
    .whole = whole,
    .get = get,
    .put = put,
    .reach = reach,
    .lend = lend,
    .borrow = borrow,
    .give_back = give_back,
    .quiet = sherd__cuda_settle,
    .post_create = sherd__cuda_post_create,
    .post_destroy = sherd__cuda_post_destroy,
};
