/* SPDX-License-Identifier: MIT
 *
 * A folder that comes and goes with a test, and whole files by name.
 */
#ifndef SHERD_TESTS_STORE_FOLDER_H
#define SHERD_TESTS_STORE_FOLDER_H

#include <stddef.h>

typedef struct folder {
    char path[64];
    char file[160]; /* folder_file's answer, until the next */
} folder;

void folder_make(folder *self);
/* Asserts that it holds `left` files, removes them and it. */
void folder_remove(folder *self, int left);
int folder_count(const folder *self);
const char *folder_file(folder *self, const char *name);
/* NULL if there is none; free() */
unsigned char *folder_read(folder *self, const char *name, size_t *bytes);
void folder_write(folder *self, const char *name, const void *data, size_t bytes);

#endif
