/* SPDX-License-Identifier: MIT
 *
 * fma by way of double against the C library's, on values made to round twice.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/half.h"
#include "optim/fma.h"
#include "tests/support/leaves.h"

static int naive_differs;

static void check(float a, float b, float c)
{
    float expected = fmaf(a, b, c), got = sherd__fma_in_double(a, b, c);
    if (isnan(expected)) {
        assert_true(isnan(got));
        return;
    }
    if (sherd__bits_of_f32(got) != sherd__bits_of_f32(expected)) {
        fail_msg("fma(%a, %a, %a) is %a, not %a", (double)a, (double)b, (double)c, (double)expected, (double)got);
    }
    naive_differs += (float)((double)a * (double)b + (double)c) != expected;
}

/* Exponents that nearly meet, so that sums lie next to ties; subnormal results; overflow; both signs. */
static void test_random_triples(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < 2000000; ++i) {
        uint64_t word = sherd_test_mix(i, 1, 2, 3, 4), more = sherd_test_mix(i, 5, 6, 7, 8);
        float a = sherd__f32_of_bits((uint32_t)word), b = sherd__f32_of_bits((uint32_t)(word >> 32));
        float c = sherd__f32_of_bits((uint32_t)more);
        check(a, b, c);
        /* Few bits in a and b, c far away: the product falls exactly on or beside half a unit of c. */
        a = sherd__f32_of_bits(((uint32_t)word & 0x80000000u) | 0x3F800000u | ((uint32_t)word & 0x7F0000u));
        b = ldexpf(1.0f + (float)(word >> 40 & 0xF) / 16.0f, -(int)(word >> 48 & 63));
        c = sherd__f32_of_bits(((uint32_t)more & 0x807FFFFFu) | 0x3F800000u);
        check(a, b, c);
        check(a * 0x1p-100f, b * 0x1p-26f, c * 0x1p-126f);
    }
}

/* (2^-12 + 2^-35)(2^-12 - 2^-35) is 2^-24 - 2^-70. Added to 1 + 2^-23 it lies below a tie by less than a double can
 * hold: rounding twice gives the even neighbour above. Such values must be judged rightly, and must show the naive
 * way wrong. */
static void test_double_rounding_traps(void **state)
{
    (void)state;
    naive_differs = 0;
    for (int scale = -40; scale <= 40; ++scale) {
        float c = ldexpf(1.0f + 0x1p-23f, 2 * scale);
        float a = ldexpf(0x1p-12f + 0x1p-35f, scale), b = ldexpf(0x1p-12f - 0x1p-35f, scale);
        check(a, b, c);
        check(-a, b, -c);
        check(a, -b, c);
    }
    assert_true(naive_differs >= 2 * 81);
}

static void test_special_values(void **state)
{
    static const uint32_t special[] = {0, 0x80000000, 1, 0x80000001, 0x7FFFFF, 0x800000, 0x3F800000, 0xBF800000,
                                       0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000};
    int n = (int)(sizeof special / sizeof *special);
    (void)state;
    for (int i = 0; i < n * n * n; ++i) {
        check(sherd__f32_of_bits(special[i % n]), sherd__f32_of_bits(special[i / n % n]),
              sherd__f32_of_bits(special[i / n / n]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_triples), cmocka_unit_test(test_double_rounding_traps),
        cmocka_unit_test(test_special_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
