/* SPDX-License-Identifier: MIT
 *
 * The oracle against the library's own pieces, put together without an engine: kernels sum and update whole
 * parameters, the vote is one rank's. Two independent implementations of docs/numerics.md must agree; broken ones
 * must not.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "device/host_math.h"
#include "tests/support/leaves.h"
#include "tests/support/oracle.h"

#define PARAMS 5
#define ROOM 2048
#define MAX_LEAVES 24
#define STEPS 4

static const int64_t sizes[PARAMS] = {1, 300, 0, 1024, 1999};

typedef struct pieces {
    sherd_config config;
    int32_t world;
    sherd_param params[PARAMS];
    sherd__step_rules rules;
    sherd__step_state state;
    sherd__step_scalars scalars;
    const sherd__host_math *math;
    sherd_oracle_leaf leaf;
    float master[PARAMS][ROOM], moment[PARAMS][2][ROOM], sum[PARAMS][ROOM];
} pieces;

static float leaves[MAX_LEAVES][ROOM], partial[8][ROOM];

static void params_make(sherd_param *params, sherd_dtype dtype)
{
    static const char *const names[PARAMS] = {"a", "b", "c", "d", "e"};
    for (uint32_t p = 0; p < PARAMS; ++p) {
        params[p] = (sherd_param){.name = names[p], .shape = {sizes[p]}, .ndim = 1, .dtype = dtype, .grad_dtype = dtype,
                                  .group = p % 2};
    }
    params[3].flags = SHERD_PARAM_FROZEN;
}

static sherd_config config_make(sherd_optimizer kind, int stage, int64_t accumulation, sherd_dtype dtype)
{
    sherd_config c = {.size = sizeof c, .gradient_accumulation_steps = accumulation, .gradient_clipping = 0.5,
                      .dtype = dtype, .check_grad_overflow = 1, .n_groups = 2, .groups = {{1e-2, 0.1}, {3e-3, 0.0}}};
    c.zero.stage = stage;
    c.optimizer.kind = kind;
    c.optimizer.lr = 1e-2;
    c.optimizer.beta1 = 0.9;
    c.optimizer.beta2 = 0.99;
    c.optimizer.eps = 1e-8;
    c.optimizer.momentum = 0.9;
    c.optimizer.bias_correction = 1;
    c.lamb.max_coeff = 10;
    c.lamb.min_coeff = 0.01;
    c.sherd.grad_sum_bf16 = dtype == SHERD_BF16 && stage == 1;
    return c;
}

/* dst (=, +=) the tree over src[0 .. n). */
static void sum_pieces(pieces *x, float *dst, const void *const *src, uint32_t n, sherd_dtype dtype, int add, int final,
                       int64_t elems, sherd__norm *norm)
{
    sherd__tree_sum sum = {.src = src, .n_src = n, .src_dtype = dtype, .dst_dtype = SHERD_FP32, .dst = dst,
                           .elems = elems,
                           .add = add, .narrow = final && x->config.sherd.grad_sum_bf16, .norm = final ? norm : NULL};
    x->math->tree_sum(NULL, &sum);
}

static void sum_param(pieces *x, uint64_t seed, int64_t step, uint32_t p, sherd__norm *norm)
{
    int64_t K = x->config.gradient_accumulation_steps, N = x->world;
    sherd_dtype dtype = x->params[p].grad_dtype;
    const void *src[MAX_LEAVES];
    for (int64_t g = 0; g < N * K; ++g) {
        if (!x->leaf(&seed, step, g, p, dtype, sizes[p], leaves[g])) {
            memset(leaves[g], 0, sizeof leaves[g]);
        }
    }
    if (x->config.zero.stage == 2 || K == 1) {
        for (int64_t k = 0; k < K; ++k) {
            for (int64_t r = 0; r < N; ++r) {
                src[r] = leaves[k * N + r];
            }
            sum_pieces(x, x->sum[p], src, (uint32_t)N, dtype, k > 0, k == K - 1, sizes[p], norm);
        }
        return;
    }
    for (int64_t r = 0; r < N; ++r) {
        for (int64_t k = 0; k < K; ++k) {
            src[0] = leaves[r * K + k];
            sum_pieces(x, partial[r], src, 1, dtype, k > 0, 0, sizes[p], NULL);
        }
    }
    for (int64_t r = 0; r < N; ++r) {
        src[r] = partial[r];
    }
    sum_pieces(x, x->sum[p], src, (uint32_t)N, SHERD_FP32, 0, 1, sizes[p], norm);
}

