/* SPDX-License-Identifier: MIT
 *
 * The exact norm: rounding of the total against 128-bit integers, every exponent, order and sharding, what is not
 * finite.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "optim/norm.h"
#include "tests/support/leaves.h"

__extension__ typedef unsigned __int128 u128;

static double total_of(const double *sums, int n)
{
    sherd__norm norm;
    sherd__norm_clear(&norm);
    for (int i = 0; i < n; ++i) {
        sherd__norm_add_double(&norm, sums[i]);
    }
    return sherd__norm_total(&norm);
}

/* One number alone comes back as it was, at every exponent that squares of fp32 can have. */
static void test_every_exponent_comes_back(void **state)
{
    int checked = 0;
    (void)state;
    for (int e = -298; e <= 263; ++e) {
        double odd = ldexp(1.0 + 5.0 / 8.0, e), full = ldexp(2.0 - ldexp(1.0, -52), e), power = ldexp(1.0, e);
        assert_true(total_of(&power, 1) == power);
        if (e - 3 >= -298) {
            assert_true(total_of(&odd, 1) == odd);
        }
        if (e - 52 >= -298) {
            assert_true(total_of(&full, 1) == full);
            ++checked;
        }
    }
    assert_int_equal(checked, 510);
}

/* Ties and what lies just beside them, at many positions relative to the limbs. */
static void test_rounds_to_nearest_even(void **state)
{
    int checked = 0;
    (void)state;
    for (int shift = -240; shift <= 200; ++shift, ++checked) {
        double one = ldexp(1.0, shift), ulp = ldexp(1.0, shift - 52), half = ulp / 2, tiny = ldexp(1.0, -298);
        assert_true(total_of((double[]){one, half}, 2) == one);
        assert_true(total_of((double[]){one, half, tiny}, 3) == one + ulp);
        assert_true(total_of((double[]){one, ulp, half}, 3) == one + 2 * ulp);
        assert_true(total_of((double[]){one, half / 2, half / 4, tiny}, 4) == one);
        assert_true(total_of((double[]){one + (one - ulp), half, half}, 3) == 2 * one); /* the carry runs up */
    }
    assert_int_equal(checked, 441);
}

/* Sums of many random integers against the compiler's conversion of a 128-bit integer, which rounds once. */
static void test_totals_are_correctly_rounded(void **state)
{
    (void)state;
    for (uint64_t round = 0; round < 300; ++round) {
        sherd__norm norm;
        u128 exact = 0;
        sherd__norm_clear(&norm);
        for (uint64_t i = 0; i < 40; ++i) {
            uint64_t word = sherd_test_mix(round, i, 1, 1, 1);
            u128 term = (u128)(word >> 11) << (word % 60);
            exact += term;
            sherd__norm_add_double(&norm, (double)term); /* 53 bits: exact */
        }
        assert_true(sherd__norm_total(&norm) == (double)exact);
        assert_true(sherd__norm_root(&norm) == sqrt((double)exact));
    }
}

static void test_block_is_sixteen_lanes(void **state)
{
    float values[256];
    double lane[16] = {0}, a[8], b[4], c[2];
    sherd__norm norm;
    (void)state;
    sherd_test_leaf(4, 1, 1, 1, SHERD_FP32, 256, values);
    for (int i = 0; i < 256; ++i) {
        lane[i % 16] += (double)values[i] * (double)values[i];
    }
    for (int i = 0; i < 8; ++i) {
        a[i] = lane[i] + lane[i ^ 8];
    }
    for (int i = 0; i < 4; ++i) {
        b[i] = a[i] + a[i ^ 4];
    }
    c[0] = b[0] + b[2];
    c[1] = b[1] + b[3];
    sherd__norm_clear(&norm);
    sherd__norm_add_block(&norm, values, 256, 0);
    assert_true(sherd__norm_total(&norm) == c[0] + c[1]);
}

