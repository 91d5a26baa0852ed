/* SPDX-License-Identifier: MIT
 *
 * sherd bench: steps on random tokens, one row per batch size. The first steps of a row are not counted. A row
 * whose memory would not be there is not tried; it says so instead.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/data.h"
#include "cli/gpu.h"
#include "cli/launch.h"
#include "cli/results.h"
#include "cli/session.h"
#include "cli/units.h"

enum { WARM_UP = 2 };

typedef struct bench {
    const cli_options *options;
    sherd_model_shape shape;
    sherd_config config;
    int64_t steps;
} bench;

/* Sums and medians of a row's counted steps. */
typedef struct row {
    int64_t batch;
    double *rates; /* samples per second of each step, sorted at the end */
    double loss, step_ms, forward_ms, backward_ms, exposed_ms, update_ms;
} row;

static void fill_at_random(const cli_feed *feed, int64_t step, int64_t number)
{
    const bench *b = feed->ctx;
    uint64_t state = b->options->seed ^ ((uint64_t)step * 0xD1342543DE82EF95u) ^ ((uint64_t)number << 40);

    for (int64_t i = 0; i < feed->batch * feed->seq; i++) {
        feed->tokens[i] = (int32_t)(cli_random(&state) % (uint64_t)b->shape.vocab);
        feed->targets[i] = (int32_t)(cli_random(&state) % (uint64_t)b->shape.vocab);
    }
}

/* --batch is the micro-batch per rank; the accumulation steps of the configuration stay. */
static sherd_config config_for_batch(const bench *b, int64_t batch)
{
    sherd_config config = b->config;

    config.train_batch_size = 0;
    config.train_micro_batch_size_per_gpu = batch;
    return config;
}

/* What the ranks that share the memory will need together: the plan, activations, the model's scratch. */
static sherd_status needed_bytes(const bench *b, const cli_rank *rank, const sherd_config *given, uint64_t *out,
                                 sherd_error *err)
{
    sherd_config config = *given;
    sherd_model_options options;
    sherd_param *params = NULL;
    char *names = NULL;
    uint32_t n = 0;
    sherd_plan *plan = NULL;
    sherd_memory memory;
    uint64_t activations = 0, workspace = 0;
    sherd_status status;

    cli_groups(&config);
    sherd_model_options_init(&options, sizeof options);
    options.dtype = options.grad_dtype = config.dtype;
    options.batch = config.train_micro_batch_size_per_gpu;
    options.seq = b->options->seq;
    options.threads = rank->threads;
    options.checkpointing = b->options->checkpointing;
    options.device_kind = b->options->device == CLI_CUDA ? SHERD_DEVICE_CUDA : SHERD_DEVICE_HOST;
    status = sherd_model_memory(&b->shape, &options, &activations, &workspace, err);
    if (status == SHERD_OK) {
        status = sherd_config_resolve(&config, rank->world, err);
    }
    if (status == SHERD_OK) {
        status = cli_model_table(&b->shape, &config, &params, &names, &n, err);
    }
    if (status == SHERD_OK) {
        status = sherd_plan_create(&config, params, n, rank->world, &plan, err);
    }
    if (status == SHERD_OK) {
        status = sherd_plan_memory(plan, 0, &memory);
        *out = (sherd_memory_total(&memory, SHERD_TIER_DEVICE) + activations + workspace) *
               (uint64_t)rank->sharing;
    }
    sherd_plan_destroy(plan);
    free(params);
    free(names);
    return status;
}

