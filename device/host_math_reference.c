/* SPDX-License-Identifier: MIT
 *
 * The host's kernels in the plainest C: one element after the other, in the caller's thread. They define the bits
 * that the fast ones must produce. A NaN that arithmetic produces is stored as 0x7FC00000 (0x7FC0 in bf16, 0x7E00 in fp16), whatever
 * the processor's own choice of payload; plain copies keep all bits.
 */
#include <string.h>

#include "device/host_math_table.h"

static float value_at(const void *array, sherd_dtype dtype, int64_t i)
{
    switch (dtype) {
    case SHERD_BF16: return sherd__f32_of_bf16(((const uint16_t *)array)[i]);
    case SHERD_FP16: return sherd__f32_of_f16(((const uint16_t *)array)[i]);
    case SHERD_FP32: break;
    }
    return ((const float *)array)[i];
}

static void value_store(void *array, sherd_dtype dtype, int64_t i, float value)
{
    if (dtype == SHERD_FP32) {
        ((float *)array)[i] = value;
    } else {
        ((uint16_t *)array)[i] = dtype == SHERD_FP16 ? sherd__f16_of_f32(value) : sherd__bf16_of_f32(value);
    }
}

static float leaf_at(const sherd__tree_sum *sum, uint32_t source, int64_t i)
{
    return value_at((const char *)sum->src[source] + sum->src_offset, sum->src_dtype, i);
}

/* sum(l, h) = sum(l, l + p) + sum(l + p, h), p the largest power of two below h - l. */
static float tree_at(const sherd__tree_sum *sum, uint32_t low, uint32_t high, int64_t i)
{
    uint32_t p = 1;
    if (high - low == 1) {
        return leaf_at(sum, low, i);
    }
    while (p * 2 < high - low) {
        p *= 2;
    }
    return tree_at(sum, low, low + p, i) + tree_at(sum, low + p, high, i);
}

static float element_of_sum(const sherd__tree_sum *sum, int64_t i)
{
    float value = tree_at(sum, 0, sum->n_src, i);
    if (sum->add) {
        value = ((const float *)sum->dst)[i] + value;
    }
    value = sherd__one_nan(value);
    return sum->narrow ? sherd__f32_of_bf16(sherd__bf16_of_f32(value)) : value;
}

static void reference_tree_sum(sherd__team *team, const sherd__tree_sum *sum)
{
    float block[SHERD__NORM_BLOCK];
    (void)team;
    for (int64_t at = 0; at < sum->elems; at += SHERD__NORM_BLOCK) {
        int64_t n = sum->elems - at < SHERD__NORM_BLOCK ? sum->elems - at : SHERD__NORM_BLOCK;
        for (int64_t i = 0; i < n; ++i) {
            block[i] = element_of_sum(sum, at + i);
        }
        for (int64_t i = 0; i < n; ++i) {
            value_store(sum->dst, sum->dst_dtype, at + i, block[i]);
        }
        if (sum->norm) {
            sherd__norm_add_block(sum->norm, block, (int32_t)n, sum->first_block + (uint64_t)(at / SHERD__NORM_BLOCK));
        }
    }
}

static float master_at(const sherd__update *update, int64_t i)
{
    return update->remainder ? sherd__f32_of_halves(update->emit[i], update->remainder[i]) : update->master[i];
}

/* One element of a whole update or of a part of one; `sum` is as it was found. */
static void run_element(const sherd__update *update, const sherd__optim *optim, const float *scalars, float sum,
                        float *master, float *moment)
{
    switch (update->part) {
    case SHERD__PART_WHOLE:
        optim->element(scalars, update->scalars->first, sum * update->scalars->factor, master, moment);
        break;
    case SHERD__PART_DIRECT:
        optim->matrix->direct(scalars, sum * update->scalars->factor, master, moment);
        break;
    case SHERD__PART_APPLY:
        optim->matrix->apply(scalars, sum, master);
        break;
    }
}

static uint32_t moments_of(const sherd__update *update, const sherd__optim *optim)
{
    return update->part == SHERD__PART_WHOLE ? optim->n_moments
                                             : update->part == SHERD__PART_DIRECT ? optim->matrix->n_moments : 0;
}

