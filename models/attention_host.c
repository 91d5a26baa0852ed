/* SPDX-License-Identifier: MIT
 *
 * Causal attention on the host, blockwise (the recurrence is Milakov and Gimelshein's online softmax, the backward that
 * of FlashAttention-2): 64 queries against at most 256 keys at a time, scores only ever in that block. One task is one
 * key-value head of one sequence with all its query heads, so its dk and dv have one writer and one order. Keys and
 * values are packed once per task, in fp32: turned into panels of 64 columns where they are the right operand of q·kᵀ,
 * as rows where they are that of p·v.
 */
#include "models/host.h"

#include <math.h>

#define PAD SHERD_KERNEL_PAD
#define QUERIES 64
#define KEYS 256
_Static_assert(KEYS % PAD == 0 && QUERIES % PAD == 0, "blocks are whole panels");

typedef struct job {
    sherd_host_ops *h;
    const sherd_attention *a;
} job;

/* A worker's scratch, cut for one task. */
typedef struct frame {
    sherd_host_ops *h;
    const sherd_kernels *k;
    const sherd_attention *a;
    int64_t batch, kv_head; /* of the task */
    int64_t dim, pad_dim, pad_seq;
    float scale;
    float *turned_k, *turned_v; /* [pad_seq / PAD][dim][PAD] */
    float *rows_k, *rows_v;     /* [pad_seq][pad_dim] */
    float *dk, *dv;             /* [pad_seq][pad_dim] */
    float *q, *o, *dq, *dout;   /* [QUERIES][pad_dim] */
    float *p, *ds;              /* [QUERIES][KEYS] */
    float highest[QUERIES], sum[QUERIES], delta[QUERIES];
} frame;

int64_t sherd__host_attention_elems(int64_t seq, int64_t dim)
{
    int64_t pad_dim = sherd__model_round(dim, PAD), pad_seq = sherd__model_round(seq, PAD);
    return 6 * pad_seq * pad_dim + 4 * QUERIES * pad_dim + 2 * QUERIES * KEYS;
}

static void open_frame(frame *f, const void *ctx, int64_t task, int worker)
{
    const job *j = ctx;
    f->h = j->h;
    f->k = j->h->kernels;
    f->a = j->a;
    f->batch = task / j->a->kv_heads;
    f->kv_head = task % j->a->kv_heads;
    f->dim = j->a->dim;
    f->pad_dim = sherd__model_round(f->dim, PAD);
    f->pad_seq = sherd__model_round(j->a->seq, PAD);
    f->scale = 1.0f / sqrtf((float)f->dim);
    float *at = j->h->attention + worker * j->h->attention_elems;
    float **big[] = {&f->turned_k, &f->turned_v, &f->rows_k, &f->rows_v, &f->dk, &f->dv};
    float **small[] = {&f->q, &f->o, &f->dq, &f->dout};
    for (size_t i = 0; i < sizeof big / sizeof *big; i++, at += f->pad_seq * f->pad_dim) {
        *big[i] = at;
    }
    for (size_t i = 0; i < sizeof small / sizeof *small; i++, at += QUERIES * f->pad_dim) {
        *small[i] = at;
    }
    f->p = at;
    f->ds = at + QUERIES * KEYS;
}

/* Rows [row, row + n) of one head of x into [n][pad_dim], zeros behind dim. */
static void gather(const frame *f, const void *x, int64_t heads, int64_t head, int64_t row, int64_t n, float *to)
{
    int64_t at = ((f->batch * f->a->seq + row) * heads + head) * f->dim;
    for (int64_t r = 0; r < n; r++, at += heads * f->dim, to += f->pad_dim) {
        sherd__host_copy(f->h, x, at, f->dim, to);
        memset(to + f->dim, 0, (size_t)(f->pad_dim - f->dim) * sizeof *to);
    }
}

static void scatter(const frame *f, const float *from, void *x, int64_t heads, int64_t head, int64_t row, int64_t n)
{
    int64_t at = ((f->batch * f->a->seq + row) * heads + head) * f->dim;
    for (int64_t r = 0; r < n; r++, at += heads * f->dim, from += f->pad_dim) {
        sherd__host_put(f->h, f->h->base.dtype, from, x, at, f->dim);
    }
}

/* rows [pad_seq][pad_dim] → panels [pad_seq / PAD][dim][PAD] */
static void turn(const frame *f, const float *rows, float *panels)
{
    for (int64_t at = 0; at < f->pad_seq; at += PAD) {
        f->k->transpose(PAD, f->dim, rows + at * f->pad_dim, f->pad_dim, panels + at * f->dim, PAD);
    }
}

