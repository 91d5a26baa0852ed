/* SPDX-License-Identifier: MIT
 *
 * Loading the source tree: whole files in memory, C files also with their comments blanked out.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "tests/integration/law.h"

/* Folders of the project; whatever else lies beside them (build trees, scratch) is nobody's law. */
static const char *const folders[] = {
    ".ci",  "base",    "bench",  "cli",     "cmake", "comm",   "config",  "device", "docs",  "engine", "examples",
    "host", "include", "models", "offload", "optim", "python", "scripts", "shard",  "store", "tests",
};
static const char *const top_files[] = {"CMakeLists.txt", "CMakePresets.json", "README.md", "CHANGELOG.md"};

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static bool is_c(const char *path)
{
    return ends_with(path, ".c") || ends_with(path, ".h") || ends_with(path, ".cu") || ends_with(path, ".cuh") ||
           ends_with(path, ".cpp");
}

/* Blanks comments, keeping the line breaks; strings and character constants stay as they are. */
static void blank_comments(char *at)
{
    while (*at != '\0') {
        if (at[0] == '/' && at[1] == '*') {
            for (; *at != '\0' && !(at[0] == '*' && at[1] == '/'); at++) {
                *at = *at == '\n' ? '\n' : ' ';
            }
            if (*at != '\0') {
                at[0] = at[1] = ' ';
            }
        } else if (at[0] == '/' && at[1] == '/') {
            for (; *at != '\0' && *at != '\n'; at++) {
                *at = ' ';
            }
        } else if (*at == '"' || *at == '\'') {
            char quote = *at++;
            for (; *at != '\0' && *at != quote && *at != '\n'; at++) {
                if (*at == '\\' && at[1] != '\0') {
                    at++;
                }
            }
            at += *at == quote;
        } else {
            at++;
        }
    }
}

bool law_tree_add(law_tree *tree, const char *path, const char *text)
{
    if (tree->count == tree->capacity) {
        size_t capacity = tree->capacity == 0 ? 64 : tree->capacity * 2;
        law_file *files = realloc(tree->files, capacity * sizeof *files);
        if (files == NULL) {
            return false;
        }
        tree->files = files;
        tree->capacity = capacity;
    }
    law_file file = {.path = strdup(path), .text = strdup(text), .code = is_c(path) ? strdup(text) : NULL};
    if (file.path == NULL || file.text == NULL || (is_c(path) && file.code == NULL)) {
        free(file.path);
        free(file.text);
        free(file.code);
        return false;
    }
    if (file.code != NULL) {
        blank_comments(file.code);
    }
    tree->files[tree->count++] = file;
    return true;
}

void law_tree_free(law_tree *tree)
{
    for (size_t i = 0; i < tree->count; i++) {
        free(tree->files[i].path);
        free(tree->files[i].text);
        free(tree->files[i].code);
    }
    free(tree->files);
    *tree = (law_tree){0};
}

static bool load_file(law_tree *tree, const char *root, const char *path)
{
    char full[4096];
    snprintf(full, sizeof full, "%s/%s", root, path);
    FILE *file = fopen(full, "rb");
    if (file == NULL) {
        return false;
    }
    bool done = false;
    char *text = NULL;
    if (fseek(file, 0, SEEK_END) == 0) {
        long bytes = ftell(file);
        rewind(file);
        text = bytes >= 0 ? calloc(1, (size_t)bytes + 1) : NULL;
        /* A NUL byte would end the text early; binary files are no source. */
        done = text != NULL && fread(text, 1, (size_t)bytes, file) == (size_t)bytes &&
               (strlen(text) < (size_t)bytes || law_tree_add(tree, path, text));
    }
    free(text);
    fclose(file);
    return done;
}

static bool load_folder(law_tree *tree, const char *root, const char *folder)
{
    char full[4096];
    snprintf(full, sizeof full, "%s/%s", root, folder);
    DIR *dir = opendir(full);
    if (dir == NULL) {
        return true; /* a folder that does not exist yet */
    }
    bool done = true;
    for (struct dirent *entry; done && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, "__pycache__") == 0) {
            continue;
        }
        char path[2048], where[8192];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        snprintf(where, sizeof where, "%s/%s", root, path);
        struct stat what;
        if (lstat(where, &what) != 0) {
            continue; /* an editor's file that went away meanwhile */
        }
        if (S_ISDIR(what.st_mode)) {
            done = load_folder(tree, root, path);
        } else if (S_ISREG(what.st_mode)) {
            done = load_file(tree, root, path);
        }
    }
    closedir(dir);
    return done;
}

bool law_tree_load(law_tree *tree, const char *root)
{
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        if (!load_folder(tree, root, folders[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < sizeof top_files / sizeof top_files[0]; i++) {
        load_file(tree, root, top_files[i]);
    }
    return true;
}
