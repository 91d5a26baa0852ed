/* SPDX-License-Identifier: MIT
 *
 * Where a run goes on, and when it saves. What the engine does not know is kept in the checkpoint's own record: the
 * seed and the position of the sampler, in sequences, so that the global batch may change from run to run.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/resume.h"

static volatile sig_atomic_t asked_to_stop;

static void ask_to_stop(int number)
{
    (void)number;
    asked_to_stop = 1;
}

void cli_stop_on_sigterm(const cli_options *options)
{
    struct sigaction action = {.sa_handler = ask_to_stop, .sa_flags = SA_RESTART};

    if (options->save != NULL) {
        sigaction(SIGTERM, &action, NULL);
    }
}

/* auto: whatever is in --save; nothing there yet is fine. `latest` without any checkpoint is not: there was one. */
static int nothing_yet(const char *folder)
{
    char latest[1024];
    int64_t step;
    size_t n = 0;

    snprintf(latest, sizeof latest, "%s/latest", folder);
    return sherd_checkpoint_list(folder, &step, 1, &n, NULL) == SHERD_OK && n == 0 && access(latest, F_OK) != 0;
}

/* A number of the text that `save` left in a checkpoint; 0: none. */
static long long noted(const sherd_checkpoint *from, const char *key)
{
    const char *at = strstr(from->client, key);
    long long value;

    return at != NULL && sscanf(at + strlen(key), "\": %lld", &value) == 1 ? value : 0;
}

/* The sampler counts sequences: of another length they would be others. */
static sherd_status same_seq(const cli_options *options, const sherd_checkpoint *from, sherd_error *err)
{
    long long seq = noted(from, "seq");

    if (seq > 0 && seq != options->seq) {
        return cli_fail(err, SHERD_EINVAL, "%.300s was made with --seq %lld, this run has %lld; give the same",
                        from->folder, seq, (long long)options->seq);
    }
    return SHERD_OK;
}

sherd_status cli_resume_find(const cli_options *options, int64_t steps, cli_resume *out, sherd_error *err)
{
    int automatic = options->resume != NULL && strcmp(options->resume, "auto") == 0;
    const char *folder = automatic ? options->save : options->resume;
    sherd_status status;

    if (options->save != NULL && mkdir(options->save, 0755) != 0 && errno != EEXIST) { /* not after hours of training */
        return cli_fail(err, SHERD_EIO, "--save %.300s: the folder cannot be made: %s", options->save, strerror(errno));
    }
    if (options->save != NULL && access(options->save, W_OK | X_OK) != 0) {
        return cli_fail(err, SHERD_EIO, "--save %.300s: cannot be written to: %s", options->save, strerror(errno));
    }
    memset(out, 0, sizeof *out);
    sherd_checkpoint_init(&out->from, sizeof out->from);
    if (folder == NULL || (automatic && nothing_yet(folder))) {
        return SHERD_OK;
    }
    status = sherd_checkpoint_read(folder, &out->from, err);
    if (status == SHERD_OK && out->from.step >= steps) {
        return cli_fail(err, SHERD_EINVAL,
                        "%.300s has %lld steps already and --steps %lld is the total; give a larger --steps",
                        out->from.folder, (long long)out->from.step, (long long)steps);
    }
    if (status == SHERD_OK && out->from.sampler_seed != options->seed) {
        return cli_fail(err, SHERD_EINVAL,
                        "%.300s was made with --seed %llu, this run has %llu: sequences would come twice; "
                        "give the same",
                        out->from.folder, (unsigned long long)out->from.sampler_seed,
                        (unsigned long long)options->seed);
    }
    if (status == SHERD_OK) {
        status = same_seq(options, &out->from, err);
    }
    out->position = out->from.sampler_position;
    return status;
}

