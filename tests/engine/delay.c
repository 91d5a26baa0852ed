/* SPDX-License-Identifier: MIT */
#include "tests/engine/delay.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

static const sherd__comm_ops *real;
static sherd__comm_ops slow;
static struct timespec pause_time;
static _Atomic int done[64]; /* by rank */
static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;

static void pause_stream(void *arg)
{
    _Atomic int *count = arg;
    nanosleep(&pause_time, NULL);
    atomic_fetch_add(count, 1);
}

int delay_done(const sherd_comm *comm)
{
    return atomic_load(&done[comm->rank]);
}

static sherd_status enqueue_pause(sherd_comm *comm, sherd__stream *stream, sherd__tag tag)
{
    tag.name = "delay";
    return comm->device->ops->host_call(stream, tag, pause_stream, &done[comm->rank], NULL, 0);
}

static sherd_status slow_reduce_scatter(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                        const sherd__window *window, uint64_t offset, const sherd__tree_sum *sum,
                                        sherd__ticket *ticket)
{
    sherd_status status = real->reduce_scatter(comm, stream, tag, window, offset, sum, ticket);
    return status == SHERD_OK ? enqueue_pause(comm, stream, tag) : status;
}

static sherd_status slow_all_gather(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                    const sherd__window *window, uint64_t offset, uint64_t slice_bytes,
                                    sherd__ticket *ticket)
{
    sherd_status status = real->all_gather(comm, stream, tag, window, offset, slice_bytes, ticket);
    return status == SHERD_OK && tag.bucket >= 0 ? enqueue_pause(comm, stream, tag) : status;
}

void delay_install(sherd_comm *comm, int64_t delay_ns)
{
    pthread_mutex_lock(&once);
    if (!real) {
        real = comm->ops;
        slow = *comm->ops;
        slow.reduce_scatter = slow_reduce_scatter;
        slow.all_gather = slow_all_gather;
    }
    pause_time = (struct timespec){delay_ns / 1000000000, delay_ns % 1000000000};
    pthread_mutex_unlock(&once);
    atomic_store(&done[comm->rank], 0);
    comm->ops = &slow;
}

void delay_remove(sherd_comm *comm)
{
    if (real)
        comm->ops = real;
}
