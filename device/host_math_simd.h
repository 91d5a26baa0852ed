/* SPDX-License-Identifier: MIT
 *
 * The host's fast kernels: one source, compiled once per instruction set by host_math_portable.c, host_math_avx2.c
 * and host_math_avx512.c, which define SHERD__SIMD_TABLE and SHERD__SIMD_NAME.
 *
 * Work is cut into chunks, chunks into strips that stay in the first cache. A strip goes through short loops (tree,
 * add, narrow, squares, store), so memory is read once and written once, and everything fits together without a
 * kernel per combination. What is only written goes past the caches when the whole array is too large to be found
 * there later.
 *
 * Order: elements never meet each other except in the norm, whose blocks are fixed and whose total is an integer. So
 * neither chunks, nor workers, nor vector lengths show in the result.
 */
#include "device/host_math_strip.h"
#include "optim/list.h"

#define CHUNK (32 * SHERD__STRIP) /* a multiple of the norm's block */
#define COPY_CHUNK (256 * 1024)
/* Bytes written by one call from which they go past the caches: more than a core's second-level cache. Lines that are
 * only written are then not read first, and what comes next finds as much of them as before: little. */
#define PAST_CACHES (4 * 1024 * 1024)

static int64_t chunks_of(int64_t elems, int64_t chunk)
{
    return (elems + chunk - 1) / chunk;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* ------------------------------------------------------------------------------------------------------------- tree
 * sum */

typedef struct sum_job {
    const sherd__tree_sum *sum;
    int past;
} sum_job;

/* out = tree over src[0 .. count) at `from` bytes. Up to four leaves at once; above, one strip of stack per level. */
static void tree_strip(const sherd__tree_sum *sum, float *restrict out, const void *const *src, uint32_t count,
                       int64_t from, int64_t n)
{
    float right[SHERD__STRIP];
    uint32_t p = 4;
    if (count <= 4) {
        if (sum->src_dtype == SHERD_BF16) {
            leaves_bf16(out, src, count, from, n);
        } else if (sum->src_dtype == SHERD_FP16) {
            leaves_f16(out, src, count, from, n);
        } else {
            leaves_f32(out, src, count, from, n);
        }
        return;
    }
    while (p * 2 < count) {
        p *= 2;
    }
    tree_strip(sum, out, src, p, from, n);
    tree_strip(sum, right, src + p, count - p, from, n);
    add_strip(out, right, n);
}

static void norm_strip(sherd__norm *norm, const float *values, int64_t n, uint64_t block)
{
    for (int64_t at = 0; at < n; at += SHERD__NORM_BLOCK, ++block) {
        if (n - at < SHERD__NORM_BLOCK) {
            sherd__norm_add_block(norm, values + at, (int32_t)(n - at), block);
            continue;
        }
        double squares = block_squares(values + at);
        if (squares - squares == 0.0) {
            sherd__norm_add_double(norm, squares);
        } else if (block < norm->bad_block) {
            norm->bad_block = block;
        }
    }
}

static void store_sum(const sum_job *job, float *values, int64_t at, int64_t n)
{
    const sherd__tree_sum *sum = job->sum;
    if (sum->dst_dtype == SHERD_BF16) {
        uint16_t narrow[SHERD__STRIP];
        narrow_strip(narrow, values, n);
        store_strip((uint16_t *)sum->dst + at, narrow, (size_t)n * 2, job->past);
    } else {
        store_strip((float *)sum->dst + at, values, (size_t)n * 4, job->past);
    }
}

/* Integers again: whichever worker comes first, the limbs are the same. */
static void merge_norm(sherd__norm *shared, const sherd__norm *own)
{
    uint64_t bad = __atomic_load_n(&shared->bad_block, __ATOMIC_RELAXED);
    for (int i = 0; i < SHERD__NORM_LIMBS; ++i) {
        if (own->limb[i]) {
            __atomic_fetch_add(&shared->limb[i], own->limb[i], __ATOMIC_RELAXED);
        }
    }
    while (own->bad_block < bad && !__atomic_compare_exchange_n(&shared->bad_block, &bad, own->bad_block, 0,
                                                                __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

/* Inlined by force: gcc takes a function that only prefetches for one without effect, and drops its calls. */
static inline __attribute__((always_inline)) void fetch(const void *from, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch((const char *)from + i, 0, 3);
    }
}

/* Asks for the next strip's elements while the caches work on this one; at the end, for what nobody needs. */
static inline __attribute__((always_inline)) void fetch_strip(const sherd__tree_sum *sum, int64_t at, int64_t n)
{
    int64_t size = sum->src_dtype == SHERD_FP32 ? 4 : 2;
    for (uint32_t s = 0; s < sum->n_src; ++s) {
        fetch((const char *)sum->src[s] + sum->src_offset + at * size, n * size);
    }
    if (sum->add) {
        fetch((const float *)sum->dst + at, n * 4);
    }
}

static void sum_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const sum_job *job = arg;
    const sherd__tree_sum *sum = job->sum;
    int64_t end = least((chunk + 1) * CHUNK, sum->elems), size = sum->src_dtype == SHERD_FP32 ? 4 : 2;
    float values[SHERD__STRIP];
    sherd__norm norm;
    (void)worker;
    sherd__norm_clear(&norm);
    for (int64_t at = chunk * CHUNK; at < end; at += SHERD__STRIP) {
        int64_t n = least(SHERD__STRIP, end - at);
        tree_strip(sum, values, sum->src, sum->n_src, (int64_t)sum->src_offset + at * size, n);
        fetch_strip(sum, at + n, n);
        if (sum->add) {
            add_strip(values, (const float *)sum->dst + at, n);
        }
        if (sum->narrow) {
            round_strip(values, n);
        }
        store_sum(job, values, at, n);
        if (sum->norm) {
            norm_strip(&norm, values, n, sum->first_block + (uint64_t)(at / SHERD__NORM_BLOCK));
        }
    }
    store_fence(job->past);
    if (sum->norm) {
        merge_norm(sum->norm, &norm);
    }
}

/* The destination is only written, and nothing in the cache already holds it, if it is neither added to nor a source.
 * */
static int sum_goes_past(const sherd__tree_sum *sum)
{
    int64_t bytes = sum->elems * (sum->dst_dtype == SHERD_BF16 ? 2 : 4);
    int past = !sum->add && bytes >= PAST_CACHES;
    for (uint32_t i = 0; i < sum->n_src && past; ++i) {
        past = (const char *)sum->src[i] + sum->src_offset != (const char *)sum->dst;
    }
    return past;
}

static void simd_tree_sum(sherd__team *team, const sherd__tree_sum *sum)
{
    sum_job job = {sum, sum_goes_past(sum)};
    sherd__team_run(team, chunks_of(sum->elems, CHUNK), sum_chunk, &job);
}

/* ------------------------------------------------------------------------------------------------------------ update
 * */

#include "device/host_math_update.h"

#include "device/host_math_trust.h"

#include "device/host_math_orthogonal.h"

/* ----------------------------------------------------------------------------------------------------- convert and
 * copy */

typedef struct copy_job {
    char *dst;
    const char *src;
    uint64_t bytes;
    int past;
} copy_job;

static void copy_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const copy_job *job = arg;
    uint64_t at = (uint64_t)chunk * COPY_CHUNK, left = job->bytes - at;
    uint64_t bytes = left < COPY_CHUNK ? left : COPY_CHUNK, even = bytes / 64 * 64;
    (void)worker;
    store_strip(job->dst + at, job->src + at, even, job->past);
    memcpy(job->dst + at + even, job->src + at + even, bytes - even);
    store_fence(job->past);
}

static void simd_copy(sherd__team *team, void *dst, const void *src, uint64_t bytes)
{
    copy_job job = {dst, src, bytes, bytes >= PAST_CACHES};
    if (dst != src) {
        sherd__team_run(team, chunks_of((int64_t)bytes, COPY_CHUNK), copy_chunk, &job);
    }
}

typedef struct convert_job {
    void *dst;
    const void *src;
    sherd_dtype dst_dtype, src_dtype;
    int64_t elems;
    int32_t add;
} convert_job;

static void load_strip(float *restrict out, const void *array, sherd_dtype dtype, int64_t at, int64_t n)
{
    if (dtype == SHERD_BF16) {
        widen_strip(out, (const uint16_t *)array + at, n);
    } else if (dtype == SHERD_FP16) {
        widen_f16_strip(out, (const uint16_t *)array + at, n);
    } else {
        memcpy(out, (const float *)array + at, (size_t)n * 4);
    }
}

static void convert_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const convert_job *job = arg;
    int64_t end = least((chunk + 1) * CHUNK, job->elems);
    float values[SHERD__STRIP], former[SHERD__STRIP];
    (void)worker;
    for (int64_t at = chunk * CHUNK; at < end; at += SHERD__STRIP) {
        int64_t n = least(SHERD__STRIP, end - at);
        load_strip(values, job->src, job->src_dtype, at, n);
        if (job->add) {
            load_strip(former, job->dst, job->dst_dtype, at, n);
            add_strip(values, former, n);
        }
        if (job->dst_dtype == SHERD_BF16) {
            narrow_strip((uint16_t *)job->dst + at, values, n);
        } else if (job->dst_dtype == SHERD_FP16) {
            narrow_f16_strip((uint16_t *)job->dst + at, values, n);
        } else {
            memcpy((float *)job->dst + at, values, (size_t)n * 4);
        }
    }
}

