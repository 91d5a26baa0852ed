/* SPDX-License-Identifier: MIT
 *
 * cuda_update_bench [--elems N] [--reps N]
 *
 * The GPU's update and tree sum against the bandwidth of a copy within the GPU's memory. Everything takes turns, round
 * by round, after two rounds of warm-up; times are the GPU's own, between events around one operation. Bytes are
 * counted once where the algorithm must touch them: a copy reads and writes each byte, an update of AdamW reads the
 * sum, the master weight and two moments and writes the latter three and the bf16 weight. Copies over the bus, from and
 * to pinned memory, are of at most 256 MiB and count each byte once. One JSON object a line: medians, the middle 80 %,
 * and the ratio of bandwidths to the copy's.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/scalars.h"
#include "device/device.h"
#include "sherd/sherd_cuda.h"

enum { MAX_REPS = 1000, WARM_UP = 2, CHUNK = 1 << 20, LEAVES = 4, HOST_ELEMS = 1 << 26 };

typedef enum work_kind { COPY, UPDATE, SUM, LOWER, RAISE } work_kind;

typedef struct work {
    const char *name;
    work_kind kind;
    sherd_optimizer optimizer;
    sherd_dtype dtype; /* of the sum, or of the leaves */
    uint32_t n_src;
    int emit, norm;
} work;

/* The first is what the others are compared with. */
static const work works[] = {
    {.name = "copy within the GPU", .kind = COPY},
    {.name = "update adamw, fp32 sum, bf16 out",
     .kind = UPDATE,
     .optimizer = SHERD_ADAMW,
     .dtype = SHERD_FP32,
     .emit = 1},
    {.name = "update adamw, bf16 sum, bf16 out",
     .kind = UPDATE,
     .optimizer = SHERD_ADAMW,
     .dtype = SHERD_BF16,
     .emit = 1},
    {.name = "update adamw, fp32 sum", .kind = UPDATE, .optimizer = SHERD_ADAMW, .dtype = SHERD_FP32},
    {.name = "update sgd, fp32 sum, bf16 out", .kind = UPDATE, .optimizer = SHERD_SGD, .dtype = SHERD_FP32, .emit = 1},
    {.name = "tree sum, 1 x bf16, norm", .kind = SUM, .dtype = SHERD_BF16, .n_src = 1, .norm = 1},
    {.name = "tree sum, 2 x bf16, norm", .kind = SUM, .dtype = SHERD_BF16, .n_src = 2, .norm = 1},
    {.name = "tree sum, 4 x bf16, norm", .kind = SUM, .dtype = SHERD_BF16, .n_src = 4, .norm = 1},
    {.name = "tree sum, 4 x bf16", .kind = SUM, .dtype = SHERD_BF16, .n_src = 4},
    {.name = "tree sum, 2 x fp32, norm", .kind = SUM, .dtype = SHERD_FP32, .n_src = 2, .norm = 1},
    {.name = "tree sum, 4 x fp32, norm", .kind = SUM, .dtype = SHERD_FP32, .n_src = 4, .norm = 1},
    {.name = "copy to the host", .kind = LOWER},
    {.name = "copy from the host", .kind = RAISE},
};
enum { WORKS = sizeof works / sizeof works[0] };

typedef struct bench {
    sherd_device *device;
    sherd__stream *stream;
    sherd__event *begin, *end;
    int64_t elems;
    int reps;
    void *sum, *master, *moment[2], *emit, *scalars, *norm;
    void *pinned;             /* main memory */
    const void *leaf[LEAVES]; /* halves of `sum` and of the first moment */
    sherd__span span;
    double ns[WORKS][MAX_REPS];
    sherd_error err;
} bench;

static int moments(const work *w)
{
    return w->optimizer == SHERD_SGD ? 1 : 2;
}

static int over_the_bus(const work *w)
{
    return w->kind == LOWER || w->kind == RAISE;
}

static int64_t host_elems(const bench *b)
{
    return b->elems < HOST_ELEMS ? b->elems : HOST_ELEMS;
}

static int64_t elems_of(const bench *b, const work *w)
{
    if (over_the_bus(w)) {
        return host_elems(b);
    }
    return w->kind == SUM ? b->elems / 2 : b->elems;
}

static double bytes_of(const bench *b, const work *w)
{
    int in = w->dtype == SHERD_BF16 ? 2 : 4, per = 8;

    if (w->kind == UPDATE) {
        per = in + 8 + 8 * moments(w) + (w->emit ? 2 : 0);
    } else if (w->kind == SUM) {
        per = in * (int)w->n_src + 4;
    } else if (over_the_bus(w)) {
        per = 4;
    }
    return (double)per * (double)elems_of(b, w);
}

