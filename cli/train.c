/* SPDX-License-Identifier: MIT
 *
 * sherd train: a decoder on text.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/data.h"
#include "cli/eval.h"
#include "cli/gpu.h"
#include "cli/launch.h"
#include "cli/prepare.h"
#include "cli/results.h"
#include "cli/resume.h"
#include "cli/session.h"
#include "cli/units.h"

/* What one rank keeps. */
typedef struct trainer {
    const cli_training *shared;
    cli_session session;
    cli_sampler sampler;
    cli_feed feed;
    double first_loss, last_loss;
    int64_t steps, first; /* done in all; of them, by the run that this one goes on from */
    int64_t skipped, elapsed_ns;
    sherd_report last_report;
    cli_totals totals;
    double eval_loss; /* of this step; below 0: none */
} trainer;

static double rate(double amount, int64_t ns)
{
    return ns > 0 ? amount * 1e9 / (double)ns : 0;
}

static void fill_from_text(const cli_feed *feed, int64_t step, int64_t number)
{
    trainer *t = feed->ctx;
    int64_t per_step = t->session.config.gradient_accumulation_steps * t->session.rank->world;

    cli_sampler_batch(&t->sampler, &t->shared->text, feed->seq, feed->batch, step - t->first, number, per_step,
                      feed->tokens, feed->targets);
}

/* ---- what is said on the way */

static void print_start(const trainer *t)
{
    const cli_session *s = &t->session;
    const sherd_config *c = &s->config;

    cli_message(-1, "%d rank%s of %d thread%s, %s; %s", (int)s->rank->world, s->rank->world > 1 ? "s" : "",
                (int)s->rank->threads, s->rank->threads > 1 ? "s" : "", sherd_comm_describe(s->rank->comm),
                sherd_device_describe(s->device));
    cli_message(-1, "%s", sherd_model_describe(s->model));
    cli_message(-1, "%lld parameters in %u tensors, %s, ZeRO stage %d, %u bucket%s, batch %lld = %lld x %lld x %d",
                (long long)sherd_plan_elems(s->plan), (unsigned)s->n_params, sherd_dtype_name(c->dtype),
                (int)c->zero.stage, (unsigned)sherd_plan_buckets(s->plan), sherd_plan_buckets(s->plan) == 1 ? "" : "s",
                (long long)c->train_batch_size,
                (long long)c->train_micro_batch_size_per_gpu, (long long)c->gradient_accumulation_steps,
                (int)s->rank->world);
    cli_message(-1, "%llu %s in %u file%s, %lld sequences of %lld tokens",
                (unsigned long long)cli_text_tokens(&t->shared->text), t->shared->text.wide ? "tokens" : "bytes of text",
                (unsigned)t->shared->text.files,
                t->shared->text.files == 1 ? "" : "s", (long long)t->shared->windows, (long long)t->feed.seq);
}

static void print_breakdowns(const trainer *t, const cli_step *step)
{
    const sherd_report *r = &step->report;

    if (t->session.config.wall_clock_breakdown) {
        cli_message(-1, "  forward %.1f ms, backward %.1f ms, exposed communication %.1f ms, update %.1f ms, step "
                    "%.1f ms",
                    (double)r->forward_ns / 1e6, (double)r->backward_ns / 1e6, (double)r->exposed_comm_ns / 1e6,
                    (double)r->update_ns / 1e6, (double)step->wall_ns / 1e6);
    }
    if (t->session.config.memory_breakdown) {
        sherd_memory live;
        char bytes[32], line[512] = "";
        size_t used = 0;

        sherd_device_memory(t->session.device, &live, NULL);
        for (int c = 0; c < SHERD_CATEGORIES && used < sizeof line; c++) {
            if (live.bytes[SHERD_TIER_DEVICE][c] > 0) {
                used += (size_t)snprintf(line + used, sizeof line - used, " %s %s",
                                         sherd_category_name((sherd_category)c),
                                         cli_bytes_text(live.bytes[SHERD_TIER_DEVICE][c], bytes, sizeof bytes));
            }
        }
        cli_message(-1, "  memory:%s", line);
    }
}

/* Where the state lives and who works on it, as it came out. */
static void print_offload(const trainer *t)
{
    char text[4096];
    char *rest = text, *line;

    if (sherd_engine_offload_text(t->session.engine, text, sizeof text) == 0) {
        return;
    }
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (line[0] != '\0') {
            cli_message(-1, "%s", line);
        }
    }
}

