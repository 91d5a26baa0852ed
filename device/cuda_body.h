/* SPDX-License-Identifier: MIT
 *
 * The kernels' bodies: what one thread block does. nvcc compiles them for GPUs, and a C compiler for the host, where
 * the tests' stub runs one thread block after another; so their arithmetic is tested without a GPU.
 *
 * A body is a sequence of phases. CUDA__EACH(t) is one: on a GPU it is the code of thread t, on the host a loop over
 * all of them. Nothing but shared memory crosses from one phase to the next, and CUDA__BARRIER stands between phases
 * that exchange data.
 *
 * Arithmetic is the reference's (host_math_reference.c): fp32 operations one by one, fma only through SHERD__FMAF, one
 * NaN. Nothing depends on the shape of the grid: sums of one element are made by one thread in the tree's order, and
 * the norm's accumulator is integers.
 */
#ifndef SHERD_DEVICE_CUDA_BODY_H
#define SHERD_DEVICE_CUDA_BODY_H

#include <math.h>
#include <string.h>

#include "device/cuda_body_load.h"
#include "device/cuda_launch.h"
#include "optim/list.h"

/* A NaN becomes 0x7FC00000. */
CUDA__FN float cuda__one_nan(float value)
{
    return value != value ? sherd__f32_of_bits(0x7FC00000u) : value;
}

/* ---------------------------------------------------------------------------------------------------------- tree sum
 */

/* Blocks of 256 values lie 16 floats apart, so that two half warps reading two blocks hit different banks. */
#define CUDA__BLOCK_STRIDE (SHERD__NORM_BLOCK + 16)
#define CUDA__TILE_BLOCKS (SHERD__CUDA_SUM_TILE / SHERD__NORM_BLOCK)
#define CUDA__LANES 16
#define CUDA__SUM_GROUPS (SHERD__CUDA_SUM_TILE / CUDA__VECTOR / SHERD__CUDA_THREADS)

typedef struct cuda__sum_shared {
    __attribute__((aligned(16))) float value[CUDA__TILE_BLOCKS * CUDA__BLOCK_STRIDE];
    double lane[CUDA__TILE_BLOCKS * CUDA__LANES];
    unsigned long long limb[SHERD__NORM_LIMBS]; /* this thread block's own; flushed once */
    unsigned long long bad_block;
} cuda__sum_shared;

CUDA__FN void cuda__add_u64(unsigned long long *to, unsigned long long value)
{
#if defined(__CUDACC__)
    atomicAdd(to, value);
#else
    __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
#endif
}

