/* SPDX-License-Identifier: MIT
 *
 * An event is a cudaEvent and two counts: records enqueued, and records given to CUDA. A wait for record n is issued
 * once n has been; CUDA then waits for the latest record it knows, which is n or a later one of the same stream. That
 * may be stricter than asked, never a deadlock: issued work depends on issued work only.
 */
#include "device/cuda.h"

static sherd__cuda_event *take_free_event(sherd__cuda_device *device)
{
    pthread_mutex_lock(&device->base.lock);
    sherd__cuda_event *event = device->free_events;
    if (event)
        device->free_events = event->next_free;
    pthread_mutex_unlock(&device->base.lock);
    return event;
}

static sherd_status new_event(sherd__cuda_device *device, sherd__cuda_event **out, sherd_error *err)
{
    sherd__cuda_event *event = sherd__device_metadata_alloc(&device->base, 1, sizeof *event);
    if (!event)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for an event");
    int former = sherd__cuda_enter(&device->base);
    int code = (int)cudaEventCreateWithFlags(&event->handle, cudaEventDefault);
    sherd__cuda_leave(&device->base, former);
    if (code != (int)cudaSuccess) {
        sherd__device_metadata_free(&device->base, event, 1, sizeof *event);
        return sherd__cuda_refused(err, code, "cudaEventCreateWithFlags");
    }
    event->device = &device->base;
    pthread_mutex_lock(&device->base.lock);
    event->next = device->events;
    device->events = event;
    pthread_mutex_unlock(&device->base.lock);
    *out = event;
    return SHERD_OK;
}

sherd_status sherd__cuda_event_create(sherd_device *device, sherd__event **out, sherd_error *err)
{
    sherd__cuda_event *event = take_free_event((sherd__cuda_device *)device);
    sherd_status status = event ? SHERD_OK : new_event((sherd__cuda_device *)device, &event, err);
    if (status != SHERD_OK)
        return status;
    atomic_store(&event->none, atomic_load(&event->recorded));
    *out = (sherd__event *)event;
    return SHERD_OK;
}

void sherd__cuda_event_destroy(sherd__event *handle)
{
    sherd__cuda_event *event = (sherd__cuda_event *)handle;
    if (!event)
        return;
    sherd__cuda_device *device = (sherd__cuda_device *)event->device;
    pthread_mutex_lock(&device->base.lock);
    event->next_free = device->free_events;
    device->free_events = event;
    pthread_mutex_unlock(&device->base.lock);
}

void sherd__cuda_events_free(sherd__cuda_device *device)
{
    while (device->events) {
        sherd__cuda_event *event = device->events;
        device->events = event->next;
        if (!atomic_load(&device->stuck))
            (void)cudaEventDestroy(event->handle);
        sherd__device_metadata_free(&device->base, event, 1, sizeof *event);
    }
}

sherd_status sherd__cuda_event_record(sherd__stream *stream, sherd__event *handle)
{
    sherd__cuda_event *event = (sherd__cuda_event *)handle;
    sherd__op op = {.kind = SHERD__OP_RECORD, .tag = {.bucket = -1}};
    op.u.event.event = handle;
    op.u.event.number = atomic_fetch_add(&event->recorded, 1) + 1;
    return stream->submit(stream, &op);
}

sherd_status sherd__cuda_event_wait(sherd__stream *stream, sherd__event *handle, const char *site)
{
    sherd__cuda_event *event = (sherd__cuda_event *)handle;
    sherd__op op = {.kind = SHERD__OP_WAIT, .tag = {.bucket = -1}};
    op.u.event.event = handle;
    op.u.event.number = atomic_load(&event->recorded);
    op.u.event.site = site;
    if (op.u.event.number == atomic_load(&event->none))
        return sherd__device_error(stream->device, NULL);
    return stream->submit(stream, &op);
}

void sherd__cuda_event_issued(sherd__cuda_event *event, uint64_t number)
{
    sherd__count_reach(&event->issued, number);
}

sherd_status sherd__cuda_event_sync(sherd_device *device, sherd__event *handle, const char *site, sherd_error *err)
{
    sherd__cuda_event *event = (sherd__cuda_event *)handle;
    uint64_t number = atomic_load(&event->recorded);
    if (number != atomic_load(&event->none) &&
        sherd__cuda_await_issued(event, number, "compute", site) == SHERD_OK) {
        int former = sherd__cuda_enter(device);
        (void)sherd__cuda_await_reached(device, event->handle, "compute", site);
        sherd__cuda_leave(device, former);
    }
    return sherd__device_error(device, err);
}

/* CUDA measures from event to event; the device's epoch ties that to the host's clock. */
int64_t sherd__cuda_event_time_ns(sherd__event *handle)
{
    sherd__cuda_event *event = (sherd__cuda_event *)handle;
    sherd__cuda_device *device = (sherd__cuda_device *)event->device;
    float ms = 0.0f;
    if (atomic_load(&event->issued.at) == atomic_load(&event->none))
        return 0;
    int former = sherd__cuda_enter(&device->base);
    int code = (int)cudaEventElapsedTime(&ms, device->epoch, event->handle);
    if (code != (int)cudaSuccess)
        (void)cudaGetLastError(); /* not reached yet: no error of ours */
    sherd__cuda_leave(&device->base, former);
    return code == (int)cudaSuccess ? device->epoch_ns + (int64_t)((double)ms * 1e6) : 0;
}
