/* SPDX-License-Identifier: MIT */
#include "store/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"

enum { BUFFER_BYTES = 1 << 20, LATEST_MAX = 64 };

struct sherd__durable {
    sherd_allocator allocator;
    const sherd__io *io;
    int fd;            /* −1: none */
    char *path, *part; /* where it will be; PATH.tmp */
    size_t path_bytes, part_bytes;
    sherd__digest *digest;
    unsigned char *buffer;
    uint64_t held;    /* in the buffer */
    uint64_t written; /* to the system */
    sherd_error error;
};

static sherd_status fail_path(const char *what, const char *path, int code, sherd_error *err)
{
    return sherd__fail(err, SHERD_EIO, "%s '%.300s' failed: %s; %s", what, path, strerror(code),
                       sherd__io_remedy(code));
}

/* --------------------------------------------------------------------------------------------------------- one file */

static void free_file(sherd__durable *file)
{
    sherd_allocator memory = file->allocator;
    sherd__digest_destroy(file->digest);
    sherd__free(&memory, file->buffer, 1, BUFFER_BYTES);
    sherd__free(&memory, file->part, 1, file->part_bytes);
    sherd__free(&memory, file->path, 1, file->path_bytes);
    sherd__free(&memory, file, 1, sizeof *file);
}

static sherd_status make_file(sherd__durable *file, const char *path, sherd_error *err)
{
    file->path_bytes = strlen(path) + 1;
    file->part_bytes = file->path_bytes + 4;
    file->path = sherd__alloc(&file->allocator, 1, file->path_bytes);
    file->part = sherd__alloc(&file->allocator, 1, file->part_bytes);
    file->buffer = sherd__alloc(&file->allocator, 1, BUFFER_BYTES);
    if (!file->path || !file->part || !file->buffer)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to write '%.300s'", path);
    memcpy(file->path, path, file->path_bytes);
    snprintf(file->part, file->part_bytes, "%s.tmp", path);
    sherd_status status = sherd__digest_create(&file->digest, err);
    if (status != SHERD_OK)
        return status;
    file->fd = sherd__io_open(file->io, file->part, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0644);
    return file->fd >= 0 ? SHERD_OK : fail_path("creating", file->part, -file->fd, err);
}

sherd_status sherd__durable_create(const char *path, const sherd_allocator *allocator, const sherd__io *io,
                                   sherd__durable **out, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    sherd__durable *file = sherd__alloc(&memory, 1, sizeof *file);
    if (!file)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to write '%.300s'", path);
    *file = (sherd__durable){.allocator = memory, .io = io, .fd = -1};
    sherd_status status = make_file(file, path, err);
    if (status != SHERD_OK) {
        free_file(file);
        return status;
    }
    *out = file;
    return SHERD_OK;
}

/* To the system, digest and all. The first error stays with the file. */
static sherd_status put(sherd__durable *file, const void *data, uint64_t bytes, sherd_error *err)
{
    int code = sherd__io_pwrite_all(file->io, file->fd, data, bytes, file->written, NULL);
    if (code < 0) {
        sherd__fail(&file->error, SHERD_EIO,
                    "writing %" PRIu64 " bytes at offset %" PRIu64 " of '%.250s' failed: %s; %s", bytes, file->written,
                    file->part, strerror(-code), sherd__io_remedy(-code));
        return sherd__pass(err, &file->error);
    }
    sherd__digest_add(file->digest, data, bytes);
    file->written += bytes;
    return SHERD_OK;
}

static sherd_status flush(sherd__durable *file, sherd_error *err)
{
    uint64_t bytes = file->held;
    file->held = 0;
    return bytes > 0 ? put(file, file->buffer, bytes, err) : SHERD_OK;
}

sherd_status sherd__durable_write(sherd__durable *file, const void *data, uint64_t bytes, sherd_error *err)
{
    if (file->error.status != SHERD_OK)
        return sherd__pass(err, &file->error);
    if (bytes >= BUFFER_BYTES) {
        sherd_status status = flush(file, err);
        return status == SHERD_OK ? put(file, data, bytes, err) : status;
    }
    if (bytes > BUFFER_BYTES - file->held) {
        sherd_status status = flush(file, err);
        if (status != SHERD_OK)
            return status;
    }
    if (bytes > 0)
        memcpy(file->buffer + file->held, data, bytes);
    file->held += bytes;
    return SHERD_OK;
}

