/* SPDX-License-Identifier: MIT
 *
 * Where a host thread waits for the GPU, for another thread, or for another rank. The GPU is asked again and again
 * (cudaEventSynchronize could not time out); every nap is short and then looks at `failed` and at the limit. Words are
 * slept on as wait.h says.
 */
#include "device/cuda.h"

#define FIRST_NAP_NS 5000
#define LONGEST_NAP_NS 500000

static void nap(int64_t *ns)
{
    struct timespec pause = {.tv_sec = 0, .tv_nsec = (long)*ns};
    (void)nanosleep(&pause, NULL);
    *ns = *ns * 2 < LONGEST_NAP_NS ? *ns * 2 : LONGEST_NAP_NS;
}

static sherd_status gpu_timeout(sherd_device *device, const char *stream, const char *site, int64_t waited_ns)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s' waited %.1f s at '%s' for the GPU, which did not get there: a kernel hangs, or the GPU is "
                "lost; see the driver's log (dmesg, Xid)",
                stream, (double)waited_ns * 1e-9, site ? site : "");
    return sherd__device_poison(device, &error);
}

/* Peers that gave up take with them what this rank's streams wait for. */
static sherd_status ask_guard(sherd_device *device)
{
    sherd_error error = {.status = SHERD_OK, .rank = -1};
    sherd_status (*guard)(void *, sherd_error *) = atomic_load(&device->guard);
    sherd_status status = guard ? guard(device->guard_ctx, &error) : SHERD_OK;
    if (status == SHERD_OK)
        return SHERD_OK;
    error.status = status;
    return sherd__device_poison(device, &error);
}

/* Until `query` says something else than "not ready". */
static sherd_status poll_gpu(sherd_device *device, int (*query)(void *handle), void *handle, const char *call,
                             const char *stream, const char *site)
{
    int64_t begin = sherd__now_ns(), asked = begin, ns = FIRST_NAP_NS;
    sherd_status status = SHERD_OK;
    int code;
    while ((code = query(handle)) == (int)cudaErrorNotReady && status == SHERD_OK) {
        int64_t now = sherd__now_ns(), waited = now - begin;
        status = sherd__device_error(device, NULL);
        if (status == SHERD_OK && now - asked >= SHERD__WAIT_SLICE_NS) {
            status = ask_guard(device);
            asked = now;
        }
        if (status == SHERD_OK && waited > sherd__wait_limit(device))
            status = gpu_timeout(device, stream, site, waited);
        else if (status == SHERD_OK)
            nap(&ns);
    }
    sherd__trace_wait(device, stream, site, (sherd__tag){.bucket = -1}, begin, sherd__now_ns());
    return status != SHERD_OK ? status : sherd__cuda_check(device, code, call, stream, NULL);
}

static int query_event(void *handle)
{
    return (int)cudaEventQuery((cudaEvent_t)handle);
}

static int query_stream(void *handle)
{
    return (int)cudaStreamQuery((cudaStream_t)handle);
}

sherd_status sherd__cuda_await_reached(sherd_device *device, cudaEvent_t event, const char *stream, const char *site)
{
    return poll_gpu(device, query_event, event, "cudaEventQuery", stream, site);
}

sherd_status sherd__cuda_await_handle(sherd_device *device, cudaStream_t handle, const char *stream, const char *site)
{
    return poll_gpu(device, query_stream, handle, "cudaStreamQuery", stream, site);
}

sherd_status sherd__cuda_await_idle(sherd__cuda_stream *stream, const char *site)
{
    return sherd__cuda_await_handle(stream->base.device, stream->handle, stream->base.name, site);
}

/* A thread that waits for another thread or rank would learn of a broken context from nobody: what it waits for may be
 * a callback that CUDA will never make. */
static sherd_status gpu_health(sherd_device *device)
{
    int former = sherd__cuda_enter(device);
    int code = device->compute ? query_stream(((sherd__cuda_stream *)device->compute)->handle) : (int)cudaSuccess;
    sherd__cuda_leave(device, former);
    return code == (int)cudaErrorNotReady ? SHERD_OK
                                          : sherd__cuda_check(device, code, "cudaStreamQuery", "compute", NULL);
}

sherd_status sherd__cuda_await_issued(sherd__cuda_event *event, uint64_t number, const char *stream, const char *site)
{
    sherd__waiter waiter = {.device = event->device, .stream = stream, .site = site, .tag = {.bucket = -1}};
    waiter.health = gpu_health;
    return sherd__count_await(&waiter, &event->issued, number,
                              "an event that was not given to the GPU: another stream of this rank is held back");
}

sherd_status sherd__cuda_await_flags(sherd_device *device, const char *stream, sherd__tag tag,
                                     const sherd__await *await)
{
    sherd__waiter waiter = {.device = device, .stream = stream, .site = await->site, .tag = tag};
    waiter.health = gpu_health;
    return sherd__flags_await(&waiter, await);
}
