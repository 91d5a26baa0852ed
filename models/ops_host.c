/* SPDX-License-Identifier: MIT
 *
 * The op table on the host: row operations here, attention in attention_host.c, products behind sherd_gemm. Each op
 * cuts its rows into tasks whose size depends on the shape only. 16-bit rows are widened into a per-worker buffer that
 * stays in the first-level cache, computed in fp32 and narrowed once.
 */
#include "models/host.h"
#include "models/scratch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define ROW_TASK 16
#define NORM_TASK SHERD_NORM_ROWS
#define RUN 2048 /* elements of one elementwise run */
#define VOCAB_TASK 64

/* Every task gets the op's arguments and its host. */
typedef struct job {
    sherd_host_ops *h;
    const void *args;
} job;

static void run(sherd_ops *ops, int64_t tasks, sherd_pool_fn fn, const void *args)
{
    job j = {(sherd_host_ops *)ops, args};
    sherd__pool_run(j.h->pool, tasks, fn, &j);
}

static sherd_status matmul(sherd_ops *ops, const sherd_matmul *args, sherd_error *err)
{
    sherd_gemm *gemm = ((sherd_host_ops *)ops)->gemm;
    return gemm->matmul(gemm, args, err);
}

/* ---------------------------------------------------------------------------------------------------------------- norm
 */

static void rmsnorm_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_rmsnorm *a = j->args;
    sherd_host_ops *h = j->h;
    const sherd_kernels *k = h->kernels;
    int64_t n = a->cols, end = sherd__model_min(a->rows, (task + 1) * NORM_TASK);
    const float *w = sherd__host_get(h, a->w, 0, n, sherd__host_row(h, worker, 0));
    for (int64_t r = task * NORM_TASK; r < end; r++) {
        const float *x = sherd__host_get(h, a->x, r * n, n, sherd__host_row(h, worker, 1));
        float *y = sherd__host_target(h->base.dtype, a->y, r * n, sherd__host_row(h, worker, 2));
        a->rstd[r] = 1.0f / sqrtf(k->dot(n, x, x) / (float)n + a->eps);
        k->rms_apply(n, a->rstd[r], x, w, y);
        sherd__host_put(h, h->base.dtype, y, a->y, r * n, n);
    }
}

static void rmsnorm(sherd_ops *ops, const sherd_rmsnorm *args)
{
    run(ops, sherd__model_ceil(args->rows, NORM_TASK), rmsnorm_task, args);
}

static int64_t norm_partials(int64_t rows)
{
    return sherd__model_ceil(rows, NORM_TASK);
}

static void rmsnorm_backward_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_rmsnorm *a = j->args;
    sherd_host_ops *h = j->h;
    int64_t n = a->cols, end = sherd__model_min(a->rows, (task + 1) * NORM_TASK);
    float *dw = a->partials + task * n;
    const float *w = sherd__host_get(h, a->w, 0, n, sherd__host_row(h, worker, 0));
    memset(dw, 0, (size_t)n * sizeof *dw);
    for (int64_t r = task * NORM_TASK; r < end; r++) {
        const float *x = sherd__host_get(h, a->x, r * n, n, sherd__host_row(h, worker, 1));
        float *dx = sherd__host_target(h->base.dtype, a->dx, r * n, sherd__host_row(h, worker, 2));
        if (a->dx_clear) {
            memset(dx, 0, (size_t)n * sizeof *dx);
        } else if (h->base.dtype != SHERD_FP32) {
            sherd__host_copy(h, a->dx, r * n, n, dx);
        }
        h->kernels->rms_backward(n, a->rstd[r], x, w, a->dy + r * n, dx, dw);
        sherd__host_put(h, h->base.dtype, dx, a->dx, r * n, n);
    }
}

/* n sums at element `at` of a gradient, added to what is there if beta. */
static void put_sum(const sherd_host_ops *h, sherd_dtype type, float *sum, void *base, int64_t at, int64_t n, int beta,
                    float *tmp)
{
    if (beta && type == SHERD_FP32) {
        h->kernels->add(n, (const float *)base + at, sum);
    } else if (beta) {
        h->kernels->widen(n, (const uint16_t *)base + at, tmp);
        h->kernels->add(n, tmp, sum);
    }
    sherd__host_put(h, type, sum, base, at, n);
}