static void pieces_step(pieces *x, uint64_t seed, int64_t step, double lr)
{
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    sherd__norm norm;
    sherd__norm_clear(&norm);
    for (uint32_t p = 0; p < PARAMS; ++p) {
        if (!(x->params[p].flags & SHERD_PARAM_FROZEN)) {
            sum_param(x, seed, step, p, &norm);
        }
    }
    memcpy(vote, norm.limb, sizeof norm.limb);
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    vote[SHERD__VOTE_SUMS] = norm.bad_block;
    sherd__step_prepare(&x->rules, vote, &x->state, &x->scalars);
    for (uint32_t p = 0; p < PARAMS; ++p) {
        sherd__span span = {0, sizes[p], x->params[p].group, 0};
        sherd__update update = {.kind = x->rules.kind, .scalars = &x->scalars, .sum = x->sum[p],
                                .sum_dtype = SHERD_FP32,
                                .master = x->master[p], .moment = {x->moment[p][0], x->moment[p][1]}, .spans = &span,
                                .n_spans = 1};
        sherd__trust_sums trust = {.bad = 0};
        float ratio;
        if (!(x->params[p].flags & SHERD_PARAM_FROZEN)) {
            if (x->rules.kind == SHERD_LAMB) {
                update.trust = &trust;
                x->math->trust(NULL, &update);
                ratio = sherd__trust_ratio(&trust, x->rules.min_coeff, x->rules.max_coeff);
                update.ratios = &ratio;
            }
            x->math->update(NULL, &update);
        }
    }
}

static void pieces_hash(const pieces *x, uint8_t param_hash[16], uint8_t state_hash[16])
{
    sherd__hash_sum masters = {0, 0}, all;
    for (uint32_t p = 0; p < PARAMS; ++p) {
        sherd__hash_add(&masters, p, 0, 0, x->master[p], sizes[p]);
    }
    all = masters;
    for (uint32_t p = 0; p < PARAMS; ++p) {
        for (uint32_t k = 0; k < sherd__optim_get(x->rules.kind)->n_moments && !x->params[p].flags; ++k) {
            sherd__hash_add(&all, p, (uint8_t)(k + 1), 0, x->moment[p][k], sizes[p]);
        }
    }
    sherd__hash_bytes(masters, param_hash);
    sherd__hash_bytes(all, state_hash);
}

static void weights(pieces *x, sherd_oracle *oracle)
{
    for (uint32_t p = 0; p < PARAMS; ++p) {
        sherd_test_weights(1, p, sizes[p], x->master[p]);
        sherd_oracle_write(oracle, p, x->master[p]);
        for (int64_t i = 0; i < sizes[p] && x->params[p].flags && x->params[p].dtype == SHERD_BF16; ++i) {
            x->master[p][i] = sherd__f32_of_bf16(sherd__bf16_of_f32(x->master[p][i]));
        }
    }
}

/* Runs both; returns how many of the two hashes agree after the last step, and demands equal norms when `fault` is
 * none. */
static int agree_on(const sherd_config *config, int32_t world, sherd_dtype dtype, sherd_oracle_fault fault,
                    sherd_oracle_leaf leaf)
{
    static pieces x;
    uint64_t seed = 77;
    uint8_t mine[2][16], theirs[2][16];
    sherd_oracle *oracle;
    memset(&x, 0, sizeof x);
    x.config = *config;
    x.world = world;
    x.math = sherd__host_math_best();
    x.leaf = leaf;
    params_make(x.params, dtype);
    sherd__step_rules_init(&x.rules, config, world);
    sherd__step_state_init(&x.state);
    oracle = sherd_oracle_create(config, x.params, PARAMS, world);
    assert_non_null(oracle);
    sherd_oracle_break(oracle, fault);
    weights(&x, oracle);
    for (int64_t step = 1; step <= STEPS; ++step) {
        sherd_oracle_report report;
        double lr = 1e-2 / (double)step;
        pieces_step(&x, seed, step, lr);
        sherd_oracle_step(oracle, lr, leaf, &seed, &report);
        if (fault == SHERD_ORACLE_RIGHT) {
            assert_memory_equal(&report.norm, &x.scalars.norm, sizeof report.norm);
            assert_false(report.norm <= 0.0);
            assert_int_equal(report.skipped, x.scalars.skip);
            assert_int_equal(report.updates, x.state.updates);
        }
    }
    pieces_hash(&x, mine[0], mine[1]);
    sherd_oracle_hash(oracle, theirs[0], theirs[1]);
    for (uint32_t p = 0; p < PARAMS && fault == SHERD_ORACLE_RIGHT; ++p) {
        assert_memory_equal(x.master[p], sherd_oracle_master(oracle, p), (size_t)sizes[p] * 4);
    }
    sherd_oracle_destroy(oracle);
    return (memcmp(mine[0], theirs[0], 16) == 0) + (memcmp(mine[1], theirs[1], 16) == 0);
}