static void print_progress(const trainer *t, const cli_step *step)
{
    const sherd_report *r = &step->report;
    double tokens = (double)t->session.config.train_batch_size * (double)t->feed.seq;
    int64_t made = t->steps > t->first ? t->steps - t->first : 1;
    int64_t left = (t->shared->steps - t->steps) * (t->elapsed_ns / made) / 1000000000;
    char note[320] = "";
    char scale[48] = "";

    if (t->session.config.scaling.kind != SHERD_SCALING_NONE) {
        snprintf(scale, sizeof scale, "  loss scale %g", r->loss_scale);
    }
    if (r->skipped) {
        snprintf(note, sizeof note, "  (skipped: the gradient of '%s' is not finite)",
                 r->bad_param < 0 ? "" : t->session.params[r->bad_param].name);
    }
    cli_message(-1, "step %lld/%lld  loss %.4f  grad norm %.3f  lr %.3e%s  %.0f tokens/s  %lld:%02lld left%s",
                (long long)t->steps, (long long)t->shared->steps, step->loss, r->grad_norm, r->lr, scale,
                rate(tokens, step->wall_ns), (long long)(left / 60), (long long)(left % 60),
                note);
    print_breakdowns(t, step);
}

static void log_step(const trainer *t, const cli_step *step)
{
    const sherd_report *r = &step->report;
    FILE *out = t->shared->log;
    double samples = (double)t->session.config.train_batch_size;
    sherd_memory live;
    const struct {
        const char *name;
        double value;
    } fields[] = {
        {"loss", step->loss}, {"grad_norm", r->grad_norm}, {"lr", r->lr}, {"loss_scale", r->loss_scale},
        {"step_ms", (double)step->wall_ns / 1e6}, {"forward_ms", (double)r->forward_ns / 1e6},
        {"backward_ms", (double)r->backward_ns / 1e6}, {"exposed_comm_ms", (double)r->exposed_comm_ns / 1e6},
        {"update_ms", (double)r->update_ns / 1e6},
        {"tokens_per_s", rate(samples * (double)t->feed.seq, step->wall_ns)},
        {"samples_per_s", rate(samples, step->wall_ns)},
    };

    sherd_device_memory(t->session.device, &live, NULL);
    fprintf(out, "{\"step\": %lld, \"skipped\": %s", (long long)t->steps, r->skipped ? "true" : "false");
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        fprintf(out, ", \"%s\": ", fields[i].name);
        cli_print_number(out, fields[i].value);
    }
    if (t->eval_loss >= 0) {
        fputs(", \"eval_loss\": ", out);
        cli_print_number(out, t->eval_loss);
    }
    if (r->bad_param >= 0) {
        fprintf(out, ", \"nonfinite\": \"%s\"", t->session.params[r->bad_param].name);
    }
    if (r->step != t->steps) { /* norm, rate and times are this earlier step's */
        fprintf(out, ", \"report_step\": %lld", (long long)r->step);
    }
    if (r->speculated > 0) {
        fprintf(out, ", \"speculated\": %llu, \"speculation_missed\": %llu", (unsigned long long)r->speculated,
                (unsigned long long)r->speculation_missed);
    }
    fputs(", \"memory\": ", out);
    cli_print_memory_json(out, &live);
    fputs("}\n", out);
    fflush(out); /* a run that is killed leaves what it has done */
}

static void monitor_step(const trainer *t, const cli_step *step)
{
    double tokens = (double)t->session.config.train_batch_size * (double)t->feed.seq;
    sherd_memory live;
    cli_row row = {.step = t->steps, .loss = step->loss, .tokens_per_s = rate(tokens, step->wall_ns),
                   .eval_loss = t->eval_loss};

    sherd_device_memory(t->session.device, &live, NULL);
    row.memory_bytes = (double)sherd_memory_total(&live, SHERD_TIER_DEVICE);
    cli_monitor_report(t->shared->monitor, &step->report); /* on a GPU that of the row before */
    cli_monitor_row(t->shared->monitor, &row);
    cli_monitor_report(t->shared->monitor, &step->report);
}

/* ---- the end */

static void log_usage(FILE *out, const cli_usage_of_rank *usage, int32_t world)
{
    fputs(", \"ranks\": [", out);
    for (int32_t r = 0; r < world; r++) {
        fprintf(out, "%s{\"live\": ", r > 0 ? ", " : "");
        cli_print_memory_json(out, &usage[r].live);
        fputs(", \"peak\": ", out);
        cli_print_memory_json(out, &usage[r].peak);
        fputs(", \"plan\": ", out);
        cli_print_memory_json(out, &usage[r].plan);
        fprintf(out, ", \"peak_bytes\": %llu, \"pss_bytes\": %llu}", (unsigned long long)usage[r].peak_total,
                (unsigned long long)usage[r].pss);
    }
    fputc(']', out);
}

