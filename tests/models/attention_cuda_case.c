/* SPDX-License-Identifier: MIT
 *
 * Bounds. With u = 2^-24 and, for bf16, h = 2^-8, for fp16 2^-11 (half a unit of a rounding), each result is a sum of
 * products, and its error at most the sum of
 *   - (terms + 16) · u of the sum of the terms' absolute values, for adding in fp32 in any order;
 *   - delta of that sum, where delta bounds the relative error of a weight exp(scale · q·k − lse): twice the error of
 * the score in fp32, (dim + 16) · u · scale · Σ|q||k| at most, and of scaling and subtracting it;
 *   - h of that sum where weights or slopes are rounded to bf16 for a tensor core;
 *   - h (u in fp32) of the result itself, for storing it, and in fp16 half of the smallest subnormal.
 * Backward is checked as a function of what it reads, which includes out and lse as forward left them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/models/attention_cuda_case.h"
#include "tests/models/half.h"

enum { GUARD = 64 };

static double get(const problem *p, int array, int64_t i)
{
    if (array == LSE || p->dtype == SHERD_FP32)
        return ((const float *)p->array[array])[i];
    return float_of(p->dtype, ((const uint16_t *)p->array[array])[i]);
}

void problem_draw(problem *p, int array, uint64_t seed, double range)
{
    for (size_t i = 0; i < p->elems[array]; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        float x = (float)(((double)(seed >> 33) / 1073741824.0 - 1.0) * range);
        if (p->dtype == SHERD_FP32)
            ((float *)p->array[array])[i] = x;
        else
            ((uint16_t *)p->array[array])[i] = half_of(p->dtype, x);
    }
}

static int own_bytes(sherd_dtype dtype, int array)
{
    return dtype == SHERD_FP32 || array == LSE || array == SCRATCH ? 4 : 2;
}

/* Results begin as NaNs, and guards behind each array as 0xFF. */
static void forget(problem *p, int first, int last)
{
    for (int i = first; i <= last; i++)
        memset(p->array[i], 0xFF, p->bytes[i] + GUARD);
}

void problem_make(problem *p, sherd_dtype dtype, int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads,
                  int64_t dim)
{
    size_t many = (size_t)(batch * seq * heads * dim), few = (size_t)(batch * seq * kv_heads * dim);
    size_t rows = (size_t)(batch * heads * seq);
    *p = (problem){.dtype = dtype, .a = {.batch = batch, .seq = seq, .heads = heads, .kv_heads = kv_heads, .dim = dim}};
    const size_t elems[ARRAYS] = {many, few,  few, many, rows,
                                  many, many, few, few,  (size_t)sherd__attention_cuda_scratch(dtype, &p->a) / 4};
    for (int i = 0; i < ARRAYS; i++) {
        p->elems[i] = elems[i];
        p->bytes[i] = elems[i] * (size_t)own_bytes(dtype, i);
        p->array[i] = attention_place_take(p->bytes[i] + GUARD);
        assert_non_null(p->array[i]);
    }
    forget(p, 0, ARRAYS - 1);
    problem_draw(p, Q, 1 + (uint64_t)seq, 2), problem_draw(p, K, 2 + (uint64_t)seq, 2),
        problem_draw(p, V, 3 + (uint64_t)seq, 2);
    problem_draw(p, DOUT, 4 + (uint64_t)seq, 2);
    p->a.q = p->array[Q], p->a.k = p->array[K], p->a.v = p->array[V], p->a.out = p->array[OUT];
    p->a.lse = (float *)p->array[LSE], p->a.dout = p->array[DOUT];
    p->a.dq = p->array[DQ], p->a.dk = p->array[DK], p->a.dv = p->array[DV];
}

void problem_drop(problem *p)
{
    for (int i = 0; i < ARRAYS; i++) {
        for (int b = 0; b < GUARD; b++)
            assert_int_equal(p->array[i][p->bytes[i] + (size_t)b], 0xFF);
        attention_place_give(p->array[i]);
    }
}

