/* SPDX-License-Identifier: MIT
 *
 * Orthogonalising, as cuda_body.h has the other kernels: the norm of the directions, X from them, three products a
 * step, and the steps from X. Matrices have rows one after the other, each beginning at a multiple of 32 elements.
 *
 * A product's thread block makes a tile of the result, each thread PER × PER elements of it, in registers from the
 * first link of their chains to the last: k rises, one fma a link, no tensor cores and no splitting of k, so that the
 * bits are the reference's. Slabs of both operands go through shared memory, twofold: the next one is fetched while
 * this one is used. Results that are symmetric are computed where the tile's column is not before its row, and
 * mirrored.
 */
#ifndef SHERD_DEVICE_CUDA_BODY_ORTHOGONAL_H
#define SHERD_DEVICE_CUDA_BODY_ORTHOGONAL_H

#include "device/cuda_body.h"

#define CUDA__SLAB 16                         /* links between two barriers */
#define CUDA__SIDE 16                         /* threads along a side of the tile */
#define CUDA__FOUR 4                          /* neighbouring elements of a thread */
#define CUDA__APART (CUDA__SIDE * CUDA__FOUR) /* from a thread's four to its next */
#define CUDA__MOST 8                          /* elements of a thread along a side */
#define CUDA__SLAB_STRIDE (CUDA__SIDE * CUDA__MOST + 4)

/* What a thread keeps over a barrier. On the host, one thread after another comes along. */
#if defined(__CUDACC__)
#define CUDA__THREADS_OWN 1
#define CUDA__MINE(t) 0
#else
#define CUDA__THREADS_OWN SHERD__CUDA_THREADS
#define CUDA__MINE(t) (t)
#endif

typedef struct cuda__four {
    float at[CUDA__FOUR];
} cuda__four;

typedef struct cuda__product_shared {
    /* [which][operand][k][place] */
    __attribute__((aligned(16))) float slab[2][2][CUDA__SLAB][CUDA__SLAB_STRIDE];
} cuda__product_shared;

typedef struct cuda__sums {
    float at[CUDA__MOST][CUDA__MOST];
} cuda__sums;

CUDA__FN int cuda__skips(const sherd__step_scalars *scalars)
{
    return scalars && scalars->skip;
}

/* Four of a row of which `left` are there; zeros beyond. */
CUDA__FN cuda__four cuda__load_four(const float *from, int64_t left)
{
    cuda__four out = {{0.0f, 0.0f, 0.0f, 0.0f}};
#if defined(__CUDACC__)
    if (left >= CUDA__FOUR) {
        float4 v = *(const float4 *)from;
        out.at[0] = v.x;
        out.at[1] = v.y;
        out.at[2] = v.z;
        out.at[3] = v.w;
        return out;
    }
#endif
    CUDA__UNROLL
    for (int e = 0; e < CUDA__FOUR; ++e) {
        if (e < left) {
            out.at[e] = from[e];
        }
    }
    return out;
}

CUDA__FN void cuda__store_four(float *to, cuda__four value, int64_t left)
{
#if defined(__CUDACC__)
    if (left >= CUDA__FOUR) {
        *(float4 *)to = make_float4(value.at[0], value.at[1], value.at[2], value.at[3]);
        return;
    }
#endif
    CUDA__UNROLL
    for (int e = 0; e < CUDA__FOUR; ++e) {
        if (e < left) {
            to[e] = value.at[e];
        }
    }
}

/* ------------------------------------------------------------------------------------------------------------ products
 */

/* Where the t-th thread's u-th four of an operand's slab come from, and where they go. The operand lies with k down its
 * rows, or (along) with k along them. */
CUDA__FN cuda__four cuda__slab_fetch(const float *operand, int64_t pitch, int along, int per, int64_t first,
                                     int64_t places, int64_t k, int64_t depth, int t, int u)
{
    int in = (u * SHERD__CUDA_THREADS + t) * CUDA__FOUR, wide = along ? CUDA__SLAB : CUDA__SIDE * per;
    int64_t row = in / wide, col = in % wide;
    int64_t rows = along ? places - first : depth - k, cols = along ? depth - k : places - first;
    const float *from = along ? operand + (first + row) * pitch + k + col : operand + (k + row) * pitch + first + col;
    return cuda__load_four(from, row < rows ? cols - col : 0);
}

