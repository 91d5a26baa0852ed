/* SPDX-License-Identifier: MIT
 *
 * How much of oneDNN's matrix speed the decoder reaches: the products of one training step alone (forward, dgrad,
 * wgrad, with oneDNN's own threads and warm operands), against the whole forward and backward through the plain store.
 * Rounds of all four are interleaved, so that a machine that changes speed changes it for all; medians and quartiles
 * are printed. Optimizer and communication are not in it.
 *
 *   gemm_ceiling [--model 30m] [--batch 4] [--seq 256] [--threads 2] [--rounds 9] [--gemm auto|own|onednn] [--cpu-time]
 * [--own-bf16-only]
 *
 * --own-bf16-only leaves out oneDNN's bf16, which takes seconds a round where the CPU has no bf16 instructions.
 * --cpu-time measures the calling thread's CPU time with one thread: the figure to take on a machine others work on.
 */
#include "bench/models/ceiling.h"
#include "models/kernels.h"
#include "models/state.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ROUNDS 200

typedef struct arguments {
    const char *model;
    int64_t batch, seq;
    int threads, rounds, cpu_time, own_bf16_only;
    sherd_model_gemm gemm;
} arguments;

typedef struct side {
    sherd_model *model;
    sherd_model_memory_store *store;
    ceiling *ceiling;
    double ceiling_s[MAX_ROUNDS], model_s[MAX_ROUNDS];
    double ops_s[OP_KINDS], total_s;
} side;

static void check(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fprintf(stderr, "gemm_ceiling: %s: %s\n", sherd_status_text(status), err->text);
        exit(1);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *values, int n, double q)
{
    double sorted[MAX_ROUNDS];
    memcpy(sorted, values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare);
    return sorted[(int)(q * (n - 1) + 0.5)];
}

static void set_weights(const sherd_model_shape *shape, const sherd_param *params, uint32_t n, side *s,
                        sherd_dtype dtype)
{
    for (uint32_t p = 0; p < n; p++) {
        int64_t elems = params[p].ndim == 2 ? params[p].shape[0] * params[p].shape[1] : params[p].shape[0];
        float *values = malloc((size_t)elems * sizeof *values);
        void *to = sherd_model_memory_store_param(s->store, p);
        sherd_model_init_values(shape, &params[p], 1, 0, elems, values);
        if (dtype == SHERD_FP32) {
            memcpy(to, values, (size_t)elems * sizeof *values);
        } else {
            sherd__kernels_base[SHERD_KERNELS_BF16].narrow(elems, values, to);
        }
        free(values);
    }
}

static void open_side(const arguments *a, const sherd_model_shape *shape, sherd_device *device, sherd_dtype dtype,
                      side *s)
{
    sherd_error err = {0};
    uint32_t n = sherd_model_param_count(shape);
    sherd_param *params = calloc(n, sizeof *params);
    char *names = calloc(n, SHERD_MODEL_NAME_MAX);
    sherd_model_options o;
    sherd_model_options_init(&o, sizeof o);
    o.dtype = o.grad_dtype = dtype;
    o.batch = a->batch;
    o.seq = a->seq;
    o.threads = a->threads;
    o.gemm = a->gemm;
    o.device = device;
    check(sherd_model_params(shape, dtype, dtype, 0, params, names, &err), &err);
    check(sherd_model_memory_store_create(params, n, device, &s->store, &err), &err);
    check(sherd_model_create(shape, &o, &s->model, &err), &err);
    if (dtype == SHERD_FP32 || !a->own_bf16_only) {
        check(ceiling_create(shape, a->batch * a->seq, dtype, a->threads, &s->ceiling, &err), &err);
    }
    set_weights(shape, params, n, s, dtype);
    free(names);
    free(params);
}

static void step(const arguments *a, side *s, const int32_t *tokens)
{
    sherd_error err = {0};
    sherd_model_store view = sherd_model_memory_store_view(s->store);
    double loss;
    sherd_model_memory_store_begin(s->store);
    check(sherd_model_step(s->model, &view, tokens, tokens + 1, a->batch, a->seq, &loss, &err), &err);
}

/* The first run of a turn only brings threads and caches to where the second finds them. */
static void measure(const arguments *a, side *s, int round, const int32_t *tokens)
{
    sherd_error err = {0};
    double begin;
    if (s->ceiling) {
        check(ceiling_run(s->ceiling, &err), &err);
        begin = bench_now();
        check(ceiling_run(s->ceiling, &err), &err);
        s->ceiling_s[round] = bench_now() - begin;
    }
    step(a, s, tokens);
    begin = bench_now();
    step(a, s, tokens);
    s->model_s[round] = bench_now() - begin;
    op_times_attach(s->model->ops);
    begin = bench_now();
    step(a, s, tokens);
    s->total_s += bench_now() - begin;
    for (int i = 0; i < OP_KINDS; i++) {
        s->ops_s[i] += op_times_seconds(i);
    }
    op_times_detach();
}

static void print_row(const char *what, const double *seconds, const arguments *a, double flops)
{
    double median = quantile(seconds, a->rounds, 0.5), tokens = (double)(a->batch * a->seq);
    printf("%-28s %8.2f ms  (%.2f … %.2f)  %7.1f GFLOP/s  %8.0f tokens/s\n", what, 1e3 * median,
           1e3 * quantile(seconds, a->rounds, 0.25), 1e3 * quantile(seconds, a->rounds, 0.75), 1e-9 * flops / median,
           tokens / median);
}