void problem_run(problem *p, uint64_t seed)
{
    sherd_error err = {0};
    void *stream = attention_place_stream();
    attention_place_order(seed);
    forget(p, OUT, LSE);
    forget(p, DQ, SCRATCH);
    if (sherd__attention_cuda_prepare(p->dtype, &p->a, &err) != SHERD_OK ||
        sherd__attention_cuda_forward(stream, p->dtype, &p->a, &err) != SHERD_OK ||
        sherd__attention_cuda_backward(stream, p->dtype, &p->a, p->array[SCRATCH], &err) != SHERD_OK)
        fail_msg("%s", err.text);
    assert_true(attention_place_wait());
}

/* -------------------------------------------------------------------------------------------------------- reference */

static const double unit = 0x1p-24;

/* One head's results, with the sum of absolute values and the bound of each; rows of dim. */
typedef struct reference {
    const problem *p;
    int64_t batch, head, kv_head;
    int64_t shift; /* of the mask: 0 is right */
    double scale, weight_error, rounding, storing, tiny;
} reference;

static int64_t at(const reference *r, int array, int64_t position, int64_t d)
{
    const sherd_attention *a = &r->p->a;
    int64_t heads = array == K || array == V || array == DK || array == DV ? a->kv_heads : a->heads;
    int64_t head = heads == a->kv_heads && heads != a->heads ? r->kv_head : r->head;
    return ((r->batch * a->seq + position) * heads + head) * a->dim + d;
}

static double element(const reference *r, int array, int64_t position, int64_t d)
{
    return get(r->p, array, at(r, array, position, d));
}

static int visible(const reference *r, int64_t query, int64_t key)
{
    return key <= query + r->shift;
}

/* Σ x·y of two rows; *sum takes the absolute values. */
static double dot(const reference *r, int x, int64_t i, int y, int64_t j, double *sum)
{
    double value = 0, size = 0;
    for (int64_t d = 0; d < r->p->a.dim; d++) {
        double term = element(r, x, i, d) * element(r, y, j, d);
        value += term;
        size += fabs(term);
    }
    *sum = size;
    return value;
}

static double lse_of(const reference *r, int64_t query)
{
    return get(r->p, LSE, (r->batch * r->p->a.heads + r->head) * r->p->a.seq + query);
}

/* The relative error of a weight whose score's terms sum to `size` in absolute value; |lse| too is at most of that
 * order. */
static double weight_error(const reference *r, double size, double score, double lse)
{
    double dim = (double)r->p->a.dim;
    return 2 * ((dim + 16) * unit * r->scale * size + 4 * unit * (fabs(score) + fabs(lse)) + 16 * unit);
}

static void compare(tally *t, double got, double want, double bound)
{
    double ratio = fabs(got - want) / bound;
    t->compared++;
    t->missed += !(ratio <= 1);
    if (!(ratio <= t->worst))
        t->worst = ratio;
}

static double adding(const reference *r, int64_t terms)
{
    return (double)(terms + 16) * unit + r->rounding;
}

static void check_row(const reference *r, int64_t query, tally *t)
{
    const sherd_attention *a = &r->p->a;
    int64_t n = query + r->shift + 1;
    n = n < 1 ? 1 : n > a->seq ? a->seq : n;
    double *score = calloc((size_t)n, sizeof *score), top = -INFINITY, total = 0, error = 0;
    for (int64_t j = 0; j < n; j++) {
        double size;
        score[j] = r->scale * dot(r, Q, query, K, j, &size);
        top = fmax(top, score[j]);
        error = fmax(error, weight_error(r, size, score[j], top));
    }
    for (int64_t j = 0; j < n; j++)
        total += exp(score[j] - top);
    double lse = top + log(total);
    compare(t, lse_of(r, query), lse, error + (double)(n + 16) * unit + 4 * unit * fabs(lse));
    for (int64_t d = 0; d < a->dim; d++) {
        double sum = 0, size = 0;
        for (int64_t j = 0; j < n; j++) {
            double term = exp(score[j] - lse) * element(r, V, j, d);
            sum += term;
            size += fabs(term);
        }
        compare(t, element(r, OUT, query, d), sum,
                (adding(r, 2 * n) + 2 * error) * size + r->storing * fabs(sum) + r->tiny);
    }
    free(score);
}

/* Weights and slopes of one head with their bounds: [query][key]. */
typedef struct slopes {
    double *p, *p_error, *ds, *ds_error;
} slopes;

