/* SPDX-License-Identifier: MIT
 *
 * Which of the host's kernels this processor runs.
 */
#include "device/host_math.h"

#include <string.h>

#include "device/host_math_table.h"

#if defined(SHERD_HAVE_X86_KERNELS)
static int runs_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int runs_avx512(void)
{
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

static int runs_always(void)
{
    return 1;
}

static const struct variant {
    const sherd__host_math *math;
    int (*runs)(void);
} variants[] = {
#if defined(SHERD_HAVE_X86_KERNELS)
    {&sherd__host_math_avx512, runs_avx512},
    {&sherd__host_math_avx2, runs_avx2},
#endif
    {&sherd__host_math_portable, runs_always},
    {&sherd__host_math_reference, runs_always},
};

uint32_t sherd__host_math_all(const sherd__host_math **out, uint32_t capacity)
{
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof variants / sizeof *variants && n < capacity; ++i) {
        if (variants[i].runs()) {
            out[n++] = variants[i].math;
        }
    }
    return n;
}

const sherd__host_math *sherd__host_math_best(void)
{
    const sherd__host_math *best = NULL;
    sherd__host_math_all(&best, 1);
    return best;
}

/* Where elements shrink, element i comes to lie where i / 2 was. One thread in rising order writes only what it has
 * read; several may share out [a, 2a) once [0, a) is done, because they write where [a / 2, a) was. */
void sherd__host_narrow(const sherd__host_math *math, sherd__team *team, void *data, sherd_dtype to, sherd_dtype from,
                        int64_t elems)
{
    const int64_t alone = 16384;
    int64_t at = elems < alone ? elems : alone;
    if (sherd_dtype_bytes(to) == sherd_dtype_bytes(from)) {
        math->convert(team, data, to, data, from, elems, 0);
        return;
    }
    math->convert(NULL, data, to, data, from, at, 0);
    while (at < elems) {
        int64_t n = elems - at < at ? elems - at : at;
        math->convert(team, (uint16_t *)data + at, to, (const float *)data + at, from, n, 0);
        at += n;
    }
}

void sherd__host_reduce_u64(uint64_t *dst, const void *const *src, uint32_t n_src, uint64_t offset, uint32_t n_sum,
                            uint32_t n_min)
{
    memset(dst, 0, n_sum * sizeof *dst);
    memset(dst + n_sum, 0xFF, n_min * sizeof *dst);
    for (uint32_t s = 0; s < n_src; ++s) {
        const uint64_t *words = (const uint64_t *)(const void *)((const char *)src[s] + offset);
        for (uint32_t i = 0; i < n_sum; ++i) {
            dst[i] += words[i];
        }
        for (uint32_t i = n_sum; i < n_sum + n_min; ++i) {
            dst[i] = words[i] < dst[i] ? words[i] : dst[i];
        }
    }
}
