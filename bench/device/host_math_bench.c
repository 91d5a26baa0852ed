/* SPDX-License-Identifier: MIT
 *
 * host_math_bench [--mb N] [--reps N] [--threads N] [--variant NAME]
 *
 * The host's update and tree sum against a pure streaming pattern with the same loads and stores. Kernel and pattern
 * take turns repetition by repetition, after a warm-up; medians, the middle 80 % as spread, and the ratio of the
 * medians are printed. Bytes are those the algorithm must move (what is only written counts once).
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/device/streams.h"
#include "device/host_math.h"

#define MAX_REPS 1000
#define CHUNK 16384

typedef struct bench {
    const sherd__host_math *math;
    sherd__team *team;
    int64_t elems;
    int reps;
    void *src[4], *dst, *moment[2], *emit;
    sherd__step_scalars scalars;
} bench;

typedef struct work {
    const char *name;
    int update;
    uint32_t n_src;
    sherd_dtype dtype; /* of the sources, or of the sum */
    int add, norm, emit;
    int halves; /* the master is the emitted bf16 and 16 bits beside it; the pattern has one fp32 array for both */
    sherd_optimizer kind;
} work;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double bytes_of(const bench *b, const work *w)
{
    int in = w->dtype == SHERD_BF16 ? 2 : 4;
    int moments = w->kind == SHERD_SGD ? 1 : 2;
    int per = w->update ? in + 8 + 8 * moments + (w->emit ? 2 : 0) : in * (int)w->n_src + 4 + (w->add ? 4 : 0);
    return (double)per * (double)b->elems;
}

static void run_kernel(bench *b, const work *w)
{
    sherd__norm norm;
    sherd__norm_clear(&norm);
    if (w->update) {
        sherd__span span = {0, b->elems, 0, 0};
        sherd__update update = {.kind = w->kind, .scalars = &b->scalars, .sum = b->src[0], .sum_dtype = w->dtype,
                                .master = b->dst, .moment = {b->moment[0], w->kind == SHERD_SGD ? NULL : b->moment[1]},
                                .emit = w->emit ? b->emit : NULL, .spans = &span, .n_spans = 1};
        if (w->halves) {
            update.master = NULL;
            update.emit = b->emit;
            update.remainder = b->src[1];
        }
        b->math->update(b->team, &update);
    } else {
        sherd__tree_sum sum = {.src = (const void *const *)b->src, .n_src = w->n_src, .src_dtype = w->dtype,
                               .dst_dtype = SHERD_FP32, .dst = b->dst, .elems = b->elems, .add = w->add,
                               .norm = w->norm ? &norm : NULL};
        b->math->tree_sum(b->team, &sum);
    }
}

typedef struct pattern_job {
    bench *b;
    const work *w;
} pattern_job;

static void pattern_chunk(void *arg, int64_t chunk, int32_t worker)
{
    pattern_job *job = arg;
    bench *b = job->b;
    const work *w = job->w;
    int64_t begin = chunk * CHUNK, end = begin + CHUNK < b->elems ? begin + CHUNK : b->elems;
    int bytes = w->dtype == SHERD_BF16 ? 2 : 4;
    (void)worker;
    if (w->update) {
        stream_update(b->src[0], bytes, b->dst, b->moment[0], b->moment[1], w->emit ? b->emit : NULL, begin, end);
    } else {
        stream_sum(b->dst, (const void *const *)b->src, w->n_src, bytes, w->add, begin, end);
    }
}

static void run_pattern(bench *b, const work *w)
{
    pattern_job job = {b, w};
    sherd__team_run(b->team, (b->elems + CHUNK - 1) / CHUNK, pattern_chunk, &job);
}

/* Ordinary values everywhere: subnormal results take the processor a hundred times longer. */
static void reset(bench *b, sherd_dtype dtype)
{
    void *arrays[] = {b->dst, b->moment[0], b->moment[1], b->src[0], b->src[1], b->src[2], b->src[3]};
    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; ++a) {
        for (int64_t i = 0; i < b->elems; ++i) {
            float value = 0.01f + (float)(i % 97) * 0.001f;
            if (a >= 3 && dtype == SHERD_BF16) {
                ((uint16_t *)arrays[a])[i] = sherd__bf16_of_f32(value);
            } else {
                ((float *)arrays[a])[i] = value;
            }
        }
    }
    for (int64_t i = 0; i < b->elems; ++i) {
        ((uint16_t *)b->emit)[i] = sherd__bf16_of_f32(0.01f + (float)(i % 97) * 0.001f);
    }
}

static void measure(bench *b, const work *w)
{
    static double kernel[MAX_REPS], pattern[MAX_REPS];
    double bytes = bytes_of(b, w);
    int n = b->reps;
    reset(b, w->dtype);
    for (int r = -2; r < n; ++r) {
        int64_t t0 = now_ns(), t1, t2;
        run_kernel(b, w);
        t1 = now_ns();
        run_pattern(b, w);
        t2 = now_ns();
        if (r >= 0) {
            kernel[r] = bytes / (double)(t1 - t0);
            pattern[r] = bytes / (double)(t2 - t1);
        }
    }
    qsort(kernel, (size_t)n, sizeof *kernel, by_value);
    qsort(pattern, (size_t)n, sizeof *pattern, by_value);
    printf("%-38s %7.2f (%6.2f to %6.2f) %7.2f (%6.2f to %6.2f)   %5.1f %%\n", w->name, kernel[n / 2], kernel[n / 10],
           kernel[n - 1 - n / 10], pattern[n / 2], pattern[n / 10], pattern[n - 1 - n / 10],
           100.0 * kernel[n / 2] / pattern[n / 2]);
}

