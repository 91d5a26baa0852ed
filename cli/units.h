/* SPDX-License-Identifier: MIT
 *
 * Numbers with units, as people write and read them.
 */
#ifndef SHERD_CLI_UNITS_H
#define SHERD_CLI_UNITS_H

#include <stddef.h>
#include <stdint.h>

int cli_parse_bytes(const char *text, uint64_t *out);  /* "24GB", "1.5 GiB", "512": 0 if it is none */
int cli_parse_count(const char *text, int64_t *out);   /* "1.3e9", "7B", "512" */
/* "20.9 MiB", the last digit rounded. */
const char *cli_bytes_text(uint64_t bytes, char *buffer, size_t capacity);

#endif
