/* SPDX-License-Identifier: MIT */
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

static sherd_status stream_submit(sherd__stream *stream, const sherd__op *op)
{
    return sherd__op_ring_put(&((sherd__host_stream *)stream)->ring, op);
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

sherd_status sherd__host_stream_create(sherd_device *device, const char *name, uint32_t capacity, sherd__stream **out,
                                       sherd_error *err)
{
    sherd__host_stream *stream = stream_new(device, name);
    if (!stream)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for stream '%s'", name);
    stream->base.submit = stream_submit;
    sherd_status status = sherd__op_ring_start(&stream->ring, &stream->base, capacity, execute, err);
    if (status != SHERD_OK) {
        sherd__device_metadata_free(device, stream, 1, sizeof *stream);
        return status;
    }
    stream->has_ring = 1;
    *out = &stream->base;
    return SHERD_OK;
}

void sherd__host_stream_destroy(sherd__stream *base)
{
    if (!base)
        return;
    sherd__host_stream *stream = (sherd__host_stream *)base;
    if (stream->has_ring)
        sherd__op_ring_stop(&stream->ring);
    sherd__device_metadata_free(base->device, stream, 1, sizeof *stream);
}
