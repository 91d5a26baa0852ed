/* SPDX-License-Identifier: MIT
 *
 * Muon: a matrix of weights steps by the nearest matrix whose singular values are about 1, so that every direction that
 * the momentum knows moves equally far. An update of a matrix has three parts:
 *
 *     direct   buf = mu buf;  buf = fma(g, 1 - mu, buf);   d = fma(g, 1 - mu, mu buf), or buf without nesterov
 *     whole    o = scale · NewtonSchulz(d)  (device: orthogonalise)
 *     apply    p = fma(p, -lr wd, p);  p = fma(o, -lr, p)
 *
 * The first and the last treat elements one by one, wherever they lie; only the middle one needs a matrix in one place.
 * Parameters that are no such matrices are AdamW's. (Jordan and others 2024, "Muon: an optimizer for hidden layers";
 * the momentum is an average, as in its reference code, and the coefficients are that code's.)
 *
 * Newton and Schulz, `steps` times, on X with at most as many rows as columns (else transposed), from d / (|d| + 1e-7):
 *
 *     A = X X';   S = A A;   B = b A + c S;   X = a X + B X
 *
 * which is the odd polynomial a x + b x^3 + c x^5 of X's singular values. Order and roundings: docs/numerics.md.
 */
#ifndef SHERD_OPTIM_MUON_H
#define SHERD_OPTIM_MUON_H

#include <stdint.h>

#include "optim/norm_round.h"

#define SHERD__MUON_A 3.4445f
#define SHERD__MUON_B (-4.7750f)
#define SHERD__MUON_C 2.0315f
#define SHERD__MUON_LEAST 1e-7 /* added to the norm */

/* Of scalars->matrix. */
enum {
    SHERD__MUON_MU,
    SHERD__MUON_1_MU,     /* 1 - mu */
    SHERD__MUON_NESTEROV, /* 1 or 0 */
    SHERD__MUON_DECAY,    /* -lr wd, and +0 (which leaves -0 alone) without decay */
    SHERD__MUON_RATE      /* -lr */
};

/* The matrix that is worked in is cut into panels so wide, and scratch memory counts in them. */
#define SHERD__MUON_PANEL 32
#define SHERD__MUON_HEAD 64 /* elements at the start of the scratch memory: the norm */

static inline SHERD__HD int64_t sherd__muon_padded(int64_t n)
{
    return (n + SHERD__MUON_PANEL - 1) / SHERD__MUON_PANEL * SHERD__MUON_PANEL;
}

/* fp32 elements of scratch memory that orthogonalising takes, on every device: the matrix twice, and two of its smaller
 * side squared. rows, cols ≥ 1. */
static inline SHERD__HD int64_t sherd__muon_scratch_elems(int64_t rows, int64_t cols)
{
    int64_t r = sherd__muon_padded(rows), c = sherd__muon_padded(cols), small = r < c ? r : c;
    return SHERD__MUON_HEAD + 2 * r * c + 2 * small * small;
}

/* Additions and multiplications that orthogonalising needs, symmetry used: what owners and forecasts weigh. */
static inline double sherd__muon_flops(int64_t rows, int64_t cols, int32_t steps)
{
    double m = (double)(rows < cols ? rows : cols), n = (double)(rows < cols ? cols : rows);
    return (double)steps * (m * (m + 1.0) * n + m * m * (m + 1.0) + 2.0 * m * m * n);
}

/* What the directions are divided by: their norm, exact and rounded once, with a little added; NaN where one is not
 * finite. The norm's blocks are cut from the matrix's start. */
static inline SHERD__HD float sherd__muon_divisor(const sherd__norm *norm)
{
    double root = sqrt(sherd__norm_round(norm->limb));
    return norm->bad_block == SHERD__NO_BAD_BLOCK ? (float)(root + SHERD__MUON_LEAST) : sherd__f32_of_bits(0x7FC00000u);
}

/* A·A's element and A's make B's. */
static inline SHERD__HD float sherd__muon_square(float square, float gram)
{
    return SHERD__FMAF(SHERD__MUON_C, square, SHERD__MUON_B * gram);
}

/* sqrt(rows / cols), at least 1: what the orthogonal matrix is multiplied by. */
float sherd__muon_scale(int64_t rows, int64_t cols);

/* `out` is the direction's place; what stands there is not read. */
static inline SHERD__HD void sherd__muon_direct_element(const float *s, uint32_t first, float g, float *out,
                                                        float *moment)
{
    float buf = SHERD__FMAF(g, s[SHERD__MUON_1_MU], s[SHERD__MUON_MU] * moment[0]);
    float ahead = SHERD__FMAF(g, s[SHERD__MUON_1_MU], s[SHERD__MUON_MU] * buf);
    (void)first;
    moment[0] = buf;
    *out = s[SHERD__MUON_NESTEROV] != 0.0f ? ahead : buf;
}

/* `step` is the orthogonal matrix's element. */
static inline SHERD__HD void sherd__muon_apply_element(const float *s, uint32_t first, float step, float *master,
                                                       float *moment)
{
    float p = SHERD__FMAF(*master, s[SHERD__MUON_DECAY], *master);
    (void)first;
    (void)moment;
    *master = SHERD__FMAF(step, s[SHERD__MUON_RATE], p);
}

#endif
