/* SPDX-License-Identifier: MIT
 *
 * SGD with momentum as PyTorch defines it: coupled decay, no dampening, no Nesterov. One element.
 *
 *     g = fma(p, wd, g) where wd is not 0;   first update: buf = g, later: buf = fma(mu, buf, g)
 *     p = fma(buf, -lr, p)
 *
 * The buffer is kept for mu = 0 too (it then holds the last gradient), so that the number of states depends on the
 * optimizer's kind only.
 */
#ifndef SHERD_OPTIM_SGD_H
#define SHERD_OPTIM_SGD_H

#include <math.h>
#include <stdint.h>

#include "base/half.h"

enum { SHERD__SGD_MOMENTUM, SHERD__SGD_DECAY /* wd */, SHERD__SGD_RATE /* -lr */ };

static inline SHERD__HD void sherd__sgd_element(const float *s, uint32_t first, float g, float *master, float *moment)
{
    float decayed = SHERD__FMAF(*master, s[SHERD__SGD_DECAY], g);
    float gradient = s[SHERD__SGD_DECAY] != 0.0f ? decayed : g;
    float later = SHERD__FMAF(s[SHERD__SGD_MOMENTUM], moment[0], gradient);
    float buf = first ? gradient : later;
    moment[0] = buf;
    *master = SHERD__FMAF(buf, s[SHERD__SGD_RATE], *master);
}

#endif
