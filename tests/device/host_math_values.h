/* SPDX-License-Identifier: MIT
 *
 * Arrays for the kernels' tests: spread exponents, special values, guards around what may be written.
 */
#ifndef SHERD_TESTS_DEVICE_HOST_MATH_VALUES_H
#define SHERD_TESTS_DEVICE_HOST_MATH_VALUES_H

#include "device/host_math.h"

#define MAX_VARIANTS 8

/* The kernels other than the reference that run here; fails the test if there is none. */
uint32_t fast_variants(const sherd__host_math **out);
const sherd__host_math *reference_variant(void);

/* SPECIAL: every third is ±0, subnormal, ±inf, a NaN with a payload, a tie of bf16 or the largest. */
typedef enum value_mix { FINITE, SPECIAL } value_mix;

/* n values of dtype; different seeds give different arrays. */
void fill_values(void *out, sherd_dtype dtype, int64_t n, uint64_t seed, value_mix mix);
/* 64-byte aligned memory with a guard behind it; release with free. */
void *array_new(int64_t bytes);

#endif
