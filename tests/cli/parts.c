/* SPDX-License-Identifier: MIT
 *
 * The command's parts that need no run: units, the order of sequences, text from files and folders, the table's
 * numbers.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "cli/data.h"
#include "cli/launch.h"
#include "cli/results.h"
#include "cli/units.h"

static void bytes_are_read_with_units(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {
        {"512", 512}, {"0", 0}, {"24GB", 24000000000u}, {"24 GB", 24000000000u}, {"24gb", 24000000000u},
        {"80GiB", 85899345920u},
        {"1.5KiB", 1536}, {"2KB", 2000}, {"3MB", 3000000}, {"1TiB", 1099511627776u}, {"7B", 7}, {"4G", 4000000000u},
    };
    static const char *const bad[] = {"", "GB", "-1GB", "24XB", "24GBB", "nan", "inf", "1e40", "+5", " 5"};
    uint64_t bytes;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(cli_parse_bytes(good[i].text, &bytes), 1);
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(cli_parse_bytes(bad[i], &bytes), 0);
    }
}

static void counts_are_whole_numbers(void **state)
{
    static const char *const bad[] = {"", "1.5", "1.3e", "x", "-1", "1e30", "7BB", "1e-3"};
    int64_t count;

    (void)state;
    assert_int_equal(cli_parse_count("1.3e9", &count), 1);
    assert_int_equal(count, 1300000000);
    assert_int_equal(cli_parse_count("7B", &count), 1);
    assert_int_equal(count, 7000000000);
    assert_int_equal(cli_parse_count("1e12", &count), 1);
    assert_int_equal(count, 1000000000000);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(cli_parse_count(bad[i], &count), 0);
    }
}

static void bytes_are_written_with_units(void **state)
{
    char text[32];

    (void)state;
    assert_string_equal(cli_bytes_text(0, text, sizeof text), "0 B");
    assert_string_equal(cli_bytes_text(1023, text, sizeof text), "1023 B");
    assert_string_equal(cli_bytes_text(1536, text, sizeof text), "1.5 KiB");
    assert_string_equal(cli_bytes_text((uint64_t)5 << 40, text, sizeof text), "5.0 TiB");
}

static void every_epoch_is_a_permutation(void **state)
{
    enum { WINDOWS = 37, EPOCHS = 5 };
    cli_sampler s;
    sherd_error err;
    int differ = 0;
    int64_t before[WINDOWS] = {0};

    (void)state;
    assert_int_equal(cli_sampler_create(7, WINDOWS, &s, &err), SHERD_OK);
    for (int64_t e = 0; e < EPOCHS; e++) {
        int seen[WINDOWS] = {0};

        for (int64_t i = 0; i < WINDOWS; i++) {
            int64_t window = cli_sampler_window(&s, e * WINDOWS + i);

            assert_in_range(window, 0, WINDOWS - 1);
            seen[window]++;
            differ += e > 0 && window != before[i];
            before[i] = window;
        }
        for (int i = 0; i < WINDOWS; i++) {
            assert_int_equal(seen[i], 1);
        }
    }
    assert_true(differ > WINDOWS); /* epochs are not all the same order */
    cli_sampler_destroy(&s);
}

/* Positions may be asked for in any order, also to and fro over the border of two epochs. */
static void the_order_depends_on_the_seed_only(void **state)
{
    enum { WINDOWS = 11, POSITIONS = 5 * WINDOWS };
    cli_sampler forward, backward, other;
    int64_t windows[POSITIONS];
    int differ = 0;
    sherd_error err;

    (void)state;
    assert_int_equal(cli_sampler_create(3, WINDOWS, &forward, &err), SHERD_OK);
    assert_int_equal(cli_sampler_create(3, WINDOWS, &backward, &err), SHERD_OK);
    assert_int_equal(cli_sampler_create(4, WINDOWS, &other, &err), SHERD_OK);
    for (int64_t p = 0; p < POSITIONS; p++) {
        windows[p] = cli_sampler_window(&forward, p);
        differ += windows[p] != cli_sampler_window(&other, p);
    }
    for (int64_t p = POSITIONS; p-- > 0;) {
        assert_int_equal(cli_sampler_window(&backward, p), windows[p]);
    }
    assert_true(differ > 0);
    cli_sampler_destroy(&forward);
    cli_sampler_destroy(&backward);
    cli_sampler_destroy(&other);
}