static void fill_slopes(const reference *r, slopes *s)
{
    const sherd_attention *a = &r->p->a;
    for (int64_t i = 0; i < a->seq; i++) {
        double out_size, delta = dot(r, DOUT, i, OUT, i, &out_size), lse = lse_of(r, i);
        for (int64_t j = 0; j < a->seq; j++) {
            int64_t x = i * a->seq + j;
            double size, dp_size, score = r->scale * dot(r, Q, i, K, j, &size), dp = dot(r, DOUT, i, V, j, &dp_size);
            double error = weight_error(r, size, score, lse), p = visible(r, i, j) ? exp(score - lse) : 0;
            s->p[x] = p;
            s->p_error[x] = p * (error + r->rounding);
            s->ds[x] = p * (dp - delta);
            s->ds_error[x] =
                (error + r->rounding) * fabs(s->ds[x]) + 1.01 * p * (double)(a->dim + 16) * unit * (dp_size + out_size);
        }
    }
}

/* result[row][d] = factor · Σ over columns of weight · array[column][d], over all heads of `heads` slopes. */
static void check_product(const reference *heads, const slopes *s, int n_heads, int by_key, int use_ds, int from,
                          int result, tally *t)
{
    const sherd_attention *a = &heads->p->a;
    double factor = use_ds ? heads->scale : 1;
    for (int64_t row = 0; row < a->seq; row++) {
        for (int64_t d = 0; d < a->dim; d++) {
            double sum = 0, size = 0, error = 0;
            for (int h = 0; h < n_heads; h++) {
                const double *w = use_ds ? s[h].ds : s[h].p, *e = use_ds ? s[h].ds_error : s[h].p_error;
                for (int64_t column = 0; column < a->seq; column++) {
                    int64_t x = by_key ? column * a->seq + row : row * a->seq + column;
                    double y = element(&heads[h], from, column, d);
                    sum += w[x] * y;
                    size += fabs(w[x] * y);
                    error += e[x] * fabs(y);
                }
            }
            double bound = 1.01 * error + (double)(a->seq * n_heads + 16) * unit * size + heads->storing * fabs(sum);
            compare(t, element(heads, result, row, d), factor * sum, factor * bound + heads->tiny + 1e-30);
        }
    }
}

static reference reference_of(const problem *p, int64_t batch, int64_t head, int64_t shift)
{
    return (reference){.p = p,
                       .batch = batch,
                       .head = head,
                       .kv_head = head / (p->a.heads / p->a.kv_heads),
                       .shift = shift,
                       .scale = 1 / sqrt((double)p->a.dim),
                       .rounding = p->dtype == SHERD_BF16 ? 0x1.01p-8 : 0,
                       .tiny = p->dtype == SHERD_FP16 ? 0x1p-25 : 0,
                       .storing = p->dtype == SHERD_BF16   ? 0x1.01p-8
                                  : p->dtype == SHERD_FP16 ? 0x1.01p-11
                                                           : 2 * unit};
}

static void check_group(const problem *p, int64_t batch, int64_t kv_head, int64_t shift, tally *forward,
                        tally *backward)
{
    enum { MOST = 8 };
    reference r[MOST] = {0};
    slopes s[MOST] = {0};
    int group = (int)(p->a.heads / p->a.kv_heads);
    size_t n = (size_t)(p->a.seq * p->a.seq);
    assert_true(group <= MOST);
    for (int h = 0; h < group; h++) {
        r[h] = reference_of(p, batch, kv_head * group + h, shift);
        double *block = calloc(4 * n, sizeof *block);
        assert_non_null(block);
        s[h] = (slopes){block, block + n, block + 2 * n, block + 3 * n};
        for (int64_t query = 0; query < p->a.seq; query++)
            check_row(&r[h], query, forward);
        fill_slopes(&r[h], &s[h]);
        check_product(&r[h], &s[h], 1, 0, 1, K, DQ, backward);
    }
    check_product(r, s, group, 1, 0, DOUT, DV, backward);
    check_product(r, s, group, 1, 1, Q, DK, backward);
    for (int h = 0; h < group; h++)
        free(s[h].p);
}

void problem_check(const problem *p, int64_t shift, tally *forward, tally *backward)
{
    for (int64_t batch = 0; batch < p->a.batch; batch++)
        for (int64_t head = 0; head < p->a.kv_heads; head++)
            check_group(p, batch, head, shift, forward, backward);
}
