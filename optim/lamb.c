/* SPDX-License-Identifier: MIT */
#include "optim/lamb.h"

#include "optim/rows.h"

static void lamb_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                         float out[SHERD__GROUP_SCALARS])
{
    double rate = sherd__group_rate(rules, lr, group);
    double corrected = rate * sqrt(1.0 - state->power[1]) / (1.0 - state->power[0]);
    out[SHERD__LAMB_BETA1] = (float)rules->beta1;
    out[SHERD__LAMB_1_BETA1] = (float)(1.0 - rules->beta1);
    out[SHERD__LAMB_BETA2] = (float)rules->beta2;
    out[SHERD__LAMB_1_BETA2] = (float)(1.0 - rules->beta2);
    out[SHERD__LAMB_EPS] = (float)rules->eps;
    out[SHERD__LAMB_DECAY] = (float)rules->groups[group].weight_decay;
    out[SHERD__LAMB_RATE] = (float)-(rules->bias_correction ? corrected : rate);
    out[SHERD__LAMB_RATIO] = 1.0f;
}

static void lamb_element(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                         float *moment)
{
    sherd__lamb_element(scalars, first, gradient, master, moment);
}

static float lamb_direction(const float scalars[SHERD__GROUP_SCALARS], float gradient, float master, float *moment)
{
    return sherd__lamb_direction(scalars, gradient, master, moment);
}

const sherd__optim sherd__lamb = {"Lamb", 2, {"exp_avg", "exp_avg_sq"}, lamb_prepare, lamb_element, lamb_direction, NULL};
