/* SPDX-License-Identifier: MIT
 *
 * The tree against the table. Everything is validated before anything is refused, so that a file with a misspelt
 * key and an unbuilt feature is told about the key. The depth is that of the table (three), not of the text.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "config/source.h"

typedef struct walk {
    const sherd__source *source;
    sherd__draft *draft;
    sherd_error *err;
    uint32_t members;        /* parameters that the optimizer and the scheduler have */
    int optimizer_open, scheduler_open; /* their type is not built: its parameters are not ours to judge */
    int quiet;               /* inside a section that warns as a whole, or not at all */
    int changed;             /* keys without effect that were not at their default, in this section */
    int refused;             /* refusal holds the first one */
    sherd_error refusal;
} walk;

static sherd_status walk_section(walk *w, json_t *object, const char *section);

static void refuse(walk *w, const sherd__key *key, json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(12));

    if (!w->refused) {
        sherd__source_fail(w->source, key->path, &w->refusal, SHERD_EUNSUPPORTED, "%.60s is refused: %s",
                           text != NULL ? text : "this", key->note);
    }
    w->refused = 1;
    free(text);
}

static void no_effect(walk *w, const sherd__key *key)
{
    w->changed = 1;
    if (!w->quiet) {
        sherd__source_log(w->source, SHERD_LOG_WARNING, key->path, "has no effect: %s", key->note);
    }
}

/* A section without effect is told about once: if it is enabled, or, where nothing enables it, if anything in it
 * differs from the defaults. */
static sherd_status walk_quiet_section(walk *w, const sherd__key *key, json_t *object)
{
    char path[SHERD__PATH_MAX];
    int quiet = w->quiet, changed = w->changed, told;
    sherd_status status;

    w->quiet = 1;
    w->changed = 0;
    status = walk_section(w, object, key->path);
    snprintf(path, sizeof path, "%s.enabled", key->path);
    told = sherd__key_find(path) != NULL ? json_is_true(json_object_get(object, "enabled")) : w->changed;
    w->quiet = quiet;
    w->changed = changed;
    if (status == SHERD_OK && told && key->status == SHERD_KEY_NO_EFFECT) {
        no_effect(w, key);
    }
    return status;
}

static sherd_status walk_object(walk *w, const sherd__key *key, json_t *object)
{
    if (key->flags & SHERD__KEY_OPEN) {
        if (key->status == SHERD_KEY_REFUSED) {
            refuse(w, key, object);
        } else if (json_object_size(object) > 0) {
            no_effect(w, key);
        }
        return SHERD_OK;
    }
    if ((w->optimizer_open && strcmp(key->path, "optimizer.params") == 0) ||
        (w->scheduler_open && strcmp(key->path, "scheduler.params") == 0)) {
        return SHERD_OK;
    }
    if (key->status == SHERD_KEY_NO_EFFECT || (key->flags & SHERD__KEY_QUIET)) {
        return walk_quiet_section(w, key, object);
    }
    return walk_section(w, object, key->path);
}

static sherd_status walk_value(walk *w, const sherd__key *key, json_t *value)
{
    char why[320];

    if (key->flags & SHERD__KEY_FORBIDDEN) {
        return sherd__source_fail(w->source, key->path, w->err, SHERD_EINVAL, "%s", key->note);
    }
    if (key->members != 0 && (key->members & w->members) == 0) {
        return sherd__source_fail(w->source, key->path, w->err, SHERD_EINVAL, "%s has no such parameter, remove it",
                                  key->path[0] == 'o' ? "this optimizer" : "this scheduler");
    }
    if (json_is_null(value) ||
        (json_is_string(value) && strcmp(json_string_value(value), "auto") == 0 && key->type != SHERD__OBJECT &&
         key->type != SHERD__BYTES)) {
        return SHERD_OK;
    }
    if (sherd__value_store(key, value, w->draft, why, sizeof why) != SHERD_OK) {
        return sherd__source_fail(w->source, key->path, w->err, SHERD_EINVAL, "%s", why);
    }
    if (key->type == SHERD__OBJECT) {
        return walk_object(w, key, value);
    }
    if (sherd__value_is_refused(key, value)) {
        refuse(w, key, value);
    } else if (key->status == SHERD_KEY_NO_EFFECT && !sherd__value_is_default(key, value)) {
        no_effect(w, key);
    }
    return SHERD_OK;
}

