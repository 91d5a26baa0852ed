/* SPDX-License-Identifier: MIT
 *
 * Going on elsewhere, end to end. The learning rate is zero in most runs here, so that a step's loss is a function of
 * the sequences it took and nothing else: equal losses are equal sequences, and the sum over an epoch says that each
 * was taken once. And a damaged checkpoint is found before the first step.
 */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/cli/command.h"

enum { WINDOWS = 24, SEQ = 8, BATCH = 4, STEPS = WINDOWS / BATCH, MAX_STEPS = 4 * STEPS };

#define FROZEN                                                                                                         \
    "train --model tiny --data small.txt --seq 8 --threads 1 --set optimizer.type=SGD --set optimizer.params.lr=0 "
#define SIZES "--set train_micro_batch_size_per_gpu=2 --set gradient_accumulation_steps=1 "
#define run(...) command_expect(&o, __VA_ARGS__)

static outcome o;

/* Windows that no two are alike. */
static void write_small(void)
{
    FILE *file = fopen("small.txt", "w");
    uint32_t state = 99;

    assert_non_null(file);
    for (int i = 0; i < WINDOWS * SEQ + 1; i++) {
        state = state * 1664525u + 1013904223u;
        fputc('a' + (int)((state >> 16) % 26), file);
    }
    assert_int_equal(fclose(file), 0);
}

/* The losses of a log by step, from the last record of each; how many. */
static int losses(const char *log, double out[MAX_STEPS])
{
    json_t *records = command_log(log), *record;
    size_t i;
    int n = 0;

    json_array_foreach(records, i, record)
    {
        json_int_t step = json_integer_value(json_object_get(record, "step"));
        if (json_object_get(record, "loss") != NULL && step >= 1 && step <= MAX_STEPS) {
            out[step - 1] = json_real_value(json_object_get(record, "loss"));
            n = step > n ? (int)step : n;
        }
    }
    json_decref(records);
    return n;
}

static double sum(const double *values, int n)
{
    double total = 0;

    for (int i = 0; i < n; i++) {
        total += values[i];
    }
    return total;
}

static void the_global_batch_stays_and_no_sequence_is_lost(void **state)
{
    static const struct {
        int ranks, steps;
        const char *says;
    } parts[] = {
        {2, 2, "batch 4 = 2 x 1 x 2"}, {4, 4, "batch 4 = 1 x 1 x 4"},  {1, 7, "batch 4 = 2 x 2 x 1"},
        {2, 9, "batch 4 = 2 x 1 x 2"}, {4, 12, "batch 4 = 1 x 1 x 4"},
    };
    double whole[MAX_STEPS], part[MAX_STEPS];

    (void)state;
    run(0, "batch 4 = 2 x 1 x 2", FROZEN SIZES "--ranks 2 --steps %d --log whole.jsonl", 2 * STEPS);
    assert_int_equal(losses("whole.jsonl", whole), 2 * STEPS);
    /* Steps can be told apart, and two epochs are the same sequences in another order. */
    for (int a = 0; a < 2 * STEPS; a++) {
        for (int b = 0; b < a; b++) {
            assert_true(fabs(whole[a] - whole[b]) > 1e-5);
        }
    }
    assert_true(fabs(sum(whole, STEPS) - sum(whole + STEPS, STEPS)) < 1e-6);
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        run(0, parts[i].says, FROZEN SIZES "--ranks %d --steps %d --save moved --resume auto --log part.jsonl",
            parts[i].ranks, parts[i].steps);
    }
    assert_int_equal(losses("part.jsonl", part), 2 * STEPS);
    for (int s = 0; s < 2 * STEPS; s++) {
        if (fabs(whole[s] - part[s]) > 1e-6) {
            fail_msg("step %d: loss %.9f, on other ranks %.9f", s + 1, whole[s], part[s]);
        }
    }
    run(0, "position 48", "checkpoint show moved");
}

