/* SPDX-License-Identifier: MIT
 *
 * The injected allocator and the ledger.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/ledger.h"

typedef struct meter {
    size_t held;
    int refuse;
} meter;

static void *meter_alloc(void *ctx, size_t bytes)
{
    meter *m = ctx;
    void *block;
    if (m->refuse) {
        return NULL;
    }
    block = aligned_alloc(64, bytes);
    memset(block, 0xEE, bytes);
    m->held += bytes;
    return block;
}

static void meter_release(void *ctx, void *block, size_t bytes)
{
    meter *m = ctx;
    assert_true(m->held >= bytes);
    m->held -= bytes;
    free(block);
}

static void test_blocks_are_zeroed_aligned_and_freed_with_their_size(void **state)
{
    meter m = {0};
    sherd_allocator allocator = {meter_alloc, meter_release, &m};
    static const size_t counts[] = {0, 1, 7, 64, 65, 4097};
    unsigned char *block[6];
    (void)state;
    for (int i = 0; i < 6; ++i) {
        block[i] = sherd__alloc(&allocator, counts[i], 3);
        assert_non_null(block[i]);
        assert_int_equal((uintptr_t)block[i] % 64, 0);
        for (size_t at = 0; at < counts[i] * 3; ++at) {
            assert_int_equal(block[i][at], 0);
        }
    }
    assert_true(m.held >= 64);
    for (int i = 0; i < 6; ++i) {
        sherd__free(&allocator, block[i], counts[i], 3);
    }
    sherd__free(&allocator, NULL, 10, 10);
    assert_int_equal(m.held, 0);
}

static void test_wrapping_and_refusal_give_null(void **state)
{
    meter m = {0};
    sherd_allocator allocator = {meter_alloc, meter_release, &m};
    (void)state;
    assert_null(sherd__alloc(&allocator, SIZE_MAX / 2, 3));
    assert_null(sherd__alloc(&allocator, SIZE_MAX, 1));
    m.refuse = 1;
    assert_null(sherd__alloc(&allocator, 1, 1));
    assert_int_equal(m.held, 0);
}

static void test_default_allocator(void **state)
{
    sherd_allocator half = {meter_alloc, NULL, NULL}, chosen = sherd__allocator_or_default(&half);
    (void)state;
    assert_ptr_equal(chosen.alloc, sherd__default_allocator.alloc);
    chosen = sherd__allocator_or_default(NULL);
    sherd__free(&chosen, sherd__alloc(&chosen, 3, 3), 3, 3);
}

static void test_ledger_is_exact(void **state)
{
    sherd__ledger ledger;
    sherd_memory live, peak;
    uint64_t total_peak[SHERD_TIERS];
    (void)state;
    assert_int_equal(sherd__ledger_init(&ledger, NULL), SHERD_OK);
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MASTER, 100, 28, NULL), SHERD_OK);
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_GRADIENTS, 50, 0, NULL), SHERD_OK);
    sherd__ledger_sub(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MASTER, 100, 28);
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MOMENTS, 70, 2, NULL), SHERD_OK);
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_HOST, SHERD_CAT_MASTER, 9, 0, NULL), SHERD_OK);
    sherd__ledger_read(&ledger, &live, &peak, total_peak);
    assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER], 0);
    assert_int_equal(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ROUNDING], 2);
    assert_int_equal(sherd_memory_total(&live, SHERD_TIER_DEVICE), 122);
    assert_int_equal(peak.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER], 100);
    assert_int_equal(peak.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ROUNDING], 28);
    assert_int_equal(total_peak[SHERD_TIER_DEVICE], 178); /* not 100 + 50 + 70 + 28 */
    assert_int_equal(total_peak[SHERD_TIER_HOST], 9);
    sherd__ledger_fini(&ledger);
}

static void test_ledger_limit(void **state)
{
    sherd__ledger ledger;
    sherd_memory live;
    sherd_error error;
    (void)state;
    sherd__ledger_init(&ledger, NULL);
    ledger.limit[SHERD_TIER_DEVICE] = 1000;
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MASTER, 900, 100, &error), SHERD_OK);
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MOMENTS, 1, 0, &error), SHERD_ENOMEM);
    assert_non_null(strstr(error.text, "1000"));
    assert_non_null(strstr(error.text, "moments"));
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MOMENTS, UINT64_MAX, 8, &error),
                     SHERD_ENOMEM);
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_HOST, SHERD_CAT_MOMENTS, 5000, 0, &error), SHERD_OK);
    sherd__ledger_sub(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MASTER, 900, 100);
    assert_int_equal(sherd__ledger_add(&ledger, SHERD_TIER_DEVICE, SHERD_CAT_MOMENTS, 1000, 0, &error), SHERD_OK);
    sherd__ledger_read(&ledger, &live, NULL, NULL);
    assert_int_equal(sherd_memory_total(&live, SHERD_TIER_DEVICE), 1000);
    sherd__ledger_fini(&ledger);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks_are_zeroed_aligned_and_freed_with_their_size),
        cmocka_unit_test(test_wrapping_and_refusal_give_null),
        cmocka_unit_test(test_default_allocator),
        cmocka_unit_test(test_ledger_is_exact),
        cmocka_unit_test(test_ledger_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
