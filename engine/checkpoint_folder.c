/* SPDX-License-Identifier: MIT
 *
 * Folders of checkpoints: finding the newest complete one, putting a new one in place, removing old ones. A checkpoint
 * is complete when its folder has its final name and a manifest in it; whatever bears another name can be removed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/alloc.h"
#include "engine/checkpoint.h"
#include "store/durable.h"

sherd_status sherd__checkpoint_print(sherd__checkpoint_path path, sherd_error *err, const char *format, ...)
{
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(path, SHERD__CHECKPOINT_PATH, format, args);
    va_end(args);
    return n > 0 && n < SHERD__CHECKPOINT_PATH
               ? SHERD_OK
               : sherd__fail(err, SHERD_EINVAL, "'%.200s…' is longer than %d bytes; use a folder with a shorter name",
                             path, SHERD__CHECKPOINT_PATH - 1);
}

static sherd_status fail_path(const char *what, const char *path, int code, sherd_error *err)
{
    return sherd__fail(err, SHERD_EIO, "'%.300s' cannot be %s: %s; %s", path, what, strerror(code),
                       sherd__io_remedy(code));
}

/* ---------------------------------------------------------------------------------------------------------- listing */

typedef struct steps {
    int64_t *step;
    size_t n, capacity;
} steps;

static int ascending(const void *left, const void *right)
{
    const int64_t *a = left, *b = right;
    return (*a > *b) - (*a < *b);
}

static sherd_status add_step(steps *list, int64_t step, sherd_error *err)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 64;
        int64_t *grown = sherd__alloc(&sherd__default_allocator, capacity, sizeof *grown);
        if (!grown)
            return sherd__fail(err, SHERD_ENOMEM, "no memory to list checkpoints");
        if (list->n)
            memcpy(grown, list->step, list->n * sizeof *grown);
        sherd__free(&sherd__default_allocator, list->step, list->capacity, sizeof *grown);
        list->step = grown;
        list->capacity = capacity;
    }
    list->step[list->n++] = step;
    return SHERD_OK;
}

static void free_steps(steps *list)
{
    sherd__free(&sherd__default_allocator, list->step, list->capacity, sizeof *list->step);
}

static int has_manifest(const char *folder)
{
    sherd__checkpoint_path path;
    return sherd__checkpoint_print(path, NULL, "%s/manifest.json", folder) == SHERD_OK && access(path, F_OK) == 0;
}

/* Checkpoints under `dir`; tmp: what interrupted saves have left instead ("step-N.tmp"). */
static sherd_status list_steps(const char *dir, int tmp, steps *list, sherd_error *err)
{
    DIR *folder = opendir(dir);
    sherd_status status = SHERD_OK;
    struct dirent *entry;

    if (!folder)
        return fail_path("read", dir, errno, err);
    while (status == SHERD_OK && (entry = readdir(folder)) != NULL) {
        char name[32] = "";
        size_t length = strlen(entry->d_name);
        sherd__checkpoint_path path;
        if (tmp && length > 4 && strcmp(entry->d_name + length - 4, ".tmp") == 0)
            length -= 4;
        else if (tmp)
            continue;
        if (length >= sizeof name)
            continue;
        memcpy(name, entry->d_name, length);
        int64_t step = sherd__step_of_name(name);
        if (step >= 0 && sherd__checkpoint_print(path, NULL, "%s/%s", dir, name) == SHERD_OK &&
            (tmp || has_manifest(path)))
            status = add_step(list, step, err);
    }
    closedir(folder);
    if (list->n > 0)
        qsort(list->step, list->n, sizeof *list->step, ascending);
    return status;
}

sherd_status sherd_checkpoint_list(const char *dir, int64_t *out, size_t capacity, size_t *n, sherd_error *err)
{
    steps list = {NULL, 0, 0};
    sherd_status status = list_steps(dir, 0, &list, err);

    if (status == SHERD_OK) {
        for (size_t i = 0; i < list.n && i < capacity; i++)
            out[i] = list.step[i];
        *n = list.n;
    }
    free_steps(&list);
    return status;
}

/* ---------------------------------------------------------------------------------------------------------- reading */

