/* SPDX-License-Identifier: MIT
 *
 * host_step_bench [--params M[,M…]] [--sum fp32|bf16] [--optimizer NAME] [--place own|second] [--threads N] [--reps N]
 *                 [--pages huge|small] [--kernels NAME] [--list 0|1]
 *
 * The host step, one pass that widens, unscales, clips, updates and emits bf16, beside the best pure streaming pattern
 * with the same loads and stores, on the same arrays.
 *
 * First all patterns take turns for a few rounds; the best four by median then take turns with the kernel, the order
 * turning from round to round. Reported are medians and quartiles, and the kernel's median over that of the best
 * pattern. Parameters are in 2^20, bytes in 1e9; every byte that must be read or written counts once.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "bench/offload/arrays.h"
#include "bench/offload/patterns.h"
#include "optim/list.h"

#define MAX_PATTERNS 48
#define MAX_REPS 400
#define TRIAL_ROUNDS 3
#define FINALISTS 4
#define CHUNK (16 * PATTERN_UNIT)

typedef struct options {
    const char *params, *kernels;
    step_shape shape;
    int32_t threads;
    int reps, list;
} options;

typedef struct pattern_job {
    const pattern *pattern;
    pattern_streams streams;
    int64_t params;
} pattern_job;

typedef struct entrant {
    const pattern *pattern; /* NULL: the kernel */
    double rate[MAX_REPS];  /* GB/s */
} entrant;

typedef struct bench {
    step_arrays arrays;
    sherd__team *team;
    const sherd__host_math *math;
    int n_patterns;
    entrant kernel, patterns[MAX_PATTERNS];
} bench;

static void pattern_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const pattern_job *job = arg;
    int64_t begin = chunk * CHUNK, end = begin + CHUNK < job->params ? begin + CHUNK : job->params;
    (void)worker;
    job->pattern->run(&job->streams, begin, end);
}

static void run_pattern(bench *b, const pattern *which)
{
    step_arrays *a = &b->arrays;
    pattern_job job = {.pattern = which, .params = a->shape.params};
    job.streams = (pattern_streams){.sum = a->sum,
                                    .sum_bytes = a->shape.sum_dtype == SHERD_BF16 ? 2 : 4,
                                    .arrays = 1 + (int)a->moments,
                                    .emit = (char *)a->emit};
    for (uint32_t k = 0; k <= a->moments; ++k) {
        job.streams.in[k] = (const char *)a->state[k];
        job.streams.out[k] = (char *)(a->second[k] ? a->second[k] : a->state[k]);
    }
    sherd__team_run(b->team, (a->shape.params + CHUNK - 1) / CHUNK, pattern_chunk, &job);
}

static void take_turn(bench *b, entrant *e, int round)
{
    int64_t begin = sherd__now_ns(), bytes = step_moved_bytes(&b->arrays.shape);
    if (e->pattern) {
        run_pattern(b, e->pattern);
    } else {
        step_arrays_update(&b->arrays, b->math, b->team);
    }
    if (round >= 0) {
        e->rate[round] = (double)bytes / (double)(sherd__now_ns() - begin);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const entrant *e, int n, double q)
{
    double sorted[MAX_REPS];
    memcpy(sorted, e->rate, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, by_value);
    return sorted[(int)(q * (n - 1) + 0.5)];
}

static int by_trial(const void *a, const void *b)
{
    double x = quantile(a, TRIAL_ROUNDS, 0.5), y = quantile(b, TRIAL_ROUNDS, 0.5);
    return (x < y) - (x > y);
}

/* Best first. */
static void trial(bench *b)
{
    for (int round = -1; round < TRIAL_ROUNDS; ++round) {
        for (int p = 0; p < b->n_patterns; ++p) {
            take_turn(b, &b->patterns[p], round);
        }
    }
    qsort(b->patterns, (size_t)b->n_patterns, sizeof *b->patterns, by_trial);
}

static void finals(bench *b, int reps, int finalists)
{
    for (int round = -1; round < reps; ++round) {
        for (int turn = 0; turn <= finalists; ++turn) {
            int who = (turn + round + 1) % (finalists + 1);
            take_turn(b, who == finalists ? &b->kernel : &b->patterns[who], round);
        }
    }
}

static void print_line(const bench *b, const char *name, const entrant *e, int n)
{
    double median = quantile(e, n, 0.5);
    double per = (double)step_moved_bytes(&b->arrays.shape) / (double)b->arrays.shape.params;
    printf("  %-36s %7.2f GB/s (%6.2f to %6.2f)  %6.3f G parameters/s\n", name, median, quantile(e, n, 0.25),
           quantile(e, n, 0.75), median / per);
}

static void measure(bench *b, const options *o)
{
    const pattern *all[MAX_PATTERNS];
    int finalists, best = 0;
    char name[64];
    b->n_patterns = patterns_all(all, MAX_PATTERNS);
    for (int p = 0; p < b->n_patterns; ++p) {
        b->patterns[p].pattern = all[p];
    }
    finalists = b->n_patterns < FINALISTS ? b->n_patterns : FINALISTS;
    trial(b);
    for (int p = 0; p < b->n_patterns && o->list; ++p) {
        print_line(b, b->patterns[p].pattern->name, &b->patterns[p], TRIAL_ROUNDS);
    }
    finals(b, o->reps, finalists);
    for (int p = 1; p < finalists; ++p) {
        best = quantile(&b->patterns[p], o->reps, 0.5) > quantile(&b->patterns[best], o->reps, 0.5) ? p : best;
    }
    printf("%lld M parameters, %lld bytes moved per parameter, %d patterns, %d rounds:\n",
           (long long)(b->arrays.shape.params >> 20),
           (long long)(step_moved_bytes(&b->arrays.shape) / b->arrays.shape.params), b->n_patterns, o->reps);
    snprintf(name, sizeof name, "kernel, %s", b->math->name);
    print_line(b, name, &b->kernel, o->reps);
    for (int p = 0; p < finalists; ++p) {
        print_line(b, b->patterns[p].pattern->name, &b->patterns[p], o->reps);
    }
    printf("  kernel / best pattern: %.1f %%\n",
           100.0 * quantile(&b->kernel, o->reps, 0.5) / quantile(&b->patterns[best], o->reps, 0.5));
    fflush(stdout);
}

/* -------------------------------------------------------------------------------------------------- options, machine
 */

static int64_t memory_bytes(const char *name)
{
    char line[128];
    long long kb = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, name, strlen(name)) == 0) {
            sscanf(line + strlen(name), ": %lld", &kb);
        }
    }
    if (file) {
        fclose(file);
    }
    return (int64_t)kb * 1024;
}

