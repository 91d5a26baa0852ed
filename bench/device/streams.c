/* SPDX-License-Identifier: MIT */
#include "bench/device/streams.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>

#define WIDE __attribute__((target("avx2")))

/* Zero, but the compiler cannot know: the update's pattern adds it, so that it leaves the kernel's values as they
 * are. */
static volatile int32_t nothing;

const char *stream_name(void)
{
    return "256-bit integer loads and adds, stores past the caches";
}

WIDE static inline __m256i load_at(const void *base, int bytes, int64_t i)
{
    if (bytes == 2) {
        return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)((const char *)base + 2 * i)));
    }
    return _mm256_loadu_si256((const __m256i *)(const void *)((const char *)base + 4 * i));
}

WIDE static inline void sum_loop(void *dst, const void *const *src, uint32_t n_src, int bytes, int add, int64_t begin,
                                 int64_t end)
{
    for (int64_t i = begin; i < end; i += 8) {
        __m256i *place = (__m256i *)(void *)((char *)dst + 4 * i), total = load_at(src[0], bytes, i);
        for (uint32_t s = 1; s < n_src; ++s) {
            total = _mm256_add_epi32(total, load_at(src[s], bytes, i));
        }
        if (add) {
            _mm256_storeu_si256(place, _mm256_add_epi32(total, _mm256_loadu_si256(place)));
        } else {
            _mm256_stream_si256(place, total);
        }
    }
    _mm_sfence();
}

/* The constants let the compiler make a loop for each shape. */
WIDE void stream_sum(void *dst, const void *const *src, uint32_t n_src, int src_bytes, int add, int64_t begin,
                     int64_t end)
{
    if (src_bytes == 2) {
        switch (n_src) {
        case 1: sum_loop(dst, src, 1, 2, add, begin, end); break;
        case 2: sum_loop(dst, src, 2, 2, add, begin, end); break;
        default: sum_loop(dst, src, 4, 2, add, begin, end); break;
        }
    } else {
        switch (n_src) {
        case 1: sum_loop(dst, src, 1, 4, add, begin, end); break;
        case 2: sum_loop(dst, src, 2, 4, add, begin, end); break;
        default: sum_loop(dst, src, 4, 4, add, begin, end); break;
        }
    }
}

WIDE static inline __m256i bump(void *array, int64_t i, __m256i by)
{
    __m256i *place = (__m256i *)(void *)((char *)array + 4 * i), value = _mm256_add_epi32(_mm256_loadu_si256(place),
                                                                                          by);
    _mm256_storeu_si256(place, value);
    return value;
}

WIDE void stream_update(const void *sum, int sum_bytes, void *a, void *b, void *c, void *emit, int64_t begin,
                        int64_t end)
{
    __m256i mask = _mm256_set1_epi32(nothing);
    for (int64_t i = begin; i < end; i += 16) {
        __m256i low = _mm256_and_si256(load_at(sum, sum_bytes, i), mask), even;
        __m256i high = _mm256_and_si256(load_at(sum, sum_bytes, i + 8), mask);
        even = bump(a, i, low);
        even = _mm256_xor_si256(even, bump(a, i + 8, high));
        bump(b, i, low);
        bump(b, i + 8, high);
        bump(c, i, low);
        bump(c, i + 8, high);
        if (emit) {
            _mm256_stream_si256((__m256i *)(void *)((char *)emit + 2 * i), even);
        }
    }
    _mm_sfence();
}

#else

const char *stream_name(void)
{
    return "integer loads and adds in C";
}

static volatile uint32_t nothing; /* zero, but the compiler cannot know: the kernel's values stay as they are */

static uint32_t load_at(const void *base, int bytes, int64_t i)
{
    return bytes == 2 ? ((const uint16_t *)base)[i] : ((const uint32_t *)base)[i];
}

void stream_sum(void *dst, const void *const *src, uint32_t n_src, int src_bytes, int add, int64_t begin, int64_t end)
{
    uint32_t *out = dst;
    for (int64_t i = begin; i < end; ++i) {
        uint32_t total = add ? out[i] : 0;
        for (uint32_t s = 0; s < n_src; ++s) {
            total += load_at(src[s], src_bytes, i);
        }
        out[i] = total;
    }
}

void stream_update(const void *sum, int sum_bytes, void *a, void *b, void *c, void *emit, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; ++i) {
        uint32_t by = load_at(sum, sum_bytes, i) & nothing;
        ((uint32_t *)a)[i] += by;
        ((uint32_t *)b)[i] += by;
        ((uint32_t *)c)[i] += by;
        if (emit) {
            ((uint16_t *)emit)[i] = (uint16_t)by;
        }
    }
}

#endif