static void clear_rows(const frame *f, float *rows, int64_t from)
{
    memset(rows + from * f->pad_dim, 0, (size_t)((f->pad_seq - from) * f->pad_dim) * sizeof *rows);
}

static void pack_keys(const frame *f)
{
    const sherd_attention *a = f->a;
    gather(f, a->k, a->kv_heads, f->kv_head, 0, a->seq, f->rows_k);
    gather(f, a->v, a->kv_heads, f->kv_head, 0, a->seq, f->rows_v);
    clear_rows(f, f->rows_k, a->seq);
    clear_rows(f, f->rows_v, a->seq);
    turn(f, f->rows_k, f->turned_k);
}

/* out[QUERIES][KEYS] = x[n][dim] · panelsᵀ for `keys` keys (whole panels) from `key`. */
static void scores(const frame *f, const float *x, int64_t n, const float *panels, int64_t key, int64_t keys,
                   float *out)
{
    for (int64_t j = 0; j < keys; j += PAD) {
        f->k->gemm(&(sherd_tile_gemm){.m = n,
                                      .n = PAD,
                                      .k = f->dim,
                                      .a = x,
                                      .a_row = f->pad_dim,
                                      .a_col = 1,
                                      .b = panels + (key + j) * f->dim,
                                      .ldb = PAD,
                                      .c = out + j,
                                      .ldc = KEYS});
    }
}

/* y[n][pad_dim] += s[n][KEYS] · rows[keys][pad_dim] */
static void weigh(const frame *f, const float *s, int64_t n, const float *rows, int64_t keys, float *y)
{
    f->k->gemm(&(sherd_tile_gemm){.m = n,
                                  .n = f->pad_dim,
                                  .k = keys,
                                  .a = s,
                                  .a_row = KEYS,
                                  .a_col = 1,
                                  .b = rows,
                                  .ldb = f->pad_dim,
                                  .c = y,
                                  .ldc = f->pad_dim,
                                  .beta = 1});
}

/* y[keys][pad_dim] += s[n][KEYS]ᵀ · rows[n][pad_dim] */
static void weigh_turned(const frame *f, const float *s, int64_t n, const float *rows, int64_t keys, float *y)
{
    f->k->gemm(&(sherd_tile_gemm){.m = keys,
                                  .n = f->pad_dim,
                                  .k = n,
                                  .a = s,
                                  .a_row = 1,
                                  .a_col = KEYS,
                                  .b = rows,
                                  .ldb = f->pad_dim,
                                  .c = y,
                                  .ldc = f->pad_dim,
                                  .beta = 1});
}

/* How many of the `keys` keys from `key` the query sees. At least one in the first block. */
static int64_t visible(int64_t query, int64_t key, int64_t keys)
{
    return sherd__model_max(0, sherd__model_min(keys, query - key + 1));
}

/* Keys of a block, in whole panels: the causal end of these queries or KEYS. */
static int64_t block_keys(int64_t query_end, int64_t key)
{
    return sherd__model_min(KEYS, sherd__model_round(query_end - key, PAD));
}

/* One row of scores against one block: the online softmax. */
static void soften(frame *f, int64_t r, int64_t seen, int64_t keys)
{
    float *p = f->p + r * KEYS;
    memset(p + seen, 0, (size_t)(keys - seen) * sizeof *p);
    if (seen == 0) {
        return;
    }
    float highest = f->k->maximum(seen, p) * f->scale;
    if (highest > f->highest[r]) {
        float shrink = expf(f->highest[r] - highest);
        f->sum[r] *= shrink;
        f->k->scale(f->pad_dim, shrink, f->o + r * f->pad_dim);
        f->highest[r] = highest;
    }
    f->sum[r] += f->k->exp_sum(seen, f->scale, f->highest[r], p);
}

static void forward_queries(frame *f, int64_t head, int64_t query, int64_t n)
{
    const sherd_attention *a = f->a;
    gather(f, a->q, a->heads, head, query, n, f->q);
    memset(f->o, 0, (size_t)(n * f->pad_dim) * sizeof *f->o);
    for (int64_t r = 0; r < n; r++) {
        f->highest[r] = -INFINITY;
        f->sum[r] = 0.0f;
    }
    for (int64_t key = 0; key < query + n; key += KEYS) {
        int64_t keys = block_keys(query + n, key);
        scores(f, f->q, n, f->turned_k, key, keys, f->p);
        for (int64_t r = 0; r < n; r++) {
            soften(f, r, visible(query + r, key, keys), keys);
        }
        weigh(f, f->p, n, f->rows_v + key * f->pad_dim, keys, f->o);
    }
    float *lse = a->lse + (f->batch * a->heads + head) * a->seq + query;
    for (int64_t r = 0; r < n; r++) {
        f->k->scale(f->pad_dim, 1.0f / f->sum[r], f->o + r * f->pad_dim);
        lse[r] = f->highest[r] + logf(f->sum[r]);
    }
    scatter(f, f->o, a->out, a->heads, head, query, n);
}