static sherd_status open_step(const char *dir, int64_t step, sherd__checkpoint_path folder, sherd__manifest *manifest,
                              sherd_error *err)
{
    sherd_status status = sherd__checkpoint_print(folder, err, "%s/step-%" PRId64, dir, step);
    return status == SHERD_OK ? sherd__manifest_read(manifest, folder, NULL, err) : status;
}

/* `latest` may name one that an interruption has kept from its place: then the highest number counts. */
sherd_status sherd__checkpoint_open(const char *dir, sherd__checkpoint_path folder, sherd__manifest *manifest,
                                    sherd_error *err)
{
    steps list = {NULL, 0, 0};
    int64_t step;
    sherd_status status;

    if (has_manifest(dir)) {
        status = sherd__checkpoint_print(folder, err, "%s", dir);
        return status == SHERD_OK ? sherd__manifest_read(manifest, folder, NULL, err) : status;
    }
    if (sherd__latest_read(dir, NULL, NULL, &step, NULL) == SHERD_OK &&
        sherd__checkpoint_print(folder, NULL, "%s/step-%" PRId64, dir, step) == SHERD_OK && has_manifest(folder))
        return sherd__manifest_read(manifest, folder, NULL, err);
    status = list_steps(dir, 0, &list, err);
    if (status == SHERD_OK && list.n == 0)
        status = sherd__fail(err, SHERD_EIO,
                             "'%.300s' holds no complete checkpoint (step-N with a manifest.json); name another folder",
                             dir);
    if (status == SHERD_OK)
        status = open_step(dir, list.step[list.n - 1], folder, manifest, err);
    free_steps(&list);
    return status;
}

void sherd_checkpoint_init(sherd_checkpoint *checkpoint, size_t size)
{
    memset(checkpoint, 0, size);
    checkpoint->size = size;
}

void sherd__checkpoint_summary(const sherd__manifest *manifest, const char *folder, sherd_checkpoint *out)
{
    size_t size = out->size && out->size < sizeof *out ? out->size : sizeof *out;
    sherd_checkpoint all;

    sherd_checkpoint_init(&all, sizeof all);
    all.size = size;
    all.sampler_seed = manifest->sampler.seed;
    all.sampler_position = manifest->sampler.position;
    for (uint32_t i = 0; i < manifest->n_notes; i++)
        if (strcmp(manifest->notes[i].key, "client") == 0)
            memcpy(all.client, manifest->notes[i].value, sizeof all.client);
    all.step = manifest->step;
    all.updates = manifest->updates;
    all.world = manifest->world;
    all.stage = manifest->stage;
    memcpy(all.optimizer, manifest->optimizer, sizeof all.optimizer);
    all.lr = manifest->lr;
    all.loss_scale = manifest->loss_scale.scale;
    memcpy(all.param_hash, manifest->param_hash, sizeof all.param_hash);
    memcpy(all.state_hash, manifest->state_hash, sizeof all.state_hash);
    all.n_params = manifest->n_params;
    all.n_files = manifest->n_files;
    for (uint32_t i = 0; i < manifest->n_files; i++)
        all.bytes += manifest->files[i].bytes;
    snprintf(all.folder, sizeof all.folder, "%s", folder);
    memcpy(out, &all, size);
}

sherd_status sherd_checkpoint_read(const char *dir, sherd_checkpoint *out, sherd_error *err)
{
    sherd__checkpoint_path folder;
    sherd__manifest manifest;
    sherd_status status;

    sherd__manifest_init(&manifest, NULL);
    status = sherd__checkpoint_open(dir, folder, &manifest, err);
    if (status == SHERD_OK)
        sherd__checkpoint_summary(&manifest, folder, out);
    sherd__manifest_fini(&manifest);
    return status;
}

sherd_status sherd_checkpoint_verify(const char *dir, sherd_error *err)
{
    sherd__checkpoint_path folder;
    sherd__manifest manifest;
    sherd_status status;

    sherd__manifest_init(&manifest, NULL);
    status = sherd__checkpoint_open(dir, folder, &manifest, err);
    if (status == SHERD_OK)
        status = sherd__manifest_verify(&manifest, folder, NULL, NULL, err);
    sherd__manifest_fini(&manifest);
    return status;
}

/* --------------------------------------------------------------------------------------------------- place and removal
 */

static int is_ours(const char *name)
{
    return strncmp(name, "manifest.json", 13) == 0 || strncmp(name, "optimizer-", 10) == 0 ||
           strncmp(name, SHERD__CHECKPOINT_MODEL, sizeof SHERD__CHECKPOINT_MODEL - 1) == 0;
}

