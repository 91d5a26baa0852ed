/* SPDX-License-Identifier: MIT */
#include "base/text.h"

#include <stdarg.h>
#include <stdio.h>

sherd__text sherd__text_in(char *buffer, size_t capacity)
{
    sherd__text text = {buffer, buffer ? capacity : 0, 0};
    if (text.capacity > 0)
        buffer[0] = '\0';
    return text;
}

void sherd__text_put(sherd__text *to, const char *format, ...)
{
    va_list args;
    size_t room = to->length < to->capacity ? to->capacity - to->length : 0;
    va_start(args, format);
    int wrote = vsnprintf(room ? to->buffer + to->length : NULL, room, format, args);
    va_end(args);
    to->length += wrote > 0 ? (size_t)wrote : 0;
}
