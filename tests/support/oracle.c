/* SPDX-License-Identifier: MIT
 *
 * Deliberately formed in other ways than the library where there is another way: the tree goes level by level, the
 * norm is an exact floating-point expansion that is rounded once (Shewchuk 1997), digests are 128-bit integers, bf16
 * is rounded by comparing distances. What the specification fixes (which operation, fused or not) is written down as
 * it stands there.
 */
#include "tests/support/oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "tests/support/leaves.h"

__extension__ typedef unsigned __int128 u128;

#define BLOCK 256

typedef struct tensor {
    int64_t elems;
    uint32_t group;
    int32_t frozen;
    sherd_dtype dtype, grad_dtype;
    float *master, *moment[2], *sum;
} tensor;

struct sherd_oracle {
    sherd_config config;
    int32_t world;
    uint32_t n;
    tensor *tensors;
    float *leaves; /* [world × accumulation][largest] */
    void *wire;
    int64_t largest;
    int64_t step, updates;
    double power1, power2, beta1, beta2;
    double scale;
    int64_t good, patience; /* steps since the last overflow, or the start; overflows that are still borne */
    sherd_oracle_fault fault;
};

/* ------------------------------------------------------------------------------------------------------ small
 * arithmetic */

static float of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Nearest value with a 16-bit pattern, ties away from zero; beyond the largest one infinity; a NaN is 0x7FC0. */
static float through_bf16(float value)
{
    uint32_t low = bits_of(value) & 0xFFFF0000u;
    if (isnan(value)) {
        return of_bits(0x7FC00000u);
    }
    return (bits_of(value) & 0xFFFFu) >= 0x8000u ? of_bits(low + 0x10000u) : of_bits(low);
}

/* Nearest multiple of the unit that fp16 has there, ties to even (the mode rint works in). */
static float through_fp16(float value)
{
    int exponent;
    double unit, rounded;
    if (!isfinite(value)) {
        return isnan(value) ? of_bits(0x7FC00000u) : value;
    }
    frexp((double)value, &exponent);
    unit = ldexp(1.0, (exponent < -13 ? -13 : exponent) - 11);
    rounded = rint((double)value / unit) * unit;
    return fabs(rounded) > 65504.0 ? copysignf(INFINITY, value) : (float)rounded;
}

static float one_nan(float value)
{
    return isnan(value) ? of_bits(0x7FC00000u) : value;
}

/* ---------------------------------------------------------------------------------------------------- order of the
 * sums */

/* Level by level: neighbours are added, an odd last one goes up as it is. */
static float tree(float *values, int64_t n)
{
    while (n > 1) {
        int64_t pairs = n / 2;
        for (int64_t i = 0; i < pairs; ++i) {
            values[i] = values[2 * i] + values[2 * i + 1];
        }
        if (n % 2) {
            values[pairs] = values[n - 1];
        }
        n = pairs + n % 2;
    }
    return values[0];
}

static float in_order(const float *values, int64_t n)
{
    float sum = values[0];
    for (int64_t i = 1; i < n; ++i) {
        sum = sum + values[i];
    }
    return sum;
}

static float from_the_right(const float *values, int64_t n)
{
    float sum = values[n - 1];
    for (int64_t i = n - 2; i >= 0; --i) {
        sum = values[i] + sum;
    }
    return sum;
}

static float over_ranks(const sherd_oracle *oracle, float *values)
{
    switch (oracle->fault) {
    case SHERD_ORACLE_LEFT_TO_RIGHT: return in_order(values, oracle->world);
    case SHERD_ORACLE_RIGHT_TO_LEFT: return from_the_right(values, oracle->world);
    default: return tree(values, oracle->world);
    }
}

