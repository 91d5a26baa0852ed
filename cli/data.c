/* SPDX-License-Identifier: MIT
 *
 * Text as bytes, or tokens of token files: the files given, and those of the folders given, in the order of their
 * names, one behind the other. Read once before ranks exist, so that forked ranks share the pages.
 */
#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"
#include "cli/data.h"
#include "cli/tokens.h"

enum { FOLDER_DEPTH = 16 };

/* What is being read, and by what it is measured. */
typedef struct reading {
    cli_text text;
    int64_t vocab;
} reading;

/* The file's bytes lie behind the text: keeps them, of a token file without its header. */
static sherd_status accept_file(reading *r, const char *path, uint64_t bytes, sherd_error *err)
{
    unsigned char *file = r->text.bytes + r->text.size;
    int wide = cli_tokens_begin(file, bytes);
    uint64_t count = 0;
    sherd_status status = SHERD_OK;

    if (bytes > 0 && r->text.size > 0 && wide != r->text.wide) {
        return cli_fail(err, SHERD_EINVAL, "%.300s: is %s, but the files before it are %s; give one kind", path,
                        wide ? "a token file" : "text", wide ? "text" : "token files");
    }
    if (wide) {
        status = cli_tokens_check(file, bytes, r->vocab, path, &count, err);
        bytes = 2 * count;
        memmove(file, file + CLI_TOKENS_HEADER, status == SHERD_OK ? bytes : 0);
    }
    r->text.wide = bytes > 0 ? wide : r->text.wide;
    r->text.size += bytes;
    r->text.files++;
    return status;
}

static sherd_status append_file(reading *r, const char *path, uint64_t size, sherd_error *err)
{
    cli_text *text = &r->text;
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
    status = accept_file(r, path, got, err);
close_file:
    fclose(file);
    return status;
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* bytes, not the locale's order: the same everywhere */
}

static sherd_status append_path(reading *r, const char *path, int depth, sherd_error *err);

static sherd_status append_folder(reading *r, const char *path, int depth, sherd_error *err)
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
            status = append_path(r, inner, depth + 1, err);
        } else if (status == SHERD_OK) {
            status = cli_fail(err, SHERD_ENOMEM, "%.300s: no memory for its listing", path);
        }
        free(inner);
        free(entries[i]);
    }
    free(entries);
    return status;
}

/* A name that is nobody's may be a pattern. Matches come in the order of their bytes whatever the locale. */
static sherd_status append_pattern(reading *r, const char *path, sherd_error *err)
{
    glob_t found = {0};
    sherd_status status = SHERD_OK;

    if (glob(path, GLOB_NOSORT, NULL, &found) != 0) {
        globfree(&found);
        return cli_fail(err, SHERD_EIO, "%.300s: no file has such a name", path);
    }
    qsort(found.gl_pathv, found.gl_pathc, sizeof found.gl_pathv[0], by_bytes);
    for (size_t i = 0; i < found.gl_pathc && status == SHERD_OK; i++) {
        status = append_path(r, found.gl_pathv[i], 1, err);
    }
    globfree(&found);
    return status;
}

static sherd_status append_path(reading *r, const char *path, int depth, sherd_error *err)
{
    struct stat info;

    if (stat(path, &info) != 0) {
        if (errno == ENOENT && depth == 0 && strpbrk(path, "*?[") != NULL) {
            return append_pattern(r, path, err);
        }
        return cli_fail(err, SHERD_EIO, "%.300s: %s", path, strerror(errno));
    }
    if (S_ISDIR(info.st_mode)) {
        return depth < FOLDER_DEPTH ? append_folder(r, path, depth, err)
                                    : cli_fail(err, SHERD_EINVAL, "%.300s: folders are nested more than %d deep", path,
                                               (int)FOLDER_DEPTH);
    }
    if (!S_ISREG(info.st_mode)) {
        return depth > 0 ? SHERD_OK : cli_fail(err, SHERD_EINVAL, "%.300s: is neither a file nor a folder", path);
    }
    return append_file(r, path, (uint64_t)info.st_size, err);
}

sherd_status cli_text_read(const char *const *paths, size_t n_paths, int64_t vocab, cli_text *out, sherd_error *err)
{
    reading r = {.vocab = vocab};

    for (size_t i = 0; i < n_paths; i++) {
        sherd_status status = append_path(&r, paths[i], 0, err);

        if (status != SHERD_OK) {
            cli_text_free(&r.text);
            return status;
        }
    }
    *out = r.text;
    return SHERD_OK;
}

uint64_t cli_text_tokens(const cli_text *text)
{
    return text->wide ? text->size / 2 : text->size;
}

void cli_text_free(cli_text *text)
{
    free(text->bytes);
    *text = (cli_text){0};
}