sherd_status sherd__checkpoint_remove(const char *folder, sherd_error *err)
{
    DIR *entries = opendir(folder);
    struct dirent *entry;

    if (!entries)
        return errno == ENOENT ? SHERD_OK : fail_path("read", folder, errno, err);
    while ((entry = readdir(entries)) != NULL) {
        sherd__checkpoint_path path;
        if (is_ours(entry->d_name) && sherd__checkpoint_print(path, NULL, "%s/%s", folder, entry->d_name) == SHERD_OK)
            (void)sherd__io_unlink(NULL, path); /* what stays is seen by the removal of the folder */
    }
    closedir(entries);
    return rmdir(folder) == 0 ? SHERD_OK : fail_path("removed", folder, errno, err);
}

/* Both names at once where the file system can; else in two moves, between which neither is complete under its name. */
static int exchange(const char *a, const char *b)
{
    sherd__checkpoint_path aside;
    int code = (int)sherd__io_ask(NULL, SHERD__IO_RENAME, 0);

    if (code < 0)
        return code;
    if (renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    if (sherd__checkpoint_print(aside, NULL, "%s.aside", b) != SHERD_OK)
        return -ENAMETOOLONG;
    code = sherd__io_rename(NULL, b, aside);
    if (code == 0)
        code = sherd__io_rename(NULL, a, b);
    return code == 0 ? sherd__io_rename(NULL, aside, a) : code;
}

static sherd_status sync_parent(const char *folder, sherd_error *err)
{
    sherd__checkpoint_path parent;
    sherd_status status = sherd__checkpoint_print(parent, err, "%s", folder);
    char *slash = status == SHERD_OK ? strrchr(parent, '/') : NULL;

    if (slash)
        *slash = '\0';
    return slash ? sherd__durable_sync_folder(parent[0] ? parent : "/", NULL, err) : status;
}

sherd_status sherd__checkpoint_install(const char *tmp, const char *folder, sherd_error *err)
{
    int replaced = access(folder, F_OK) == 0;
    int code = replaced ? exchange(tmp, folder) : sherd__io_rename(NULL, tmp, folder);
    sherd_status status;

    if (code < 0)
        return fail_path("given its name", folder, -code, err);
    status = sync_parent(folder, err);
    if (status == SHERD_OK && replaced)
        (void)sherd__checkpoint_remove(tmp,
                                       NULL); /* the new one is in place: what is left of the old is pruned later */
    return status;
}

/* First to a name that is no checkpoint's: an interrupted removal leaves no half of one. */
static sherd_status retire(const char *dir, int64_t step, sherd_error *err)
{
    sherd__checkpoint_path folder, tmp;
    sherd_status status = sherd__checkpoint_print(folder, err, "%s/step-%" PRId64, dir, step);
    int code;

    if (status == SHERD_OK)
        status = sherd__checkpoint_print(tmp, err, "%s.tmp", folder);
    if (status != SHERD_OK)
        return status;
    code = sherd__io_rename(NULL, folder, tmp);
    return code < 0 ? fail_path("removed", folder, -code, err) : sherd__checkpoint_remove(tmp, err);
}

sherd_status sherd_checkpoint_prune(const char *dir, size_t keep, sherd_error *err)
{
    steps list = {NULL, 0, 0}, left = {NULL, 0, 0};
    int64_t latest = -1;
    sherd_status status = list_steps(dir, 1, &left, err);

    for (size_t i = 0; status == SHERD_OK && i < left.n; i++) {
        sherd__checkpoint_path tmp;
        status = sherd__checkpoint_print(tmp, err, "%s/step-%" PRId64 ".tmp", dir, left.step[i]);
        if (status == SHERD_OK)
            status = sherd__checkpoint_remove(tmp, err);
    }
    if (status == SHERD_OK)
        status = list_steps(dir, 0, &list, err);
    (void)sherd__latest_read(dir, NULL, NULL, &latest, NULL);
    for (size_t i = 0; status == SHERD_OK && i + keep < list.n; i++)
        if (list.step[i] != latest)
            status = retire(dir, list.step[i], err);
    free_steps(&left);
    free_steps(&list);
    return status;
}
