/* SPDX-License-Identifier: MIT
 *
 * Tree sums, conversions and copies: every fast variant against the reference, bit for bit, norm and what lies behind
 * the end included; and the reference against the specification written out by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/host_math_values.h"
#include "tests/support/leaves.h"

#define MAX_SOURCES 33
#define LARGEST 33000

static sherd__team *teams[5];
static uint64_t cases;

static int make_teams(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= 4; ++threads) {
        if (sherd__team_create(&sherd__default_allocator, threads, &teams[threads], NULL) != SHERD_OK) {
            return -1;
        }
    }
    return 0;
}

static int drop_teams(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= 4; ++threads) {
        sherd__team_destroy(teams[threads]);
    }
    return 0;
}

typedef struct sum_case {
    uint32_t n_src;
    sherd_dtype src_dtype, dst_dtype;
    int32_t add, narrow, norm, alias;
    int64_t elems;
    uint64_t offset;
    value_mix mix;
} sum_case;

/* Values of source s are always the same: made once, copied where they are needed. */
static const void *values_of(uint32_t s, sherd_dtype dtype, value_mix mix)
{
    static float pool[MAX_SOURCES + 1][3][2][LARGEST];
    static char made[MAX_SOURCES + 1][3][2];
    if (!made[s][dtype][mix]) {
        fill_values(pool[s][dtype][mix], dtype, LARGEST, 99 + s, mix);
        made[s][dtype][mix] = 1;
    }
    return pool[s][dtype][mix];
}

/* Runs one case; out gets the destination and its guard, *norm the norm. */
static void run_sum(const sherd__host_math *math, sherd__team *team, const sum_case *c, char *out, sherd__norm *norm)
{
    int64_t src_bytes = (c->src_dtype == SHERD_FP32 ? 4 : 2) * c->elems;
    void *src[MAX_SOURCES];
    sherd__tree_sum sum = {.src = (const void *const *)src, .n_src = c->n_src, .src_offset = c->offset,
                           .src_dtype = c->src_dtype, .dst_dtype = c->dst_dtype, .dst = out, .elems = c->elems,
                           .add = c->add, .narrow = c->narrow, .norm = c->norm ? norm : NULL, .first_block = 1000};
    for (uint32_t s = 0; s < c->n_src; ++s) {
        src[s] = array_new(src_bytes + (int64_t)c->offset);
        memcpy((char *)src[s] + c->offset, values_of(s + 1, c->src_dtype, c->mix), (size_t)src_bytes);
    }
    memset(out, 0x5A, LARGEST * 4 + 4096);
    memcpy(out, values_of(0, c->dst_dtype, c->mix), (size_t)c->elems * (c->dst_dtype == SHERD_FP32 ? 4 : 2));
    if (c->alias) {
        sum.dst = (char *)src[c->n_src - 1] + c->offset;
    }
    sherd__norm_clear(norm);
    math->tree_sum(team, &sum);
    if (c->alias) {
        memcpy(out, sum.dst, (size_t)src_bytes);
    }
    for (uint32_t s = 0; s < c->n_src; ++s) {
        free(src[s]);
    }
}

static void check_sum(const sum_case *c, int32_t threads)
{
    const sherd__host_math *fast[MAX_VARIANTS];
    static char expected[LARGEST * 4 + 4096], got[LARGEST * 4 + 4096];
    sherd__norm expected_norm, norm;
    uint32_t n = fast_variants(fast);
    run_sum(reference_variant(), NULL, c, expected, &expected_norm);
    for (uint32_t v = 0; v < n; ++v) {
        run_sum(fast[v], teams[threads], c, got, &norm);
        if (memcmp(expected, got, sizeof got) != 0 || memcmp(&expected_norm, &norm, sizeof norm) != 0) {
            fail_msg("%s, %d threads: %u sources, dtypes %d to %d, add %d, narrow %d, norm %d, alias %d, "
                     "%lld elements, offset %llu",
                     fast[v]->name, (int)threads, c->n_src, (int)c->src_dtype, (int)c->dst_dtype, (int)c->add,
                     (int)c->narrow, (int)c->norm, (int)c->alias, (long long)c->elems, (unsigned long long)c->offset);
        }
        ++cases;
    }
}

