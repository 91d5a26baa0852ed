/* SPDX-License-Identifier: MIT
 *
 * DeepSpeed's rules for loss scales, averages and clipping, written down from its documentation in its own order of
 * steps and in double. Independent of the library's code, and of the engine's oracle.
 */
#ifndef SHERD_TESTS_SUPPORT_DEEPSPEED_H
#define SHERD_TESTS_SUPPORT_DEEPSPEED_H

#include <stdint.h>

#include "sherd/sherd.h"

/* Ways to get the dynamic scale wrong, which a test must tell from the right one. */
typedef enum ds_mistake {
    DS_RIGHT = 0,
    DS_WINDOW_FROM_GROWTH, /* the window is counted from the last doubling too */
    DS_ALWAYS_REFILL,      /* hysteresis is refilled by every good step */
    DS_NEVER_REFILL,       /* not even by a doubling */
    DS_NO_FLOOR,           /* the least scale is not kept */
    DS_HALVE_AT_ONCE,      /* the last overflow that hysteresis bears halves already */
    DS_MISTAKES
} ds_mistake;

typedef struct ds_scaler {
    ds_mistake mistake;
    int dynamic, consecutive;
    double scale, least;
    int64_t iter, last_overflow, window, grown;
    int64_t hysteresis, left;
} ds_scaler;

void ds_scaler_init(ds_scaler *scaler, const sherd_config *config);
/* After every step. 1: DeepSpeed would end the run here. */
int ds_scaler_update(ds_scaler *scaler, int overflow);

/* What one rank's gradient, already summed over its micro-steps, is multiplied by before the ranks are summed, and what
 * the sum is multiplied by afterwards. */
typedef struct ds_average {
    double before, after;
} ds_average;
ds_average ds_average_of(const sherd_config *config, int32_t world);

/* By what averaged gradients, still scaled, are divided. `norm` is theirs. */
double ds_divisor(double norm, double scale, double clipping);

#endif