void sherd__durable_abandon(sherd__durable *file)
{
    if (!file)
        return;
    if (file->fd >= 0) {
        (void)sherd__io_close(file->io, file->fd); /* what it would say does not matter any more */
        (void)sherd__io_unlink(file->io, file->part);
    }
    free_file(file);
}

/* fsync may be the first to tell of a failed write, and close of a full quota. */
static sherd_status finish(sherd__durable *file, sherd_error *err)
{
    sherd_status status = file->error.status == SHERD_OK ? flush(file, err) : sherd__pass(err, &file->error);
    if (status != SHERD_OK)
        return status;
    int code = sherd__io_sync(file->io, file->fd);
    if (code < 0)
        return fail_path("syncing", file->part, -code, err);
    code = sherd__io_close(file->io, file->fd);
    file->fd = -1;
    if (code == 0)
        code = sherd__io_rename(file->io, file->part, file->path);
    if (code == 0)
        return SHERD_OK;
    (void)sherd__io_unlink(file->io, file->part); /* the first error is told */
    return fail_path("closing and renaming", file->part, -code, err);
}

sherd_status sherd__durable_commit(sherd__durable *file, uint64_t *bytes, uint8_t digest[SHERD__DIGEST_BYTES],
                                   sherd_error *err)
{
    sherd_status status = finish(file, err);
    if (status == SHERD_OK && bytes)
        *bytes = file->written;
    if (status == SHERD_OK && digest)
        sherd__digest_get(file->digest, digest);
    sherd__durable_abandon(file);
    return status;
}

/* ---------------------------------------------------------------------------------------------------------- folders */

sherd_status sherd__durable_sync_folder(const char *path, const sherd__io *io, sherd_error *err)
{
    int fd = sherd__io_open(io, path, O_RDONLY | O_DIRECTORY, 0);
    int code = fd < 0 ? fd : sherd__io_sync(io, fd);
    if (fd >= 0)
        (void)sherd__io_close(io, fd); /* nothing is written through it */
    if (code == -EINVAL)
        return SHERD_OK; /* file systems whose folders cannot be synced order renames themselves, or cannot at all */
    return code < 0 ? fail_path("syncing the folder", path, -code, err) : SHERD_OK;
}

/* Calls sync_folder with the folder that holds `path`. */
static sherd_status sync_parent(const char *path, const sherd_allocator *allocator, const sherd__io *io,
                                sherd_error *err)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    while (n > 1 && path[n - 1] == '/')
        n--;
    char *parent = sherd__alloc(allocator, 1, n + 2);
    if (!parent)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the name of a folder");
    memcpy(parent, n > 0 ? path : ".", n > 0 ? n : 1);
    sherd_status status = sherd__durable_sync_folder(parent, io, err);
    sherd__free(allocator, parent, 1, n + 2);
    return status;
}

sherd_status sherd__durable_make_folder(const char *path, const sherd__io *io, sherd_error *err)
{
    int code = sherd__io_mkdir(io, path, 0755);
    if (code < 0 && code != -EEXIST)
        return fail_path("making the folder", path, -code, err);
    return sync_parent(path, &sherd__default_allocator, io, err);
}

/* ------------------------------------------------------------------------------------------------------ small files */

sherd_status sherd__durable_replace(const char *path, const char *text, uint64_t bytes,
                                    const sherd_allocator *allocator, const sherd__io *io, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    sherd__durable *file = NULL;
    sherd_status status = sherd__durable_create(path, &memory, io, &file, err);
    if (status != SHERD_OK)
        return status;
    status = sherd__durable_write(file, text, bytes, err);
    if (status != SHERD_OK) {
        sherd__durable_abandon(file);
        return status;
    }
    status = sherd__durable_commit(file, NULL, NULL, err);
    return status == SHERD_OK ? sync_parent(path, &memory, io, err) : status;
}

