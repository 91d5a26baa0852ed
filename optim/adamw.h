/* SPDX-License-Identifier: MIT
 *
 * AdamW and Adam with L2 decay, one element. gcc, clang and nvcc compile these functions, and all give the same bits:
 * every operation is one IEEE fp32 operation, fused exactly where SHERD__FMAF is written.
 *
 *     m = b1 m;  m = fma(g, 1 - b1, m);   v = b2 v;  v = fma(g g, 1 - b2, v)
 *     d = fma(sqrt v, 1/sqrt(1 - b2^t), eps);   u = m / d
 *     AdamW: p = fma(p, -lr wd, p);   both: p = fma(u, -lr/(1 - b1^t), p)
 *     Adam with L2 decay: before all that g = fma(p, wd, g), where wd is not 0
 *
 * (Kingma and Ba 2015; Loshchilov and Hutter 2019; the order is that of DeepSpeed's CPU Adam.)
 */
#ifndef SHERD_OPTIM_ADAMW_H
#define SHERD_OPTIM_ADAMW_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"

/* Where each scalar of a group stands. */
enum {
    SHERD__ADAM_BETA1,
    SHERD__ADAM_1_BETA1,    /* 1 - b1 */
    SHERD__ADAM_BETA2,
    SHERD__ADAM_1_BETA2,
    SHERD__ADAM_ROOT_SCALE, /* 1/sqrt(1 - b2^t) */
    SHERD__ADAM_EPS,
    SHERD__ADAM_DECAY,      /* AdamW: -lr wd, and +0 (which leaves -0 alone) without decay. L2: wd */
    SHERD__ADAM_RATE        /* -lr/(1 - b1^t) */
};

/* Advances the moments; returns the direction u. */
static inline SHERD__HD float sherd__adam_direction(const float *s, float g, float *moment)
{
    float m = s[SHERD__ADAM_BETA1] * moment[0];
    float v = s[SHERD__ADAM_BETA2] * moment[1];
    m = SHERD__FMAF(g, s[SHERD__ADAM_1_BETA1], m);
    v = SHERD__FMAF(g * g, s[SHERD__ADAM_1_BETA2], v);
    moment[0] = m;
    moment[1] = v;
    return m / SHERD__FMAF(sqrtf(v), s[SHERD__ADAM_ROOT_SCALE], s[SHERD__ADAM_EPS]);
}

static inline SHERD__HD void sherd__adamw_element(const float *s, uint32_t first, float g, float *master, float *moment)
{
    float u = sherd__adam_direction(s, g, moment);
    float p = SHERD__FMAF(*master, s[SHERD__ADAM_DECAY], *master);
    (void)first;
    *master = SHERD__FMAF(u, s[SHERD__ADAM_RATE], p);
}

static inline SHERD__HD void sherd__adam_element(const float *s, uint32_t first, float g, float *master, float *moment)
{
    float decayed = SHERD__FMAF(*master, s[SHERD__ADAM_DECAY], g);
    float u = sherd__adam_direction(s, s[SHERD__ADAM_DECAY] != 0.0f ? decayed : g, moment);
    (void)first;
    *master = SHERD__FMAF(u, s[SHERD__ADAM_RATE], *master);
}

#endif