/* A step's sequences are the same ones in the same order, however G·B is cut into micro-batches. */
static void micro_batches_cut_one_stream(void **state)
{
    enum { SEQ = 4, PER_STEP = 12, STEPS = 3 };
    unsigned char bytes[SEQ * 19 + 1];
    cli_text text = {bytes, sizeof bytes, 1, 0};
    int32_t whole[STEPS][PER_STEP * SEQ], tokens[PER_STEP * SEQ], targets[PER_STEP * SEQ];
    cli_sampler s;
    sherd_error err;

    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (unsigned char)(i * 3 + 1);
    }
    assert_int_equal(cli_sampler_create(1, 19, &s, &err), SHERD_OK);
    for (int64_t batch = PER_STEP; batch >= 1; batch--) {
        int64_t g_per_step = PER_STEP / batch;

        if (PER_STEP % batch != 0) {
            continue;
        }
        for (int64_t step = 0; step < STEPS; step++) {
            for (int64_t g = 0; g < g_per_step; g++) {
                int32_t *at = batch == PER_STEP ? whole[step] : tokens;

                cli_sampler_batch(&s, &text, SEQ, batch, step, g, g_per_step, at, targets);
                assert_memory_equal(at, whole[step] + g * batch * SEQ, (size_t)(batch * SEQ) * sizeof *at);
                for (int64_t i = 0; i < batch * SEQ; i++) {
                    /* the next byte of the text, over window borders too */
                    assert_int_equal(targets[i], (at[i] + 3) % 256);
                }
            }
        }
    }
    cli_sampler_destroy(&s);
}

static void too_few_windows_are_refused(void **state)
{
    cli_sampler s;
    sherd_error err;

    (void)state;
    assert_int_equal(cli_sampler_create(1, 0, &s, &err), SHERD_EINVAL);
    assert_string_equal(err.text, "0 windows of text, but 1 to 4294967295 are needed");
}

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void folders_are_read_in_the_order_of_names(void **state)
{
    char folder[] = "/tmp/sherd-parts-XXXXXX";
    const char *paths[] = {folder, "b.txt"};
    cli_text text;
    sherd_error err;

    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    write_text("b.txt", "second ");
    write_text("a.txt", "first ");
    write_text(".hidden", "never ");
    assert_int_equal(mkdir("c", 0700), 0);
    write_text("c/z", "third");
    write_text("B", "capital ");
    assert_int_equal(cli_text_read(paths, 2, 0, &text, &err), SHERD_OK);
    assert_int_equal(text.files, 5);
    assert_int_equal(text.size, strlen("capital first second thirdsecond "));
    assert_memory_equal(text.bytes, "capital first second thirdsecond ", text.size);
    cli_text_free(&text);
    assert_int_equal(cli_text_read(&(const char *){"missing"}, 1, 0, &text, &err), SHERD_EIO);
    assert_string_equal(err.text, "missing: No such file or directory");
    assert_int_equal(cli_text_read(&(const char *){"/dev/null"}, 1, 0, &text, &err), SHERD_EINVAL);
    assert_int_equal(unlink("a.txt") + unlink("b.txt") + unlink(".hidden") + unlink("c/z") + rmdir("c") + unlink("B"),
                     0);
    assert_int_equal(chdir("/") + rmdir(folder), 0);
}

static void threads_share_the_cores(void **state)
{
    cli_options options = {0};

    (void)state;
    assert_int_equal(cli_threads(&options, 8, 2), 4);
    assert_int_equal(cli_threads(&options, 2, 3), 1);
    assert_int_equal(cli_threads(&options, 1, 1), 1);
    options.threads = 5;
    assert_int_equal(cli_threads(&options, 8, 2), 5);
}

static void the_machine_tells_its_memory(void **state)
{
    (void)state;
    assert_true(cli_available_bytes() > (1 << 20));
    assert_true(cli_available_bytes() < (uint64_t)1 << 60);
    assert_true(cli_process_pss() > 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_read_with_units),
        cmocka_unit_test(counts_are_whole_numbers),
        cmocka_unit_test(bytes_are_written_with_units),
        cmocka_unit_test(every_epoch_is_a_permutation),
        cmocka_unit_test(the_order_depends_on_the_seed_only),
        cmocka_unit_test(micro_batches_cut_one_stream),
        cmocka_unit_test(too_few_windows_are_refused),
        cmocka_unit_test(folders_are_read_in_the_order_of_names),
        cmocka_unit_test(threads_share_the_cores),
        cmocka_unit_test(the_machine_tells_its_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
