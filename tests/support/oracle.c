/* SPDX-License-Identifier: MIT
 *
 * Deliberately formed in other ways than the library where there is another way: the tree goes level by level, the
 * norm is an exact floating-point expansion that is rounded once (Shewchuk 1997), digests are 128-bit integers, bf16
 * is rounded by comparing distances. What the specification fixes (which operation, fused or not) is written down as
 * it stands there.
 */
#include "tests/support/oracle_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/support/leaves.h"

__extension__ typedef unsigned __int128 u128;

/* Told as a story of good steps and of patience, where the library keeps numbers of steps. Returns 1 at the end of the
 * road. */
static int next_scale(sherd_oracle *oracle, int overflow)
{
    const sherd_config *c = &oracle->config;
    int worn = oracle->patience == 1 || c->scaling.hysteresis == 1, least = oracle->scale == c->scaling.min_loss_scale;
    if (c->scaling.kind != SHERD_SCALING_DYNAMIC) {
        return 0;
    }
    if (overflow) {
        oracle->good = 0;
        if (!worn) {
            oracle->patience -= 1;
        } else {
            oracle->scale *= 0.5;
            oracle->scale = oracle->scale < c->scaling.min_loss_scale ? c->scaling.min_loss_scale : oracle->scale;
        }
        return worn && least;
    }
    if (oracle->good > 0 && oracle->good % c->scaling.loss_scale_window == 0) {
        oracle->scale += oracle->scale;
        oracle->patience = c->scaling.hysteresis;
    }
    if (c->scaling.consecutive_hysteresis) {
        oracle->patience = c->scaling.hysteresis;
    }
    oracle->good += 1;
    return 0;
}

void sherd_oracle_step(sherd_oracle *oracle, double lr, sherd_oracle_leaf leaf, void *ctx, sherd_oracle_report *report)
{
    const sherd_config *c = &oracle->config;
    double scale = oracle->scale, norm, clip = 1.0;
    double divisor = scale * (double)(oracle->micros * (c->allreduce_sum ? 1 : oracle->world));
    int64_t bad_param;
    int skipped;
    oracle->step += 1;
    for (uint32_t p = 0; p < oracle->n; ++p) {
        if (!oracle->tensors[p].frozen) {
            oracle_sum_tensor(oracle, p, leaf, ctx);
        }
    }
    norm = oracle_norm(oracle, divisor, &bad_param);
    if (c->gradient_clipping != 0.0) {
        clip = c->gradient_clipping / (norm + 1e-6);
        clip = clip > 1.0 ? 1.0 : clip;
    }
    skipped = bad_param >= 0 && (c->check_grad_overflow || c->faults.nonfinite || c->scaling.kind == SHERD_SCALING_DYNAMIC);
    if (!skipped) {
        oracle_next_betas(oracle);
        for (uint32_t p = 0; p < oracle->n; ++p) {
            if (!oracle->tensors[p].frozen) {
                oracle_update_tensor(oracle, &oracle->tensors[p], lr, (float)(clip / divisor));
            }
        }
    }
    int stuck = next_scale(oracle, bad_param >= 0);
    if (report) {
        *report = (sherd_oracle_report){norm, skipped, bad_param, oracle->updates, scale, stuck};
    }
}

/* ---------------------------------------------------------------------------------------------------------- digests */

static u128 digest(uint32_t param, uint64_t place, const float *values, int64_t elems)
{
    u128 total = 0;
    for (int64_t block = 0; block * ORACLE_BLOCK < elems; ++block) {
        int64_t n = elems - block * ORACLE_BLOCK < ORACLE_BLOCK ? elems - block * ORACLE_BLOCK : ORACLE_BLOCK;
        uint64_t seed = (uint64_t)param * (UINT64_C(1) << 32) + (uint64_t)block + (place << 56);
        XXH128_hash_t hash = XXH3_128bits_withSeed(values + block * ORACLE_BLOCK, (size_t)n * 4, seed);
        total += (u128)hash.high64 << 64 | hash.low64;
    }
    return total;
}

static void big_endian(u128 value, uint8_t out[16])
{
    for (int i = 15; i >= 0; --i) {
        out[i] = (uint8_t)value;
        value >>= 8;
    }
}

void sherd_oracle_hash(const sherd_oracle *oracle, uint8_t param_hash[16], uint8_t state_hash[16])
{
    u128 masters = 0, state = 0;
    for (uint32_t p = 0; p < oracle->n; ++p) {
        const oracle_tensor *t = &oracle->tensors[p];
        masters += digest(p, 0, t->master, t->elems);
        for (uint32_t k = 0; k < 2 && t->moment[k]; ++k) {
            state += digest(p, k + 1, t->moment[k], t->elems);
        }
    }
    big_endian(masters, param_hash);
    big_endian(masters + state, state_hash);
}

/* -------------------------------------------------------------------------------------------------- life and access */