static const work works[] = {
    {.name = "tree sum, 2 x bf16", .n_src = 2, .dtype = SHERD_BF16},
    {.name = "tree sum, 2 x bf16, norm", .n_src = 2, .dtype = SHERD_BF16, .norm = 1},
    {.name = "tree sum, 2 x bf16, add, norm", .n_src = 2, .dtype = SHERD_BF16, .add = 1, .norm = 1},
    {.name = "tree sum, 2 x fp32", .n_src = 2, .dtype = SHERD_FP32},
    {.name = "tree sum, 2 x fp32, norm", .n_src = 2, .dtype = SHERD_FP32, .norm = 1},
    {.name = "tree sum, 4 x bf16, norm", .n_src = 4, .dtype = SHERD_BF16, .norm = 1},
    {.name = "tree sum, 1 x bf16, add", .n_src = 1, .dtype = SHERD_BF16, .add = 1},
    {.name = "update AdamW, fp32 sum, bf16 emit", .update = 1, .dtype = SHERD_FP32, .emit = 1, .kind = SHERD_ADAMW},
    {.name = "update AdamW, bf16 sum, bf16 emit", .update = 1, .dtype = SHERD_BF16, .emit = 1, .kind = SHERD_ADAMW},
    {.name = "update AdamW, fp32 sum", .update = 1, .dtype = SHERD_FP32, .kind = SHERD_ADAMW},
    {.name = "update AdamW, fp32 sum, halves", .update = 1, .dtype = SHERD_FP32, .halves = 1, .kind = SHERD_ADAMW},
};

static int make(bench *b, int64_t mb, int32_t threads)
{
    void **arrays[] = {&b->src[0], &b->src[1], &b->src[2], &b->src[3], &b->dst, &b->moment[0], &b->moment[1], &b->emit};
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    sherd__step_rules rules = {.kind = SHERD_ADAMW, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .bias_correction = 1,
                               .base_lr = 1e-3, .divisor = 2.0, .n_groups = 1, .groups = {{1e-3, 0.01}}};
    sherd__step_state state;
    double lr = 1e-3;
    b->elems = mb * 1024 * 1024 / 4;
    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; ++a) {
        if (posix_memalign(arrays[a], 4096, (size_t)b->elems * 4) != 0) {
            return 0;
        }
        memset(*arrays[a], 0, (size_t)b->elems * 4);
    }
    vote[SHERD__VOTE_SUMS] = SHERD__NO_BAD_BLOCK;
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    sherd__step_state_init(&state);
    sherd__step_prepare(&rules, vote, &state, &b->scalars);
    return sherd__team_create(&sherd__default_allocator, threads, &b->team, NULL) == SHERD_OK;
}

static const sherd__host_math *variant_named(const char *name)
{
    const sherd__host_math *all[8];
    uint32_t n = sherd__host_math_all(all, 8);
    for (uint32_t v = 0; v < n && name; ++v) {
        if (strcmp(all[v]->name, name) == 0) {
            return all[v];
        }
    }
    return name ? NULL : all[0];
}

int main(int argc, char **argv)
{
    static bench b;
    int64_t mb = 64;
    int32_t threads = 1;
    const char *variant = NULL;
    b.reps = 21;
    for (int i = 1; i + 1 < argc; i += 2) {
        mb = strcmp(argv[i], "--mb") == 0 ? atoll(argv[i + 1]) : mb;
        b.reps = strcmp(argv[i], "--reps") == 0 ? atoi(argv[i + 1]) : b.reps;
        threads = strcmp(argv[i], "--threads") == 0 ? atoi(argv[i + 1]) : threads;
        variant = strcmp(argv[i], "--variant") == 0 ? argv[i + 1] : variant;
    }
    b.math = variant_named(variant);
    if (!b.math || b.reps < 1 || b.reps > MAX_REPS || mb < 1 || threads < 1 || !make(&b, mb, threads)) {
        fprintf(stderr, "usage: host_math_bench [--mb N] [--reps 1..%d] [--threads N] [--variant NAME]\n", MAX_REPS);
        return 2;
    }
    printf("%s kernels, %d threads, fp32 arrays of %lld MB, %d repetitions; pattern: %s\n", b.math->name, (int)threads,
           (long long)mb, b.reps, stream_name());
    printf("%-38s %7s (middle 80 %%)     %7s (middle 80 %%)     %s\n", "GB/s (1e9 bytes)", "kernel", "pattern",
           "ratio");
    for (size_t w = 0; w < sizeof works / sizeof *works; ++w) {
        measure(&b, &works[w]);
    }
    return 0;
}
