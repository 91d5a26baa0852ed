/* SPDX-License-Identifier: MIT
 *
 * Sixteen lanes of double per block, then integers. Squares of fp32 values are exact in double and multiples of
 * 2^-298, and so is every rounded sum of them: nothing is lost below limb 0. A block's sum stays below 2^264, whose
 * highest bit lies in limb 17, so 20 limbs leave room for 2^77 blocks.
 */
#include "optim/norm_round.h"

#include <math.h>
#include <string.h>

#define LANES 16

void sherd__norm_clear(sherd__norm *norm)
{
    memset(norm->limb, 0, sizeof norm->limb);
    norm->bad_block = SHERD__NO_BAD_BLOCK;
}

void sherd__norm_add_block(sherd__norm *norm, const float *values, int32_t n, uint64_t number)
{
    double lane[LANES] = {0};
    for (int32_t i = 0; i < n; ++i) {
        lane[i % LANES] += (double)values[i] * (double)values[i];
    }
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) {
            lane[i] += lane[i + half];
        }
    }
    if (isfinite(lane[0])) {
        sherd__norm_add_double(norm, lane[0]);
    } else if (number < norm->bad_block) {
        norm->bad_block = number;
    }
}

void sherd__norm_add_double(sherd__norm *norm, double square_sum)
{
    uint64_t part[3];
    int at = sherd__norm_split(square_sum, part);
    for (int i = 0; at >= 0 && i < 3; ++i) {
        norm->limb[at + i] += part[i];
    }
}

void sherd__norm_merge(sherd__norm *norm, const sherd__norm *other)
{
    for (int i = 0; i < SHERD__NORM_LIMBS; ++i) {
        norm->limb[i] += other->limb[i];
    }
    if (other->bad_block < norm->bad_block) {
        norm->bad_block = other->bad_block;
    }
}

double sherd__norm_total(const sherd__norm *norm)
{
    return sherd__norm_round(norm->limb);
}

double sherd__norm_root(const sherd__norm *norm)
{
    return sqrt(sherd__norm_total(norm));
}
