/* SPDX-License-Identifier: MIT
 *
 * What one rank needs to take steps: plan, device, engine, model, and the decoder's first weights.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/gpu.h"
#include "cli/init.h"
#include "cli/launch.h"
#include "cli/session.h"

enum { TRACE_RECORDS = 1 << 16 };

int64_t cli_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void cli_groups(sherd_config *config)
{
    config->n_groups = 2;
    config->groups[0] = (sherd_group){config->optimizer.lr, config->optimizer.weight_decay};
    config->groups[1] = (sherd_group){config->optimizer.lr, 0};
}

sherd_status cli_model_table(const sherd_model_shape *shape, const sherd_config *config, sherd_param **params,
                             char **names, uint32_t *n, sherd_error *err)
{
    uint32_t count = sherd_model_param_count(shape);
    sherd_param *table = calloc(count, sizeof *table);
    char *text = calloc(count, SHERD_MODEL_NAME_MAX);
    sherd_status status;

    if (table == NULL || text == NULL) {
        status = cli_fail(err, SHERD_ENOMEM, "no memory for the table of %u parameters", (unsigned)count);
        goto free_table;
    }
    status = sherd_model_params(shape, config->dtype, config->dtype, SHERD_MODEL_GROUP_NORMS, table, text, err);
    if (status != SHERD_OK) {
        goto free_table;
    }
    *params = table;
    *names = text;
    *n = count;
    return SHERD_OK;
free_table:
    free(text);
    free(table);
    return status;
}

static int64_t param_elems(const sherd_param *param)
{
    int64_t elems = 1;

    for (uint32_t d = 0; d < param->ndim; d++) {
        elems *= param->shape[d];
    }
    return elems;
}

/* Rank 0 makes or reads the values, the engine broadcasts them. */
static sherd_status write_weights(cli_session *session, sherd_error *err)
{
    const cli_options *options = session->rank->options;
    int first = session->rank->rank == 0;
    cli_weights *file = NULL;
    sherd_status status = SHERD_OK;

    if (first && options->init != NULL) {
        status = cli_init_open(options->init, session->params, session->n_params, &file, err);
    }

    for (uint32_t i = 0; i < session->n_params && status == SHERD_OK; i++) {
        const sherd_param *param = &session->params[i];
        int64_t elems = param_elems(param);
        float *values = first ? malloc((size_t)elems * sizeof *values) : NULL;

        if (first && values == NULL) {
            status = cli_fail(err, SHERD_ENOMEM, "no memory for the first values of %s", param->name);
        } else if (file != NULL) {
            status = cli_init_read(file, param, values, err);
        } else if (first) { /* the other ranks wait: their cores are free */
            status = sherd_model_init_param(&session->shape, param, options->seed, cli_cores(), values, err);
        }
        if (status == SHERD_OK) {
            status = sherd_param_write(session->engine, i, values, err);
        }
        free(values);
    }
    cli_weights_close(file);
    return status;
}

static sherd_status open_device(cli_session *session, sherd_error *err)
{
    const cli_rank *rank = session->rank;
    sherd_device_options options;

    sherd_device_options_init(&options, sizeof options);
    options.kind = rank->checker != NULL ? SHERD_DEVICE_CHECK : SHERD_DEVICE_HOST; /* CUDA's own call sets its kind */
    options.checker = rank->checker;
    options.rank = rank->rank;
    options.threads = rank->threads;
    options.trace_capacity = rank->options->trace != NULL && rank->rank == 0 ? TRACE_RECORDS : 0;
    options.log = cli_log(&rank->rank);
    if (rank->options->device == CLI_CUDA) {
        return cli_gpu_device(rank, &options, &session->device, err);
    }
    return sherd_device_create(&options, &session->device, err);
}

static sherd_status open_model(cli_session *session, int64_t seq, sherd_error *err)
{
    sherd_model_options options;

    sherd_model_options_init(&options, sizeof options);
    options.dtype = session->config.dtype;
    options.grad_dtype = session->config.dtype;
    options.batch = session->config.train_micro_batch_size_per_gpu;
    options.seq = seq;
    options.threads = session->rank->threads;
    options.checkpointing = session->rank->options->checkpointing;
    options.device = session->device;
    return sherd_model_create(&session->shape, &options, &session->model, err);
}

