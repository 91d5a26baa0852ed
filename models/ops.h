/* SPDX-License-Identifier: MIT
 *
 * The op table the decoder is written over: raw device pointers, shapes, and a context. The host's implementation is
 * ops_host.c, CUDA's ops_cuda.c. Ops run in the order they are called, on CUDA some time after the call. Matrices are
 * row-major and contiguous; "model type" is sherd_ops.dtype (fp32, bf16 or fp16), statistics, rotary tables, logits and
 * scratch gradients are fp32. bf16 is made by (bits + 0x8000) >> 16, a NaN is 0x7FC0; only cuBLASLt's products round
 * ties to even. fp16 is always made by nearest, ties to even, a NaN is 0x7E00. Every op is deterministic: where a sum
 * runs over rows, its order depends on shapes only, never on threads.
 */
#ifndef SHERD_MODELS_OPS_H
#define SHERD_MODELS_OPS_H

#include "models/internal.h"

typedef struct sherd_ops sherd_ops;

/* C = op(A)·op(B) + D, op(A) is m × k, op(B) is k × n. A and B are of the model type; C and D (D NULL: nothing, D == C:
 * add to what is there) of type `out`. The product and the addition are fp32, rounded once. */
typedef struct sherd_matmul {
    int64_t m, n, k;
    int trans_a; /* A is stored k × m */
    int trans_b; /* B is stored n × k */
    sherd_dtype out;
    const void *a, *b, *d;
    void *c;
} sherd_matmul;

#define SHERD_NORM_ROWS 32 /* rows whose part of a norm's weight gradient is summed on its own */

typedef struct sherd_rmsnorm {
    int64_t rows, cols;
    float eps;
    const void *x, *w; /* model type */
    void *y;           /* forward: (x·rstd)·w, model type */
    float *rstd;       /* forward: out; backward: in */
    const float *dy;   /* backward */
    void *dx;          /* backward, model type: dx += what comes through the norm (in place) */
    float *partials;   /* backward scratch: ceil(rows / SHERD_NORM_ROWS) × cols */
    void *dw;          /* backward, type dw_type; added to if dw_beta */
    sherd_dtype dw_type;
    int dw_beta;
    int dx_clear; /* 1: dx is overwritten, not added to */
} sherd_rmsnorm;

typedef struct sherd_rope {
    int64_t batch, seq, heads, dim;
    const float *table; /* [seq][dim]: dim/2 cosines, dim/2 sines */
    int backward;       /* 1: the transposed rotation */
    void *x;            /* [batch·seq][heads·dim], in place, halves as in Hugging Face's rotate_half */
} sherd_rope;

/* Causal grouped-query attention. q, out, dq, dout: [batch·seq][heads·dim]; k, v, dk, dv: [batch·seq][kv_heads·dim].
 * Scores live only block by block; lse[batch][heads][seq] keeps the log-sum-exp of each row for backward. */
typedef struct sherd_attention {
    int64_t batch, seq, heads, kv_heads, dim;
    const void *q, *k, *v;
    void *out;
    float *lse;
    const void *dout;
    void *dq, *dk, *dv;
} sherd_attention;

typedef struct sherd_swiglu {
    int64_t elems;
    const void *gate, *up;
    void *out;        /* forward: silu(gate)·up; backward: the same again */
    const void *dout; /* backward; all of the model type */
    void *dgate, *dup;
} sherd_swiglu;

typedef struct sherd_embedding {
    int64_t rows, cols, vocab;
    const int32_t *tokens;
    const void *table;
    void *out;      /* forward */
    const void *dx; /* backward */
    int32_t *order; /* backward scratch: rows + 2·vocab + 1 */
    void *dtable;   /* every row written; added to if beta */
    sherd_dtype dtable_type;
    int beta;
} sherd_embedding;

typedef struct sherd_xent {
    int64_t rows, vocab;
    float *logits; /* overwritten */
    const int32_t *targets;
    float scale;    /* of dlogits: loss scale / tokens of the micro-batch */
    void *dlogits;  /* model type; NULL: loss only; may be `logits` in fp32 */
    double *losses; /* one per row */
} sherd_xent;

struct sherd_ops {
    sherd_dtype dtype;
    void (*destroy)(sherd_ops *ops);
    const char *(*describe)(const sherd_ops *ops);
    sherd_status (*matmul)(sherd_ops *ops, const sherd_matmul *args, sherd_error *err);
    void (*rmsnorm)(sherd_ops *ops, const sherd_rmsnorm *args);
    void (*rmsnorm_backward)(sherd_ops *ops, const sherd_rmsnorm *args);
    void (*rope)(sherd_ops *ops, const sherd_rope *args);
    void (*attention)(sherd_ops *ops, const sherd_attention *args);
    void (*attention_backward)(sherd_ops *ops, const sherd_attention *args);
    void (*swiglu)(sherd_ops *ops, const sherd_swiglu *args);
    void (*swiglu_backward)(sherd_ops *ops, const sherd_swiglu *args);
    void (*embedding)(sherd_ops *ops, const sherd_embedding *args);
    void (*embedding_backward)(sherd_ops *ops, const sherd_embedding *args);
    void (*cross_entropy)(sherd_ops *ops, const sherd_xent *args);
    void (*narrow)(sherd_ops *ops, int64_t elems, const float *x, void *y, sherd_dtype type,
                   int beta); /* y = x (+ y) */
    void (*upload)(sherd_ops *ops, void *to, const void *from,
                   size_t bytes); /* from the caller's memory, read at once */
    void (*download)(sherd_ops *ops, void *to, const void *from,
                     size_t bytes); /* to the caller's, there after settle */
    /* Waits for the downloads, not for what was enqueued after them. Returns the first failure of any op before it. */
    sherd_status (*settle)(sherd_ops *ops, sherd_error *err);
};

/* Largest operands, so that scratch is taken once. */
typedef struct sherd_ops_limits {
    int64_t row_elems;                        /* longest run a row op sees (hidden, vocabulary) */
    int64_t batch, seq, heads, kv_heads, dim; /* of attention */
    int64_t max_k;                            /* longest contraction of a product */
    int64_t max_kn;                           /* largest k × n (n rounded up to SHERD_KERNEL_PAD) */
    int forward_only;
} sherd_ops_limits;

typedef struct sherd_ops_options {
    sherd_dtype dtype;
    int32_t threads;
    sherd_model_gemm gemm;
    sherd_device_kind kind;
    sherd_device *device; /* of that kind; NULL where only bytes are asked for */
    double fail_after_s;  /* of waits for a GPU */
    sherd_ops_limits limits;
} sherd_ops_options;

/* For the device's kind. */
sherd_status sherd__ops_create(const sherd_ops_options *options, sherd_ops **out, sherd_error *err);
/* Bytes of WORKSPACE it takes, without a matrix library's. */
uint64_t sherd__ops_bytes(const sherd_ops_options *options);

sherd_status sherd__ops_host_create(const sherd_ops_options *options, sherd_ops **out, sherd_error *err);
/* Bytes of WORKSPACE the call above takes. */
uint64_t sherd__ops_host_bytes(const sherd_ops_options *options);
sherd_status sherd__ops_cuda_create(const sherd_ops_options *options, sherd_ops **out, sherd_error *err);
uint64_t sherd__ops_cuda_bytes(const sherd_ops_options *options);
void sherd__ops_cuda_text(char *text, size_t capacity);

#endif
