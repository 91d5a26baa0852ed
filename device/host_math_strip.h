/* SPDX-License-Identifier: MIT
 *
 * Loops over strips of at most SHERD__STRIP elements: the parts the fast kernels are made of. Plain C that gcc and
 * clang turn into vector code of whatever instruction set the including file is compiled for. Every element goes
 * through the same IEEE operations in the same order whatever the vector length, so body and tail of a loop, and all
 * instruction sets, agree.
 *
 * Results go to buffers that no source overlaps (the caller's strip on the stack, hot in the first cache), hence
 * restrict.
 */
#ifndef SHERD_DEVICE_HOST_MATH_STRIP_H
#define SHERD_DEVICE_HOST_MATH_STRIP_H

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "device/host_math_table.h"

#define SHERD__STRIP 512

static inline void widen_strip(float *restrict out, const uint16_t *a, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        out[i] = sherd__f32_of_bf16(a[i]);
    }
}

static inline void narrow_strip(uint16_t *restrict out, const float *a, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        out[i] = sherd__bf16_of_f32(a[i]);
    }
}

static inline void widen_f16_strip(float *restrict out, const uint16_t *a, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        out[i] = sherd__f32_of_f16(a[i]);
    }
}

static inline void narrow_f16_strip(uint16_t *restrict out, const float *a, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        out[i] = sherd__f16_of_f32(a[i]);
    }
}

static inline void join_strip(float *restrict out, const uint16_t *half, const uint16_t *remainder, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        out[i] = sherd__f32_of_halves(half[i], remainder[i]);
    }
}

static inline void remainder_strip(uint16_t *restrict out, const float *a, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        out[i] = sherd__remainder_of_f32(a[i]);
    }
}

/* To bf16 and back. */
static inline void round_strip(float *values, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        values[i] = sherd__f32_of_bf16(sherd__bf16_of_f32(values[i]));
    }
}

/* out[i] = f(sources[i]) for one to four leaves of one type, and one NaN: instantiated for each type. The pairs
 * are those of the balanced tree. */
#define SHERD__LEAF_STRIPS(suffix, type, load)                                                                         \
    static inline void leaf1_##suffix(float *restrict out, const type *a, int64_t n)                                   \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; ++i) {                                                                              \
            out[i] = sherd__one_nan(load(a[i]));                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void leaf2_##suffix(float *restrict out, const type *a, const type *b, int64_t n)                    \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; ++i) {                                                                              \
            out[i] = sherd__one_nan(load(a[i]) + load(b[i]));                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void leaf3_##suffix(float *restrict out, const type *a, const type *b, const type *c, int64_t n)     \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; ++i) {                                                                              \
            out[i] = sherd__one_nan((load(a[i]) + load(b[i])) + load(c[i]));                                           \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void leaf4_##suffix(float *restrict out, const type *a, const type *b, const type *c, const type *d, \
                                      int64_t n)                                                                       \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; ++i) {                                                                              \
            out[i] = sherd__one_nan((load(a[i]) + load(b[i])) + (load(c[i]) + load(d[i])));                            \
        }                                                                                                              \
    }                                                                                                                  \
    static inline void leaves_##suffix(float *restrict out, const void *const *src, uint32_t count, int64_t from,      \
                                       int64_t n)                                                                      \
    {                                                                                                                  \
        const type *leaf[4] = {NULL, NULL, NULL, NULL};                                                                \
        for (uint32_t i = 0; i < count; ++i) {                                                                         \
            leaf[i] = (const type *)(const void *)((const char *)src[i] + from);                                       \
        }                                                                                                              \
        switch (count) {                                                                                               \
        case 1: leaf1_##suffix(out, leaf[0], n); break;                                                                \
        case 2: leaf2_##suffix(out, leaf[0], leaf[1], n); break;                                                       \
        case 3: leaf3_##suffix(out, leaf[0], leaf[1], leaf[2], n); break;                                              \
        default: leaf4_##suffix(out, leaf[0], leaf[1], leaf[2], leaf[3], n); break;                                    \
        }                                                                                                              \
    }

