/* SPDX-License-Identifier: MIT
 *
 * fma in fp32 for processors without one, as vector code: with the C library's, which computes in integers there,
 * AdamW took thirty times longer.
 *
 * The product of two fp32 values is exact in double. The sum with c is not, and rounding it twice (to double, then to
 * fp32) can go wrong next to a tie; so the first rounding is made to odd: where the sum was inexact and its last bit
 * is even, it steps to its neighbour on the side of the error, and 53 bits are enough for the second rounding to be
 * right (Boldo and Melquiond 2008).
 */
#ifndef SHERD_OPTIM_FMA_H
#define SHERD_OPTIM_FMA_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float sherd__fma_in_double(float a, float b, float c)
{
    double product = (double)a * (double)b, addend = (double)c, sum = product + addend, part = sum - product;
    double error = (product - (sum - part)) + (addend - part); /* exact (Knuth); NaN where anything is infinite */
    uint64_t bits, error_bits, step;
    memcpy(&bits, &sum, sizeof bits);
    memcpy(&error_bits, &error, sizeof error_bits);
    step = 1 - 2 * ((bits ^ error_bits) >> 63);
    step = fabs(error) > 0.0 ? step : 0;
    bits += step & ((bits & 1) - 1);
    memcpy(&sum, &bits, sizeof sum);
    return (float)sum;
}

#endif