/* One run of columns: the partial sums in rising order of rows. */
static void norm_weight_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_rmsnorm *a = j->args;
    sherd_host_ops *h = j->h;
    int64_t at = task * VOCAB_TASK, n = sherd__model_min(VOCAB_TASK, a->cols - at);
    float *sum = sherd__host_row(h, worker, 0);
    memcpy(sum, a->partials + at, (size_t)n * sizeof *sum);
    for (int64_t p = 1; p < norm_partials(a->rows); p++) {
        h->kernels->add(n, a->partials + p * a->cols + at, sum);
    }
    put_sum(h, a->dw_type, sum, a->dw, at, n, a->dw_beta, sherd__host_row(h, worker, 1));
}

static void rmsnorm_backward(sherd_ops *ops, const sherd_rmsnorm *args)
{
    run(ops, norm_partials(args->rows), rmsnorm_backward_task, args);
    run(ops, sherd__model_ceil(args->cols, VOCAB_TASK), norm_weight_task, args);
}

/* ---------------------------------------------------------------------------------------------------------------- rope
 */

static void rope_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_rope *a = j->args;
    sherd_host_ops *h = j->h;
    int64_t end = sherd__model_min(a->batch * a->seq, (task + 1) * ROW_TASK), width = a->heads * a->dim;
    for (int64_t r = task * ROW_TASK; r < end; r++) {
        const float *cosine = a->table + r % a->seq * a->dim, *sine = cosine + a->dim / 2;
        float *x = sherd__host_target(h->base.dtype, a->x, r * width, sherd__host_row(h, worker, 0));
        if (h->base.dtype != SHERD_FP32) {
            sherd__host_copy(h, a->x, r * width, width, x);
        }
        for (int64_t head = 0; head < a->heads; head++) {
            h->kernels->rope(a->dim / 2, cosine, sine, a->backward ? -1.0f : 1.0f, x + head * a->dim);
        }
        sherd__host_put(h, h->base.dtype, x, a->x, r * width, width);
    }
}

static void rope(sherd_ops *ops, const sherd_rope *args)
{
    run(ops, sherd__model_ceil(args->batch * args->seq, ROW_TASK), rope_task, args);
}

/* -------------------------------------------------------------------------------------------------------------- swiglu
 */

static void swiglu_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_swiglu *a = j->args;
    sherd_host_ops *h = j->h;
    int64_t at = task * RUN, n = sherd__model_min(RUN, a->elems - at);
    const float *gate = sherd__host_get(h, a->gate, at, n, sherd__host_row(h, worker, 0));
    const float *up = sherd__host_get(h, a->up, at, n, sherd__host_row(h, worker, 1));
    float *out = sherd__host_target(h->base.dtype, a->out, at, sherd__host_row(h, worker, 2));
    h->kernels->swiglu(n, gate, up, out);
    sherd__host_put(h, h->base.dtype, out, a->out, at, n);
}

static void swiglu(sherd_ops *ops, const sherd_swiglu *args)
{
    run(ops, sherd__model_ceil(args->elems, RUN), swiglu_task, args);
}

/* In place is legal: outputs may be inputs, so results are made in the worker's rows. */
static void swiglu_backward_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_swiglu *a = j->args;
    sherd_host_ops *h = j->h;
    sherd_dtype type = h->base.dtype;
    int64_t at = task * RUN, n = sherd__model_min(RUN, a->elems - at);
    float *row[SHERD_HOST_ROWS];
    for (int i = 0; i < SHERD_HOST_ROWS; i++) {
        row[i] = sherd__host_row(h, worker, i);
    }
    const float *gate = sherd__host_get(h, a->gate, at, n, row[0]);
    const float *up = sherd__host_get(h, a->up, at, n, row[1]);
    const float *dout = sherd__host_get(h, a->dout, at, n, row[2]);
    h->kernels->swiglu_backward(n, gate, up, dout, row[3], row[4], row[2]);
    sherd__host_put(h, type, row[3], a->dgate, at, n);
    sherd__host_put(h, type, row[4], a->dup, at, n);
    sherd__host_put(h, type, row[2], a->out, at, n);
}

