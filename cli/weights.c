/* SPDX-License-Identifier: MIT
 *
 * One file is a table of its own. With an index, what it says must be what the files hold, both ways: a tensor that is
 * missing, or in another file, or in two, is named before anything is read.
 */
#include "cli/weights.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/index.h"

enum { PATH_BYTES = 4096 };
static const long index_bytes_max = 64l << 20;

struct cli_weights {
    cli_index index; /* zeros: one file alone */
    size_t n;
    sherd_safetensors **file; /* [n] */
    size_t *first;            /* [n + 1] of its tensors, among all */
};

static sherd_status open_file(cli_weights *weights, size_t i, const char *path, sherd_error *err)
{
    sherd_status status = sherd_safetensors_open(path, NULL, &weights->file[i], err);

    if (status == SHERD_OK) {
        weights->first[i + 1] = weights->first[i] + sherd_safetensors_count(weights->file[i]);
        weights->n = i + 1;
    }
    return status;
}

static sherd_status make_room(cli_weights *weights, size_t files, const char *path, sherd_error *err)
{
    weights->file = calloc(files, sizeof(sherd_safetensors *));
    weights->first = calloc(files + 1, sizeof *weights->first);
    if (weights->file == NULL || weights->first == NULL) {
        return cli_fail(err, SHERD_ENOMEM, "%.200s: no memory for %zu files", path, files);
    }
    return SHERD_OK;
}

/* ---- index against files */

static int in_its_file(void *ctx, const char *tensor, size_t file)
{
    const cli_weights *weights = ctx;

    return sherd_safetensors_find(weights->file[file], tensor) >= 0;
}

static sherd_status check_missing(cli_weights *weights, const char *path, sherd_error *err)
{
    const char *tensor = cli_index_first_unknown(&weights->index, in_its_file, weights);

    if (tensor == NULL) {
        return SHERD_OK;
    }
    return cli_fail(err, SHERD_EINVAL, "%.200s: tensor '%.120s' is not in %.120s, where the index says it is", path,
                    tensor, weights->index.files[cli_index_find(&weights->index, tensor)]);
}

static sherd_status check_others(const cli_weights *weights, const char *path, sherd_error *err)
{
    sherd_tensor_info info;

    for (size_t f = 0; f < weights->n; f++) {
        for (size_t i = 0; i < sherd_safetensors_count(weights->file[f]); i++) {
            sherd_status status = sherd_safetensors_info(weights->file[f], i, &info);
            long place = status == SHERD_OK ? cli_index_find(&weights->index, info.name) : -1;

            if (place < 0) {
                return cli_fail(err, SHERD_EINVAL,
                                "%.200s: %.120s holds tensor '%.120s', which the index does not name", path,
                                weights->index.files[f], info.name);
            }
            if ((size_t)place != f) {
                return cli_fail(err, SHERD_EINVAL,
                                "%.200s: tensor '%.120s' is in %.120s and in %.120s; one is too much", path, info.name,
                                weights->index.files[place], weights->index.files[f]);
            }
        }
    }
    return SHERD_OK;
}

/* ---- opening */

static sherd_status read_text(const char *path, char **text, size_t *bytes, sherd_error *err)
{
    FILE *file = fopen(path, "rb");
    sherd_status status = SHERD_OK;
    long size;

    if (file == NULL) {
        return cli_fail(err, SHERD_EIO, "%.300s: cannot be opened: %s", path, strerror(errno));
    }
    size = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (size < 0 || size > index_bytes_max || fseek(file, 0, SEEK_SET) != 0) {
        status = cli_fail(err, SHERD_EINVAL, "%.300s: is no index: a file of at most %ld bytes", path, index_bytes_max);
        goto close_file;
    }
    *text = malloc((size_t)size + 1);
    if (*text == NULL) {
        status = cli_fail(err, SHERD_ENOMEM, "%.300s: no memory for its %ld bytes", path, size);
        goto close_file;
    }
    *bytes = fread(*text, 1, (size_t)size, file);
    if (ferror(file)) {
        status = cli_fail(err, SHERD_EIO, "%.300s: cannot be read: %s", path, strerror(errno));
    }
close_file:
    fclose(file);
    return status;
}

