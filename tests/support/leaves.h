/* SPDX-License-Identifier: MIT
 *
 * Gradients for tests: pure functions of where they belong. Exponents are spread over 2^-20 … 2^3 and mantissas are
 * full, so that sums of three or more in another order have other bits; a few values are +0 and -0.
 */
#ifndef SHERD_TESTS_SUPPORT_LEAVES_H
#define SHERD_TESTS_SUPPORT_LEAVES_H

#include <stdint.h>

#include "sherd/sherd.h"

/* A well mixed 64-bit word of five numbers (and of anything else a test wants to draw). */
uint64_t sherd_test_mix(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e);
/* out: n values of dtype (fp32 or bf16): the gradient of `param` for micro-batch `micro` of step `step`. */
void sherd_test_leaf(uint64_t seed, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n,
                     void *out);
/* out: n initial weights, about ±0.05, never 0. */
void sherd_test_weights(uint64_t seed, uint32_t param, int64_t n, float *out);

#endif
