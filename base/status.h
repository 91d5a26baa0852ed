/* SPDX-License-Identifier: MIT
 *
 * A status and a sentence. Who first detects a fault writes the sentence; everybody else passes it on.
 */
#ifndef SHERD_BASE_STATUS_H
#define SHERD_BASE_STATUS_H

#include "sherd/sherd.h"

#if defined(__GNUC__)
#define SHERD__PRINTF(format_at, args_at) __attribute__((format(printf, format_at, args_at)))
#else
#define SHERD__PRINTF(format_at, args_at)
#endif

/* Fills *err (may be NULL) and returns `status`. rank becomes -1. A sentence too long is cut at the end. */
sherd_status sherd__fail(sherd_error *err, sherd_status status, const char *format, ...) SHERD__PRINTF(3, 4);
/* The same with the rank that broke. */
sherd_status sherd__fail_rank(sherd_error *err, sherd_status status, int32_t rank, const char *format, ...)
    SHERD__PRINTF(4, 5);
/* Copies a record; returns its status. `to` may be NULL. */
sherd_status sherd__pass(sherd_error *to, const sherd_error *from);

#endif