static void log_final(const trainer *t, const uint8_t hashes[2][16], const cli_usage_of_rank *usage)
{
    const sherd_config *c = &t->session.config;
    FILE *out = t->shared->log;
    double samples = (double)c->train_batch_size * (double)(t->steps - t->first);
    double tokens = samples * (double)t->feed.seq;

    fprintf(out, "{\"final\": true, \"param_hash\": \"");
    cli_print_hash(out, hashes[0]);
    fputs("\", \"state_hash\": \"", out);
    cli_print_hash(out, hashes[1]);
    fprintf(out,
            "\", \"steps\": %lld, \"skipped\": %lld, \"world\": %d, \"threads\": %d, \"stage\": %d, \"dtype\": \"%s\", "
            "\"samples\": %.0f, \"tokens\": %.0f, \"seconds\": %.6f, \"tokens_per_s\": %.6g, \"samples_per_s\": %.6g, "
            "\"loss_first\": ",
            (long long)t->steps, (long long)t->skipped, (int)t->session.rank->world, (int)t->session.rank->threads,
            (int)c->zero.stage, sherd_dtype_name(c->dtype), samples, tokens, (double)t->elapsed_ns / 1e9,
            rate(tokens, t->elapsed_ns), rate(samples, t->elapsed_ns));
    cli_print_number(out, t->first_loss);
    fputs(", \"loss_last\": ", out);
    cli_print_number(out, t->last_loss);
    if (t->totals.evaluations > 0) {
        fputs(", \"eval_loss_first\": ", out);
        cli_print_number(out, t->totals.eval_loss[0]);
        fputs(", \"eval_loss_last\": ", out);
        cli_print_number(out, t->totals.eval_loss[1]);
        fprintf(out, ", \"eval_sequences\": %lld", (long long)t->totals.eval_sequences);
    }
    log_usage(out, usage, t->session.rank->world);
    cli_gpu_print_json(out, t->session.rank);
    fputs("}\n", out);
    fflush(out);
}

static void print_table(const trainer *t, const uint8_t hashes[2][16], const cli_usage_of_rank *usage)
{
    const sherd_config *c = &t->session.config;
    double samples = (double)c->train_batch_size * (double)(t->steps - t->first);

    printf("\n%-22s %lld to %lld of %lld, %lld skipped\n", "steps", (long long)t->first + 1, (long long)t->steps,
           (long long)t->shared->steps, (long long)t->skipped);
    printf("%-22s %.0f in %.0f sequences of %lld\n", "tokens", samples * (double)t->feed.seq, samples,
           (long long)t->feed.seq);
    printf("%-22s %.4f nats (step %lld)\n", "loss at start", t->first_loss, (long long)t->first + 1);
    printf("%-22s %.4f nats (step %lld)\n", "loss at end", t->last_loss, (long long)t->steps);
    printf("%-22s %.1f\n", "tokens/s", rate(samples * (double)t->feed.seq, t->elapsed_ns));
    printf("%-22s %.2f\n", "samples/s", rate(samples, t->elapsed_ns));
    printf("%-22s %.1f\n", "seconds", (double)t->elapsed_ns / 1e9);
    cli_print_totals(stdout, &t->totals);
    if (c->scaling.kind != SHERD_SCALING_NONE) {
        printf("%-22s %g, %lld of %lld steps skipped\n", "loss scale", sherd_engine_loss_scale(t->session.engine),
               (long long)t->skipped, (long long)(t->steps - t->first));
    }
    if (t->last_report.speculated > 0) {
        printf("%-22s %llu buckets, of which %llu again\n", "updated before vote",
               (unsigned long long)t->last_report.speculated, (unsigned long long)t->last_report.speculation_missed);
    }
    printf("%-22s ", "parameters' hash");
    cli_print_hash(stdout, hashes[0]);
    printf("\n%-22s ", "state's hash");
    cli_print_hash(stdout, hashes[1]);
    printf("\n");
    if (t->session.rank->options->save != NULL) {
        size_t n = 0;

        (void)sherd_checkpoint_list(t->session.rank->options->save, NULL, 0, &n, NULL);
        printf("%-22s %s/step-%lld, the newest of %zu\n", "checkpoint", t->session.rank->options->save,
               (long long)t->steps, n);
    }
    cli_print_usage(stdout, usage, t->session.rank->world, t->session.rank->one_process);
}

