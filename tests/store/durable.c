/* SPDX-License-Identifier: MIT
 *
 * Durable files: after any failure the old contents stand, and nothing but them. `latest` and names of steps.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "store/durable.h"
#include "tests/store/folder.h"
#include "tests/support/fail_alloc.h"
#include "tests/support/fail_io.h"

static folder place;
static sherd_error err;

static int set_up(void **state)
{
    (void)state;
    folder_make(&place);
    memset(&err, 0, sizeof err);
    return 0;
}

static void expect_contents(const char *name, const char *text)
{
    size_t bytes;
    char *found = (char *)folder_read(&place, name, &bytes);
    assert_non_null(found);
    assert_string_equal(found, text);
    free(found);
}

static void replacing_is_all_or_nothing(void **state)
{
    (void)state;
    static const int codes[] = {EIO, ENOSPC, 0 /* short */};
    for (int c = 0; c < 3; c++) {
        int failed = 0, k = 1;
        for (; k < 50; k++) {
            sherd_test_io faults = {.fail_at = k, .code = codes[c]};
            sherd__io io = sherd_test_io_hook(&faults);
            folder_write(&place, "f", "old", 3);
            sherd_status status = sherd__durable_replace(folder_file(&place, "f"), "brand new", 9, NULL, &io, &err);
            assert_int_equal(folder_count(&place), 1);
            if (faults.struck == 0) {
                assert_int_equal(status, SHERD_OK);
                expect_contents("f", "brand new");
                break;
            }
            failed += status != SHERD_OK;
            if (status != SHERD_OK) {
                assert_int_equal(status, SHERD_EIO);
                assert_non_null(strstr(err.text, strerror(codes[c])));
                assert_non_null(strstr(err.text, place.path));
            }
            /* After the rename it may be the new one although the folder was not synced. */
            size_t bytes;
            char *found = (char *)folder_read(&place, "f", &bytes);
            assert_true(strcmp(found, "brand new") == 0 || (status != SHERD_OK && strcmp(found, "old") == 0));
            free(found);
        }
        assert_true(k > 6 && k < 50);
        assert_true(c == 2 ? failed == 0 : failed >= 7);
    }
    folder_remove(&place, 1);
}

static void the_order_of_calls_makes_it_durable(void **state)
{
    (void)state;
    sherd_test_io faults = {.kinds = 0};
    sherd__io io = sherd_test_io_hook(&faults);
    assert_int_equal(sherd__durable_replace(folder_file(&place, "f"), "x", 1, NULL, &io, &err), SHERD_OK);
    assert_int_equal(faults.calls[SHERD__IO_SYNC], 2); /* the file, then the folder */
    assert_int_equal(faults.calls[SHERD__IO_RENAME], 1);
    /* The rename fails: so the file's sync came before it, the folder's did not come at all. */
    faults = (sherd_test_io){.kinds = 1u << SHERD__IO_RENAME, .fail_at = 1, .code = EIO};
    assert_int_equal(sherd__durable_replace(folder_file(&place, "f"), "y", 1, NULL, &io, &err), SHERD_EIO);
    assert_int_equal(faults.calls[SHERD__IO_SYNC], 1);
    expect_contents("f", "x");
    folder_remove(&place, 1);
}