static void test_short_block_is_padded_with_zeros(void **state)
{
    float values[256] = {0};
    sherd__norm whole, part;
    (void)state;
    sherd_test_leaf(5, 1, 1, 1, SHERD_FP32, 77, values);
    sherd__norm_clear(&whole);
    sherd__norm_clear(&part);
    sherd__norm_add_block(&whole, values, 256, 0);
    sherd__norm_add_block(&part, values, 77, 0);
    assert_memory_equal(&whole, &part, sizeof whole);
}

/* Extremes: the smallest square, and 256 of the largest. */
static void test_extremes(void **state)
{
    float smallest = sherd__f32_of_bits(1), largest = sherd__f32_of_bits(0x7F7FFFFF), many[256];
    sherd__norm norm;
    (void)state;
    sherd__norm_clear(&norm);
    assert_true(sherd__norm_root(&norm) == 0.0);
    sherd__norm_add_block(&norm, &smallest, 1, 0);
    assert_true(sherd__norm_root(&norm) == (double)smallest);
    for (int i = 0; i < 256; ++i) {
        many[i] = largest;
    }
    sherd__norm_clear(&norm);
    sherd__norm_add_block(&norm, many, 256, 0);
    assert_true(sherd__norm_root(&norm) == 16.0 * (double)largest);
    assert_true(norm.bad_block == SHERD__NO_BAD_BLOCK);
}

/* Any sharing out and any order of 64 blocks: equal limbs after the carries, so equal totals. */
static void test_order_and_sharding_do_not_show(void **state)
{
    static float values[64 * 256];
    sherd__norm forward, shard[3], merged;
    double direct = 0;
    (void)state;
    sherd_test_leaf(6, 1, 1, 1, SHERD_FP32, 64 * 256, values);
    sherd__norm_clear(&forward);
    sherd__norm_clear(&merged);
    for (int s = 0; s < 3; ++s) {
        sherd__norm_clear(&shard[s]);
    }
    for (int i = 0; i < 64; ++i) {
        int shuffled = (i * 37 + 11) % 64;
        sherd__norm_add_block(&forward, values + i * 256, 256, (uint64_t)i);
        sherd__norm_add_block(&shard[shuffled % 3], values + shuffled * 256, 256, (uint64_t)shuffled);
        for (int k = 0; k < 256; ++k) {
            direct += (double)values[i * 256 + k] * (double)values[i * 256 + k];
        }
    }
    for (int s = 2; s >= 0; --s) {
        sherd__norm_merge(&merged, &shard[s]);
    }
    assert_memory_equal(&merged, &forward, sizeof merged);
    assert_true(fabs(sherd__norm_root(&merged) - sqrt(direct)) < 1e-10 * sqrt(direct));
}

static void test_smallest_bad_block_is_kept(void **state)
{
    static const uint32_t bad[] = {0x7F800000, 0xFF800000, 0x7FC00000, 0xFF800001};
    sherd__norm norm, other, before;
    float values[256] = {1.0f};
    (void)state;
    for (int k = 0; k < 4; ++k) {
        sherd__norm_clear(&norm);
        sherd__norm_add_block(&norm, values, 256, 0);
        before = norm;
        values[255] = sherd__f32_of_bits(bad[k]);
        sherd__norm_add_block(&norm, values, 256, 9);
        sherd__norm_add_block(&norm, values, 256, 4);
        sherd__norm_add_block(&norm, values, 256, 7);
        assert_true(norm.bad_block == 4);
        assert_memory_equal(norm.limb, before.limb, sizeof norm.limb);
        values[255] = 0.0f;
    }
    sherd__norm_clear(&other);
    sherd__norm_merge(&other, &norm);
    assert_true(other.bad_block == 4);
    sherd__norm_merge(&norm, &before);
    assert_true(norm.bad_block == 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_exponent_comes_back),
        cmocka_unit_test(test_rounds_to_nearest_even),
        cmocka_unit_test(test_totals_are_correctly_rounded),
        cmocka_unit_test(test_block_is_sixteen_lanes),
        cmocka_unit_test(test_short_block_is_padded_with_zeros),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_order_and_sharding_do_not_show),
        cmocka_unit_test(test_smallest_bad_block_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
