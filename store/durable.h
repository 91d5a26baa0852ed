/* SPDX-License-Identifier: MIT
 *
 * Files that are whole or absent, whatever ends the process or the power. A file is written beside its place under
 * "NAME.tmp", synced, and renamed; the folder is synced after the last rename that matters. Order between files is the
 * caller's: data files first, then the manifest that names them, then the folder, then `latest`.
 */
#ifndef SHERD_STORE_DURABLE_H
#define SHERD_STORE_DURABLE_H

#include "base/status.h"
#include "store/digest.h"

typedef struct sherd__durable sherd__durable;

/* Opens PATH.tmp, emptied. `io` may be NULL, else it must outlive the file. */
sherd_status sherd__durable_create(const char *path, const sherd_allocator *allocator, const sherd__io *io,
                                   sherd__durable **out, sherd_error *err);
/* Adds at the end. After a failure every later call returns that error. */
sherd_status sherd__durable_write(sherd__durable *file, const void *data, uint64_t bytes, sherd_error *err);
/* Syncs, closes, renames. Afterwards the file is at its place, and durable once its folder is synced. bytes and digest
 * may be NULL. Ends the handle, failed or not; a failed one has left nothing but maybe the file that was there before.
 */
sherd_status sherd__durable_commit(sherd__durable *file, uint64_t *bytes, uint8_t digest[SHERD__DIGEST_BYTES],
                                   sherd_error *err);
/* Removes what was written. NULL is fine. */
void sherd__durable_abandon(sherd__durable *file);

sherd_status sherd__durable_sync_folder(const char *path, const sherd__io *io, sherd_error *err);
/* Makes a folder (its parent must exist) and syncs the parent. One that exists is fine. */
sherd_status sherd__durable_make_folder(const char *path, const sherd__io *io, sherd_error *err);
/* A small file at once: create, write, commit, sync the folder. */
sherd_status sherd__durable_replace(const char *path, const char *text, uint64_t bytes,
                                    const sherd_allocator *allocator, const sherd__io *io, sherd_error *err);
/* The whole of a file of at most `most` bytes, with a NUL added. sherd__free(allocator, *out, 1, *bytes + 1). */
sherd_status sherd__durable_read(const char *path, uint64_t most, const sherd_allocator *allocator, const sherd__io *io,
                                 char **out, uint64_t *bytes, sherd_error *err);

/* FOLDER/latest: the name of the newest complete checkpoint, "step-N". */
sherd_status sherd__latest_write(const char *folder, int64_t step, const sherd_allocator *allocator,
                                 const sherd__io *io, sherd_error *err);
/* EIO where there is none, EINVAL where it holds something else. */
sherd_status sherd__latest_read(const char *folder, const sherd_allocator *allocator, const sherd__io *io,
                                int64_t *step, sherd_error *err);
/* N of "step-N" (no sign, no leading zero); −1: another name. */
int64_t sherd__step_of_name(const char *name);

#endif
