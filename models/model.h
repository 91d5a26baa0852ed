/* SPDX-License-Identifier: MIT
 *
 * model.h: the reference decoder (Llama / DeepSeek style), a client of sherd.h.
 *
 *     shape ──► parameter table ──► plan, engine        weights from (seed, name): the same on every rank and world
 *       └─────► model (activations and scratch, allocated once for the largest batch × seq)
 *     store (the engine, or plain memory) ──► sherd_model_step: loss, and every gradient written where the store says
 *
 * The functions follow the conventions of sherd.h: a status, one sentence in `err`, *out written on success only. A
 * model is used by one thread at a time and belongs to one rank. It prints nothing and changes no environment variable.
 */
#ifndef SHERD_MODELS_MODEL_H
#define SHERD_MODELS_MODEL_H

#include "sherd/sherd.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* --------------------------------------------------------------------------------------------------------------- shape
 */

/* Dimensions of a decoder. head_dim is hidden / heads. */
typedef struct sherd_model_shape {
    size_t size;
    int64_t layers, hidden, heads, kv_heads, intermediate, vocab;
    int32_t tied;      /* 1: the head is the embedding, one parameter with two uses */
    double rope_theta; /* 10000 */
    double norm_eps;   /* 1e-5 */
    double init_std;   /* 0.02 */
} sherd_model_shape;

/* Presets: tiny, 10m, 30m, 124m, 350m, 1.3b, 7b. Names are static; NULL past the end. Source: docs/numerics-models.md.
 */
const char *sherd_model_preset_name(size_t index);
/* `name` is a preset, or the path of a JSON file with the keys of Hugging Face's config.json (num_hidden_layers,
 * hidden_size, num_attention_heads, num_key_value_heads, intermediate_size, vocab_size, tie_word_embeddings,
 * rope_theta, rms_norm_eps, initializer_range; others are ignored). Errors: EINVAL, EIO, with the key. */
sherd_status sherd_model_shape_read(const char *name, sherd_model_shape *out, sherd_error *err);
sherd_status sherd_model_shape_parse(const char *json, size_t bytes, const char *name, sherd_model_shape *out,
                                     sherd_error *err);
/* EINVAL with the dimension that is wrong. The functions below require a checked shape. */
sherd_status sherd_model_shape_check(const sherd_model_shape *shape, sherd_error *err);
int64_t sherd_model_elems(const sherd_model_shape *shape); /* parameters' elements in all */
/* Floating-point operations of the matrix products of forward plus backward, per token, without recomputation:
 * 6 per weight of a matrix in use, and attention's 12·layers·hidden·seq/2 (causal). */
double sherd_model_flops_per_token(const sherd_model_shape *shape, int64_t seq);

/* ---------------------------------------------------------------------------------------------------------- parameters
 */

#define SHERD_MODEL_GROUP_NORMS 1u /* flag: 1-D parameters go to group 1, matrices to group 0; without it all are 0 */
#define SHERD_MODEL_NAME_MAX 64

/* How many parameters; and the table, in forward order of first use, with Hugging Face's Llama names. `names` has room
 * for n × SHERD_MODEL_NAME_MAX bytes and must outlive `params` (the plan copies). */
uint32_t sherd_model_param_count(const sherd_model_shape *shape);
sherd_status sherd_model_params(const sherd_model_shape *shape, sherd_dtype dtype, sherd_dtype grad_dtype,
                                uint32_t flags, sherd_param *params, char *names, sherd_error *err);
/* Initial values of one parameter, elements [begin, begin + n): normal(0, init_std) from (seed, name, index) for
 * matrices, 1 for norms. Counter-based: any range, any order, any number of threads gives the same values. */
void sherd_model_init_values(const sherd_model_shape *shape, const sherd_param *param, uint64_t seed, int64_t begin,
                             int64_t n, float *out);
/* All values of a parameter, the same ones, made by `threads` threads. */
sherd_status sherd_model_init_param(const sherd_model_shape *shape, const sherd_param *param, uint64_t seed,
                                    int32_t threads, float *out, sherd_error *err);

/* -------------------------------------------------------------------------------------------------------------- stores
 */

/* Where parameters are read and gradients go. The contracts are those of sherd_param_acquire … sherd_grad_ready. */
typedef struct sherd_model_store {
    void *ctx;
    sherd_status (*param_acquire)(void *ctx, uint32_t param, const void **out);
    sherd_status (*param_release)(void *ctx, uint32_t param);
    sherd_status (*grad_acquire)(void *ctx, uint32_t param, sherd_grad *out);
    sherd_status (*grad_ready)(void *ctx, uint32_t param);
    sherd_status (*error)(void *ctx, sherd_error *err); /* the sentence of a call that failed */
    double (*loss_scale)(void *ctx); /* what multiplies the loss, asked for once a micro-step; NULL: 1 */
} sherd_model_store;

/* The engine as a store: between sherd_micro_begin and sherd_engine_step for training, at any time for evaluation. */
sherd_model_store sherd_model_engine_store(sherd_engine *engine);

/* Every parameter and every gradient in plain device memory: evaluation, tests, and the ceiling benchmark. */
typedef struct sherd_model_memory_store sherd_model_memory_store;
sherd_status sherd_model_memory_store_create(const sherd_param *params, uint32_t n_params, sherd_device *device,
                                             sherd_model_memory_store **out, sherd_error *err);