/* leaf[g] with a stride of `largest`; K micro-steps, N ranks. */
static float sum_element(const sherd_oracle *oracle, int64_t element, float *scratch)
{
    int64_t K = oracle->config.gradient_accumulation_steps, N = oracle->world;
    int tree_first = oracle->config.zero.stage == 2 || K == 1;
    const float *leaf = oracle->leaves + element;
    float total = 0.0f;
    if (oracle->fault == SHERD_ORACLE_OTHER_ORDER) {
        tree_first = !tree_first;
    }
    if (!tree_first) {
        for (int64_t rank = 0; rank < N; ++rank) { /* micro.number = rank K + k */
            scratch[rank] = leaf[rank * K * oracle->largest];
            for (int64_t k = 1; k < K; ++k) {
                scratch[rank] = scratch[rank] + leaf[(rank * K + k) * oracle->largest];
            }
        }
        return over_ranks(oracle, scratch);
    }
    for (int64_t k = 0; k < K; ++k) { /* micro.number = k N + rank */
        for (int64_t rank = 0; rank < N; ++rank) {
            scratch[rank] = leaf[(k * N + rank) * oracle->largest];
        }
        total = k == 0 ? over_ranks(oracle, scratch) : total + over_ranks(oracle, scratch);
    }
    return total;
}

/* By what the bits mean. */
static float of_fp16(uint16_t half)
{
    int exponent = half >> 10 & 31, fraction = half & 1023;
    double magnitude = exponent == 31 ? (fraction ? (double)NAN : (double)INFINITY)
                       : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                      : ldexp(fraction, -24);
    return (float)(half >> 15 ? -magnitude : magnitude);
}

static void widen_leaf(const tensor *t, const void *wire, float *out)
{
    for (int64_t i = 0; i < t->elems; ++i) {
        out[i] = t->grad_dtype == SHERD_BF16   ? of_bits((uint32_t)((const uint16_t *)wire)[i] << 16)
                 : t->grad_dtype == SHERD_FP16 ? of_fp16(((const uint16_t *)wire)[i])
                                               : ((const float *)wire)[i];
    }
}

static void sum_tensor(sherd_oracle *oracle, uint32_t param, sherd_oracle_leaf leaf, void *ctx)
{
    tensor *t = &oracle->tensors[param];
    int64_t G = oracle->world * oracle->config.gradient_accumulation_steps;
    float *scratch = calloc((size_t)oracle->world, sizeof *scratch);
    for (int64_t g = 0; g < G; ++g) {
        memset(oracle->wire, 0, (size_t)t->elems * sizeof(float));
        if (!leaf(ctx, oracle->step, g, param, t->grad_dtype, t->elems, oracle->wire)) {
            memset(oracle->wire, 0, (size_t)t->elems * sizeof(float));
        }
        widen_leaf(t, oracle->wire, oracle->leaves + g * oracle->largest);
    }
    for (int64_t i = 0; i < t->elems; ++i) {
        float sum = one_nan(sum_element(oracle, i, scratch));
        t->sum[i] = oracle->config.sherd.grad_sum_bf16 && t->dtype == SHERD_BF16 ? through_bf16(sum) : sum;
    }
    free(scratch);
}

/* ------------------------------------------------------------------------------------------------------------- the
 * norm */

typedef struct expansion {
    double part[64]; /* non-overlapping, growing; their exact sum is the value */
    int n;
} expansion;

static void expansion_add(expansion *e, double x)
{
    int kept = 0;
    for (int i = 0; i < e->n; ++i) {
        double y = e->part[i], big = fabs(x) < fabs(y) ? y : x, small = fabs(x) < fabs(y) ? x : y;
        double high = big + small, low = small - (high - big);
        if (low != 0.0) {
            e->part[kept++] = low;
        }
        x = high;
    }
    e->part[kept++] = x;
    e->n = kept;
}

/* The exact sum rounded once to nearest even. */
static double expansion_round(const expansion *e)
{
    int n = e->n;
    double high = n ? e->part[--n] : 0.0, low = 0.0;
    while (n > 0) {
        double x = high, y = e->part[--n];
        high = x + y;
        low = y - (high - x);
        if (low != 0.0) {
            break;
        }
    }
    /* A tie in the last addition is decided by what lies below it. */
    if (n > 0 && ((low < 0.0 && e->part[n - 1] < 0.0) || (low > 0.0 && e->part[n - 1] > 0.0))) {
        double twice = low * 2.0, moved = high + twice;
        if (twice == moved - high) {
            high = moved;
        }
    }
    return high;
}

static double block_squares(const float *values, int64_t n)
{
    double lane[16] = {0};
    for (int64_t i = 0; i < n; ++i) {
        double value = (double)values[i];
        lane[i & 15] = lane[i & 15] + value * value;
    }
    for (int distance = 8; distance >= 1; distance /= 2) {
        double next[16];
        for (int i = 0; i < 16; ++i) {
            next[i] = lane[i] + lane[i ^ distance];
        }
        memcpy(lane, next, sizeof lane);
    }
    return lane[0];
}

