/* SPDX-License-Identifier: MIT */
#include "tests/support/deepspeed.h"

#include <string.h>

void ds_scaler_init(ds_scaler *scaler, const sherd_config *config)
{
    memset(scaler, 0, sizeof *scaler);
    scaler->dynamic = config->scaling.kind == SHERD_SCALING_DYNAMIC;
    scaler->scale = 1;
    for (int i = 0; scaler->dynamic && i < config->scaling.initial_scale_power; i++) {
        scaler->scale *= 2;
    }
    if (config->scaling.kind == SHERD_SCALING_STATIC) {
        scaler->scale = config->scaling.loss_scale;
    }
    scaler->least = config->scaling.min_loss_scale;
    scaler->last_overflow = -1;
    scaler->grown = -1;
    scaler->window = config->scaling.loss_scale_window;
    scaler->hysteresis = scaler->left = config->scaling.hysteresis;
    scaler->consecutive = config->scaling.consecutive_hysteresis;
}

static int lower(ds_scaler *s)
{
    int64_t last = s->mistake == DS_HALVE_AT_ONCE ? 2 : 1;

    if (s->hysteresis == 1 || s->left <= last) {
        double half = s->scale / 2;

        if (s->scale == s->least && s->mistake != DS_NO_FLOOR) {
            return 1;
        }
        s->scale = half < s->least && s->mistake != DS_NO_FLOOR ? s->least : half;
    } else {
        s->left--;
    }
    s->last_overflow = s->iter;
    return 0;
}

static void grow(ds_scaler *s)
{
    int64_t from = s->last_overflow, since;

    if (s->mistake == DS_WINDOW_FROM_GROWTH && s->grown > from) {
        from = s->grown;
    }
    if (s->consecutive || s->mistake == DS_ALWAYS_REFILL) {
        s->left = s->hysteresis;
    }
    since = s->iter - from - 1;
    if (since > 0 && since % s->window == 0) {
        s->left = s->consecutive || s->mistake != DS_NEVER_REFILL ? s->hysteresis : s->left;
        s->scale *= 2;
        s->grown = s->iter;
    }
}

int ds_scaler_update(ds_scaler *s, int overflow)
{
    if (!s->dynamic) {
        return 0;
    }
    if (overflow && lower(s)) {
        return 1;
    }
    if (!overflow) {
        grow(s);
    }
    s->iter++;
    return 0;
}

/* The loss of every micro-step is divided by their number; the rest depends on when the sum is divided. */
ds_average ds_average_of(const sherd_config *config, int32_t world)
{
    double steps = (double)config->gradient_accumulation_steps, ranks = config->allreduce_sum ? 1 : (double)world;

    if (config->prescale_gradients) {
        return (ds_average){1 / (ranks * steps), 1};
    }
    return (ds_average){1 / (config->gradient_predivide_factor * steps), config->gradient_predivide_factor / ranks};
}

double ds_divisor(double norm, double scale, double clipping)
{
    double combined = scale;

    if (clipping > 0) {
        double over = (norm / scale + 1e-6) / clipping;

        combined = over > 1 ? over * scale : scale;
    }
    return combined;
}