sherd_status cli_resume_batch(const cli_resume *resume, int32_t world, sherd_config *config, sherd_error *err)
{
    const sherd_checkpoint *from = &resume->from;
    int64_t batch = noted(from, "train_batch_size"), micro = config->train_micro_batch_size_per_gpu;

    if (from->folder[0] == '\0' || batch < 1 || config->train_batch_size > 0 || from->world == world) {
        return SHERD_OK;
    }
    if (batch % world != 0) {
        return cli_fail(err, SHERD_EINVAL,
                        "%.300s was trained with %lld sequences per step, which %d ranks cannot share equally; give a "
                        "number of ranks that divides it, or another batch by --set train_batch_size=N",
                        from->folder, (long long)batch, (int)world);
    }
    micro = micro < batch / world ? micro : batch / world;
    while (batch / world % micro != 0) {
        micro--;
    }
    config->train_batch_size = batch;
    config->train_micro_batch_size_per_gpu = micro;
    config->gradient_accumulation_steps = batch / world / micro;
    if (cli_is_first()) {
        cli_message(-1, "batch %lld = %lld x %lld x %d (micro-batch, accumulation, ranks), as before on %d",
                    (long long)batch, (long long)micro, (long long)config->gradient_accumulation_steps, (int)world,
                    (int)from->world);
    }
    return SHERD_OK;
}

sherd_status cli_resume_load(cli_session *session, const cli_resume *resume, sherd_error *err)
{
    sherd_status status;

    if (resume->from.folder[0] == '\0') {
        return SHERD_OK;
    }
    status = sherd_engine_load(session->engine, resume->from.folder, NULL, err);
    if (status == SHERD_OK && session->rank->rank == 0) {
        cli_message(-1, "goes on after step %lld from %s (saved by %d rank%s at stage %d)",
                    (long long)resume->from.step, resume->from.folder, (int)resume->from.world,
                    resume->from.world > 1 ? "s" : "", (int)resume->from.stage);
    }
    return status;
}

static sherd_status save(cli_session *session, int64_t steps, uint64_t position, sherd_error *err)
{
    const cli_options *options = session->rank->options;
    int64_t begin = cli_now_ns();
    sherd_checkpoint client;
    sherd_status status;

    sherd_checkpoint_init(&client, sizeof client);
    client.sampler_seed = options->seed;
    client.sampler_position = position;
    snprintf(client.client, sizeof client.client, "{\"seq\": %lld, \"train_batch_size\": %lld}",
             (long long)options->seq, (long long)session->config.train_batch_size);
    status = sherd_engine_save(session->engine, options->save, &client, err);
    if (status != SHERD_OK || session->rank->rank != 0) {
        return status;
    }
    cli_message(-1, "saved %s/step-%lld in %.1f s", options->save, (long long)steps,
                (double)(cli_now_ns() - begin) / 1e9);
    if (options->keep > 0) { /* a folder that cannot be tidied up is no reason to stop training */
        sherd_error trouble;
        if (sherd_checkpoint_prune(options->save, (size_t)options->keep, &trouble) != SHERD_OK) {
            cli_message(-1, "warning: --keep %d: %s", (int)options->keep, trouble.text);
        }
    }
    return SHERD_OK;
}

sherd_status cli_save_due(cli_session *session, int64_t steps, int64_t total, uint64_t position, int *stop,
                          sherd_error *err)
{
    const cli_options *options = session->rank->options;
    double asked = asked_to_stop != 0;
    sherd_status status = SHERD_OK;

    *stop = 0;
    if (options->save == NULL) {
        return SHERD_OK;
    }
    if (steps < total) { /* the signal may reach the ranks at different steps */
        status = sherd_engine_sum(session->engine, &asked, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    *stop = asked > 0 && steps < total;
    if (*stop || steps == total || (options->save_every > 0 && steps % options->save_every == 0)) {
        status = save(session, steps, position, err);
    }
    if (status == SHERD_OK && *stop && session->rank->rank == 0) {
        cli_message(-1, "ends after step %lld of %lld, as SIGTERM asks; --resume goes on", (long long)steps,
                    (long long)total);
    }
    return status;
}
