/* SPDX-License-Identifier: MIT
 *
 * Text as bytes: the files given, and those of the folders given, in the order of their names, one behind the
 * other. Read once before ranks exist, so that forked ranks share the pages.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/data.h"

enum { FOLDER_DEPTH = 16 };

static sherd_status append_file(cli_text *text, const char *path, uint64_t size, sherd_error *err)
{
    FILE *file = fopen(path, "rb");
    sherd_status status = SHERD_OK;
    size_t capacity = text->size + size + 1, got;
    unsigned char *larger;

    if (file == NULL) {
        return cli_fail(err, SHERD_EIO, "%.300s: cannot be opened: %s", path, strerror(errno));
    }
    larger = realloc(text->bytes, capacity);
    if (larger == NULL) {
        status = cli_fail(err, SHERD_ENOMEM, "%.300s: no memory for its %llu bytes", path, (unsigned long long)size);
        goto close_file;
    }
    text->bytes = larger;
    got = fread(text->bytes + text->size, 1, size, file);
    if (ferror(file)) {
        status = cli_fail(err, SHERD_EIO, "%.300s: cannot be read: %s", path, strerror(errno));
        goto close_file;
    }
    text->size += got;
    text->files++;
close_file:
    fclose(file);
    return status;
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* bytes, not the locale's order: the same everywhere */
}

static sherd_status append_path(cli_text *text, const char *path, int depth, sherd_error *err);

static sherd_status append_folder(cli_text *text, const char *path, int depth, sherd_error *err)
{
    struct dirent **entries = NULL;
    sherd_status status = SHERD_OK;
    int n = scandir(path, &entries, not_hidden, by_name);

    if (n < 0) {
        return cli_fail(err, SHERD_EIO, "%.300s: cannot be listed: %s", path, strerror(errno));
    }
    for (int i = 0; i < n; i++) {
        size_t length = strlen(path) + strlen(entries[i]->d_name) + 2;
        char *inner = status == SHERD_OK ? malloc(length) : NULL;

        if (inner != NULL) {
            snprintf(inner, length, "%s/%s", path, entries[i]->d_name);
            status = append_path(text, inner, depth + 1, err);
        } else if (status == SHERD_OK) {
            status = cli_fail(err, SHERD_ENOMEM, "%.300s: no memory for its listing", path);
        }
        free(inner);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static sherd_status append_path(cli_text *text, const char *path, int depth, sherd_error *err)
{
    struct stat info;

    if (stat(path, &info) != 0) {
        return cli_fail(err, SHERD_EIO, "%.300s: %s", path, strerror(errno));
    }
    if (S_ISDIR(info.st_mode)) {
        return depth < FOLDER_DEPTH ? append_folder(text, path, depth, err)
                                    : cli_fail(err, SHERD_EINVAL, "%.300s: folders are nested more than %d deep", path,
                                               (int)FOLDER_DEPTH);
    }
    if (!S_ISREG(info.st_mode)) {
        return depth > 0 ? SHERD_OK : cli_fail(err, SHERD_EINVAL, "%.300s: is neither a file nor a folder", path);
    }
    return append_file(text, path, (uint64_t)info.st_size, err);
}

sherd_status cli_text_read(const char *const *paths, size_t n_paths, cli_text *out, sherd_error *err)
{
    cli_text text = {0};

    for (size_t i = 0; i < n_paths; i++) {
        sherd_status status = append_path(&text, paths[i], 0, err);

        if (status != SHERD_OK) {
            cli_text_free(&text);
            return status;
        }
    }
    *out = text;
    return SHERD_OK;
}

void cli_text_free(cli_text *text)
{
    free(text->bytes);
    *text = (cli_text){0};
}
