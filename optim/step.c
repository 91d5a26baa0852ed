/* SPDX-License-Identifier: MIT
 *
 * From the vote to the scalars of one update. Everything here is double arithmetic with correctly rounded operations,
 * so every rank and every device forms the same bits; what enters the update is rounded to fp32 once, at the end.
 */
#include <math.h>
#include <string.h>

#include "base/cycle.h"
#include "optim/optim.h"

static void scaling_init(sherd__step_rules *rules, const sherd_config *config)
{
    rules->scaling = config->scaling.kind;
    rules->first_scale = config->scaling.kind == SHERD_SCALING_STATIC    ? config->scaling.loss_scale
                         : config->scaling.kind == SHERD_SCALING_DYNAMIC ? ldexp(1.0, config->scaling.initial_scale_power)
                                                                         : 1.0;
    rules->min_scale = config->scaling.min_loss_scale;
    rules->scale_window = config->scaling.loss_scale_window;
    rules->hysteresis = config->scaling.hysteresis;
    rules->consecutive_hysteresis = config->scaling.consecutive_hysteresis;
    rules->check_overflow |= config->scaling.kind == SHERD_SCALING_DYNAMIC;
}

void sherd__step_rules_init(sherd__step_rules *rules, const sherd_config *config, int32_t world)
{
    memset(rules, 0, sizeof *rules);
    rules->kind = config->optimizer.kind;
    rules->beta1 = config->optimizer.beta1;
    rules->beta2 = config->optimizer.beta2;
    rules->eps = config->optimizer.eps;
    rules->momentum = config->optimizer.momentum;
    rules->bias_correction = config->optimizer.bias_correction;
    rules->check_overflow = config->check_grad_overflow || config->faults.nonfinite != SHERD_NONFINITE_AUTO;
    rules->base_lr = config->optimizer.lr;
    rules->clipping = config->gradient_clipping;
    rules->micro_divisor = config->allreduce_sum ? 1.0 : (double)world;
    rules->divisor = (double)config->gradient_accumulation_steps * rules->micro_divisor;
    scaling_init(rules, config);
    rules->cycle = config->one_cycle;
    rules->cycle_betas = config->scheduler.kind == SHERD_SCHED_ONE_CYCLE && config->one_cycle.cycle_momentum &&
                         config->optimizer.kind != SHERD_SGD && config->optimizer.kind != SHERD_ADAGRAD &&
                         config->optimizer.kind != SHERD_MUON;
    rules->min_coeff = config->lamb.min_coeff;
    rules->max_coeff = config->lamb.max_coeff;
    rules->muon_lr = config->muon.muon_lr;
    rules->adam_lr = config->muon.adam_lr;
    rules->nesterov = config->muon.nesterov;
    rules->n_groups = config->n_groups ? config->n_groups : 1;
    rules->groups[0] = (sherd_group){config->optimizer.lr, config->optimizer.weight_decay};
    if (config->n_groups) {
        memcpy(rules->groups, config->groups, config->n_groups * sizeof rules->groups[0]);
    }
}

void sherd__step_state_init(sherd__step_state *state)
{
    *state = (sherd__step_state){.power = {1.0, 1.0}, .scale = 1.0, .last_overflow = -1};
}

void sherd__step_scale_init(sherd__step_state *state, const sherd__step_rules *rules)
{
    state->scale = rules->first_scale;
    state->iter = 0;
    state->last_overflow = -1;
    state->hysteresis = rules->hysteresis;
}

/* min(1, clip / (norm + 1e-6)), which keeps a NaN. */
static double clip_of(const sherd__step_rules *rules, double norm)
{
    double ratio = rules->clipping / (norm + 1e-6);
    return rules->clipping == 0.0 || ratio >= 1.0 ? 1.0 : ratio;
}

/* base^n by squaring: the same double multiplications on every machine. */
static double power_of(double base, uint64_t n)
{
    double result = 1.0;
    for (; n > 0; n >>= 1, base *= base) {
        result = n & 1 ? result * base : result;
    }
    return result;
}

uint64_t sherd__vote_word(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return isnan(value) ? 0 : ~bits;
}

/* 1 and *out, where the word says a value. */
static int word_value(uint64_t word, double *out)
{
    uint64_t bits = ~word;
    if (word != 0) {
        memcpy(out, &bits, sizeof bits);
    }
    return word != 0;
}

/* The rules with what was set since they were made. */
static sherd__step_rules with_groups(const sherd__step_rules *rules, const uint64_t *words)
{
    sherd__step_rules now = *rules;
    for (uint32_t group = 0; group < rules->n_groups; ++group) {
        if (word_value(words[2 * group], &now.groups[group].lr)) {
            now.own_rate |= 1u << group;
        }
        (void)word_value(words[2 * group + 1], &now.groups[group].weight_decay);
    }
    return now;
}