static sherd_status unknown_key(walk *w, const char *section, const char *name, const char *path)
{
    const char *near = sherd__key_nearest(section, name);
    char hint[224];

    snprintf(hint, sizeof hint, near != NULL ? "did you mean %s?" : "remove it", near);
    if (section[0] == '\0') {
        sherd__source_log(w->source, SHERD_LOG_WARNING, path, "unknown key, ignored; %s", hint);
        return SHERD_OK;
    }
    return sherd__source_fail(w->source, path, w->err, SHERD_EINVAL, "unknown key, %s", hint);
}

static sherd_status walk_section(walk *w, json_t *object, const char *section)
{
    const char *name;
    json_t *value;

    json_object_foreach(object, name, value) {
        char path[SHERD__PATH_MAX];
        int length = snprintf(path, sizeof path, "%s%s%s", section, section[0] != '\0' ? "." : "", name);
        const sherd__key *key = sherd__key_find(path);
        int clash = strchr(name, '.') != NULL; /* "bf16.enabled" as one name is not the key bf16.enabled */
        sherd_status status;

        if (length < 0 || key == NULL || clash) {
            status = unknown_key(w, section, name, path);
        } else {
            status = walk_value(w, key, value);
        }
        if (status != SHERD_OK) {
            return status;
        }
    }
    return SHERD_OK;
}

/* Which parameters may stand in `section`.params. Without a valid type: all, since the type itself is what is wrong. */
static uint32_t members_of(json_t *root, const char *section, uint32_t all, int *open)
{
    char path[SHERD__PATH_MAX];
    json_t *type = json_object_get(json_object_get(root, section), "type");
    const sherd__key *key;
    int32_t index;
    uint32_t members;

    snprintf(path, sizeof path, "%s.type", section);
    key = sherd__key_find(path);
    index = json_is_string(type) ? sherd__key_choose(key, json_string_value(type)) : -1;
    members = index >= 0 ? sherd__key_members(key, index) : all;
    *open = index >= 0 && members == 0;
    return members;
}

/* A section that is there must say its type. */
static sherd_status check_type(walk *w, json_t *root, const char *section, int32_t type)
{
    char path[SHERD__PATH_MAX], expected[256];

    if (type >= 0 || !json_is_object(json_object_get(root, section))) {
        return SHERD_OK;
    }
    snprintf(path, sizeof path, "%s.type", section);
    return sherd__source_fail(w->source, path, w->err, SHERD_EINVAL, "is missing, give %s",
                              sherd__key_expects(sherd__key_find(path), expected, sizeof expected));
}

static int given(json_t *params, const char *name)
{
    const json_t *value = json_object_get(params, name);
    return value && !(json_is_string(value) && strcmp(json_string_value(value), "auto") == 0);
}

/* Adagrad's defaults are not those of the others. */
static void default_adagrad(sherd_config *config, json_t *root)
{
    json_t *params = json_object_get(json_object_get(root, "optimizer"), "params");
    if (!given(params, "lr")) {
        config->optimizer.lr = 1e-2;
    }
    if (!given(params, "eps")) {
        config->optimizer.eps = 1e-10;
    }
}

