/* SPDX-License-Identifier: MIT */
#ifndef SHERD_DEVICE_CHECK_H
#define SHERD_DEVICE_CHECK_H

#include "device/device.h"

void sherd__check_outside_begin(sherd_device *device);
void sherd__check_outside_end(sherd_device *device);

#endif
