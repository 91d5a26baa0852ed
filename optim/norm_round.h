/* SPDX-License-Identifier: MIT
 *
 * The norm's integer becomes a double, rounded once: on the host after the vote, and on GPUs where a norm does not
 * leave them.
 */
#ifndef SHERD_OPTIM_NORM_ROUND_H
#define SHERD_OPTIM_NORM_ROUND_H

#include <math.h>

#include "optim/norm.h"

/* limb with every limb below 2^32; the last keeps what is left. */
static inline SHERD__HD void sherd__norm_carry(const uint64_t *from, uint64_t limb[SHERD__NORM_LIMBS])
{
    uint64_t over = 0;
    for (int i = 0; i < SHERD__NORM_LIMBS; ++i) {
        uint64_t sum = from[i] + over; /* a limb stays far below 2^64: see the contract */
        limb[i] = i + 1 < SHERD__NORM_LIMBS ? sum & UINT32_MAX : sum;
        over = sum >> 32;
    }
}

/* Zeros above the highest bit of 32. */
static inline SHERD__HD int sherd__norm_zeros(uint64_t limb)
{
    int zeros = 0;
    while (zeros < 32 && !(limb >> (31 - zeros) & 1)) {
        ++zeros;
    }
    return zeros;
}

/* Nearest even by hand: the top 64 bits with everything below folded into the lowest, so that one conversion rounds
 * once. */
static inline SHERD__HD double sherd__norm_round(const uint64_t *from)
{
    uint64_t limb[SHERD__NORM_LIMBS], window, below = 0;
    int top = SHERD__NORM_LIMBS - 1, shift;
    sherd__norm_carry(from, limb);
    while (top > 0 && limb[top] == 0) {
        --top;
    }
    if (top < 2) {
        /* At most 64 bits: exact in the window. */
        window = top ? limb[1] << 32 | limb[0] : limb[0];
        return ldexp((double)window, -SHERD__NORM_LOW_BITS);
    }
    shift = sherd__norm_zeros(limb[top]); /* a carried limb has 32 bits */
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
    return ldexp((double)window, 32 * (top - 1) - shift - SHERD__NORM_LOW_BITS);
}

#endif
