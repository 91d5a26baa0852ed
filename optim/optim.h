/* SPDX-License-Identifier: MIT
 *
 * Optimizers as data: one file per optimizer (optim/adamw.c …) with its states, its per-step scalars and its
 * per-element arithmetic (an inline function in optim/adamw.h … that gcc, clang and nvcc compile). Everything else goes
 * through this table.
 */
#ifndef SHERD_OPTIM_OPTIM_H
#define SHERD_OPTIM_OPTIM_H

#include "base/status.h"
#include "optim/norm.h"

#define SHERD__MAX_MOMENTS 2
#define SHERD__GROUP_SCALARS 8
#define SHERD__TENSOR_SCALAR (SHERD__GROUP_SCALARS - 1) /* the parameter's own, where the optimizer has a direction */

/* What an update carries from step to step; lives in device memory; saved in checkpoints. */
typedef struct sherd__step_state {
    uint64_t updates; /* made so far */
    double power[2];  /* beta1^t, beta2^t of the last update; 1 before the first */
    double scale;     /* by which the loss of the next step is to be multiplied; 1 without loss scaling */
    int64_t iter;     /* of the dynamic scale: steps made, skipped ones too; the last one that overflowed, -1: none */
    int64_t last_overflow;
    int64_t hysteresis; /* left: at 1 the next overflow lowers the scale */
} sherd__step_state;

/* What one step's update reads; lives in device memory; written by sherd__step_prepare after the vote. */
typedef struct sherd__step_scalars {
    uint32_t skip;  /* 1: non-finite gradients; the update kernel changes nothing */
    uint32_t first; /* 1: first update ever (SGD's buf = g) */
    float factor;   /* f: gradient = sum × f */
    uint32_t stuck; /* 1: gradients overflow and the loss scale is at its minimum */
    uint32_t torn;  /* 1: ranks disagree on where they are; nothing is updated */
    double norm; /* L2 of the mean gradient before clipping */
    double clip; /* c */
    double lr;   /* as voted */
    double loss_scale, next_scale;
    uint64_t bad_block;
    uint64_t updates;                                    /* after this step */
    float group[SHERD_MAX_GROUPS][SHERD__GROUP_SCALARS]; /* the optimizer's own scalars, per group */
    uint64_t set[2 * SHERD_MAX_GROUPS]; /* the vote's group words: what the next guess starts from */
    float matrix[SHERD_MAX_GROUPS][SHERD__GROUP_SCALARS]; /* of whole matrices, where the optimizer has them */
} sherd__step_scalars;

/* What does not change from step to step. */
typedef struct sherd__step_rules {
    sherd_optimizer kind;
    double beta1, beta2, eps, momentum;
    int32_t bias_correction;
    int32_t check_overflow; /* skip on non-finite */
    double base_lr;         /* optimizer.lr, the divisor of groups' rates */
    double clipping;        /* 0: off */
    double divisor;         /* N × K (or without N for sum); the loss scale comes from the state */
    double micro_divisor;   /* the same of one micro-step: for steps that end early */
    sherd_scaling scaling;
    double first_scale, min_scale;
    int64_t scale_window, hysteresis;
    int32_t consecutive_hysteresis;
    int32_t cycle_betas;    /* 1: beta1, beta2 of each update come from `cycle` */
    sherd_one_cycle cycle;
    double min_coeff, max_coeff; /* of the ratio of whole parameters */
    double muon_lr, adam_lr; /* Muon's; below 0: base_lr */
    int32_t nesterov;
    uint32_t n_groups;      /* ≥ 1 */
    sherd_group groups[SHERD_MAX_GROUPS];
    uint32_t own_rate; /* bit g: groups[g].lr is that group's rate, whatever the vote says */
} sherd__step_rules;

/* The vote as it travels: integers that are added over ranks, then some that are minimised. What rank 0 alone has to say
 * (all others add 0) are the bits of lr, and two words per group: rate and weight decay where they were set, as their
 * complemented bits, so that 0 means "as configured". The last ones: how many micro-steps the step has (0: as configured), and a
 * digest of where the rank is, each beside its negative: their minima add up to 0 where all ranks agree. */