static const int64_t sizes[] = {0, 1, 255, 256, 257, 1000, 1024, 1280, 16384, 16640, 32999};

static void test_sums_equal_reference(void **state)
{
    int32_t turn = 0;
    (void)state;
    cases = 0;
    for (uint32_t n_src = 1; n_src <= MAX_SOURCES; n_src += n_src < 9 ? 1 : n_src == 9 ? 7 : n_src == 16 ? 1 : 16) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
            for (int kind = 0; kind < 30; ++kind, ++turn) {
                int shape = kind % 5;
                if ((sizes[s] > 20000 && turn % 4) || (sizes[s] > 2000 && n_src > 9)) {
                    continue;
                }
                sum_case c = {.n_src = n_src, .src_dtype = (sherd_dtype)(kind / 5 % 3), .elems = sizes[s]};
                c.dst_dtype = shape == 4 ? SHERD_BF16 : SHERD_FP32;
                c.add = shape == 1 || shape == 3;
                c.narrow = shape >= 2;
                c.mix = kind / 15 ? SPECIAL : FINITE;
                c.norm = turn % 3 != 0;
                c.offset = turn % 2 ? 0 : 1024;
                c.alias = shape == 0 && c.src_dtype == SHERD_FP32;
                check_sum(&c, 1 + turn % 4);
            }
        }
    }
    assert_true(cases >= 9 * 10 * 20);
    printf("tree sums compared: %llu\n", (unsigned long long)cases);
}

/* Large enough for stores past the caches, and not a multiple of anything. */
static void test_large_sums_and_copies(void **state)
{
    const sherd__host_math *fast[MAX_VARIANTS];
    uint32_t n = fast_variants(fast);
    int64_t elems = (5 << 20) / 4 + 256 * 3 + 7;
    void *a = array_new(elems * 4), *b = array_new(elems * 4);
    char *expected = array_new(elems * 4 + 64), *got = array_new(elems * 4 + 64);
    const void *src[] = {a, b};
    (void)state;
    fill_values(a, SHERD_FP32, elems, 1, SPECIAL);
    fill_values(b, SHERD_FP32, elems, 2, SPECIAL);
    for (uint32_t v = 0; v < n; ++v) {
        for (int64_t shift = 0; shift <= 4; shift += 4) { /* a destination off the vector grid too */
            sherd__tree_sum sum = {.src = src, .n_src = 2, .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32,
                                   .dst = expected + shift, .elems = elems};
            memset(expected, 0x5A, (size_t)elems * 4 + 64);
            memset(got, 0x5A, (size_t)elems * 4 + 64);
            reference_variant()->tree_sum(NULL, &sum);
            sum.dst = got + shift;
            fast[v]->tree_sum(teams[3], &sum);
            assert_memory_equal(expected + shift, got + shift, (size_t)elems * 4 + 60 - (size_t)shift);
            fast[v]->copy(teams[2], got + shift, a, (uint64_t)elems * 4 - 1);
            assert_memory_equal(got + shift, a, (size_t)elems * 4 - 1);
            assert_int_equal(got[elems * 4 - 1 + shift], expected[elems * 4 - 1 + shift]);
        }
    }
    free(a);
    free(b);
    free(expected);
    free(got);
}

static float sum_of(uint32_t n, const float *leaf)
{
    const void *src[MAX_SOURCES];
    float out = 0.0f;
    sherd__tree_sum sum = {.src = src, .n_src = n, .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = &out,
                           .elems = 1};
    for (uint32_t i = 0; i < n; ++i) {
        src[i] = leaf + i;
    }
    reference_variant()->tree_sum(NULL, &sum);
    return out;
}

