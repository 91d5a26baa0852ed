/* SPDX-License-Identifier: MIT */
#ifndef SHERD_TESTS_SUPPORT_ORACLE_PARTS_H
#define SHERD_TESTS_SUPPORT_ORACLE_PARTS_H

/* What the files of the oracle share. */
#include "tests/support/oracle.h"

#define ORACLE_BLOCK 256

typedef struct oracle_tensor {
    int64_t elems, rows, cols; /* rows, cols: where it is stepped as a whole, else 0 */
    uint32_t group;
    int32_t frozen;
    sherd_dtype dtype, grad_dtype;
    float *master, *moment[2], *sum;
} oracle_tensor;

struct sherd_oracle {
    sherd_config config;
    int32_t world;
    uint32_t n;
    oracle_tensor *tensors;
    float *leaves; /* [world × accumulation][largest] */
    void *wire;
    int64_t largest;
    int64_t step, updates;
    double power1, power2, beta1, beta2;
    double scale;
    int64_t good, patience; /* steps since the last overflow, or the start; overflows that are still borne */
    sherd_oracle_fault fault;
    int64_t micros; /* of this step: K, or fewer */
    double set_lr[SHERD_MAX_GROUPS], set_decay[SHERD_MAX_GROUPS]; /* NaN: as configured */
};

float oracle_through_bf16(float value);
float oracle_through_fp16(float value);
float oracle_one_nan(float value); /* every NaN is one */
void oracle_sum_tensor(sherd_oracle *oracle, uint32_t param, sherd_oracle_leaf leaf, void *ctx);
/* Of the sums, over the divisor; NaN and the parameter where one is not finite, else -1. */
double oracle_norm(const sherd_oracle *oracle, double divisor, int64_t *bad_param);
/* Exact L2 norm of n values; NaN where one is not finite. */
double oracle_length(const float *values, int64_t n);
int oracle_second_moment(sherd_optimizer kind);
/* The update's number and betas, then each tensor's values. */
void oracle_next_betas(sherd_oracle *oracle);
/* Muon's matrices: rate and decay in double. */
void oracle_matrix_update(const sherd_oracle *oracle, oracle_tensor *t, double rate, double decay, float factor);
void oracle_update_tensor(sherd_oracle *oracle, oracle_tensor *t, double lr, float factor);

#endif
