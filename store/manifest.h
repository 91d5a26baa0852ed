/* SPDX-License-Identifier: MIT
 *
 * manifest.json: what a checkpoint is. A plain record, to text and back. The text holds its own checksum, so a manifest
 * that reads is the one that was written; it holds size and digest of every other file, so the checkpoint can be proved
 * whole. Numbers survive to the last bit. Keys that are not known are ignored: a later version may add some without
 * changing `format`.
 */
#ifndef SHERD_STORE_MANIFEST_H
#define SHERD_STORE_MANIFEST_H

#include "base/status.h"
#include "store/digest.h"

#define SHERD__MANIFEST_FORMAT 1
#define SHERD__MANIFEST_NAME_MAX 256 /* with the NUL */
#define SHERD__MANIFEST_STATES_MAX 8
#define SHERD__MANIFEST_NOTE_MAX 4096
#define SHERD__MANIFEST_BYTES_MAX ((uint64_t)256 << 20) /* of the text: what is longer is the wrong file */

typedef struct sherd__manifest_param {
    char name[SHERD__MANIFEST_NAME_MAX];
    int64_t shape[SHERD_MAX_DIMS];
    uint32_t ndim;
    sherd_dtype dtype;
    uint32_t group;
    int32_t frozen;
} sherd__manifest_param;

typedef struct sherd__manifest_file {
    char name[SHERD__MANIFEST_NAME_MAX]; /* in the checkpoint's folder; no '/' */
    uint64_t bytes;
    uint8_t digest[SHERD__DIGEST_BYTES];
} sherd__manifest_file;

typedef struct sherd__manifest_note { /* whatever else the writer wants to find again */
    char key[SHERD__MANIFEST_NAME_MAX];
    char value[SHERD__MANIFEST_NOTE_MAX];
} sherd__manifest_note;

typedef struct sherd__manifest {
    int64_t step;    /* steps closed, skipped ones counted: the N of "step-N" */
    int64_t updates; /* updates made: the scheduler's position */
    int32_t world, stage;
    char optimizer[32];
    uint32_t n_states; /* of the optimizer, the master first: "master", "exp_avg", … */
    char states[SHERD__MANIFEST_STATES_MAX][32];
    struct {
        uint64_t seed, position; /* sequences consumed */
    } sampler;
    struct {
        double scale;
        int64_t good_steps; /* since the last change */
        int64_t hysteresis; /* left */
        int64_t skipped;    /* so far */
    } loss_scale;
    double lr; /* of the last update, for listings */
    uint8_t param_hash[SHERD__DIGEST_BYTES], state_hash[SHERD__DIGEST_BYTES];
    uint32_t n_params, n_files, n_notes;
    sherd__manifest_param *params; /* these three: sherd__manifest_reserve */
    sherd__manifest_file *files;
    sherd__manifest_note *notes;
    struct {
        sherd_allocator allocator;
        uint32_t params, files, notes;
    } own;
} sherd__manifest;

/* Zeros. */
void sherd__manifest_init(sherd__manifest *manifest, const sherd_allocator *allocator);
void sherd__manifest_fini(sherd__manifest *manifest);
/* Room, zeroed, for so many; sets the n_…s. Once for each manifest. */
sherd_status sherd__manifest_reserve(sherd__manifest *manifest, uint32_t params, uint32_t files, uint32_t notes,
                                     sherd_error *err);
/* sherd__free(allocator, *out, 1, *bytes + 1). EINVAL names what cannot be written (a name twice, a NaN). */
sherd_status sherd__manifest_to_text(const sherd__manifest *manifest, char **out, uint64_t *bytes, sherd_error *err);
/* Into an initialised manifest. `name` stands for the file in sentences. Every value is checked; on a fault the
 * manifest is as after init. */
sherd_status sherd__manifest_parse(sherd__manifest *manifest, const char *text, uint64_t bytes, const char *name,
                                   sherd_error *err);
/* FOLDER/manifest.json, durable. */
sherd_status sherd__manifest_write(const sherd__manifest *manifest, const char *folder, const sherd__io *io,
                                   sherd_error *err);
sherd_status sherd__manifest_read(sherd__manifest *manifest, const char *folder, const sherd__io *io, sherd_error *err);
/* Reads every file the manifest names: EIO names the first that is missing, of another size, or changed. With `only`
 * not NULL just that one. */
sherd_status sherd__manifest_verify(const sherd__manifest *manifest, const char *folder, const char *only,
                                    const sherd__io *io, sherd_error *err);

#endif