static int tensor_init(oracle_tensor *t, const sherd_param *param, sherd_optimizer kind)
{
    size_t count;
    int second;
    *t = (oracle_tensor){.elems = 1, .group = param->group, .dtype = param->dtype, .grad_dtype = param->grad_dtype};
    t->frozen = (param->flags & SHERD_PARAM_FROZEN) != 0;
    if (kind == SHERD_MUON && param->flags & SHERD_PARAM_MUON) {
        t->rows = param->shape[0];
        t->cols = param->shape[1];
    }
    second = oracle_second_moment(kind) && t->rows == 0;
    for (uint32_t d = 0; d < param->ndim; ++d) {
        t->elems *= param->shape[d];
    }
    count = t->elems ? (size_t)t->elems : 1;
    t->master = calloc(count, sizeof(float));
    t->sum = calloc(count, sizeof(float));
    if (!t->frozen) {
        t->moment[0] = calloc(count, sizeof(float));
        t->moment[1] = second ? calloc(count, sizeof(float)) : NULL;
    }
    return t->master && t->sum && (t->frozen || (t->moment[0] && (!second || t->moment[1])));
}

sherd_oracle *sherd_oracle_create(const sherd_config *config, const sherd_param *params, uint32_t n_params,
                                  int32_t world)
{
    sherd_oracle *oracle = calloc(1, sizeof *oracle);
    size_t leaves = (size_t)world * (size_t)config->gradient_accumulation_steps;
    int complete;
    if (!oracle) {
        return NULL;
    }
    oracle->config = *config;
    oracle->world = world;
    oracle->largest = 1;
    oracle->micros = config->gradient_accumulation_steps;
    for (uint32_t group = 0; group < SHERD_MAX_GROUPS; ++group) {
        sherd_oracle_set_group(oracle, group, (double)NAN, (double)NAN);
    }
    oracle->power1 = oracle->power2 = 1.0;
    oracle->scale = config->scaling.kind == SHERD_SCALING_STATIC    ? config->scaling.loss_scale
                    : config->scaling.kind == SHERD_SCALING_DYNAMIC ? pow(2.0, config->scaling.initial_scale_power)
                                                                    : 1.0;
    oracle->patience = config->scaling.hysteresis;
    oracle->tensors = calloc(n_params ? n_params : 1, sizeof *oracle->tensors);
    complete = oracle->tensors != NULL;
    for (uint32_t p = 0; p < n_params && complete; ++p) {
        complete = tensor_init(&oracle->tensors[p], &params[p], config->optimizer.kind);
        oracle->n = p + 1;
        oracle->largest = oracle->tensors[p].elems > oracle->largest ? oracle->tensors[p].elems : oracle->largest;
    }
    oracle->leaves = calloc(leaves * (size_t)oracle->largest, sizeof(float));
    oracle->wire = calloc((size_t)oracle->largest, sizeof(float));
    if (!complete || !oracle->leaves || !oracle->wire) {
        sherd_oracle_destroy(oracle);
        return NULL;
    }
    return oracle;
}

void sherd_oracle_destroy(sherd_oracle *oracle)
{
    if (!oracle) {
        return;
    }
    for (uint32_t p = 0; p < oracle->n; ++p) {
        oracle_tensor *t = &oracle->tensors[p];
        free(t->master);
        free(t->sum);
        free(t->moment[0]);
        free(t->moment[1]);
    }
    free(oracle->tensors);
    free(oracle->leaves);
    free(oracle->wire);
    free(oracle);
}

void sherd_oracle_break(sherd_oracle *oracle, sherd_oracle_fault fault)
{
    oracle->fault = fault;
}

void sherd_oracle_write(sherd_oracle *oracle, uint32_t param, const float *data)
{
    oracle_tensor *t = &oracle->tensors[param];
    for (int64_t i = 0; i < t->elems; ++i) {
        t->master[i] = !t->frozen               ? data[i]
                       : t->dtype == SHERD_BF16 ? oracle_through_bf16(data[i])
                       : t->dtype == SHERD_FP16 ? oracle_through_fp16(data[i])
                                                : data[i];
    }
}

int sherd_oracle_test_leaf(void *ctx, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n,
                           void *out)
{
    sherd_test_leaf(*(const uint64_t *)ctx, step, micro, param, dtype, n, out);
    return 1;
}

void sherd_oracle_set_group(sherd_oracle *oracle, uint32_t group, double lr, double weight_decay)
{
    oracle->set_lr[group] = lr;
    oracle->set_decay[group] = weight_decay;
}

void sherd_oracle_set_micros(sherd_oracle *oracle, int64_t micros)
{
    oracle->micros = micros;
}

double sherd_oracle_scale(const sherd_oracle *oracle)
{
    return oracle->scale;
}

int64_t sherd_oracle_updates(const sherd_oracle *oracle)
{
    return oracle->updates;
}

int64_t sherd_oracle_elems(const sherd_oracle *oracle, uint32_t param)
{
    return oracle->tensors[param].elems;
}

const float *sherd_oracle_master(const sherd_oracle *oracle, uint32_t param)
{
    return oracle->tensors[param].master;
}

const float *sherd_oracle_moment(const sherd_oracle *oracle, uint32_t param, uint32_t which)
{
    return oracle->tensors[param].moment[which];
}