sherd_status cli_session_open(cli_session *session, const cli_rank *rank, const sherd_model_shape *shape,
                              const sherd_config *config, int64_t seq, sherd_error *err)
{
    sherd_status status;

    memset(session, 0, sizeof *session);
    session->rank = rank;
    session->shape = *shape;
    session->config = *config;
    cli_groups(&session->config);
    if (config->transport.kind == SHERD_TRANSPORT_AUTO || config->transport.kind == SHERD_TRANSPORT_MPI) {
        session->config.transport.kind = sherd_comm_transport(rank->comm); /* MPI: where there are several nodes */
    }
    status = sherd_config_resolve(&session->config, rank->world, err);
    if (status == SHERD_OK) {
        status = cli_model_table(shape, config, &session->params, &session->names, &session->n_params, err);
    }
    if (status == SHERD_OK) {
        status = open_device(session, err);
    }
    if (status == SHERD_OK) { /* before the plan: what a budget leaves is known when the model has what it needs */
        status = open_model(session, seq, err);
    }
    if (status == SHERD_OK) {
        status = sherd_config_resolve_memory(&session->config, session->device, rank->comm, 0, err);
    }
    if (status == SHERD_OK) {
        status =
            sherd_plan_create(&session->config, session->params, session->n_params, rank->world, &session->plan, err);
    }
    if (status == SHERD_OK) {
        status = sherd_engine_create(session->plan, session->device, rank->comm, &session->engine, err);
    }
    if (status == SHERD_OK) {
        session->store = sherd_model_engine_store(session->engine);
        status = write_weights(session, err);
    }
    if (status != SHERD_OK) {
        cli_session_close(session);
    }
    return status;
}

void cli_session_close(cli_session *session)
{
    sherd_engine_destroy(session->engine);
    sherd_model_destroy(session->model);
    sherd_device_destroy(session->device);
    sherd_plan_destroy(session->plan);
    free(session->params);
    free(session->names);
    session->engine = NULL;
    session->model = NULL;
    session->device = NULL;
    session->plan = NULL;
    session->params = NULL;
    session->names = NULL;
}

sherd_status cli_feed_create(cli_feed *feed, int64_t batch, int64_t seq, sherd_error *err)
{
    size_t bytes = (size_t)batch * (size_t)seq * sizeof(int32_t);

    feed->batch = batch;
    feed->seq = seq;
    feed->tokens = malloc(bytes);
    feed->targets = malloc(bytes);
    if (feed->tokens == NULL || feed->targets == NULL) {
        cli_feed_destroy(feed);
        return cli_fail(err, SHERD_ENOMEM, "no memory for %lld sequences of %lld tokens", (long long)batch,
                        (long long)seq);
    }
    return SHERD_OK;
}

void cli_feed_destroy(cli_feed *feed)
{
    free(feed->tokens);
    free(feed->targets);
    feed->tokens = feed->targets = NULL;
}

/* One micro-step; *loss: its mean. */
static sherd_status micro_step(cli_session *session, int64_t step, const cli_feed *feed, double *loss,
                               sherd_report *report, sherd_error *err)
{
    sherd_micro micro;
    sherd_status status = sherd_micro_begin(session->engine, &micro);

    if (status != SHERD_OK) {
        return sherd_engine_error(session->engine, err);
    }
    feed->fill(feed, step, micro.number);
    status = sherd_model_step(session->model, &session->store, feed->tokens, feed->targets, feed->batch, feed->seq,
                              loss, err);
    return status == SHERD_OK ? sherd_engine_step(session->engine, report, err) : status;
}

/* sum(l, h) = sum(l, l + p) + sum(l + p, h), p the largest power of two below h - l. */
static double tree_sum(const double *values, int64_t n)
{
    int64_t power = 1;

    if (n == 1) {
        return values[0];
    }
    while (power * 2 < n) {
        power *= 2;
    }
    return tree_sum(values, power) + tree_sum(values + power, n - power);
}

/* Over all ranks and micro-steps, on every rank. Reproducible: by the tree over the micro-batches' numbers that the
 * gradients are summed by (docs/numerics.md), so that the losses of runs can be compared bit for bit too. */
static sherd_status sum_losses(cli_session *session, double *losses, int64_t n, double *out, sherd_error *err)
{
    int by_step = session->config.reproducible && (session->config.zero.stage > 1 || n == 1);
    sherd_status status = SHERD_OK;

    for (int64_t k = 0; by_step && k < n && status == SHERD_OK; k++) {
        status = sherd_engine_sum(session->engine, &losses[k], err);
    }
    if (session->config.reproducible) {
        *out = tree_sum(losses, n);
    } else {
        *out = 0;
        for (int64_t k = 0; k < n; k++) {
            *out += losses[k];
        }
    }
    return status != SHERD_OK || by_step ? status : sherd_engine_sum(session->engine, out, err);
}

sherd_status cli_session_step(cli_session *session, int64_t step, const cli_feed *feed, cli_step *out, sherd_error *err)
{
    int64_t begin = cli_now_ns(), steps = session->config.gradient_accumulation_steps;
    double loss = 0, *losses = calloc((size_t)steps, sizeof *losses);
    sherd_status status = losses == NULL
                              ? cli_fail(err, SHERD_ENOMEM, "no memory for the losses of %lld micro-steps", (long long)steps)
                              : SHERD_OK;

    sherd_report_init(&out->report, sizeof out->report);
    for (int64_t k = 0; k < steps && status == SHERD_OK; k++) {
        status = micro_step(session, step, feed, &losses[k], &out->report, err);
    }
    if (status == SHERD_OK) {
        status = sum_losses(session, losses, steps, &loss, err);
    }
    free(losses);
    out->loss = loss / ((double)steps * (double)session->rank->world);
    out->wall_ns = cli_now_ns() - begin;
    return status;
}
