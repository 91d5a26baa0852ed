/* SPDX-License-Identifier: MIT
 *
 * The written laws of the source tree as checks over text: pure functions from files to findings, so that the test can
 * plant a violation and see it found as well as read the real tree.
 */
#ifndef SHERD_TESTS_INTEGRATION_LAW_H
#define SHERD_TESTS_INTEGRATION_LAW_H

#include <stdbool.h>
#include <stddef.h>

typedef struct law_file {
    char *path; /* from the root, with slashes */
    char *text; /* NUL-terminated */
    char *code; /* the same text, C comments blanked out, line breaks kept; NULL for what is not C */
} law_file;

typedef struct law_tree {
    law_file *files;
    size_t count, capacity;
} law_tree;

typedef struct law_report {
    size_t looked_at; /* includes, calls, files …: what the check had to judge, so that an empty run is seen */
    size_t findings;
    char text[16384]; /* one line per finding, as far as they fit */
} law_report;

/* Reads the project's own folders and top-level files below `root`; build trees and version control are left out. */
bool law_tree_load(law_tree *tree, const char *root);
bool law_tree_add(law_tree *tree, const char *path, const char *text);
void law_tree_free(law_tree *tree);

/* Who may include whom. */
void law_check_includes(const law_tree *tree, law_report *report);
/* CUDA's, NCCL's and MPI's names only in the files that wrap them. */
void law_check_foreign_names(const law_tree *tree, law_report *report);
/* The library never prints, ends the process or changes the environment. */
void law_check_calls(const law_tree *tree, law_report *report);
/* Lines, functions and files of bounded length. */
void law_check_lengths(const law_tree *tree, law_report *report);
/* Every source file says its licence. */
void law_check_licence(const law_tree *tree, law_report *report);
/* No absolute path of anybody's machine. */
void law_check_paths(const law_tree *tree, law_report *report);

#endif
