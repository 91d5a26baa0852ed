/* SPDX-License-Identifier: MIT */
#ifndef SHERD_BASE_LOG_H
#define SHERD_BASE_LOG_H

#include "base/status.h"

/* Formats one line for the callback. `log` and log->fn may be NULL. Never called inside a step except for what is logged once. */
void sherd__log(const sherd_log *log, sherd_log_level level, const char *format, ...) SHERD__PRINTF(3, 4);

#endif
