/* SPDX-License-Identifier: MIT
 *
 * The device's records as a trace that chrome://tracing and Perfetto open.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/results.h"

enum { RECORDS = 1 << 16 };

static void write_records(FILE *out, const sherd_trace_record *records, size_t n)
{
    fputs("{\"traceEvents\": [", out);
    for (size_t i = 0; i < n; i++) {
        const sherd_trace_record *r = &records[i];

        fprintf(out,
                "%s\n{\"name\": \"%s\", \"ph\": \"X\", \"pid\": 0, \"tid\": \"%s\", \"ts\": %.3f, \"dur\": %.3f, "
                "\"args\": {\"bucket\": %d, \"step\": %lld}}",
                i > 0 ? "," : "", r->name, r->stream, (double)r->begin_ns / 1e3,
                (double)(r->end_ns - r->begin_ns) / 1e3, (int)r->bucket, (long long)r->step);
    }
    fputs("\n]}\n", out);
}

sherd_status cli_write_trace(sherd_device *device, const char *path, sherd_error *err)
{
    sherd_trace_record *records = malloc(RECORDS * sizeof *records);
    FILE *out = fopen(path, "w");
    uint64_t lost = 0;
    sherd_status status = SHERD_OK;
    int failed = out == NULL;

    if (!failed && records != NULL) {
        write_records(out, records, sherd_device_trace(device, records, RECORDS, &lost));
    }
    if (out != NULL) {
        failed = ferror(out);
        failed |= fclose(out) != 0;
    }
    if (failed || records == NULL) {
        status = cli_fail(err, SHERD_EIO, "%s: the trace cannot be written: %s", path, strerror(errno));
    } else if (lost > 0) {
        cli_message(-1, "warning: the trace has room for %d records; %llu later ones are missing", (int)RECORDS,
                    (unsigned long long)lost);
    }
    free(records);
    return status;
}