static int agree(const sherd_config *config, int32_t world, sherd_dtype dtype, sherd_oracle_fault fault)
{
    return agree_on(config, world, dtype, fault, sherd_oracle_test_leaf);
}

static void test_two_implementations_agree(void **state)
{
    int combinations = 0;
    (void)state;
    for (int kind = 0; kind <= SHERD_LAMB; ++kind) {
        for (int stage = 0; stage < 3; ++stage) {
            for (int32_t world = 1; world <= 8; ++world) {
                for (int64_t accumulation = 1; accumulation <= 3; accumulation += 2) {
                    sherd_dtype dtype = (combinations + kind) % 2 ? SHERD_BF16 : SHERD_FP32;
                    sherd_config config = config_make((sherd_optimizer)kind, stage, accumulation, dtype);
                    assert_int_equal(agree(&config, world, dtype, SHERD_ORACLE_RIGHT), 2);
                    ++combinations;
                }
            }
        }
    }
    assert_int_equal(combinations, 288);
    printf("combinations: %d\n", combinations);
}

/* Adam hides a wrong scale, not a wrong order; SGD is used too. Lion's signs may hide it in the masters, not in the
 * moment. */
static void test_wrong_orders_are_noticed(void **state)
{
    (void)state;
    for (int kind = 0; kind <= SHERD_LAMB; ++kind) {
        int hidden = kind == SHERD_LION;
        for (int32_t world = 3; world <= 8; ++world) {
            sherd_config config = config_make((sherd_optimizer)kind, 2, 1, SHERD_FP32);
            assert_in_range(agree(&config, world, SHERD_FP32, SHERD_ORACLE_RIGHT_TO_LEFT), 0, hidden);
            int left = agree(&config, world, SHERD_FP32, SHERD_ORACLE_LEFT_TO_RIGHT);
            assert_in_range(left, world == 3 ? 2 : 0, world == 3 ? 2 : hidden);
            config = config_make((sherd_optimizer)kind, 1, world == 3 ? 2 : 3, SHERD_FP32);
            assert_in_range(agree(&config, world, SHERD_FP32, SHERD_ORACLE_OTHER_ORDER), 0, hidden);
        }
    }
}

/* One infinite leaf: the step is skipped, the parameter named, and the next step goes on as if it had not been. */
static int bad_leaf(void *ctx, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n, void *out)
{
    sherd_oracle_test_leaf(ctx, step, micro, param, dtype, n, out);
    if (step == 2 && micro == 1 && param == 1) {
        ((float *)out)[299] = (float)INFINITY;
    }
    return !(param == 4 && micro == 0); /* and one gradient that never comes */
}

/* Skipped, or carried on with NaNs in the same places and of the same bits; with clipping and without. */
static void test_bad_gradients_agree(void **state)
{
    (void)state;
    for (int kind = 0; kind <= SHERD_LAMB; ++kind) {
        for (int mode = 0; mode < 4; ++mode) {
            sherd_config config = config_make((sherd_optimizer)kind, 2, 1, SHERD_FP32);
            config.check_grad_overflow = mode & 1;
            config.gradient_clipping = mode & 2 ? 0.5 : 0.0;
            assert_int_equal(agree_on(&config, 2, SHERD_FP32, SHERD_ORACLE_RIGHT, bad_leaf), 2);
        }
    }
}

static void test_oracle_skips(void **state)
{
    sherd_config config = config_make(SHERD_SGD, 2, 1, SHERD_FP32);
    sherd_param params[PARAMS];
    sherd_oracle *oracle;
    sherd_oracle_report report;
    uint8_t before[2][16], after[2][16];
    uint64_t seed = 5;
    (void)state;
    params_make(params, SHERD_FP32);
    oracle = sherd_oracle_create(&config, params, PARAMS, 2);
    sherd_oracle_step(oracle, 0.1, bad_leaf, &seed, &report);
    assert_true(report.skipped == 0 && report.bad_param == -1 && report.updates == 1);
    sherd_oracle_hash(oracle, before[0], before[1]);
    sherd_oracle_step(oracle, 0.1, bad_leaf, &seed, &report);
    sherd_oracle_hash(oracle, after[0], after[1]);
    assert_true(report.skipped == 1 && report.bad_param == 1 && report.updates == 1 && isnan(report.norm));
    assert_memory_equal(before, after, sizeof before);
    sherd_oracle_step(oracle, 0.1, bad_leaf, &seed, &report);
    assert_true(report.skipped == 0 && report.updates == 2);
    sherd_oracle_destroy(oracle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_implementations_agree), cmocka_unit_test(test_wrong_orders_are_noticed),
        cmocka_unit_test(test_bad_gradients_agree),       cmocka_unit_test(test_oracle_skips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
