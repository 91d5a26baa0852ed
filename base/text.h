/* SPDX-License-Identifier: MIT
 *
 * Text for people, written into a caller's buffer that may be too small: it counts what the whole text has, as snprintf
 * does, so that a caller can ask for the length first.
 */
#ifndef SHERD_BASE_TEXT_H
#define SHERD_BASE_TEXT_H

#include "base/status.h"

typedef struct sherd__text {
    char *buffer;            /* may be NULL with capacity 0 */
    size_t capacity, length; /* length: of the whole text, without its NUL */
} sherd__text;

/* An empty text in `buffer`, which is made "". */
sherd__text sherd__text_in(char *buffer, size_t capacity);
void sherd__text_put(sherd__text *to, const char *format, ...) SHERD__PRINTF(2, 3);

#endif