CUDA__FN void cuda__slab_keep(float (*slab)[CUDA__SLAB_STRIDE], int along, int per, cuda__four value, int t, int u)
{
    int in = (u * SHERD__CUDA_THREADS + t) * CUDA__FOUR, wide = along ? CUDA__SLAB : CUDA__SIDE * per;
    int row = in / wide, col = in % wide;
    CUDA__UNROLL
    for (int e = 0; e < CUDA__FOUR; ++e) {
        if (along) {
            slab[col + e][row] = value.at[e];
        } else {
            slab[row][col + e] = value.at[e];
        }
    }
}

/* Fours of a slab that a thread moves. */
CUDA__FN int cuda__slab_fours(int per)
{
    return CUDA__SLAB * CUDA__SIDE * per / CUDA__FOUR / SHERD__CUDA_THREADS;
}

CUDA__FN void cuda__link(const cuda__product_shared *s, int which, int per, int k, int t, cuda__sums *sums)
{
    float p[CUDA__MOST] = {0.0f}, q[CUDA__MOST] = {0.0f};
    CUDA__UNROLL
    for (int e = 0; e < CUDA__MOST; ++e) {
        if (e < per) {
            int place = e / CUDA__FOUR * CUDA__APART + e % CUDA__FOUR;
            p[e] = s->slab[which][0][k][place + t / CUDA__SIDE * CUDA__FOUR];
            q[e] = s->slab[which][1][k][place + t % CUDA__SIDE * CUDA__FOUR];
        }
    }
    CUDA__UNROLL
    for (int i = 0; i < CUDA__MOST; ++i) {
        CUDA__UNROLL
        for (int j = 0; j < CUDA__MOST; ++j) {
            if (i < per && j < per) {
                sums->at[i][j] = SHERD__FMAF(p[i], q[j], sums->at[i][j]);
            }
        }
    }
}

CUDA__FN void cuda__links(const cuda__product_shared *s, int which, int per, int64_t links, int t, cuda__sums *sums)
{
    if (links >= CUDA__SLAB) {
        CUDA__UNROLL
        for (int k = 0; k < CUDA__SLAB; ++k) {
            cuda__link(s, which, per, k, t, sums);
        }
        return;
    }
    for (int k = 0; k < (int)links; ++k) {
        cuda__link(s, which, per, k, t, sums);
    }
}

/* The e-th row or column of the thread's elements, of a tile that begins at `first`. */
CUDA__FN int64_t cuda__place(int64_t first, int e, int thread)
{
    return first + e / CUDA__FOUR * CUDA__APART + thread * CUDA__FOUR + e % CUDA__FOUR;
}

CUDA__FN void cuda__sums_begin(const sherd__cuda_product *a, int kind, int per, int64_t down, int64_t across, int t,
                               cuda__sums *sums)
{
    CUDA__UNROLL
    for (int i = 0; i < CUDA__MOST; ++i) {
        CUDA__UNROLL
        for (int j = 0; j < CUDA__MOST; j += CUDA__FOUR) {
            int64_t row = cuda__place(down, i, t / CUDA__SIDE), col = cuda__place(across, j, t % CUDA__SIDE);
            int inside = i < per && j < per && kind == SHERD__CUDA_STEP && row < a->rows;
            cuda__four former = cuda__load_four(a->q + row * a->q_pitch + col, inside ? a->cols - col : 0);
            CUDA__UNROLL
            for (int e = 0; e < CUDA__FOUR; ++e) {
                sums->at[i][j + e] = kind == SHERD__CUDA_STEP ? SHERD__MUON_A * former.at[e] : 0.0f;
            }
        }
    }
}

CUDA__FN void cuda__sums_end(const sherd__cuda_product *a, int kind, int per, int64_t down, int64_t across, int t,
                             const cuda__sums *sums)
{
    CUDA__UNROLL
    for (int i = 0; i < CUDA__MOST; ++i) {
        CUDA__UNROLL
        for (int j = 0; j < CUDA__MOST; j += CUDA__FOUR) {
            int64_t row = cuda__place(down, i, t / CUDA__SIDE), col = cuda__place(across, j, t % CUDA__SIDE);
            int64_t left = i < per && j < per && row < a->rows ? a->cols - col : 0;
            cuda__four value, gram = cuda__load_four(a->p + row * a->p_pitch + col, kind == SHERD__CUDA_MIX ? left : 0);
            CUDA__UNROLL
            for (int e = 0; e < CUDA__FOUR; ++e) {
                value.at[e] =
                    kind == SHERD__CUDA_MIX ? sherd__muon_square(sums->at[i][j + e], gram.at[e]) : sums->at[i][j + e];
                if (kind != SHERD__CUDA_STEP && down != across && e < left) {
                    a->out[(col + e) * a->out_pitch + row] = value.at[e];
                }
            }
            cuda__store_four(a->out + row * a->out_pitch + col, value, left);
        }
    }
}