static void swiglu_backward(sherd_ops *ops, const sherd_swiglu *args)
{
    run(ops, sherd__model_ceil(args->elems, RUN), swiglu_backward_task, args);
}

/* ----------------------------------------------------------------------------------------------------------- embedding
 */

static void embedding_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_embedding *a = j->args;
    size_t row = (size_t)(a->cols * sherd__model_bytes(j->h->base.dtype));
    int64_t end = sherd__model_min(a->rows, (task + 1) * ROW_TASK);
    (void)worker;
    for (int64_t r = task * ROW_TASK; r < end; r++) {
        memcpy((char *)a->out + (size_t)r * row, (const char *)a->table + (size_t)a->tokens[r] * row, row);
    }
}

static void embedding(sherd_ops *ops, const sherd_embedding *args)
{
    run(ops, sherd__model_ceil(args->rows, ROW_TASK), embedding_task, args);
}

/* order: vocab + 1 starts, then the rows sorted by token, rising within a token: a stable counting sort. */
static void sort_tokens(const sherd_embedding *a)
{
    int32_t *start = a->order, *sorted = a->order + a->vocab + 1;
    memset(start, 0, (size_t)(a->vocab + 1) * sizeof *start);
    for (int64_t r = 0; r < a->rows; r++) {
        start[a->tokens[r]]++;
    }
    int32_t sum = 0;
    for (int64_t v = 0; v <= a->vocab; v++) {
        sum += start[v];
        start[v] = sum;
    }
    for (int64_t r = a->rows; r-- > 0;) { /* backwards: each start ends where its token's rows begin */
        sorted[--start[a->tokens[r]]] = (int32_t)r;
    }
}

static void embedding_backward_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_embedding *a = j->args;
    sherd_host_ops *h = j->h;
    const int32_t *start = a->order, *sorted = a->order + a->vocab + 1;
    float *sum = sherd__host_row(h, worker, 0), *tmp = sherd__host_row(h, worker, 1);
    int64_t n = a->cols, end = sherd__model_min(a->vocab, (task + 1) * VOCAB_TASK);
    for (int64_t v = task * VOCAB_TASK; v < end; v++) {
        if (a->beta && start[v] == start[v + 1]) {
            continue;
        }
        memset(sum, 0, (size_t)n * sizeof *sum);
        for (int32_t i = start[v]; i < start[v + 1]; i++) {
            h->kernels->add(n, sherd__host_get(h, a->dx, sorted[i] * n, n, tmp), sum);
        }
        put_sum(h, a->dtable_type, sum, a->dtable, v * n, n, a->beta, tmp);
    }
}

static void embedding_backward(sherd_ops *ops, const sherd_embedding *args)
{
    sort_tokens(args);
    run(ops, sherd__model_ceil(args->vocab, VOCAB_TASK), embedding_backward_task, args);
}

/* ------------------------------------------------------------------------------------------------------- cross-entropy
 */

static void xent_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const sherd_xent *a = j->args;
    sherd_host_ops *h = j->h;
    int64_t n = a->vocab, end = sherd__model_min(a->rows, (task + 1) * ROW_TASK);
    (void)worker;
    for (int64_t r = task * ROW_TASK; r < end; r++) {
        float *x = a->logits + r * n, target = x[a->targets[r]];
        float highest = h->kernels->maximum(n, x);
        float sum = h->kernels->exp_sum(n, 1.0f, highest, x);
        a->losses[r] = log((double)sum) + (double)highest - (double)target;
        if (a->dlogits) {
            h->kernels->scale(n, a->scale / sum, x);
            x[a->targets[r]] -= a->scale;
            sherd__host_put(h, h->base.dtype, x, a->dlogits, r * n, n);
        }
    }
}

static void cross_entropy(sherd_ops *ops, const sherd_xent *args)
{
    run(ops, sherd__model_ceil(args->rows, ROW_TASK), xent_task, args);
}

/* --------------------------------------------------------------------------------------------------------- conversions
 */

typedef struct narrowing {
    int64_t elems;
    const float *x;
    void *y;
    sherd_dtype type;
    int beta;
} narrowing;

static void narrow_task(void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    const narrowing *a = j->args;
    int64_t at = task * RUN, n = sherd__model_min(RUN, a->elems - at);
    float *sum = sherd__host_row(j->h, worker, 0);
    memcpy(sum, a->x + at, (size_t)n * sizeof *sum);
    put_sum(j->h, a->type, sum, a->y, at, n, a->beta, sherd__host_row(j->h, worker, 1));
}