/* The batch may change where it is given: sequences, not steps, are counted. */
static void a_given_batch_is_taken(void **state)
{
    double whole[MAX_STEPS], part[MAX_STEPS];

    (void)state;
    run(0, "loss", FROZEN SIZES "--ranks 2 --steps %d --log whole.jsonl", STEPS);
    run(0, "saved", FROZEN SIZES "--ranks 2 --steps 2 --save given --log part.jsonl");
    run(0, "batch 8 = 2 x 4 x 1",
        FROZEN "--set train_micro_batch_size_per_gpu=2 --set train_batch_size=8 "
               "--steps 4 --save given --resume auto --log part.jsonl");
    assert_int_equal(losses("whole.jsonl", whole), STEPS);
    assert_int_equal(losses("part.jsonl", part), 4);
    assert_true(fabs(sum(whole, STEPS) - sum(part, 2) - 2 * sum(part + 2, 2)) < 1e-6);
    run(0, "position 24", "checkpoint show given");
    run(1, "which 3 ranks cannot share equally", FROZEN SIZES "--ranks 3 --steps 9 --resume given");
    run(0, "batch 6 = 2 x 1 x 3",
        FROZEN "--set train_micro_batch_size_per_gpu=2 --set train_batch_size=6 --ranks 3 --steps 5 "
               "--resume given");
    /* The same number of ranks: the configuration says what is wanted. */
    run(0, "batch 3 = 3 x 1 x 1", FROZEN "--set train_micro_batch_size_per_gpu=3 --steps 5 --resume given");
}

/* ---- damage */

static long size_of(const char *path)
{
    FILE *file = fopen(path, "rb");
    long size;

    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    size = ftell(file);
    fclose(file);
    return size;
}

static void flip(const char *path, long at)
{
    FILE *file = fopen(path, "r+b");
    int byte;

    assert_non_null(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    byte = fgetc(file);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_true(fputc(byte ^ 4, file) != EOF);
    assert_int_equal(fclose(file), 0);
}

static void shell(const char *format, const char *name)
{
    char line[512];

    snprintf(line, sizeof line, format, name, name);
    assert_int_equal(system(line), 0);
}

/* A run that resumes ends with code 1 and one sentence, without a step. */
static void refused(const char *what, const char *name, int auto_too)
{
    for (int way = 0; way <= auto_too; way++) {
        run(1, "sherd: ",
            "train --model tiny --data text.txt --set train_batch_size=4 --seq 8 --threads 1 --ranks 2 "
            "--steps 4 --save damaged %s",
            way ? "--resume auto" : "--resume damaged/step-2");
        if (strstr(o.out, "step 3/4") != NULL || strstr(o.out, "goes on") != NULL || strstr(o.out, "saved ") != NULL) {
            fail_msg("%s %s: training began: %s", name, what, o.out);
        }
    }
}

static void damage_is_found_before_training(void **state)
{
    struct dirent *entry;
    DIR *folder;
    int files = 0;

    (void)state;
    run(0, "saved",
        "train --model tiny --data text.txt --set train_batch_size=4 --seq 8 --threads 1 --ranks 2 --steps 2 "
        "--save sound --set zero_optimization.stage=2");
    folder = opendir("sound/step-2");
    assert_non_null(folder);
    while ((entry = readdir(folder)) != NULL) {
        char path[300], cut[700];
        long size, places[3];

        if (entry->d_name[0] == '.') {
            continue;
        }
        files++;
        snprintf(path, sizeof path, "damaged/step-2/%s", entry->d_name);
        shell("rm -rf damaged && cp -r sound damaged && rm 'damaged/step-2/%s'", entry->d_name);
        refused("is missing", path, 1);
        shell("rm -rf damaged && cp -r sound damaged && : '%s'", entry->d_name);
        size = size_of(path);
        assert_true(size > 64);
        places[0] = 0;
        places[1] = size / 2;
        places[2] = size - 1;
        for (int i = 0; i < 3; i++) {
            flip(path, places[i]);
            refused("has a changed byte", path, i == 1);
            flip(path, places[i]);
        }
        for (int i = 0; i < 3; i++) {
            snprintf(cut, sizeof cut, "cp -f 'sound/step-2/%s' damaged/step-2/ && truncate -s %ld '%s'", entry->d_name,
                     places[i], path);
            assert_int_equal(system(cut), 0);
            refused("is cut", path, 0);
        }
    }
    closedir(folder);
    assert_int_equal(files, 4);
    /* Undamaged, the same command goes on: what was refused was the damage. And `latest` is only a hint. */
    shell("rm -rf damaged && cp -r sound damaged && printf 'step-77' >damaged/latest; : '%s'", "");
    run(0, "goes on after step 2",
        "train --model tiny --data text.txt --set train_batch_size=4 --seq 8 --threads 1 --ranks 2 "
        "--steps 4 --save damaged --resume auto");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_global_batch_stays_and_no_sequence_is_lost),
        cmocka_unit_test(a_given_batch_is_taken),
        cmocka_unit_test(damage_is_found_before_training),
    };

    if (argc < 2) {
        return 2;
    }
    command_begin(argv[1]);
    write_small();
    return cmocka_run_group_tests(tests, NULL, command_end);
}
