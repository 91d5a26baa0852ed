/* SPDX-License-Identifier: MIT
 *
 * sherd memory: the plan's bytes for every stage, without allocating one of them. Parameters are a model's, or a
 * synthetic table of equal matrices.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/results.h"
#include "cli/session.h"
#include "cli/units.h"

enum { STAGES = 3, COLUMNS = 1024, NAME_BYTES = 24 };
static const int64_t largest_elems = (int64_t)64 << 20;

typedef struct forecast {
    const cli_options *options;
    sherd_config config;
    sherd_param *params;
    char *names;
    uint32_t n_params;
    int32_t world;
    int64_t elems; /* of all parameters */
    sherd_memory stage[STAGES];
    uint64_t stage3_bytes;
} forecast;

/* n equal matrices of 1024 columns, as few as the largest size allows; at most 1024·n elements more than asked for. */
static sherd_status synthetic_table(forecast *f, sherd_error *err)
{
    int64_t asked = f->options->params, n = (asked + largest_elems - 1) / largest_elems;
    int64_t rows = (asked + n * COLUMNS - 1) / (n * COLUMNS);

    if (n > UINT32_MAX / 2) {
        return cli_fail(err, SHERD_EINVAL, "--params: %lld are more than this command can tabulate", (long long)asked);
    }
    f->params = calloc((size_t)n, sizeof *f->params);
    f->names = calloc((size_t)n, NAME_BYTES);
    if (f->params == NULL || f->names == NULL) {
        return cli_fail(err, SHERD_ENOMEM, "no memory for a table of %lld parameters", (long long)n);
    }
    for (int64_t i = 0; i < n; i++) {
        char *name = f->names + i * NAME_BYTES;

        snprintf(name, NAME_BYTES, "matrix.%lld", (long long)i);
        f->params[i] = (sherd_param){.name = name, .shape = {rows, COLUMNS}, .ndim = 2, .dtype = f->config.dtype,
                                     .grad_dtype = f->config.dtype, .flags = SHERD_PARAM_MUON};
    }
    f->n_params = (uint32_t)n;
    return SHERD_OK;
}

static sherd_status model_table(forecast *f, sherd_error *err)
{
    sherd_model_shape shape;
    sherd_status status = sherd_model_shape_read(f->options->model, &shape, err);

    if (status != SHERD_OK) {
        return status;
    }
    cli_groups(&f->config);
    return cli_model_table(&shape, &f->config, &f->params, &f->names, &f->n_params, err);
}

/* Bytes of the rank that holds most, which differ only by control blocks; looked at where ranks are few. */
static sherd_status plan_stage(forecast *f, int32_t stage, sherd_error *err)
{
    sherd_config config = f->config;
    int32_t ranks = f->world < 64 ? f->world : 1;
    sherd_plan *plan;
    sherd_status status;

    config.zero.stage = stage;
    status = sherd_plan_create(&config, f->params, f->n_params, f->world, &plan, err);
    for (int32_t r = 0; r < ranks && status == SHERD_OK; r++) {
        sherd_memory memory;

        status = sherd_plan_memory(plan, r, &memory);
        if (r == 0 || sherd_memory_total(&memory, SHERD_TIER_DEVICE) >
                          sherd_memory_total(&f->stage[stage], SHERD_TIER_DEVICE)) {
            f->stage[stage] = memory;
        }
    }
    if (status == SHERD_OK) {
        f->elems = sherd_plan_elems(plan);
        sherd_plan_destroy(plan);
    }
    return status;
}

/* Bytes per parameter that stage 3 would share out: working copy, gradient sum, master, moments; Muon's matrices have one less. */
static int stage3_unit(const sherd_config *c)
{
    int narrow = c->dtype != SHERD_FP32;
    int two = c->optimizer.kind == SHERD_ADAMW || c->optimizer.kind == SHERD_ADAM || c->optimizer.kind == SHERD_LAMB ||
              c->optimizer.kind == SHERD_MUON;
    int moments = (two ? 2 : 1) * (c->moments_bf16 ? 2 : 4);
    int beside = c->master_remainder && c->dtype == SHERD_BF16 ? 2 : 4; /* the working copy */

    return (narrow ? 2 + beside : 4) + (narrow && c->sherd.grad_sum_bf16 ? 2 : 4) + moments;
}

static const char *verdict(const forecast *f, uint64_t bytes)
{
    return f->options->gpu_memory == 0 ? "" : bytes <= f->options->gpu_memory ? "yes" : "no";
}

