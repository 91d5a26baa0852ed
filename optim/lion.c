/* SPDX-License-Identifier: MIT */
#include "optim/lion.h"

#include "optim/rows.h"

static void lion_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                         float out[SHERD__GROUP_SCALARS])
{
    double rate = sherd__group_rate(rules, lr, group), decay = rules->groups[group].weight_decay;
    (void)state;
    out[SHERD__LION_BETA1] = (float)rules->beta1;
    out[SHERD__LION_1_BETA1] = (float)(1.0 - rules->beta1);
    out[SHERD__LION_BETA2] = (float)rules->beta2;
    out[SHERD__LION_1_BETA2] = (float)(1.0 - rules->beta2);
    out[SHERD__LION_DECAY] = decay != 0.0 ? (float)(-rate * decay) : 0.0f;
    out[SHERD__LION_RATE] = (float)-rate;
}

static void lion_element(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                         float *moment)
{
    sherd__lion_element(scalars, first, gradient, master, moment);
}

const sherd__optim sherd__lion = {"Lion", 1, {"exp_avg", NULL}, lion_prepare, lion_element, NULL, NULL};
