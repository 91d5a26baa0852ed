/* SPDX-License-Identifier: MIT
 *
 * sherd_store.h: what goes to files and comes back: checkpoints, and reading safetensors. Part of sherd.h, whose conventions hold.
 */
#ifndef SHERD_SHERD_STORE_H
#define SHERD_SHERD_STORE_H

#include "sherd/sherd.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* --------------------------------------------------------------------------------------------------------- checkpoints */

/* A checkpoint is a folder DIR/step-N; DIR/latest names the newest (docs/checkpoints.md). What follows is its summary, and what
 * the client wants to find again. */
#define SHERD_CHECKPOINT_CLIENT_MAX 4096 /* with the NUL */
typedef struct sherd_checkpoint {
    size_t size;
    uint64_t sampler_seed, sampler_position;  /* the client's; saved and given back */
    char client[SHERD_CHECKPOINT_CLIENT_MAX]; /* likewise: any text */
    int64_t step, updates;                    /* steps closed; updates made, skipped ones not counted */
    int32_t world, stage;                     /* of the engine that saved */
    char optimizer[32];
    double lr, loss_scale;                    /* of the last step */
    uint8_t param_hash[16], state_hash[16];
    uint32_t n_params, n_files;
    uint64_t bytes;                           /* of the files, the manifest left out */
    char folder[1024];                        /* DIR/step-N */
} sherd_checkpoint;
SHERD_API void sherd_checkpoint_init(sherd_checkpoint *checkpoint, size_t size);

/* COLLECTIVE, between steps. Writes DIR/step-N, N the steps closed so far; DIR is made if its parent exists. All ranks must see
 * the same folder. Of `client` (NULL: nothing) the sampler's two numbers and the text are kept. When it returns SHERD_OK the
 * checkpoint is complete and on the disk; else what was in DIR before is as it was, and all ranks return the same sentence.
 * A failed save leaves the engine as it is. */
SHERD_API sherd_status sherd_engine_save(sherd_engine *engine, const char *dir, const sherd_checkpoint *client,
                                         sherd_error *err);
/* COLLECTIVE, between steps. Loads DIR/step-N, or, given DIR, its newest complete checkpoint; whatever the world, stage, bucket
 * size and placement it was saved with. Parameters and optimizer must be the same. Everything is verified (sizes, digests,
 * tables) before the engine is changed, and its digest is compared afterwards; after an EIO from that the engine must not be
 * used. *out (may be NULL): as sherd_checkpoint_read. */
SHERD_API sherd_status sherd_engine_load(sherd_engine *engine, const char *dir, sherd_checkpoint *out, sherd_error *err);

/* The summary of one checkpoint: a step's folder, or the newest complete one under DIR. Reads the manifest only. Local. EIO:
 * there is none. */
SHERD_API sherd_status sherd_checkpoint_read(const char *dir, sherd_checkpoint *out, sherd_error *err);
/* The same, and size and XXH3-128 of every file. EIO or EINVAL names the first that is wrong. Local. */
SHERD_API sherd_status sherd_checkpoint_verify(const char *dir, sherd_error *err);
/* Steps of all checkpoints under DIR, smallest first: at most `capacity` into out, all into *n. Contents are not looked at. */
SHERD_API sherd_status sherd_checkpoint_list(const char *dir, int64_t *out, size_t capacity, size_t *n, sherd_error *err);
/* Removes all but the `keep` newest, and what interrupted saves have left; the one that `latest` names stays. Local: one rank. */
SHERD_API sherd_status sherd_checkpoint_prune(const char *dir, size_t keep, sherd_error *err);

/* --------------------------------------------------------------------------------------------------------- safetensors */

/* Reading the safetensors format (github.com/huggingface/safetensors). Everything in the file is distrusted: lengths are checked
 * against the file, tensors must cover it without gap or overlap, names must be unique. Local. */
typedef struct sherd_safetensors sherd_safetensors;

typedef struct sherd_tensor_info {
    const char *name;  /* as long as the handle; so is dtype */
    const char *dtype; /* the format's name: "F32", "BF16", "F16", "I64", … */
    int32_t kind;      /* the sherd_dtype of that; -1: none of ours */
    uint32_t ndim;     /* at most SHERD_MAX_DIMS: a file with more is refused */
    int64_t shape[SHERD_MAX_DIMS];
    int64_t elems;
    uint64_t bytes;    /* of the data */
    uint64_t offset;   /* of its first byte in the file */
} sherd_tensor_info;

/* Reads the header only. `allocator` may be NULL. Errors: EIO, ENOMEM, EINVAL: "FILE: tensor 'NAME': what is wrong". */
SHERD_API sherd_status sherd_safetensors_open(const char *path, const sherd_allocator *allocator, sherd_safetensors **out,
                                              sherd_error *err);
SHERD_API void sherd_safetensors_close(sherd_safetensors *file);
SHERD_API size_t sherd_safetensors_count(const sherd_safetensors *file);
/* In the order of their bytes in the file. EINVAL: no such index. */
SHERD_API sherd_status sherd_safetensors_info(const sherd_safetensors *file, size_t index, sherd_tensor_info *out);
/* Index of a tensor; -1: there is none of that name. */
SHERD_API int64_t sherd_safetensors_find(const sherd_safetensors *file, const char *name);
/* A value of the header's __metadata__; NULL: none. As long as the handle. */
SHERD_API const char *sherd_safetensors_metadata(const sherd_safetensors *file, const char *key);
/* Elements [first, first + elems) of a tensor in row order, as they are in the file (little endian). Any thread, several at once. */
SHERD_API sherd_status sherd_safetensors_read(const sherd_safetensors *file, size_t index, int64_t first, int64_t elems,
                                              void *data, sherd_error *err);
/* The same for F32, BF16 and F16, widened to fp32 (exact). EUNSUPPORTED for other types. Any thread. */
SHERD_API sherd_status sherd_safetensors_read_fp32(const sherd_safetensors *file, size_t index, int64_t first, int64_t elems,
                                                   float *data, sherd_error *err);

#if defined(__cplusplus)
}
#endif
#endif
