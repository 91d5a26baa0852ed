/* SPDX-License-Identifier: MIT
 *
 * What the variants of the host's kernels share: their tables and the one NaN.
 */
#ifndef SHERD_DEVICE_HOST_MATH_TABLE_H
#define SHERD_DEVICE_HOST_MATH_TABLE_H

#include "device/host_math.h"

extern const sherd__host_math sherd__host_math_reference, sherd__host_math_portable;
/* x86 builds only */
extern const sherd__host_math sherd__host_math_avx2, sherd__host_math_avx512;

/* A NaN becomes 0x7FC00000. */
static inline float sherd__one_nan(float value)
{
    return value != value ? sherd__f32_of_bits(0x7FC00000u) : value;
}

/* The reference's (device/host_math_orthogonal_reference.c). */
void sherd__orthogonalise_reference(sherd__team *team, const sherd__orthogonal *orthogonal);

#endif
