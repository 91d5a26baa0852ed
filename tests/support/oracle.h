/* SPDX-License-Identifier: MIT
 *
 * An unsharded trainer that follows docs/numerics.md and nothing else: whole parameters, one thread, no code of the
 * library but xxHash. Engine tests compare with it bit for bit.
 *
 *     sherd_oracle *oracle = sherd_oracle_create(&config, params, n_params, world);
 *     sherd_oracle_write(oracle, id, weights);                 every parameter
 *     sherd_oracle_step(oracle, lr, leaf, ctx, &report);       per step; lr: sherd_config_lr(&config, updates so far)
 *     sherd_oracle_hash(oracle, param_hash, state_hash);
 *     sherd_oracle_destroy(oracle);
 */
#ifndef SHERD_TESTS_SUPPORT_ORACLE_H
#define SHERD_TESTS_SUPPORT_ORACLE_H

#include <stdint.h>

#include "sherd/sherd.h"

typedef struct sherd_oracle sherd_oracle;

/* Fills `out` with n values of `dtype` (the parameter's gradient type): its gradient for micro-batch `micro` of
 * `step` (from 1, skipped steps counted). Return 0 if the gradient never comes: it is then +0. */
typedef int (*sherd_oracle_leaf)(void *ctx, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n,
                                 void *out);
/* The shared generator; ctx points to a uint64_t seed. */
int sherd_oracle_test_leaf(void *ctx, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n,
                           void *out);

typedef struct sherd_oracle_report {
    double norm;       /* of the mean gradient before clipping; NaN if something is not finite */
    int32_t skipped;
    int64_t bad_param; /* the last in registration order (first in backward order) with a non-finite sum; -1: none */
    int64_t updates;   /* made so far */
    double loss_scale; /* of this step */
    int32_t stuck;     /* 1: overflow at the least loss scale */
} sherd_oracle_report;

typedef enum sherd_oracle_fault {
    SHERD_ORACLE_RIGHT,
    SHERD_ORACLE_LEFT_TO_RIGHT, /* sums rank after rank: differs from world 4 on (over 3 the tree is left to right) */
    SHERD_ORACLE_OTHER_ORDER,   /* under accumulation: tree per micro-step where sums come first, and the reverse. No
                                   other bits for 3 ranks and 3 micro-steps, or 2 micro-steps and 2^j ranks */
    SHERD_ORACLE_RIGHT_TO_LEFT, /* from the last rank to the first: differs from world 3 on */
    SHERD_ORACLE_OTHER_RATIO    /* LAMB's ratios are taken of the parameters without their last elements; so are the lengths of
                                   Muon's directions */
} sherd_oracle_fault;

/* config: resolved for `world`. NULL when memory is out. The config's stage and accumulation say in which order sums
 * are formed. */
sherd_oracle *sherd_oracle_create(const sherd_config *config, const sherd_param *params, uint32_t n_params,
                                  int32_t world);
void sherd_oracle_destroy(sherd_oracle *oracle);
/* Makes it wrong on purpose: for tests that show that a comparison can fail. */
void sherd_oracle_break(sherd_oracle *oracle, sherd_oracle_fault fault);
void sherd_oracle_write(sherd_oracle *oracle, uint32_t param, const float *data);
/* `report` may be NULL. */
void sherd_oracle_step(sherd_oracle *oracle, double lr, sherd_oracle_leaf leaf, void *ctx, sherd_oracle_report *report);
/* From the next step on: a group's rate, exactly, and its weight decay. NaN: as configured. */
void sherd_oracle_set_group(sherd_oracle *oracle, uint32_t group, double lr, double weight_decay);
/* From the next step on: micro-steps of a step, at most as configured (an early boundary). */
void sherd_oracle_set_micros(sherd_oracle *oracle, int64_t micros);
double sherd_oracle_scale(const sherd_oracle *oracle); /* of the next step */
int64_t sherd_oracle_updates(const sherd_oracle *oracle);
int64_t sherd_oracle_elems(const sherd_oracle *oracle, uint32_t param);
/* fp32; a frozen parameter's stored values widened. */
const float *sherd_oracle_master(const sherd_oracle *oracle, uint32_t param);
/* NULL where the optimizer has fewer, or the parameter is frozen. */
const float *sherd_oracle_moment(const sherd_oracle *oracle, uint32_t param, uint32_t which);
void sherd_oracle_hash(const sherd_oracle *oracle, uint8_t param_hash[16], uint8_t state_hash[16]);

#endif
