/* SPDX-License-Identifier: MIT
 *
 * The oracle's sums over ranks and micro-steps, and their norm.
 */
#include "tests/support/oracle_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------- small arithmetic */

static float oracle_of_bits(uint32_t bits)
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
float oracle_through_bf16(float value)
{
    uint32_t low = bits_of(value) & 0xFFFF0000u;
    if (isnan(value)) {
        return oracle_of_bits(0x7FC00000u);
    }
    return (bits_of(value) & 0xFFFFu) >= 0x8000u ? oracle_of_bits(low + 0x10000u) : oracle_of_bits(low);
}

/* Nearest multiple of the unit that fp16 has there, ties to even (the mode rint works in). */
float oracle_through_fp16(float value)
{
    int exponent;
    double unit, rounded;
    if (!isfinite(value)) {
        return isnan(value) ? oracle_of_bits(0x7FC00000u) : value;
    }
    frexp((double)value, &exponent);
    unit = ldexp(1.0, (exponent < -13 ? -13 : exponent) - 11);
    rounded = rint((double)value / unit) * unit;
    return fabs(rounded) > 65504.0 ? copysignf(INFINITY, value) : (float)rounded;
}

float oracle_one_nan(float value)
{
    return isnan(value) ? oracle_of_bits(0x7FC00000u) : value;
}

/* ------------------------------------------------------------------------------------------------ order of the sums */

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
    case SHERD_ORACLE_LEFT_TO_RIGHT:
        return in_order(values, oracle->world);
    case SHERD_ORACLE_RIGHT_TO_LEFT:
        return from_the_right(values, oracle->world);
    default:
        return tree(values, oracle->world);
    }
}

/* leaf[g] with a stride of `largest`; K micro-steps as configured, of which `made` were; N ranks. */
static float sum_element(const sherd_oracle *oracle, int64_t element, float *scratch)
{
    int64_t K = oracle->config.gradient_accumulation_steps, N = oracle->world, made = oracle->micros;
    int tree_first = oracle->config.zero.stage == 2 || K == 1;
    const float *leaf = oracle->leaves + element;
    float total = 0.0f;
    if (oracle->config.reproducible && oracle->fault == SHERD_ORACLE_RIGHT) {
        for (int64_t g = 0; g < N * K; ++g) {
            scratch[g] = leaf[g * oracle->largest];
        }
        return tree(scratch, N * K);
    }
    if (oracle->fault == SHERD_ORACLE_OTHER_ORDER) {
        tree_first = !tree_first;
    }
    if (!tree_first) {
        for (int64_t rank = 0; rank < N; ++rank) { /* micro.number = rank K + k */
            scratch[rank] = leaf[rank * K * oracle->largest];
            for (int64_t k = 1; k < made; ++k) {
                scratch[rank] = scratch[rank] + leaf[(rank * K + k) * oracle->largest];
            }
        }
        return over_ranks(oracle, scratch);
    }
    for (int64_t k = 0; k < made; ++k) { /* micro.number = k N + rank */
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

static void widen_leaf(const oracle_tensor *t, const void *wire, float *out)
{
    for (int64_t i = 0; i < t->elems; ++i) {
        out[i] = t->grad_dtype == SHERD_BF16   ? oracle_of_bits((uint32_t)((const uint16_t *)wire)[i] << 16)
                 : t->grad_dtype == SHERD_FP16 ? of_fp16(((const uint16_t *)wire)[i])
                                               : ((const float *)wire)[i];
    }
}

/* What communication_data_type names is what is summed; in fp32 there is room for every leaf. */
static void through_wire(const sherd_oracle *oracle, float *leaf, int64_t n)
{
    for (int64_t i = 0; i < n && oracle->config.wire >= SHERD_WIRE_BF16; ++i) {
        leaf[i] = oracle->config.wire == SHERD_WIRE_BF16 ? oracle_through_bf16(leaf[i]) : oracle_through_fp16(leaf[i]);
    }
}

void oracle_sum_tensor(sherd_oracle *oracle, uint32_t param, sherd_oracle_leaf leaf, void *ctx)
{
    oracle_tensor *t = &oracle->tensors[param];
    int64_t G = oracle->world * oracle->config.gradient_accumulation_steps;
    float *scratch = calloc((size_t)G, sizeof *scratch);
    for (int64_t g = 0; g < G; ++g) {
        memset(oracle->wire, 0, (size_t)t->elems * sizeof(float));
        if (!leaf(ctx, oracle->step, g, param, t->grad_dtype, t->elems, oracle->wire)) {
            memset(oracle->wire, 0, (size_t)t->elems * sizeof(float));
        }
        widen_leaf(t, oracle->wire, oracle->leaves + g * oracle->largest);
        through_wire(oracle, oracle->leaves + g * oracle->largest, t->elems);
    }
    for (int64_t i = 0; i < t->elems; ++i) {
        float sum = oracle_one_nan(sum_element(oracle, i, scratch));
        t->sum[i] = oracle->config.sherd.grad_sum_bf16 && t->dtype == SHERD_BF16 ? oracle_through_bf16(sum) : sum;
    }
    free(scratch);
}

/* --------------------------------------------------------------------------------------------------------- the norm */

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

double oracle_length(const float *values, int64_t n)
{
    expansion total = {.n = 0};
    for (int64_t at = 0; at < n; at += ORACLE_BLOCK) {
        double squares = block_squares(values + at, n - at < ORACLE_BLOCK ? n - at : ORACLE_BLOCK);
        if (!isfinite(squares)) {
            return (double)NAN;
        }
        expansion_add(&total, squares);
    }
    return sqrt(expansion_round(&total));
}

double oracle_norm(const sherd_oracle *oracle, double divisor, int64_t *bad_param)
{
    expansion total = {.n = 0};
    *bad_param = -1;
    for (uint32_t p = 0; p < oracle->n; ++p) {
        const oracle_tensor *t = &oracle->tensors[p];
        for (int64_t at = 0; at < t->elems && !t->frozen; at += ORACLE_BLOCK) {
            double squares = block_squares(t->sum + at, t->elems - at < ORACLE_BLOCK ? t->elems - at : ORACLE_BLOCK);
            if (isfinite(squares)) {
                expansion_add(&total, squares);
            } else {
                *bad_param = p;
            }
        }
    }
    return *bad_param < 0 ? sqrt(expansion_round(&total)) / divisor : (double)NAN;
}
