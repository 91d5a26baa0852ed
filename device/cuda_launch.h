/* SPDX-License-Identifier: MIT
 *
 * Between device/cuda's C and its kernels: arguments by value (they travel as kernel parameters, so nothing on the host
 * needs to outlive the launch) and launchers with C names. gcc, clang and nvcc compile this file; the tests' stub
 * implements the launchers on the host over the same bodies (cuda_body.h, cuda_body_small.h).
 *
 * Launchers return a cudaError_t as int: the launch's own, or an earlier asynchronous one.
 */
#ifndef SHERD_DEVICE_CUDA_LAUNCH_H
#define SHERD_DEVICE_CUDA_LAUNCH_H

#include "base/interval.h"
#include "optim/optim.h"
#include "optim/trust.h"

#if defined(__cplusplus)
extern "C" {
#endif

#define SHERD__CUDA_THREADS 256
#define SHERD__CUDA_VECTOR 8          /* elements a thread takes at a time */
#define SHERD__CUDA_SOURCES 256       /* by value: 8 bytes each of at most 4096 bytes of parameters */
#define SHERD__CUDA_TABLE 4096        /* sources of one sum, by a table */
#define SHERD__CUDA_SPANS 120         /* of one update launch: its arguments are at most 4096 bytes */
#define SHERD__CUDA_RANGES 128        /* of one zero launch */
#define SHERD__CUDA_SUM_TILE 4096     /* elements a thread block sums at a time: 16 norm blocks */
#define SHERD__CUDA_UPDATE_TILE 2048  /* elements a thread block updates */
#define SHERD__CUDA_ZERO_TILE 65536   /* bytes a thread block clears */
#define SHERD__CUDA_NARROW_HEAD 16384 /* elements that one thread block narrows in place, by way of its shared memory */
#define SHERD__CUDA_TURN 32           /* side of what a thread block transposes */

typedef struct sherd__cuda_sum {
    const void *src[SHERD__CUDA_SOURCES]; /* offset added */
    const void *const *table;             /* not NULL: the sources stand there instead */
    void *dst;
    sherd__norm *norm;
    int64_t elems;
    uint64_t first_block;
    uint32_t n_src;
    uint8_t src_type, dst_type, add, narrow; /* types: sherd_dtype, here and below */
} sherd__cuda_sum;

typedef struct sherd__cuda_span {
    int64_t begin, end; /* relative to the pointers */
    uint32_t group, tensor;
    uint32_t first_tile;
} sherd__cuda_span;

typedef struct sherd__cuda_update {
    const sherd__step_scalars *scalars;
    const void *sum;
    const float *master;
    const void *moment[SHERD__MAX_MOMENTS];
    float *master_out; /* where the new values go: `master` and `moment` themselves, or second buffers */
    void *moment_out[SHERD__MAX_MOMENTS];
    uint16_t *emit;
    uint16_t *remainder;      /* as sherd__update's */
    const float *ratios;      /* as sherd__update's, both */
    sherd__trust_sums *trust;
    uint32_t n_spans, n_tiles;
    uint8_t rule, sum_type, emit_type, vectors; /* vectors: every pointer and every span begins at 16 bytes */
    uint8_t moment_type;
    sherd__cuda_span span[SHERD__CUDA_SPANS];
} sherd__cuda_update;

typedef struct sherd__cuda_zero_range {
    uint64_t begin, end;
    uint64_t first_tile;
} sherd__cuda_zero_range;

typedef struct sherd__cuda_zero {
    void *base;
    uint32_t n_ranges;
    uint32_t pad;
    uint64_t n_tiles;
    sherd__cuda_zero_range range[SHERD__CUDA_RANGES];
} sherd__cuda_zero;

typedef struct sherd__cuda_convert {
    void *dst;
    const void *src;
    uint16_t *remainder; /* not NULL: fp32 is split into bf16 and this, or joined from them */
    int64_t elems;
    uint8_t dst_type, src_type, add, vectors;
} sherd__cuda_convert;

typedef struct sherd__cuda_reduce {
    const uint64_t *src[SHERD__CUDA_SOURCES]; /* offset added */
    const uint64_t *const *table;             /* not NULL: the sources stand there instead */
    uint64_t *dst;
    uint32_t n_src, n_sum, n_min;
} sherd__cuda_reduce;

/* A product of matrices with rows one after the other, a pitch apart; pitches are multiples of 4, and so is every pointer's place in
 * fp32s.
 *
 * gram: out = p p', where q is p (rows = cols); mix: out = b p + c p p, p symmetric; step: out = a q + p q, p symmetric. */
typedef enum sherd__cuda_product_kind { SHERD__CUDA_GRAM, SHERD__CUDA_MIX, SHERD__CUDA_STEP } sherd__cuda_product_kind;

typedef struct sherd__cuda_product {
    const sherd__step_scalars *scalars; /* as sherd__orthogonal's */
    const float *p, *q;
    float *out;
    int64_t rows, cols, depth; /* of out; how many links a chain has */
    int64_t p_pitch, q_pitch, out_pitch;
    uint8_t kind;
} sherd__cuda_product;

/* How many thread blocks, of which each makes a tile of 16 · per elements along a side. */
static inline uint64_t sherd__cuda_product_tiles(const sherd__cuda_product *args, int per)
{
    uint64_t side = 16 * (uint64_t)per, across = ((uint64_t)args->cols + side - 1) / side;
    uint64_t down = ((uint64_t)args->rows + side - 1) / side;
    return args->kind == SHERD__CUDA_STEP ? down * across : across * (across + 1) / 2;
}

/* What comes before the products and after them: the norm is cleared, then formed; X is made of the matrix; the matrix is made of
 * X. */
typedef enum sherd__cuda_part { SHERD__CUDA_CLEAR, SHERD__CUDA_NORM, SHERD__CUDA_BEGIN, SHERD__CUDA_END } sherd__cuda_part;

typedef struct sherd__cuda_orthogonal {
    const sherd__step_scalars *scalars;
    float *matrix;
    sherd__norm *norm;
    float *x;
    int64_t rows, cols; /* the matrix's */
    int64_t pitch;      /* X's */
    float scale;
    uint8_t turned; /* X is the matrix's transpose */
} sherd__cuda_orthogonal;

static inline SHERD__HD int64_t sherd__cuda_turn_blocks(int64_t n) { return (n + SHERD__CUDA_TURN - 1) / SHERD__CUDA_TURN; }

/* A part of a table of sources, written in stream order: the caller's own table need not outlive the launch, and no
 * former sum still reads the place. */
typedef struct sherd__cuda_sources {
    const void *src[SHERD__CUDA_SOURCES];
    const void **table;
    uint32_t n;
} sherd__cuda_sources;

/* `stream` is a cudaStream_t; `width` is the number of multiprocessors: a launcher knows how many of its thread blocks fill
 * one. */
int sherd__cuda_launch_sum(const sherd__cuda_sum *args, uint32_t width, void *stream);
int sherd__cuda_launch_update(const sherd__cuda_update *args, void *stream);
/* EINVAL for an optimizer without a direction. */
int sherd__cuda_launch_trust(const sherd__cuda_update *args, void *stream);
int sherd__cuda_launch_product(const sherd__cuda_product *args, uint32_t width, void *stream);
int sherd__cuda_launch_orthogonal(const sherd__cuda_orthogonal *args, sherd__cuda_part part, uint32_t width, void *stream);
int sherd__cuda_launch_zero(const sherd__cuda_zero *args, void *stream);
int sherd__cuda_launch_convert(const sherd__cuda_convert *args, uint32_t width, void *stream);
/* In place, and at most SHERD__CUDA_NARROW_HEAD elements: dst may begin where src does. */
int sherd__cuda_launch_narrow(const sherd__cuda_convert *args, void *stream);
int sherd__cuda_launch_reduce(const sherd__cuda_reduce *args, void *stream);
int sherd__cuda_launch_sources(const sherd__cuda_sources *args, void *stream);
/* Loads every kernel's code now, so that what it takes can be measured and no step pays for it. */
int sherd__cuda_load_kernels(void);

#if defined(__cplusplus)
}
#endif

#endif
