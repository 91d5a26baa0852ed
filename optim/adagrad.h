/* SPDX-License-Identifier: MIT
 *
 * Adagrad, one element: each weight's rate falls with the squares of its gradients so far.
 *
 *     g = fma(p, wd, g) where wd is not 0;   v = fma(g, g, v)
 *     p = fma(g / (sqrt v + eps), -lr, p)
 *
 * (Duchi, Hazan and Singer 2011; PyTorch's form without decay of the rate, v starts at 0.)
 */
#ifndef SHERD_OPTIM_ADAGRAD_H
#define SHERD_OPTIM_ADAGRAD_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"

enum { SHERD__ADAGRAD_EPS, SHERD__ADAGRAD_DECAY /* wd */, SHERD__ADAGRAD_RATE /* -lr */ };

static inline SHERD__HD void sherd__adagrad_element(const float *s, uint32_t first, float g, float *master,
                                                    float *moment)
{
    float decayed = SHERD__FMAF(*master, s[SHERD__ADAGRAD_DECAY], g);
    float gradient = s[SHERD__ADAGRAD_DECAY] != 0.0f ? decayed : g;
    float v = SHERD__FMAF(gradient, gradient, moment[0]);
    (void)first;
    moment[0] = v;
    *master = SHERD__FMAF(gradient / (sqrtf(v) + s[SHERD__ADAGRAD_EPS]), s[SHERD__ADAGRAD_RATE], *master);
}

#endif
