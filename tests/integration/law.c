/* SPDX-License-Identifier: MIT
 *
 * The checks. Each walks the files' code (comments blanked) or text and adds one line per finding.
 */
#include "tests/integration/law.h"

#include <ctype.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_COLUMNS = 140, MAX_FUNCTION = 110, MAX_FILE = 600, MAX_TEST_FILE = 1000 };

__attribute__((format(printf, 2, 3))) static void find(law_report *report, const char *format, ...)
{
    size_t used = strlen(report->text), room = sizeof report->text - used;
    va_list args;
    va_start(args, format);
    int n = vsnprintf(report->text + used, room, format, args);
    va_end(args);
    if (n < 0 || (size_t)n + 1 >= room) {
        report->text[used] = '\0'; /* no half lines; the count still tells */
    } else {
        strcat(report->text, "\n");
    }
    report->findings++;
}

static size_t line_of(const char *text, const char *at)
{
    size_t line = 1;
    for (; text < at; text++) {
        line += *text == '\n';
    }
    return line;
}

/* Is `word` (n bytes) one of the blank-separated words of `list`? */
static bool listed(const char *list, const char *word, size_t n)
{
    while (*list != '\0') {
        size_t m = strcspn(list, " ");
        if (m == n && memcmp(list, word, n) == 0) {
            return true;
        }
        list += m + (list[m] == ' ');
    }
    return false;
}

/* ------------------------------------------------------------------------------------------------------------
 * includes */

/* What each folder may include besides itself, include/sherd and the system. */
static const struct {
    const char *folder, *may;
} layers[] = {
    {"base", ""},
    {"optim", "base"},
    {"config", "base"},
    {"host", "base"},
    {"store", "base"},
    {"shard", "optim base"},
    {"device", "optim host base"},
    {"comm", "device host base"},
    {"offload", "device optim host store shard base"},
    {"engine", "base optim shard config host store device comm offload"},
    {"models", ""},
    {"cli", "models"},
    {"examples", ""},
    {"python", ""},
    {"include", ""},
};
static const char all_folders[] =
    "base optim config host store shard device comm offload engine models cli examples python bench tests";

static const char *may_include(const char *path)
{
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
        size_t n = strlen(layers[i].folder);
        if (strncmp(path, layers[i].folder, n) == 0 && path[n] == '/') {
            return layers[i].may;
        }
    }
    return NULL; /* tests, bench: what they test and measure */
}

static void check_include(const law_file *file, const char *name, size_t n, bool quoted, size_t line,
                          law_report *report)
{
    const char *may = may_include(file->path);
    const char *slash = memchr(name, '/', n);
    if (slash == NULL) {
        if (quoted && may != NULL) {
            find(report, "%s:%zu: \"%.*s\" is not written from the root", file->path, line, (int)n, name);
        }
        return;
    }
    size_t head = (size_t)(slash - name);
    bool own = strncmp(file->path, name, head + 1) == 0;
    if (may == NULL || own || (head == 5 && memcmp(name, "sherd", 5) == 0)) {
        return;
    }
    if (!listed(may, name, head) && (quoted || listed(all_folders, name, head))) {
        find(report, "%s:%zu: may not include \"%.*s\"", file->path, line, (int)n, name);
    }
}

