/* SPDX-License-Identifier: MIT
 *
 * Text → record. The checksum comes first; every value is checked all the same, as a text may have been made to fit its
 * checksum.
 */
#include "store/manifest_text.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "base/hash.h"

typedef struct reader {
    const char *name; /* of the file */
    char place[320];  /* what is being read, for the sentence: "parameters[3] " */
    sherd_error *err;
    sherd_status status;
} reader;

/* The first fault stays. Returns 0 so that it can end a condition. */
static int fault(reader *in, const char *key, const char *what)
{
    if (in->status == SHERD_OK)
        in->status = sherd__fail(in->err, SHERD_EINVAL, "%.200s: %.40s%.60s: %s; it is no manifest of this version",
                                 in->name, in->place, key, what);
    return 0;
}

static int64_t get_int(reader *in, const json_t *object, const char *key, int64_t low, int64_t high)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_integer(value))
        return fault(in, key, "an integer is missing");
    if (json_integer_value(value) < low || json_integer_value(value) > high)
        return fault(in, key, "the number is out of range");
    return json_integer_value(value);
}

static double get_real(reader *in, const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    if (!json_is_real(value))
        return fault(in, key, "a real number is missing");
    return json_real_value(value);
}

static int get_text(reader *in, const json_t *object, const char *key, char *out, size_t capacity)
{
    const json_t *value = json_object_get(object, key);
    const char *text = json_string_value(value);
    if (!text || json_string_length(value) >= capacity)
        return fault(in, key, "a text is missing, or too long");
    memcpy(out, text, json_string_length(value) + 1);
    return 1;
}

static void get_digest(reader *in, const json_t *object, const char *key, uint8_t out[SHERD__DIGEST_BYTES])
{
    const char *text = json_string_value(json_object_get(object, key));
    if (!text || !sherd__digest_of_text(text, out))
        fault(in, key, "32 hexadecimal digits are missing");
}

static uint64_t get_hex64(reader *in, const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    char whole[SHERD__DIGEST_TEXT] = SHERD__MANIFEST_ZEROS;
    uint8_t digits[SHERD__DIGEST_BYTES];
    uint64_t value = 0;
    if (!text || strlen(text) != 16)
        return (uint64_t)fault(in, key, "16 hexadecimal digits are missing");
    memcpy(whole + 16, text, 16);
    if (!sherd__digest_of_text(whole, digits))
        return (uint64_t)fault(in, key, "16 hexadecimal digits are missing");
    for (int i = 8; i < SHERD__DIGEST_BYTES; i++)
        value = value << 8 | digits[i];
    return value;
}

static void get_param(reader *in, const json_t *one, sherd__manifest_param *out)
{
    char dtype[8] = "";
    int known = 0;
    uint64_t elems = 1;
    const json_t *shape = json_object_get(one, "shape"), *frozen = json_object_get(one, "frozen");
    get_text(in, one, "name", out->name, sizeof out->name);
    get_text(in, one, "dtype", dtype, sizeof dtype);
    out->group = (uint32_t)get_int(in, one, "group", 0, SHERD_MAX_GROUPS - 1);
    out->frozen = json_is_true(frozen);
    for (int d = SHERD_FP32; d <= SHERD_FP16; d++)
        if (strcmp(dtype, sherd_dtype_name((sherd_dtype)d)) == 0) {
            out->dtype = (sherd_dtype)d;
            known = 1;
        }
    if (!known || !json_is_boolean(frozen) || out->name[0] == '\0')
        fault(in, "dtype, frozen or name", "it is missing or not known");
    if (!json_is_array(shape) || json_array_size(shape) > SHERD_MAX_DIMS) {
        fault(in, "shape", "a list of at most 8 sizes is missing");
        return;
    }
    out->ndim = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < out->ndim; i++) {
        const json_t *size = json_array_get(shape, i);
        out->shape[i] = json_integer_value(size);
        uint64_t factor = out->shape[i] > 0 ? (uint64_t)out->shape[i] : 1;
        if (!json_is_integer(size) || out->shape[i] < 0 || !sherd__mul_u64(elems, factor, &elems) ||
            elems > (uint64_t)INT64_MAX / 64)
            fault(in, "shape", "a size is negative or too large");
    }
}