/* On a GPU a report is the former step's, the first one nobody's. */
static void book_report(trainer *t, const sherd_report *report)
{
    if (report->step > t->last_report.step) {
        t->skipped += report->skipped;
        t->last_report = *report;
        t->totals.reports++;
        t->totals.forward_ns += report->forward_ns;
        t->totals.backward_ns += report->backward_ns;
        t->totals.exposed_ns += report->exposed_comm_ns;
        t->totals.update_ns += report->update_ns;
    }
}

/* COLLECTIVE. Memory first, while every rank stands as it stood in the last step. */
static sherd_status finish(trainer *t, sherd_error *err)
{
    const cli_options *options = t->shared->options;
    int first = t->session.rank->rank == 0;
    uint8_t hashes[2][16];
    double meeting = 0;
    cli_usage_of_rank *usage = calloc((size_t)t->session.rank->world, sizeof *usage);
    sherd_status status;

    if (usage == NULL) {
        return cli_fail(err, SHERD_ENOMEM, "no memory for the table of %d ranks", (int)t->session.rank->world);
    }
    status = sherd_engine_wait(t->session.engine, err);
    if (status == SHERD_OK) { /* on a GPU the last step's is still outstanding */
        sherd_report report;

        sherd_report_init(&report, sizeof report);
        sherd_engine_report(t->session.engine, &report);
        book_report(t, &report);
        if (first) {
            cli_monitor_report(t->shared->monitor, &report);
        }
        status = cli_gather_usage(&t->session, usage, err);
    }
    if (status == SHERD_OK) {
        status = sherd_engine_hash(t->session.engine, hashes[0], hashes[1], err);
    }
    if (status == SHERD_OK && first && t->shared->log != NULL) {
        log_final(t, (const uint8_t(*)[16])hashes, usage);
        if (ferror(t->shared->log)) { /* a forked rank's copy: the parent would not know */
            status = cli_fail(err, SHERD_EIO, "--log %.300s: could not be written to its end", options->log);
        }
    }
    if (status == SHERD_OK && first) {
        print_table(t, (const uint8_t(*)[16])hashes, usage);
    }
    if (status == SHERD_OK && options->sample > 0) {
        status = cli_sample(&t->session, options, t->feed.seq, err);
    }
    if (status == SHERD_OK && first && options->trace != NULL) {
        status = cli_write_trace(t->session.device, options->trace, err);
    }
    if (status == SHERD_OK) { /* nobody leaves while rank 0 still writes */
        status = sherd_engine_sum(t->session.engine, &meeting, err);
    }
    free(usage);
    return status;
}

/* Sequences taken so far, former runs included. */
static uint64_t position_after(const trainer *t)
{
    return t->shared->resume.position +
           (uint64_t)(t->steps - t->first) * (uint64_t)t->session.config.train_batch_size;
}

/* COLLECTIVE. After step t->steps, where that is due. */
static sherd_status evaluate_due(trainer *t, sherd_error *err)
{
    const cli_options *options = t->shared->options;
    int64_t begin = cli_now_ns(), steps = t->steps, total = t->shared->steps;
    sherd_status status;

    t->eval_loss = -1;
    if (t->shared->val.files == 0 ||
        (steps != total && (options->eval_every == 0 || steps % options->eval_every != 0))) {
        return SHERD_OK;
    }
    status = cli_evaluate(&t->session, &t->feed, &t->shared->val, t->totals.eval_sequences, &t->eval_loss, err);
    cli_totals_evaluated(&t->totals, steps, t->eval_loss, cli_now_ns() - begin);
    if (status == SHERD_OK && t->session.rank->rank == 0) {
        cli_message(-1, "step %lld/%lld  validation loss %.4f of %lld sequences", (long long)steps, (long long)total,
                    t->eval_loss, (long long)t->totals.eval_sequences);
    }
    return status;
}

/* Validation is the first of the sequences: the same ones whatever the ranks. */
static void choose_validation(trainer *t)
{
    int64_t batches = t->shared->options->eval_batches > 0 ? t->shared->options->eval_batches : 20;
    int64_t batch = t->session.config.train_batch_size, windows = t->shared->val_windows;

    t->totals.eval_sequences = windows / batch < batches ? windows : batches * batch;
}

