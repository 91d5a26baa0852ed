/* SPDX-License-Identifier: MIT
 *
 * The record itself, its place in a folder, and the proof that the files it names are whole. Text is in manifest_text.c
 * and manifest_parse.c.
 */
#include "store/manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "store/durable.h"

static const char manifest_name[] = "manifest.json";

void sherd__manifest_init(sherd__manifest *manifest, const sherd_allocator *allocator)
{
    memset(manifest, 0, sizeof *manifest);
    manifest->own.allocator = sherd__allocator_or_default(allocator);
}

void sherd__manifest_fini(sherd__manifest *manifest)
{
    sherd_allocator memory = manifest->own.allocator;
    sherd__free(&memory, manifest->params, manifest->own.params, sizeof *manifest->params);
    sherd__free(&memory, manifest->files, manifest->own.files, sizeof *manifest->files);
    sherd__free(&memory, manifest->notes, manifest->own.notes, sizeof *manifest->notes);
    sherd__manifest_init(manifest, &memory);
}

sherd_status sherd__manifest_reserve(sherd__manifest *manifest, uint32_t params, uint32_t files, uint32_t notes,
                                     sherd_error *err)
{
    const sherd_allocator *memory = &manifest->own.allocator;
    manifest->n_params = manifest->own.params = params;
    manifest->n_files = manifest->own.files = files;
    manifest->n_notes = manifest->own.notes = notes;
    manifest->params = sherd__alloc(memory, params, sizeof *manifest->params);
    manifest->files = sherd__alloc(memory, files, sizeof *manifest->files);
    manifest->notes = sherd__alloc(memory, notes, sizeof *manifest->notes);
    if (manifest->params && manifest->files && manifest->notes)
        return SHERD_OK;
    sherd__manifest_fini(manifest);
    return sherd__fail(err, SHERD_ENOMEM, "no memory for a manifest of %" PRIu32 " parameters", params);
}

/* "FOLDER/NAME"; sherd__free(memory, path, 1, *bytes) */
static sherd_status join(const sherd_allocator *memory, const char *folder, const char *name, char **out, size_t *bytes,
                         sherd_error *err)
{
    *bytes = strlen(folder) + strlen(name) + 2;
    *out = sherd__alloc(memory, 1, *bytes);
    if (!*out)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the name of '%.300s'", name);
    snprintf(*out, *bytes, "%s/%s", folder, name);
    return SHERD_OK;
}

sherd_status sherd__manifest_write(const sherd__manifest *manifest, const char *folder, const sherd__io *io,
                                   sherd_error *err)
{
    const sherd_allocator *memory = &manifest->own.allocator;
    char *path, *text;
    size_t path_bytes;
    uint64_t bytes;
    sherd_status status = join(memory, folder, manifest_name, &path, &path_bytes, err);
    if (status != SHERD_OK)
        return status;
    status = sherd__manifest_to_text(manifest, &text, &bytes, err);
    if (status == SHERD_OK) {
        status = sherd__durable_replace(path, text, bytes, memory, io, err);
        sherd__free(memory, text, 1, bytes + 1);
    }
    sherd__free(memory, path, 1, path_bytes);
    return status;
}

sherd_status sherd__manifest_read(sherd__manifest *manifest, const char *folder, const sherd__io *io, sherd_error *err)
{
    sherd_allocator memory = manifest->own.allocator;
    char *path, *text;
    size_t path_bytes;
    uint64_t bytes;
    sherd_status status = join(&memory, folder, manifest_name, &path, &path_bytes, err);
    if (status != SHERD_OK)
        return status;
    status = sherd__durable_read(path, SHERD__MANIFEST_BYTES_MAX, &memory, io, &text, &bytes, err);
    if (status == SHERD_OK) {
        status = sherd__manifest_parse(manifest, text, bytes, path, err);
        sherd__free(&memory, text, 1, bytes + 1);
    }
    sherd__free(&memory, path, 1, path_bytes);
    return status;
}

static sherd_status verify_file(const sherd__manifest_file *file, const char *path, const sherd__io *io,
                                sherd_error *err)
{
    uint64_t bytes = 0;
    uint8_t digest[SHERD__DIGEST_BYTES];
    sherd_status status = sherd__digest_file(io, path, &bytes, digest, err);
    if (status != SHERD_OK)
        return status;
    if (bytes != file->bytes)
        return sherd__fail(err, SHERD_EIO,
                           "'%.300s' has %" PRIu64 " bytes, its manifest says %" PRIu64
                           ": the checkpoint is damaged, use another",
                           path, bytes, file->bytes);
    if (memcmp(digest, file->digest, sizeof digest) != 0)
        return sherd__fail(err, SHERD_EIO,
                           "'%.300s' does not hold what was written (XXH3-128): the checkpoint is damaged, use "
                           "another",
                           path);
    return SHERD_OK;
}

sherd_status sherd__manifest_verify(const sherd__manifest *manifest, const char *folder, const char *only,
                                    const sherd__io *io, sherd_error *err)
{
    const sherd_allocator *memory = &manifest->own.allocator;
    int found = only == NULL;
    for (uint32_t i = 0; i < manifest->n_files; i++) {
        char *path;
        size_t path_bytes;
        if (only && strcmp(only, manifest->files[i].name) != 0)
            continue;
        found = 1;
        sherd_status status = join(memory, folder, manifest->files[i].name, &path, &path_bytes, err);
        if (status == SHERD_OK) {
            status = verify_file(&manifest->files[i], path, io, err);
            sherd__free(memory, path, 1, path_bytes);
        }
        if (status != SHERD_OK)
            return status;
    }
    return found ? SHERD_OK
                 : sherd__fail(err, SHERD_EINVAL, "the manifest in '%.250s' names no file '%.200s'", folder, only);
}
