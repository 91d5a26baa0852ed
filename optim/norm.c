/* SPDX-License-Identifier: MIT
 *
 * Sixteen lanes of double per block, then integers. Squares of fp32 values are exact in double and multiples of
 * 2^-298, and so is every rounded sum of them: nothing is lost below limb 0. A block's sum stays below 2^264, whose
 * highest bit lies in limb 17, so 20 limbs leave room for 2^77 blocks.
 */
#include "optim/norm.h"

#include <math.h>
#include <string.h>

#define LANES 16
#define LOWEST_BIT (-SHERD__NORM_LOW_BITS)

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

/* limb with every limb below 2^32; the last keeps what is left. */
static void carry(const uint64_t *from, uint64_t limb[SHERD__NORM_LIMBS])
{
    uint64_t over = 0;
    for (int i = 0; i < SHERD__NORM_LIMBS; ++i) {
        uint64_t sum = from[i] + over; /* a limb stays far below 2^64: see the contract */
        limb[i] = i + 1 < SHERD__NORM_LIMBS ? sum & UINT32_MAX : sum;
        over = sum >> 32;
    }
}

/* Nearest even by hand: the top 64 bits with everything below folded into the lowest, so that one conversion rounds
 * once. */
static double round_limbs(const uint64_t limb[SHERD__NORM_LIMBS])
{
    int top = SHERD__NORM_LIMBS - 1, shift;
    uint64_t window, below = 0;
    while (top > 0 && limb[top] == 0) {
        --top;
    }
    if (top < 2) {
        /* At most 64 bits: exact in the window. */
        window = top ? limb[1] << 32 | limb[0] : limb[0];
        return ldexp((double)window, LOWEST_BIT);
    }
    shift = __builtin_clzll(limb[top]) - 32; /* ≥ 0: a carried limb has 32 bits */
    window = limb[top] << 32 | limb[top - 1];
    below = limb[top - 2];
    if (shift > 0) {
        window = window << shift | below >> (32 - shift);
        below = below << shift & UINT32_MAX;
    }
    for (int i = 0; i < top - 2; ++i) {
        below |= limb[i];
    }
    window |= below != 0;
    return ldexp((double)window, LOWEST_BIT + 32 * (top - 1) - shift);
}

double sherd__norm_total(const sherd__norm *norm)
{
    uint64_t limb[SHERD__NORM_LIMBS];
    carry(norm->limb, limb);
    return round_limbs(limb);
}

double sherd__norm_root(const sherd__norm *norm)
{
    return sqrt(sherd__norm_total(norm));
}