static void narrow(sherd_ops *ops, int64_t elems, const float *x, void *y, sherd_dtype type, int beta)
{
    narrowing args = {elems, x, y, type, beta};
    run(ops, sherd__model_ceil(elems, RUN), narrow_task, &args);
}

static void move(sherd_ops *ops, void *to, const void *from, size_t bytes)
{
    (void)ops;
    memcpy(to, from, bytes);
}

static sherd_status settle(sherd_ops *ops, sherd_error *err)
{
    (void)ops;
    (void)err;
    return SHERD_OK;
}

/* ----------------------------------------------------------------------------------------------------------- lifecycle
 */

static const char *describe(const sherd_ops *ops)
{
    return ((const sherd_host_ops *)ops)->text;
}

static void destroy(sherd_ops *ops)
{
    sherd_host_ops *h = (sherd_host_ops *)ops;
    if (h->gemm) {
        h->gemm->destroy(h->gemm);
    }
    sherd__pool_destroy(h->pool);
    sherd__release(h->device, h->attention);
    sherd__release(h->device, h->rows);
    free(h);
}

static int64_t row_elems(const sherd_ops_options *o)
{
    return sherd__model_round(sherd__model_max(o->limits.row_elems, RUN), SHERD_KERNEL_PAD);
}

static uint64_t rows_bytes(const sherd_ops_options *o)
{
    return (uint64_t)(o->threads * SHERD_HOST_ROWS * row_elems(o)) * sizeof(float);
}

static uint64_t attention_bytes(const sherd_ops_options *o)
{
    return (uint64_t)(o->threads * sherd__host_attention_elems(o->limits.seq, o->limits.dim)) * sizeof(float);
}

uint64_t sherd__ops_host_bytes(const sherd_ops_options *o)
{
    return rows_bytes(o) + attention_bytes(o) + sherd__gemm_bytes(o);
}

static sherd_status fill(sherd_host_ops *h, const sherd_ops_options *o, sherd_error *err)
{
    sherd_status status = sherd__pool_create(o->threads, &h->pool, err);
    if (status == SHERD_OK) {
        status = sherd__scratch(o->device, rows_bytes(o), &h->rows, err);
    }
    if (status == SHERD_OK) {
        status = sherd__scratch(o->device, attention_bytes(o), &h->attention, err);
    }
    if (status == SHERD_OK) {
        status = sherd__gemm_create(o, h->kernels, h->pool, &h->gemm, err);
    }
    return status;
}

sherd_status sherd__ops_host_create(const sherd_ops_options *o, sherd_ops **out, sherd_error *err)
{
    sherd_host_ops *h = calloc(1, sizeof *h);
    if (!h) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the host ops' handle");
    }
    h->base = (sherd_ops){
        .dtype = o->dtype,
        .destroy = destroy,
        .describe = describe,
        .matmul = matmul,
        .rmsnorm = rmsnorm,
        .rmsnorm_backward = rmsnorm_backward,
        .rope = rope,
        .attention = sherd__host_attention,
        .attention_backward = sherd__host_attention_backward,
        .swiglu = swiglu,
        .swiglu_backward = swiglu_backward,
        .embedding = embedding,
        .embedding_backward = embedding_backward,
        .cross_entropy = cross_entropy,
        .narrow = narrow,
        .upload = move,
        .download = move,
        .settle = settle,
    };
    h->kernels = sherd__kernels_choose(o->dtype == SHERD_FP16 ? SHERD_KERNELS_FP16 : SHERD_KERNELS_BF16);
    h->device = o->device;
    h->row_elems = row_elems(o);
    h->attention_elems = sherd__host_attention_elems(o->limits.seq, o->limits.dim);
    sherd_status status = fill(h, o, err);
    if (status != SHERD_OK) {
        destroy(&h->base);
        return status;
    }
    snprintf(h->text, sizeof h->text, "host ops: %s, products: %s, %d thread%s", h->kernels->name,
             h->gemm->describe(h->gemm), o->threads, o->threads == 1 ? "" : "s");
    *out = &h->base;
    return SHERD_OK;
}
