/* SPDX-License-Identifier: MIT */
#include "device/op_ring.h"

#include <string.h>

#include "device/wait.h"

static void *ring_main(void *arg)
{
    sherd__op_ring *ring = arg;
    (void)sherd__float_mode_enter();
    pthread_mutex_lock(&ring->lock);
    for (;;) {
        while (ring->count == 0 && !ring->stop) {
            ring->idle = 1;
            pthread_cond_wait(&ring->work, &ring->lock); /* ended by the next operation or by the stop */
            ring->idle = 0;
        }
        if (ring->count == 0)
            break;
        const sherd__op *op = &ring->ops[ring->head];
        pthread_mutex_unlock(&ring->lock);
        (void)ring->take(ring->stream, op);
        pthread_mutex_lock(&ring->lock);
        ring->head = ring->head + 1 == ring->capacity ? 0 : ring->head + 1;
        ring->count--;
        if (ring->producers > 0)
            pthread_cond_signal(&ring->space);
    }
    pthread_mutex_unlock(&ring->lock);
    return NULL;
}

static struct timespec slice_end(void)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t sum = until.tv_nsec + SHERD__WAIT_SLICE_NS;
    until.tv_sec += (time_t)(sum / 1000000000);
    until.tv_nsec = (long)(sum % 1000000000);
    return until;
}

static sherd_status full_timeout(sherd__op_ring *ring, const sherd__op *op)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s': all %u places for pending operations stayed taken beyond the limit, so '%s' could not be "
                "enqueued: the stream is stuck",
                ring->stream->name, ring->capacity, op->tag.name ? op->tag.name : "");
    return sherd__device_poison(ring->stream->device, &error);
}

/* With the lock held; returns with it held. */
static sherd_status wait_for_space(sherd__op_ring *ring, const sherd__op *op)
{
    sherd_device *device = ring->stream->device;
    int64_t begin = sherd__now_ns();
    sherd_status status = SHERD_OK;
    ring->producers++;
    while (ring->count == ring->capacity && status == SHERD_OK) {
        struct timespec until = slice_end();
        pthread_cond_timedwait(&ring->space, &ring->lock, &until);
        status = sherd__device_error(device, NULL);
        if (status == SHERD_OK && sherd__now_ns() - begin > atomic_load(&device->wait_limit_ns))
            status = full_timeout(ring, op);
    }
    ring->producers--;
    return status;
}

sherd_status sherd__op_ring_put(sherd__op_ring *ring, const sherd__op *op)
{
    sherd_status status = sherd__device_error(ring->stream->device, NULL);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&ring->lock);
    if (ring->count == ring->capacity)
        status = wait_for_space(ring, op);
    int wake = ring->idle;
    if (status == SHERD_OK) {
        uint64_t at = (uint64_t)ring->head + ring->count;
        ring->ops[at >= ring->capacity ? at - ring->capacity : at] = *op;
        ring->count++;
    }
    pthread_mutex_unlock(&ring->lock);
    if (status == SHERD_OK && wake)
        pthread_cond_signal(&ring->work);
    return status;
}

static void init_sync(sherd__op_ring *ring)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&ring->lock, NULL);
    pthread_cond_init(&ring->work, &attributes);
    pthread_cond_init(&ring->space, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void fini_sync(sherd__op_ring *ring)
{
    pthread_cond_destroy(&ring->space);
    pthread_cond_destroy(&ring->work);
    pthread_mutex_destroy(&ring->lock);
}

sherd_status sherd__op_ring_start(sherd__op_ring *ring, sherd__stream *stream, uint32_t capacity,
                                  sherd_status (*take)(sherd__stream *, const sherd__op *), sherd_error *err)
{
    if (capacity == 0)
        return sherd__fail(err, SHERD_EINVAL, "stream '%s': a capacity of 0 operations; give at least 1", stream->name);
    ring->stream = stream;
    ring->take = take;
    ring->capacity = capacity;
    ring->ops = sherd__device_metadata_alloc(stream->device, capacity, sizeof *ring->ops);
    if (!ring->ops)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the %u operations of stream '%s'", capacity, stream->name);
    init_sync(ring);
    int code = pthread_create(&ring->thread, NULL, ring_main, ring);
    if (code == 0)
        return SHERD_OK;
    fini_sync(ring);
    sherd__device_metadata_free(stream->device, ring->ops, capacity, sizeof *ring->ops);
    return sherd__fail(err, SHERD_ESYSTEM, "the thread of stream '%s' could not be started: %s", stream->name,
                       strerror(code));
}

void sherd__op_ring_stop(sherd__op_ring *ring)
{
    pthread_mutex_lock(&ring->lock);
    ring->stop = 1;
    pthread_cond_signal(&ring->work);
    pthread_mutex_unlock(&ring->lock);
    pthread_join(ring->thread, NULL); /* every operation in the ring ends within its own limit */
    fini_sync(ring);
    sherd__device_metadata_free(ring->stream->device, ring->ops, ring->capacity, sizeof *ring->ops);
}