CUDA__FN void cuda__min_u64(unsigned long long *to, unsigned long long value)
{
#if defined(__CUDACC__)
    atomicMin(to, value);
#else
    unsigned long long seen = __atomic_load_n(to, __ATOMIC_RELAXED);
    while (value < seen && !__atomic_compare_exchange_n(to, &seen, value, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
#endif
}

/* Sum of squares ≥ 0, finite, into limbs: as sherd__norm_add_double. */
CUDA__FN void cuda__limbs_add(unsigned long long *limb, double square_sum)
{
    uint64_t part[3];
    int at = sherd__norm_split(square_sum, part);
    CUDA__UNROLL
    for (int i = 0; i < 3; ++i) {
        if (at >= 0 && part[i]) {
            cuda__add_u64(&limb[at + i], part[i]);
        }
    }
}

/* Pairs at distance 1, 2, 4: the balanced tree of n leaves. With a constant n everything stays in registers. */
CUDA__FN cuda__eight cuda__leaves(const void *const *src, uint32_t n, int type, int64_t i)
{
    cuda__eight leaf[8];
    CUDA__UNROLL
    for (uint32_t k = 0; k < 8; ++k) {
        if (k < n) {
            leaf[k] = cuda__load(src[k], type, i);
        }
    }
    CUDA__UNROLL
    for (uint32_t step = 1; step < 8; step *= 2) {
        CUDA__UNROLL
        for (uint32_t k = 0; k + step < 8; k += 2 * step) {
            if (k + step < n) {
                CUDA__UNROLL
                for (int j = 0; j < CUDA__VECTOR; ++j) {
                    leaf[k].at[j] += leaf[k + step].at[j];
                }
            }
        }
    }
    return leaf[0];
}

/* More than eight: complete groups of eight are merged as a binary counter carries, the incomplete rest from the right.
 */
CUDA__FN cuda__eight cuda__many_leaves(const sherd__cuda_sum *a, int type, int64_t i)
{
    cuda__eight stack[12]; /* 4096 sources are 512 groups: at most 10 are open */
    uint32_t depth = 0, groups = 0;
    for (uint32_t first = 0; first < a->n_src; first += 8, ++groups) {
        uint32_t n = a->n_src - first < 8 ? a->n_src - first : 8;
        stack[depth++] =
            a->table ? cuda__leaves(a->table + first, n, type, i) : cuda__leaves(a->src + first, n, type, i);
        for (uint32_t carry = groups; n == 8 && (carry & 1u); carry >>= 1, --depth) {
            for (int j = 0; j < CUDA__VECTOR; ++j) {
                stack[depth - 2].at[j] += stack[depth - 1].at[j];
            }
        }
    }
    for (; depth > 1; --depth) {
        for (int j = 0; j < CUDA__VECTOR; ++j) {
            stack[depth - 2].at[j] += stack[depth - 1].at[j];
        }
    }
    return stack[0];
}

/* Eight elements of the sources, summed. n: the number of sources if it is at most 8, else 0. */
CUDA__FN cuda__eight cuda__sum_eight(const sherd__cuda_sum *a, uint32_t n, int type, int64_t i)
{
    return n ? cuda__leaves(a->src, n, type, i) : cuda__many_leaves(a, type, i);
}

/* A sum into dst; returns what stands there now. */
CUDA__FN cuda__eight cuda__sum_store(const sherd__cuda_sum *a, cuda__eight sum, int64_t i)
{
    cuda__eight former;
    if (a->add) {
        former = cuda__load_f32((const float *)a->dst + i);
    }
    CUDA__UNROLL
    for (int j = 0; j < CUDA__VECTOR; ++j) {
        float value = cuda__one_nan(a->add ? former.at[j] + sum.at[j] : sum.at[j]);
        sum.at[j] = a->narrow ? sherd__f32_of_bf16(sherd__bf16_of_f32(value)) : value;
    }
    if (a->dst_type != SHERD_FP32) {
        cuda__store_half((uint16_t *)a->dst + i, a->dst_type, sum, 0);
    } else {
        cuda__store_f32((float *)a->dst + i, sum);
    }
    return sum;
}

CUDA__FN void cuda__keep_values(float *to, cuda__eight value)
{
#if defined(__CUDACC__)
    ((float4 *)to)[0] = make_float4(value.at[0], value.at[1], value.at[2], value.at[3]);
    ((float4 *)to)[1] = make_float4(value.at[4], value.at[5], value.at[6], value.at[7]);
#else
    memcpy(to, value.at, sizeof value.at);
#endif
}

/* Lane `lane` of block `block` of the tile's values in shared memory. */
CUDA__FN double cuda__lane_squares(const float *values, int block, int lane)
{
    const float *value = values + block * CUDA__BLOCK_STRIDE + lane;
    double sum = 0.0;
    CUDA__UNROLL
    for (int i = 0; i < SHERD__NORM_BLOCK; i += CUDA__LANES) {
        double v = (double)value[i];
        sum += v * v; /* the product is exact */
    }
    return sum;
}

/* Lanes l and l ^ 8, ^4, ^2, ^1. */
CUDA__FN double cuda__lanes_total(const double *lanes)
{
    double lane[CUDA__LANES];
    CUDA__UNROLL
    for (int i = 0; i < CUDA__LANES; ++i) {
        lane[i] = lanes[i];
    }
    CUDA__UNROLL
    for (int level = 0; level < 4; ++level) {
        CUDA__UNROLL
        for (int i = 0; i < CUDA__LANES / 2; ++i) { /* constant bounds keep the lanes in registers */
            if (i < CUDA__LANES / 2 >> level) {
                lane[i] += lane[i + (CUDA__LANES / 2 >> level)];
            }
        }
    }
    return lane[0];
}

CUDA__FN void cuda__block_into_limbs(cuda__sum_shared *s, int block, uint64_t number)
{
    double total = cuda__lanes_total(s->lane + block * CUDA__LANES);
    if (total - total == 0.0) { /* finite */
        cuda__limbs_add(s->limb, total);
    } else {
        cuda__min_u64(&s->bad_block, number);
    }
}

CUDA__FN void cuda__sum_tile(const sherd__cuda_sum *a, cuda__sum_shared *s, uint32_t n, int type, int64_t tile)
{
    int64_t begin = tile * SHERD__CUDA_SUM_TILE;
    int ahead = n == 1 || n == 2 ? CUDA__SUM_GROUPS : 1; /* few sources: all groups are loaded before one is stored */
    CUDA__EACH(t)
    {
        cuda__eight sum[CUDA__SUM_GROUPS];
        CUDA__UNROLL
        for (int k = 0; k < CUDA__SUM_GROUPS * 2; ++k) { /* each group twice: to be loaded, and `ahead` later stored */
            int g = k - ahead, at = (k * SHERD__CUDA_THREADS + t) * CUDA__VECTOR;
            if (k < CUDA__SUM_GROUPS && begin + at < a->elems) {
                sum[k] = cuda__sum_eight(a, n, type, begin + at);
            }
            at = (g * SHERD__CUDA_THREADS + t) * CUDA__VECTOR;
            if (g >= 0 && g < CUDA__SUM_GROUPS && begin + at < a->elems) {
                cuda__eight value = cuda__sum_store(a, sum[g], begin + at);
                if (a->norm) {
                    cuda__keep_values(s->value + at / SHERD__NORM_BLOCK * CUDA__BLOCK_STRIDE + at % SHERD__NORM_BLOCK,
                                      value);
                }
            }
        }
    }
    if (!a->norm) {
        return;
    }
    CUDA__BARRIER();
    CUDA__EACH(t)
    {
        int block = t / CUDA__LANES, lane = t % CUDA__LANES;
        if (begin + block * SHERD__NORM_BLOCK < a->elems) {
            s->lane[t] = cuda__lane_squares(s->value, block, lane);
        }
    }
    CUDA__BARRIER(); /* the next tile's values may be written from here on; its lanes only after its first barrier */
    CUDA__EACH(t)
    {
        if (t < CUDA__TILE_BLOCKS && begin + t * SHERD__NORM_BLOCK < a->elems) {
            cuda__block_into_limbs(s, t, a->first_block + (uint64_t)(begin / SHERD__NORM_BLOCK + t));
        }
    }
}

CUDA__FN void cuda__sum_block(const sherd__cuda_sum *a, cuda__sum_shared *s, uint32_t n, int type, int64_t block,
                              int64_t n_blocks)
{
    CUDA__EACH(t)
    {
        if (t < SHERD__NORM_LIMBS) {
            s->limb[t] = 0;
        } else if (t == SHERD__NORM_LIMBS) {
            s->bad_block = SHERD__NO_BAD_BLOCK;
        }
    }
    CUDA__BARRIER();
    for (int64_t tile = block; tile * SHERD__CUDA_SUM_TILE < a->elems; tile += n_blocks) {
        cuda__sum_tile(a, s, n, type, tile);
    }
    if (!a->norm) {
        return;
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

/* X(suffix, sources, type): what is compiled with the number of sources known; 0: any. */
#define CUDA__SUM_MAP(X)                                                                                               \
    X(1_f32, 1, SHERD_FP32)                                                                                            \
    X(2_f32, 2, SHERD_FP32)                                                                                            \
    X(4_f32, 4, SHERD_FP32)                                                                                            \
    X(8_f32, 8, SHERD_FP32)                                                                                            \
    X(n_f32, 0, SHERD_FP32)                                                                                            \
    X(1_bf16, 1, SHERD_BF16)                                                                                           \
    X(2_bf16, 2, SHERD_BF16)                                                                                           \
    X(4_bf16, 4, SHERD_BF16)                                                                                           \
    X(8_bf16, 8, SHERD_BF16)                                                                                           \
    X(n_bf16, 0, SHERD_BF16)                                                                                           \
    X(1_f16, 1, SHERD_FP16)                                                                                            \
    X(2_f16, 2, SHERD_FP16)                                                                                            \
    X(4_f16, 4, SHERD_FP16)                                                                                            \
    X(8_f16, 8, SHERD_FP16)                                                                                            \
    X(n_f16, 0, SHERD_FP16)

/* ------------------------------------------------------------------------------------------------------------ update
 */

/* Which entry of a table sorted by first_tile holds this tile. */
#define CUDA__FIND(table, n, tile, out)                                                                                \
    do {                                                                                                               \
        uint32_t low_ = 0, high_ = (n);                                                                                \
        while (high_ - low_ > 1) {                                                                                     \
            uint32_t middle_ = low_ + (high_ - low_) / 2;                                                              \
            if ((table)[middle_].first_tile <= (tile)) {                                                               \
                low_ = middle_;                                                                                        \
            } else {                                                                                                   \
                high_ = middle_;                                                                                       \
            }                                                                                                          \
        }                                                                                                              \
        (out) = low_;                                                                                                  \
    } while (0)

typedef struct cuda__state {
    cuda__eight sum, master, moment[SHERD__MAX_MOMENTS];
} cuda__state;

CUDA__FN float cuda__master_one(const sherd__cuda_update *a, int64_t i)
{
    return a->remainder ? sherd__f32_of_halves(a->emit[i], a->remainder[i]) : a->master[i];
}

CUDA__FN void cuda__master_store_one(const sherd__cuda_update *a, int64_t i, float value)
{
    if (a->remainder) {
        a->remainder[i] = sherd__remainder_of_f32(value);
    } else {
        a->master_out[i] = value;
    }
    if (a->emit) {
        a->emit[i] = cuda__narrow(value, a->emit_type);
    }
}

/* master: 0 where it is only written. */
CUDA__FN void cuda__state_load(const sherd__cuda_update *a, int master, uint32_t moments, int64_t i, cuda__state *out)
{
    cuda__eight none = {{0}};
    out->sum = cuda__load(a->sum, a->sum_type, i);
    out->master = !master        ? none
                  : a->remainder ? cuda__join(a->emit + i, a->remainder + i)
                                 : cuda__load_f32(a->master + i);
    CUDA__UNROLL
    for (uint32_t m = 0; m < SHERD__MAX_MOMENTS; ++m) {
        if (m < moments) {
            out->moment[m] = cuda__load(a->moment[m], a->moment_type, i);
        }
    }
}

CUDA__FN void cuda__moment_store(const sherd__cuda_update *a, uint32_t m, int64_t i, cuda__eight value)
{
    if (a->moment_type == SHERD_FP32) {
        cuda__store_f32((float *)a->moment_out[m] + i, value);
    } else {
        cuda__store_half((uint16_t *)a->moment_out[m] + i, SHERD_BF16, value, 0);
    }
}

CUDA__FN void cuda__moment_store_one(const sherd__cuda_update *a, int m, int64_t i, float value)
{
    if (a->moment_type == SHERD_FP32) {
        ((float *)a->moment_out[m])[i] = value;
    } else {
        ((uint16_t *)a->moment_out[m])[i] = cuda__narrow(value, SHERD_BF16);
    }
}

CUDA__FN void cuda__state_store(const sherd__cuda_update *a, uint32_t moments, int64_t i, const cuda__state *state)
{
    if (a->remainder) {
        cuda__split(a->emit + i, a->remainder + i, state->master);
    } else {
        cuda__store_f32(a->master_out + i, state->master);
    }
    CUDA__UNROLL
    for (uint32_t m = 0; m < SHERD__MAX_MOMENTS; ++m) {
        if (m < moments) {
            cuda__moment_store(a, m, i, state->moment[m]);
        }
    }
    if (a->emit && !a->remainder) {
        cuda__store_half(a->emit + i, a->emit_type, state->master, 1);
    }
}

/* One element of one optimizer, and one thread block's tile of it, eight elements a thread: with AdamW seven or eight
 * loads of 16 bytes are in flight. Tails and unaligned arrays go one by one. */
#define CUDA__UPDATE(RULE, name, moments)                                                                              \
    CUDA__FN void cuda__element_##name(const float *s, uint32_t first, float factor, cuda__state *state, int j)        \
    {                                                                                                                  \
        float moment[SHERD__MAX_MOMENTS], master = state->master.at[j];                                                \
        CUDA__UNROLL                                                                                                   \
        for (int m = 0; m < (moments); ++m) {                                                                          \
            moment[m] = state->moment[m].at[j];                                                                        \
        }                                                                                                              \
        float sum = SHERD__RULE_TAKES_SUMS(SHERD__RULE_##RULE) ? state->sum.at[j] * factor : state->sum.at[j];         \
        sherd__##name##_element(s, first, sum, &master, moment);                                                       \
        state->master.at[j] = cuda__one_nan(master);                                                                   \
        CUDA__UNROLL                                                                                                   \
        for (int m = 0; m < (moments); ++m) {                                                                          \
            state->moment[m].at[j] = cuda__one_nan(moment[m]);                                                         \
        }                                                                                                              \
    }                                                                                                                  \
    CUDA__FN void cuda__one_by_one_##name(const sherd__cuda_update *a, const float *s, uint32_t first, float factor,   \
                                          int64_t i, int64_t end)                                                      \
    {                                                                                                                  \
        for (; i < end; ++i) {                                                                                         \
            cuda__state state;                                                                                         \
            state.sum.at[0] = cuda__load_one(a->sum, a->sum_type, i);                                                  \
            state.master.at[0] = SHERD__RULE_READS_MASTER(SHERD__RULE_##RULE) ? cuda__master_one(a, i) : 0.0f;         \
            for (int m = 0; m < (moments); ++m) {                                                                      \
                state.moment[m].at[0] = cuda__load_one(a->moment[m], a->moment_type, i);                               \
            }                                                                                                          \
            cuda__element_##name(s, first, factor, &state, 0);                                                         \
            cuda__master_store_one(a, i, state.master.at[0]);                                                          \
            for (int m = 0; m < (moments); ++m) {                                                                      \
                cuda__moment_store_one(a, m, i, state.moment[m].at[0]);                                                \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    CUDA__FN void cuda__update_##name(const sherd__cuda_update *a, uint32_t tile)                                      \
    {                                                                                                                  \
        const sherd__step_scalars *scalars = a->scalars;                                                               \
        uint32_t at, first = scalars->first;                                                                           \
        float factor = scalars->factor;                                                                                \
        if (scalars->skip) {                                                                                           \
            return;                                                                                                    \
        }                                                                                                              \
        CUDA__FIND(a->span, a->n_spans, tile, at);                                                                     \
        const sherd__cuda_span *span = &a->span[at];                                                                   \
        const float *s = SHERD__RULE_OF_MATRIX(SHERD__RULE_##RULE) ? scalars->matrix[span->group]                      \
                                                                   : scalars->group[span->group];                      \
        float own[SHERD__GROUP_SCALARS];                                                                               \
        if (SHERD__RULE_TRUSTS(SHERD__RULE_##RULE)) {                                                                  \
            CUDA__UNROLL                                                                                               \
            for (int k = 0; k < SHERD__GROUP_SCALARS; ++k) {                                                           \
                own[k] = s[k];                                                                                         \
            }                                                                                                          \
            own[SHERD__TENSOR_SCALAR] = a->ratios ? a->ratios[span->tensor] : own[SHERD__TENSOR_SCALAR];               \
            s = own;                                                                                                   \
        }                                                                                                              \
        int64_t begin = span->begin + (int64_t)(tile - span->first_tile) * SHERD__CUDA_UPDATE_TILE;                    \
        CUDA__EACH(t)                                                                                                  \
        {                                                                                                              \
            int64_t i = begin + t * CUDA__VECTOR;                                                                      \
            if (a->vectors && i + CUDA__VECTOR <= span->end) {                                                         \
                cuda__state state;                                                                                     \
                cuda__state_load(a, SHERD__RULE_READS_MASTER(SHERD__RULE_##RULE), (moments), i, &state);               \
                CUDA__UNROLL                                                                                           \
                for (int j = 0; j < CUDA__VECTOR; ++j) {                                                               \
                    cuda__element_##name(s, first, factor, &state, j);                                                 \
                }                                                                                                      \
                cuda__state_store(a, (moments), i, &state);                                                            \
            } else {                                                                                                   \
                int64_t end = i + CUDA__VECTOR < span->end ? i + CUDA__VECTOR : span->end;                             \
                cuda__one_by_one_##name(a, s, first, factor, i, end);                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }
SHERD__RULE_MAP(CUDA__UPDATE)

#endif