/* Tile number `block`: of all, or of those on and above the diagonal. */
CUDA__FN void cuda__product_tile(const sherd__cuda_product *a, int kind, int per, uint32_t block, int64_t *down,
                                 int64_t *across)
{
    int64_t side = CUDA__SIDE * per, row = 0, col = block, n = (a->cols + side - 1) / side;
    if (kind == SHERD__CUDA_STEP) {
        row = block / n;
        col = block % n;
    } else {
        for (; col >= n - row; ++row) {
            col -= n - row;
        }
        col += row;
    }
    *down = row * side;
    *across = col * side;
}

CUDA__FN void cuda__product_block(const sherd__cuda_product *a, cuda__product_shared *s, int kind, int per,
                                  uint32_t block)
{
    cuda__sums sums[CUDA__THREADS_OWN];
    int64_t down, across;
    int along = kind == SHERD__CUDA_GRAM, which = 0;
    if (cuda__skips(a->scalars)) {
        return;
    }
    cuda__product_tile(a, kind, per, block, &down, &across);
    CUDA__EACH(t)
    {
        CUDA__UNROLL
        for (int u = 0; u < cuda__slab_fours(per); ++u) {
            cuda__slab_keep(s->slab[0][0], along, per,
                            cuda__slab_fetch(a->p, a->p_pitch, along, per, down, a->rows, 0, a->depth, t, u), t, u);
            cuda__slab_keep(s->slab[0][1], along, per,
                            cuda__slab_fetch(a->q, a->q_pitch, along, per, across, a->cols, 0, a->depth, t, u), t, u);
        }
        cuda__sums_begin(a, kind, per, down, across, t, &sums[CUDA__MINE(t)]);
    }
    CUDA__BARRIER();
    for (int64_t k = 0; k < a->depth; k += CUDA__SLAB, which ^= 1) {
        CUDA__EACH(t)
        {
            cuda__four p[CUDA__MOST / CUDA__FOUR], q[CUDA__MOST / CUDA__FOUR];
            int64_t next = k + CUDA__SLAB;
            CUDA__UNROLL
            for (int u = 0; u < cuda__slab_fours(per); ++u) {
                p[u] = cuda__slab_fetch(a->p, a->p_pitch, along, per, down, a->rows, next, a->depth, t, u);
                q[u] = cuda__slab_fetch(a->q, a->q_pitch, along, per, across, a->cols, next, a->depth, t, u);
            }
            cuda__links(s, which, per, a->depth - k, t, &sums[CUDA__MINE(t)]);
            CUDA__UNROLL
            for (int u = 0; u < cuda__slab_fours(per); ++u) {
                cuda__slab_keep(s->slab[which ^ 1][0], along, per, p[u], t, u);
                cuda__slab_keep(s->slab[which ^ 1][1], along, per, q[u], t, u);
            }
        }
        CUDA__BARRIER();
    }
    CUDA__EACH(t)
    {
        cuda__sums_end(a, kind, per, down, across, t, &sums[CUDA__MINE(t)]);
    }
}

/* X(suffix, kind, per): what is compiled. The wide ones are for results of many tiles. */
#define CUDA__PRODUCT_MAP(X)                                                                                           \
    X(gram_4, SHERD__CUDA_GRAM, 4)                                                                                     \
    X(gram_8, SHERD__CUDA_GRAM, 8)                                                                                     \
    X(mix_4, SHERD__CUDA_MIX, 4)                                                                                       \
    X(mix_8, SHERD__CUDA_MIX, 8)                                                                                       \
    X(step_4, SHERD__CUDA_STEP, 4)                                                                                     \
    X(step_8, SHERD__CUDA_STEP, 8)

/* ---------------------------------------------------------------------------------------------------- before and after
 */

CUDA__FN void cuda__norm_clear(const sherd__cuda_orthogonal *a)
{
    CUDA__EACH(t)
    {
        if (t < SHERD__NORM_LIMBS) {
            a->norm->limb[t] = 0;
        } else if (t == SHERD__NORM_LIMBS) {
            a->norm->bad_block = SHERD__NO_BAD_BLOCK;
        }
    }
}

