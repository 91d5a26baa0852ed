/* SPDX-License-Identifier: MIT
 *
 * An fp32 value is its bf16 rounding and a 16-bit remainder: (half << 16) + remainder are its bits again, the remainder
 * is a signed 16-bit number, and only a NaN comes back as the one NaN. The difference is formed in 64 bits here.
 *
 *     test_base_halves [all]      all: every bit pattern there is
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"

static int all;

/* 0: as it should be. */
static int wrong(uint32_t bits)
{
    float value = sherd__f32_of_bits(bits);
    uint16_t half = sherd__bf16_of_f32(value), remainder = sherd__remainder_of_f32(value);
    uint32_t back = sherd__bits_of_f32(sherd__f32_of_halves(half, remainder));
    int64_t difference = (int64_t)bits - ((int64_t)half << 16),
            kept = remainder < 0x8000 ? remainder : remainder - 0x10000;

    if ((bits & 0x7FFFFFFFu) > 0x7F800000u)
        return half != 0x7FC0 || remainder != 0 || back != 0x7FC00000u;
    return back != bits || difference != kept;
}

static void test_edges(void **state)
{
    static const uint32_t low[] = {0x0000, 0x0001, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0xFFFE, 0xFFFF};
    (void)state;
    for (uint32_t half = 0; half <= 0xFFFF; ++half)
        for (size_t i = 0; i < sizeof low / sizeof *low; ++i)
            if (wrong(half << 16 | low[i]))
                fail_msg("0x%08X does not come back", (unsigned)(half << 16 | low[i]));
}

/* The largest numbers round to infinity, and their remainders lead back. */
static void test_by_hand(void **state)
{
    static const struct {
        uint32_t bits;
        uint16_t half, remainder;
    } cases[] = {
        {0x3F800000, 0x3F80, 0x0000}, {0x3F800001, 0x3F80, 0x0001}, {0x3F807FFF, 0x3F80, 0x7FFF},
        {0x3F808000, 0x3F81, 0x8000}, {0x3F80FFFF, 0x3F81, 0xFFFF}, {0x80000000, 0x8000, 0x0000},
        {0x80000001, 0x8000, 0x0001}, {0x0000FFFF, 0x0001, 0xFFFF}, {0x7F7FFFFF, 0x7F80, 0xFFFF},
        {0x7F7F8000, 0x7F80, 0x8000}, {0x7F7F7FFF, 0x7F7F, 0x7FFF}, {0xFF7FFFFF, 0xFF80, 0xFFFF},
        {0x7F800000, 0x7F80, 0x0000}, {0xFF800000, 0xFF80, 0x0000}, {0x7F800001, 0x7FC0, 0x0000},
        {0xFFFFFFFF, 0x7FC0, 0x0000},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        float value = sherd__f32_of_bits(cases[i].bits);
        assert_int_equal(sherd__bf16_of_f32(value), cases[i].half);
        assert_int_equal(sherd__remainder_of_f32(value), cases[i].remainder);
        assert_int_equal(wrong(cases[i].bits), 0);
    }
}

static void test_all(void **state)
{
    uint64_t bad = 0, checked = 0;
    (void)state;
    if (!all)
        skip();
    for (uint64_t bits = 0; bits <= UINT32_MAX; ++bits, ++checked)
        bad += (uint64_t)wrong((uint32_t)bits);
    assert_int_equal(bad, 0);
    assert_true(checked == UINT64_C(1) << 32);
    printf("%llu bit patterns\n", (unsigned long long)checked);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_hand), cmocka_unit_test(test_edges),
                                       cmocka_unit_test(test_all)};
    all = argc > 1 && strcmp(argv[1], "all") == 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
