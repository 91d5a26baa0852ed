/* SPDX-License-Identifier: MIT
 *
 * All products of a step share one buffer for A, B and C each, so operands are as warm as they can be: a ceiling, not a
 * forecast.
 */
#include "bench/models/ceiling.h"

#include <stdlib.h>
#include <time.h>

#define MAX_PRODUCTS 32

typedef struct product {
    sherd_dnnl_product *product;
    double flops;
    int64_t times;
} product;

struct ceiling {
    sherd_dnnl_context *context;
    product products[MAX_PRODUCTS];
    int n, threads;
    void *a, *b, *scratch;
    float *c;
    sherd_dtype dtype;
    uint64_t scratch_bytes;
};

static clockid_t clock_id = CLOCK_MONOTONIC;

void bench_use_cpu_time(void)
{
    clock_id = CLOCK_THREAD_CPUTIME_ID;
}

double bench_now(void)
{
    struct timespec t;
    clock_gettime(clock_id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* op(A) m × k, op(B) k × n, `times` in a step. */
static sherd_status add(ceiling *c, int64_t m, int64_t n, int64_t k, int trans_a, int trans_b, int64_t times,
                        sherd_error *err)
{
    sherd_dnnl_shape s = {.m = m,
                          .n = n,
                          .k = k,
                          .a_row = trans_a ? 1 : k,
                          .a_col = trans_a ? m : 1,
                          .b_row = trans_b ? 1 : n,
                          .b_col = trans_b ? k : 1,
                          .ldc = n,
                          .bf16 = c->dtype != SHERD_FP32};
    product *p = &c->products[c->n];
    sherd_status status = sherd__dnnl_product_create(c->context, &s, &p->product, err);
    if (status == SHERD_OK) {
        c->n++;
        p->flops = 2.0 * (double)m * (double)n * (double)k;
        p->times = times;
        uint64_t scratch = sherd__dnnl_product_scratch(p->product);
        c->scratch_bytes = scratch > c->scratch_bytes ? scratch : c->scratch_bytes;
    }
    return status;
}

/* y = x·wᵀ with w [out][in]: forward, dx = dy·w, dw = dyᵀ·x. */
static sherd_status add_linear(ceiling *c, int64_t rows, int64_t out, int64_t in, int64_t times, sherd_error *err)
{
    sherd_status status = add(c, rows, out, in, 0, 1, times, err);
    if (status == SHERD_OK) {
        status = add(c, rows, in, out, 0, 0, times, err);
    }
    return status == SHERD_OK ? add(c, out, in, rows, 1, 0, times, err) : status;
}

static sherd_status fill(ceiling *c, const sherd_model_shape *s, int64_t rows, sherd_error *err)
{
    int64_t kv = s->hidden / s->heads * s->kv_heads;
    const struct {
        int64_t out, in, times;
    } linears[] = {
        {s->hidden, s->hidden, 2 * s->layers},
        {kv, s->hidden, 2 * s->layers},
        {s->intermediate, s->hidden, 2 * s->layers},
        {s->hidden, s->intermediate, s->layers},
        {s->vocab, s->hidden, 1},
    };
    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        sherd_status status = add_linear(c, rows, linears[i].out, linears[i].in, linears[i].times, err);
        if (status != SHERD_OK) {
            return status;
        }
    }
    return SHERD_OK;
}

/* Small numbers of mixed sign; what they are does not matter to the time, that they are not subnormal does. */
static void *operand(int64_t elems, sherd_dtype dtype)
{
    size_t bytes = (size_t)sherd__model_round(elems * 4, 64);
    float *x = aligned_alloc(64, bytes);
    for (int64_t i = 0; x && i < elems; i++) {
        if (dtype == SHERD_FP32) {
            x[i] = 0.01f * (float)(i % 97 - 48);
        } else {
            ((uint16_t *)x)[i] = (uint16_t)(0x3C00 + i % 127 + (i % 2) * 0x8000);
        }
    }
    return x;
}

sherd_status ceiling_create(const sherd_model_shape *shape, int64_t rows, sherd_dtype dtype, int threads, ceiling **out,
                            sherd_error *err)
{
    ceiling *c = calloc(1, sizeof *c);
    if (!c) {
        return SHERD_ENOMEM;
    }
    c->dtype = dtype;
    c->threads = threads;
    sherd__dnnl_set_threads(threads);
    sherd_status status = sherd__dnnl_context_create(&c->context, err);
    if (status == SHERD_OK) {
        status = fill(c, shape, rows, err);
    }
    int64_t wide = sherd__model_max(sherd__model_max(shape->intermediate, shape->hidden), shape->vocab);
    int64_t most = wide * sherd__model_max(rows, shape->hidden);
    c->a = operand(most, dtype);
    c->b = operand(most, dtype);
    c->c = operand(most, SHERD_FP32);
    c->scratch = operand((int64_t)c->scratch_bytes / 4 + 1, SHERD_FP32);
    if (status == SHERD_OK && (!c->a || !c->b || !c->c || !c->scratch)) {
        status = SHERD_ENOMEM;
    }
    if (status != SHERD_OK) {
        ceiling_destroy(c);
        return status;
    }
    *out = c;
    return SHERD_OK;
}

void ceiling_destroy(ceiling *c)
{
    if (!c) {
        return;
    }
    for (int i = 0; i < c->n; i++) {
        sherd__dnnl_product_destroy(c->products[i].product);
    }
    sherd__dnnl_context_destroy(c->context);
    free(c->scratch);
    free(c->c);
    free(c->b);
    free(c->a);
    free(c);
}

sherd_status ceiling_run(ceiling *c, sherd_error *err)
{
    sherd__dnnl_set_threads(c->threads);
    for (int i = 0; i < c->n; i++) {
        for (int64_t t = 0; t < c->products[i].times; t++) {
            sherd_status status =
                sherd__dnnl_product_run(c->context, c->products[i].product, c->a, c->b, c->c, c->scratch, err);
            if (status != SHERD_OK) {
                return status;
            }
        }
    }
    return SHERD_OK;
}

double ceiling_flops(const ceiling *c)
{
    double sum = 0;
    for (int i = 0; i < c->n; i++) {
        sum += c->products[i].flops * (double)c->products[i].times;
    }
    return sum;
}

const char *ceiling_kernel(const ceiling *c)
{
    return sherd__dnnl_product_name(c->products[0].product);
}
