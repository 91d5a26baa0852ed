/* SPDX-License-Identifier: MIT
 *
 * The scalars of an ordinary step, computed where the kernels' scalars always are: by the host's own code.
 */
#ifndef SHERD_BENCH_SCALARS_H
#define SHERD_BENCH_SCALARS_H

#include <string.h>

#include "optim/optim.h"

static inline void bench_scalars(sherd_optimizer kind, sherd__step_scalars *out)
{
    sherd__step_rules rules = {.kind = kind,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .eps = 1e-8,
                               .momentum = 0.9,
                               .bias_correction = 1,
                               .base_lr = 1e-3,
                               .divisor = 2.0,
                               .n_groups = 1,
                               .groups = {{1e-3, 0.01}}};
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    sherd__step_state state;
    double lr = 1e-3;

    vote[SHERD__VOTE_SUMS] = SHERD__NO_BAD_BLOCK;
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    sherd__step_state_init(&state);
    sherd__step_prepare(&rules, vote, &state, out);
    out->first = 0;
}

#endif
