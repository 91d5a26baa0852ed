/* SPDX-License-Identifier: MIT
 *
 * sherd train beyond its steps: token files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cli/command.h"

#define TRAIN "train --model tiny --set train_batch_size=4 --seq 16 --threads 1 "

static outcome o;

static void run(int code, const char *says, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void run(int code, const char *says, const char *format, ...)
{
    char arguments[900];
    va_list args;

    va_start(args, format);
    vsnprintf(arguments, sizeof arguments, format, args);
    va_end(args);
    command_run(&o, "", "%s 2>&1", arguments);
    if (o.code != code || strstr(o.out, says) == NULL) {
        fail_msg("sherd %s: code %d, not %d with '%s': %s", arguments, o.code, code, says, o.out);
    }
}

/* One token per byte: the same training, to the bit. */
static void tokens_of_bytes_train_as_the_text_does(void **state)
{
    char want[80], got[80];

    (void)state;
    run(0, "text.bin: 40", "tokens --data text.txt --out text.bin");
    run(0, "bytes of text in 1 file", TRAIN "--data text.txt --steps 4 --log text.jsonl");
    run(0, "tokens in 1 file", TRAIN "--data 'te?t.bin' --steps 4 --log tokens.jsonl --ranks 2");
    run(0, "tokens in 1 file", TRAIN "--data text.bin --steps 4 --log tokens.jsonl");
    command_hashes("text.jsonl", want);
    command_hashes("tokens.jsonl", got);
    assert_string_equal(want, got);
    run(1, "sherd: --sample continues text, but --data text.bin holds tokens; leave --sample out\n",
        TRAIN "--data text.bin --steps 1 --sample 5");
    run(1, "text.bin: is a token file, but the files before it are text; give one kind\n",
        TRAIN "--data text.txt --data text.bin --steps 1");
    run(1, "sherd: --data text.bin: holds tokens already\n", "tokens --data text.bin --out other.bin");
    run(1, "sherd: --out missing/text.bin: cannot be written: No such file or directory\n",
        "tokens --data text.txt --out missing/text.bin");
    run(2, "sherd: tokens needs --data and --out", "tokens --data text.txt");
    assert_int_equal(system("head -c 2001 text.bin >cut.bin"), 0);
    run(1, "cut.bin: a token file that says it has 40", TRAIN "--data cut.bin --steps 1");
}

static int end_group(void **state)
{
    (void)state;
    command_end();
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_of_bytes_train_as_the_text_does),
    };

    if (argc < 2) {
        fprintf(stderr, "usage: %s SHERD\n", argv[0]);
        return EXIT_FAILURE;
    }
    command_begin(argv[1]);
    return cmocka_run_group_tests(tests, NULL, end_group);
}
