/* SPDX-License-Identifier: MIT
 *
 * The host step behind three C functions, for bench/offload/peers.py.
 */
#include <math.h>
#include <string.h>

#include "device/host_math.h"

#define EXPORT __attribute__((visibility("default")))

/* AdamW's step `step` (from 1) over n elements: gradient = sum × factor. */
typedef struct host_step {
    int64_t n;
    const void *sum;
    float *master, *exp_avg, *exp_avg_sq;
    uint16_t *emit;
    double factor, lr, beta1, beta2, eps, weight_decay;
    int64_t step;
    int32_t sum_is_bf16;
} host_step;

EXPORT void *host_step_open(int32_t threads);
EXPORT const char *host_step_kernels(void);
EXPORT void host_step_run(void *team, const host_step *step);
EXPORT void host_step_close(void *team);

void *host_step_open(int32_t threads)
{
    sherd__team *team = NULL;
    return sherd__team_create(&sherd__default_allocator, threads, &team, NULL) == SHERD_OK ? team : NULL;
}

const char *host_step_kernels(void)
{
    return sherd__host_math_best()->name;
}

void host_step_run(void *team, const host_step *s)
{
    sherd__step_rules rules = {.kind = SHERD_ADAMW,
                               .beta1 = s->beta1,
                               .beta2 = s->beta2,
                               .eps = s->eps,
                               .bias_correction = 1,
                               .base_lr = s->lr,
                               .divisor = 1.0 / s->factor,
                               .n_groups = 1,
                               .groups = {{s->lr, s->weight_decay}}};
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    sherd__step_state state;
    sherd__step_scalars scalars;
    sherd__span span = {0, s->n, 0, 0};
    sherd__update update = {.kind = SHERD_ADAMW,
                            .scalars = &scalars,
                            .sum = s->sum,
                            .sum_dtype = s->sum_is_bf16 ? SHERD_BF16 : SHERD_FP32,
                            .master = s->master,
                            .moment = {s->exp_avg, s->exp_avg_sq},
                            .emit = s->emit,
                            .spans = &span,
                            .n_spans = 1};
    sherd__step_state_init(&state);
    state.updates = (uint64_t)s->step - 1;
    state.power[0] = pow(s->beta1, (double)(s->step - 1));
    state.power[1] = pow(s->beta2, (double)(s->step - 1));
    vote[SHERD__VOTE_SUMS] = SHERD__NO_BAD_BLOCK;
    memcpy(&vote[SHERD__NORM_LIMBS], &s->lr, sizeof s->lr);
    sherd__step_prepare(&rules, vote, &state, &scalars);
    sherd__host_math_best()->update(team, &update);
}

void host_step_close(void *team)
{
    sherd__team_destroy(team);
}
