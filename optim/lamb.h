/* SPDX-License-Identifier: MIT
 *
 * LAMB, one element: Adam's direction with the decay in it, and a rate that every parameter has for itself, so that its
 * step is as long as the parameter is.
 *
 *     m = b1 m;  m = fma(g, 1 - b1, m);   v = b2 v;  v = fma(g g, 1 - b2, v)
 *     u = m / (sqrt v + eps);   u = fma(p, wd, u) where wd is not 0
 *     p = fma(u, -lr root(1 - b2^t)/(1 - b1^t) · ratio, p)
 *
 * with the ratio |p| / |u| over the whole parameter, kept within two bounds (optim/trust.h). (You and others 2019; the
 * start of the moments is corrected in the rate and not in u, as in DeepSpeed's FusedLamb.) The direction is formed
 * twice, once for its norm and once for the step: reading twice costs less than keeping an array.
 */
#ifndef SHERD_OPTIM_LAMB_H
#define SHERD_OPTIM_LAMB_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"

enum {
    SHERD__LAMB_BETA1,
    SHERD__LAMB_1_BETA1, /* 1 - b1 */
    SHERD__LAMB_BETA2,
    SHERD__LAMB_1_BETA2, /* 1 - b2 */
    SHERD__LAMB_EPS,
    SHERD__LAMB_DECAY, /* wd */
    SHERD__LAMB_RATE,  /* -lr root(1 - b2^t)/(1 - b1^t) */
    SHERD__LAMB_RATIO  /* the parameter's own: SHERD__TENSOR_SCALAR */
};

/* Advances the moments; returns u. */
static inline SHERD__HD float sherd__lamb_direction(const float *s, float g, float p, float *moment)
{
    float m = SHERD__FMAF(g, s[SHERD__LAMB_1_BETA1], s[SHERD__LAMB_BETA1] * moment[0]);
    float v = SHERD__FMAF(g * g, s[SHERD__LAMB_1_BETA2], s[SHERD__LAMB_BETA2] * moment[1]);
    float u = m / (sqrtf(v) + s[SHERD__LAMB_EPS]);
    float decayed = SHERD__FMAF(p, s[SHERD__LAMB_DECAY], u);
    moment[0] = m;
    moment[1] = v;
    return s[SHERD__LAMB_DECAY] != 0.0f ? decayed : u;
}

static inline SHERD__HD void sherd__lamb_element(const float *s, uint32_t first, float g, float *master, float *moment)
{
    float u = sherd__lamb_direction(s, g, *master, moment);
    (void)first;
    *master = SHERD__FMAF(u, s[SHERD__LAMB_RATE] * s[SHERD__LAMB_RATIO], *master);
}

#endif
