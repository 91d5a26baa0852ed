/* SPDX-License-Identifier: MIT
 *
 * Token files: every length and field is checked with a sentence, shards follow each other by name, a pattern finds
 * them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/cli.h"
#include "cli/data.h"
#include "cli/tokens.h"

enum { COUNT = 9, BYTES = CLI_TOKENS_HEADER + 2 * COUNT };

static void make(unsigned char file[BYTES], uint16_t first)
{
    cli_tokens_header(COUNT, file);
    for (int i = 0; i < COUNT; i++) {
        file[CLI_TOKENS_HEADER + 2 * i] = (unsigned char)(first + i);
        file[CLI_TOKENS_HEADER + 2 * i + 1] = (unsigned char)((first + i) >> 8);
    }
}

static void write_shard(const char *path, uint16_t first)
{
    unsigned char file[BYTES];
    FILE *out = fopen(path, "wb");

    make(file, first);
    assert_non_null(out);
    assert_int_equal(fwrite(file, 1, sizeof file, out), sizeof file);
    assert_int_equal(fclose(out), 0);
}

/* As llm.c's scripts write it: numpy's int32 header and uint16 tokens. Written out by hand, so that the reader and the
 * writer here cannot agree on something else. */
static void the_header_is_llm_cs(void **state)
{
    static const unsigned char head[16] = {0x88, 0xD8, 0x34, 0x01, 1, 0, 0, 0, COUNT, 0, 0, 0, 0, 0, 0, 0};
    unsigned char file[BYTES];
    uint64_t count;

    (void)state;
    make(file, 50000);
    assert_memory_equal(file, head, sizeof head);
    assert_true(cli_tokens_begin(file, BYTES));
    assert_int_equal(cli_tokens_check(file, BYTES, 50304, "f", &count, NULL), SHERD_OK);
    assert_int_equal(count, COUNT);
    assert_false(cli_tokens_begin((const unsigned char *)"text of its own", 15));
    assert_false(cli_tokens_begin(file, 3));
}

static void every_other_length_is_refused(void **state)
{
    unsigned char file[BYTES + 8] = {0};
    sherd_error err;
    uint64_t count;

    (void)state;
    make(file, 1);
    for (uint64_t bytes = 4; bytes <= BYTES + 8; bytes++) {
        assert_int_equal(cli_tokens_check(file, bytes, 256, "f", &count, &err),
                         bytes == BYTES ? SHERD_OK : SHERD_EINVAL);
    }
    assert_string_equal(err.text,
                        "f: a token file that says it has 9 tokens, but 26 bytes stand behind its header; it is "
                        "damaged or cut off, get it again");
    assert_int_equal(cli_tokens_check(file, 1000, 256, "f", &count, &err), SHERD_EINVAL);
    assert_string_equal(err.text,
                        "f: a token file that ends after 1000 bytes, within its header of 1024; it is cut off, get "
                        "it again");
}

static void fields_are_checked(void **state)
{
    unsigned char file[BYTES];
    sherd_error err;
    uint64_t count;

    (void)state;
    make(file, 250);
    assert_int_equal(cli_tokens_check(file, BYTES, 259, "f", &count, &err), SHERD_OK);
    assert_int_equal(cli_tokens_check(file, BYTES, 258, "f", &count, &err), SHERD_EINVAL);
    assert_string_equal(err.text,
                        "f: token number 8 is 258, but the model's vocabulary has 258; take the model that the "
                        "tokens were made for");
    assert_int_equal(cli_tokens_check(file, BYTES, 0, "f", &count, &err), SHERD_OK);
    file[4] = 7;
    assert_int_equal(cli_tokens_check(file, BYTES, 259, "f", &count, &err), SHERD_EUNSUPPORTED);
    assert_string_equal(err.text, "f: a token file of version 7; only version 1 is read");
    make(file, 1);
    memset(file + 8, 0xFF, 4);
    assert_int_equal(cli_tokens_check(file, BYTES, 259, "f", &count, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "says it has -1 tokens"));
    memcpy(file, "\x89\xD8\x34\x01", 4); /* nobody's */
    assert_false(cli_tokens_begin(file, BYTES));
    memcpy(file, "\xA1\xD9\x34\x01", 4); /* 20240801 */
    assert_true(cli_tokens_begin(file, BYTES));
    assert_int_equal(cli_tokens_check(file, BYTES, 259, "f", &count, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "a file of 32-bit tokens"));
}

static void shards_follow_by_name(void **state)
{
    char folder[] = "/tmp/sherd-tokens-XXXXXX";
    const char *pattern = "train_*.bin", *none = "other_*.bin", *mixed[] = {"train_1.bin", "text"};
    int32_t tokens[4], targets[4];
    cli_text text;
    sherd_error err;
    FILE *plain;

    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(chdir(folder), 0);
    write_shard("train_2.bin", 300);
    write_shard("train_1.bin", 100);
    write_shard("train_10.bin", 200);
    assert_int_equal(cli_text_read(&pattern, 1, 400, &text, &err), SHERD_OK);
    assert_int_equal(text.files, 3);
    assert_int_equal(cli_text_tokens(&text), 3 * COUNT);
    cli_text_window(&text, 1, 4, tokens, targets); /* tokens 4 … 7, targets 5 … 8 */
    assert_int_equal(tokens[0], 104);
    assert_int_equal(targets[3], 108);
    cli_text_window(&text, 2, 4, tokens, targets); /* over the border of two files */
    assert_int_equal(tokens[0], 108);
    assert_int_equal(tokens[1], 200);
    assert_int_equal(targets[0], 200);
    cli_text_window(&text, 5, 4, tokens, targets);
    assert_int_equal(tokens[3], 305);
    cli_text_free(&text);
    assert_int_equal(cli_text_read(&pattern, 1, 308, &text, &err), SHERD_EINVAL);
    assert_string_equal(err.text,
                        "train_2.bin: token number 8 is 308, but the model's vocabulary has 308; take the model "
                        "that the tokens were made for");
    assert_int_equal(cli_text_read(&none, 1, 308, &text, &err), SHERD_EIO);
    assert_string_equal(err.text, "other_*.bin: no file has such a name");
    plain = fopen("text", "w");
    assert_non_null(plain);
    fputs("words", plain);
    assert_int_equal(fclose(plain), 0);
    assert_int_equal(cli_text_read(mixed, 2, 400, &text, &err), SHERD_EINVAL);
    assert_string_equal(err.text, "text: is text, but the files before it are token files; give one kind");
    assert_int_equal(unlink("text") + unlink("train_1.bin") + unlink("train_2.bin") + unlink("train_10.bin"), 0);
    assert_int_equal(chdir("/") + rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_is_llm_cs),
        cmocka_unit_test(every_other_length_is_refused),
        cmocka_unit_test(fields_are_checked),
        cmocka_unit_test(shards_follow_by_name),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
