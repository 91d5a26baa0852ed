/* SPDX-License-Identifier: MIT
 *
 * Checkpoints: what saving and loading share. Files are named here, and nowhere else:
 *
 *     DIR/latest                                    "step-N"
 *     DIR/step-N/manifest.json                      written last: without it there is no checkpoint
 *     DIR/step-N/model.safetensors                  working copies, frozen ones too; by rank 0
 *     DIR/step-N/optimizer-RRRRR-of-NNNNN.safetensors   "PARAM/STATE/FIRST": fp32, the elements from FIRST on that lie
 *                                                   in slice R; by rank R, at every stage
 *     DIR/step-N.tmp/                               one that is being written, or replaced, or removed
 */
#ifndef SHERD_ENGINE_CHECKPOINT_H
#define SHERD_ENGINE_CHECKPOINT_H

#include "engine/engine.h"
#include "store/manifest.h"

#define SHERD__CHECKPOINT_MODEL "model.safetensors"
/* The note that says how moments were kept while training; the files hold fp32 in any case. */
#define SHERD__CHECKPOINT_MOMENTS "moments"
#define SHERD__CHECKPOINT_PATH 1024 /* bytes of any path, with the NUL */

typedef char sherd__checkpoint_path[SHERD__CHECKPOINT_PATH];

/* EINVAL where it does not fit. */
sherd_status sherd__checkpoint_print(sherd__checkpoint_path path, sherd_error *err, const char *format, ...)
    SHERD__PRINTF(3, 4);
void sherd__checkpoint_optimizer_name(int32_t rank, int32_t world, char out[64]);

/* checkpoint_folder.c: folders. */
/* DIR itself where it holds a manifest, else its newest complete checkpoint, into an initialised manifest. */
sherd_status sherd__checkpoint_open(const char *dir, sherd__checkpoint_path folder, sherd__manifest *manifest,
                                    sherd_error *err);
/* Fills what a summary says; `size` is kept. */
void sherd__checkpoint_summary(const sherd__manifest *manifest, const char *folder, sherd_checkpoint *out);
/* The files of a checkpoint, then the folder. What is not of a checkpoint stays, and the folder with it: EIO then. */
sherd_status sherd__checkpoint_remove(const char *folder, sherd_error *err);
/* TMP, complete, takes the place of FOLDER; what was there is removed. Durable when it returns. */
sherd_status sherd__checkpoint_install(const char *tmp, const char *folder, sherd_error *err);

/* checkpoint_agree.c */
/* COLLECTIVE. Every rank says how its part went; all return the same: SHERD_OK, or the sentence of the first that
 * failed. */
sherd_status sherd__checkpoint_agree(sherd_engine *engine, sherd_status mine, const sherd_error *why, sherd_error *err);
/* Values from device (or offloaded) memory to the engine's staging block on the host, where they are `staged`, or back:
 * at most SHERD__STAGE_BYTES there. */
sherd_status sherd__checkpoint_lower(sherd_engine *engine, sherd__values from, sherd_dtype staged, int64_t elems,
                                     sherd_error *err);
sherd_status sherd__checkpoint_raise(sherd_engine *engine, sherd__values to, sherd_dtype staged, int64_t elems,
                                     sherd_error *err);
/* Step state as text and back; powers and loss scale return bit for bit. */
void sherd__checkpoint_state_text(const sherd__step_state *state, char *out, size_t bytes);
int sherd__checkpoint_state_of_text(const char *text, sherd__step_state *out);

#endif
