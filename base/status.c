/* SPDX-License-Identifier: MIT */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

static sherd_status fail_va(sherd_error *err, sherd_status status, int32_t rank, const char *format, va_list args)
{
    if (err) {
        err->status = status;
        err->rank = rank;
        if (vsnprintf(err->text, sizeof err->text, format, args) < 0)
            err->text[0] = '\0';
    }
    return status;
}

sherd_status sherd__fail(sherd_error *err, sherd_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail_va(err, status, -1, format, args);
    va_end(args);
    return status;
}

sherd_status sherd__fail_rank(sherd_error *err, sherd_status status, int32_t rank, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail_va(err, status, rank, format, args);
    va_end(args);
    return status;
}

sherd_status sherd__pass(sherd_error *to, const sherd_error *from)
{
    if (to && to != from)
        *to = *from;
    return from->status;
}
