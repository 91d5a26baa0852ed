/* SPDX-License-Identifier: MIT
 *
 * The host device's own types. A stream is a worker thread with a ring of operations (op_ring.h); `compute` has no
 * thread: its operations run in the calling thread. Waits sleep as wait.h says.
 */
#ifndef SHERD_DEVICE_HOST_H
#define SHERD_DEVICE_HOST_H

#include "device/op_ring.h"
#include "device/trace.h"
#include "device/wait.h"

typedef struct sherd__host_device {
    sherd_device base;
    const sherd__host_math *math;
    sherd__team *team;
    int32_t spin; /* 1: there are cores to spare for a short spin before sleeping */
    struct sherd__host_event *events, *free_events; /* all ever made; those that may be handed out again */
} sherd__host_device;

/* Lives as long as the device and is handed out again after event_destroy: who records an event still touches it for a
 * moment after the waiter has seen the record and gone on, perhaps to destroy it. The counts go on from life to life.
 */
typedef struct sherd__host_event {
    sherd_device *device;
    struct sherd__host_event *next, *next_free;
    _Atomic uint64_t recorded; /* records enqueued */
    sherd__count reached;      /* records executed */
    _Atomic int64_t time_ns;
} sherd__host_event;

typedef struct sherd__host_stream {
    sherd__stream base;
    int32_t has_ring;
    sherd__op_ring ring;
} sherd__host_stream;

sherd_status sherd__host_stream_create(sherd_device *device, const char *name, uint32_t capacity, sherd__stream **out,
                                       sherd_error *err);
/* The compute stream: no ring, no thread. */
sherd_status sherd__host_compute_create(sherd_device *device, sherd__stream **out, sherd_error *err);
void sherd__host_stream_destroy(sherd__stream *stream);

void sherd__host_event_reach(sherd__host_event *event, uint64_t number);
/* Waits in the calling thread; a wait that reaches its limit poisons the device. `tag` names the wait in trace and
 * sentence. */
sherd_status sherd__host_event_await(sherd__host_event *event, uint64_t number, const char *stream, const char *site);
sherd_status sherd__host_flags_await(sherd__host_device *device, const char *stream, sherd__tag tag,
                                     const sherd__await *await);

#endif
