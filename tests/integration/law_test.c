/* SPDX-License-Identifier: MIT
 *
 * The source tree keeps its laws, and every check finds a violation that is planted for it (run in the root of the
 * tree).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/integration/law.h"

typedef void check_fn(const law_tree *tree, law_report *report);

static law_tree source;

static int load(void **state)
{
    (void)state;
    return law_tree_load(&source, ".") ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    law_tree_free(&source);
    return 0;
}

static void assert_kept(check_fn *check, size_t at_least)
{
    law_report report = {0};
    check(&source, &report);
    if (report.findings > 0) {
        fprintf(stderr, "%s%zu findings\n", report.text, report.findings);
    }
    assert_int_equal(report.findings, 0);
    assert_true(report.looked_at >= at_least);
}

/* One file alone; returns what was found in it. */
static law_report planted(check_fn *check, const char *path, const char *text)
{
    law_tree tree = {0};
    law_report report = {0};
    assert_true(law_tree_add(&tree, path, text));
    check(&tree, &report);
    law_tree_free(&tree);
    return report;
}

static void assert_found(check_fn *check, const char *path, const char *text, const char *finding)
{
    law_report report = planted(check, path, text);
    assert_int_equal(report.findings, 1);
    assert_string_equal(report.text, finding);
}

static void assert_clean(check_fn *check, const char *path, const char *text)
{
    law_report report = planted(check, path, text);
    assert_string_equal(report.text, "");
    assert_int_equal(report.findings, 0);
}

static void test_includes(void **state)
{
    (void)state;
    assert_kept(law_check_includes, 100);
    assert_found(law_check_includes, "optim/x.c", "\n#include \"engine/engine.h\"\n",
                 "optim/x.c:2: may not include \"engine/engine.h\"\n");
    assert_found(law_check_includes, "shard/x.h", "#  include <device/device.h>\n",
                 "shard/x.h:1: may not include \"device/device.h\"\n");
    assert_found(law_check_includes, "comm/x.c", "#include \"shard/plan.h\"\n",
                 "comm/x.c:1: may not include \"shard/plan.h\"\n");
    assert_found(law_check_includes, "models/x.c", "#include \"base/status.h\"\n",
                 "models/x.c:1: may not include \"base/status.h\"\n");
    assert_found(law_check_includes, "examples/x.c", "#include \"models/model.h\"\n",
                 "examples/x.c:1: may not include \"models/model.h\"\n");
    assert_found(law_check_includes, "include/sherd/x.h", "#include \"base/status.h\"\n",
                 "include/sherd/x.h:1: may not include \"base/status.h\"\n");
    assert_found(law_check_includes, "base/x.c", "#include \"status.h\"\n",
                 "base/x.c:1: \"status.h\" is not written from the root\n");
    assert_clean(law_check_includes, "optim/x.c",
                 "/* #include \"engine/engine.h\" */\n// #include \"engine/engine.h\"\n#include <sys/mman.h>\n"
                 "#include \"base/status.h\"\n#include \"optim/optim.h\"\n#include \"sherd/sherd.h\"\n");
    assert_clean(law_check_includes, "cli/x.c", "#include \"models/model.h\"\n");
    assert_clean(law_check_includes, "tests/x.c", "#include \"engine/engine.h\"\n");
}

static void test_foreign_names(void **state)
{
    (void)state;
    assert_kept(law_check_foreign_names, 1);
    assert_found(law_check_foreign_names, "engine/x.c", "cudaStream_t stream;\n",
                 "engine/x.c:1: 'cudaStream_t' does not belong here\n");
    assert_found(law_check_foreign_names, "device/cuda_x.c", "ncclComm_t comm;\n",
                 "device/cuda_x.c:1: 'ncclComm_t' does not belong here\n");
    assert_found(law_check_foreign_names, "include/sherd/sherd.h", "\n\nint f(MPI_Comm comm);\n",
                 "include/sherd/sherd.h:3: 'MPI_Comm' does not belong here\n");
    assert_clean(law_check_foreign_names, "device/cuda_x.c", "cudaStream_t stream;\n");
    assert_clean(law_check_foreign_names, "engine/x.c",
                 "const char *s = \"cudaStream_t \\\" MPI_Comm\"; // ncclComm_t\n");
}

