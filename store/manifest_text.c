/* SPDX-License-Identifier: MIT */
#include "store/manifest_text.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"

/* Every one of these takes its value's reference; NULL values (no memory, no UTF-8, a NaN) make them fail. */
static int set(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static json_t *hex64(uint64_t value)
{
    char text[17];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    return json_string(text);
}

static json_t *hex128(const uint8_t digest[SHERD__DIGEST_BYTES])
{
    char text[SHERD__DIGEST_TEXT];
    sherd__digest_text(digest, text);
    return json_string(text);
}

static int is_listed(const json_t *names, const char *name)
{
    return json_object_get(names, name) != NULL;
}

static sherd_status fail_name(const char *what, const char *name, sherd_error *err)
{
    return sherd__fail(err, SHERD_EINVAL, "%s '%.200s' comes twice in a manifest, or is no name that can be written",
                       what, name);
}

static json_t *param_object(const sherd__manifest_param *param)
{
    json_t *shape = json_array();
    for (uint32_t i = 0; i < param->ndim && i < SHERD_MAX_DIMS; i++)
        if (json_array_append_new(shape, json_integer(param->shape[i])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:s, s:I, s:b}", "name", param->name, "shape", shape, "dtype",
                     sherd_dtype_name(param->dtype), "group", (json_int_t)param->group, "frozen", param->frozen != 0);
}

static sherd_status add_params(const sherd__manifest *manifest, json_t *root, json_t *names, sherd_error *err)
{
    json_t *list = json_array();
    if (!set(root, "parameters", list))
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a manifest's text");
    for (uint32_t i = 0; i < manifest->n_params; i++) {
        const sherd__manifest_param *param = &manifest->params[i];
        if (is_listed(names, param->name) || !set(names, param->name, json_true()) ||
            json_array_append_new(list, param_object(param)) != 0)
            return fail_name("parameter", param->name, err);
    }
    return SHERD_OK;
}

static sherd_status add_files(const sherd__manifest *manifest, json_t *root, json_t *names, sherd_error *err)
{
    json_t *list = json_array();
    if (!set(root, "files", list))
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a manifest's text");
    for (uint32_t i = 0; i < manifest->n_files; i++) {
        const sherd__manifest_file *file = &manifest->files[i];
        json_t *one = json_pack("{s:s, s:I, s:o}", "name", file->name, "bytes", (json_int_t)file->bytes, "xxh3_128",
                                hex128(file->digest));
        if (file->bytes > (uint64_t)INT64_MAX || is_listed(names, file->name) || strchr(file->name, '/') != NULL ||
            !set(names, file->name, json_true())) {
            json_decref(one);
            return fail_name("file", file->name, err);
        }
        if (json_array_append_new(list, one) != 0)
            return fail_name("file", file->name, err);
    }
    return SHERD_OK;
}

static sherd_status add_notes(const sherd__manifest *manifest, json_t *root, sherd_error *err)
{
    json_t *notes = json_object();
    if (!set(root, "notes", notes))
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a manifest's text");
    for (uint32_t i = 0; i < manifest->n_notes; i++) {
        const sherd__manifest_note *note = &manifest->notes[i];
        if (is_listed(notes, note->key) || !set(notes, note->key, json_string(note->value)))
            return fail_name("note", note->key, err);
    }
    return SHERD_OK;
}

static sherd_status add_scalars(const sherd__manifest *m, json_t *root, sherd_error *err)
{
    json_t *states = json_array();
    int good = isfinite(m->loss_scale.scale) && isfinite(m->lr) && m->n_states <= SHERD__MANIFEST_STATES_MAX;
    for (uint32_t i = 0; good && i < m->n_states; i++)
        good = json_array_append_new(states, json_string(m->states[i])) == 0;
    /* json_real is NULL for what JSON cannot write: the test above says it in time. */
    good = set(root, "states", states) && good && set(root, "format", json_integer(SHERD__MANIFEST_FORMAT)) &&
           set(root, "step", json_integer(m->step)) && set(root, "updates", json_integer(m->updates)) &&
           set(root, "world", json_integer(m->world)) && set(root, "stage", json_integer(m->stage)) &&
           set(root, "optimizer", json_string(m->optimizer)) &&
           set(root, "sampler",
               json_pack("{s:o, s:o}", "seed", hex64(m->sampler.seed), "position", hex64(m->sampler.position))) &&
           set(root, "loss_scale",
               json_pack("{s:f, s:I, s:I, s:I}", "scale", m->loss_scale.scale, "good_steps",
                         (json_int_t)m->loss_scale.good_steps, "hysteresis", (json_int_t)m->loss_scale.hysteresis,
                         "skipped", (json_int_t)m->loss_scale.skipped)) &&
           set(root, "lr", json_real(m->lr)) && set(root, "param_hash", hex128(m->param_hash)) &&
           set(root, "state_hash", hex128(m->state_hash));
    return good ? SHERD_OK
                : sherd__fail(err, SHERD_EINVAL,
                              "a manifest's scalars cannot be written: a loss scale or rate that is not "
                              "finite, too many states, or no memory");
}

/* The checksum's place is the first thing in the text; fills it in. */
static sherd_status seal(const sherd__manifest *manifest, const char *text, char **out, uint64_t *bytes,
                         sherd_error *err)
{
    uint64_t length = strlen(text);
    char *copy = sherd__alloc(&manifest->own.allocator, 1, length + 1);
    uint8_t digest[SHERD__DIGEST_BYTES];
    char digits[SHERD__DIGEST_TEXT];
    if (!copy)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a manifest's text of %" PRIu64 " bytes", length);
    memcpy(copy, text, length);
    sherd__hash_plain(copy, length, digest);
    sherd__digest_text(digest, digits);
    memcpy(copy + SHERD__MANIFEST_SUM_AT, digits, SHERD__DIGEST_TEXT - 1);
    *out = copy;
    *bytes = length;
    return SHERD_OK;
}

sherd_status sherd__manifest_to_text(const sherd__manifest *manifest, char **out, uint64_t *bytes, sherd_error *err)
{
    json_t *root = json_object(), *params = json_object(), *files = json_object();
    char *text = NULL;
    sherd_status status = SHERD_OK;
    if (!params || !files || !set(root, "checksum", json_string(SHERD__MANIFEST_ZEROS)))
        status = sherd__fail(err, SHERD_ENOMEM, "no memory for a manifest's text");
    if (status == SHERD_OK)
        status = add_scalars(manifest, root, err);
    if (status == SHERD_OK)
        status = add_params(manifest, root, params, err);
    if (status == SHERD_OK)
        status = add_files(manifest, root, files, err);
    if (status == SHERD_OK)
        status = add_notes(manifest, root, err);
    if (status == SHERD_OK && !(text = json_dumps(root, JSON_INDENT(1))))
        status = sherd__fail(err, SHERD_ENOMEM, "no memory for a manifest's text");
    if (status == SHERD_OK)
        status = seal(manifest, text, out, bytes, err);
    free(text);
    json_decref(files);
    json_decref(params);
    json_decref(root);
    return status;
}