/* Betas that change from update to update correct as if they had always been what they are now, as in DeepSpeed. */
static sherd__step_rules cycled(const sherd__step_rules *rules, sherd__step_state *state)
{
    sherd__step_rules now = *rules;
    now.beta1 = sherd__cycle_momentum(&rules->cycle, (int64_t)state->updates);
    now.beta2 = 0.99;
    state->updates += 1;
    state->power[0] = power_of(now.beta1, state->updates);
    state->power[1] = power_of(now.beta2, state->updates);
    return now;
}

static void advance(const sherd__step_rules *rules, sherd__step_state *state, sherd__step_scalars *out)
{
    const sherd__optim *optim = sherd__optim_get(rules->kind);
    sherd__step_rules now = with_groups(rules, out->set);
    out->first = state->updates == 0;
    if (rules->cycle_betas) {
        now = cycled(&now, state);
    } else {
        state->updates += 1;
        state->power[0] *= rules->beta1;
        state->power[1] *= rules->beta2;
    }
    for (uint32_t group = 0; group < rules->n_groups; ++group) {
        optim->prepare(&now, state, out->lr, group, out->group[group]);
        if (optim->matrix) {
            optim->matrix->prepare(&now, state, out->lr, group, out->matrix[group]);
        }
    }
}

static void overflowed(const sherd__step_rules *rules, sherd__step_state *state, sherd__step_scalars *out)
{
    state->last_overflow = state->iter;
    if (state->hysteresis != 1 && rules->hysteresis != 1) {
        state->hysteresis -= 1;
        return;
    }
    out->stuck = state->scale == rules->min_scale;
    state->scale = fmax(state->scale / 2.0, rules->min_scale);
}

/* DeepSpeed's rules, its quirks with them: the steps between two doublings are counted from the last overflow, and that
 * one begins a window. */
static void rescale(const sherd__step_rules *rules, sherd__step_state *state, sherd__step_scalars *out)
{
    int64_t good = state->iter - state->last_overflow - 1;
    int full = good > 0 && good % rules->scale_window == 0;
    if (rules->scaling != SHERD_SCALING_DYNAMIC) {
        return;
    }
    if (out->bad_block != SHERD__NO_BAD_BLOCK) {
        overflowed(rules, state, out);
    } else {
        state->hysteresis = full || rules->consecutive_hysteresis ? rules->hysteresis : state->hysteresis;
        state->scale *= full ? 2.0 : 1.0;
    }
    state->iter += 1;
}

void sherd__step_prepare(const sherd__step_rules *rules, const uint64_t *vote, sherd__step_state *state,
                         sherd__step_scalars *out)
{
    double micros = (double)vote[SHERD__VOTE_MICROS];
    double divisor = state->scale * (micros > 0.0 ? micros * rules->micro_divisor : rules->divisor);
    sherd__norm norm;
    memset(out, 0, sizeof *out);
    memcpy(out->set, vote + SHERD__VOTE_GROUPS, sizeof out->set);
    out->torn = vote[SHERD__VOTE_MICROS] + vote[SHERD__VOTE_MICROS + 1] != 0 ||
                vote[SHERD__VOTE_WHERE] + vote[SHERD__VOTE_WHERE + 1] != 0;
    out->loss_scale = state->scale;
    memcpy(norm.limb, vote, sizeof norm.limb);
    memcpy(&out->lr, vote + SHERD__VOTE_LR, sizeof out->lr);
    out->bad_block = norm.bad_block = vote[SHERD__VOTE_BAD];
    out->norm = norm.bad_block == SHERD__NO_BAD_BLOCK ? sherd__norm_root(&norm) / divisor : (double)NAN;
    out->clip = clip_of(rules, out->norm);
    out->factor = (float)(out->clip / divisor);
    out->skip = out->torn || (norm.bad_block != SHERD__NO_BAD_BLOCK && rules->check_overflow);
    if (!out->skip) {
        advance(rules, state, out);
    }
    out->updates = state->updates;
    rescale(rules, state, out);
    out->next_scale = state->scale;
}

int sherd__step_scalars_same(const sherd__step_scalars *a, const sherd__step_scalars *b)
{
    return a->skip == b->skip && a->first == b->first && memcmp(&a->factor, &b->factor, sizeof a->factor) == 0 &&
           memcmp(a->group, b->group, sizeof a->group) == 0 && memcmp(a->matrix, b->matrix, sizeof a->matrix) == 0;
}
