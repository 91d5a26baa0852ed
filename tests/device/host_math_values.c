/* SPDX-License-Identifier: MIT */
#include "tests/device/host_math_values.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "tests/support/leaves.h"

static const uint32_t specials[] = {
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000,
    0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFABCDEF, 0x3F808000, 0x3F818000, 0xBF808000, 0x3F807FFF,
    0x3F808001, 0x7F7F8000, 0x477FE000, 0x477FEFFF, 0x477FF000, 0x47800000, 0x3F801000, 0x3F803000, 0x3F801001,
    0x387FE000, 0x387FF000, 0x33000000, 0x33000001, 0x32FFFFFF, 0x33C00000, 0x34200000, 0xB8801000,
};

uint32_t fast_variants(const sherd__host_math **out)
{
    uint32_t n = sherd__host_math_all(out, MAX_VARIANTS);
    assert_true(n >= 2);
    assert_string_equal(out[n - 1]->name, "reference");
    return n - 1;
}

const sherd__host_math *reference_variant(void)
{
    const sherd__host_math *all[MAX_VARIANTS];
    return all[fast_variants(all)];
}

void fill_values(void *out, sherd_dtype dtype, int64_t n, uint64_t seed, value_mix mix)
{
    sherd_test_leaf(seed, 1, 0, 0, dtype, n, out);
    for (int64_t i = 0; i < n && mix == SPECIAL; ++i) {
        uint64_t word = sherd_test_mix(seed, (uint64_t)i, 7, 7, 7);
        uint32_t bits = specials[word / 64 % (sizeof specials / sizeof *specials)];
        if (word % 3) {
            continue;
        }
        if (dtype == SHERD_FP16) { /* the same kinds of values, and subnormals */
            static const uint16_t halves[] = {0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00,
                                              0x7E00, 0xFE00, 0x7C01, 0xFD55, 0x3C01, 0x3C00, 0x0200};
            ((uint16_t *)out)[i] = halves[word / 64 % (sizeof halves / sizeof *halves)];
        } else if (dtype == SHERD_BF16) {
            ((uint16_t *)out)[i] = (uint16_t)(bits >> 16);
        } else {
            memcpy((float *)out + i, &bits, sizeof bits);
        }
    }
}

void *array_new(int64_t bytes)
{
    void *block = NULL;
    assert_int_equal(posix_memalign(&block, 64, (size_t)bytes + 4096), 0);
    memset(block, 0xA5, (size_t)bytes + 4096);
    return block;
}