static void get_file(reader *in, const json_t *one, sherd__manifest_file *out)
{
    get_text(in, one, "name", out->name, sizeof out->name);
    out->bytes = (uint64_t)get_int(in, one, "bytes", 0, INT64_MAX);
    get_digest(in, one, "xxh3_128", out->digest);
    /* A name that leads out of the folder would have other files read. */
    if (out->name[0] == '\0' || out->name[0] == '.' || strchr(out->name, '/') != NULL)
        fault(in, "name", "it is no name of a file in the checkpoint's folder");
}

/* Names of a list are unique. */
static void check_twice(reader *in, json_t *seen, const char *name)
{
    if (json_object_get(seen, name))
        fault(in, "name", "it comes twice");
    if (json_object_set_new(seen, name, json_true()) != 0 && in->status == SHERD_OK)
        in->status = sherd__fail(in->err, SHERD_ENOMEM, "no memory to read '%.300s'", in->name);
}

static void set_place(reader *in, const char *list, size_t index)
{
    snprintf(in->place, sizeof in->place, "%.30s[%zu].", list, index);
}

static void get_lists(reader *in, const json_t *root, sherd__manifest *out)
{
    json_t *params = json_object_get(root, "parameters"), *files = json_object_get(root, "files");
    json_t *seen_params = json_object(), *seen_files = json_object();
    for (uint32_t i = 0; i < out->n_params && in->status == SHERD_OK; i++) {
        set_place(in, "parameters", i);
        get_param(in, json_array_get(params, i), &out->params[i]);
        check_twice(in, seen_params, out->params[i].name);
    }
    for (uint32_t i = 0; i < out->n_files && in->status == SHERD_OK; i++) {
        set_place(in, "files", i);
        get_file(in, json_array_get(files, i), &out->files[i]);
        check_twice(in, seen_files, out->files[i].name);
    }
    in->place[0] = '\0';
    json_decref(seen_params);
    json_decref(seen_files);
}

static void get_notes(reader *in, json_t *root, sherd__manifest *out)
{
    const char *key;
    json_t *value, *notes = json_object_get(root, "notes");
    uint32_t i = 0;
    json_object_foreach(notes, key, value)
    {
        sherd__manifest_note *note = &out->notes[i++];
        if (strlen(key) >= sizeof note->key || !get_text(in, notes, key, note->value, sizeof note->value)) {
            fault(in, "notes", "a key or value is too long");
            return;
        }
        memcpy(note->key, key, strlen(key) + 1);
    }
}

static void get_scalars(reader *in, const json_t *root, sherd__manifest *out)
{
    const json_t *states = json_object_get(root, "states"), *sampler = json_object_get(root, "sampler");
    const json_t *scale = json_object_get(root, "loss_scale");
    out->step = get_int(in, root, "step", 0, INT64_MAX);
    out->updates = get_int(in, root, "updates", 0, INT64_MAX);
    out->world = (int32_t)get_int(in, root, "world", 1, INT32_MAX);
    out->stage = (int32_t)get_int(in, root, "stage", 0, 3);
    get_text(in, root, "optimizer", out->optimizer, sizeof out->optimizer);
    out->sampler.seed = get_hex64(in, sampler, "seed");
    out->sampler.position = get_hex64(in, sampler, "position");
    out->loss_scale.scale = get_real(in, scale, "scale");
    out->loss_scale.good_steps = get_int(in, scale, "good_steps", 0, INT64_MAX);
    out->loss_scale.hysteresis = get_int(in, scale, "hysteresis", 0, INT64_MAX);
    out->loss_scale.skipped = get_int(in, scale, "skipped", 0, INT64_MAX);
    out->lr = get_real(in, root, "lr");
    get_digest(in, root, "param_hash", out->param_hash);
    get_digest(in, root, "state_hash", out->state_hash);
    if (!json_is_array(states) || json_array_size(states) > SHERD__MANIFEST_STATES_MAX) {
        fault(in, "states", "a list of at most 8 names is missing");
        return;
    }
    out->n_states = (uint32_t)json_array_size(states);
    for (uint32_t i = 0; i < out->n_states; i++) {
        const json_t *one = json_array_get(states, i);
        if (!json_is_string(one) || json_string_length(one) >= sizeof out->states[i])
            fault(in, "states", "a name is too long or no text");
        else
            memcpy(out->states[i], json_string_value(one), json_string_length(one) + 1);
    }
}