static void print_json(const forecast *f)
{
    for (int s = 0; s < STAGES; s++) {
        uint64_t total = sherd_memory_total(&f->stage[s], SHERD_TIER_DEVICE);

        printf("{\"stage\": %d, \"built\": true, \"ranks\": %d, \"parameters\": %lld, \"dtype\": \"%s\", \"plan\": ", s,
               (int)f->world, (long long)f->elems, sherd_dtype_name(f->config.dtype));
        cli_print_memory_json(stdout, &f->stage[s]);
        printf(", \"total\": %llu", (unsigned long long)total);
        if (f->options->gpu_memory > 0) {
            printf(", \"fits\": %s", total <= f->options->gpu_memory ? "true" : "false");
        }
        printf("}\n");
    }
    printf("{\"stage\": 3, \"built\": false, \"ranks\": %d, \"parameters\": %lld, \"bytes_per_parameter\": %d, "
           "\"total\": %llu}\n",
           (int)f->world, (long long)f->elems, stage3_unit(&f->config), (unsigned long long)f->stage3_bytes);
}

static void print_categories(const forecast *f)
{
    for (int c = 0; c < SHERD_CATEGORIES; c++) {
        char text[STAGES][32];
        uint64_t sum = 0;

        for (int s = 0; s < STAGES; s++) {
            uint64_t bytes = f->stage[s].bytes[SHERD_TIER_DEVICE][c];

            sum += bytes;
            cli_bytes_text(bytes, text[s], sizeof text[s]);
        }
        if (sum > 0) {
            printf("  %-18s %12s %12s %12s\n", sherd_category_name((sherd_category)c), text[0], text[1], text[2]);
        }
    }
}

static void print_table(const forecast *f)
{
    uint64_t total[STAGES + 1];
    char text[STAGES + 1][32];

    for (int s = 0; s <= STAGES; s++) {
        total[s] = s < STAGES ? sherd_memory_total(&f->stage[s], SHERD_TIER_DEVICE) : f->stage3_bytes;
        cli_bytes_text(total[s], text[s], sizeof text[s]);
    }
    printf("%lld parameters in %u tensors, %s, %d rank%s, %lld micro-step%s; bytes per rank, without activations\n",
           (long long)f->elems, (unsigned)f->n_params, sherd_dtype_name(f->config.dtype), (int)f->world,
           f->world > 1 ? "s" : "", (long long)f->config.gradient_accumulation_steps,
           f->config.gradient_accumulation_steps > 1 ? "s" : "");
    printf("  %-18s %12s %12s %12s %12s\n", "", "stage 0", "stage 1", "stage 2", "stage 3");
    print_categories(f);
    printf("  %-18s %12s %12s %12s %12s\n", "total", text[0], text[1], text[2], text[3]);
    if (f->options->gpu_memory > 0) {
        char limit[32];

        printf("  fits %-13s %12s %12s %12s %12s\n", cli_bytes_text(f->options->gpu_memory, limit, sizeof limit),
               verdict(f, total[0]), verdict(f, total[1]), verdict(f, total[2]), verdict(f, total[3]));
    }
    printf("stage 3 is not built: %d bytes per parameter / %d ranks, and not counted: gathered parameters and the "
           "ring\n", stage3_unit(&f->config), (int)f->world);
}

static sherd_status prepare(forecast *f, sherd_error *err)
{
    const cli_options *o = f->options;
    sherd_status status = cli_config(o, &f->config, err);

    if (status != SHERD_OK) {
        return status;
    }
    if (f->config.train_batch_size == 0 && f->config.train_micro_batch_size_per_gpu == 0) {
        /* sizes do not change the plan's bytes, but whether K is 1 does */
        f->config.train_micro_batch_size_per_gpu = 1;
    }
    status = sherd_config_resolve(&f->config, f->world, err);
    if (status != SHERD_OK) {
        return status;
    }
    status = o->model != NULL ? model_table(f, err) : synthetic_table(f, err);
    for (int32_t s = 0; s < STAGES && status == SHERD_OK; s++) {
        status = plan_stage(f, s, err);
    }
    f->stage3_bytes = (uint64_t)((double)f->elems * stage3_unit(&f->config) / f->world);
    return status;
}

int cli_memory(const cli_options *options)
{
    forecast f = {.options = options, .world = options->ranks > 0 ? options->ranks : 1};
    sherd_error err;
    int code = CLI_OK;

    if ((options->model == NULL) == (options->params == 0)) {
        return cli_usage("memory needs either --model or --params; `sherd memory --help` says more");
    }
    if (prepare(&f, &err) != SHERD_OK) {
        code = cli_failure(-1, &err);
    } else if (options->json) {
        print_json(&f);
    } else {
        print_table(&f);
    }
    free(f.params);
    free(f.names);
    return code;
}
