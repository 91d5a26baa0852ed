/* SPDX-License-Identifier: MIT
 *
 * Short words of the CUDA device's tests: a device on the stub. Include after cmocka.h.
 */
#ifndef SHERD_TESTS_DEVICE_CUDA_WORLD_H
#define SHERD_TESTS_DEVICE_CUDA_WORLD_H

#include <unistd.h>

#include "device/cuda.h"
#include "sherd/sherd_cuda.h"
#include "tests/device/world.h"
#include "tests/support/cuda_stub/stub.h"

static const sherd__tag tag = {"test", 3, 1};

static inline sherd_device *make_cuda_device(uint32_t trace_capacity)
{
    sherd_cuda_options options;
    sherd_device *device = NULL;
    sherd_error err;
    sherd_cuda_options_init(&options, sizeof options);
    options.device.trace_capacity = trace_capacity;
    if (sherd_device_create_cuda(&options, &device, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return device;
}

/* One GPU of the stub, a device on it and a stream. */
static inline void cuda_stream_begin(sherd_device **device, sherd__stream **stream)
{
    cuda_stub_reset(1, 0);
    *device = make_cuda_device(0);
    *stream = make_stream(*device, "test", 64);
}

static inline void cuda_stream_end(sherd_device *device, sherd__stream *stream)
{
    device->ops->stream_destroy(stream);
    sherd_device_destroy(device);
}

static inline void *device_block(sherd_device *device, uint64_t bytes)
{
    void *block = NULL;
    OK(sherd_device_alloc(device, bytes, SHERD_CAT_WORKSPACE, &block, NULL));
    return block;
}

/* Streams of the stub end a moment after they were destroyed. */
static inline void assert_nothing_left(void)
{
    for (int i = 0; i < 2000 && cuda_stub_alive() > 0; i++)
        usleep(1000);
    assert_int_equal(cuda_stub_alive(), 0);
}

#endif
