/* SPDX-License-Identifier: MIT
 *
 * A ring of operations by value and the thread that takes them in order: how a stream enqueues without waiting for what
 * it has to wait for. Made once; enqueueing never allocates.
 */
#ifndef SHERD_DEVICE_CUDA_QUEUE_H
#define SHERD_DEVICE_CUDA_QUEUE_H

#include "device/op.h"

typedef struct sherd__cuda_queue {
    sherd__stream *stream; /* the owner: names it, and `take` gets it */
    sherd_status (*take)(sherd__stream *stream, const sherd__op *op);
    uint32_t capacity;
    sherd__op *ring;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t work, space;
    uint32_t head, count; /* the operation being taken is counted */
    int32_t idle;         /* 1: the thread sleeps until there is work */
    int32_t producers;    /* threads that wait for space */
    int32_t stop;
    pthread_t thread;
} sherd__cuda_queue;

/* `queue` lies in the stream; stream->device and stream->name are set. `take` waits at most within the device's limit. */
sherd_status sherd__cuda_queue_start(sherd__cuda_queue *queue, sherd__stream *stream, uint32_t capacity,
                                     sherd_status (*take)(sherd__stream *, const sherd__op *), sherd_error *err);
/* Takes what is enqueued, then ends the thread. */
void sherd__cuda_queue_stop(sherd__cuda_queue *queue);
/* Waits for space within the device's limit; poisons the device where it has been reached. */
sherd_status sherd__cuda_queue_put(sherd__cuda_queue *queue, const sherd__op *op);

#endif
