/* SPDX-License-Identifier: MIT
 *
 * Memory of the host device: exact in the ledger at every moment, limited, aligned, and clean when anything fails.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <unistd.h>

#include "tests/device/world.h"
#include "tests/support/fail_alloc.h"

static uint64_t live(sherd_device *device, sherd_tier tier, sherd_category category)
{
    sherd_memory memory;
    sherd_device_memory(device, &memory, NULL);
    return memory.bytes[tier][category];
}

static uint64_t expected_rounding(uint64_t bytes)
{
    uint64_t unit = bytes >= 65536 ? (uint64_t)sysconf(_SC_PAGESIZE) : 64;
    uint64_t whole = ((bytes ? bytes : 1) + unit - 1) / unit * unit;
    return whole - bytes;
}

static void sizes_are_booked_exactly(void **state)
{
    static const uint64_t sizes[] = {0, 1, 63, 64, 65, 4096, 65535, 65536, 65537, 1000001, 5u << 20};
    (void)state;
    sherd_device *device = make_device(1, 0);
    uint64_t metadata = live(device, SHERD_TIER_HOST, SHERD_CAT_METADATA);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *block = NULL;
        OK(sherd_device_alloc(device, sizes[i], SHERD_CAT_MOMENTS, (void **)&block, NULL));
        assert_true((uintptr_t)block % 64 == 0);
        memset(block, 0xA5, (size_t)(sizes[i] + expected_rounding(sizes[i]))); /* all of it is there */
        assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_MOMENTS) == sizes[i]);
        assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ROUNDING) == expected_rounding(sizes[i]));
        sherd_device_free(device, block);
        assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_MOMENTS) == 0);
        assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ROUNDING) == 0);
    }
    assert_true(live(device, SHERD_TIER_HOST, SHERD_CAT_METADATA) == metadata);
    sherd_memory peak;
    sherd_device_memory(device, NULL, &peak);
    assert_true(peak.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MOMENTS] == 5u << 20);
    assert_true(sherd_device_peak_total(device, SHERD_TIER_DEVICE) >= 5u << 20);
    sherd_device_destroy(device);
}

static void peaks_are_of_moments_not_of_sums(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    void *a, *b;
    OK(sherd_device_alloc(device, 64000, SHERD_CAT_MASTER, &a, NULL));
    sherd_device_free(device, a);
    OK(sherd_device_alloc(device, 32000, SHERD_CAT_MOMENTS, &b, NULL));
    OK(sherd__device_alloc(device, SHERD_TIER_HOST, SHERD_CAT_MASTER, 128, &a, NULL));
    sherd_memory now, peak;
    sherd_device_memory(device, &now, &peak);
    assert_true(peak.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER] == 64000);
    assert_true(peak.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MOMENTS] == 32000);
    assert_true(sherd_device_peak_total(device, SHERD_TIER_DEVICE) == 64000);
    assert_true(sherd_memory_total(&now, SHERD_TIER_DEVICE) == 32000);
    assert_true(now.bytes[SHERD_TIER_HOST][SHERD_CAT_MASTER] == 128);
    sherd_device_free(device, a);
    sherd_device_free(device, b);
    sherd_device_destroy(device);
}

static void any_order_of_many(void **state)
{
    enum { N = 3000 };
    static void *block[N];
    (void)state;
    sherd_device *device = make_device(1, 0);
    uint64_t sum = 0, seed = 1;
    for (int i = 0; i < N; i++) {
        OK(sherd_device_alloc(device, (uint64_t)i, SHERD_CAT_ACTIVATIONS, &block[i], NULL));
        sum += (uint64_t)i;
    }
    assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ACTIVATIONS) == sum);
    for (int left = N; left > 0; left--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        int pick = (int)((seed >> 33) % (uint64_t)left);
        sherd_device_free(device, block[pick]);
        block[pick] = block[left - 1];
    }
    assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ACTIVATIONS) == 0);
    assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ROUNDING) == 0);
    sherd_device_destroy(device);
}

static void a_limit_holds(void **state)
{
    (void)state;
    sherd_device_options options;
    sherd_device *device;
    sherd_error err;
    void *a, *b = NULL;
    sherd_device_options_init(&options, sizeof options);
    options.memory_limit = 10000;
    OK(sherd_device_create(&options, &device, &err));
    OK(sherd_device_alloc(device, 6400, SHERD_CAT_MASTER, &a, &err));
    assert_int_equal(sherd_device_alloc(device, 6400, SHERD_CAT_MASTER, &b, &err), SHERD_ENOMEM);
    assert_null(b);
    assert_non_null(strstr(err.text, "6400"));
    assert_non_null(strstr(err.text, "10000"));
    assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_MASTER) == 6400);
    OK(sherd_device_alloc(device, 3584, SHERD_CAT_MASTER, &b, &err)); /* 9984 */
    sherd_device_free(device, b);
    sherd_device_free(device, a);
    sherd_device_destroy(device);
}

