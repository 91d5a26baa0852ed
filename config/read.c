/* SPDX-License-Identifier: MIT
 *
 * From a file, or text in memory, to a sherd_config: parse, lay the --set strings over, walk the table. The caller's
 * configuration changes only when everything was right.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "config/position.h"
#include "config/source.h"

enum { FILE_MAX = 16 << 20 }; /* far beyond any configuration: what is longer is the wrong file */

static sherd_status fail_parse(const sherd__source *source, const json_error_t *fault, sherd_error *err)
{
    char path[SHERD__PATH_MAX];
    size_t at = fault->position > 0 ? (size_t)fault->position : 0;
    sherd__position position = sherd__position_of_byte(source->text, source->bytes, at > 0 ? at - 1 : 0);
    const char *text = fault->text, *remedy = "correct the JSON";

    sherd__position_path_at(source->text, source->bytes, at, path, sizeof path);
    if (json_error_code(fault) == json_error_duplicate_key) {
        text = "the key is written twice";
        remedy = "keep one of them";
    }
    return sherd__fail(err, SHERD_EINVAL, "%.120s: line %u, column %u: %.120s%s%s, %s", source->name,
                       (unsigned)position.line, (unsigned)position.column, path, path[0] != '\0' ? ": " : "", text,
                       remedy);
}

/* zero_optimization: true is an old form of stage 1. */
static sherd_status normalise(json_t *root, sherd_error *err)
{
    json_t *zero = json_object_get(root, "zero_optimization");

    if (json_is_boolean(zero) &&
        json_object_set_new(root, "zero_optimization", json_pack("{s:i}", "stage", json_is_true(zero))) != 0) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the configuration");
    }
    return SHERD_OK;
}

static sherd_status read_source(const sherd__source *source, sherd_config *config, sherd_error *err)
{
    sherd__draft draft = {.adam_w_mode = 1, .communication_dtype = -1,
                          .offload_device = -1,
                          .optimizer_type = -1, .scheduler_type = -1};
    json_error_t fault;
    json_t *root = json_loadb(source->text, source->bytes, JSON_REJECT_DUPLICATES, &fault);
    sherd_status status;

    if (root == NULL) {
        return fail_parse(source, &fault, err);
    }
    if (!json_is_object(root)) {
        status = sherd__fail(err, SHERD_EINVAL, "%.120s: line 1, column 1: the text is a list, make it an object {...}",
                             source->name);
        goto free_root;
    }
    sherd__config_load(&draft.config, config);
    draft.bf16_enabled = draft.config.dtype == SHERD_BF16;
    draft.fp16_enabled = draft.config.dtype == SHERD_FP16;
    status = sherd__sets_apply(source, root, err);
    if (status == SHERD_OK) {
        status = normalise(root, err);
    }
    if (status == SHERD_OK) {
        status = sherd__walk(source, root, &draft, err);
    }
    if (status == SHERD_OK) {
        sherd__config_save(config, &draft.config);
    }
free_root:
    json_decref(root);
    return status;
}

sherd_status sherd_config_parse(sherd_config *config, const char *text, size_t bytes, const char *name,
                                const char *const *sets, size_t n_sets, const sherd_log *log, sherd_error *err)
{
    sherd__source source = {text, bytes, name != NULL ? name : "configuration", sets, n_sets, log};

    if (config == NULL || text == NULL || (sets == NULL && n_sets > 0)) {
        return sherd__fail(err, SHERD_EINVAL, "sherd_config_parse: config, text or sets is NULL");
    }
    if (config->size < sizeof config->size) {
        return sherd__fail(err, SHERD_EINVAL, "sherd_config_parse: config.size is %zu, call sherd_config_init first",
                           config->size);
    }
    if (bytes > FILE_MAX) {
        return sherd__fail(err, SHERD_EINVAL, "%.120s: %zu bytes, more than the %d a configuration may have",
                           source.name, bytes, FILE_MAX);
    }
    return read_source(&source, config, err);
}

/* The whole file, at most FILE_MAX bytes and one more that tells it is too long. */
static sherd_status read_file(const char *path, char **text, size_t *bytes, sherd_error *err)
{
    FILE *file = fopen(path, "rb");
    size_t capacity = 1 << 16, length = 0;
    char *buffer = NULL;
    sherd_status status = SHERD_OK;

    if (file == NULL) {
        return sherd__fail(err, SHERD_EIO, "%.200s: cannot be opened: %s", path, strerror(errno));
    }
    do {
        char *larger = realloc(buffer, capacity *= 2);

        if (larger == NULL) {
            status = sherd__fail(err, SHERD_ENOMEM, "%.200s: no memory to read it", path);
            break;
        }
        buffer = larger;
        length += fread(buffer + length, 1, capacity - length, file);
    } while (length == capacity && length <= FILE_MAX);
    if (status == SHERD_OK && ferror(file)) {
        status = sherd__fail(err, SHERD_EIO, "%.200s: cannot be read: %s", path, strerror(errno));
    }
    fclose(file);
    if (status != SHERD_OK) {
        free(buffer);
        return status;
    }
    *text = buffer;
    *bytes = length;
    return SHERD_OK;
}

sherd_status sherd_config_read(sherd_config *config, const char *path, const char *const *sets, size_t n_sets,
                               const sherd_log *log, sherd_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    sherd_status status;

    if (path == NULL) {
        return sherd_config_parse(config, "{}", 2, "no configuration file", sets, n_sets, log, err);
    }
    status = read_file(path, &text, &bytes, err);
    if (status == SHERD_OK) {
        status = sherd_config_parse(config, text, bytes, path, sets, n_sets, log, err);
    }
    free(text);
    return status;
}
