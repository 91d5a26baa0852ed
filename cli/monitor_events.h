/* SPDX-License-Identifier: MIT
 *
 * TensorBoard's event files: TFRecords (length, checksum, bytes, checksum) of Event messages in protobuf's wire format.
 */
#ifndef SHERD_CLI_MONITOR_EVENTS_H
#define SHERD_CLI_MONITOR_EVENTS_H

#include <stdint.h>
#include <stdio.h>

typedef struct cli_scalar {
    const char *tag;
    double value; /* written as a float */
} cli_scalar;

/* CRC-32C (Castagnoli), as such records have it; `crc` 0 to begin. */
uint32_t cli_crc32c(uint32_t crc, const void *data, size_t bytes);
/* The first record of a file, and one that makes readers forget what earlier files say from `step` on. 0: not written.
 */
int cli_events_begin(FILE *out, double wall_time, int64_t step);
/* One step's scalars, at most 16, of tags of at most 64 bytes. 0: not written. */
int cli_events_scalars(FILE *out, double wall_time, int64_t step, const cli_scalar *scalars, size_t n);

#endif