void law_check_includes(const law_tree *tree, law_report *report)
{
    for (size_t i = 0; i < tree->count; i++) {
        const law_file *file = &tree->files[i];
        for (const char *at = file->code; at != NULL && (at = strstr(at, "#")) != NULL; at++) {
            const char *word = at + 1 + strspn(at + 1, " \t");
            if (strncmp(word, "include", 7) != 0) {
                continue;
            }
            const char *open = word + 7 + strspn(word + 7, " \t");
            if (*open != '"' && *open != '<') {
                continue;
            }
            size_t n = strcspn(open + 1, "\">\n");
            report->looked_at++;
            check_include(file, open + 1, n, *open == '"', line_of(file->code, at), report);
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------
 * identifiers */

/* The next identifier at or after `at`, its length in *n; strings and character constants are passed over. */
static const char *next_word(const char *at, size_t *n)
{
    while (*at != '\0') {
        if (*at == '"' || *at == '\'') {
            char quote = *at++;
            for (; *at != '\0' && *at != quote && *at != '\n'; at++) {
                at += *at == '\\' && at[1] != '\0';
            }
            at += *at == quote;
        } else if (isalpha((unsigned char)*at) || *at == '_') {
            for (*n = 1; isalnum((unsigned char)at[*n]) || at[*n] == '_'; (*n)++) {
            }
            return at;
        } else if (isdigit((unsigned char)*at)) {
            at += strspn(at, "0123456789abcdefABCDEFxXuUlLpP.");
        } else {
            at++;
        }
    }
    return NULL;
}

static const struct {
    const char *prefix;
    const char *allowed[8]; /* patterns of paths */
} foreign[] = {
    {"cuda", {"device/cuda*", "comm/nccl*", "models/*cuda*", "include/sherd/sherd_cuda.h", "examples/*nccl*", "tests/*", "bench/*"}},
    {"cublas", {"models/*cuda*", "tests/*", "bench/*"}},
    {"cudnn", {"models/*cuda*", "tests/*", "bench/*"}},
    {"nccl", {"comm/nccl*", "include/sherd/sherd_cuda.h", "examples/*nccl*", "tests/*", "bench/*"}},
    {"MPI_", {"comm/*mpi*", "cli/*mpi*", "examples/*mpi*", "include/sherd/sherd_mpi.h", "tests/*", "bench/*"}},
};

/* "cudaStream_t", "ncclComm_t", "MPI_Comm": the prefix and then a capital letter, which our own names never have. */
static bool has_prefix(const char *word, size_t n, const char *prefix)
{
    size_t m = strlen(prefix);
    return n > m && memcmp(word, prefix, m) == 0 && isupper((unsigned char)word[m]);
}

static bool path_allowed(const char *path, const char *const *patterns)
{
    for (; *patterns != NULL; patterns++) {
        if (fnmatch(*patterns, path, 0) == 0) {
            return true;
        }
    }
    return false;
}

void law_check_foreign_names(const law_tree *tree, law_report *report)
{
    for (size_t i = 0; i < tree->count; i++) {
        const law_file *file = &tree->files[i];
        size_t n = 0;
        for (const char *at = file->code; at != NULL && (at = next_word(at, &n)) != NULL; at += n) {
            for (size_t k = 0; k < sizeof foreign / sizeof foreign[0]; k++) {
                if (!has_prefix(at, n, foreign[k].prefix)) {
                    continue;
                }
                report->looked_at++;
                if (!path_allowed(file->path, foreign[k].allowed)) {
                    find(report, "%s:%zu: '%.*s' does not belong here", file->path, line_of(file->code, at), (int)n,
                         at);
                }
            }
        }
    }
}

static const char library_folders[] = "base optim shard config host store device comm offload engine";
static const char forbidden_calls[] =
    "printf vprintf fprintf vfprintf dprintf vdprintf puts fputs putchar perror exit _exit "
    "_Exit quick_exit abort setenv unsetenv putenv clearenv system popen";

/* A member of that name (ops->abort) is no call of libc's. */
static bool is_member(const char *start, const char *at)
{
    while (at > start && isspace((unsigned char)at[-1])) {
        at--;
    }
    return at > start && (at[-1] == '.' || (at[-1] == '>' && at - 1 > start && at[-2] == '-'));
}

void law_check_calls(const law_tree *tree, law_report *report)
{
    for (size_t i = 0; i < tree->count; i++) {
        const law_file *file = &tree->files[i];
        size_t n = strcspn(file->path, "/");
        if (!listed(library_folders, file->path, n)) {
            continue;
        }
        for (const char *at = file->code; at != NULL && (at = next_word(at, &n)) != NULL; at += n) {
            bool call = at[n + strspn(at + n, " \t\n")] == '(' && !is_member(file->code, at);
            report->looked_at += call;
            if ((call && listed(forbidden_calls, at, n)) || listed("stdout stderr", at, n)) {
                find(report, "%s:%zu: '%.*s' in the library", file->path, line_of(file->code, at), (int)n, at);
            }
        }
    }
}

/* -------------------------------------------------------------------------------------------------------------
 * lengths */

static size_t columns_of(const char *line, size_t bytes)
{
    size_t columns = 0;
    for (size_t i = 0; i < bytes; i++) {
        columns += ((unsigned char)line[i] & 0xC0u) != 0x80u; /* UTF-8: continuation bytes take no room */
    }
    return columns;
}

/* A function's body ends with a brace alone in the first column; it began after the last line that started there. */
static void check_file_lengths(const law_file *file, law_report *report)
{
    size_t line = 0, begin = 0;
    for (const char *at = file->text; *at != '\0';) {
        size_t bytes = strcspn(at, "\n");
        line++;
        if (columns_of(at, bytes) > MAX_COLUMNS) {
            find(report, "%s:%zu: %zu columns", file->path, line, columns_of(at, bytes));
        }
        if (bytes == 1 && *at == '}') {
            if (line - begin > MAX_FUNCTION) {
                find(report, "%s:%zu: a function of %zu lines", file->path, begin, line - begin);
            }
        } else if (bytes > 0 && (isalpha((unsigned char)*at) || *at == '_')) {
            begin = line;
        }
        at += bytes + (at[bytes] == '\n');
    }
    size_t limit = strncmp(file->path, "tests/", 6) == 0 ? MAX_TEST_FILE : MAX_FILE;
    if (line > limit) {
        find(report, "%s: %zu lines, more than %zu", file->path, line, limit);
    }
}

void law_check_lengths(const law_tree *tree, law_report *report)
{
    for (size_t i = 0; i < tree->count; i++) {
        if (tree->files[i].code != NULL) {
            report->looked_at++;
            check_file_lengths(&tree->files[i], report);
        }
    }
}

/* ------------------------------------------------------------------------------------------------------- licence,
 * paths */

static bool is_source(const law_file *file)
{
    static const char *const patterns[] = {"*.c",  "*.h",  "*.cu",    "*.cuh",           "*.cpp",
                                           "*.py", "*.sh", "*.cmake", "*CMakeLists.txt", NULL};
    return path_allowed(file->path, patterns) || strncmp(file->text, "#!", 2) == 0;
}

void law_check_licence(const law_tree *tree, law_report *report)
{
    for (size_t i = 0; i < tree->count; i++) {
        const law_file *file = &tree->files[i];
        if (!is_source(file)) {
            continue;
        }
        report->looked_at++;
        const char *mark = strstr(file->text, "SPDX-License-Identifier: MIT");
        if (mark == NULL || line_of(file->text, mark) > 3) {
            find(report, "%s: no licence line at its top", file->path);
        }
    }
}

void law_check_paths(const law_tree *tree, law_report *report)
{
    /* In two pieces, or this file would break the law it states. */
    static const char *const needles[] = {"/wo"
                                          "rk/",
                                          "/ho"
                                          "me/",
                                          "/ro"
                                          "ot/"};
    for (size_t i = 0; i < tree->count; i++) {
        const law_file *file = &tree->files[i];
        report->looked_at++;
        for (size_t k = 0; k < sizeof needles / sizeof needles[0]; k++) {
            const char *at = strstr(file->text, needles[k]);
            /* Relative paths may have such a folder in them. */
            if (at != NULL &&
                (at == file->text || !(isalnum((unsigned char)at[-1]) || strchr("}.*", at[-1]) != NULL))) {
                find(report, "%s:%zu: a machine's own path", file->path, line_of(file->text, at));
            }
        }
    }
}
