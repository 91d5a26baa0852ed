/* SPDX-License-Identifier: MIT */
#include "optim/muon.h"

#include "optim/rows.h"

/* The group's rate, in the proportion in which `own` stands to the rate that both kinds of parameters share: what is
 * scheduled or set is that shared one. */
static double rate_of(const sherd__step_rules *rules, double lr, uint32_t group, double own)
{
    double rate = sherd__group_rate(rules, lr, group);
    return own < 0.0 || rules->base_lr == 0.0 ? rate : rate * (own / rules->base_lr);
}

/* Parameters that are no matrices: AdamW at its own rate. */
static void muon_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                         float out[SHERD__GROUP_SCALARS])
{
    sherd__step_rules own = *rules;
    own.groups[group].lr = rate_of(rules, lr, group, rules->adam_lr);
    own.own_rate |= 1u << group;
    sherd__adamw.prepare(&own, state, lr, group, out);
}

static void muon_element(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                         float *moment)
{
    sherd__adamw_element(scalars, first, gradient, master, moment);
}

static void matrix_prepare(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                           float out[SHERD__GROUP_SCALARS])
{
    double rate = rate_of(rules, lr, group, rules->muon_lr), decay = rules->groups[group].weight_decay;
    (void)state;
    out[SHERD__MUON_MU] = (float)rules->momentum;
    out[SHERD__MUON_1_MU] = (float)(1.0 - rules->momentum);
    out[SHERD__MUON_NESTEROV] = rules->nesterov ? 1.0f : 0.0f;
    out[SHERD__MUON_DECAY] = decay != 0.0 ? (float)(-rate * decay) : 0.0f;
    out[SHERD__MUON_RATE] = (float)-rate;
}

static void matrix_direct(const float scalars[SHERD__GROUP_SCALARS], float gradient, float *direction, float *moment)
{
    sherd__muon_direct_element(scalars, 0, gradient, direction, moment);
}

static void matrix_apply(const float scalars[SHERD__GROUP_SCALARS], float step, float *master)
{
    sherd__muon_apply_element(scalars, 0, step, master, NULL);
}

float sherd__muon_scale(int64_t rows, int64_t cols)
{
    return rows > cols ? (float)sqrt((double)rows / (double)cols) : 1.0f;
}

static const sherd__optim_matrix muon_matrix = {1, {"momentum_buffer"}, matrix_prepare, matrix_direct, matrix_apply};
const sherd__optim sherd__muon = {"Muon", 2, {"exp_avg", "exp_avg_sq"}, muon_prepare, muon_element, NULL, &muon_matrix};