static sherd_status finish_optimizer(walk *w, json_t *root)
{
    json_t *params = json_object_get(json_object_get(root, "optimizer"), "params");
    sherd__draft *draft = w->draft;
    sherd_status status = check_type(w, root, "optimizer", draft->optimizer_type);

    if (status != SHERD_OK) {
        return status;
    }
    if (draft->optimizer_type >= 0 && draft->optimizer_type <= SHERD_MUON) {
        draft->config.optimizer.kind = (sherd_optimizer)draft->optimizer_type;
    }
    if (draft->config.optimizer.kind == SHERD_ADAM && draft->optimizer_type == SHERD_ADAM && draft->adam_w_mode) {
        draft->config.optimizer.kind = SHERD_ADAMW;
    }
    if (draft->config.optimizer.kind == SHERD_ADAGRAD) {
        default_adagrad(&draft->config, root);
    }
    if (draft->config.optimizer.kind == SHERD_MUON && !draft->adam_w_mode) {
        return sherd__source_fail(w->source, "optimizer.params.adam_w_mode", w->err, SHERD_EINVAL,
                                  "is false, but what is no matrix is updated by AdamW under Muon; remove it");
    }
    if (draft->config.optimizer.kind == SHERD_MUON && !given(params, "momentum")) {
        draft->config.optimizer.momentum = 0.95;
    }
    if (draft->optimizer_type == SHERD_ADAMW && !draft->adam_w_mode) {
        sherd__source_log(w->source, SHERD_LOG_WARNING, "optimizer.params.adam_w_mode",
                          "has no effect: AdamW always decays weights apart from the gradient; write \"type\": "
                          "\"Adam\"");
    }
    if (!json_is_object(json_object_get(root, "optimizer")) && draft->config.optimizer.kind == SHERD_ADAMW) {
        sherd__source_log(w->source, SHERD_LOG_INFO, "",
                          "no optimizer section, so AdamW with lr %g, betas [%g, %g], eps %g, weight_decay %g",
                          draft->config.optimizer.lr, draft->config.optimizer.beta1, draft->config.optimizer.beta2,
                          draft->config.optimizer.eps, draft->config.optimizer.weight_decay);
    }
    return SHERD_OK;
}

static sherd_status check_total(walk *w)
{
    const sherd_config *config = &w->draft->config;

    if (config->scheduler.total_num_steps <= 0) {
        return sherd__source_fail(w->source, "scheduler.params.total_num_steps", w->err, SHERD_EINVAL,
                                  "is missing, give the number of updates of the whole run");
    }
    if (config->scheduler.total_num_steps < config->scheduler.warmup_num_steps) {
        sherd__source_log(w->source, SHERD_LOG_WARNING, "scheduler.params.total_num_steps",
                          "%lld is less than warmup_num_steps, %lld, so the warm-up is never over",
                          (long long)config->scheduler.total_num_steps, (long long)config->scheduler.warmup_num_steps);
    }
    return SHERD_OK;
}

static sherd_status check_cycle(walk *w, json_t *root)
{
    static const char *const needed[] = {"cycle_min_lr", "cycle_max_lr"};
    const sherd_config *config = &w->draft->config;
    json_t *params = json_object_get(json_object_get(root, "scheduler"), "params");

    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        char path[SHERD__PATH_MAX];

        if (json_is_number(json_object_get(params, needed[i]))) {
            continue;
        }
        snprintf(path, sizeof path, "scheduler.params.%s", needed[i]);
        return sherd__source_fail(w->source, path, w->err, SHERD_EINVAL,
                                  "is missing, give a learning rate; OneCycle has no default for it");
    }
    if (config->one_cycle.cycle_momentum &&
        (config->optimizer.kind == SHERD_SGD || config->optimizer.kind == SHERD_ADAGRAD ||
         config->optimizer.kind == SHERD_MUON)) {
        sherd__source_log(w->source, SHERD_LOG_WARNING, "scheduler.type",
                          "cycle_momentum has no effect on this optimizer");
    }
    return SHERD_OK;
}

static sherd_status finish_scheduler(walk *w, json_t *root)
{
    int32_t type = w->draft->scheduler_type;
    sherd_status status = check_type(w, root, "scheduler", type);

    if (status != SHERD_OK || type < 0) {
        return status;
    }
    w->draft->config.scheduler.kind = (sherd_scheduler)(SHERD_SCHED_WARMUP + type);
    switch (w->draft->config.scheduler.kind) {
    case SHERD_SCHED_WARMUP_DECAY:
    case SHERD_SCHED_WARMUP_COSINE:
        return check_total(w);
    case SHERD_SCHED_ONE_CYCLE:
        return check_cycle(w, root);
    case SHERD_SCHED_NONE:
    case SHERD_SCHED_WARMUP:
    case SHERD_SCHED_LR_RANGE_TEST:
        break;
    }
    return SHERD_OK;
}

