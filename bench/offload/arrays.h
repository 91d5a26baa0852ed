/* SPDX-License-Identifier: MIT
 *
 * The arrays of a host step: sum, master, moments, second places for them, the bf16 copy; in pages of a chosen size.
 */
#ifndef SHERD_BENCH_OFFLOAD_ARRAYS_H
#define SHERD_BENCH_OFFLOAD_ARRAYS_H

#include "device/host_math.h"

typedef struct step_shape {
    int64_t params; /* a multiple of 1024 */
    sherd_optimizer kind;
    sherd_dtype sum_dtype;
    int elsewhere;   /* new values go to second places */
    int small_pages; /* 4 KiB instead of 2 MiB where the system gives those */
} step_shape;

typedef struct step_arrays {
    step_shape shape;
    sherd__step_scalars scalars;
    uint32_t moments;
    void *sum;
    float *state[1 + SHERD__MAX_MOMENTS], *second[1 + SHERD__MAX_MOMENTS]; /* master, then moments */
    uint16_t *emit;
    void *mapping; /* of all of them */
    size_t mapping_bytes;
} step_arrays;

/* What the arrays take, and what one step must move: every byte that is read or written, once. */
int64_t step_arrays_bytes(const step_shape *shape);
int64_t step_moved_bytes(const step_shape *shape);
/* 0: no memory. Ordinary values everywhere: subnormal results would take the processor a hundred times longer. */
int step_arrays_make(step_arrays *out, const step_shape *shape);
void step_arrays_free(step_arrays *arrays);
/* One step of all elements with `math` on `team`. */
void step_arrays_update(const step_arrays *arrays, const sherd__host_math *math, sherd__team *team);

#endif