static sherd_status enqueue(bench *b, const work *w)
{
    const sherd__device_ops *ops = b->device->ops;
    const sherd__tag tag = {w->name, -1, 0};
    sherd__update update = {.kind = w->optimizer,
                            .scalars = b->scalars,
                            .sum = b->sum,
                            .sum_dtype = w->dtype,
                            .master = b->master,
                            .moment = {b->moment[0], moments(w) > 1 ? b->moment[1] : NULL},
                            .emit = w->emit ? b->emit : NULL,
                            .spans = &b->span,
                            .n_spans = 1};
    sherd__tree_sum sum = {.src = b->leaf,
                           .n_src = w->n_src,
                           .src_dtype = w->dtype,
                           .dst_dtype = SHERD_FP32,
                           .dst = b->master,
                           .elems = elems_of(b, w),
                           .norm = w->norm ? b->norm : NULL};

    switch (w->kind) {
    case COPY:
        return ops->copy(b->stream, tag, b->moment[0], b->sum, (uint64_t)b->elems * 4);
    case UPDATE:
        return ops->update(b->stream, tag, &update);
    case SUM:
        return ops->tree_sum(b->stream, tag, &sum);
    case LOWER:
        return ops->copy(b->stream, tag, b->pinned, b->sum, (uint64_t)elems_of(b, w) * 4);
    case RAISE:
        return ops->copy(b->stream, tag, b->sum, b->pinned, (uint64_t)elems_of(b, w) * 4);
    }
    return SHERD_EINVAL;
}

/* Ordinary values: every array starts with the same small ones. */
static sherd_status fill(bench *b, void *array, uint64_t bytes, const void *pattern, uint64_t pattern_bytes)
{
    const sherd__tag tag = {"fill", -1, 0};
    sherd_status status = SHERD_OK;

    for (uint64_t at = 0; at < bytes && status == SHERD_OK; at += pattern_bytes) {
        uint64_t left = bytes - at;

        status = b->device->ops->copy(b->stream, tag, (char *)array + at, pattern,
                                      left < pattern_bytes ? left : pattern_bytes);
    }
    return status;
}

static sherd_status drain(bench *b)
{
    sherd_status status = b->device->ops->event_record(b->stream, b->end);

    return status == SHERD_OK ? b->device->ops->event_sync(b->device, b->end, "bench", &b->err) : status;
}

static sherd_status reset(bench *b)
{
    static uint32_t pattern[CHUNK];
    void *const arrays[] = {b->sum, b->master, b->moment[0], b->moment[1]};
    sherd_status status = SHERD_OK;

    for (int64_t i = 0; i < CHUNK; i++) { /* finite and positive, read as fp32 and as pairs of bf16 */
        pattern[i] = 0x3C233C23u + (uint32_t)(i % 97) * 0x00010001u;
    }
    for (size_t a = 0; a < sizeof arrays / sizeof arrays[0] && status == SHERD_OK; a++) {
        status = fill(b, arrays[a], (uint64_t)b->elems * 4, pattern, sizeof pattern);
    }
    return status == SHERD_OK ? drain(b) : status;
}

