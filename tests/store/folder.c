/* SPDX-License-Identifier: MIT */
#include "tests/store/folder.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

void folder_make(folder *self)
{
    memset(self, 0, sizeof *self);
    strcpy(self->path, "/tmp/sherd-store-XXXXXX");
    assert_non_null(mkdtemp(self->path));
}

const char *folder_file(folder *self, const char *name)
{
    char *at = stpcpy(self->file, self->path);
    assert_true(strlen(self->path) + strlen(name) + 2 <= sizeof self->file);
    *at = '/';
    strcpy(at + 1, name);
    return self->file;
}

/* Counts, and removes with `remove`. */
static int walk(const folder *self, int remove)
{
    DIR *stream = opendir(self->path);
    struct dirent *entry;
    int n = 0;
    assert_non_null(stream);
    while ((entry = readdir(stream)) != NULL) {
        if (entry->d_name[0] != '.' || strlen(entry->d_name) > 2) {
            n++;
            if (remove) {
                assert_int_equal(unlinkat(dirfd(stream), entry->d_name, 0), 0);
            }
        }
    }
    closedir(stream);
    return n;
}

int folder_count(const folder *self)
{
    return walk(self, 0);
}

void folder_remove(folder *self, int left)
{
    assert_int_equal(walk(self, 1), left);
    assert_int_equal(rmdir(self->path), 0);
}

unsigned char *folder_read(folder *self, const char *name, size_t *bytes)
{
    FILE *stream = fopen(folder_file(self, name), "rb");
    if (stream == NULL) {
        return NULL;
    }
    fseek(stream, 0, SEEK_END);
    *bytes = (size_t)ftell(stream);
    rewind(stream);
    unsigned char *data = malloc(*bytes + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *bytes, stream), *bytes);
    data[*bytes] = '\0';
    fclose(stream);
    return data;
}

void folder_write(folder *self, const char *name, const void *data, size_t bytes)
{
    FILE *stream = fopen(folder_file(self, name), "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(data, 1, bytes, stream), bytes);
    assert_int_equal(fclose(stream), 0);
}