static void impossible_requests_are_refused(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    void *block = NULL;
    sherd_error err;
    assert_int_equal(sherd_device_alloc(device, UINT64_MAX, SHERD_CAT_MASTER, &block, &err), SHERD_ENOMEM);
    assert_int_equal(sherd_device_alloc(device, UINT64_C(1) << 60, SHERD_CAT_MASTER, &block, &err), SHERD_ENOMEM);
    assert_int_equal(sherd_device_alloc(device, 64, SHERD_CAT_ROUNDING, &block, &err), SHERD_EINVAL);
    assert_int_equal(sherd_device_alloc(device, 64, (sherd_category)99, &block, &err), SHERD_EINVAL);
    assert_int_equal(sherd__device_alloc(device, SHERD_TIER_DISK, SHERD_CAT_MASTER, 64, &block, &err),
                     SHERD_EUNSUPPORTED);
    assert_null(block);
    assert_true(sherd_device_peak_total(device, SHERD_TIER_DEVICE) == 0);
    sherd_device_destroy(device);
}

static void count_log(void *ctx, sherd_log_level level, const char *text)
{
    if (level == SHERD_LOG_WARNING && text[0])
        ++*(int *)ctx;
}

static void leftovers_are_freed_and_said(void **state)
{
    (void)state;
    int warnings = 0;
    sherd_device_options options;
    sherd_device *device;
    void *small, *large;
    int elsewhere;
    sherd_device_options_init(&options, sizeof options);
    options.log = (sherd_log){count_log, &warnings};
    OK(sherd_device_create(&options, &device, NULL));
    sherd_device_free(device, NULL);
    assert_int_equal(warnings, 0);
    sherd_device_free(device, &elsewhere);
    assert_int_equal(warnings, 1);
    OK(sherd_device_alloc(device, 100, SHERD_CAT_MASTER, &small, NULL));
    OK(sherd_device_alloc(device, 1000000, SHERD_CAT_MASTER, &large, NULL));
    sherd_device_destroy(device);
    assert_int_equal(warnings, 2);
}

/* Creates a device, a stream, an event and a block; each allocation fails in turn. */
static sherd_status make_everything(const sherd_device_options *options, sherd_error *err)
{
    sherd_device *device = NULL;
    sherd__stream *stream = NULL;
    sherd__event *event = NULL;
    void *block = NULL;
    sherd_status status = sherd_device_create(options, &device, err);
    if (status != SHERD_OK) {
        assert_null(device);
        return status;
    }
    status = device->ops->stream_create(device, "comm", 8, &stream, err);
    if (status == SHERD_OK)
        status = device->ops->event_create(device, &event, err);
    if (status == SHERD_OK)
        status = sherd_device_alloc(device, 1000, SHERD_CAT_MASTER, &block, err);
    assert_true(status == SHERD_OK || block == NULL);
    sherd_device_free(device, block);
    device->ops->event_destroy(event);
    device->ops->stream_destroy(stream);
    assert_true(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ROUNDING) == 0);
    sherd_device_destroy(device);
    return status;
}

static void fail_every_allocation(sherd_device_kind kind, sherd_checker *checker)
{
    int failed = 0;
    for (int64_t k = 1; k < 100; k++) {
        sherd_test_alloc counts = {.fail_at = k};
        sherd_device_options options;
        sherd_error err = {0};
        sherd_device_options_init(&options, sizeof options);
        options.kind = kind;
        options.checker = checker;
        options.threads = 2;
        options.trace_capacity = 10;
        options.allocator = sherd_test_allocator(&counts);
        sherd_status status = make_everything(&options, &err);
        assert_int_equal(atomic_load(&counts.live_blocks), 0);
        assert_int_equal(atomic_load(&counts.wrong_sizes), 0);
        if (status == SHERD_OK) {
            assert_true(failed >= 8);
            return;
        }
        assert_int_equal(status, SHERD_ENOMEM);
        assert_true(strlen(err.text) > 10);
        failed++;
    }
    fail_msg("it never came to an end");
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    fail_every_allocation(SHERD_DEVICE_HOST, NULL);
    sherd_checker *checker = NULL;
    OK(sherd_checker_create(1, 1, &checker, NULL));
    fail_every_allocation(SHERD_DEVICE_CHECK, checker);
    sherd_checker_destroy(checker);
}

static void the_registry_knows_what_is_built(void **state)
{
    (void)state;
    sherd_device_options options;
    sherd_device *device = NULL;
    sherd_error err;
    sherd_device_options_init(&options, sizeof options);
    options.kind = SHERD_DEVICE_CUDA;
    assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "CUDA"));
    options.kind = (sherd_device_kind)42;
    assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_EINVAL);
    options.kind = SHERD_DEVICE_CHECK;
    assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "sherd_checker_create"));
    options.kind = SHERD_DEVICE_HOST;
    options.threads = -1;
    assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_EINVAL);
    assert_int_equal(sherd_device_create(&options, NULL, &err), SHERD_EINVAL);
    options.size = 3;
    assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_EINVAL);
    assert_null(device);
    sherd_device_destroy(NULL);
    OK(sherd_device_create(NULL, &device, &err)); /* the defaults */
    assert_non_null(strstr(sherd_device_describe(device), "host, 1 thread, "));
    sherd_device_destroy(device);
    device = make_device(2, 0);
    assert_non_null(strstr(sherd_device_describe(device), "host, 2 threads, "));
    sherd_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_booked_exactly), cmocka_unit_test(peaks_are_of_moments_not_of_sums),
        cmocka_unit_test(any_order_of_many), cmocka_unit_test(a_limit_holds),
        cmocka_unit_test(impossible_requests_are_refused), cmocka_unit_test(leftovers_are_freed_and_said),
        cmocka_unit_test(every_allocation_may_fail), cmocka_unit_test(the_registry_knows_what_is_built),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
