/* SPDX-License-Identifier: MIT
 *
 * Telling a fault: where a key got its value. A --set that named the key, or a section that holds it, has the last
 * word over the file; a key that is missing is told at the nearest section that is there.
 */
#include "config/source.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "config/position.h"

/* 1 if `path` is `other` or lies inside it. */
static int path_within(const char *path, size_t path_length, const char *other, size_t other_length)
{
    return path_length >= other_length && memcmp(path, other, other_length) == 0 &&
           (path_length == other_length || path[other_length] == '.');
}

/* The last --set that gave `path` its value (inside = 0), or that gave one to something inside it (inside = 1). */
static const char *set_of_path(const sherd__source *source, const char *path, int inside)
{
    size_t length = strlen(path);

    for (size_t i = source->n_sets; i-- > 0;) {
        const char *set = source->sets[i];
        size_t set_length = strcspn(set, "=");

        if (inside ? path_within(set, set_length, path, length) : path_within(path, length, set, set_length)) {
            return set;
        }
    }
    return NULL;
}

void sherd__source_place(const sherd__source *source, const char *path, char *buffer, size_t capacity)
{
    char at[SHERD__PATH_MAX];
    const char *set = path[0] != '\0' ? set_of_path(source, path, 0) : NULL;
    sherd__position position;

    snprintf(at, sizeof at, "%s", path);
    while (set == NULL && at[0] != '\0') {
        char *dot = strrchr(at, '.');

        if (sherd__position_of_path(source->text, source->bytes, at, &position)) {
            snprintf(buffer, capacity, "%.120s: line %u, column %u: ", source->name, (unsigned)position.line,
                     (unsigned)position.column);
            return;
        }
        set = set_of_path(source, at, 1);
        *(dot != NULL ? dot : at) = '\0';
    }
    if (set != NULL) {
        snprintf(buffer, capacity, "--set %.120s: ", set);
    } else {
        snprintf(buffer, capacity, "%.120s: ", source->name);
    }
}

/* PLACE: PATH: SENTENCE */
static void compose(const sherd__source *source, const char *path, const char *sentence, char *text, size_t capacity)
{
    char place[192];

    sherd__source_place(source, path, place, sizeof place);
    snprintf(text, capacity, "%s%s%s%s", place, path, path[0] != '\0' ? ": " : "", sentence);
}

sherd_status sherd__source_fail(const sherd__source *source, const char *path, sherd_error *err, sherd_status status,
                                const char *format, ...)
{
    char sentence[400], text[800];
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    compose(source, path, sentence, text, sizeof text);
    return sherd__fail(err, status, "%s", text);
}

void sherd__source_log(const sherd__source *source, sherd_log_level level, const char *path, const char *format, ...)
{
    char sentence[400], text[800];
    va_list args;

    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    compose(source, path, sentence, text, sizeof text);
    sherd__log(source->log, level, "%s", text);
}