static void print_misfit(const bench *b, const cli_rank *rank, int64_t batch, uint64_t needed)
{
    uint64_t available = rank->available;
    char need[32], have[32];

    if (b->options->json) {
        printf("{\"batch\": %lld, \"seq\": %lld, \"ranks\": %d, \"fits\": false, \"needed_bytes\": %llu, "
               "\"available_bytes\": %llu}\n",
               (long long)batch, (long long)b->options->seq, (int)rank->world, (unsigned long long)needed,
               (unsigned long long)available);
    } else {
        printf("%6lld  does not fit: %s needed, %s available\n", (long long)batch,
               cli_bytes_text(needed, need, sizeof need), cli_bytes_text(available, have, sizeof have));
    }
    fflush(stdout);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Linear between neighbours, as in R and NumPy. */
static double quantile(const double *sorted, int64_t n, double q)
{
    double at = q * (double)(n - 1);
    int64_t below = (int64_t)at, above = below + 1 < n ? below + 1 : below;

    return sorted[below] + (sorted[above] - sorted[below]) * (at - (double)below);
}

static sherd_status measure(const bench *b, cli_session *session, const cli_feed *feed, row *out, sherd_error *err)
{
    int64_t ns[5] = {0};
    double per_step = (double)session->config.train_batch_size, share = 1e-6 / (double)b->steps;

    for (int64_t s = 0; s < b->steps + WARM_UP; s++) {
        cli_step step;
        sherd_status status = cli_session_step(session, s, feed, &step, err);

        if (status != SHERD_OK) {
            return status;
        }
        out->loss = step.loss;
        if (s >= WARM_UP) {
            const sherd_report *r = &step.report;
            int64_t parts[5] = {step.wall_ns, r->forward_ns, r->backward_ns, r->exposed_comm_ns, r->update_ns};

            out->rates[s - WARM_UP] = per_step * 1e9 / (double)(step.wall_ns > 0 ? step.wall_ns : 1);
            for (int i = 0; i < 5; i++) {
                ns[i] += parts[i];
            }
        }
    }
    out->step_ms = (double)ns[0] * share;
    out->forward_ms = (double)ns[1] * share;
    out->backward_ms = (double)ns[2] * share;
    out->exposed_ms = (double)ns[3] * share;
    out->update_ms = (double)ns[4] * share;
    qsort(out->rates, (size_t)b->steps, sizeof *out->rates, by_value);
    return SHERD_OK;
}

static sherd_status print_row(const bench *b, cli_session *session, const row *r, sherd_error *err)
{
    double median = quantile(r->rates, b->steps, 0.5);
    double spread = quantile(r->rates, b->steps, 0.75) - quantile(r->rates, b->steps, 0.25);
    double tokens = median * (double)b->options->seq;
    sherd_memory peak, plan;
    char total[32];

    sherd_device_memory(session->device, NULL, &peak);
    if (sherd_plan_memory(session->plan, session->rank->rank, &plan) != SHERD_OK) {
        return cli_fail(err, SHERD_EINVAL, "the plan has no bytes for rank %d", (int)session->rank->rank);
    }
    if (b->options->json) {
        printf("{\"batch\": %lld, \"seq\": %lld, \"ranks\": %d, \"fits\": true, \"steps\": %lld, \"samples_per_s\": "
               "%.6g, \"samples_per_s_spread\": %.4g, \"tokens_per_s\": %.6g, \"step_ms\": %.6g, \"forward_ms\": %.6g, "
               "\"backward_ms\": %.6g, \"exposed_comm_ms\": %.6g, \"update_ms\": %.6g, \"memory\": ",
               (long long)r->batch, (long long)b->options->seq, (int)session->rank->world, (long long)b->steps, median,
               spread, tokens, r->step_ms, r->forward_ms, r->backward_ms, r->exposed_ms, r->update_ms);
        cli_print_memory_json(stdout, &peak);
        fputs(", \"plan\": ", stdout);
        cli_print_memory_json(stdout, &plan);
        printf(", \"peak_bytes\": %llu, \"flops_per_token\": %.17g, \"parameters\": %lld, \"loss\": ",
               (unsigned long long)sherd_device_peak_total(session->device, SHERD_TIER_DEVICE),
               sherd_model_flops_per_token(&b->shape, b->options->seq), (long long)sherd_plan_elems(session->plan));
        cli_print_number(stdout, r->loss);
        cli_gpu_print_json(stdout, session->rank);
        fputs("}\n", stdout);
    } else {
        printf("%6lld  %10.2f  %8.2f  %10.0f  %9.1f  %9.1f  %9.1f  %9.1f  %9.1f  %10s\n", (long long)r->batch, median,
               spread, tokens, r->step_ms, r->forward_ms, r->backward_ms, r->exposed_ms, r->update_ms,
               cli_bytes_text(sherd_device_peak_total(session->device, SHERD_TIER_DEVICE), total, sizeof total));
    }
    fflush(stdout);
    return SHERD_OK;
}

static sherd_status run_batch(const bench *b, const cli_rank *rank, const sherd_config *config, sherd_error *err)
{
    cli_session session;
    cli_feed feed = {.fill = fill_at_random, .ctx = (void *)(uintptr_t)b};
    row r = {.batch = config->train_micro_batch_size_per_gpu};
    int last = r.batch == b->options->batches[b->options->n_batches - 1];
    sherd_status status = cli_session_open(&session, rank, &b->shape, config, b->options->seq, err);

    if (status != SHERD_OK) {
        return status;
    }
    r.rates = calloc((size_t)b->steps, sizeof *r.rates);
    status = r.rates != NULL ? cli_feed_create(&feed, r.batch, b->options->seq, err)
                             : cli_fail(err, SHERD_ENOMEM, "no memory for %lld figures", (long long)b->steps);
    if (status == SHERD_OK) {
        status = measure(b, &session, &feed, &r, err);
    }
    if (status == SHERD_OK && rank->rank == 0) {
        status = print_row(b, &session, &r, err);
    }
    if (status == SHERD_OK && rank->rank == 0 && b->options->trace != NULL && last) {
        status = cli_write_trace(session.device, b->options->trace, err);
    }
    if (status == SHERD_OK) { /* the ranks' ledgers stand until rank 0 has read its own */
        status = sherd_engine_wait(session.engine, err);
    }
    cli_feed_destroy(&feed);
    free(r.rates);
    cli_session_close(&session);
    return status;
}

static void print_head(const bench *b, const cli_rank *rank)
{
    if (b->options->json) {
        return;
    }
    printf("%s, %lld tokens per sequence, %d rank%s of %d thread%s, ZeRO stage %d, %s, %lld steps after %d\n",
           b->options->model, (long long)b->options->seq, (int)rank->world, rank->world > 1 ? "s" : "",
           (int)rank->threads,
           rank->threads > 1 ? "s" : "", (int)b->config.zero.stage, sherd_dtype_name(b->config.dtype),
           (long long)b->steps, (int)WARM_UP);
    printf("%6s  %10s  %8s  %10s  %9s  %9s  %9s  %9s  %9s  %10s\n", "batch", "samples/s", "spread", "tokens/s",
           "step ms", "forward", "backward", "exposed", "update", "peak");
    fflush(stdout);
}

/* Every rank comes to the same decision, from the same numbers: steps are collective. */
static int bench_body(const cli_rank *rank, void *ctx)
{
    const bench *b = ctx;
    sherd_error err;
    sherd_status status = SHERD_OK;

    if (rank->rank == 0) {
        print_head(b, rank);
    }
    for (size_t i = 0; i < b->options->n_batches && status == SHERD_OK; i++) {
        sherd_config config = config_for_batch(b, b->options->batches[i]);
        uint64_t needed = 0;

        status = needed_bytes(b, rank, &config, &needed, &err);
        if (status == SHERD_OK && needed > rank->available) {
            if (rank->rank == 0) {
                print_misfit(b, rank, b->options->batches[i], needed);
            }
        } else if (status == SHERD_OK) {
            status = run_batch(b, rank, &config, &err);
        }
    }
    return status == SHERD_OK ? CLI_OK : cli_failure(rank->world > 1 ? rank->rank : -1, &err);
}

int cli_bench(const cli_options *options)
{
    cli_options own = *options;
    bench b = {.options = &own, .steps = options->steps > 0 ? options->steps : 10};
    sherd_error err;
    sherd_status status;

    if (options->model == NULL) {
        return cli_usage("bench needs --model; `sherd bench --help` says more");
    }
    if (own.n_batches == 0) {
        own.batches[own.n_batches++] = 4;
    }
    status = sherd_model_shape_read(own.model, &b.shape, &err);
    if (status == SHERD_OK) {
        status = cli_config(&own, &b.config, &err);
    }
    if (status != SHERD_OK) {
        return cli_is_first() ? cli_failure(-1, &err) : CLI_FAILED;
    }
    return cli_launch(&own, &b.config, bench_body, &b);
}
