/* SPDX-License-Identifier: MIT
 *
 * One pass over the text that knows at every moment the path of the key it is under. It need not judge the text
 * (the JSON library has done that, or is about to), only never run past its end: brackets that do not match and
 * strings that do not end just end the pass. The path is kept as one string with a stack of lengths, so there is no
 * recursion.
 */
#include "config/position.h"

#include <string.h>

enum { DEPTH = 32, PATH = 512 };

typedef struct walker {
    const char *text;
    size_t bytes, at;
    char path[PATH];
    size_t path_length;
    size_t base[DEPTH];    /* path length of the container at each depth */
    unsigned char object[DEPTH];
    size_t depth;
    int key_next;          /* the next string is a key */
    size_t key_at;         /* where the current key's quote stands */
} walker;

static void walker_open(walker *w, int object)
{
    if (w->depth < DEPTH) {
        w->base[w->depth] = w->path_length;
        w->object[w->depth] = (unsigned char)object;
    }
    w->depth++;
    w->key_next = object;
}

static void walker_close(walker *w)
{
    if (w->depth > 0) {
        w->depth--;
    }
    w->path_length = w->depth > 0 && w->depth <= DEPTH ? w->base[w->depth - 1] : 0;
    w->key_next = 0;
}

/* Replaces what stands behind the container's path by this key. Keys too long or too deep leave the path as it was,
 * with its end cut off, so that they match nothing. */
static void walker_set_key(walker *w, size_t begin, size_t end)
{
    size_t base = w->depth > 0 && w->depth <= DEPTH ? w->base[w->depth - 1] : 0;
    size_t length = end - begin, dot = base > 0 ? 1 : 0;

    w->key_at = begin - 1;
    w->path_length = base;
    if (w->depth == 0 || w->depth > DEPTH || length >= PATH - base - dot) {
        return;
    }
    if (dot) {
        w->path[base] = '.';
    }
    memcpy(w->path + base + dot, w->text + begin, length);
    w->path_length = base + dot + length;
}

/* Steps over a string; w->at stands on its opening quote. */
static size_t walker_skip_string(walker *w)
{
    size_t i = w->at + 1;

    while (i < w->bytes && w->text[i] != '"') {
        i += w->text[i] == '\\' ? 2 : 1;
    }
    return i < w->bytes ? i : w->bytes;
}

/* Goes on to the next key; 0 at the end of the text. */
static int walker_next_key(walker *w)
{
    while (w->at < w->bytes) {
        char c = w->text[w->at];

        if (c == '"') {
            size_t begin = w->at + 1, end = walker_skip_string(w);

            w->at = end < w->bytes ? end + 1 : end;
            if (w->key_next) {
                walker_set_key(w, begin, end);
                w->key_next = 0;
                return 1;
            }
            continue;
        }
        if (c == '{' || c == '[') {
            walker_open(w, c == '{');
        } else if (c == '}' || c == ']') {
            walker_close(w);
        } else if (c == ',') {
            w->key_next = w->depth > 0 && w->depth <= DEPTH && w->object[w->depth - 1];
        }
        w->at++;
    }
    return 0;
}

static void walker_init(walker *w, const char *text, size_t bytes)
{
    memset(w, 0, sizeof *w);
    w->text = text;
    w->bytes = bytes;
}

sherd__position sherd__position_of_byte(const char *text, size_t bytes, size_t offset)
{
    sherd__position position = {1, 1};

    for (size_t i = 0; i < bytes && i < offset; i++) {
        if (text[i] == '\n') {
            position.line++;
            position.column = 1;
        } else if (((unsigned char)text[i] & 0xC0) != 0x80) {
            position.column++;
        }
    }
    return position;
}

int sherd__position_of_path(const char *text, size_t bytes, const char *path, sherd__position *out)
{
    walker w;
    size_t length = strlen(path);

    walker_init(&w, text, bytes);
    while (walker_next_key(&w)) {
        if (w.path_length == length && memcmp(w.path, path, length) == 0) {
            *out = sherd__position_of_byte(text, bytes, w.key_at);
            return 1;
        }
    }
    return 0;
}

void sherd__position_path_at(const char *text, size_t bytes, size_t offset, char *path, size_t capacity)
{
    walker w;
    size_t length = 0;

    walker_init(&w, text, bytes);
    while (walker_next_key(&w) && w.key_at < offset) {
        length = w.path_length < capacity ? w.path_length : capacity - 1;
        memcpy(path, w.path, length);
    }
    path[length] = '\0';
}
