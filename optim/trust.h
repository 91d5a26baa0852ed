/* SPDX-License-Identifier: MIT
 *
 * The trust ratio of a whole parameter: how long it is against how long its step's direction is. Both norms are exact
 * (optim/norm.h), so the ratio does not depend on how the parameter is cut over ranks, tiers and threads. What ranks
 * add up are integers only.
 */
#ifndef SHERD_OPTIM_TRUST_H
#define SHERD_OPTIM_TRUST_H

#include "optim/norm.h"

/* Of one parameter, or of the part of it that one rank holds. Words that may be added. */
typedef struct sherd__trust_sums {
    uint64_t weight[SHERD__NORM_LIMBS], direction[SHERD__NORM_LIMBS];
    uint64_t bad; /* blocks in which either is not finite; they add nothing else */
} sherd__trust_sums;

#define SHERD__TRUST_WORDS (2 * SHERD__NORM_LIMBS + 1)

/* The plain form of what kernels do: one block of n ≤ 256 values. */
void sherd__trust_add_block(sherd__trust_sums *sums, const float *weight, const float *direction, int32_t n);
/* |weight| / |direction| within [least, most]; 1 where either is 0; NaN where something is not finite. */
float sherd__trust_ratio(const sherd__trust_sums *sums, double least, double most);

#endif
