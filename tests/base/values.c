/* SPDX-License-Identifier: MIT
 *
 * Status, names, log, checked arithmetic, bf16, fp16.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/half.h"
#include "base/log.h"
#include "base/status.h"

static void test_fail_writes_the_sentence(void **state)
{
    sherd_error error = {.status = SHERD_OK, .rank = 9};
    (void)state;
    assert_int_equal(sherd__fail(&error, SHERD_EINVAL, "parameter '%s': %d", "w", 7), SHERD_EINVAL);
    assert_int_equal(error.status, SHERD_EINVAL);
    assert_int_equal(error.rank, -1);
    assert_string_equal(error.text, "parameter 'w': 7");
    assert_int_equal(sherd__fail_rank(&error, SHERD_ERANKDEAD, 3, "rank %d died", 3), SHERD_ERANKDEAD);
    assert_int_equal(error.rank, 3);
    assert_int_equal(sherd__fail(NULL, SHERD_EIO, "nobody listens"), SHERD_EIO);
}

static void test_long_sentences_are_cut(void **state)
{
    char big[2000];
    sherd_error error;
    (void)state;
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    sherd__fail(&error, SHERD_EIO, "%s", big);
    assert_int_equal(strlen(error.text), sizeof error.text - 1);
    assert_int_equal(error.text[sizeof error.text - 2], 'x');
}

static void test_pass_copies(void **state)
{
    sherd_error from, to = {.status = SHERD_OK};
    (void)state;
    sherd__fail_rank(&from, SHERD_ETIMEOUT, 2, "late");
    assert_int_equal(sherd__pass(&to, &from), SHERD_ETIMEOUT);
    assert_int_equal(to.rank, 2);
    assert_string_equal(to.text, "late");
    assert_int_equal(sherd__pass(NULL, &from), SHERD_ETIMEOUT);
    assert_int_equal(sherd__pass(&from, &from), SHERD_ETIMEOUT);
}

/* Numbers are part of the interface: they never change. */
static void test_status_numbers_and_names(void **state)
{
    static const struct { sherd_status status; int value; const char *name; } known[] = {
        {SHERD_OK, 0, "OK"},               {SHERD_EINVAL, 1, "EINVAL"},      {SHERD_ENOMEM, 2, "ENOMEM"},
        {SHERD_EIO, 3, "EIO"},             {SHERD_EUNSUPPORTED, 4, "EUNSUPPORTED"}, {SHERD_ESTATE, 5, "ESTATE"},
        {SHERD_ESYSTEM, 6, "ESYSTEM"},     {SHERD_EMISMATCH, 20, "EMISMATCH"}, {SHERD_ETIMEOUT, 21, "ETIMEOUT"},
        {SHERD_EABORTED, 22, "EABORTED"},  {SHERD_ERACE, 23, "ERACE"},       {SHERD_ERANKDEAD, 40, "ERANKDEAD"},
        {SHERD_EDEVICE, 41, "EDEVICE"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        assert_int_equal(known[i].status, known[i].value);
        assert_string_equal(sherd_status_name(known[i].status), known[i].name);
        assert_true(strlen(sherd_status_text(known[i].status)) > 5);
    }
    assert_non_null(sherd_status_name((sherd_status)999));
    assert_non_null(sherd_status_text((sherd_status)999));
}

static void test_other_names(void **state)
{
    int planned = 0;
    (void)state;
    for (int c = 0; c < SHERD_CATEGORIES; ++c) {
        assert_true(strlen(sherd_category_name((sherd_category)c)) > 3);
        planned += sherd_category_planned((sherd_category)c);
        for (int d = 0; d < c; ++d) {
            assert_string_not_equal(sherd_category_name((sherd_category)c), sherd_category_name((sherd_category)d));
        }
    }
    assert_int_equal(planned, 9);
    assert_string_equal(sherd_category_name(SHERD_CAT_GRADIENTS_SHARED), "gradients/shared");
    assert_non_null(sherd_category_name(SHERD_CATEGORIES));
    assert_string_equal(sherd_tier_name(SHERD_TIER_HOST), "host");
    assert_string_equal(sherd_dtype_name(SHERD_BF16), "bf16");
    assert_int_equal(sherd_dtype_bytes(SHERD_FP32), 4);
    assert_int_equal(sherd_dtype_bytes(SHERD_BF16), 2);
    assert_true(strlen(sherd_version()) < SHERD_VERSION_STRING_MAX);
}

static void test_memory_total(void **state)
{
    sherd_memory memory = {0};
    (void)state;
    memory.bytes[SHERD_TIER_HOST][SHERD_CAT_MASTER] = 5;
    memory.bytes[SHERD_TIER_HOST][SHERD_CAT_ROUNDING] = 7;
    memory.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER] = 100;
    assert_int_equal(sherd_memory_total(&memory, SHERD_TIER_HOST), 12);
    assert_int_equal(sherd_memory_total(&memory, SHERD_TIER_DISK), 0);
}

typedef struct heard {
    int calls;
    sherd_log_level level;
    char text[2048];
} heard;

