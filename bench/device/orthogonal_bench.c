/* SPDX-License-Identifier: MIT
 *
 * orthogonal_bench [--rows N] [--cols N] [--steps N] [--threads N] [--reps N] [--variant NAME]
 *
 * Orthogonalising a matrix on the host against the processor's fp32 peak: a loop of independent fma in registers, of
 * the same vector length and on as many threads, in turns with it repetition by repetition, after a warm-up. Medians,
 * the middle 80 % as spread, and the share of the peak are printed. Counted are the operations that the algorithm
 * needs, with symmetric results taken once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "device/host_math.h"

#define MAX_REPS 1000
#define PEAK_LINKS 2000000
#define CHAINS 16

typedef struct bench {
    const sherd__host_math *math;
    sherd__team *team;
    sherd__orthogonal job;
    float *from; /* the matrix is made of this one each time */
    int32_t threads;
    int reps;
} bench;

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Each returns how many operations it has made; `out` keeps the loop from being dropped. */
typedef double (*peak_fn)(float *out);

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double peak_avx512(float *out)
{
    __m512 sum[CHAINS], a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
    for (int c = 0; c < CHAINS; ++c) {
        sum[c] = _mm512_set1_ps((float)c);
    }
    for (long i = 0; i < PEAK_LINKS; ++i) {
#pragma GCC unroll 16
        for (int c = 0; c < CHAINS; ++c) {
            sum[c] = _mm512_fmadd_ps(sum[c], a, b);
        }
    }
    for (int c = 0; c < CHAINS; ++c) {
        *out += _mm512_reduce_add_ps(sum[c]);
    }
    return 2.0 * 16 * CHAINS * PEAK_LINKS;
}

__attribute__((target("avx2,fma"))) static double peak_avx2(float *out)
{
    __m256 sum[CHAINS - 4], a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
    for (int c = 0; c < CHAINS - 4; ++c) {
        sum[c] = _mm256_set1_ps((float)c);
    }
    for (long i = 0; i < PEAK_LINKS; ++i) {
#pragma GCC unroll 16
        for (int c = 0; c < CHAINS - 4; ++c) {
            sum[c] = _mm256_fmadd_ps(sum[c], a, b);
        }
    }
    for (int c = 0; c < CHAINS - 4; ++c) {
        *out += _mm256_cvtss_f32(sum[c]);
    }
    return 2.0 * 8 * (CHAINS - 4) * PEAK_LINKS;
}
#endif

static peak_fn peak_of(const char *variant)
{
#if defined(__x86_64__)
    if (strcmp(variant, "avx512") == 0) {
        return peak_avx512;
    }
    if (strcmp(variant, "avx2") == 0) {
        return peak_avx2;
    }
#endif
    (void)variant;
    return NULL;
}

typedef struct peak_job {
    peak_fn fn;
    double operations[1024];
    float out[1024];
} peak_job;

static void peak_chunk(void *arg, int64_t chunk, int32_t worker)
{
    peak_job *job = arg;
    (void)worker;
    job->operations[chunk % 1024] = job->fn(&job->out[chunk % 1024]);
}

/* Operations a second, all threads together. */
static double run_peak(const bench *b)
{
    static peak_job job;
    double begin = now_s(), operations = 0;
    int32_t n = b->threads < 1024 ? b->threads : 1024;
    job.fn = peak_of(b->math->name);
    if (!job.fn) {
        return 0.0;
    }
    sherd__team_run(b->team, n, peak_chunk, &job);
    double seconds = now_s() - begin;
    for (int32_t i = 0; i < n; ++i) {
        operations += job.operations[i];
    }
    return operations / seconds;
}

static double run_kernel(const bench *b)
{
    memcpy(b->job.matrix, b->from, (size_t)(b->job.rows * b->job.cols) * sizeof *b->from);
    double begin = now_s();
    b->math->orthogonalise(b->team, &b->job);
    return sherd__muon_flops(b->job.rows, b->job.cols, b->job.steps) / (now_s() - begin);
}

static void print(const char *what, double *rate, int n)
{
    qsort(rate, (size_t)n, sizeof *rate, by_value);
    printf("%-14s %8.2f Gflop/s (%.2f to %.2f)\n", what, rate[n / 2] * 1e-9, rate[n / 10] * 1e-9,
           rate[n - 1 - n / 10] * 1e-9);
}

static void measure(const bench *b)
{
    static double kernel[MAX_REPS], peak[MAX_REPS];
    (void)run_kernel(b);
    (void)run_peak(b);
    for (int i = 0; i < b->reps; ++i) {
        kernel[i] = run_kernel(b);
        peak[i] = run_peak(b);
    }
    print("orthogonalise", kernel, b->reps);
    if (peak_of(b->math->name)) {
        print("fma peak", peak, b->reps);
        printf("%-14s %8.3f of the peak\n", "", kernel[b->reps / 2] / peak[b->reps / 2]);
    }
}

static int take(int argc, char **argv, bench *b)
{
    const sherd__host_math *all[8];
    uint32_t n = sherd__host_math_all(all, 8);
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        long long number = atoll(value);
        if (strcmp(argv[i], "--variant") == 0) {
            b->math = NULL;
            for (uint32_t v = 0; v < n; ++v) {
                b->math = strcmp(all[v]->name, value) == 0 ? all[v] : b->math;
            }
        } else if (number < 1) {
            return 0;
        } else if (strcmp(argv[i], "--rows") == 0) {
            b->job.rows = number;
        } else if (strcmp(argv[i], "--cols") == 0) {
            b->job.cols = number;
        } else if (strcmp(argv[i], "--steps") == 0) {
            b->job.steps = (int32_t)number;
        } else if (strcmp(argv[i], "--threads") == 0) {
            b->threads = (int32_t)number;
        } else if (strcmp(argv[i], "--reps") == 0) {
            b->reps = (int)(number < MAX_REPS ? number : MAX_REPS);
        } else {
            return 0;
        }
    }
    return b->math != NULL;
}

static float *room(int64_t elems)
{
    float *out = aligned_alloc(64, ((size_t)elems * sizeof *out + 63) / 64 * 64);
    if (!out) {
        fprintf(stderr, "no memory\n");
        exit(1);
    }
    return out;
}

int main(int argc, char **argv)
{
    bench b = {
        .math = sherd__host_math_best(), .threads = 1, .reps = 11, .job = {.rows = 1024, .cols = 1024, .steps = 5}};
    sherd_error err;
    if (!take(argc, argv, &b)) {
        fprintf(
            stderr,
            "usage: orthogonal_bench [--rows N] [--cols N] [--steps N] [--threads N] [--reps N] [--variant NAME]\n");
        return 2;
    }
    if (sherd__team_create(&sherd__default_allocator, b.threads, &b.team, &err) != SHERD_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    b.from = room(b.job.rows * b.job.cols);
    b.job.matrix = room(b.job.rows * b.job.cols);
    b.job.scratch = room(sherd__muon_scratch_elems(b.job.rows, b.job.cols));
    for (int64_t i = 0; i < b.job.rows * b.job.cols; ++i) {
        b.from[i] = (float)(i * 2654435761u % 1000003) / 1000003.0f - 0.5f;
    }
    printf("%lld x %lld, %d steps, %s kernels, %d threads, %d repetitions\n", (long long)b.job.rows,
           (long long)b.job.cols, (int)b.job.steps, b.math->name, (int)b.threads, b.reps);
    measure(&b);
    free(b.job.scratch);
    free(b.job.matrix);
    free(b.from);
    sherd__team_destroy(b.team);
    return 0;
}
