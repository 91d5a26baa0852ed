/* SPDX-License-Identifier: MIT
 *
 * What a configuration was read from: the text, its name, and the --set strings laid over it; and how a fault is
 * told.
 */
#ifndef SHERD_CONFIG_SOURCE_H
#define SHERD_CONFIG_SOURCE_H

#include <jansson.h>

#include "base/status.h"
#include "config/keys.h"

#define SHERD__PATH_MAX 160 /* longest key path that is looked at, with its NUL */
#define SHERD__DEPTH_MAX 8  /* parts of a --set path */

typedef struct sherd__source {
    const char *text;
    size_t bytes;
    const char *name;
    const char *const *sets;
    size_t n_sets;
    const sherd_log *log;
} sherd__source;

/* "ds.json: line 3, column 7: " or "--set a.b=1: ": where `path` got its value. The --set that named it last wins. */
void sherd__source_place(const sherd__source *source, const char *path, char *buffer, size_t capacity);
/* "PLACE: PATH: …" as an error. */
sherd_status sherd__source_fail(const sherd__source *source, const char *path, sherd_error *err, sherd_status status,
                                const char *format, ...) SHERD__PRINTF(5, 6);
void sherd__source_log(const sherd__source *source, sherd_log_level level, const char *path, const char *format, ...)
    SHERD__PRINTF(4, 5);

/* Lays the --set strings over the tree, in order. */
sherd_status sherd__sets_apply(const sherd__source *source, json_t *root, sherd_error *err);

/* Validates every member of the tree and stores it in the draft; then the checks between keys; then refuses what is not
 * built. */
sherd_status sherd__walk(const sherd__source *source, json_t *root, sherd__draft *draft, sherd_error *err);

#endif