/* The old form, and what a tier needs. */
static sherd_status finish_offload(walk *w)
{
    sherd__draft *draft = w->draft;

    if (draft->cpu_offload && draft->offload_device <= SHERD_TIER_DEVICE) {
        draft->offload_device = SHERD_TIER_HOST;
    }
    if (draft->offload_device >= 0) {
        draft->config.offload.tier = (sherd_tier)draft->offload_device;
    }
    if (draft->config.offload.tier == SHERD_TIER_DISK && draft->config.offload.nvme_path[0] == '\0') {
        return sherd__source_fail(w->source, "zero_optimization.offload_optimizer.nvme_path", w->err, SHERD_EINVAL,
                                  "is missing, give the folder (or several, separated by ':') of the disk tier");
    }
    return SHERD_OK;
}

static void finish_wire(walk *w)
{
    sherd__draft *draft = w->draft;

    if (draft->communication_dtype < 0) {
        return;
    }
    draft->config.wire = (sherd_wire)(draft->communication_dtype + 1);
    if (draft->config.wire == SHERD_WIRE_FP32 && draft->config.dtype != SHERD_FP32) {
        sherd__source_log(w->source, SHERD_LOG_INFO, "communication_data_type",
                          "\"fp32\" changes no bit: gradients are summed in fp32 whatever their type, and travel in "
                          "their own");
    }
    if (draft->config.wire == SHERD_WIRE_FP16 && draft->config.scaling.kind == SHERD_SCALING_NONE) {
        sherd__source_log(w->source, SHERD_LOG_INFO, "communication_data_type",
                          "\"fp16\" without a loss scale: gradients up to 2^-25 become 0, those from 65520 on infinite, "
                          "and such a step is one whose gradients are not finite; \"bf16\" has the range of fp32");
    }
}

static sherd_status finish_types(walk *w)
{
    sherd__draft *draft = w->draft;

    if (draft->fp16_enabled && draft->bf16_enabled) {
        return sherd__source_fail(w->source, "fp16.enabled", w->err, SHERD_EINVAL,
                                  "fp16 and bf16 are both enabled, set one of them to false");
    }
    draft->config.dtype = draft->bf16_enabled ? SHERD_BF16 : draft->fp16_enabled ? SHERD_FP16 : SHERD_FP32;
    if (draft->fp16_enabled) {
        draft->config.scaling.kind =
            draft->config.scaling.loss_scale > 0 ? SHERD_SCALING_STATIC : SHERD_SCALING_DYNAMIC;
        draft->config.check_grad_overflow = 1;
    }
    if (draft->config.faults.nonfinite == SHERD_NONFINITE_STOP && draft->config.scaling.kind == SHERD_SCALING_DYNAMIC) {
        return sherd__source_fail(w->source, "sherd.nonfinite", w->err, SHERD_EINVAL,
                                  "\"stop\" does not go with a dynamic loss scale, which finds its value by overflows and stops by "
                                  "itself at fp16.min_loss_scale; leave it out, or give fp16.loss_scale a value");
    }
    finish_wire(w);
    return SHERD_OK;
}

sherd_status sherd__walk(const sherd__source *source, json_t *root, sherd__draft *draft, sherd_error *err)
{
    walk w = {.source = source, .draft = draft, .err = err};
    sherd_status status;

    w.members = members_of(root, "optimizer", SHERD__FOR_OPTIMIZERS, &w.optimizer_open) |
                members_of(root, "scheduler", SHERD__FOR_SCHEDULERS, &w.scheduler_open);
    status = walk_section(&w, root, "");
    if (status == SHERD_OK) {
        status = finish_types(&w);
    }
    if (status == SHERD_OK) {
        status = finish_optimizer(&w, root);
    }
    if (status == SHERD_OK) {
        status = finish_scheduler(&w, root);
    }
    if (status == SHERD_OK) {
        status = finish_offload(&w);
    }
    if (status == SHERD_OK && w.refused) {
        status = sherd__pass(err, &w.refusal);
    }
    return status;
}