/* The specification by hand, and wrong orders that must be noticed. */
static void test_order_is_the_balanced_tree(void **state)
{
    int unlike_in_order = 0, unlike_halves = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 200; ++seed) {
        float x[9], in_order, volatile_sum;
        sherd_test_leaf(seed, 1, 0, 0, SHERD_FP32, 9, x);
        assert_true(sum_of(1, x) == x[0]);
        assert_true(sum_of(2, x) == x[0] + x[1]);
        assert_true(sum_of(3, x) == (x[0] + x[1]) + x[2]);
        assert_true(sum_of(5, x) == ((x[0] + x[1]) + (x[2] + x[3])) + x[4]);
        volatile_sum = ((x[0] + x[1]) + (x[2] + x[3])) + (x[4] + x[5]);
        assert_true(sum_of(6, x) == volatile_sum);
        assert_true(sum_of(7, x) == ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + x[6]));
        assert_true(sum_of(8, x) == ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])));
        in_order = ((((x[0] + x[1]) + x[2]) + x[3]) + x[4]) + x[5];
        unlike_in_order += in_order != volatile_sum;
        unlike_halves += (x[0] + x[1] + x[2]) + ((x[3] + x[4]) + x[5]) != volatile_sum;
        assert_true(sum_of(3, x) == (x[0] + x[1]) + x[2]);
        unlike_in_order += x[0] + (x[1] + x[2]) != sum_of(3, x);
    }
    /* If these were rare the leaves could not tell an order from another. */
    assert_true(unlike_in_order > 100);
    assert_true(unlike_halves > 50);
}

static void test_minus_zero_survives(void **state)
{
    const sherd__host_math *all[MAX_VARIANTS];
    uint32_t n = sherd__host_math_all(all, MAX_VARIANTS);
    float zero[256], out[256];
    const void *src[] = {zero, zero, zero};
    (void)state;
    for (int i = 0; i < 256; ++i) {
        zero[i] = -0.0f;
    }
    for (uint32_t v = 0; v < n; ++v) {
        for (uint32_t leaves = 1; leaves <= 3; ++leaves) {
            sherd__tree_sum sum = {.src = src, .n_src = leaves, .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32,
                                   .dst = out, .elems = 256};
            memset(out, 0x11, sizeof out);
            all[v]->tree_sum(NULL, &sum);
            assert_memory_equal(out, zero, sizeof out);
            sum.add = 1;
            all[v]->tree_sum(NULL, &sum);
            assert_memory_equal(out, zero, sizeof out);
        }
    }
}

static void convert_case(const sherd__host_math *math, sherd__team *team, int kind, int64_t elems, char *out)
{
    sherd_dtype dst = (sherd_dtype)(kind % 3), src = (sherd_dtype)(kind / 3 % 3);
    void *values = array_new(elems * 4);
    memset(out, 0x5A, LARGEST * 4 + 4096);
    fill_values(out, dst, elems, 5, SPECIAL);
    fill_values(values, src, elems, 6, SPECIAL);
    math->convert(team, out, dst, values, src, elems, kind / 9);
    free(values);
}

static void test_conversions_equal_reference(void **state)
{
    const sherd__host_math *fast[MAX_VARIANTS];
    static char expected[LARGEST * 4 + 4096], got[LARGEST * 4 + 4096];
    uint32_t n = fast_variants(fast);
    (void)state;
    for (int kind = 0; kind < 18; ++kind) {
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; ++s) {
            convert_case(reference_variant(), NULL, kind, sizes[s], expected);
            for (uint32_t v = 0; v < n; ++v) {
                convert_case(fast[v], teams[1 + (kind + s) % 4], kind, sizes[s], got);
                assert_memory_equal(expected, got, sizeof got);
            }
        }
    }
}

/* In place, against a conversion out of place; what lies behind the values that were there is not touched. */
static void narrow_case(const sherd__host_math *math, sherd__team *team, int kind, int64_t elems)
{
    static const sherd_dtype pairs[][2] = {
        {SHERD_BF16, SHERD_FP32}, {SHERD_FP16, SHERD_FP32}, {SHERD_FP16, SHERD_BF16}, {SHERD_BF16, SHERD_FP16}};
    sherd_dtype to = pairs[kind][0], from = pairs[kind][1];
    size_t bytes = (size_t)elems * (size_t)sherd_dtype_bytes(from);
    char *data = array_new((int64_t)bytes), *want = array_new(elems * 2);
    fill_values(data, from, elems, 17, SPECIAL);
    reference_variant()->convert(NULL, want, to, data, from, elems, 0);
    sherd__host_narrow(math, team, data, to, from, elems);
    if (memcmp(data, want, (size_t)elems * 2) != 0) {
        fail_msg("%s, %lld elements of type %d to %d", math->name, (long long)elems, from, to);
    }
    for (int i = 0; i < 4096; ++i) {
        assert_int_equal((unsigned char)data[bytes + (size_t)i], 0xA5);
    }
    free(data);
    free(want);
}