static void simd_convert(sherd__team *team, void *dst, sherd_dtype dst_dtype, const void *src, sherd_dtype src_dtype,
                         int64_t elems, int32_t add)
{
    convert_job job = {dst, src, dst_dtype, src_dtype, elems, add};
    if (dst_dtype == src_dtype && !add) {
        simd_copy(team, dst, src, (uint64_t)elems * (dst_dtype == SHERD_FP32 ? 4u : 2u));
        return;
    }
    sherd__team_run(team, chunks_of(elems, CHUNK), convert_chunk, &job);
}

typedef struct halves_job {
    float *values;
    uint16_t *half, *remainder;
    int64_t elems;
} halves_job;

static void split_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const halves_job *job = arg;
    int64_t at = chunk * CHUNK, n = least(CHUNK, job->elems - at);
    (void)worker;
    narrow_strip(job->half + at, job->values + at, n);
    remainder_strip(job->remainder + at, job->values + at, n);
}

static void join_chunk(void *arg, int64_t chunk, int32_t worker)
{
    const halves_job *job = arg;
    int64_t at = chunk * CHUNK;
    (void)worker;
    join_strip(job->values + at, job->half + at, job->remainder + at, least(CHUNK, job->elems - at));
}

static void simd_split(sherd__team *team, uint16_t *half, uint16_t *remainder, const float *values, int64_t elems)
{
    halves_job job = {(float *)values, half, remainder, elems};
    sherd__team_run(team, chunks_of(elems, CHUNK), split_chunk, &job);
}

static void simd_join(sherd__team *team, float *values, const uint16_t *half, const uint16_t *remainder, int64_t elems)
{
    halves_job job = {values, (uint16_t *)half, (uint16_t *)remainder, elems};
    sherd__team_run(team, chunks_of(elems, CHUNK), join_chunk, &job);
}

const sherd__host_math SHERD__SIMD_TABLE = {
    SHERD__SIMD_NAME, simd_tree_sum, simd_update, simd_convert,       simd_copy,
    simd_trust,       simd_split,    simd_join,   simd_orthogonalise,
};
