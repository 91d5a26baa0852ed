/* SPDX-License-Identifier: MIT */
#include "optim/adagrad.h"

#include "optim/rows.h"

static void adagrad_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                            float out[SHERD__GROUP_SCALARS])
{
    (void)state;
    out[SHERD__ADAGRAD_EPS] = (float)rules->eps;
    out[SHERD__ADAGRAD_DECAY] = (float)rules->groups[group].weight_decay;
    out[SHERD__ADAGRAD_RATE] = (float)-sherd__group_rate(rules, lr, group);
}

static void adagrad_element(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                            float *moment)
{
    sherd__adagrad_element(scalars, first, gradient, master, moment);
}

const sherd__optim sherd__adagrad = {"Adagrad", 1, {"sum", NULL}, adagrad_prepare, adagrad_element, NULL, NULL};
