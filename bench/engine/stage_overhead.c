/* SPDX-License-Identifier: MIT
 *
 * What ZeRO-2 costs over stage 0: both engines live in the same two processes and take their steps in turn, A B B A …,
 * on the same tokens; a step is timed from its begin to the end of everything it enqueued. Printed: medians with
 * spread, and the ratio pair by pair with the 95 % interval of its mean (of logarithms, t with n − 1 ≈ normal).
 *
 *     stage_overhead [--model 30m] [--pairs 100] [--seq 256] [--batch 2] [--stages 2,0]      2 ranks × 1 thread
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "models/model.h"

enum { WORLD = 2, WARM = 3 };

static const char *model_name = "30m";
static int pairs = 100, seq = 256, batch = 2, stages[2] = {2, 0};

typedef struct side {
    sherd_plan *plan;
    sherd_comm *comm;
    sherd_device *device;
    sherd_engine *engine;
    sherd_model *model;
    sherd_model_store store;
} side;

static void check(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fprintf(stderr, "stage_overhead: %s\n", err->text);
        _exit(1);
    }
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void make_plan(const sherd_model_shape *shape, int stage, sherd_plan **out)
{
    uint32_t n = sherd_model_param_count(shape);
    sherd_param *params = calloc(n, sizeof *params);
    char *names = calloc(n, SHERD_MODEL_NAME_MAX);
    sherd_config config;
    sherd_error err;

    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = batch;
    config.dtype = SHERD_BF16;
    config.zero.stage = stage;
    config.gradient_clipping = 1.0;
    check(sherd_model_params(shape, SHERD_BF16, SHERD_BF16, 0, params, names, &err), &err);
    check(sherd_plan_create(&config, params, n, WORLD, out, &err), &err);
    free(params);
    free(names);
}

static void write_weights(const sherd_model_shape *shape, sherd_engine *engine)
{
    uint32_t n = sherd_model_param_count(shape);
    sherd_param *params = calloc(n, sizeof *params);
    char *names = calloc(n, SHERD_MODEL_NAME_MAX);
    sherd_error err;

    check(sherd_model_params(shape, SHERD_BF16, SHERD_BF16, 0, params, names, &err), &err);
    for (uint32_t p = 0; p < n; p++) {
        int64_t elems = 1;
        float *values;
        for (uint32_t d = 0; d < params[p].ndim; d++)
            elems *= params[p].shape[d];
        values = malloc((size_t)elems * sizeof *values);
        sherd_model_init_values(shape, &params[p], 1, 0, elems, values);
        check(sherd_param_write(engine, p, values, &err), &err);
        free(values);
    }
    free(params);
    free(names);
}

static void open_side(side *side, const sherd_model_shape *shape, int stage, sherd_rendezvous *rendezvous, int rank)
{
    sherd_model_options options;
    sherd_error err;

    make_plan(shape, stage, &side->plan);
    check(sherd_comm_create_local(NULL, rank, WORLD, sherd_rendezvous_allgather, rendezvous, &side->comm, &err), &err);
    check(sherd_device_create(NULL, &side->device, &err), &err);
    check(sherd_engine_create(side->plan, side->device, side->comm, &side->engine, &err), &err);
    write_weights(shape, side->engine);
    sherd_model_options_init(&options, sizeof options);
    options.dtype = options.grad_dtype = SHERD_BF16;
    options.batch = batch;
    options.seq = seq;
    options.threads = 1;
    options.device = side->device;
    check(sherd_model_create(shape, &options, &side->model, &err), &err);
    side->store = sherd_model_engine_store(side->engine);
}

static double step(side *side, const int32_t *tokens)
{
    double begin = now_ms(), loss;
    sherd_error err;

    check(sherd_micro_begin(side->engine, NULL), &err);
    check(sherd_model_step(side->model, &side->store, tokens, tokens + 1, batch, seq, &loss, &err), &err);
    check(sherd_engine_step(side->engine, NULL, &err), &err);
    check(sherd_engine_wait(side->engine, &err), &err);
    loss = 0; /* both ranks leave a step together, so that neither eats into the other's next one */
    check(sherd_engine_sum(side->engine, &loss, &err), &err);
    return now_ms() - begin;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_row(const char *what, double *values, int n, const char *unit)
{
    qsort(values, (size_t)n, sizeof *values, by_value);
    printf("%-28s median %8.3f %s  (p10 %.3f, p90 %.3f)\n", what, values[n / 2], unit, values[n / 10],
           values[n - 1 - n / 10]);
}

