/* SPDX-License-Identifier: MIT
 *
 * The oracle's Muon: whole matrices, one element of a product after the other. It never turns a matrix over: a tall one's other
 * products are formed (X' X instead of X X'), which the specification says by turning it.
 */
#include "tests/support/oracle_parts.h"

#include <math.h>
#include <stdlib.h>

/* n rows of m values each, m the smaller number; value (i, k) of the turned matrix is at(i, k). */
typedef struct form {
    int64_t small, large, down, along; /* strides of the smaller and the larger index */
} form;

static form form_of(const oracle_tensor *t)
{
    int tall = t->rows > t->cols;
    return (form){tall ? t->cols : t->rows, tall ? t->rows : t->cols, tall ? 1 : t->cols, tall ? t->cols : 1};
}

static float gram_element(const form *f, const float *x, int64_t i, int64_t j)
{
    float sum = 0.0f;
    for (int64_t k = 0; k < f->large; ++k) {
        sum = fmaf(x[i * f->down + k * f->along], x[j * f->down + k * f->along], sum);
    }
    return sum;
}

static float square_element(const float *gram, int64_t n, int64_t i, int64_t j)
{
    float sum = 0.0f;
    for (int64_t k = 0; k < n; ++k) {
        sum = fmaf(gram[i * n + k], gram[j * n + k], sum); /* it is symmetric */
    }
    return sum;
}

static void newton_schulz(const form *f, const float *x, float *next, float *gram, float *mix)
{
    int64_t n = f->small;
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
            gram[i * n + j] = gram[j * n + i] = gram_element(f, x, i, j);
        }
    }
    for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j <= i; ++j) {
            float b = -4.7750f * gram[i * n + j];
            mix[i * n + j] = mix[j * n + i] = fmaf(2.0315f, square_element(gram, n, i, j), b);
        }
    }
    for (int64_t c = 0; c < f->large; ++c) {
        for (int64_t i = 0; i < n; ++i) {
            float sum = 3.4445f * x[i * f->down + c * f->along];
            for (int64_t k = 0; k < n; ++k) {
                sum = fmaf(mix[i * n + k], x[k * f->down + c * f->along], sum);
            }
            next[i * f->down + c * f->along] = sum;
        }
    }
}

static void orthogonalise(const sherd_oracle *oracle, const oracle_tensor *t, float *d)
{
    form f = form_of(t);
    float *next = malloc((size_t)t->elems * sizeof *next), *x = d;
    float *gram = malloc((size_t)(2 * f.small * f.small) * sizeof *gram);
    double length = oracle_length(d, oracle->fault == SHERD_ORACLE_OTHER_RATIO ? t->elems - t->elems / 8 : t->elems);
    float divisor = isnan(length) ? NAN : (float)(length + 1e-7);
    float scale = t->rows > t->cols ? (float)sqrt((double)t->rows / (double)t->cols) : 1.0f;
    for (int64_t i = 0; i < t->elems; ++i) {
        d[i] /= divisor;
    }
    for (int32_t s = 0; s < oracle->config.muon.ns_steps; ++s) {
        float *former = x;
        newton_schulz(&f, x, next, gram, gram + f.small * f.small);
        x = next;
        next = former;
    }
    for (int64_t i = 0; i < t->elems; ++i) {
        float o = x[i] * scale;
        x[i] = oracle_one_nan(o == 0.0f ? 0.0f : o);
    }
    for (int64_t i = 0; i < t->elems && x != d; ++i) {
        d[i] = x[i];
    }
    free(x == d ? next : x);
    free(gram);
}

void oracle_matrix_update(const sherd_oracle *oracle, oracle_tensor *t, double rate, double decay, float factor)
{
    float mu = (float)oracle->config.optimizer.momentum, rest = (float)(1.0 - oracle->config.optimizer.momentum);
    for (int64_t i = 0; i < t->elems; ++i) {
        float g = t->sum[i] * factor, *buf = &t->moment[0][i], now = mu * *buf;
        now = fmaf(g, rest, now);
        *buf = oracle_one_nan(oracle->config.moments_bf16 ? oracle_through_bf16(now) : now);
        if (oracle->config.muon.nesterov) {
            now = fmaf(g, rest, mu * now);
        }
        t->sum[i] = oracle_one_nan(now);
    }
    orthogonalise(oracle, t, t->sum);
    for (int64_t i = 0; i < t->elems; ++i) {
        float p = t->master[i];
        if (decay != 0.0) {
            p = fmaf(p, (float)(-rate * decay), p);
        }
        t->master[i] = oracle_one_nan(fmaf(t->sum[i], (float)-rate, p));
    }
}
