/* SPDX-License-Identifier: MIT */
#include "optim/sgd.h"

#include "optim/rows.h"

static void sgd_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                        float out[SHERD__GROUP_SCALARS])
{
    (void)state;
    out[SHERD__SGD_MOMENTUM] = (float)rules->momentum;
    out[SHERD__SGD_DECAY] = (float)rules->groups[group].weight_decay;
    out[SHERD__SGD_RATE] = (float)-sherd__group_rate(rules, lr, group);
}

static void sgd_element(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                        float *moment)
{
    sherd__sgd_element(scalars, first, gradient, master, moment);
}

const sherd__optim sherd__sgd = {"SGD", 1, {"momentum_buffer", NULL}, sgd_prepare, sgd_element, NULL, NULL};