static void test_narrowing_in_place(void **state)
{
    static const int64_t lengths[] = {0, 1, 2, 3, 511, 513, 16383, 16384, 16385, 32768, 32769, 100001, 262144, 300007};
    const sherd__host_math *all[MAX_VARIANTS];
    uint32_t n = sherd__host_math_all(all, MAX_VARIANTS);
    (void)state;
    for (int kind = 0; kind < 4; ++kind) {
        for (size_t s = 0; s < sizeof lengths / sizeof *lengths; ++s) {
            for (uint32_t v = 0; v < n; ++v) {
                narrow_case(all[v], teams[(kind + s + v) % 5], kind, lengths[s]);
            }
        }
    }
}

/* Known values of the narrowing rule: nearest, ties away from zero, overflow to infinity, one NaN. */
static void test_narrowing_rule(void **state)
{
    static const struct { uint32_t from; uint16_t to; } known[] = {
        {0x3F800000, 0x3F80}, {0x3F807FFF, 0x3F80}, {0x3F808000, 0x3F81}, {0x3F818000, 0x3F82}, {0xBF808000, 0xBF81},
        {0x80000000, 0x8000}, {0x00008000, 0x0001}, {0x00007FFF, 0x0000}, {0x7F7FFFFF, 0x7F80}, {0xFF7F8000, 0xFF80},
        {0x7F800000, 0x7F80}, {0xFF800000, 0xFF80}, {0x7F800001, 0x7FC0}, {0xFFFFFFFF, 0x7FC0}, {0x7FFFFFFF, 0x7FC0},
    };
    const sherd__host_math *all[MAX_VARIANTS];
    uint32_t n = sherd__host_math_all(all, MAX_VARIANTS);
    (void)state;
    for (size_t k = 0; k < sizeof known / sizeof *known; ++k) {
        uint32_t from[40];
        uint16_t to[40];
        for (int i = 0; i < 40; ++i) {
            from[i] = known[k].from;
        }
        for (uint32_t v = 0; v < n; ++v) {
            all[v]->convert(NULL, to, SHERD_BF16, from, SHERD_FP32, 40, 0);
            for (int i = 0; i < 40; ++i) {
                assert_int_equal(to[i], known[k].to);
            }
        }
    }
}

static void test_reduce_u64(void **state)
{
    uint64_t a[] = {9, 1, UINT64_MAX, 7, 5}, b[] = {9, 2, 2, 3, UINT64_MAX}, dst[] = {77, 77, 77, 77, 77};
    const void *src[] = {a, b};
    (void)state;
    sherd__host_reduce_u64(dst, src, 2, 8, 2, 2);
    assert_true(dst[0] == 3 && dst[1] == 1 /* wraps */ && dst[2] == 3 && dst[3] == 5 && dst[4] == 77);
    sherd__host_reduce_u64(dst, src, 1, 0, 0, 1);
    assert_true(dst[0] == 9 && dst[1] == 1);
}

static void test_variants(void **state)
{
    const sherd__host_math *all[MAX_VARIANTS], *one;
    uint32_t n = sherd__host_math_all(all, MAX_VARIANTS);
    (void)state;
    assert_ptr_equal(sherd__host_math_best(), all[0]);
    assert_string_equal(all[n - 2]->name, "portable");
    assert_int_equal(sherd__host_math_all(&one, 1), 1);
    for (uint32_t v = 0; v < n; ++v) {
        printf("variant: %s\n", all[v]->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_order_is_the_balanced_tree),
        cmocka_unit_test(test_sums_equal_reference),
        cmocka_unit_test(test_large_sums_and_copies),
        cmocka_unit_test(test_minus_zero_survives),
        cmocka_unit_test(test_conversions_equal_reference),
        cmocka_unit_test(test_narrowing_in_place),
        cmocka_unit_test(test_narrowing_rule),
        cmocka_unit_test(test_reduce_u64),
    };
    return cmocka_run_group_tests(tests, make_teams, drop_teams);
}
