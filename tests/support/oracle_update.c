/* SPDX-License-Identifier: MIT
 *
 * The oracle's optimizers, element by element.
 */
#include "tests/support/oracle_parts.h"

#include <math.h>

/* ------------------------------------------------------------------------------------------------------- the update */

typedef struct scalars {
    float factor, b1, c1, b2, c2, root, eps, decay, rate, momentum;
} scalars;

static double group_decay(const sherd_oracle *oracle, uint32_t group)
{
    const sherd_config *c = &oracle->config;
    double decay = c->n_groups ? c->groups[group].weight_decay : c->optimizer.weight_decay;
    return isnan(oracle->set_decay[group]) ? decay : oracle->set_decay[group];
}

/* Under Muon the two kinds of parameters may have rates of their own, in proportion to the one that they share. */
static double group_rate(const sherd_oracle *oracle, uint32_t group, double lr, int matrix)
{
    const sherd_config *c = &oracle->config;
    double own_lr = c->n_groups ? c->groups[group].lr : c->optimizer.lr;
    double rate = c->optimizer.lr != 0.0 ? lr * (own_lr / c->optimizer.lr) : lr;
    double kind = matrix ? c->muon.muon_lr : c->muon.adam_lr;
    rate = isnan(oracle->set_lr[group]) ? rate : oracle->set_lr[group];
    return c->optimizer.kind == SHERD_MUON && kind >= 0.0 && c->optimizer.lr != 0.0 ? rate * (kind / c->optimizer.lr) : rate;
}

static scalars group_scalars(const sherd_oracle *oracle, uint32_t group, double lr, float factor)
{
    const sherd_config *c = &oracle->config;
    double decay = group_decay(oracle, group), rate = group_rate(oracle, group, lr, 0);
    double correction1 = c->optimizer.bias_correction ? 1.0 - oracle->power1 : 1.0;
    double correction2 = c->optimizer.bias_correction ? 1.0 - oracle->power2 : 1.0;
    int corrected = c->optimizer.kind == SHERD_ADAMW || c->optimizer.kind == SHERD_ADAM || c->optimizer.kind == SHERD_MUON;
    int decoupled =
        c->optimizer.kind == SHERD_ADAMW || c->optimizer.kind == SHERD_LION || c->optimizer.kind == SHERD_MUON;
    scalars s = {.factor = factor, .momentum = (float)c->optimizer.momentum};
    s.b1 = (float)oracle->beta1;
    s.c1 = (float)(1.0 - oracle->beta1);
    s.b2 = (float)oracle->beta2;
    s.c2 = (float)(1.0 - oracle->beta2);
    s.root = (float)(1.0 / sqrt(correction2));
    s.eps = (float)c->optimizer.eps;
    s.decay = decoupled ? (float)(-rate * decay) : (float)decay;
    s.rate = corrected ? (float)(-rate / correction1) : (float)-rate;
    if (c->optimizer.kind == SHERD_LAMB && c->optimizer.bias_correction) {
        s.rate = (float)-(rate * sqrt(correction2) / correction1);
    }
    return s;
}

static void adam_element(const scalars *s, int decoupled, float g, float *p, float *m, float *v)
{
    float denominator, direction;
    if (!decoupled && s->decay != 0.0f) {
        g = fmaf(*p, s->decay, g);
    }
    *m = s->b1 * *m;
    *m = fmaf(g, s->c1, *m);
    *v = s->b2 * *v;
    *v = fmaf(g * g, s->c2, *v);
    denominator = fmaf(sqrtf(*v), s->root, s->eps);
    direction = *m / denominator;
    if (decoupled && s->decay != 0.0f) {
        *p = fmaf(*p, s->decay, *p);
    }
    *p = fmaf(direction, s->rate, *p);
}

static void sgd_element(const scalars *s, int first, float g, float *p, float *buf)
{
    if (s->decay != 0.0f) {
        g = fmaf(*p, s->decay, g);
    }
    *buf = first ? g : fmaf(s->momentum, *buf, g);
    *p = fmaf(*buf, s->rate, *p);
}

static void lion_element(const scalars *s, float g, float *p, float *m)
{
    float c = fmaf(g, s->c1, s->b1 * *m);
    if (s->decay != 0.0f) {
        *p = fmaf(*p, s->decay, *p);
    }
    if (isnan(c)) {
        *p = c;
    } else if (c != 0.0f) {
        *p += copysignf(1.0f, c) * s->rate;
    }
    *m = fmaf(g, s->c2, s->b2 * *m);
}

static void adagrad_element(const scalars *s, float g, float *p, float *sum)
{
    if (s->decay != 0.0f) {
        g = fmaf(*p, s->decay, g);
    }
    *sum = fmaf(g, g, *sum);
    *p = fmaf(g / (sqrtf(*sum) + s->eps), s->rate, *p);
}

int oracle_second_moment(sherd_optimizer kind)
{
    return kind == SHERD_ADAMW || kind == SHERD_ADAM || kind == SHERD_LAMB || kind == SHERD_MUON;
}

