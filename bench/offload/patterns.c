/* SPDX-License-Identifier: MIT */
#include "bench/offload/patterns.h"

#include <stddef.h>

#if defined(__x86_64__)
#include <immintrin.h>

/* Zero, but the compiler cannot know: the sum is read and added, and the values stay as they are. */
static volatile int32_t nothing;

/* X(suffix, arrays past the caches, emit past the caches, elements ahead) */
#define PATTERN_MAP(X)                                                                                                 \
    X(through, 0, 0, 0)                                                                                                \
    X(through_256, 0, 0, 256)                                                                                          \
    X(through_512, 0, 0, 512) X(emit_past, 0, 1, 0) X(emit_past_128, 0, 1, 128) X(emit_past_256, 0, 1, 256)            \
        X(emit_past_512, 0, 1, 512) X(emit_past_1024, 0, 1, 1024) X(all_past, 1, 1, 0) X(all_past_128, 1, 1, 128)      \
            X(all_past_256, 1, 1, 256) X(all_past_512, 1, 1, 512)
/* X(suffix, arrays past the caches, emit past the caches) */
#define IN_TURN_MAP(X) X(through, 0, 0) X(emit_past, 0, 1) X(all_past, 1, 1)

#define LOOP(name) name##_v256
#define VEC __m256i
#define VEC_BYTES 32
#define TARGET __attribute__((target("avx2")))
#define LOAD(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define WIDEN(p) _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define STORE(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define STREAM(p, v) _mm256_stream_si256((__m256i *)(void *)(p), v)
#define ADD(a, b) _mm256_add_epi32(a, b)
#define AND(a, b) _mm256_and_si256(a, b)
#define MERGE(a, b) _mm256_xor_si256(a, b)
#define SET(x) _mm256_set1_epi32(x)
#include "bench/offload/pattern_loop.h"
#undef LOOP
#undef VEC
#undef VEC_BYTES
#undef TARGET
#undef LOAD
#undef WIDEN
#undef STORE
#undef STREAM
#undef ADD
#undef AND
#undef MERGE
#undef SET

#define LOOP(name) name##_v512
#define VEC __m512i
#define VEC_BYTES 64
#define TARGET __attribute__((target("avx512f")))
#define LOAD(p) _mm512_loadu_si512((const void *)(p))
#define WIDEN(p) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define STORE(p, v) _mm512_storeu_si512((void *)(p), v)
#define STREAM(p, v) _mm512_stream_si512((void *)(p), v)
#define ADD(a, b) _mm512_add_epi32(a, b)
#define AND(a, b) _mm512_and_si512(a, b)
#define MERGE(a, b) _mm512_xor_si512(a, b)
#define SET(x) _mm512_set1_epi32(x)
#include "bench/offload/pattern_loop.h"

static const pattern v512[] = {
#define X(suffix, ...) {"512 bits, together, " #suffix, together_##suffix##_v512},
    PATTERN_MAP(X)
#undef X
#define X(suffix, ...) {"512 bits, in turn, " #suffix, in_turn_##suffix##_v512},
        IN_TURN_MAP(X)
#undef X
};

static const pattern v256[] = {
#define X(suffix, ...) {"256 bits, together, " #suffix, together_##suffix##_v256},
    PATTERN_MAP(X)
#undef X
#define X(suffix, ...) {"256 bits, in turn, " #suffix, in_turn_##suffix##_v256},
        IN_TURN_MAP(X)
#undef X
};

static int add(const pattern **out, int n, int capacity, const pattern *from, size_t count)
{
    for (size_t i = 0; i < count && n < capacity; ++i) {
        out[n++] = &from[i];
    }
    return n;
}

int patterns_all(const pattern **out, int capacity)
{
    int n = 0;
    if (__builtin_cpu_supports("avx512f")) {
        n = add(out, n, capacity, v512, sizeof v512 / sizeof *v512);
    }
    return __builtin_cpu_supports("avx2") ? add(out, n, capacity, v256, sizeof v256 / sizeof *v256) : n;
}

#else

/* Elsewhere the compiler's own vector code, without a choice. */
static volatile uint32_t nothing;

static void plain(const pattern_streams *s, int64_t begin, int64_t end)
{
    uint32_t mask = nothing;
    for (int64_t i = begin; i < end; ++i) {
        uint32_t by = mask & (s->sum_bytes == 2 ? ((const uint16_t *)(const void *)s->sum)[i]
                                                : ((const uint32_t *)(const void *)s->sum)[i]);
        for (int a = 0; a < s->arrays; ++a) {
            ((uint32_t *)(void *)s->out[a])[i] = ((const uint32_t *)(const void *)s->in[a])[i] + by;
        }
        ((uint16_t *)(void *)s->emit)[i] = (uint16_t)by;
    }
}

int patterns_all(const pattern **out, int capacity)
{
    static const pattern only = {"plain C", plain};
    *out = &only;
    return capacity > 0;
}

#endif
