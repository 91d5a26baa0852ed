/* SPDX-License-Identifier: MIT */
#include "device/check.h"

void sherd__check_outside_begin(sherd_device *device) { (void)device; }
void sherd__check_outside_end(sherd_device *device) { (void)device; }

sherd_status sherd__device_create_check(const sherd_device_options *options, sherd_device **out, sherd_error *err)
{
    (void)options;
    (void)out;
    return sherd__fail(err, SHERD_EUNSUPPORTED, "device 'check' is not built yet");
}
