/* SPDX-License-Identifier: MIT */
#include <sched.h>
#include <stdio.h>

#include "device/host.h"

/* From here up there are usually cores to spare; below, a spinning thread takes the core of the one it waits for. */
#define SPIN_FROM_CPUS 8

static sherd__host_event *take_free_event(sherd__host_device *host)
{
    pthread_mutex_lock(&host->base.lock);
    sherd__host_event *event = host->free_events;
    if (event)
        host->free_events = event->next_free;
    pthread_mutex_unlock(&host->base.lock);
    if (event)
        atomic_store(&event->time_ns, 0);
    return event;
}

static sherd_status event_create(sherd_device *device, sherd__event **out, sherd_error *err)
{
    sherd__host_device *host = (sherd__host_device *)device;
    sherd__host_event *event = take_free_event(host);
    if (!event) {
        event = sherd__device_metadata_alloc(device, 1, sizeof *event);
        if (!event)
            return sherd__fail(err, SHERD_ENOMEM, "no memory for an event");
        event->device = device;
        pthread_mutex_lock(&device->lock);
        event->next = host->events;
        host->events = event;
        pthread_mutex_unlock(&device->lock);
    }
    *out = (sherd__event *)event;
    return SHERD_OK;
}

static void event_destroy(sherd__event *handle)
{
    sherd__host_event *event = (sherd__host_event *)handle;
    if (!event)
        return;
    sherd__host_device *host = (sherd__host_device *)event->device;
    pthread_mutex_lock(&host->base.lock);
    event->next_free = host->free_events;
    host->free_events = event;
    pthread_mutex_unlock(&host->base.lock);
}

static void free_events(sherd__host_device *host)
{
    while (host->events) {
        sherd__host_event *event = host->events;
        host->events = event->next;
        sherd__device_metadata_free(&host->base, event, 1, sizeof *event);
    }
}

static sherd_status event_record(sherd__stream *stream, sherd__event *handle)
{
    sherd__host_event *event = (sherd__host_event *)handle;
    sherd__op op = {.kind = SHERD__OP_RECORD, .tag = {.bucket = -1}};
    op.u.event.event = handle;
    op.u.event.number = atomic_fetch_add(&event->recorded, 1) + 1;
    return stream->submit(stream, &op);
}

static sherd_status event_wait(sherd__stream *stream, sherd__event *handle, const char *site)
{
    sherd__host_event *event = (sherd__host_event *)handle;
    uint64_t number = atomic_load(&event->recorded);
    if (atomic_load_explicit(&event->reached.at, memory_order_acquire) >= number)
        return sherd__device_error(stream->device, NULL); /* what is enqueued next comes after it anyway */
    sherd__op op = {.kind = SHERD__OP_WAIT, .tag = {.bucket = -1}};
    op.u.event.event = handle;
    op.u.event.number = number;
    op.u.event.site = site;
    return stream->submit(stream, &op);
}

static sherd_status event_sync(sherd_device *device, sherd__event *handle, const char *site, sherd_error *err)
{
    sherd__host_event *event = (sherd__host_event *)handle;
    if (sherd__host_event_await(event, atomic_load(&event->recorded), "compute", site) == SHERD_OK)
        return SHERD_OK;
    return sherd__device_error(device, err);
}

static int64_t event_time_ns(sherd__event *event) { return atomic_load(&((sherd__host_event *)event)->time_ns); }

static sherd_status touch(sherd_device *device, sherd__tag tag, sherd__access access)
{
    (void)tag;
    (void)access;
    return sherd__device_error(device, NULL);
}

static void destroy(sherd_device *device)
{
    sherd__host_device *host = (sherd__host_device *)device;
    sherd_allocator memory = device->allocator;
    sherd__host_stream_destroy(device->compute);
    sherd__team_destroy(host->team);
    free_events(host);
    sherd__device_base_fini(device);
    sherd__free(&memory, host, 1, sizeof *host);
}

static const sherd__device_ops host_ops = {
    .destroy = destroy,
    .memory_get = sherd__host_memory_get,
    .memory_put = sherd__host_memory_put,
    .memory_free = sherd__host_memory_free,
    .stream_create = sherd__host_stream_create,
    .stream_destroy = sherd__host_stream_destroy,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_wait = event_wait,
    .event_sync = event_sync,
    .event_time_ns = event_time_ns,
    SHERD__OP_ENTRIES,
    .touch = touch,
    .meet = sherd__op_meet,
    .announce = sherd__op_announce,
};

static int32_t usable_cpus(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

sherd_status sherd__device_create_host(const sherd_device_options *options, sherd_device **out, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(&options->allocator);
    int32_t threads = options->threads > 0 ? options->threads : 1;
    sherd__host_device *host = sherd__alloc(&memory, 1, sizeof *host);
    if (!host)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a host device");
    sherd_status status = sherd__device_base_init(&host->base, &host_ops, options, err);
    if (status != SHERD_OK)
        goto free_host;
    status = sherd__team_create(&memory, threads, &host->team, err);
    if (status != SHERD_OK)
        goto fini_base;
    status = sherd__host_compute_create(&host->base, &host->base.compute, err);
    if (status != SHERD_OK)
        goto destroy_team;
    host->math = sherd__host_math_best();
    host->spin = usable_cpus() >= SPIN_FROM_CPUS;
    snprintf(host->base.description, sizeof host->base.description, "host, %d thread%s, %s kernels", threads,
             threads == 1 ? "" : "s", host->math->name);
    *out = &host->base;
    return SHERD_OK;

destroy_team:
    sherd__team_destroy(host->team);
fini_base:
    sherd__device_base_fini(&host->base);
free_host:
    sherd__free(&memory, host, 1, sizeof *host);
    return status;
}
