/* SPDX-License-Identifier: MIT
 *
 * Everything that can be found wrong is found before ranks exist, so that it is said once.
 */
#include "cli/prepare.h"

#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/init.h"
#include "cli/launch.h"

static sherd_status too_short(const char *path, const cli_text *text, int64_t seq, sherd_error *err)
{
    return cli_fail(err, SHERD_EINVAL,
                    "%.200s: %llu %s, but a sequence of %lld tokens and its last target need %lld; give "
                    "more text or a smaller --seq",
                    path, (unsigned long long)cli_text_tokens(text), text->wide ? "tokens" : "bytes of text",
                    (long long)seq, (long long)seq + 1);
}

static int64_t windows_of(const cli_text *text, int64_t seq)
{
    return cli_text_tokens(text) > 0 ? (int64_t)(cli_text_tokens(text) - 1) / seq : 0;
}

static sherd_status prepare_validation(cli_training *t, sherd_error *err)
{
    const cli_options *o = t->options;
    sherd_status status;

    if (o->n_val == 0) {
        return SHERD_OK;
    }
    status = cli_text_read(o->val, o->n_val, t->shape.vocab, &t->val, err);
    t->val_windows = windows_of(&t->val, o->seq);
    if (status == SHERD_OK && t->val.size > 0 && t->val.wide != t->text.wide) {
        return cli_fail(err, SHERD_EINVAL, "--val %.200s: is %s, but --data is %s; give one kind", o->val[0],
                        t->val.wide ? "tokens" : "text", t->text.wide ? "tokens" : "text");
    }
    return status == SHERD_OK && t->val_windows < 1 ? too_short(o->val[0], &t->val, o->seq, err) : status;
}

sherd_status cli_training_prepare(cli_training *t, sherd_error *err)
{
    const cli_options *o = t->options;
    sherd_config resolved;
    sherd_status status = sherd_model_shape_read(o->model, &t->shape, err);

    if (status == SHERD_OK) {
        status = cli_config(o, &t->config, err);
    }
    if (status == SHERD_OK) {
        resolved = t->config;
        status = sherd_config_resolve(&resolved, cli_world(o), err);
    }
    if (status == SHERD_OK) {
        status = cli_text_read(o->data, o->n_data, t->shape.vocab, &t->text, err);
    }
    if (status == SHERD_OK && !t->text.wide && t->shape.vocab < 256) {
        status = cli_fail(err, SHERD_EINVAL, "model %s has a vocabulary of %lld, but text as bytes needs 256", o->model,
                          (long long)t->shape.vocab);
    }
    if (status == SHERD_OK && t->text.wide && o->sample > 0) {
        status = cli_fail(err, SHERD_EINVAL,
                          "--sample continues text, but --data %.200s holds tokens; leave --sample out", o->data[0]);
    }
    if (status == SHERD_OK) {
        status = cli_resume_find(o, t->steps, &t->resume, err);
    }
    if (status == SHERD_OK && o->init != NULL && t->resume.from.folder[0] == '\0') {
        status = cli_init_look(o->init, &t->shape, err);
    }
    if (status == SHERD_OK) {
        status = cli_resume_batch(&t->resume, cli_world(o), &t->config, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    t->windows = windows_of(&t->text, o->seq);
    if (t->windows < 1) {
        return too_short(o->data[0], &t->text, o->seq, err);
    }
    status = prepare_validation(t, err);
    if (status != SHERD_OK) {
        return status;
    }
    if (o->log != NULL && cli_is_first()) {
        t->log = fopen(o->log, t->resume.from.folder[0] != '\0' ? "a" : "w");
        status = t->log != NULL
                     ? SHERD_OK
                     : cli_fail(err, SHERD_EIO, "--log %.300s: cannot be written: %s", o->log, strerror(errno));
    }
    if (status == SHERD_OK && cli_is_first()) {
        status = cli_monitor_open(&t->config, t->resume.from.step, &t->monitor, err);
    }
    return status;
}
