/* SPDX-License-Identifier: MIT
 *
 * Checking devices for tests. Include after cmocka.h.
 */
#ifndef SHERD_TESTS_DEVICE_CHECK_WORLD_H
#define SHERD_TESTS_DEVICE_CHECK_WORLD_H

#include "device/check.h"
#include "tests/device/world.h"

static inline sherd_checker *make_checker(int32_t ranks, uint64_t seed)
{
    sherd_checker *checker = NULL;
    OK(sherd_checker_create(ranks, seed, &checker, NULL));
    return checker;
}

static inline sherd_device *make_check_device(sherd_checker *checker, int32_t rank)
{
    sherd_device_options options;
    sherd_device *device = NULL;
    sherd_error err;
    sherd_device_options_init(&options, sizeof options);
    options.kind = SHERD_DEVICE_CHECK;
    options.checker = checker;
    options.rank = rank;
    if (sherd_device_create(&options, &device, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return device;
}

#endif
