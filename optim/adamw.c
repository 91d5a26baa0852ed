/* SPDX-License-Identifier: MIT */
#include "optim/adamw.h"

#include "optim/rows.h"

static void prepare_common(const sherd__step_rules *rules, const sherd__step_state *state, double lr,
                           float out[SHERD__GROUP_SCALARS])
{
    double correction1 = rules->bias_correction ? 1.0 - state->power[0] : 1.0;
    double correction2 = rules->bias_correction ? 1.0 - state->power[1] : 1.0;
    out[SHERD__ADAM_BETA1] = (float)rules->beta1;
    out[SHERD__ADAM_1_BETA1] = (float)(1.0 - rules->beta1);
    out[SHERD__ADAM_BETA2] = (float)rules->beta2;
    out[SHERD__ADAM_1_BETA2] = (float)(1.0 - rules->beta2);
    out[SHERD__ADAM_ROOT_SCALE] = (float)(1.0 / sqrt(correction2));
    out[SHERD__ADAM_EPS] = (float)rules->eps;
    out[SHERD__ADAM_RATE] = (float)(-lr / correction1);
}

static void adamw_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                          float out[SHERD__GROUP_SCALARS])
{
    double rate = sherd__group_rate(rules, lr, group), decay = rules->groups[group].weight_decay;
    prepare_common(rules, state, rate, out);
    out[SHERD__ADAM_DECAY] = decay != 0.0 ? (float)(-rate * decay) : 0.0f;
}

static void adam_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                         float out[SHERD__GROUP_SCALARS])
{
    prepare_common(rules, state, sherd__group_rate(rules, lr, group), out);
    out[SHERD__ADAM_DECAY] = (float)rules->groups[group].weight_decay;
}

static void adamw_element(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                          float *moment)
{
    sherd__adamw_element(scalars, first, gradient, master, moment);
}

static void adam_element(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                         float *moment)
{
    sherd__adam_element(scalars, first, gradient, master, moment);
}

const sherd__optim sherd__adamw = {"AdamW", 2, {"exp_avg", "exp_avg_sq"}, adamw_prepare, adamw_element, NULL, NULL};
const sherd__optim sherd__adam = {"Adam", 2, {"exp_avg", "exp_avg_sq"}, adam_prepare, adam_element, NULL, NULL};