void sherd_model_memory_store_destroy(sherd_model_memory_store *store);
sherd_model_store sherd_model_memory_store_view(sherd_model_memory_store *store);
void sherd_model_memory_store_begin(
    sherd_model_memory_store *store); /* a micro-step: every gradient's next use is its first */
void *sherd_model_memory_store_param(sherd_model_memory_store *store, uint32_t param);
void *sherd_model_memory_store_grad(sherd_model_memory_store *store, uint32_t param);
/* Uses seen since `begin`: how often grad_ready was called. */
uint32_t sherd_model_memory_store_uses(const sherd_model_memory_store *store, uint32_t param);

/* --------------------------------------------------------------------------------------------------------------- model
 */

typedef struct sherd_model sherd_model;

typedef enum sherd_model_gemm {
    SHERD_MODEL_GEMM_AUTO = 0,         /* the fastest that was built, see sherd_model_describe */
    SHERD_MODEL_GEMM_PORTABLE = 1,     /* plain C, no OpenMP: used under ThreadSanitizer */
    SHERD_MODEL_GEMM_ONEDNN = 2,       /* EUNSUPPORTED if not built */
    SHERD_MODEL_GEMM_CUBLASLT = 3,     /* GPUs: what AUTO takes there; fp32 products in fp32 */
    SHERD_MODEL_GEMM_CUBLASLT_TF32 = 4 /* GPUs: fp32 products with factors rounded to tf32 */
} sherd_model_gemm;

typedef struct sherd_model_options {
    size_t size;
    sherd_dtype dtype;      /* of parameters and activations: fp32, bf16 or fp16 */
    sherd_dtype grad_dtype; /* of the gradients: fp32, or equal to dtype */
    int64_t batch, seq;     /* the largest micro-batch */
    int32_t threads;        /* 0: 1. Includes the calling thread. Of the host's ops. */
    int32_t checkpointing;  /* 1: keep each layer's input only, and compute the layer again in backward */
    int32_t forward_only;   /* 1: no room for backward; sherd_model_step is refused */
    sherd_model_gemm gemm;
    sherd_device *device;
    sherd_device_kind device_kind; /* of sherd_model_memory where device is NULL */
    uint64_t logits_bytes; /* the most that the logits of one piece of the head may take, at least 48 rows' (GPUs:
                              128's); 0: 16 MiB, on GPUs 256 MiB */
    double fail_after_s; /* GPUs: a wait that lasts longer is ETIMEOUT; 0: 600 */
} sherd_model_options;

/* fp32, batch 1, seq 256, one thread. */
void sherd_model_options_init(sherd_model_options *options, size_t size);

/* Allocates activations (SHERD_CAT_ACTIVATIONS) and scratch (SHERD_CAT_WORKSPACE) on the device; nothing of the model's
 * own grows later, the matrix library's scratch (WORKSPACE) is settled by the first step. Errors: EINVAL, ENOMEM,
 * EUNSUPPORTED. */
sherd_status sherd_model_create(const sherd_model_shape *shape, const sherd_model_options *options, sherd_model **out,
                                sherd_error *err);
void sherd_model_destroy(sherd_model *model);
/* What create takes in category ACTIVATIONS, to the byte, and in WORKSPACE without the matrix library's scratch. Pure.
 */
sherd_status sherd_model_memory(const sherd_model_shape *shape, const sherd_model_options *options,
                                uint64_t *activation_bytes, uint64_t *workspace_bytes, sherd_error *err);
uint64_t sherd_model_activation_bytes(const sherd_model_shape *shape, sherd_dtype dtype, int64_t batch, int64_t seq,
                                      int32_t checkpointing);
/* "host ops: avx512, gemm: oneDNN 2.6 (bf16 through fp32: …), 2 threads": valid while the model lives. */
const char *sherd_model_describe(const sherd_model *model);

/* What GPUs would multiply with: "cuBLASLt 13.1.0, /usr/…/libcublasLt.so.13", or "no: " and why not. Writes at most
 * `capacity` bytes with a final NUL. */
void sherd_model_cuda_text(char *text, size_t capacity);

/* Forward and backward of one micro-batch: tokens and targets are [batch][seq], every gradient of the store is written
 * (of the MEAN loss over the micro-batch's tokens, times the store's loss_scale). *loss: that mean, unscaled, in nats, before
 * the update. */
sherd_status sherd_model_step(sherd_model *model, const sherd_model_store *store, const int32_t *tokens,
                              const int32_t *targets, int64_t batch, int64_t seq, double *loss, sherd_error *err);
/* Forward only: the mean loss. */
sherd_status sherd_model_loss(sherd_model *model, const sherd_model_store *store, const int32_t *tokens,
                              const int32_t *targets, int64_t batch, int64_t seq, double *loss, sherd_error *err);
/* Forward only, one sequence: the vocab logits that follow its last token. */
sherd_status sherd_model_logits(sherd_model *model, const sherd_model_store *store, const int32_t *tokens, int64_t seq,
                                float *logits, sherd_error *err);

#if defined(__cplusplus)
}
#endif
#endif
