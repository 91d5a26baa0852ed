/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "device/host.h"
#include "host/futex.h"


static void mark_record(const sherd__op *op)
{
    sherd__host_event_reach((sherd__host_event *)op->u.event.event, op->u.event.number);
}

static void run_kernel(sherd__host_device *device, sherd__stream *stream, const sherd__op *op)
{
    int64_t begin = device->base.trace ? sherd__now_ns() : 0;
    if (op->kind == SHERD__OP_HOST_WORK) {
        (void)sherd__op_do_work(&device->base, op);
    } else if (stream == device->base.compute) {
        uint64_t former = sherd__float_mode_enter();
        sherd__op_run(op, device->math, device->team);
        sherd__float_mode_leave(former);
    } else {
        sherd__op_run(op, device->math, device->team);
    }
    if (device->base.trace) {
        int64_t end = sherd__now_ns();
        if (end > begin)
            sherd__trace_add(&device->base, stream->name, op->tag, begin, end);
    }
}

/* In a poisoned device only records are carried out: who waits finds the error anyway, and nothing is left unreached.
 */
static sherd_status execute(sherd__stream *stream, const sherd__op *op)
{
    sherd__host_device *device = (sherd__host_device *)stream->device;
    sherd_status status = sherd__device_error(&device->base, NULL);
    if (op->kind == SHERD__OP_RECORD)
        mark_record(op);
    if (status != SHERD_OK)
        return status;
    switch (op->kind) {
    case SHERD__OP_RECORD:
    case SHERD__OP_TOUCH:
        return SHERD_OK;
    case SHERD__OP_WAIT:
        return sherd__host_event_await((sherd__host_event *)op->u.event.event, op->u.event.number, stream->name,
                                       op->u.event.site);
    case SHERD__OP_SIGNAL:
        atomic_store_explicit(op->u.signal.flag, op->u.signal.value, memory_order_release);
        sherd__futex_wake_all(op->u.signal.flag, SHERD__FUTEX_SHARED);
        return SHERD_OK;
    case SHERD__OP_AWAIT:
        return sherd__host_flags_await(device, stream->name, op->tag, &op->u.await);
    default:
        run_kernel(device, stream, op);
        return SHERD_OK;
    }
}

static void *stream_main(void *arg)
{
    sherd__host_stream *stream = arg;
    (void)sherd__float_mode_enter();
    pthread_mutex_lock(&stream->lock);
    for (;;) {
        while (stream->count == 0 && !stream->stop) {
            stream->idle = 1;
            pthread_cond_wait(&stream->work, &stream->lock); /* idle: ended by the next operation or by destroy */
            stream->idle = 0;
        }
        if (stream->count == 0)
            break;
        const sherd__op *op = &stream->ring[stream->head];
        pthread_mutex_unlock(&stream->lock);
        (void)execute(&stream->base, op);
        pthread_mutex_lock(&stream->lock);
        stream->head = stream->head + 1 == stream->capacity ? 0 : stream->head + 1;
        stream->count--;
        if (stream->producers > 0)
            pthread_cond_signal(&stream->space);
    }
    pthread_mutex_unlock(&stream->lock);
    return NULL;
}

static void add_slice(struct timespec *at, int64_t ns)
{
    int64_t sum = at->tv_nsec + ns;
    at->tv_sec += (time_t)(sum / 1000000000);
    at->tv_nsec = (long)(sum % 1000000000);
}

static sherd_status full_timeout(sherd__host_stream *stream, const sherd__op *op)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s': all %u places for pending operations stayed taken beyond the limit, so '%s' could "
                "not be enqueued: the stream is stuck",
                stream->base.name, stream->capacity, op->tag.name ? op->tag.name : "");
    return sherd__device_poison(stream->base.device, &error);
}

/* With the lock held; returns with it held. */
static sherd_status wait_for_space(sherd__host_stream *stream, const sherd__op *op)
{
    sherd_device *device = stream->base.device;
    int64_t begin = sherd__now_ns();
    sherd_status status = SHERD_OK;
    stream->producers++;
    while (stream->count == stream->capacity && status == SHERD_OK) {
        struct timespec until;
        (void)clock_gettime(CLOCK_MONOTONIC, &until);
        add_slice(&until, SHERD__WAIT_SLICE_NS);
        pthread_cond_timedwait(&stream->space, &stream->lock, &until);
        status = sherd__device_error(device, NULL);
        if (status == SHERD_OK && sherd__now_ns() - begin > atomic_load(&device->wait_limit_ns))
            status = full_timeout(stream, op);
    }
    stream->producers--;
    return status;
}

