/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

void sherd__log(const sherd_log *log, sherd_log_level level, const char *format, ...)
{
    char line[1024];
    va_list args;

    if (!log || !log->fn)
        return;
    va_start(args, format);
    if (vsnprintf(line, sizeof line, format, args) < 0)
        line[0] = '\0';
    va_end(args);
    log->fn(log->ctx, level, line);
}