static sherd_status get_all(reader *in, json_t *root, sherd__manifest *out)
{
    const json_t *params = json_object_get(root, "parameters"), *files = json_object_get(root, "files");
    const json_t *notes = json_object_get(root, "notes");
    get_int(in, root, "format", SHERD__MANIFEST_FORMAT, SHERD__MANIFEST_FORMAT);
    if (!json_is_array(params) || !json_is_array(files) || !json_is_object(notes) ||
        json_array_size(params) > UINT32_MAX)
        fault(in, "parameters, files or notes", "it is missing");
    if (in->status != SHERD_OK)
        return in->status;
    in->status = sherd__manifest_reserve(out, (uint32_t)json_array_size(params), (uint32_t)json_array_size(files),
                                         (uint32_t)json_object_size(notes), in->err);
    if (in->status != SHERD_OK)
        return in->status;
    get_scalars(in, root, out);
    get_lists(in, root, out);
    get_notes(in, root, out);
    return in->status;
}

static sherd_status check_sum(const char *text, uint64_t bytes, const char *name, sherd_error *err)
{
    static const char zeros[] = SHERD__MANIFEST_ZEROS;
    const size_t at = SHERD__MANIFEST_SUM_AT, end = at + sizeof zeros - 1;
    uint8_t said[SHERD__DIGEST_BYTES], digest[SHERD__DIGEST_BYTES];
    char digits[SHERD__DIGEST_TEXT] = "";
    sherd__digest *sum = NULL;
    if (bytes < end || memcmp(text, SHERD__MANIFEST_HEAD, at) != 0)
        return sherd__fail(err, SHERD_EINVAL, "%.200s: it does not begin with a checksum: it is no manifest", name);
    memcpy(digits, text + at, sizeof zeros - 1);
    sherd_status status = sherd__digest_create(&sum, err);
    if (status != SHERD_OK)
        return status;
    sherd__digest_add(sum, text, at);
    sherd__digest_add(sum, zeros, sizeof zeros - 1);
    sherd__digest_add(sum, text + end, bytes - end);
    sherd__digest_get(sum, digest);
    sherd__digest_destroy(sum);
    if (!sherd__digest_of_text(digits, said) || memcmp(said, digest, sizeof said) != 0)
        return sherd__fail(err, SHERD_EINVAL,
                           "%.200s: its checksum is wrong: it was changed or damaged, use another checkpoint", name);
    return SHERD_OK;
}

sherd_status sherd__manifest_parse(sherd__manifest *manifest, const char *text, uint64_t bytes, const char *name,
                                   sherd_error *err)
{
    reader in = {.name = name, .err = err, .status = SHERD_OK};
    json_error_t where;
    sherd_status status = check_sum(text, bytes, name, err);
    if (status != SHERD_OK)
        return status;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    status = json_is_object(root) ? get_all(&in, root, manifest)
                                  : sherd__fail(err, SHERD_EINVAL, "%.200s: line %d, column %d: %.100s", name,
                                                where.line, where.column, where.text);
    json_decref(root);
    if (status != SHERD_OK)
        sherd__manifest_fini(manifest);
    return status;
}
