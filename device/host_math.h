/* SPDX-License-Identifier: MIT
 *
 * The host's kernels, shared by the host and the checking device. Each has a plain reference twin (…_reference) that
 * defines its bits; the fast ones are compiled for several instruction sets (portable, AVX2, AVX-512) from one source
 * and chosen once at run time.
 */
#ifndef SHERD_DEVICE_HOST_MATH_H
#define SHERD_DEVICE_HOST_MATH_H

#include "device/device.h"
#include "host/team.h"

typedef struct sherd__host_math {
    const char *name; /* "avx512", "avx2", "portable", "reference" */
    void (*tree_sum)(sherd__team *team, const sherd__tree_sum *sum);
    void (*update)(sherd__team *team, const sherd__update *update);
    void (*convert)(sherd__team *team, void *dst, sherd_dtype dst_dtype, const void *src, sherd_dtype src_dtype,
                    int64_t elems, int32_t add);
    void (*copy)(sherd__team *team, void *dst, const void *src, uint64_t bytes);
    void (*trust)(sherd__team *team, const sherd__update *update); /* as sherd__device_ops.trust */
    void (*split)(sherd__team *team, uint16_t *half, uint16_t *remainder, const float *values, int64_t elems);
    void (*join)(sherd__team *team, float *values, const uint16_t *half, const uint16_t *remainder, int64_t elems);
    void (*orthogonalise)(sherd__team *team, const sherd__orthogonal *orthogonal);
} sherd__host_math;

/* The best this processor runs. */
const sherd__host_math *sherd__host_math_best(void);
/* All that this build has and this processor can run, best first, the reference last; returns how many. */
uint32_t sherd__host_math_all(const sherd__host_math **out, uint32_t capacity);

/* As sherd__device_ops.narrow, over the variant's convert. */
void sherd__host_narrow(const sherd__host_math *math, sherd__team *team, void *data, sherd_dtype to, sherd_dtype from,
                        int64_t elems);

void sherd__host_reduce_u64(uint64_t *dst, const void *const *src, uint32_t n_src, uint64_t offset, uint32_t n_sum,
                            uint32_t n_min);

#endif