#define SHERD__LOAD_F32(x) (x)
#define SHERD__LOAD_BF16(x) sherd__f32_of_bf16(x)
SHERD__LEAF_STRIPS(f32, float, SHERD__LOAD_F32)
SHERD__LEAF_STRIPS(bf16, uint16_t, SHERD__LOAD_BF16)
#define SHERD__LOAD_F16(x) sherd__f32_of_f16(x)
SHERD__LEAF_STRIPS(f16, uint16_t, SHERD__LOAD_F16)

/* Adding is commutative, so `more` may be the accumulator or the new sum. */
static inline void add_strip(float *restrict values, const float *more, int64_t n)
{
    for (int64_t i = 0; i < n; ++i) {
        values[i] = sherd__one_nan(values[i] + more[i]);
    }
}

/* Sum of squares of a whole block. Lane i mod 16 lives in element i mod 16 of the vectors; combining with l ^ 8, ^4,
 * ^2, ^1 adds the halves. A square is exact in double, so fused and separate give the same bits. */
static inline double block_squares(const float *values)
{
#if defined(__AVX512F__)
    __m512d low = _mm512_setzero_pd(), high = low;
    __m256d four;
    __m128d two;
    for (int i = 0; i < SHERD__NORM_BLOCK; i += 16) {
        __m512d a = _mm512_cvtps_pd(_mm256_loadu_ps(values + i)), b = _mm512_cvtps_pd(_mm256_loadu_ps(values + i + 8));
        low = _mm512_fmadd_pd(a, a, low);
        high = _mm512_fmadd_pd(b, b, high);
    }
    low = _mm512_add_pd(low, high);
    four = _mm256_add_pd(_mm512_castpd512_pd256(low), _mm512_extractf64x4_pd(low, 1));
    two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#elif defined(__AVX2__) && defined(__FMA__)
    __m256d lane[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}, four;
    __m128d two;
    for (int i = 0; i < SHERD__NORM_BLOCK; i += 16) {
        for (int j = 0; j < 4; ++j) {
            __m256d a = _mm256_cvtps_pd(_mm_loadu_ps(values + i + 4 * j));
            lane[j] = _mm256_fmadd_pd(a, a, lane[j]);
        }
    }
    four = _mm256_add_pd(_mm256_add_pd(lane[0], lane[2]), _mm256_add_pd(lane[1], lane[3]));
    two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#else
    double lane[16] = {0};
    for (int i = 0; i < SHERD__NORM_BLOCK; i += 16) {
        for (int j = 0; j < 16; ++j) {
            double value = (double)values[i + j];
            lane[j] += value * value;
        }
    }
    for (int half = 8; half > 0; half /= 2) {
        for (int j = 0; j < half; ++j) {
            lane[j] += lane[j + half];
        }
    }
    return lane[0];
#endif
}

/* dst[0 .. bytes) = src, past the caches where `past` says so and the place allows it. */
static inline void store_strip(void *dst, const void *src, size_t bytes, int past)
{
#if defined(__AVX512F__)
    if (past && ((uintptr_t)dst | bytes) % 64 == 0) {
        for (size_t i = 0; i < bytes; i += 64) {
            _mm512_stream_si512((void *)((char *)dst + i), _mm512_loadu_si512((const char *)src + i));
        }
        return;
    }
#elif defined(__AVX2__)
    if (past && ((uintptr_t)dst | bytes) % 32 == 0) {
        for (size_t i = 0; i < bytes; i += 32) {
            __m256i value = _mm256_loadu_si256((const __m256i *)(const void *)((const char *)src + i));
            _mm256_stream_si256((__m256i *)(void *)((char *)dst + i), value);
        }
        return;
    }
#elif defined(__x86_64__)
    if (past && ((uintptr_t)dst | bytes) % 16 == 0) {
        for (size_t i = 0; i < bytes; i += 16) {
            __m128i value = _mm_loadu_si128((const __m128i *)(const void *)((const char *)src + i));
            _mm_stream_si128((__m128i *)(void *)((char *)dst + i), value);
        }
        return;
    }
#endif
    (void)past;
    memcpy(dst, src, bytes);
}

/* Stores past the caches are ordered before anything that follows. */
static inline void store_fence(int past)
{
#if defined(__x86_64__)
    if (past) {
        _mm_sfence();
    }
#else
    (void)past;
#endif
}

#endif
