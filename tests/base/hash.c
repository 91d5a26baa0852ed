/* SPDX-License-Identifier: MIT
 *
 * Digests: the seed of every block, independence from the way blocks are shared out, the 128-bit sum, and frozen
 * values.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "base/hash.h"
#include "tests/support/leaves.h"

#define ELEMS 1500

static float values[ELEMS];

static int fill(void **state)
{
    (void)state;
    sherd_test_leaf(3, 1, 0, 0, SHERD_FP32, ELEMS, values);
    return 0;
}

static void hex(const uint8_t bytes[16], char out[33])
{
    for (int i = 0; i < 16; ++i) {
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    }
}

/* XXH3-128 of nothing, and of "abc": published by its author; digests of ours, frozen because checkpoints and logs
 * hold them. */
static void test_frozen_values(void **state)
{
    sherd__hash_sum sum = {0, 0};
    float counting[300];
    uint8_t bytes[16];
    char text[33];
    (void)state;
    sherd__hash_plain("", 0, bytes);
    hex(bytes, text);
    assert_string_equal(text, "99aa06d3014798d86001c324468d497f");
    sherd__hash_plain("abc", 3, bytes);
    hex(bytes, text);
    assert_string_equal(text, "06b05ab6733a618578af5f94892f3950");
    for (int i = 0; i < 300; ++i) {
        counting[i] = (float)i;
    }
    sherd__hash_add(&sum, 5, 2, 512, counting, 300);
    sherd__hash_bytes(sum, bytes);
    hex(bytes, text);
    assert_string_equal(text, "fc617f9d5421088f5ae03a83a36f893e");
}

static void test_seed_and_length_of_each_block(void **state)
{
    sherd__hash_sum sum = {0, 0};
    uint64_t seed = UINT64_C(1) << 56 | UINT64_C(7) << 32 | 4;
    XXH128_hash_t a = XXH3_128bits_withSeed(values, 1024, seed), b = XXH3_128bits_withSeed(values + 256, 4, seed + 1);
    (void)state;
    sherd__hash_add(&sum, 7, 1, 1024, values, 257);
    assert_true(sum.low == a.low64 + b.low64);
    assert_true(sum.high == a.high64 + b.high64 + (a.low64 + b.low64 < a.low64));
}

static sherd__hash_sum split_at(int64_t cut)
{
    sherd__hash_sum first = {0, 0}, second = {0, 0};
    sherd__hash_add(&second, 2, 0, cut, values + cut, ELEMS - cut);
    sherd__hash_add(&first, 2, 0, 0, values, cut);
    sherd__hash_merge(&second, first);
    return second;
}

static void test_sharding_does_not_show(void **state)
{
    sherd__hash_sum whole = {0, 0};
    int compared = 0;
    (void)state;
    sherd__hash_add(&whole, 2, 0, 0, values, ELEMS);
    for (int64_t cut = 0; cut < ELEMS; cut += 256, ++compared) {
        sherd__hash_sum sum = split_at(cut);
        assert_true(sum.low == whole.low && sum.high == whole.high);
    }
    assert_int_equal(compared, 6);
}

/* Parameter, place, position, order of the values and the last bit all count. */
static void test_everything_counts(void **state)
{
    sherd__hash_sum base = {0, 0}, other[5] = {{0, 0}, {0, 0}, {0, 0}, {0, 0}, {0, 0}};
    float changed[ELEMS];
    (void)state;
    sherd__hash_add(&base, 2, 0, 0, values, ELEMS);
    sherd__hash_add(&other[0], 3, 0, 0, values, ELEMS);
    sherd__hash_add(&other[1], 2, 1, 0, values, ELEMS);
    sherd__hash_add(&other[2], 2, 0, 256, values, ELEMS);
    sherd__hash_add(&other[3], 2, 0, 0, values, ELEMS - 1);
    memcpy(changed, values, sizeof changed);
    memcpy(changed, values + 256, 1024);
    memcpy(changed + 256, values, 1024);
    sherd__hash_add(&other[4], 2, 0, 0, changed, ELEMS);
    for (int i = 0; i < 5; ++i) {
        assert_true(other[i].low != base.low || other[i].high != base.high);
    }
}

static void test_limbs_carry(void **state)
{
    sherd__hash_sum one = {UINT64_MAX - 5, UINT64_MAX - 9}, expected = {0, 0};
    uint64_t limbs[4], total[4] = {0, 0, 0, 0};
    (void)state;
    for (int rank = 0; rank < 1000; ++rank) {
        sherd__hash_to_limbs(one, limbs);
        for (int i = 0; i < 4; ++i) {
            assert_true(limbs[i] <= UINT32_MAX);
            total[i] += limbs[i];
        }
        sherd__hash_merge(&expected, one);
        one.low = one.low * 3 + 1;
        one.high = one.high * 5 + 7;
    }
    one = sherd__hash_from_limbs(total);
    assert_true(one.low == expected.low && one.high == expected.high);
}

static void test_bytes_are_most_significant_first(void **state)
{
    uint8_t bytes[16];
    char text[33];
    (void)state;
    sherd__hash_bytes((sherd__hash_sum){UINT64_C(0x08090a0b0c0d0e0f), UINT64_C(0x0001020304050607)}, bytes);
    hex(bytes, text);
    assert_string_equal(text, "000102030405060708090a0b0c0d0e0f");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frozen_values),     cmocka_unit_test(test_seed_and_length_of_each_block),
        cmocka_unit_test(test_everything_counts), cmocka_unit_test(test_sharding_does_not_show),
        cmocka_unit_test(test_limbs_carry),       cmocka_unit_test(test_bytes_are_most_significant_first),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