static void every_length_and_piece_is_written_and_digested(void **state)
{
    (void)state;
    enum { MOST = (1 << 20) + 5000 };
    static unsigned char data[2 * MOST];
    static const uint64_t pieces[] = {1000, 4096, 65537, (1 << 20) - 1, 1 << 20, MOST};
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (unsigned char)(i * 31 + i / 255);
    }
    for (size_t p = 0; p < sizeof pieces / sizeof pieces[0]; p++) {
        uint64_t total = sizeof data - p * 77, bytes = 0;
        uint8_t digest[16], plain[16], again[16];
        size_t length;
        sherd__durable *file = NULL;
        assert_int_equal(sherd__durable_create(folder_file(&place, "f"), NULL, NULL, &file, &err), SHERD_OK);
        for (uint64_t at = 0; at < total; at += pieces[p]) {
            uint64_t n = pieces[p] < total - at ? pieces[p] : total - at;
            assert_int_equal(sherd__durable_write(file, data + at, n, &err), SHERD_OK);
        }
        assert_int_equal(sherd__durable_commit(file, &bytes, digest, &err), SHERD_OK);
        unsigned char *found = folder_read(&place, "f", &length);
        assert_int_equal(length, total);
        assert_int_equal(bytes, total);
        assert_memory_equal(found, data, total);
        free(found);
        sherd__hash_plain(data, total, plain);
        assert_memory_equal(digest, plain, 16);
        assert_int_equal(sherd__digest_file(NULL, folder_file(&place, "f"), &bytes, again, &err), SHERD_OK);
        assert_int_equal(bytes, total);
        assert_memory_equal(again, plain, 16);
    }
    folder_remove(&place, 1);
}

/* What a test of a higher layer uses. */
static void a_hook_for_the_whole_process_is_asked_where_none_is_given(void **state)
{
    (void)state;
    sherd_test_io faults = {.kinds = 1u << SHERD__IO_WRITE, .fail_at = 1, .code = ENOSPC}, counts = {.fail_at = 0};
    sherd__io io = sherd_test_io_hook(&faults), other = sherd_test_io_hook(&counts);
    sherd__io_set_default(&io);
    assert_int_equal(sherd__durable_replace(folder_file(&place, "f"), "x", 1, NULL, NULL, &err), SHERD_EIO);
    assert_int_equal(sherd__durable_replace(folder_file(&place, "f"), "x", 1, NULL, &other, &err), SHERD_OK);
    sherd__io_set_default(NULL);
    assert_int_equal(faults.calls[SHERD__IO_WRITE], 1);
    assert_int_equal(counts.calls[SHERD__IO_WRITE], 1);
    assert_int_equal(sherd__durable_replace(folder_file(&place, "f"), "x", 1, NULL, NULL, &err), SHERD_OK);
    assert_int_equal(faults.calls[SHERD__IO_WRITE], 1);
    folder_remove(&place, 1);
}

static void an_abandoned_file_was_never_there(void **state)
{
    (void)state;
    sherd__durable *file = NULL;
    assert_int_equal(sherd__durable_create(folder_file(&place, "f"), NULL, NULL, &file, &err), SHERD_OK);
    assert_int_equal(folder_count(&place), 1);
    assert_int_equal(sherd__durable_write(file, "abc", 3, &err), SHERD_OK);
    sherd__durable_abandon(file);
    sherd__durable_abandon(NULL);
    folder_remove(&place, 0);
}

static void the_first_error_stays(void **state)
{
    (void)state;
    static unsigned char large[1 << 20];
    sherd_test_io faults = {.kinds = 1u << SHERD__IO_WRITE, .fail_at = 1, .code = ENOSPC};
    sherd__io io = sherd_test_io_hook(&faults);
    sherd__durable *file = NULL;
    assert_int_equal(sherd__durable_create(folder_file(&place, "f"), NULL, &io, &file, &err), SHERD_OK);
    assert_int_equal(sherd__durable_write(file, large, sizeof large, &err), SHERD_EIO);
    assert_int_equal(sherd__durable_write(file, large, 1, &err), SHERD_EIO);
    assert_int_equal(sherd__durable_commit(file, NULL, NULL, &err), SHERD_EIO);
    assert_non_null(strstr(err.text, "writing 1048576 bytes at offset 0 of"));
    assert_non_null(strstr(err.text, "free space there"));
    assert_int_equal(faults.calls[SHERD__IO_SYNC], 0);
    folder_remove(&place, 0);
}

