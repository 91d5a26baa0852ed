/* SPDX-License-Identifier: MIT
 *
 * Products by oneDNN. The rows of C are cut into slices that the rank's own workers run, each with oneDNN on one OpenMP
 * thread: two pools of threads that both spin would fight for the cores. A worker keeps its primitives by shape (making
 * one costs milliseconds) and its scratchpad; both settle in the first step. fp32 results go straight to C; bf16 ones
 * come as fp32 and are added to and narrowed by the one rule, since oneDNN's own rounding is to even.
 */
#include "models/dnnl_api.h"
#include "models/gemm.h"
#include "models/scratch.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BF16_ROWS 256

typedef struct cached {
    sherd_dnnl_shape shape;
    sherd_dnnl_product *product;
    struct cached *next;
} cached;

typedef struct worker {
    sherd_dnnl_context *context;
    cached *products;
    float *scratch, *sums; /* oneDNN's scratchpad, and a slice before narrowing */
    uint64_t scratch_bytes, sums_bytes;
    sherd_status status;
    sherd_error error;
} worker;

typedef struct provider {
    sherd_gemm base;
    const sherd_kernels *kernels;
    sherd_pool *pool;
    sherd_device *device;
    sherd_dtype in;
    int n_workers;
    worker *workers;
    char text[96];
} provider;

typedef struct job {
    provider *p;
    const sherd_matmul *mm;
    int64_t slice;
} job;

/* OpenMP's own calls, from whichever runtime oneDNN brought: naming the library here could bring a second one. */
static void *runtime_call(const char *name)
{
    return dlsym(RTLD_DEFAULT, name);
}

int sherd__dnnl_set_threads(int threads)
{
    union {
        void *symbol;
        void (*call)(int);
    } set = {runtime_call("omp_set_num_threads")};
    union {
        void *symbol;
        int (*call)(void);
    } get = {runtime_call("omp_get_max_threads")};
    int before = get.symbol ? get.call() : 0;
    if (set.symbol && before != threads && threads > 0) {
        set.call(threads);
    }
    return before;
}

int sherd__gemm_dnnl_native_bf16(void)
{
    return sherd__dnnl_native_bf16();
}

static sherd_status grow(provider *p, float **block, uint64_t *have, uint64_t need, sherd_error *err)
{
    if (need <= *have) {
        return SHERD_OK;
    }
    sherd__release(p->device, *block);
    *block = NULL;
    *have = 0;
    sherd_status status = sherd__scratch(p->device, need, block, err);
    if (status == SHERD_OK) {
        *have = need;
    }
    return status;
}

static sherd_status find(worker *w, const sherd_dnnl_shape *shape, sherd_dnnl_product **out)
{
    for (cached *c = w->products; c; c = c->next) {
        if (memcmp(&c->shape, shape, sizeof *shape) == 0) {
            *out = c->product;
            return SHERD_OK;
        }
    }
    cached *fresh = calloc(1, sizeof *fresh);
    if (!fresh) {
        return sherd__model_fail(&w->error, SHERD_ENOMEM, "oneDNN: no memory to keep a product");
    }
    sherd_status status = sherd__dnnl_product_create(w->context, shape, &fresh->product, &w->error);
    if (status != SHERD_OK) {
        free(fresh);
        return status;
    }
    fresh->shape = *shape;
    fresh->next = w->products;
    w->products = fresh;
    *out = fresh->product;
    return SHERD_OK;
}

static sherd_dnnl_shape slice_shape(const provider *p, const sherd_matmul *mm, int64_t rows)
{
    int direct = mm->out == SHERD_FP32;
    return (sherd_dnnl_shape){.m = rows,
                              .n = mm->n,
                              .k = mm->k,
                              .a_row = mm->trans_a ? 1 : mm->k,
                              .a_col = mm->trans_a ? mm->m : 1,
                              .b_row = mm->trans_b ? 1 : mm->n,
                              .b_col = mm->trans_b ? mm->k : 1,
                              .ldc = mm->n,
                              .bf16 = p->in != SHERD_FP32,
                              .add = direct && mm->d};
}

/* bf16 results: row by row, D added, narrowed. */
static void finish(const provider *p, const sherd_matmul *mm, float *sums, int64_t at, int64_t elems)
{
    float tmp[1024];
    for (int64_t i = 0; i < elems; i += 1024) {
        int64_t n = sherd__model_min(1024, elems - i);
        if (mm->d) {
            p->kernels->widen(n, (const uint16_t *)mm->d + at + i, tmp);
            p->kernels->add(n, tmp, sums + i);
        }
        p->kernels->narrow(n, sums + i, (uint16_t *)mm->c + at + i);
    }
}

