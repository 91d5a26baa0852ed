/* SPDX-License-Identifier: MIT
 *
 * Lion, one element: the sign of an interpolation moves the weight, another interpolation is remembered.
 *
 *     c = b1 m;  c = fma(g, 1 - b1, c);   u = sign c (0 for ±0, NaN for NaN)
 *     p = fma(p, -lr wd, p);   p = fma(u, -lr, p)
 *     m = b2 m;  m = fma(g, 1 - b2, m)
 *
 * (Chen and others 2023, with decoupled decay. A weight whose gradient has always been 0 stays where it is, as the
 * paper has it; copying the sign of a zero would move it.)
 */
#ifndef SHERD_OPTIM_LION_H
#define SHERD_OPTIM_LION_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"

enum {
    SHERD__LION_BETA1,
    SHERD__LION_1_BETA1, /* 1 - b1 */
    SHERD__LION_BETA2,
    SHERD__LION_1_BETA2, /* 1 - b2 */
    SHERD__LION_DECAY,   /* -lr wd, and +0 (which leaves -0 alone) without decay */
    SHERD__LION_RATE     /* -lr */
};

static inline SHERD__HD void sherd__lion_element(const float *s, uint32_t first, float g, float *master, float *moment)
{
    float c = SHERD__FMAF(g, s[SHERD__LION_1_BETA1], s[SHERD__LION_BETA1] * moment[0]);
    float zero_or_nan = c != c ? c : 0.0f;
    float u = c > 0.0f ? 1.0f : c < 0.0f ? -1.0f : zero_or_nan;
    float p = SHERD__FMAF(*master, s[SHERD__LION_DECAY], *master);
    (void)first;
    moment[0] = SHERD__FMAF(g, s[SHERD__LION_1_BETA2], s[SHERD__LION_BETA2] * moment[0]);
    *master = SHERD__FMAF(u, s[SHERD__LION_RATE], p);
}

#endif
