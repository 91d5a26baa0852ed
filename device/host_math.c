/* SPDX-License-Identifier: MIT
 *
 * Which of the host's kernels this processor runs.
 */
#include "device/host_math.h"

#include <string.h>

#include "device/host_math_table.h"

uint32_t sherd__host_math_all(const sherd__host_math **out, uint32_t capacity)
{
    uint32_t n = 0;
    if (n < capacity) {
        out[n++] = &sherd__host_math_reference;
    }
    return n;
}

const sherd__host_math *sherd__host_math_best(void)
{
    const sherd__host_math *best = NULL;
    sherd__host_math_all(&best, 1);
    return best;
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
