/* SPDX-License-Identifier: MIT
 *
 * The hint behind an unknown key: the key that was probably meant. First the section's own keys by edit distance
 * (an insertion, a deletion, a change and a swap of neighbours count one each), then a key of exactly this name
 * elsewhere.
 */
#include <string.h>

#include "config/keys.h"

enum { NAME_MAX = 63 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t edit_distance(const char *a, const char *b)
{
    size_t rows[3][NAME_MAX + 1] = {{0}}, la = strlen(a), lb = strlen(b);
    size_t *before = rows[0], *above = rows[1], *row = rows[2];

    if (la > NAME_MAX || lb > NAME_MAX) {
        return NAME_MAX;
    }
    for (size_t j = 0; j <= lb; j++) {
        above[j] = j;
    }
    memcpy(before, above, sizeof rows[0]);
    for (size_t i = 1; i <= la; i++) {
        size_t *spare = before;

        row[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            row[j] = least(above[j - 1] + (a[i - 1] != b[j - 1]), least(above[j], row[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                row[j] = least(row[j], before[j - 2] + 1);
            }
        }
        before = above;
        above = row;
        row = spare;
    }
    return above[lb];
}

/* The name within the section, or NULL if the row is not directly inside it. */
static const char *name_inside(const char *path, const char *section)
{
    size_t length = strlen(section);

    if (length > 0) {
        if (strncmp(path, section, length) != 0 || path[length] != '.') {
            return NULL;
        }
        path += length + 1;
    }
    return strchr(path, '.') == NULL ? path : NULL;
}

const char *sherd__key_nearest(const char *section, const char *name)
{
    size_t limit = strlen(name) / 3 + 1, best = limit + 1;
    const char *found = NULL, *elsewhere = NULL;

    for (size_t i = 0; i < sherd__keys_count; i++) {
        const char *path = sherd__keys[i].path, *inside = name_inside(path, section), *dot = strrchr(path, '.');
        size_t distance = inside != NULL ? edit_distance(name, inside) : best;

        if (distance < best) {
            best = distance;
            found = path;
        }
        if (elsewhere == NULL && strcmp(dot != NULL ? dot + 1 : path, name) == 0) {
            elsewhere = path;
        }
    }
    return best > 1 && elsewhere != NULL ? elsewhere : found;
}