sherd_status sherd__durable_read(const char *path, uint64_t most, const sherd_allocator *allocator, const sherd__io *io,
                                 char **out, uint64_t *bytes, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    sherd_status status = SHERD_OK;
    char *text = NULL;
    uint64_t size = 0;
    int fd = sherd__io_open(io, path, O_RDONLY, 0);
    int code = fd < 0 ? fd : sherd__io_size(io, fd, &size);
    if (code < 0) {
        status = sherd__fail(err, SHERD_EIO, "'%.300s' cannot be read: %s", path, strerror(-code));
    } else if (size > most) {
        status = sherd__fail(err, SHERD_EINVAL,
                             "'%.300s' has %" PRIu64 " bytes, more than the %" PRIu64 " such a file may "
                             "have: it is another file",
                             path, size, most);
    } else if (!(text = sherd__alloc(&memory, 1, size + 1))) {
        status = sherd__fail(err, SHERD_ENOMEM, "no memory to read '%.300s' of %" PRIu64 " bytes", path, size);
    } else if ((code = sherd__io_pread_all(io, fd, text, size, 0, NULL)) < 0) {
        status = sherd__fail(err, SHERD_EIO, "'%.300s' cannot be read: %s", path, strerror(-code));
        sherd__free(&memory, text, 1, size + 1);
    }
    if (fd >= 0)
        (void)sherd__io_close(io, fd); /* only read from */
    if (status == SHERD_OK) {
        *out = text;
        *bytes = size;
    }
    return status;
}

/* ----------------------------------------------------------------------------------------------------------- latest */

int64_t sherd__step_of_name(const char *name)
{
    size_t digits = strncmp(name, "step-", 5) == 0 ? strspn(name + 5, "0123456789") : 0;
    if (digits == 0 || digits > 18 || name[5 + digits] != '\0' || (name[5] == '0' && digits > 1))
        return -1;
    return strtoll(name + 5, NULL, 10);
}

/* "FOLDER/latest"; sherd__free(memory, path, 1, *bytes). NULL: no memory. */
static char *latest_path(const char *folder, const sherd_allocator *memory, size_t *bytes)
{
    *bytes = strlen(folder) + sizeof "/latest";
    char *path = sherd__alloc(memory, 1, *bytes);
    if (path)
        snprintf(path, *bytes, "%s/latest", folder);
    return path;
}

sherd_status sherd__latest_write(const char *folder, int64_t step, const sherd_allocator *allocator,
                                 const sherd__io *io, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    char text[LATEST_MAX];
    size_t bytes;
    char *path = latest_path(folder, &memory, &bytes);
    if (!path)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to write '%.300s/latest'", folder);
    int length = snprintf(text, sizeof text, "step-%" PRId64 "\n", step);
    sherd_status status = sherd__durable_replace(path, text, (uint64_t)length, &memory, io, err);
    sherd__free(&memory, path, 1, bytes);
    return status;
}

sherd_status sherd__latest_read(const char *folder, const sherd_allocator *allocator, const sherd__io *io,
                                int64_t *step, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    size_t path_bytes;
    uint64_t bytes = 0;
    char *text = NULL, *path = latest_path(folder, &memory, &path_bytes);
    if (!path)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to read '%.300s/latest'", folder);
    sherd_status status = sherd__durable_read(path, LATEST_MAX, &memory, io, &text, &bytes, err);
    if (status == SHERD_OK) {
        int64_t found = -1;
        if (strlen(text) == bytes && bytes > 1 && text[bytes - 1] == '\n') {
            text[bytes - 1] = '\0';
            found = sherd__step_of_name(text);
        }
        if (found >= 0)
            *step = found;
        else
            status = sherd__fail(err, SHERD_EINVAL,
                                 "'%.300s' does not hold the name of a checkpoint (step-N): write one "
                                 "there, or name the checkpoint's folder",
                                 path);
        sherd__free(&memory, text, 1, bytes + 1);
    }
    sherd__free(&memory, path, 1, path_bytes);
    return status;
}
