/* SPDX-License-Identifier: MIT */
#include "device/trace.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define WAIT_NAMES 64
#define WAIT_NAME_BYTES 64

struct sherd__trace {
    pthread_mutex_t lock;
    uint32_t capacity;
    uint32_t count;
    uint64_t lost;
    sherd_trace_record *records;
    uint32_t n_names;
    char names[WAIT_NAMES][WAIT_NAME_BYTES];
};

int64_t sherd__now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

sherd_status sherd__trace_create(sherd_device *device, uint32_t capacity, struct sherd__trace **out, sherd_error *err)
{
    *out = NULL;
    if (capacity == 0)
        return SHERD_OK;
    struct sherd__trace *trace = sherd__device_metadata_alloc(device, 1, sizeof *trace);
    if (!trace)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a trace");
    trace->capacity = capacity;
    trace->records = sherd__device_metadata_alloc(device, capacity, sizeof *trace->records);
    if (!trace->records) {
        sherd__device_metadata_free(device, trace, 1, sizeof *trace);
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a trace of %u operations; lower trace_capacity", capacity);
    }
    pthread_mutex_init(&trace->lock, NULL);
    *out = trace;
    return SHERD_OK;
}

void sherd__trace_destroy(sherd_device *device, struct sherd__trace *trace)
{
    if (!trace)
        return;
    pthread_mutex_destroy(&trace->lock);
    sherd__device_metadata_free(device, trace->records, trace->capacity, sizeof *trace->records);
    sherd__device_metadata_free(device, trace, 1, sizeof *trace);
}

static void add_locked(struct sherd__trace *trace, const char *name, const char *stream, sherd__tag tag,
                       int64_t begin_ns, int64_t end_ns)
{
    if (trace->count == trace->capacity) {
        trace->lost++;
        return;
    }
    trace->records[trace->count++] = (sherd_trace_record){.name = name ? name : "", .stream = stream,
                                                          .bucket = tag.bucket, .step = tag.step,
                                                          .begin_ns = begin_ns, .end_ns = end_ns};
}

void sherd__trace_add(sherd_device *device, const char *stream, sherd__tag tag, int64_t begin_ns, int64_t end_ns)
{
    struct sherd__trace *trace = device->trace;
    if (!trace)
        return;
    pthread_mutex_lock(&trace->lock);
    add_locked(trace, tag.name, stream, tag, begin_ns, end_ns);
    pthread_mutex_unlock(&trace->lock);
}

/* Names never move or change once made, so records may keep pointers to them for the device's life. */
static const char *wait_name(struct sherd__trace *trace, const char *site)
{
    char text[WAIT_NAME_BYTES];
    snprintf(text, sizeof text, "wait:%s", site ? site : "");
    for (uint32_t i = 0; i < trace->n_names; i++)
        if (strcmp(trace->names[i], text) == 0)
            return trace->names[i];
    if (trace->n_names == WAIT_NAMES)
        return "wait:other";
    memcpy(trace->names[trace->n_names], text, sizeof text);
    return trace->names[trace->n_names++];
}

void sherd__trace_wait(sherd_device *device, const char *stream, const char *site, sherd__tag tag, int64_t begin_ns,
                       int64_t end_ns)
{
    struct sherd__trace *trace = device->trace;
    if (!trace || end_ns <= begin_ns)
        return;
    pthread_mutex_lock(&trace->lock);
    add_locked(trace, wait_name(trace, site), stream, tag, begin_ns, end_ns);
    pthread_mutex_unlock(&trace->lock);
}

size_t sherd_device_trace(sherd_device *device, sherd_trace_record *out, size_t capacity, uint64_t *lost)
{
    struct sherd__trace *trace = device->trace;
    if (lost)
        *lost = 0;
    if (!trace)
        return 0;
    pthread_mutex_lock(&trace->lock);
    size_t n = trace->count < capacity ? trace->count : capacity;
    if (n > 0)
        memcpy(out, trace->records, n * sizeof *out);
    trace->count -= (uint32_t)n;
    if (n > 0 && trace->count > 0)
        memmove(trace->records, trace->records + n, trace->count * sizeof *out);
    if (lost) {
        *lost = trace->lost;
        trace->lost = 0;
    }
    pthread_mutex_unlock(&trace->lock);
    return n;
}
