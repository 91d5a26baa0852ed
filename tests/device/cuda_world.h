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