static sherd_status open_files(cli_weights *weights, const char *path, sherd_error *err)
{
    const char *slash = strrchr(path, '/');
    int folder = slash != NULL ? (int)(slash + 1 - path) : 0;
    sherd_status status = make_room(weights, weights->index.n_files, path, err);

    for (size_t i = 0; i < weights->index.n_files && status == SHERD_OK; i++) {
        char name[PATH_BYTES];

        snprintf(name, sizeof name, "%.*s%s", folder, path, weights->index.files[i]);
        status = open_file(weights, i, name, err);
    }
    if (status == SHERD_OK) {
        status = check_missing(weights, path, err);
    }
    return status == SHERD_OK ? check_others(weights, path, err) : status;
}

static sherd_status open_index(cli_weights *weights, const char *path, sherd_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    sherd_status status = read_text(path, &text, &bytes, err);

    if (status == SHERD_OK) {
        status = cli_index_parse(text, bytes, path, &weights->index, err);
    }
    free(text);
    return status == SHERD_OK ? open_files(weights, path, err) : status;
}

/* What of a folder is meant; 0: nothing that is there. */
static int look_into(const char *folder, char file[PATH_BYTES])
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    struct stat facts;

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (snprintf(file, PATH_BYTES, "%s/%s", folder, names[i]) < PATH_BYTES && stat(file, &facts) == 0) {
            return 1;
        }
    }
    return 0;
}

static sherd_status open_path(cli_weights *weights, const char *path, sherd_error *err)
{
    size_t length = strlen(path);
    char inner[PATH_BYTES];
    struct stat facts;
    sherd_status status;

    if (length >= PATH_BYTES / 2) {
        return cli_fail(err, SHERD_EINVAL, "a path of %zu bytes is too long", length);
    }
    if (stat(path, &facts) == 0 && S_ISDIR(facts.st_mode)) {
        if (!look_into(path, inner)) {
            return cli_fail(err, SHERD_EIO, "%.200s: holds neither model.safetensors nor model.safetensors.index.json",
                            path);
        }
        path = inner;
        length = strlen(path);
    }
    if (length > 5 && strcmp(path + length - 5, ".json") == 0) {
        return open_index(weights, path, err);
    }
    status = make_room(weights, 1, path, err);
    return status == SHERD_OK ? open_file(weights, 0, path, err) : status;
}

sherd_status cli_weights_open(const char *path, cli_weights **out, sherd_error *err)
{
    cli_weights *weights = calloc(1, sizeof *weights);
    sherd_status status =
        weights != NULL ? open_path(weights, path, err) : cli_fail(err, SHERD_ENOMEM, "no memory for %.200s", path);

    if (status != SHERD_OK) {
        cli_weights_close(weights);
        return status;
    }
    *out = weights;
    return SHERD_OK;
}

void cli_weights_close(cli_weights *weights)
{
    if (weights == NULL) {
        return;
    }
    for (size_t i = 0; i < weights->n; i++) {
        sherd_safetensors_close(weights->file[i]);
    }
    cli_index_free(&weights->index);
    free(weights->file);
    free(weights->first);
    free(weights);
}

/* ---- as one table */

size_t cli_weights_count(const cli_weights *weights)
{
    return weights->first[weights->n];
}

/* The file of tensor `index`, which becomes its place there. */
static const sherd_safetensors *locate(const cli_weights *weights, size_t *index)
{
    size_t f = 0;

    while (f + 1 < weights->n && *index >= weights->first[f + 1]) {
        f++;
    }
    *index -= weights->first[f];
    return weights->file[f];
}

sherd_status cli_weights_info(const cli_weights *weights, size_t index, sherd_tensor_info *out)
{
    const sherd_safetensors *file = locate(weights, &index);

    return sherd_safetensors_info(file, index, out);
}

int64_t cli_weights_find(const cli_weights *weights, const char *name)
{
    long f = weights->index.root != NULL ? cli_index_find(&weights->index, name) : 0;
    int64_t place = f >= 0 ? sherd_safetensors_find(weights->file[f], name) : -1;

    return place >= 0 ? (int64_t)weights->first[f] + place : -1;
}

sherd_status cli_weights_read(const cli_weights *weights, size_t index, int64_t first, int64_t elems, float *values,
                              sherd_error *err)
{
    const sherd_safetensors *file = locate(weights, &index);

    return sherd_safetensors_read_fp32(file, index, first, elems, values, err);
}