static double exact_norm(const sherd_oracle *oracle, double divisor, int64_t *bad_param)
{
    expansion total = {.n = 0};
    *bad_param = -1;
    for (uint32_t p = 0; p < oracle->n; ++p) {
        const tensor *t = &oracle->tensors[p];
        for (int64_t at = 0; at < t->elems && !t->frozen; at += BLOCK) {
            double squares = block_squares(t->sum + at, t->elems - at < BLOCK ? t->elems - at : BLOCK);
            if (isfinite(squares)) {
                expansion_add(&total, squares);
            } else {
                *bad_param = p;
            }
        }
    }
    return *bad_param < 0 ? sqrt(expansion_round(&total)) / divisor : (double)NAN;
}

/* ----------------------------------------------------------------------------------------------------------- the
 * update */

typedef struct scalars {
    float factor, b1, c1, b2, c2, root, eps, decay, rate, momentum;
} scalars;

static scalars group_scalars(const sherd_oracle *oracle, uint32_t group, double lr, float factor)
{
    const sherd_config *c = &oracle->config;
    double own_lr = c->n_groups ? c->groups[group].lr : c->optimizer.lr;
    double decay = c->n_groups ? c->groups[group].weight_decay : c->optimizer.weight_decay;
    double rate = c->optimizer.lr != 0.0 ? lr * (own_lr / c->optimizer.lr) : lr;
    double correction1 = c->optimizer.bias_correction ? 1.0 - oracle->power1 : 1.0;
    double correction2 = c->optimizer.bias_correction ? 1.0 - oracle->power2 : 1.0;
    int corrected = c->optimizer.kind == SHERD_ADAMW || c->optimizer.kind == SHERD_ADAM;
    int decoupled = c->optimizer.kind == SHERD_ADAMW || c->optimizer.kind == SHERD_LION;
    scalars s = {.factor = factor, .momentum = (float)c->optimizer.momentum};
    s.b1 = (float)oracle->beta1;
    s.c1 = (float)(1.0 - oracle->beta1);
    s.b2 = (float)oracle->beta2;
    s.c2 = (float)(1.0 - oracle->beta2);
    s.root = (float)(1.0 / sqrt(correction2));
    s.eps = (float)c->optimizer.eps;
    s.decay = decoupled ? (float)(-rate * decay) : (float)decay;
    s.rate = corrected ? (float)(-rate / correction1) : (float)-rate;
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

static int second_moment(sherd_optimizer kind)
{
    return kind == SHERD_ADAMW || kind == SHERD_ADAM;
}

static void update_tensor(sherd_oracle *oracle, tensor *t, double lr, float factor)
{
    scalars s = group_scalars(oracle, t->group, lr, factor);
    sherd_optimizer kind = oracle->config.optimizer.kind;
    for (int64_t i = 0; i < t->elems; ++i) {
        float g = t->sum[i] * s.factor;
        if (kind == SHERD_SGD) {
            sgd_element(&s, oracle->updates == 1, g, &t->master[i], &t->moment[0][i]);
        } else if (kind == SHERD_LION) {
            lion_element(&s, g, &t->master[i], &t->moment[0][i]);
        } else if (kind == SHERD_ADAGRAD) {
            adagrad_element(&s, g, &t->master[i], &t->moment[0][i]);
        } else {
            adam_element(&s, kind == SHERD_ADAMW, g, &t->master[i], &t->moment[0][i], &t->moment[1][i]);
            t->moment[1][i] = one_nan(t->moment[1][i]);
        }
        t->moment[0][i] = one_nan(t->moment[0][i]);
        t->master[i] = one_nan(t->master[i]);
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

static void next_betas(sherd_oracle *oracle)
{
    const sherd_config *c = &oracle->config;
    const sherd_one_cycle *cycle = &c->one_cycle;
    int adaptive = c->optimizer.kind != SHERD_SGD && c->optimizer.kind != SHERD_ADAGRAD;
    double it = (double)oracle->updates++;
    oracle->beta1 = c->optimizer.beta1;
    oracle->beta2 = c->optimizer.beta2;
    if (c->scheduler.kind != SHERD_SCHED_ONE_CYCLE || !cycle->cycle_momentum || !adaptive) {
        oracle->power1 = oracle->power1 * c->optimizer.beta1;
        oracle->power2 = oracle->power2 * c->optimizer.beta2;
        return;
    }
    oracle->beta1 = it > 0 ? cycle->max_mom - (cycle->max_mom - cycle->min_mom) * cycle_share(cycle, it) : cycle->min_mom;
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
    double divisor = scale * (double)(c->gradient_accumulation_steps * (c->allreduce_sum ? 1 : oracle->world));
    int64_t bad_param;
    int skipped;
    oracle->step += 1;
    for (uint32_t p = 0; p < oracle->n; ++p) {
        if (!oracle->tensors[p].frozen) {
            sum_tensor(oracle, p, leaf, ctx);
        }
    }
    norm = exact_norm(oracle, divisor, &bad_param);
    if (c->gradient_clipping != 0.0) {
        clip = c->gradient_clipping / (norm + 1e-6);
        clip = clip > 1.0 ? 1.0 : clip;
    }
    skipped = bad_param >= 0 && (c->check_grad_overflow || c->scaling.kind == SHERD_SCALING_DYNAMIC);
    if (!skipped) {
        next_betas(oracle);
        for (uint32_t p = 0; p < oracle->n; ++p) {
            if (!oracle->tensors[p].frozen) {
                update_tensor(oracle, &oracle->tensors[p], lr, (float)(clip / divisor));
            }
        }
    }
    int stuck = next_scale(oracle, bad_param >= 0);
    if (report) {
        *report = (sherd_oracle_report){norm, skipped, bad_param, oracle->updates, scale, stuck};
    }
}

/* --------------------------------------------------------------------------------------------------------------
 * digests */

static u128 digest(uint32_t param, uint64_t place, const float *values, int64_t elems)
{
    u128 total = 0;
    for (int64_t block = 0; block * BLOCK < elems; ++block) {
        int64_t n = elems - block * BLOCK < BLOCK ? elems - block * BLOCK : BLOCK;
        uint64_t seed = (uint64_t)param * (UINT64_C(1) << 32) + (uint64_t)block + (place << 56);
        XXH128_hash_t hash = XXH3_128bits_withSeed(values + block * BLOCK, (size_t)n * 4, seed);
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
        const tensor *t = &oracle->tensors[p];
        masters += digest(p, 0, t->master, t->elems);
        for (uint32_t k = 0; k < 2 && t->moment[k]; ++k) {
            state += digest(p, k + 1, t->moment[k], t->elems);
        }
    }
    big_endian(masters, param_hash);
    big_endian(masters + state, state_hash);
}

/* ------------------------------------------------------------------------------------------------------- life and
 * access */

static int tensor_init(tensor *t, const sherd_param *param, sherd_optimizer kind)
{
    size_t count;
    *t = (tensor){.elems = 1, .group = param->group, .dtype = param->dtype, .grad_dtype = param->grad_dtype};
    t->frozen = (param->flags & SHERD_PARAM_FROZEN) != 0;
    for (uint32_t d = 0; d < param->ndim; ++d) {
        t->elems *= param->shape[d];
    }
    count = t->elems ? (size_t)t->elems : 1;
    t->master = calloc(count, sizeof(float));
    t->sum = calloc(count, sizeof(float));
    if (!t->frozen) {
        t->moment[0] = calloc(count, sizeof(float));
        t->moment[1] = second_moment(kind) ? calloc(count, sizeof(float)) : NULL;
    }
    return t->master && t->sum && (t->frozen || (t->moment[0] && (!second_moment(kind) || t->moment[1])));
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
        tensor *t = &oracle->tensors[p];
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
    tensor *t = &oracle->tensors[param];
    for (int64_t i = 0; i < t->elems; ++i) {
        t->master[i] = !t->frozen               ? data[i]
                       : t->dtype == SHERD_BF16 ? through_bf16(data[i])
                       : t->dtype == SHERD_FP16 ? through_fp16(data[i])
                                                : data[i];
    }
}

int sherd_oracle_test_leaf(void *ctx, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n,
                           void *out)
{
    sherd_test_leaf(*(const uint64_t *)ctx, step, micro, param, dtype, n, out);
    return 1;
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