static sherd_status run_slice(provider *p, worker *w, const sherd_matmul *mm, int64_t row, int64_t rows)
{
    sherd_dnnl_shape shape = slice_shape(p, mm, rows);
    sherd_dnnl_product *product = NULL;
    int direct = mm->out == SHERD_FP32;
    int64_t at = row * mm->n, elems = rows * mm->n;
    const char *a = (const char *)mm->a + row * shape.a_row * sherd__model_bytes(p->in);
    sherd_status status = find(w, &shape, &product);
    if (status == SHERD_OK) {
        status = grow(p, &w->scratch, &w->scratch_bytes, sherd__dnnl_product_scratch(product), &w->error);
    }
    if (status == SHERD_OK && !direct) {
        status = grow(p, &w->sums, &w->sums_bytes, (uint64_t)elems * sizeof(float), &w->error);
    }
    if (status != SHERD_OK) {
        return status;
    }
    float *c = direct ? (float *)mm->c + at : w->sums;
    if (direct && mm->d && mm->d != mm->c) {
        memcpy(c, (const float *)mm->d + at, (size_t)elems * sizeof *c);
    }
    status = sherd__dnnl_product_run(w->context, product, a, mm->b, c, w->scratch, &w->error);
    if (status == SHERD_OK && !direct) {
        finish(p, mm, w->sums, at, elems);
    }
    return status;
}

static void slice_task(void *ctx, int64_t task, int index)
{
    const job *j = ctx;
    worker *w = &j->p->workers[index];
    int64_t row = task * j->slice, rows = sherd__model_min(j->slice, j->mm->m - row);
    if (w->status != SHERD_OK) {
        return;
    }
    if (index > 0 && !w->context) {
        sherd__dnnl_set_threads(1); /* a thread of our own keeps it */
    }
    if (!w->context) {
        w->status = sherd__dnnl_context_create(&w->context, &w->error);
    }
    if (w->status == SHERD_OK) {
        w->status = run_slice(j->p, w, j->mm, row, rows);
    }
}

static sherd_status matmul(sherd_gemm *gemm, const sherd_matmul *mm, sherd_error *err)
{
    provider *p = (provider *)gemm;
    int64_t slice = sherd__model_round(sherd__model_ceil(mm->m, p->n_workers), 16);
    if (mm->out != SHERD_FP32) {
        slice = sherd__model_min(slice, BF16_ROWS);
    }
    job j = {p, mm, slice};
    int before = sherd__dnnl_set_threads(1); /* the caller's thread gets its own setting back */
    sherd__pool_run(p->pool, sherd__model_ceil(mm->m, slice), slice_task, &j);
    sherd__dnnl_set_threads(before);
    for (int i = 0; i < p->n_workers; i++) {
        worker *w = &p->workers[i];
        if (w->status != SHERD_OK) {
            if (err) {
                *err = w->error;
            }
            return w->status;
        }
    }
    return SHERD_OK;
}

static void destroy(sherd_gemm *gemm)
{
    provider *p = (provider *)gemm;
    for (int i = 0; i < p->n_workers; i++) {
        worker *w = &p->workers[i];
        while (w->products) {
            cached *next = w->products->next;
            sherd__dnnl_product_destroy(w->products->product);
            free(w->products);
            w->products = next;
        }
        sherd__dnnl_context_destroy(w->context);
        sherd__release(p->device, w->sums);
        sherd__release(p->device, w->scratch);
    }
    free(p->workers);
    free(p);
}

static const char *describe(const sherd_gemm *gemm)
{
    return ((const provider *)gemm)->text;
}

sherd_status sherd__gemm_dnnl_create(const sherd_ops_options *options, const sherd_kernels *kernels, sherd_pool *pool,
                                     sherd_gemm **out, sherd_error *err)
{
    if (options->dtype == SHERD_FP16) {
        return sherd__model_fail(
            err, SHERD_EUNSUPPORTED,
            "model: oneDNN has no fp16 products on CPUs like this one; take AUTO, which stores fp16 "
            "and computes in fp32");
    }
    provider *p = calloc(1, sizeof *p);
    worker *workers = calloc((size_t)options->threads, sizeof *workers);
    if (!p || !workers) {
        free(workers);
        free(p);
        return sherd__model_fail(err, SHERD_ENOMEM, "oneDNN: no memory for %d workers", options->threads);
    }
    *p = (provider){.base = {.destroy = destroy, .describe = describe, .matmul = matmul},
                    .kernels = kernels,
                    .pool = pool,
                    .device = options->device,
                    .in = options->dtype,
                    .n_workers = options->threads,
                    .workers = workers};
    sherd__dnnl_version(p->text, sizeof p->text);
    if (p->in != SHERD_FP32 && !sherd__dnnl_native_bf16()) {
        strncat(p->text, " (bf16 emulated: this CPU has none)", sizeof p->text - strlen(p->text) - 1);
    }
    *out = &p->base;
    return SHERD_OK;
}