static void print_machine(const options *o)
{
    char line[256], model[256] = "unknown processor\n";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon) {
            snprintf(model, sizeof model, "%s", colon + 2);
        }
    }
    if (file) {
        fclose(file);
    }
    model[strcspn(model, "\n")] = '\0';
    printf("%s, %ld processors, %d threads, %s pages, %s, %s sums, %s\n", model, sysconf(_SC_NPROCESSORS_ONLN),
           (int)o->threads, o->shape.small_pages ? "4 KiB" : "2 MiB", sherd__optim_get(o->shape.kind)->name,
           o->shape.sum_dtype == SHERD_BF16 ? "bf16" : "fp32",
           o->shape.elsewhere ? "new values into second places" : "in place");
}

static int find_optimizer(const char *name, sherd_optimizer *out)
{
    static const sherd_optimizer kinds[] = {
#define X(KIND, name, moments) SHERD_##KIND,
        SHERD__OPTIM_MAP(X)
#undef X
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        if (strcasecmp(sherd__optim_get(kinds[i])->name, name) == 0) {
            *out = kinds[i];
            return 1;
        }
    }
    return 0;
}

static const sherd__host_math *find_kernels(const char *name)
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

/* One of two words. */
static int choose(const char *value, const char *no, const char *yes, int *out)
{
    *out = strcmp(value, yes) == 0;
    return *out || strcmp(value, no) == 0;
}

static int read_option(options *o, const char *name, const char *value)
{
    int bf16 = o->shape.sum_dtype == SHERD_BF16, known = 1;
    if (strcmp(name, "--params") == 0) {
        o->params = value;
    } else if (strcmp(name, "--kernels") == 0) {
        o->kernels = value;
    } else if (strcmp(name, "--optimizer") == 0) {
        known = find_optimizer(value, &o->shape.kind);
    } else if (strcmp(name, "--sum") == 0) {
        known = choose(value, "fp32", "bf16", &bf16);
        o->shape.sum_dtype = bf16 ? SHERD_BF16 : SHERD_FP32;
    } else if (strcmp(name, "--place") == 0) {
        known = choose(value, "own", "second", &o->shape.elsewhere);
    } else if (strcmp(name, "--pages") == 0) {
        known = choose(value, "huge", "small", &o->shape.small_pages);
    } else if (strcmp(name, "--list") == 0) {
        known = choose(value, "0", "1", &o->list);
    } else if (strcmp(name, "--threads") == 0) {
        o->threads = atoi(value);
        known = o->threads > 0;
    } else if (strcmp(name, "--reps") == 0) {
        o->reps = atoi(value);
        known = o->reps > 0 && o->reps <= MAX_REPS;
    } else {
        known = 0;
    }
    return known;
}

static int run_size(bench *b, const options *o, int64_t millions)
{
    step_shape shape = o->shape;
    int64_t available = memory_bytes("MemAvailable");
    shape.params = millions << 20;
    if (available > 0 && step_arrays_bytes(&shape) > available - available / 16) {
        printf("%lld M parameters: left out, %lld MB of arrays and %lld MB of memory\n", (long long)millions,
               (long long)(step_arrays_bytes(&shape) >> 20), (long long)(available >> 20));
        return 0;
    }
    if (!step_arrays_make(&b->arrays, &shape)) {
        fprintf(stderr, "host_step_bench: no memory for %lld M parameters\n", (long long)millions);
        return 1;
    }
    measure(b, o);
    step_arrays_free(&b->arrays);
    return 0;
}

int main(int argc, char **argv)
{
    static bench b;
    options o = {.params = "64", .threads = (int32_t)sysconf(_SC_NPROCESSORS_ONLN), .reps = 15};
    int good = 1, failed = 0;
    o.shape.kind = SHERD_ADAMW;
    o.shape.sum_dtype = SHERD_FP32;
    for (int i = 1; i < argc; i += 2) {
        good = good && i + 1 < argc && read_option(&o, argv[i], argv[i + 1]);
    }
    b.math = find_kernels(o.kernels);
    if (!good || !b.math || sherd__team_create(&sherd__default_allocator, o.threads, &b.team, NULL) != SHERD_OK) {
        fprintf(stderr,
                "usage: host_step_bench [--params M[,M...]] [--sum fp32|bf16] [--optimizer NAME] [--place "
                "own|second]\n       [--threads N] [--reps 1..%d] [--pages huge|small] [--kernels NAME] "
                "[--list 0|1]\n",
                MAX_REPS);
        return 2;
    }
    print_machine(&o);
    for (const char *at = o.params; *at && !failed;) {
        char *end;
        int64_t millions = strtoll(at, &end, 10);
        failed = end == at || millions < 1 || run_size(&b, &o, millions);
        at = *end == ',' ? end + 1 : end;
    }
    sherd__team_destroy(b.team);
    return failed;
}