static void hear(void *ctx, sherd_log_level level, const char *text)
{
    heard *h = ctx;
    h->calls += 1;
    h->level = level;
    snprintf(h->text, sizeof h->text, "%s", text);
}

static void test_log(void **state)
{
    heard h = {0};
    sherd_log log = {hear, &h}, silent = {NULL, &h};
    (void)state;
    sherd__log(&log, SHERD_LOG_WARNING, "rank %d waits", 4);
    assert_int_equal(h.calls, 1);
    assert_int_equal(h.level, SHERD_LOG_WARNING);
    assert_string_equal(h.text, "rank 4 waits");
    sherd__log(&silent, SHERD_LOG_INFO, "x");
    sherd__log(NULL, SHERD_LOG_INFO, "x");
    assert_int_equal(h.calls, 1);
}

static void test_checked(void **state)
{
    uint64_t u = 1;
    int64_t i = 1;
    (void)state;
    assert_true(sherd__add_u64(UINT64_MAX - 1, 1, &u) && u == UINT64_MAX);
    assert_false(sherd__add_u64(UINT64_MAX, 1, &u));
    assert_true(sherd__mul_u64(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &u));
    assert_false(sherd__mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &u));
    assert_true(sherd__add_i64(INT64_MAX - 1, 1, &i) && i == INT64_MAX);
    assert_false(sherd__add_i64(INT64_MAX, 1, &i));
    assert_false(sherd__mul_i64(INT64_MIN, -1, &i));
    assert_int_equal(sherd__round_up(0, 256), 0);
    assert_int_equal(sherd__round_up(1, 256), 256);
    assert_int_equal(sherd__round_up(256, 256), 256);
    assert_int_equal(sherd__round_up(257, 256), 512);
}

/* Every bf16 value survives; a float between two goes to the nearer one, a tie away from zero. Judged in double. */
static void test_bf16(void **state)
{
    int checked = 0;
    (void)state;
    for (uint32_t h = 0; h <= 0xFFFF; ++h) {
        float value = sherd__f32_of_bf16((uint16_t)h);
        assert_int_equal(sherd__bf16_of_f32(value), isnan(value) ? 0x7FC0 : h);
    }
    for (uint32_t h = 0; h < 0x7F7F; h += 13) {
        for (uint32_t low = 1; low <= 0xFFFF; low += 1213, ++checked) {
            float value = sherd__f32_of_bits(h << 16 | low);
            double below = sherd__f32_of_bf16((uint16_t)h), above = sherd__f32_of_bf16((uint16_t)(h + 1));
            uint16_t nearest = (double)value - below < above - (double)value ? (uint16_t)h : (uint16_t)(h + 1);
            assert_int_equal(sherd__bf16_of_f32(value), nearest);
            assert_int_equal(sherd__bf16_of_f32(-value), nearest | 0x8000);
        }
        assert_int_equal(sherd__bf16_of_f32(sherd__f32_of_bits(h << 16 | 0x8000)), h + 1);
    }
    assert_true(checked > 10000);
}

static double fp16_by_its_bits(uint32_t h)
{
    int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
    double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return h >> 15 ? -magnitude : magnitude;
}

/* Every fp16 value means what its bits say and survives; a float between two goes to the nearer one, a tie to the even
 * one; 65520 is the first to become infinite. Judged in double. */
static void test_fp16(void **state)
{
    (void)state;
    for (uint32_t h = 0; h <= 0xFFFF; ++h) {
        float value = sherd__f32_of_f16((uint16_t)h);
        int nan = (h & 0x7FFF) > 0x7C00;
        assert_int_equal(sherd__f16_of_f32(value), nan ? 0x7E00 : h);
        if ((h & 0x7FFF) >= 0x7C00)
            assert_true(nan ? isnan(value) : isinf(value) && (value < 0) == (h >> 15));
        else
            assert_true((double)value == fp16_by_its_bits(h) && !signbit(value) == !(h >> 15));
    }
    for (uint32_t h = 0; h < 0x7C00; ++h) {
        double below = fp16_by_its_bits(h), above = h == 0x7BFF ? 65536 : fp16_by_its_bits(h + 1);
        float middle = (float)((below + above) / 2);
        uint32_t even = h & 1 ? h + 1 : h;
        assert_int_equal(sherd__f16_of_f32(middle), even);
        assert_int_equal(sherd__f16_of_f32(-middle), even | 0x8000);
        assert_int_equal(sherd__f16_of_f32(nextafterf(middle, 0.0f)), h);
        assert_int_equal(sherd__f16_of_f32(nextafterf(middle, 1e9f)), h + 1);
    }
    assert_int_equal(sherd__f16_of_f32(3e38f), 0x7C00);
    assert_int_equal(sherd__f16_of_f32(-1e-40f), 0x8000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_writes_the_sentence), cmocka_unit_test(test_long_sentences_are_cut),
        cmocka_unit_test(test_pass_copies),              cmocka_unit_test(test_status_numbers_and_names),
        cmocka_unit_test(test_other_names),              cmocka_unit_test(test_memory_total),
        cmocka_unit_test(test_log),                      cmocka_unit_test(test_checked),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_fp16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
