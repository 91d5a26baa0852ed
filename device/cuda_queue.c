/* SPDX-License-Identifier: MIT */
#include "device/cuda_queue.h"

#include <string.h>

#define SLICE_NS (INT64_C(15) * 1000000)

static void *queue_main(void *arg)
{
    sherd__cuda_queue *queue = arg;
    pthread_mutex_lock(&queue->lock);
    for (;;) {
        while (queue->count == 0 && !queue->stop) {
            queue->idle = 1;
            pthread_cond_wait(&queue->work, &queue->lock); /* ended by the next operation or by the stop */
            queue->idle = 0;
        }
        if (queue->count == 0)
            break;
        const sherd__op *op = &queue->ring[queue->head];
        pthread_mutex_unlock(&queue->lock);
        (void)queue->take(queue->stream, op);
        pthread_mutex_lock(&queue->lock);
        queue->head = queue->head + 1 == queue->capacity ? 0 : queue->head + 1;
        queue->count--;
        if (queue->producers > 0)
            pthread_cond_signal(&queue->space);
    }
    pthread_mutex_unlock(&queue->lock);
    return NULL;
}

static struct timespec slice_end(void)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t sum = until.tv_nsec + SLICE_NS;
    until.tv_sec += (time_t)(sum / 1000000000);
    until.tv_nsec = (long)(sum % 1000000000);
    return until;
}

static sherd_status full_timeout(sherd__cuda_queue *queue, const sherd__op *op)
{
    sherd_error error;
    sherd__fail(&error, SHERD_ETIMEOUT,
                "stream '%s': all %u places for pending operations stayed taken beyond the limit, so '%s' could not be "
                "enqueued: the stream is stuck",
                queue->stream->name, queue->capacity, op->tag.name ? op->tag.name : "");
    return sherd__device_poison(queue->stream->device, &error);
}

/* With the lock held; returns with it held. */
static sherd_status wait_for_space(sherd__cuda_queue *queue, const sherd__op *op)
{
    sherd_device *device = queue->stream->device;
    int64_t begin = sherd__now_ns();
    sherd_status status = SHERD_OK;
    queue->producers++;
    while (queue->count == queue->capacity && status == SHERD_OK) {
        struct timespec until = slice_end();
        pthread_cond_timedwait(&queue->space, &queue->lock, &until);
        status = sherd__device_error(device, NULL);
        if (status == SHERD_OK && sherd__now_ns() - begin > atomic_load(&device->wait_limit_ns))
            status = full_timeout(queue, op);
    }
    queue->producers--;
    return status;
}

sherd_status sherd__cuda_queue_put(sherd__cuda_queue *queue, const sherd__op *op)
{
    sherd_status status = sherd__device_error(queue->stream->device, NULL);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&queue->lock);
    if (queue->count == queue->capacity)
        status = wait_for_space(queue, op);
    int wake = queue->idle;
    if (status == SHERD_OK) {
        uint64_t at = (uint64_t)queue->head + queue->count;
        queue->ring[at >= queue->capacity ? at - queue->capacity : at] = *op;
        queue->count++;
    }
    pthread_mutex_unlock(&queue->lock);
    if (status == SHERD_OK && wake)
        pthread_cond_signal(&queue->work);
    return status;
}

static void init_sync(sherd__cuda_queue *queue)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->work, &attributes);
    pthread_cond_init(&queue->space, &attributes);
    pthread_condattr_destroy(&attributes);
}

static void fini_sync(sherd__cuda_queue *queue)
{
    pthread_cond_destroy(&queue->space);
    pthread_cond_destroy(&queue->work);
    pthread_mutex_destroy(&queue->lock);
}

sherd_status sherd__cuda_queue_start(sherd__cuda_queue *queue, sherd__stream *stream, uint32_t capacity,
                                     sherd_status (*take)(sherd__stream *, const sherd__op *), sherd_error *err)
{
    if (capacity == 0)
        return sherd__fail(err, SHERD_EINVAL, "stream '%s': a capacity of 0 operations; give at least 1", stream->name);
    queue->stream = stream;
    queue->take = take;
    queue->capacity = capacity;
    queue->ring = sherd__device_metadata_alloc(stream->device, capacity, sizeof *queue->ring);
    if (!queue->ring)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the %u operations of stream '%s'", capacity,
                           stream->name);
    init_sync(queue);
    int code = pthread_create(&queue->thread, NULL, queue_main, queue);
    if (code == 0)
        return SHERD_OK;
    fini_sync(queue);
    sherd__device_metadata_free(stream->device, queue->ring, capacity, sizeof *queue->ring);
    return sherd__fail(err, SHERD_ESYSTEM, "the thread of stream '%s' could not be started: %s", stream->name,
                       strerror(code));
}

void sherd__cuda_queue_stop(sherd__cuda_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->stop = 1;
    pthread_cond_signal(&queue->work);
    pthread_mutex_unlock(&queue->lock);
    pthread_join(queue->thread, NULL); /* every operation in the ring ends within its own limit */
    fini_sync(queue);
    sherd__device_metadata_free(queue->stream->device, queue->ring, queue->capacity, sizeof *queue->ring);
}
