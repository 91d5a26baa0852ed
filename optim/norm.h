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
#define SHERD__NORM_LOW_BITS 298 /* limb 0 begins so many bits below 1 */
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
/* What that adds: part[0..3) to limb[returned], each below 2^32; −1: nothing. Shared with kernels, which add their own
 * way. */
static inline SHERD__HD int sherd__norm_split(double square_sum, uint64_t part[3])
{
    union {
        double value;
        uint64_t bits;
    } pun;
    uint64_t mantissa;
    int shift;
    pun.value = square_sum;
    if (pun.bits == 0) {
        return -1;
    }
    /* Subnormal doubles cannot occur: the smallest square is 2^-298. */
    mantissa = (pun.bits & ((UINT64_C(1) << 52) - 1)) | UINT64_C(1) << 52;
    shift = (int)(pun.bits >> 52) - 1075 + SHERD__NORM_LOW_BITS;
    if (shift < 0) {
        mantissa >>= -shift; /* drops zeros only */
        shift = 0;
    }
    part[2] = shift % 32 ? mantissa >> (64 - shift % 32) : 0;
    mantissa <<= shift % 32;
    part[0] = mantissa & UINT32_MAX;
    part[1] = mantissa >> 32;
    return shift / 32;
}
void sherd__norm_merge(sherd__norm *norm, const sherd__norm *other);
/* Carries, rounds the total to double (nearest even), square root. */
double sherd__norm_root(const sherd__norm *norm);
/* The same without the root. */
double sherd__norm_total(const sherd__norm *norm);

#endif
