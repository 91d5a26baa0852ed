/* SPDX-License-Identifier: MIT
 *
 * {"metadata": {...}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors", ...}}. Somebody else
 * wrote it, and it names files to be opened: a name that could lead out of the folder is refused. metadata.total_size
 * is not looked at, as published files have it wrong; each file's own lengths are checked when it is opened.
 */
#include "cli/index.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

enum { FILE_NAME_MAX = 255 };

/* Why `file` is not the name of a safetensors file beside the index; NULL: it is. */
static const char *fault_of(const char *file)
{
    static const char ending[] = ".safetensors";
    size_t length = strlen(file), tail = sizeof ending - 1;

    if (strchr(file, '/') != NULL || strchr(file, '\\') != NULL) {
        return "leads to another folder";
    }
    for (const char *c = file; *c != '\0'; c++) {
        if ((unsigned char)*c < ' ' || *c == 0x7f) {
            return "has control characters";
        }
    }
    if (file[0] == '.' || length <= tail || length > FILE_NAME_MAX || strcmp(file + length - tail, ending) != 0) {
        return "is no safetensors file's name";
    }
    return NULL;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static sherd_status list_files(json_t *map, const char *name, cli_index *index, sherd_error *err)
{
    const char *tensor;
    json_t *value;
    size_t n = 0;

    json_object_foreach(map, tensor, value)
    {
        const char *file = json_string_value(value), *fault = file == NULL ? "is no text" : fault_of(file);

        if (fault != NULL) {
            return cli_fail(err, SHERD_EINVAL, "%.200s: weight_map: the file of tensor '%.120s'%s%.80s%s %s", name,
                            tensor, file != NULL ? ", '" : "", file != NULL ? file : "", file != NULL ? "'," : "",
                            fault);
        }
        index->files[index->n_files++] = file;
    }
    qsort(index->files, index->n_files, sizeof *index->files, by_bytes);
    for (size_t i = 0; i < index->n_files; i++) {
        if (n == 0 || strcmp(index->files[n - 1], index->files[i]) != 0) {
            index->files[n++] = index->files[i];
        }
    }
    index->n_files = n;
    return SHERD_OK;
}

sherd_status cli_index_parse(const char *text, size_t bytes, const char *name, cli_index *out, sherd_error *err)
{
    cli_index index = {.root = NULL};
    json_error_t fault;
    json_t *map;
    sherd_status status;

    index.root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &fault);
    if (index.root == NULL) {
        return cli_fail(err, SHERD_EINVAL, "%.200s: line %d: %.160s", name, fault.line, fault.text);
    }
    map = json_object_get(index.root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0) {
        status = cli_fail(err, SHERD_EINVAL,
                          "%.200s: has no weight_map of tensors; give an index as Hugging Face writes it", name);
        goto free_index;
    }
    index.files = malloc(json_object_size(map) * sizeof *index.files);
    status = index.files != NULL
                 ? list_files(map, name, &index, err)
                 : cli_fail(err, SHERD_ENOMEM, "%.200s: no memory for its %zu tensors", name, json_object_size(map));
    if (status == SHERD_OK) {
        *out = index;
        return SHERD_OK;
    }
free_index:
    cli_index_free(&index);
    return status;
}

void cli_index_free(cli_index *index)
{
    free(index->files);
    json_decref(index->root);
    *index = (cli_index){.root = NULL};
}

static long place_of(const cli_index *index, const char *file)
{
    const char **found = bsearch(&file, index->files, index->n_files, sizeof *index->files, by_bytes);

    return found != NULL ? (long)(found - index->files) : -1;
}

long cli_index_find(const cli_index *index, const char *tensor)
{
    const char *file = json_string_value(json_object_get(json_object_get(index->root, "weight_map"), tensor));

    return file != NULL ? place_of(index, file) : -1;
}

const char *cli_index_first_unknown(const cli_index *index, int (*known)(void *ctx, const char *tensor, size_t file),
                                    void *ctx)
{
    const char *tensor;
    json_t *value;

    json_object_foreach(json_object_get(index->root, "weight_map"), tensor, value)
    {
        if (!known(ctx, tensor, (size_t)place_of(index, json_string_value(value)))) {
            return tensor;
        }
    }
    return NULL;
}
