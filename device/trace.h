/* SPDX-License-Identifier: MIT
 *
 * The trace's storage: one array of records, made with the device. Waits get names of their own ("wait:site") from a
 * small table, since a record's name must outlive it.
 */
#ifndef SHERD_DEVICE_TRACE_H
#define SHERD_DEVICE_TRACE_H

#include "device/device.h"

/* capacity 0: *out is NULL. Booked as metadata of `device`. */
sherd_status sherd__trace_create(sherd_device *device, uint32_t capacity, struct sherd__trace **out, sherd_error *err);
void sherd__trace_destroy(sherd_device *device, struct sherd__trace *trace);
/* A wait named by its site, if it took any time. */
void sherd__trace_wait(sherd_device *device, const char *stream, const char *site, sherd__tag tag, int64_t begin_ns,
                       int64_t end_ns);

#endif
