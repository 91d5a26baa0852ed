/* SPDX-License-Identifier: MIT
 *
 * docs/configuration.md is the table in words. Without arguments this is the test that they agree; `--write FILE`
 * writes the document: test_config_document --write docs/configuration.md
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sherd/sherd.h"
#include "tests/config/parse.h"

static const char *const preface =
    "# Configuration\n\n"
    "<!-- Written by `test_config_document --write docs/configuration.md`; a test compares it with the table in\n"
    "config/keys.c. `sherd info --keys` prints the same. -->\n\n"
    "Sherd reads DeepSpeed's JSON file as it is. Every key it knows is below, with what Sherd does with it:\n\n"
    "- **honoured**: it does what the note says.\n"
    "- **no effect**: accepted; a warning says why when the value is not the default.\n"
    "- **refused**: an error, but only when the value asks for the feature, that is, differs from the default.\n\n"
    "In a list of choices, those in braces are refused. `\"auto\"` and `null` mean the default. Integers may be "
    "written `5e8`.\nUnknown keys are errors inside the sections below, with the nearest key as a hint, and "
    "warnings at top level. A key that is\nwritten twice is an error. Values are checked first, then what is not "
    "built is refused. A fault reads\n`ds.json: line 4, column 5: zero_optimization.stage: found 9, give an integer "
    "from 0 to 3`.\n\n`--set a.b=V` lays single values over the file, in order: V is JSON if it parses, else a "
    "string; missing objects are "
    "made.\n\n"
    "The batch triad: `train_batch_size` = `train_micro_batch_size_per_gpu` x `gradient_accumulation_steps` x ranks. "
    "Give any one\nof the first two, or any two of the three; the rest is inferred. What does not multiply out is "
    "an error with the numbers.\n\n"
    "Schedules, with `it` finished (not skipped) updates and W = `warmup_num_steps`, at least 2, T = "
    "`total_num_steps`: below W\nthe share is ln(it+1)/ln(W), or it/W if `warmup_type` is linear. WarmupLR and "
    "WarmupDecayLR go from `warmup_min_lr` to\n`warmup_max_lr` by that share; from W on WarmupLR stays, and "
    "WarmupDecayLR's share is max(0, (T-it)/max(1, T-W)).\nWarmupCosineLR multiplies the optimizer's `lr` by a "
    "ratio that rises from `warmup_min_ratio` to 1 by that share, and from W\non is c + (1-c)(1 + cos(pi p))/2 with "
    "p = min(1, (it-W+1)/max(1, "
    "T-W)) and c = `cos_min_ratio`.\n\n"
    "OneCycle's rate goes evenly from `cycle_min_lr` to `cycle_max_lr` in `cycle_first_step_size` updates and back in "
    "`cycle_second_step_size`,\nor in as many equal stairs as a stair count says; afterwards see `decay_lr_rate`. With "
    "`cycle_momentum` beta1 goes from\n`cycle_max_mom` down to `cycle_min_mom` and back in the same way, beta2 is 0.99, "
    "and the bias is corrected as if the betas of an\nupdate had held from the first on; the first update itself has "
    "`cycle_min_mom`. LRRangeTest's rate is `lr_range_test_min_lr`\n(1 + `lr_range_test_step_rate` it / "
    "`lr_range_test_step_size`), the quotient rounded down with `lr_range_test_staircase`.\nBoth replace the "
    "optimizer's `lr`.\n\n";

static const char *const statuses[] = {"honoured", "no effect", "refused"};

/* A bar would end the table's cell. */
static void write_cell(FILE *out, const char *text, const char *quote)
{
    fputs(text[0] != '\0' ? quote : "", out);
    for (; *text != '\0'; text++) {
        fputs(*text == '|' ? "\\|" : (char[]){*text, '\0'}, out);
    }
}

static void write_document(FILE *out)
{
    fputs(preface, out);
    fputs("| key | type | default | status | note |\n|---|---|---|---|---|\n", out);
    for (size_t i = 0; i < sherd_config_key_count(); i++) {
        sherd_config_key_info key;

        if (sherd_config_key(i, &key) != SHERD_OK) {
            break;
        }
        fprintf(out, "| `%s` | ", key.path);
        write_cell(out, key.type, "");
        fputs(" | ", out);
        write_cell(out, key.default_value, "`");
        fprintf(out, "%s | %s | ", key.default_value[0] != '\0' ? "`" : "", statuses[key.status]);
        write_cell(out, key.note, "");
        fputs(" |\n", out);
    }
}

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *text = calloc(1, 1 << 20);

    assert_non_null(text);
    if (file == NULL) {
        fail_msg("%s cannot be opened; the test runs in the root of the sources", path);
    }
    assert_true(fread(text, 1, (1 << 20) - 1, file) > 0);
    fclose(file);
    return text;
}

static void the_document_is_the_table(void **state)
{
    char *expected = NULL, *found = read_text("docs/configuration.md");
    size_t bytes = 0;
    FILE *out = open_memstream(&expected, &bytes);

    (void)state;
    assert_non_null(out);
    write_document(out);
    fclose(out);
    if (strcmp(expected, found) != 0) {
        fail_msg("docs/configuration.md is not the table: test_config_document --write docs/configuration.md");
    }
    free(expected);
    free(found);
}

static void the_listing_is_whole(void **state)
{
    sherd_config_key_info key;
    size_t count = sherd_config_key_count();

    (void)state;
    assert_true(count > 100);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(sherd_config_key(i, &key), SHERD_OK);
        assert_true(key.path[0] != '\0' && key.type[0] != '\0' && key.note[0] != '\0' && key.default_value != NULL);
        for (size_t k = 0; k < i; k++) {
            sherd_config_key_info other;

            assert_int_equal(sherd_config_key(k, &other), SHERD_OK);
            assert_string_not_equal(other.path, key.path);
        }
    }
    assert_int_equal(sherd_config_key(count, &key), SHERD_EINVAL);
}

/* The configurations that the repository offers are read, and only the known one warns. */
static void the_examples_are_read(void **state)
{
    struct dirent **entries;
    int n = scandir("examples/configs", &entries, NULL, alphasort), seen = 0;

    (void)state;
    for (int i = 0; i < n; i++) {
        char path[512];
        parsed p = {.status = SHERD_OK};
        sherd_log log = {parsed_log, &p};

        if (entries[i]->d_name[0] != '.') {
            snprintf(path, sizeof path, "examples/configs/%s", entries[i]->d_name);
            sherd_config_init(&p.config, sizeof p.config);
            if (sherd_config_read(&p.config, path, NULL, 0, &log, &p.error) != SHERD_OK) {
                fail_msg("%s", p.error.text);
            }
            assert_int_equal(p.warnings, strcmp(entries[i]->d_name, "drop-in.json") == 0);
            seen++;
        }
        free(entries[i]);
    }
    free(entries);
    assert_true(seen >= 2);
}

static int write_file(const char *path)
{
    FILE *out = fopen(path, "wb");

    if (out == NULL) {
        return EXIT_FAILURE;
    }
    write_document(out);
    return fclose(out) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_document_is_the_table),
        cmocka_unit_test(the_listing_is_whole),
        cmocka_unit_test(the_examples_are_read),
    };

    if (argc == 3 && strcmp(argv[1], "--write") == 0) {
        return write_file(argv[2]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
