/* SPDX-License-Identifier: MIT
 *
 * A blocked GEMM over the register tile of kernels_body.h. op(B) is packed once, by all threads, into panels of 64
 * columns
 * ([panel][k][64], fp32, zeros behind the last column); then tasks of 48 rows × 256 columns multiply: rows of op(A) are
 * widened into a small buffer where they need it, sums stay in an fp32 block in cache, and the epilogue adds D and
 * narrows on the way out. 16-bit operands are therefore converted while they are packed and cost no pass of their own.
 * Every element is one sum over k in rising order, in blocks of KC: it depends on shapes only.
 */
#include "models/gemm.h"
#include "models/scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PANEL SHERD_KERNEL_PAD
#define ROWS 48
#define COLS 256
#define KC 256
#define PACK_ELEMS ((int64_t)1 << 18) /* 1 MiB: stays in a second-level cache between packing and use */
#define WORKER_ELEMS (ROWS * KC + ROWS * COLS + PANEL * PANEL)

typedef struct portable {
    sherd_gemm base;
    const sherd_kernels *kernels;
    sherd_pool *pool;
    sherd_device *device;
    float *pack; /* shared: one block of op(B) */
    int64_t pack_elems;
    float *workers; /* WORKER_ELEMS each */
    sherd_dtype in;
    char text[64];
} portable;

/* One block of columns of one product. */
typedef struct block {
    portable *p;
    const sherd_matmul *mm;
    int64_t col, cols; /* of C */
    int64_t row_tasks;
} block;

static int64_t pack_capacity(const sherd_ops_limits *limits)
{
    int64_t floor = limits->max_k * PANEL;
    return sherd__model_max(floor, sherd__model_min(limits->max_kn, PACK_ELEMS));
}

/* rows × n values of an operand from element `at`, as fp32. */
static void fetch(const portable *p, const void *base, int64_t at, int64_t rows, int64_t n, int64_t ld, float *to,
                  int64_t ld_to)
{
    if (p->in == SHERD_FP32) {
        p->kernels->copy_rows(rows, n, (const float *)base + at, ld, to, ld_to);
    } else {
        p->kernels->widen_rows(rows, n, (const uint16_t *)base + at, ld, to, ld_to);
    }
}

/* Zeros in columns [n_j, PANEL) of a packed panel. */
static void pad(float *to, int64_t n_l, int64_t n_j)
{
    for (int64_t i = 0; i < n_l && n_j < PANEL; i++) {
        memset(to + i * PANEL + n_j, 0, (size_t)(PANEL - n_j) * sizeof *to);
    }
}

static void pack_rows(const portable *p, const sherd_matmul *mm, int64_t l, int64_t n_l, int64_t j, int64_t n_j,
                      float *to)
{
    fetch(p, mm->b, l * mm->n + j, n_l, n_j, mm->n, to, PANEL);
    pad(to, n_l, n_j);
}

/* B is stored n × k: PANEL rows of it, turned. */
static void pack_turned(const portable *p, const sherd_matmul *mm, int64_t l, int64_t n_l, int64_t j, int64_t n_j,
                        float *to, float *tmp)
{
    const float *from = (const float *)mm->b + j * mm->k + l;
    int64_t ld = mm->k;
    if (p->in != SHERD_FP32) {
        fetch(p, mm->b, j * mm->k + l, n_j, n_l, mm->k, tmp, PANEL);
        from = tmp;
        ld = PANEL;
    }
    p->kernels->transpose(n_j, n_l, from, ld, to, PANEL);
    pad(to, n_l, n_j);
}

/* Task: 64 steps of k of one panel. */
static void pack_task(void *ctx, int64_t task, int worker)
{
    const block *b = ctx;
    const sherd_matmul *mm = b->mm;
    portable *p = b->p;
    int64_t chunks = sherd__model_ceil(mm->k, PANEL), panel = task / chunks, l = task % chunks * PANEL;
    int64_t n_l = sherd__model_min(PANEL, mm->k - l);
    int64_t j = b->col + panel * PANEL, n_j = sherd__model_min(PANEL, b->col + b->cols - j);
    float *to = p->pack + (panel * mm->k + l) * PANEL, *tmp = p->workers + worker * WORKER_ELEMS;
    if (mm->trans_b) {
        pack_turned(p, mm, l, n_l, j, n_j, to, tmp);
    } else {
        pack_rows(p, mm, l, n_l, j, n_j, to);
    }
}

/* Points g at rows [i, i + g->m), steps [l, l + g->k) of op(A). */
static void take_a(const portable *p, const sherd_matmul *mm, int64_t i, int64_t l, float *tmp, sherd_tile_gemm *g)
{
    g->a = tmp;
    if (mm->trans_a) {
        g->a_row = 1;
        g->a_col = ROWS;
        fetch(p, mm->a, l * mm->m + i, g->k, g->m, mm->m, tmp, ROWS);
    } else if (p->in == SHERD_FP32) {
        g->a = (const float *)mm->a + i * mm->k + l;
        g->a_row = mm->k;
        g->a_col = 1;
    } else {
        g->a_row = KC;
        g->a_col = 1;
        fetch(p, mm->a, i * mm->k + l, g->m, g->k, mm->k, tmp, KC);
    }
}