static sherd_status train_steps(trainer *t, sherd_error *err)
{
    int first = t->session.rank->rank == 0;
    int64_t begin = cli_now_ns();

    for (int64_t s = t->first, stop = 0; s < t->shared->steps && !stop; s++) {
        cli_step step;
        int asked;
        sherd_status status = cli_session_step(&t->session, s, &t->feed, &step, err);

        if (status != SHERD_OK) {
            return status;
        }
        t->steps = s + 1;
        t->elapsed_ns = cli_now_ns() - begin - t->totals.eval_ns;
        t->totals.steps++;
        t->totals.wall_ns += step.wall_ns;
        book_report(t, &step.report);
        t->first_loss = s == t->first ? step.loss : t->first_loss;
        t->last_loss = step.loss;
        if (first && (t->steps % t->session.config.steps_per_print == 0 || t->steps == t->shared->steps ||
                      s == t->first)) {
            print_progress(t, &step);
        }
        status = evaluate_due(t, err);
        if (status != SHERD_OK) {
            return status;
        }
        if (first && t->shared->log != NULL) {
            log_step(t, &step);
        }
        if (first) {
            monitor_step(t, &step);
        }
        status = cli_save_due(&t->session, t->steps, t->shared->steps, position_after(t), &asked, err);
        if (status != SHERD_OK) {
            return status;
        }
        stop = asked;
    }
    return SHERD_OK;
}

static int train_body(const cli_rank *rank, void *ctx)
{
    trainer t = {.shared = ctx};
    int64_t seq = rank->options->seq;
    sherd_error err;
    sherd_status status = cli_session_open(&t.session, rank, &t.shared->shape, &t.shared->config, seq, &err);

    if (status == SHERD_OK) {
        status = cli_sampler_create(rank->options->seed, t.shared->windows, &t.sampler, &err);
    }
    if (status == SHERD_OK) {
        status = cli_feed_create(&t.feed, t.session.config.train_micro_batch_size_per_gpu, seq, &err);
    }
    if (status == SHERD_OK) {
        t.feed.fill = fill_from_text;
        t.feed.ctx = &t;
        t.first = t.shared->resume.from.step;
        t.sampler.base = (int64_t)t.shared->resume.position;
        choose_validation(&t);
        if (rank->rank == 0) {
            print_start(&t);
            print_offload(&t);
        }
        status = cli_resume_load(&t.session, &t.shared->resume, &err);
    }
    if (status == SHERD_OK) {
        status = train_steps(&t, &err);
    }
    if (status == SHERD_OK) {
        status = finish(&t, &err);
    }
    if (status != SHERD_OK) { /* said before closing, which may take a while when a peer is gone */
        cli_failure(rank->world > 1 ? rank->rank : -1, &err);
    }
    cli_feed_destroy(&t.feed);
    cli_sampler_destroy(&t.sampler);
    cli_session_close(&t.session);
    return status == SHERD_OK ? CLI_OK : CLI_FAILED;
}

int cli_train(const cli_options *given)
{
    cli_options own = *given, *options = &own;
    cli_training t = {.options = options, .steps = options->steps > 0 ? options->steps : 100};
    sherd_error err;
    int code, broken;

    if (options->model == NULL || options->n_data == 0) {
        return cli_usage("train needs --model and --data; `sherd train --help` says more");
    }
    if (options->sample > 0 && options->prompt[0] == '\0') {
        return cli_usage("--prompt is empty; give at least one character to continue");
    }
    if (options->n_val == 0 && (options->eval_every > 0 || options->eval_batches > 0)) {
        return cli_usage("--eval-every and --eval-batches need --val PATH");
    }
    if (options->save == NULL && (options->save_every > 0 || options->keep > 0 ||
                                  (options->resume != NULL && strcmp(options->resume, "auto") == 0))) {
        return cli_usage("--save-every, --keep and --resume auto need --save DIR");
    }
    if (options->init != NULL && options->resume != NULL && strcmp(options->resume, "auto") != 0) {
        return cli_usage("--init and --resume both give the weights; leave one out");
    }
    cli_stop_on_sigterm(options);
    if (cli_training_prepare(&t, &err) == SHERD_OK) {
        own.init = t.resume.from.folder[0] == '\0' ? own.init : NULL; /* they come from the checkpoint */
        code = cli_launch(options, &t.config, train_body, &t);
    } else {
        code = cli_is_first() ? cli_failure(-1, &err) : CLI_FAILED;
    }
    if (t.log != NULL) {
        broken = fclose(t.log) != 0;
        if (broken && code == CLI_OK) {
            cli_message(-1, "--log %s: could not be written to its end", options->log);
            code = CLI_FAILED;
        }
    }
    cli_monitor_close(t.monitor);
    cli_text_free(&t.text);
    cli_text_free(&t.val);
    return code;
}
