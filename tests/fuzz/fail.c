/* SPDX-License-Identifier: MIT
 *
 * The command's cli_fail, for its parsers without the command.
 */
#include <stdarg.h>
#include <stdio.h>

#include "cli/cli.h"

sherd_status cli_fail(sherd_error *err, sherd_status status, const char *format, ...)
{
    va_list args;

    err->status = status;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return status;
}