static void folders_are_made_and_may_exist(void **state)
{
    (void)state;
    char path[200];
    snprintf(path, sizeof path, "%s/new", place.path);
    assert_int_equal(sherd__durable_make_folder(path, NULL, &err), SHERD_OK);
    assert_int_equal(sherd__durable_make_folder(path, NULL, &err), SHERD_OK);
    assert_int_equal(remove(path), 0);
    strcat(path, "/deeper");
    assert_int_equal(sherd__durable_make_folder(path, NULL, &err), SHERD_EIO);
    assert_non_null(strstr(err.text, "create the folder"));
    folder_remove(&place, 0);
}

static void reading_has_a_limit(void **state)
{
    (void)state;
    sherd_test_alloc memory = {.fail_at = 0};
    sherd_allocator allocator = sherd_test_allocator(&memory);
    char *text = NULL;
    uint64_t bytes;
    folder_write(&place, "f", "12345", 5);
    assert_int_equal(sherd__durable_read(folder_file(&place, "f"), 4, &allocator, NULL, &text, &bytes, &err),
                     SHERD_EINVAL);
    assert_int_equal(sherd__durable_read(folder_file(&place, "f"), 5, &allocator, NULL, &text, &bytes, &err), SHERD_OK);
    assert_int_equal(bytes, 5);
    assert_string_equal(text, "12345");
    sherd__free(&allocator, text, 1, bytes + 1);
    assert_int_equal(sherd__durable_read(place.path, 5, &allocator, NULL, &text, &bytes, &err), SHERD_EIO);
    assert_int_equal(sherd__durable_read("/dev/zero", 5, &allocator, NULL, &text, &bytes, &err), SHERD_EIO);
    assert_int_equal(memory.live_blocks, 0);
    folder_remove(&place, 1);
}

static void latest_names_a_step(void **state)
{
    (void)state;
    static const int64_t steps[] = {0, 1, 9, 10, 123456789, 999999999999999999};
    int64_t step = -5;
    assert_int_equal(sherd__latest_read(place.path, NULL, NULL, &step, &err), SHERD_EIO);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        assert_int_equal(sherd__latest_write(place.path, steps[i], NULL, NULL, &err), SHERD_OK);
        assert_int_equal(sherd__latest_read(place.path, NULL, NULL, &step, &err), SHERD_OK);
        assert_int_equal(step, steps[i]);
    }
    static const char *const bad[] = {
        "",          "\n",         "step-5",      "step-\n",   "step-05\n",
        "step--5\n", "step-5\n\n", "../step-5\n", "step-5 \n", "step-1234567890123456789\n",
        "Step-5\n"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        folder_write(&place, "latest", bad[i], strlen(bad[i]));
        assert_int_equal(sherd__latest_read(place.path, NULL, NULL, &step, &err), SHERD_EINVAL);
    }
    folder_write(&place, "latest", "step-5\0\n", 8);
    assert_int_equal(sherd__latest_read(place.path, NULL, NULL, &step, &err), SHERD_EINVAL);
    assert_int_equal(sherd__step_of_name("step-42"), 42);
    assert_int_equal(sherd__step_of_name("step-42x"), -1);
    assert_int_equal(sherd__step_of_name("latest"), -1);
    folder_remove(&place, 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(replacing_is_all_or_nothing, set_up),
        cmocka_unit_test_setup(the_order_of_calls_makes_it_durable, set_up),
        cmocka_unit_test_setup(every_length_and_piece_is_written_and_digested, set_up),
        cmocka_unit_test_setup(a_hook_for_the_whole_process_is_asked_where_none_is_given, set_up),
        cmocka_unit_test_setup(an_abandoned_file_was_never_there, set_up),
        cmocka_unit_test_setup(the_first_error_stays, set_up),
        cmocka_unit_test_setup(folders_are_made_and_may_exist, set_up),
        cmocka_unit_test_setup(reading_has_a_limit, set_up),
        cmocka_unit_test_setup(latest_names_a_step, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