static sherd_status measure_one(bench *b, size_t which, int round)
{
    const sherd__device_ops *ops = b->device->ops;
    sherd_status status = ops->event_record(b->stream, b->begin);

    if (status == SHERD_OK) {
        status = enqueue(b, &works[which]);
    }
    if (status == SHERD_OK) {
        status = drain(b);
    }
    if (status == SHERD_OK && round >= 0) {
        b->ns[which][round] = (double)(ops->event_time_ns(b->end) - ops->event_time_ns(b->begin));
    }
    return status;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void report(bench *b)
{
    double copy = 0;

    for (size_t w = 0; w < WORKS; w++) {
        double *ns = b->ns[w], bytes = bytes_of(b, &works[w]), rate;

        qsort(ns, (size_t)b->reps, sizeof *ns, by_value);
        rate = bytes / ns[b->reps / 2];
        copy = w == 0 ? rate : copy;
        printf("{\"name\": \"%s\", \"elems\": %" PRId64
               ", \"bytes\": %.0f, \"ms\": %.6g, \"ms_low\": %.6g, \"ms_high\": "
               "%.6g, \"gb_per_s\": %.6g, \"ratio_to_copy\": %.6g, \"reps\": %d, \"device\": \"%s\"}\n",
               works[w].name, elems_of(b, &works[w]), bytes, ns[b->reps / 2] / 1e6, ns[b->reps / 10] / 1e6,
               ns[b->reps - 1 - b->reps / 10] / 1e6, rate, rate / copy, b->reps, sherd_device_describe(b->device));
    }
}

static sherd_status put_scalars(bench *b)
{
    const sherd__tag tag = {"scalars", -1, 0};
    sherd__step_scalars scalars;
    sherd_status status;

    bench_scalars(SHERD_ADAMW, &scalars);
    status = b->device->ops->copy(b->stream, tag, b->scalars, &scalars, sizeof scalars);
    return status == SHERD_OK ? drain(b) : status;
}

static sherd_status open_bench(bench *b)
{
    struct {
        void **place;
        uint64_t bytes;
    } const blocks[] = {
        {&b->sum, (uint64_t)b->elems * 4},       {&b->master, (uint64_t)b->elems * 4},
        {&b->moment[0], (uint64_t)b->elems * 4}, {&b->moment[1], (uint64_t)b->elems * 4},
        {&b->emit, (uint64_t)b->elems * 2},      {&b->scalars, sizeof(sherd__step_scalars)},
        {&b->norm, sizeof(sherd__norm)},
    };
    sherd_status status = sherd_device_create_cuda(NULL, &b->device, &b->err);

    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0] && status == SHERD_OK; i++) {
        status = sherd_device_alloc(b->device, blocks[i].bytes, SHERD_CAT_WORKSPACE, blocks[i].place, &b->err);
    }
    if (status == SHERD_OK) {
        status = sherd__device_alloc(b->device, SHERD_TIER_HOST, SHERD_CAT_WORKSPACE, (uint64_t)host_elems(b) * 4,
                                     &b->pinned, &b->err);
    }
    if (status == SHERD_OK) {
        b->stream = b->device->compute;
        status = b->device->ops->event_create(b->device, &b->begin, &b->err);
    }
    if (status == SHERD_OK) {
        status = b->device->ops->event_create(b->device, &b->end, &b->err);
    }
    for (int i = 0; i < LEAVES && status == SHERD_OK; i++) {
        char *array = i < LEAVES / 2 ? b->sum : b->moment[0];

        b->leaf[i] = array + (uint64_t)(i % 2) * (uint64_t)b->elems * 2;
    }
    b->span = (sherd__span){0, b->elems, 0, 0};
    return status;
}

static void close_bench(bench *b)
{
    void *const blocks[] = {b->pinned, b->norm, b->scalars, b->emit, b->moment[1], b->moment[0], b->master, b->sum};

    if (b->device == NULL) {
        return;
    }
    if (b->end != NULL) {
        b->device->ops->event_destroy(b->end);
    }
    if (b->begin != NULL) {
        b->device->ops->event_destroy(b->begin);
    }
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        sherd_device_free(b->device, blocks[i]);
    }
    sherd_device_destroy(b->device);
}

static sherd_status run(bench *b)
{
    sherd_status status = open_bench(b);

    if (status == SHERD_OK) {
        status = put_scalars(b);
    }
    for (int round = -WARM_UP; round < b->reps && status == SHERD_OK; round++) {
        if (round % 8 == 0 || round == -WARM_UP) { /* sums overwrite the weights, and copies the moments */
            status = reset(b);
        }
        for (size_t w = 0; w < WORKS && status == SHERD_OK; w++) {
            status = measure_one(b, w, round);
        }
    }
    if (status == SHERD_OK) {
        report(b);
    } else if (b->err.text[0] == '\0' && b->device != NULL) {
        sherd__device_error(b->device, &b->err);
    }
    close_bench(b);
    return status;
}

int main(int argc, char **argv)
{
    static bench b = {.elems = INT64_C(1) << 30, .reps = 20};

    for (int i = 1; i < argc; i += 2) {
        int64_t value = i + 1 < argc ? strtoll(argv[i + 1], NULL, 10) : 0;

        if (strcmp(argv[i], "--elems") == 0 && value >= 512) {
            b.elems = value / 512 * 512;
        } else if (strcmp(argv[i], "--reps") == 0 && value >= 1 && value <= MAX_REPS) {
            b.reps = (int)value;
        } else {
            fprintf(stderr, "usage: %s [--elems N, at least 512] [--reps N, at most %d]\n", argv[0], MAX_REPS);
            return 2;
        }
    }
    if (run(&b) != SHERD_OK) {
        fprintf(stderr, "cuda_update_bench: %s\n", b.err.text);
        return 1;
    }
    return 0;
}
