/* SPDX-License-Identifier: MIT
 *
 * The exact norm (NUMERICS: Norm): block sums of squares in double enter an integer accumulator of 20 limbs of 32 bits held in
 * uint64, lowest bit of limb 0 is 2^-298. Integer addition is associative, so the result depends on nothing but the gradients.
 * gcc, clang and nvcc compile this file.
 */
#ifndef SHERD_OPTIM_NORM_H
#define SHERD_OPTIM_NORM_H

#include <stdint.h>

#include "base/half.h"

#define SHERD__NORM_LIMBS 20
#define SHERD__NORM_BLOCK 256
#define SHERD__NO_BAD_BLOCK UINT64_MAX

typedef struct sherd__norm {
    uint64_t limb[SHERD__NORM_LIMBS]; /* each may grow past 32 bits: 2^32 additions are safe */
    uint64_t bad_block;               /* smallest number of a block with a non-finite value; SHERD__NO_BAD_BLOCK: none */
} sherd__norm;

void sherd__norm_clear(sherd__norm *norm);
/* Reference: block `number` holds n ≤ 256 values (+0 beyond). Non-finite: only bad_block changes. */
void sherd__norm_add_block(sherd__norm *norm, const float *values, int32_t n, uint64_t number);
/* One block's sum of squares (finite, ≥ 0) into the limbs. */
void sherd__norm_add_double(sherd__norm *norm, double square_sum);
void sherd__norm_merge(sherd__norm *norm, const sherd__norm *other);
/* Carries, rounds the total to double (nearest even), square root. */
double sherd__norm_root(const sherd__norm *norm);
/* The same without the root. */
double sherd__norm_total(const sherd__norm *norm);

#endif