static void report(const double *a, const double *b)
{
    double *x = malloc(sizeof *x * (size_t)pairs), sum = 0, squares = 0, mean, half;
    char name[2][40];

    for (int i = 0; i < pairs; i++) {
        x[i] = log(a[i] / b[i]);
        sum += x[i];
    }
    mean = sum / pairs;
    for (int i = 0; i < pairs; i++)
        squares += (x[i] - mean) * (x[i] - mean);
    half = 1.984 * sqrt(squares / (pairs - 1) / pairs);
    for (int s = 0; s < 2; s++) {
        memcpy(x, s ? b : a, sizeof *x * (size_t)pairs);
        snprintf(name[s], sizeof name[s], "stage %d step", stages[s]);
        print_row(name[s], x, pairs, "ms");
    }
    for (int i = 0; i < pairs; i++)
        x[i] = a[i] / b[i];
    print_row("ratio, pair by pair", x, pairs, "");
    printf("ratio, mean of %d pairs      %.4f, 95 %% interval %.4f to %.4f\n", pairs, exp(mean), exp(mean - half),
           exp(mean + half));
    free(x);
}

static int rank_main(sherd_rendezvous *rendezvous, int rank)
{
    double *time[2] = {malloc(sizeof(double) * (size_t)pairs), malloc(sizeof(double) * (size_t)pairs)};
    int32_t *tokens = malloc(sizeof *tokens * ((size_t)batch * (size_t)seq + 1));
    sherd_model_shape shape;
    side sides[2];
    sherd_error err;

    check(sherd_rendezvous_join(rendezvous, rank, &err), &err);
    check(sherd_model_shape_read(model_name, &shape, &err), &err);
    for (int s = 0; s < 2; s++)
        open_side(&sides[s], &shape, stages[s], rendezvous, rank);
    for (int64_t i = 0; i <= (int64_t)batch * seq; i++)
        tokens[i] = (int32_t)(((uint64_t)i * 2654435761u + (uint64_t)rank * 40503u) >> 7) & 255;
    for (int i = -WARM; i < pairs; i++)
        for (int turn = 0; turn < 2; turn++) {
            int s = (i + turn) & 1; /* A B, B A, A B … */
            double ms = step(&sides[s], tokens);
            if (i >= 0)
                time[s][i] = ms;
        }
    if (rank == 0) {
        printf("%s, %d ranks x 1 thread, bf16, %d x %d tokens per rank, %s, %s\n", model_name, WORLD, batch, seq,
               sherd_device_describe(sides[0].device), sherd_comm_describe(sides[0].comm));
        printf("%s\n", sherd_model_describe(sides[0].model));
        report(time[0], time[1]);
    }
    for (int s = 0; s < 2; s++) {
        sherd_model_destroy(sides[s].model);
        sherd_engine_destroy(sides[s].engine);
        sherd_comm_destroy(sides[s].comm);
        sherd_device_destroy(sides[s].device);
        sherd_plan_destroy(sides[s].plan);
    }
    return 0;
}

static int parse(int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--model"))
            model_name = argv[i + 1];
        else if (!strcmp(argv[i], "--pairs"))
            pairs = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--seq"))
            seq = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--batch"))
            batch = atoi(argv[i + 1]);
        else if (!strcmp(argv[i], "--stages"))
            sscanf(argv[i + 1], "%d,%d", &stages[0], &stages[1]);
        else
            return 0;
    }
    return argc % 2 == 1 && pairs > 2 && seq > 0 && batch > 0;
}

int main(int argc, char **argv)
{
    sherd_rendezvous *rendezvous;
    sherd_error err;
    int failed = 0, state;

    if (!parse(argc, argv))
        return fprintf(stderr, "usage: stage_overhead [--model M] [--pairs N] [--seq N] [--batch N] [--stages A,B]\n"),
               2;
    check(sherd_rendezvous_create(WORLD, &rendezvous, &err), &err);
    for (int r = 0; r < WORLD; r++)
        if (fork() == 0)
            exit(rank_main(rendezvous, r));
    while (wait(&state) > 0)
        failed |= state != 0;
    sherd_rendezvous_destroy(rendezvous);
    return failed;
}