#define SHERD__VOTE_LR     SHERD__NORM_LIMBS
#define SHERD__VOTE_GROUPS (SHERD__VOTE_LR + 1)
#define SHERD__VOTE_SUMS   (SHERD__VOTE_GROUPS + 2 * SHERD_MAX_GROUPS)
#define SHERD__VOTE_BAD    SHERD__VOTE_SUMS /* bad_block */
#define SHERD__VOTE_MICROS (SHERD__VOTE_BAD + 1)
#define SHERD__VOTE_WHERE  (SHERD__VOTE_MICROS + 2)
#define SHERD__VOTE_MINS   5

/* Which part of an update: all of it at once, or, for an optimizer with whole matrices, one of the two around them. */
typedef enum sherd__part { SHERD__PART_WHOLE = 0, SHERD__PART_DIRECT, SHERD__PART_APPLY } sherd__part;

/* What an optimizer does with parameters that it takes for matrices: each element makes a direction, the matrix of directions becomes
 * a matrix of steps (device: orthogonalise), each element takes its step. */
typedef struct sherd__optim_matrix {
    uint32_t n_moments; /* of such a parameter */
    const char *moment_names[SHERD__MAX_MOMENTS];
    void (*prepare)(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                    float out[SHERD__GROUP_SCALARS]); /* scalars->matrix[g] */
    /* Reference twins. direct: advances the moment; apply: `step` is as it stands. */
    void (*direct)(const float scalars[SHERD__GROUP_SCALARS], float gradient, float *direction, float *moment);
    void (*apply)(const float scalars[SHERD__GROUP_SCALARS], float step, float *master);
} sherd__optim_matrix;

typedef struct sherd__optim {
    const char *name;   /* "AdamW" */
    uint32_t n_moments; /* fp32 state arrays beside the master */
    const char *moment_names[SHERD__MAX_MOMENTS];
    /* Fills scalars->group[g] from the rules, the new powers and the voted rate; called for steps that are not skipped,
     * after state->updates and the powers were advanced. Pure. */
    void (*prepare)(const sherd__step_rules *rules, const sherd__step_state *state, double lr, uint32_t group,
                    float out[SHERD__GROUP_SCALARS]);
    /* Reference twin: one element. `moment` has n_moments values. gradient is already sum × factor. */
    void (*element)(const float scalars[SHERD__GROUP_SCALARS], uint32_t first, float gradient, float *master,
                    float *moment);
    /* NULL, or: the step wants the ratio of whole parameters in SHERD__TENSOR_SCALAR, and this is what it is taken of. Reference
     * twin; changes `moment` as the element's update does. */
    float (*direction)(const float scalars[SHERD__GROUP_SCALARS], float gradient, float master, float *moment);
    const sherd__optim_matrix *matrix; /* NULL: every parameter is treated alike, as above */
} sherd__optim;

/* NULL for what is not a value of sherd_optimizer. */
const sherd__optim *sherd__optim_get(sherd_optimizer kind);
void sherd__step_rules_init(sherd__step_rules *rules, const sherd_config *config, int32_t world); /* config resolved */
void sherd__step_state_init(sherd__step_state *state); /* loss scale 1 */
void sherd__step_scale_init(sherd__step_state *state, const sherd__step_rules *rules);
/* A value that was set, as the vote's word, and 0 for one that was not (NaN). */
uint64_t sherd__vote_word(double value);
/* vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] → norm, clip, factor, skip, group scalars; advances *state unless skipped.
 * Pure. */
void sherd__step_prepare(const sherd__step_rules *rules, const uint64_t *vote, sherd__step_state *state,
                         sherd__step_scalars *out);
/* 1: an update made with `a` has the bits of one made with `b`. */
int sherd__step_scalars_same(const sherd__step_scalars *a, const sherd__step_scalars *b);

#endif