static void update_element(const sherd__update *update, const sherd__optim *optim, const sherd__span *span, int64_t i)
{
    const sherd__step_scalars *scalars = update->scalars;
    float sum = value_at(update->sum, update->sum_dtype, i);
    float master = master_at(update, i), moment[SHERD__MAX_MOMENTS] = {0}, own[SHERD__GROUP_SCALARS];
    uint32_t n_moments = moments_of(update, optim);
    for (uint32_t k = 0; k < n_moments; ++k) {
        moment[k] = value_at(update->moment[k], update->moment_dtype, i);
    }
    memcpy(own, (update->part == SHERD__PART_WHOLE ? scalars->group : scalars->matrix)[span->group], sizeof own);
    if (update->ratios) {
        own[SHERD__TENSOR_SCALAR] = update->ratios[span->tensor];
    }
    run_element(update, optim, own, sum, &master, moment);
    for (uint32_t k = 0; k < n_moments; ++k) {
        value_store(update->moment_out[k] ? update->moment_out[k] : update->moment[k], update->moment_dtype, i,
                    sherd__one_nan(moment[k]));
    }
    if (update->remainder) {
        update->remainder[i] = sherd__remainder_of_f32(master);
    } else {
        *(update->master_out ? &update->master_out[i] : &update->master[i]) = sherd__one_nan(master);
    }
    if (update->emit) {
        value_store(update->emit, update->emit_dtype == SHERD_FP16 ? SHERD_FP16 : SHERD_BF16, i, master);
    }
}

static void reference_update(sherd__team *team, const sherd__update *update)
{
    const sherd__optim *optim = sherd__optim_get(update->kind);
    (void)team;
    if (update->scalars->skip) {
        return;
    }
    for (uint32_t s = 0; s < update->n_spans; ++s) {
        const sherd__span *span = &update->spans[s];
        for (int64_t i = span->begin - update->origin; i < span->end - update->origin; ++i) {
            update_element(update, optim, span, i);
        }
    }
}

static float direction_at(const sherd__update *update, const sherd__optim *optim, uint32_t group, int64_t i)
{
    const sherd__step_scalars *scalars = update->scalars;
    float sum = value_at(update->sum, update->sum_dtype, i), moment[SHERD__MAX_MOMENTS] = {0};
    for (uint32_t k = 0; k < optim->n_moments; ++k) {
        moment[k] = value_at(update->moment[k], update->moment_dtype, i);
    }
    return optim->direction(scalars->group[group], sum * scalars->factor, master_at(update, i), moment);
}

static void reference_trust(sherd__team *team, const sherd__update *update)
{
    const sherd__optim *optim = sherd__optim_get(update->kind);
    float direction[SHERD__NORM_BLOCK], weight[SHERD__NORM_BLOCK];
    (void)team;
    for (uint32_t s = 0; s < update->n_spans && !update->scalars->skip; ++s) {
        const sherd__span *span = &update->spans[s];
        int64_t end = span->end - update->origin;
        for (int64_t at = span->begin - update->origin; at < end; at += SHERD__NORM_BLOCK) {
            int32_t n = end - at < SHERD__NORM_BLOCK ? (int32_t)(end - at) : SHERD__NORM_BLOCK;
            for (int32_t i = 0; i < n; ++i) {
                direction[i] = direction_at(update, optim, span->group, at + i);
                weight[i] = master_at(update, at + i);
            }
            sherd__trust_add_block(&update->trust[span->tensor], weight, direction, n);
        }
    }
}

static void reference_convert(sherd__team *team, void *dst, sherd_dtype dst_dtype, const void *src,
                              sherd_dtype src_dtype, int64_t elems, int32_t add)
{
    (void)team;
    if (dst_dtype == src_dtype && !add) {
        memmove(dst, src, (size_t)elems * (size_t)sherd_dtype_bytes(dst_dtype));
        return;
    }
    for (int64_t i = 0; i < elems; ++i) {
        float value = value_at(src, src_dtype, i);
        if (add) {
            value = sherd__one_nan(value_at(dst, dst_dtype, i) + value);
        }
        value_store(dst, dst_dtype, i, value);
    }
}

static void reference_split(sherd__team *team, uint16_t *half, uint16_t *remainder, const float *values, int64_t elems)
{
    (void)team;
    for (int64_t i = 0; i < elems; ++i) {
        half[i] = sherd__bf16_of_f32(values[i]);
        remainder[i] = sherd__remainder_of_f32(values[i]);
    }
}

static void reference_join(sherd__team *team, float *values, const uint16_t *half, const uint16_t *remainder,
                           int64_t elems)
{
    (void)team;
    for (int64_t i = 0; i < elems; ++i) {
        values[i] = sherd__f32_of_halves(half[i], remainder[i]);
    }
}

static void reference_copy(sherd__team *team, void *dst, const void *src, uint64_t bytes)
{
    (void)team;
    memmove(dst, src, bytes);
}

const sherd__host_math sherd__host_math_reference = {
    "reference",    reference_tree_sum, reference_update, reference_convert,
    reference_copy, reference_trust,    reference_split,  reference_join,
    sherd__orthogonalise_reference,
};
