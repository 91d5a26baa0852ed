/* SPDX-License-Identifier: MIT
 *
 * The bodies of the small kernels (cuda_body.h says what a body is): zero, convert, narrow, reduce, and the table of
 * the sources of a sum that has more of them than a kernel takes as parameters.
 */
#ifndef SHERD_DEVICE_CUDA_BODY_SMALL_H
#define SHERD_DEVICE_CUDA_BODY_SMALL_H

#include "device/cuda_body.h"

CUDA__FN void cuda__store_zero16(unsigned char *to)
{
#if defined(__CUDACC__)
    *(uint4 *)to = make_uint4(0, 0, 0, 0);
#else
    memset(to, 0, 16);
#endif
}

CUDA__FN void cuda__zero_tile(const sherd__cuda_zero *a, uint64_t tile)
{
    uint32_t which;
    CUDA__FIND(a->range, a->n_ranges, tile, which);
    const sherd__cuda_zero_range *range = &a->range[which];
    uint64_t from = range->begin + (tile - range->first_tile) * SHERD__CUDA_ZERO_TILE;
    uint64_t to = range->end - from < SHERD__CUDA_ZERO_TILE ? range->end : from + SHERD__CUDA_ZERO_TILE;
    unsigned char *begin = (unsigned char *)a->base + from, *end = (unsigned char *)a->base + to;
    unsigned char *aligned = begin + (16 - (uintptr_t)begin % 16) % 16;
    if (aligned > end) {
        aligned = end;
    }
    CUDA__EACH(t)
    {
        unsigned char *tail = aligned + (end - aligned) / 16 * 16;
        if (t < aligned - begin) {
            begin[t] = 0;
        }
        for (unsigned char *p = aligned + (int64_t)t * 16; p < tail; p += SHERD__CUDA_THREADS * 16) {
            cuda__store_zero16(p);
        }
        if (t < end - tail) {
            tail[t] = 0;
        }
    }
}

/* Into halves, or from them; which, `dst_type` says. */
CUDA__FN void cuda__halves_one(const sherd__cuda_convert *a, int64_t i)
{
    if (a->dst_type == SHERD_FP32) {
        ((float *)a->dst)[i] = sherd__f32_of_halves(((const uint16_t *)a->src)[i], a->remainder[i]);
    } else {
        float value = ((const float *)a->src)[i];
        ((uint16_t *)a->dst)[i] = sherd__bf16_of_f32(value);
        a->remainder[i] = sherd__remainder_of_f32(value);
    }
}

CUDA__FN void cuda__halves_eight(const sherd__cuda_convert *a, int64_t i)
{
    if (a->dst_type == SHERD_FP32) {
        cuda__store_f32((float *)a->dst + i, cuda__join((const uint16_t *)a->src + i, a->remainder + i));
    } else {
        cuda__split((uint16_t *)a->dst + i, a->remainder + i, cuda__load_f32((const float *)a->src + i));
    }
}

CUDA__FN void cuda__convert_one(const sherd__cuda_convert *a, int64_t i)
{
    if (a->remainder) {
        cuda__halves_one(a, i);
        return;
    }
    float value = cuda__load_one(a->src, a->src_type, i);
    if (a->add) {
        value = cuda__one_nan(cuda__load_one(a->dst, a->dst_type, i) + value);
    }
    if (a->dst_type != SHERD_FP32) {
        ((uint16_t *)a->dst)[i] = cuda__narrow(value, a->dst_type);
    } else {
        ((float *)a->dst)[i] = value;
    }
}

CUDA__FN void cuda__convert_eight(const sherd__cuda_convert *a, int64_t i)
{
    if (a->remainder) {
        cuda__halves_eight(a, i);
        return;
    }
    cuda__eight value = cuda__load(a->src, a->src_type, i);
    if (a->add) {
        cuda__eight former = cuda__load(a->dst, a->dst_type, i);
        CUDA__UNROLL
        for (int j = 0; j < CUDA__VECTOR; ++j) {
            value.at[j] = cuda__one_nan(former.at[j] + value.at[j]);
        }
    }
    if (a->dst_type != SHERD_FP32) {
        cuda__store_half((uint16_t *)a->dst + i, a->dst_type, value, 1);
    } else {
        cuda__store_f32((float *)a->dst + i, value);
    }
}

CUDA__FN void cuda__convert_block(const sherd__cuda_convert *a, int64_t block, int64_t n_blocks)
{
    CUDA__EACH(t)
    {
        for (int64_t i = (block * SHERD__CUDA_THREADS + t) * CUDA__VECTOR; i < a->elems;
             i += n_blocks * SHERD__CUDA_THREADS * CUDA__VECTOR) {
            if (a->vectors && i + CUDA__VECTOR <= a->elems) {
                cuda__convert_eight(a, i);
            } else {
                for (int64_t j = i; j < a->elems && j < i + CUDA__VECTOR; ++j) {
                    cuda__convert_one(a, j);
                }
            }
        }
    }
}

typedef struct cuda__narrow_shared {
    uint16_t half[SHERD__CUDA_NARROW_HEAD] __attribute__((aligned(16)));
} cuda__narrow_shared;

/* Thread t's vectors of all elements; the last may be shorter. */
#define CUDA__EACH_EIGHT(t, i)                                                                                         \
    for (int64_t i = (int64_t)(t) * CUDA__VECTOR; i < a->elems; i += SHERD__CUDA_THREADS * CUDA__VECTOR)

/* Everything is read before anything is written. */
CUDA__FN void cuda__narrow_head(const sherd__cuda_convert *a, cuda__narrow_shared *s)
{
    CUDA__EACH(t)
    {
        CUDA__EACH_EIGHT(t, i)
        {
            if (a->vectors && i + CUDA__VECTOR <= a->elems) {
                cuda__store_half(s->half + i, a->dst_type, cuda__load(a->src, a->src_type, i), 1);
                continue;
            }
            for (int64_t j = i; j < a->elems && j < i + CUDA__VECTOR; ++j) {
                s->half[j] = cuda__narrow(cuda__load_one(a->src, a->src_type, j), a->dst_type);
            }
        }
    }
    CUDA__BARRIER();
    CUDA__EACH(t)
    {
        CUDA__EACH_EIGHT(t, i)
        {
#if defined(__CUDACC__)
            if (a->vectors && i + CUDA__VECTOR <= a->elems) {
                *(uint4 *)((uint16_t *)a->dst + i) = *(const uint4 *)(s->half + i);
                continue;
            }
#endif
            for (int64_t j = i; j < a->elems && j < i + CUDA__VECTOR; ++j) {
                ((uint16_t *)a->dst)[j] = s->half[j];
            }
        }
    }
}

CUDA__FN void cuda__reduce_block(const sherd__cuda_reduce *a)
{
    CUDA__EACH(t)
    {
        for (uint32_t i = (uint32_t)t; i < a->n_sum + a->n_min; i += SHERD__CUDA_THREADS) {
            uint64_t value = i < a->n_sum ? 0 : UINT64_MAX;
            for (uint32_t s = 0; s < a->n_src; ++s) {
                uint64_t word = (a->table ? a->table[s] : a->src[s])[i];
                value = i < a->n_sum ? value + word : word < value ? word : value;
            }
            a->dst[i] = value;
        }
    }
}

CUDA__FN void cuda__sources_block(const sherd__cuda_sources *a)
{
    CUDA__EACH(t)
    {
        if ((uint32_t)t < a->n) {
            a->table[t] = a->src[t];
        }
    }
}

#endif
