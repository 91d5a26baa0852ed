/* SPDX-License-Identifier: MIT */
#include "bench/comm/limit.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "base/half.h"

void limit_sum_f32(float *restrict dst, const void *a, const void *b, uint64_t elems)
{
    const float *x = a, *y = b;
    for (uint64_t i = 0; i < elems; i++) {
        dst[i] = x[i] + y[i];
    }
}

void limit_sum_bf16(float *restrict dst, const void *a, const void *b, uint64_t elems)
{
    const uint16_t *x = a, *y = b;
    for (uint64_t i = 0; i < elems; i++) {
        dst[i] = sherd__f32_of_bf16(x[i]) + sherd__f32_of_bf16(y[i]);
    }
}

void limit_copy(void *dst, const void *src, uint64_t bytes)
{
    memcpy(dst, src, bytes);
}

void limit_add_bf16(void *inout, const void *in, uint64_t elems)
{
    uint16_t *x = inout;
    const uint16_t *y = in;
    for (uint64_t i = 0; i < elems; i++) {
        x[i] = sherd__bf16_of_f32(sherd__f32_of_bf16(x[i]) + sherd__f32_of_bf16(y[i]));
    }
}

#if defined(__AVX512F__)
void limit_sum_f32_past(float *dst, const void *a, const void *b, uint64_t elems)
{
    const float *x = a, *y = b;
    for (uint64_t i = 0; i + 16 <= elems; i += 16) {
        _mm512_stream_ps(dst + i, _mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(y + i)));
    }
    _mm_sfence();
}

static inline __m512 widen(const uint16_t *at)
{
    __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)at));
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

void limit_sum_bf16_past(float *dst, const void *a, const void *b, uint64_t elems)
{
    const uint16_t *x = a, *y = b;
    for (uint64_t i = 0; i + 16 <= elems; i += 16) {
        _mm512_stream_ps(dst + i, _mm512_add_ps(widen(x + i), widen(y + i)));
    }
    _mm_sfence();
}

void limit_copy_past(void *dst, const void *src, uint64_t bytes)
{
    for (uint64_t i = 0; i + 64 <= bytes; i += 64) {
        _mm512_stream_si512((void *)((char *)dst + i), _mm512_loadu_si512((const char *)src + i));
    }
    _mm_sfence();
}

const char *limit_name(void)
{
    return "AVX-512, ordinary and past-the-cache stores";
}

#else
/* Without AVX-512 the ordinary loops stand for both; glibc's memcpy goes past the caches by itself. */
void limit_sum_f32_past(float *dst, const void *a, const void *b, uint64_t elems)
{
    limit_sum_f32(dst, a, b, elems);
}
void limit_sum_bf16_past(float *dst, const void *a, const void *b, uint64_t elems)
{
    limit_sum_bf16(dst, a, b, elems);
}
void limit_copy_past(void *dst, const void *src, uint64_t bytes)
{
    limit_copy(dst, src, bytes);
}
const char *limit_name(void)
{
    return "ordinary stores";
}
#endif
