/* SPDX-License-Identifier: MIT
 *
 * Lines and columns in JSON text, which the JSON library does not keep for values.
 */
#ifndef SHERD_CONFIG_POSITION_H
#define SHERD_CONFIG_POSITION_H

#include <stddef.h>
#include <stdint.h>

typedef struct sherd__position {
    uint32_t line, column; /* from 1; columns count characters of UTF-8, not bytes */
} sherd__position;

/* Where the key at `path` ("zero_optimization.stage") stands. 1 if found. Any bytes are safe. A key that itself
 * holds dots, or is written with escapes, is not found. */
int sherd__position_of_path(const char *text, size_t bytes, const char *path, sherd__position *out);
/* The path of the last key that begins before byte `offset`; "" if there is none. */
void sherd__position_path_at(const char *text, size_t bytes, size_t offset, char *path, size_t capacity);
/* Line and column of a byte. */
sherd__position sherd__position_of_byte(const char *text, size_t bytes, size_t offset);

#endif