static void forward_task(void *ctx, int64_t task, int worker)
{
    frame f;
    open_frame(&f, ctx, task, worker);
    pack_keys(&f);
    int64_t group = f.a->heads / f.a->kv_heads;
    for (int64_t head = f.kv_head * group; head < (f.kv_head + 1) * group; head++) {
        for (int64_t query = 0; query < f.a->seq; query += QUERIES) {
            forward_queries(&f, head, query, sherd__model_min(QUERIES, f.a->seq - query));
        }
    }
}

/* p from the scores and the saved log-sum-exp, then ds = p·(dp − delta)·scale in f->ds. */
static void score_gradient(frame *f, const float *lse, int64_t query, int64_t n, int64_t key, int64_t keys)
{
    for (int64_t r = 0; r < n; r++) {
        float *p = f->p + r * KEYS, *ds = f->ds + r * KEYS;
        int64_t seen = visible(query + r, key, keys);
        f->k->exp_sum(seen, f->scale, lse[r], p);
        f->k->score_backward(seen, f->delta[r], f->scale, p, ds);
        memset(p + seen, 0, (size_t)(keys - seen) * sizeof *p);
        memset(ds + seen, 0, (size_t)(keys - seen) * sizeof *ds);
    }
}

static void backward_queries(frame *f, int64_t head, int64_t query, int64_t n)
{
    const sherd_attention *a = f->a;
    const float *lse = a->lse + (f->batch * a->heads + head) * a->seq + query;
    gather(f, a->q, a->heads, head, query, n, f->q);
    gather(f, a->out, a->heads, head, query, n, f->o);
    gather(f, a->dout, a->heads, head, query, n, f->dout);
    memset(f->dq, 0, (size_t)(n * f->pad_dim) * sizeof *f->dq);
    for (int64_t r = 0; r < n; r++) {
        f->delta[r] = f->k->dot(f->dim, f->o + r * f->pad_dim, f->dout + r * f->pad_dim);
    }
    for (int64_t key = 0; key < query + n; key += KEYS) {
        int64_t keys = block_keys(query + n, key), row = key * f->pad_dim;
        scores(f, f->q, n, f->turned_k, key, keys, f->p);
        scores(f, f->dout, n, f->turned_v, key, keys, f->ds);
        score_gradient(f, lse, query, n, key, keys);
        weigh_turned(f, f->p, n, f->dout, keys, f->dv + row);
        weigh_turned(f, f->ds, n, f->q, keys, f->dk + row);
        weigh(f, f->ds, n, f->rows_k + row, keys, f->dq);
    }
    scatter(f, f->dq, a->dq, a->heads, head, query, n);
}

static void backward_task(void *ctx, int64_t task, int worker)
{
    frame f;
    open_frame(&f, ctx, task, worker);
    pack_keys(&f);
    turn(&f, f.rows_v, f.turned_v);
    clear_rows(&f, f.dk, 0);
    clear_rows(&f, f.dv, 0);
    int64_t group = f.a->heads / f.a->kv_heads;
    for (int64_t head = f.kv_head * group; head < (f.kv_head + 1) * group; head++) {
        for (int64_t query = 0; query < f.a->seq; query += QUERIES) {
            backward_queries(&f, head, query, sherd__model_min(QUERIES, f.a->seq - query));
        }
    }
    scatter(&f, f.dk, f.a->dk, f.a->kv_heads, f.kv_head, 0, f.a->seq);
    scatter(&f, f.dv, f.a->dv, f.a->kv_heads, f.kv_head, 0, f.a->seq);
}

static void run(sherd_ops *ops, const sherd_attention *a, sherd_pool_fn fn)
{
    job j = {(sherd_host_ops *)ops, a};
    sherd__pool_run(j.h->pool, a->batch * a->kv_heads, fn, &j);
}

void sherd__host_attention(sherd_ops *ops, const sherd_attention *args)
{
    run(ops, args, forward_task);
}
void sherd__host_attention_backward(sherd_ops *ops, const sherd_attention *args)
{
    run(ops, args, backward_task);
}
