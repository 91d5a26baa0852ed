/* SPDX-License-Identifier: MIT
 *
 * Folders of checkpoints for tests, and a tiny engine of one rank.
 */
#ifndef SHERD_TESTS_ENGINE_CHECKPOINTS_H
#define SHERD_TESTS_ENGINE_CHECKPOINTS_H

#include "sherd/sherd.h"

#define CHECKPOINTS_NAME 256

/* A new empty folder under case_folder(). */
void checkpoints_folder(char name[CHECKPOINTS_NAME]);
/* It and all that is in it. */
void checkpoints_remove(const char *name);
/* The whole of a file; free it. */
unsigned char *checkpoints_read(const char *path, size_t *bytes);
void checkpoints_write(const char *path, const unsigned char *data, size_t bytes);

typedef struct checkpoints_tiny {
    sherd_device *device;
    sherd_comm *comm;
    sherd_plan *plan;
    sherd_engine *engine;
    int64_t seed;
} checkpoints_tiny;

typedef struct checkpoints_shape {
    const char *second; /* name of the second parameter; NULL: "b" */
    int64_t rows;       /* of the first; 0: 3 */
    sherd_dtype dtype;
    sherd_optimizer optimizer;
    uint32_t n_params; /* 0: 3, the third frozen */
    sherd_allocator allocator;
} checkpoints_shape;

/* Three parameters of 6, 5 and 4 elements. Asserts. */
void checkpoints_open(checkpoints_tiny *t, const checkpoints_shape *shape);
void checkpoints_close(checkpoints_tiny *t);
/* One step with gradients that are a function of the engine's step. */
void checkpoints_step(checkpoints_tiny *t);
void checkpoints_hash(checkpoints_tiny *t, uint8_t out[16]);

#endif