/* |weights| / |direction|, bounded; a parameter that is zero, or stands still, goes by the rate as it is. */
static float lamb_ratio(const sherd_oracle *oracle, const oracle_tensor *t, const float *direction)
{
    int64_t n = oracle->fault == SHERD_ORACLE_OTHER_RATIO ? t->elems - t->elems / 8 : t->elems;
    double weight = oracle_length(t->master, n), length = oracle_length(direction, n);
    if (isnan(weight) || isnan(length)) {
        return NAN;
    }
    if (weight == 0.0 || length == 0.0) {
        return 1.0f;
    }
    return (float)fmin(fmax(weight / length, oracle->config.lamb.min_coeff), oracle->config.lamb.max_coeff);
}

/* As they are stored between steps. */
static void keep_moments(const sherd_oracle *oracle, oracle_tensor *t, int64_t i)
{
    for (int k = 0; oracle->config.moments_bf16 && k < 2 && t->moment[k]; ++k) {
        t->moment[k][i] = oracle_through_bf16(t->moment[k][i]);
    }
}

/* The whole parameter in two passes; the directions take the place of the sums. */
static void lamb_tensor(const sherd_oracle *oracle, const scalars *s, oracle_tensor *t)
{
    float rate;
    for (int64_t i = 0; i < t->elems; ++i) {
        float g = t->sum[i] * s->factor, *m = &t->moment[0][i], *v = &t->moment[1][i], u;
        *m = s->b1 * *m;
        *m = fmaf(g, s->c1, *m);
        *v = s->b2 * *v;
        *v = fmaf(g * g, s->c2, *v);
        u = *m / (sqrtf(*v) + s->eps);
        t->sum[i] = s->decay != 0.0f ? fmaf(t->master[i], s->decay, u) : u;
        *m = oracle_one_nan(*m);
        *v = oracle_one_nan(*v);
        keep_moments(oracle, t, i);
    }
    rate = s->rate * lamb_ratio(oracle, t, t->sum);
    for (int64_t i = 0; i < t->elems; ++i) {
        t->master[i] = oracle_one_nan(fmaf(t->sum[i], rate, t->master[i]));
    }
}

void oracle_update_tensor(sherd_oracle *oracle, oracle_tensor *t, double lr, float factor)
{
    scalars s = group_scalars(oracle, t->group, lr, factor);
    sherd_optimizer kind = oracle->config.optimizer.kind;
    if (t->rows > 0) {
        oracle_matrix_update(oracle, t, group_rate(oracle, t->group, lr, 1), group_decay(oracle, t->group), factor);
        return;
    }
    if (kind == SHERD_LAMB) {
        lamb_tensor(oracle, &s, t);
        return;
    }
    for (int64_t i = 0; i < t->elems; ++i) {
        float g = t->sum[i] * s.factor;
        if (kind == SHERD_SGD) {
            sgd_element(&s, oracle->updates == 1, g, &t->master[i], &t->moment[0][i]);
        } else if (kind == SHERD_LION) {
            lion_element(&s, g, &t->master[i], &t->moment[0][i]);
        } else if (kind == SHERD_ADAGRAD) {
            adagrad_element(&s, g, &t->master[i], &t->moment[0][i]);
        } else {
            adam_element(&s, kind != SHERD_ADAM, g, &t->master[i], &t->moment[0][i], &t->moment[1][i]);
            t->moment[1][i] = oracle_one_nan(t->moment[1][i]);
        }
        t->moment[0][i] = oracle_one_nan(t->moment[0][i]);
        keep_moments(oracle, t, i);
        t->master[i] = oracle_one_nan(t->master[i]);
    }
}

/* Cycles without stairs or decay, which are compared with numbers elsewhere (config_values, optim_step). */
static double cycle_share(const sherd_one_cycle *cycle, double it)
{
    double first = (double)cycle->first_step_size, second = (double)cycle->second_step_size, whole = first + second;
    if (it >= whole) {
        return 0.0;
    }
    return it <= first ? it / whole / (first / whole) : (1.0 + it / whole - 1.0 - 1.0) / (first / whole - 1.0);
}

void oracle_next_betas(sherd_oracle *oracle)
{
    const sherd_config *c = &oracle->config;
    const sherd_one_cycle *cycle = &c->one_cycle;
    int adaptive = c->optimizer.kind != SHERD_SGD && c->optimizer.kind != SHERD_ADAGRAD && c->optimizer.kind != SHERD_MUON;
    double it = (double)oracle->updates++;
    oracle->beta1 = c->optimizer.beta1;
    oracle->beta2 = c->optimizer.beta2;
    if (c->scheduler.kind != SHERD_SCHED_ONE_CYCLE || !cycle->cycle_momentum || !adaptive) {
        oracle->power1 = oracle->power1 * c->optimizer.beta1;
        oracle->power2 = oracle->power2 * c->optimizer.beta2;
        return;
    }
    oracle->beta1 =
        it > 0 ? cycle->max_mom - (cycle->max_mom - cycle->min_mom) * cycle_share(cycle, it) : cycle->min_mom;
    oracle->beta2 = 0.99;
    oracle->power1 = oracle->power2 = 1.0;
    double square1 = oracle->beta1, square2 = oracle->beta2;
    for (int64_t t = oracle->updates; t > 0; t /= 2) {
        if (t % 2) {
            oracle->power1 *= square1;
            oracle->power2 *= square2;
        }
        square1 *= square1;
        square2 *= square2;
    }
}
