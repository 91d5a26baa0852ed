/* SPDX-License-Identifier: MIT
 *
 * The inner loops of the host ops, one table per instruction set (kernels_body.h is compiled once for each) and 16-bit
 * type. All arithmetic is fp32 on contiguous runs; a 16-bit type exists only in widen and narrow. No run needs to be
 * aligned or a multiple of anything, except for `gemm`, whose n is a multiple of SHERD_KERNEL_PAD.
 */
#ifndef SHERD_MODELS_KERNELS_H
#define SHERD_MODELS_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define SHERD_KERNEL_PAD                                                                                               \
    64 /* floats: the widest register tile; rows of packed operands are padded to it with zeros                        \
        */

/* One product of the register-tile GEMM: C[m][n] = (beta ? C : 0) + A·B; A's element (i, l) is a[i·row + l·col]. */
typedef struct sherd_tile_gemm {
    int64_t m, n, k;
    const float *a;
    int64_t a_row, a_col;
    const float *b; /* [k][ldb] */
    int64_t ldb;
    float *c; /* [m][ldc] */
    int64_t ldc;
    int beta;
} sherd_tile_gemm;

typedef struct sherd_kernels {
    const char *name;
    void (*widen)(int64_t n, const uint16_t *x, float *y);
    void (*narrow)(int64_t n, const float *x, uint16_t *y);
    /* rows × n values with leading dimensions in elements: for blocks far apart, so the rows ahead are prefetched */
    void (*copy_rows)(int64_t rows, int64_t n, const float *x, int64_t ldx, float *y, int64_t ldy);
    void (*widen_rows)(int64_t rows, int64_t n, const uint16_t *x, int64_t ldx, float *y, int64_t ldy);
    void (*add)(int64_t n, const float *x, float *y); /* y += x */
    void (*scale)(int64_t n, float a, float *x);      /* x *= a */
    float (*dot)(int64_t n, const float *x, const float *y);
    float (*maximum)(int64_t n, const float *x);             /* n > 0 */
    float (*exp_sum)(int64_t n, float a, float b, float *x); /* x = exp(a·x − b); returns the sum */
    void (*rms_apply)(int64_t n, float r, const float *x, const float *w, float *y); /* y = (x·r)·w */
    /* dx += r·(w·dy − x·r·s) with s = r·Σ(w·dy·x)/n; dw += dy·x·r */
    void (*rms_backward)(int64_t n, float r, const float *x, const float *w, const float *dy, float *dx, float *dw);
    void (*rope)(int64_t half, const float *cosine, const float *sine, float sign, float *x);
    void (*swiglu)(int64_t n, const float *g, const float *u, float *y);
    /* dy in; dg, du, and y = silu(g)·u again */
    void (*swiglu_backward)(int64_t n, const float *g, const float *u, const float *dy, float *dg, float *du, float *y);
    void (*score_backward)(int64_t n, float delta, float scale, const float *p,
                           float *dp); /* dp = p·(dp − delta)·scale */
    /* y[c][r] = x[r][c] for rows × cols values; leading dimensions in floats */
    void (*transpose)(int64_t rows, int64_t cols, const float *x, int64_t ldx, float *y, int64_t ldy);
    void (*gemm)(const sherd_tile_gemm *g);
} sherd_kernels;

/* What 16-bit values of a model are: the place in each of the tables below. */
typedef enum sherd_kernels_half {
    SHERD_KERNELS_BF16 = 0,
    SHERD_KERNELS_FP16 = 1,
    SHERD_KERNELS_HALVES = 2
} sherd_kernels_half;

/* Best table for this CPU. Pure. */
const sherd_kernels *sherd__kernels_choose(sherd_kernels_half half);

extern const sherd_kernels sherd__kernels_base[SHERD_KERNELS_HALVES];
#if defined(SHERD_MODELS_X86)
extern const sherd_kernels sherd__kernels_avx2[SHERD_KERNELS_HALVES];
extern const sherd_kernels sherd__kernels_avx512[SHERD_KERNELS_HALVES];
#endif

#endif