static void print_side(const arguments *a, const side *s, const char *type, double flops)
{
    double rest = s->total_s;
    char label[64];
    if (s->ceiling) {
        snprintf(label, sizeof label, "%s products, oneDNN alone", type);
        print_row(label, s->ceiling_s, a, flops);
    }
    snprintf(label, sizeof label, "%s forward + backward", type);
    print_row(label, s->model_s, a, flops);
    printf("  %s; oneDNN's kernel alone: %s\n  where the step's time goes:", sherd_model_describe(s->model),
           s->ceiling ? ceiling_kernel(s->ceiling) : "not run");
    for (int i = 0; i < OP_KINDS; i++) {
        printf(" %s %.1f %%,", op_times_name(i), 100.0 * s->ops_s[i] / s->total_s);
        rest -= s->ops_s[i];
    }
    printf(" other %.1f %%\n", 100.0 * rest / s->total_s);
}

static arguments parse(int argc, char **argv)
{
    static const struct option options[] = {
        {"model", 1, NULL, 'm'},    {"batch", 1, NULL, 'b'},         {"seq", 1, NULL, 's'},
        {"threads", 1, NULL, 't'},  {"rounds", 1, NULL, 'r'},        {"gemm", 1, NULL, 'g'},
        {"cpu-time", 0, NULL, 'c'}, {"own-bf16-only", 0, NULL, 'o'}, {NULL, 0, NULL, 0}};
    arguments a = {.model = "30m", .batch = 4, .seq = 256, .threads = 2, .rounds = 9};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'm':
            a.model = optarg;
            break;
        case 'b':
            a.batch = strtoll(optarg, NULL, 10);
            break;
        case 's':
            a.seq = strtoll(optarg, NULL, 10);
            break;
        case 't':
            a.threads = (int)strtol(optarg, NULL, 10);
            break;
        case 'r':
            a.rounds = (int)strtol(optarg, NULL, 10);
            break;
        case 'c':
            a.cpu_time = 1;
            break;
        case 'o':
            a.own_bf16_only = 1;
            break;
        case 'g':
            a.gemm = strcmp(optarg, "own") == 0      ? SHERD_MODEL_GEMM_PORTABLE
                     : strcmp(optarg, "onednn") == 0 ? SHERD_MODEL_GEMM_ONEDNN
                                                     : SHERD_MODEL_GEMM_AUTO;
            break;
        default:
            exit(2);
        }
    }
    if (a.cpu_time) {
        a.threads = 1;
        bench_use_cpu_time();
    }
    a.rounds = a.rounds < 1 ? 1 : a.rounds > MAX_ROUNDS ? MAX_ROUNDS : a.rounds;
    return a;
}

int main(int argc, char **argv)
{
    arguments a = parse(argc, argv);
    static side sides[2];
    sherd_model_shape shape;
    sherd_error err = {0};
    sherd_device *device;
    sherd_device_options d;
    sherd_device_options_init(&d, sizeof d);
    check(sherd_model_shape_read(a.model, &shape, &err), &err);
    check(sherd_device_create(&d, &device, &err), &err);
    int32_t *tokens = calloc((size_t)(a.batch * a.seq + 1), sizeof *tokens);
    for (int64_t i = 0; i <= a.batch * a.seq; i++) {
        tokens[i] = (int32_t)((uint64_t)i * 2654435761u % (uint64_t)shape.vocab);
    }
    for (int i = 0; i < 2; i++) {
        open_side(&a, &shape, device, i ? SHERD_BF16 : SHERD_FP32, &sides[i]);
    }
    for (int round = 0; round < a.rounds; round++) {
        measure(&a, &sides[0], round, tokens);
        measure(&a, &sides[1], round, tokens);
    }
    printf("%s, %lld parameters, batch %lld, seq %lld, %d threads, %d interleaved rounds, %s: median (quartiles)\n",
           a.model, (long long)sherd_model_elems(&shape), (long long)a.batch, (long long)a.seq, a.threads, a.rounds,
           a.cpu_time ? "CPU time" : "wall time");
    double flops = ceiling_flops(sides[0].ceiling);
    print_side(&a, &sides[0], "fp32", flops);
    print_side(&a, &sides[1], "bf16", flops);
    double fp32 = quantile(sides[0].ceiling_s, a.rounds, 0.5), bf16 = quantile(sides[1].ceiling_s, a.rounds, 0.5);
    double model[2] = {quantile(sides[0].model_s, a.rounds, 0.5), quantile(sides[1].model_s, a.rounds, 0.5)};
    printf("share of oneDNN's fp32 ceiling: fp32 model %.1f %%, bf16 model %.1f %%\n", 100.0 * fp32 / model[0],
           100.0 * fp32 / model[1]);
    if (sides[1].ceiling) {
        printf("share of oneDNN's bf16 ceiling: bf16 model %.1f %%\n", 100.0 * bf16 / model[1]);
    }
    for (int i = 0; i < 2; i++) {
        ceiling_destroy(sides[i].ceiling);
        sherd_model_destroy(sides[i].model);
        sherd_model_memory_store_destroy(sides[i].store);
    }
    free(tokens);
    sherd_device_destroy(device);
    return 0;
}