static void test_calls(void **state)
{
    (void)state;
    assert_kept(law_check_calls, 500);
    assert_found(law_check_calls, "base/x.c", "void f(void) { printf (\"x\"); }\n",
                 "base/x.c:1: 'printf' in the library\n");
    assert_found(law_check_calls, "comm/x.c", "void f(void)\n{\n    abort();\n}\n",
                 "comm/x.c:3: 'abort' in the library\n");
    assert_found(law_check_calls, "device/x.h", "#define LOG(x) other(stderr, x)\n",
                 "device/x.h:1: 'stderr' in the library\n");
    assert_clean(law_check_calls, "base/x.c", "snprintf(a, n, \"printf(\"); comm->ops->abort(comm); /* exit(1) */\n");
    assert_clean(law_check_calls, "cli/x.c", "printf(\"x\");\n");
}

static char *repeated(const char *head, const char *line, size_t times, const char *tail)
{
    char *text = malloc(strlen(head) + strlen(line) * times + strlen(tail) + 1);
    assert_non_null(text);
    strcpy(text, head);
    char *end = text + strlen(head);
    for (size_t i = 0; i < times; i++, end += strlen(line)) {
        strcpy(end, line);
    }
    strcpy(end, tail);
    return text;
}

static void test_lengths(void **state)
{
    (void)state;
    assert_kept(law_check_lengths, 50);
    char *text = repeated("int f(void)\n{\n", "    g();\n", 120, "}\n");
    assert_found(law_check_lengths, "base/x.c", text, "base/x.c:1: a function of 122 lines\n");
    free(text);
    text = repeated("", "int x;\n", 601, "");
    assert_found(law_check_lengths, "base/x.c", text, "base/x.c: 601 lines, more than 600\n");
    assert_clean(law_check_lengths, "tests/x.c", text);
    free(text);
    text = repeated("/* ", "x", 141, " */\n");
    assert_found(law_check_lengths, "base/x.c", text, "base/x.c:1: 147 columns\n");
    free(text);
    text = repeated("/* ", "→", 134, " */\n");
    assert_clean(law_check_lengths, "base/x.c", text);
    free(text);
}

static void test_licence(void **state)
{
    (void)state;
    assert_kept(law_check_licence, 80);
    assert_found(law_check_licence, "base/x.c", "int x;\n", "base/x.c: no licence line at its top\n");
    assert_found(law_check_licence, "scripts/x", "#!/bin/sh\ntrue\n", "scripts/x: no licence line at its top\n");
    assert_found(law_check_licence, "base/x.h", "\n\n\n/* SPDX-License-Identifier: MIT */\n",
                 "base/x.h: no licence line at its top\n");
    assert_clean(law_check_licence, "docs/x.md", "# words\n");
}

static void test_paths(void **state)
{
    (void)state;
    assert_kept(law_check_paths, 80);
    assert_found(law_check_paths, "docs/x.md",
                 "see /wo"
                 "rk/main\n",
                 "docs/x.md:1: a machine's own path\n");
    assert_found(law_check_paths, "docs/x.md",
                 "\n/ho"
                 "me/somebody\n",
                 "docs/x.md:2: a machine's own path\n");
    assert_clean(law_check_paths, "docs/x.md",
                 "net/wo"
                 "rk/main and /tmp/sherd-XXXXXX\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_includes), cmocka_unit_test(test_foreign_names), cmocka_unit_test(test_calls),
        cmocka_unit_test(test_lengths),  cmocka_unit_test(test_licence),       cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