/* As the sums' norm, of a matrix that need not be whole blocks. */
CUDA__FN void cuda__norm_block(const sherd__cuda_orthogonal *a, cuda__sum_shared *s, int64_t block, int64_t n_blocks)
{
    int64_t elems = a->rows * a->cols;
    if (cuda__skips(a->scalars)) {
        return;
    }
    CUDA__EACH(t)
    {
        if (t < SHERD__NORM_LIMBS) {
            s->limb[t] = 0;
        } else if (t == SHERD__NORM_LIMBS) {
            s->bad_block = SHERD__NO_BAD_BLOCK;
        }
    }
    for (int64_t tile = block; tile * SHERD__CUDA_SUM_TILE < elems; tile += n_blocks) {
        int64_t begin = tile * SHERD__CUDA_SUM_TILE;
        CUDA__BARRIER();
        CUDA__EACH(t)
        {
            for (int at = t; at < SHERD__CUDA_SUM_TILE; at += SHERD__CUDA_THREADS) {
                s->value[at / SHERD__NORM_BLOCK * CUDA__BLOCK_STRIDE + at % SHERD__NORM_BLOCK] =
                    begin + at < elems ? a->matrix[begin + at] : 0.0f;
            }
        }
        CUDA__BARRIER();
        CUDA__EACH(t)
        {
            s->lane[t] = cuda__lane_squares(s->value, t / CUDA__LANES, t % CUDA__LANES);
        }
        CUDA__BARRIER();
        CUDA__EACH(t)
        {
            if (t < CUDA__TILE_BLOCKS) {
                cuda__block_into_limbs(s, t, (uint64_t)(begin / SHERD__NORM_BLOCK + t));
            }
        }
    }
    CUDA__BARRIER();
    CUDA__EACH(t)
    {
        if (t < SHERD__NORM_LIMBS && s->limb[t]) {
            cuda__add_u64((unsigned long long *)&a->norm->limb[t], s->limb[t]);
        } else if (t == SHERD__NORM_LIMBS && s->bad_block != SHERD__NO_BAD_BLOCK) {
            cuda__min_u64((unsigned long long *)&a->norm->bad_block, s->bad_block);
        }
    }
}

typedef struct cuda__turn_shared {
    float value[SHERD__CUDA_TURN][SHERD__CUDA_TURN + 1];
    float divisor;
} cuda__turn_shared;

/* A block of rows × cols elements from one matrix to another, transposed where `turned`: `from` is read as it lies.
 * Directions become X (begin), or X the steps. */
CUDA__FN void cuda__turn_block(const sherd__cuda_orthogonal *a, cuda__turn_shared *s, int begin, uint32_t block)
{
    int64_t rows = begin || !a->turned ? a->rows : a->cols, cols = begin || !a->turned ? a->cols : a->rows;
    int64_t from_pitch = begin ? a->cols : a->pitch, to_pitch = begin ? a->pitch : a->cols;
    const float *from = begin ? a->matrix : a->x;
    float *to = begin ? a->x : a->matrix;
    int64_t down = block / sherd__cuda_turn_blocks(cols) * SHERD__CUDA_TURN;
    int64_t across = block % sherd__cuda_turn_blocks(cols) * SHERD__CUDA_TURN;
    if (cuda__skips(a->scalars)) {
        return;
    }
    CUDA__EACH(t)
    {
        if (begin && t == 0) {
            s->divisor = sherd__muon_divisor(a->norm);
        }
        for (int in = t; in < SHERD__CUDA_TURN * SHERD__CUDA_TURN; in += SHERD__CUDA_THREADS) {
            int64_t row = down + in / SHERD__CUDA_TURN, col = across + in % SHERD__CUDA_TURN;
            s->value[in / SHERD__CUDA_TURN][in % SHERD__CUDA_TURN] =
                row < rows && col < cols ? from[row * from_pitch + col] : 0.0f;
        }
    }
    CUDA__BARRIER();
    CUDA__EACH(t)
    {
        for (int in = t; in < SHERD__CUDA_TURN * SHERD__CUDA_TURN; in += SHERD__CUDA_THREADS) {
            int high = in / SHERD__CUDA_TURN, low = in % SHERD__CUDA_TURN;
            int64_t row = a->turned ? across + high : down + high, col = a->turned ? down + low : across + low;
            float value = a->turned ? s->value[low][high] : s->value[high][low];
            if (row < (a->turned ? cols : rows) && col < (a->turned ? rows : cols)) {
                to[row * to_pitch + col] = begin ? value / s->divisor : cuda__one_nan(value * a->scale + 0.0f);
            }
        }
    }
}

#endif
