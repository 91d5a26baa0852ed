/* SPDX-License-Identifier: MIT */
#include "tests/support/leaves.h"

#include <string.h>

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

uint64_t sherd_test_mix(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
    return mix(mix(mix(mix(mix(a) ^ b) ^ c) ^ d) ^ e);
}

/* Sign and mantissa from the low half, exponent from the high half. */
static uint32_t leaf_bits(uint64_t word)
{
    uint32_t exponent = 127u - 20u + (uint32_t)(word >> 32) % 24u;
    if ((word >> 40 & 0x3FF) == 0) {
        return (uint32_t)word & 0x80000000u; /* one in 1024 is a zero */
    }
    return ((uint32_t)word & 0x807FFFFFu) | exponent << 23;
}

void sherd_test_leaf(uint64_t seed, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n,
                     void *out)
{
    for (int64_t i = 0; i < n; ++i) {
        uint32_t bits = leaf_bits(sherd_test_mix(seed, (uint64_t)step, (uint64_t)micro, param, (uint64_t)i));
        if (dtype == SHERD_BF16) {
            ((uint16_t *)out)[i] = (uint16_t)(bits >> 16);
        } else if (dtype == SHERD_FP16) { /* exponents 2^-14 - 7 to 2^3: a third of them subnormal */
            uint32_t exponent = bits >> 23 & 0xFFu ? (bits >> 23 & 0xFFu) - 107 : 0;
            ((uint16_t *)out)[i] = (uint16_t)((bits >> 16 & 0x8000u) | (exponent > 19 ? 19 : exponent) << 10 | (bits >> 13 & 0x3FFu));
        } else {
            memcpy((float *)out + i, &bits, sizeof bits);
        }
    }
}

void sherd_test_weights(uint64_t seed, uint32_t param, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; ++i) {
        uint64_t word = sherd_test_mix(seed, UINT64_MAX, 0, param, (uint64_t)i);
        int32_t value = (int32_t)(word % 2000001) - 1000000;
        out[i] = (float)(value ? value : 1) * 5e-8f;
    }
}