static sherd_status stream_submit(sherd__stream *base, const sherd__op *op)
{
    sherd__host_stream *stream = (sherd__host_stream *)base;
    sherd_status status = sherd__device_error(base->device, NULL);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&stream->lock);
    if (stream->count == stream->capacity)
        status = wait_for_space(stream, op);
    int wake = stream->idle;
    if (status == SHERD_OK) {
        uint32_t at = stream->head + stream->count;
        stream->ring[at >= stream->capacity ? at - stream->capacity : at] = *op;
        stream->count++;
    }
    pthread_mutex_unlock(&stream->lock);
    if (status == SHERD_OK && wake)
        pthread_cond_signal(&stream->work);
    return status;
}

static sherd__host_stream *stream_new(sherd_device *device, const char *name)
{
    sherd__host_stream *stream = sherd__device_metadata_alloc(device, 1, sizeof *stream);
    if (!stream)
        return NULL;
    stream->base.device = device;
    stream->base.name = name;
    return stream;
}

sherd_status sherd__host_compute_create(sherd_device *device, sherd__stream **out, sherd_error *err)
{
    sherd__host_stream *stream = stream_new(device, "compute");
    if (!stream)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for stream 'compute'");
    stream->base.submit = execute;
    *out = &stream->base;
    return SHERD_OK;
}

static void init_sync(sherd__host_stream *stream)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&stream->lock, NULL);
    pthread_cond_init(&stream->work, &attributes);
    pthread_cond_init(&stream->space, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void fini_sync(sherd__host_stream *stream)
{
    pthread_cond_destroy(&stream->space);
    pthread_cond_destroy(&stream->work);
    pthread_mutex_destroy(&stream->lock);
}

sherd_status sherd__host_stream_create(sherd_device *device, const char *name, uint32_t capacity, sherd__stream **out,
                                       sherd_error *err)
{
    sherd_status status;
    if (capacity == 0)
        return sherd__fail(err, SHERD_EINVAL, "stream '%s': a capacity of 0 operations; give at least 1", name);
    sherd__host_stream *stream = stream_new(device, name);
    if (!stream)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for stream '%s'", name);
    stream->base.submit = stream_submit;
    stream->capacity = capacity;
    stream->ring = sherd__device_metadata_alloc(device, capacity, sizeof *stream->ring);
    if (!stream->ring) {
        status = sherd__fail(err, SHERD_ENOMEM, "no memory for the %u operations of stream '%s'", capacity, name);
        goto free_stream;
    }
    init_sync(stream);
    int code = pthread_create(&stream->thread, NULL, stream_main, stream);
    if (code != 0) {
        status =
            sherd__fail(err, SHERD_ESYSTEM, "the thread of stream '%s' could not be started: %s", name, strerror(code));
        goto free_ring;
    }
    stream->has_thread = 1;
    *out = &stream->base;
    return SHERD_OK;

free_ring:
    fini_sync(stream);
    sherd__device_metadata_free(device, stream->ring, capacity, sizeof *stream->ring);
free_stream:
    sherd__device_metadata_free(device, stream, 1, sizeof *stream);
    return status;
}

void sherd__host_stream_destroy(sherd__stream *base)
{
    if (!base)
        return;
    sherd__host_stream *stream = (sherd__host_stream *)base;
    sherd_device *device = base->device;
    if (stream->has_thread) {
        pthread_mutex_lock(&stream->lock);
        stream->stop = 1;
        pthread_cond_signal(&stream->work);
        pthread_mutex_unlock(&stream->lock);
        pthread_join(stream->thread, NULL); /* every operation in the ring ends within its own limit */
        fini_sync(stream);
        sherd__device_metadata_free(device, stream->ring, stream->capacity, sizeof *stream->ring);
    }
    sherd__device_metadata_free(device, stream, 1, sizeof *stream);
}
