/* SPDX-License-Identifier: MIT
 *
 * Short words of the device tests. Include after cmocka.h.
 */
#ifndef SHERD_TESTS_DEVICE_WORLD_H
#define SHERD_TESTS_DEVICE_WORLD_H

#include "device/device.h"

#define OK(call) assert_int_equal((call), SHERD_OK)

static inline sherd_device *make_device(int32_t threads, uint32_t trace_capacity)
{
    sherd_device_options options;
    sherd_device *device = NULL;
    sherd_error err;
    sherd_device_options_init(&options, sizeof options);
    options.threads = threads;
    options.trace_capacity = trace_capacity;
    if (sherd_device_create(&options, &device, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return device;
}

static inline sherd__stream *make_stream(sherd_device *device, const char *name, uint32_t capacity)
{
    sherd__stream *stream = NULL;
    sherd_error err;
    if (device->ops->stream_create(device, name, capacity, &stream, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return stream;
}

static inline sherd__event *make_event(sherd_device *device)
{
    sherd__event *event = NULL;
    OK(device->ops->event_create(device, &event, NULL));
    return event;
}

/* Waits for everything enqueued on the stream so far. */
static inline sherd_status sync_stream(sherd_device *device, sherd__stream *stream)
{
    sherd__event *event = make_event(device);
    sherd_status status = device->ops->event_record(stream, event);
    if (status == SHERD_OK)
        status = device->ops->event_sync(device, event, "sync_stream", NULL);
    device->ops->event_destroy(event);
    return status;
}

#endif
