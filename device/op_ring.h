/* SPDX-License-Identifier: MIT
 *
 * A ring of operations by value and the thread that takes them in order: how a stream of the host and of the CUDA
 * device enqueues without waiting for what it has to wait for. Made once; enqueueing never allocates. The thread
 * computes in the library's float mode, whatever the thread that made it has set.
 */
#ifndef SHERD_DEVICE_OP_RING_H
#define SHERD_DEVICE_OP_RING_H

#include "device/op.h"

typedef struct sherd__op_ring {
    sherd__stream *stream; /* the owner: names it, and `take` gets it */
    sherd_status (*take)(sherd__stream *stream, const sherd__op *op);
    uint32_t capacity;
    sherd__op *ops;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t work, space;
    uint32_t head, count; /* the operation being taken is counted */
    int32_t idle;         /* 1: the thread sleeps until there is work */
    int32_t producers;    /* threads that wait for space */
    int32_t stop;
    pthread_t thread;
} sherd__op_ring;

/* `ring` lies in the stream; stream->device and stream->name are set. `take` waits at most within the device's limit.
 */
sherd_status sherd__op_ring_start(sherd__op_ring *ring, sherd__stream *stream, uint32_t capacity,
                                  sherd_status (*take)(sherd__stream *, const sherd__op *), sherd_error *err);
/* Takes what is enqueued, then ends the thread. */
void sherd__op_ring_stop(sherd__op_ring *ring);
/* Waits for space within the device's limit; poisons the device where it has been reached. */
sherd_status sherd__op_ring_put(sherd__op_ring *ring, const sherd__op *op);

#endif