/* One row of finished sums: adds D, narrows. */
static void finish_row(const portable *p, const sherd_matmul *mm, float *sum, int64_t at, int64_t n)
{
    float tmp[COLS];
    if (mm->d && mm->out == SHERD_FP32) {
        p->kernels->add(n, (const float *)mm->d + at, sum);
    } else if (mm->d) {
        p->kernels->widen(n, (const uint16_t *)mm->d + at, tmp);
        p->kernels->add(n, tmp, sum);
    }
    if (mm->out == SHERD_FP32) {
        memcpy((float *)mm->c + at, sum, (size_t)n * sizeof *sum);
    } else {
        p->kernels->narrow(n, sum, (uint16_t *)mm->c + at);
    }
}

static void multiply_task(void *ctx, int64_t task, int worker)
{
    const block *b = ctx;
    const sherd_matmul *mm = b->mm;
    portable *p = b->p;
    float *a_tmp = p->workers + worker * WORKER_ELEMS, *sums = a_tmp + ROWS * KC;
    int64_t i = task % b->row_tasks * ROWS, j = task / b->row_tasks * COLS; /* j within the block */
    int64_t n = sherd__model_min(COLS, b->cols - j);
    sherd_tile_gemm g = {.m = sherd__model_min(ROWS, mm->m - i), .n = PANEL, .ldb = PANEL, .ldc = COLS};
    int direct = mm->out == SHERD_FP32 && n % PANEL == 0 && (!mm->d || mm->d == mm->c);
    if (direct) {
        sums = (float *)mm->c + i * mm->n + b->col + j;
        g.ldc = mm->n;
    }
    for (int64_t l = 0; l < mm->k; l += KC) {
        g.k = sherd__model_min(KC, mm->k - l);
        g.beta = l > 0 || (direct && mm->d);
        take_a(p, mm, i, l, a_tmp, &g);
        for (int64_t c = 0; c < n; c += PANEL) {
            g.b = p->pack + ((j + c) * mm->k + l * PANEL);
            g.c = sums + c;
            p->kernels->gemm(&g);
        }
    }
    for (int64_t r = 0; r < g.m && !direct; r++) {
        finish_row(p, mm, sums + r * COLS, (i + r) * mm->n + b->col + j, n);
    }
}

static sherd_status matmul(sherd_gemm *gemm, const sherd_matmul *mm, sherd_error *err)
{
    portable *p = (portable *)gemm;
    int64_t width = p->pack_elems / mm->k / PANEL * PANEL;
    if (width < PANEL) {
        return sherd__model_fail(err, SHERD_EINVAL, "model: a product over %lld values, scratch was made for fewer",
                                 (long long)mm->k);
    }
    /* blocks of equal width: the last one must not be a sliver that packs op(A) again for nothing */
    width = sherd__model_round(sherd__model_ceil(mm->n, sherd__model_ceil(mm->n, width)), PANEL);
    for (int64_t col = 0; col < mm->n; col += width) {
        block b = {p, mm, col, sherd__model_min(width, mm->n - col), sherd__model_ceil(mm->m, ROWS)};
        sherd__pool_run(p->pool, sherd__model_ceil(b.cols, PANEL) * sherd__model_ceil(mm->k, PANEL), pack_task, &b);
        sherd__pool_run(p->pool, b.row_tasks * sherd__model_ceil(b.cols, COLS), multiply_task, &b);
    }
    return SHERD_OK;
}

static const char *describe(const sherd_gemm *gemm)
{
    return ((const portable *)gemm)->text;
}

static void destroy(sherd_gemm *gemm)
{
    portable *p = (portable *)gemm;
    sherd__release(p->device, p->workers);
    sherd__release(p->device, p->pack);
    free(p);
}

static uint64_t pack_bytes(const sherd_ops_options *o)
{
    return (uint64_t)pack_capacity(&o->limits) * sizeof(float);
}
static uint64_t worker_bytes(const sherd_ops_options *o)
{
    return (uint64_t)o->threads * WORKER_ELEMS * sizeof(float);
}
uint64_t sherd__gemm_portable_bytes(const sherd_ops_options *o)
{
    return pack_bytes(o) + worker_bytes(o);
}

sherd_status sherd__gemm_portable_create(const sherd_ops_options *options, const sherd_kernels *kernels,
                                         sherd_pool *pool, sherd_gemm **out, sherd_error *err)
{
    portable *p = calloc(1, sizeof *p);
    if (!p) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the matrix product's handle");
    }
    p->base = (sherd_gemm){.destroy = destroy, .describe = describe, .matmul = matmul};
    p->kernels = kernels;
    p->pool = pool;
    p->device = options->device;
    p->in = options->dtype;
    p->pack_elems = pack_capacity(&options->limits);
    sherd_status status = sherd__scratch(p->device, pack_bytes(options), &p->pack, err);
    if (status == SHERD_OK) {
        status = sherd__scratch(p->device, worker_bytes(options), &p->workers, err);
    }
    if (status != SHERD_OK) {
        destroy(&p->base);
        return status;
    }
    snprintf(p->text, sizeof p->text, "own (%s%s)", kernels->name,
             p->in == SHERD_FP32   ? ""
             : p->in == SHERD_BF16 ? ", bf16 widened while packing"
                                   : ", stored in fp16, computed in fp32");
    *out = &p->base;
    return SHERD_OK;
}
