/* SPDX-License-Identifier: MIT
 *
 * The strings of --set, "a.b=V", laid over the tree in order.
 */
#include <stdio.h>
#include <string.h>

#include "config/source.h"

/* V is JSON if it parses, else a string. Two equal keys are told apart from text that only looks like JSON. */
static sherd_status read_value(const char *set, const char *text, json_t **out, sherd_error *err)
{
    json_error_t fault;

    *out = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &fault);
    if (*out == NULL && json_error_code(&fault) == json_error_duplicate_key) {
        return sherd__fail(err, SHERD_EINVAL, "--set %s: a key is written twice, keep one of them", set);
    }
    if (*out == NULL) {
        *out = json_string(text);
    }
    if (*out == NULL) {
        return sherd__fail(err, SHERD_EINVAL, "--set %.200s: the value is not UTF-8 text, correct it", set);
    }
    return SHERD_OK;
}

/* The object under `name`, made if it is missing. The old form zero_optimization: true becomes its object first. */
static json_t *open_object(json_t *parent, const char *name)
{
    json_t *child = json_object_get(parent, name);

    if (json_is_boolean(child) && strcmp(name, "zero_optimization") == 0) {
        child = json_pack("{s:i}", "stage", json_is_true(child));
    } else if (child == NULL || json_is_null(child)) {
        child = json_object();
    } else {
        return json_is_object(child) ? child : NULL;
    }
    return json_object_set_new(parent, name, child) == 0 ? child : NULL;
}

/* Cuts `path` at its dots; at most SHERD__DEPTH_MAX parts, none of them empty. Returns how many, 0 if it cannot be
 * one. */
static size_t split_path(char *path, char *parts[SHERD__DEPTH_MAX])
{
    size_t n = 0;

    for (char *part = path; part != NULL; n++) {
        char *dot = strchr(part, '.');

        if (n == SHERD__DEPTH_MAX || *part == '\0' || dot == part) {
            return 0;
        }
        parts[n] = part;
        if (dot != NULL) {
            *dot++ = '\0';
        }
        part = dot;
    }
    return n;
}

static sherd_status apply_one(const char *set, json_t *root, sherd_error *err)
{
    const char *equals = strchr(set, '=');
    char path[SHERD__PATH_MAX], *parts[SHERD__DEPTH_MAX];
    json_t *value, *at = root;
    size_t length = equals != NULL ? (size_t)(equals - set) : 0, n;
    sherd_status status;

    if (equals == NULL || length == 0) {
        return sherd__fail(err, SHERD_EINVAL, "--set %.200s: not of the form KEY.PATH=VALUE", set);
    }
    snprintf(path, sizeof path, "%.*s", (int)(length < sizeof path ? length : sizeof path), set);
    n = length < sizeof path ? split_path(path, parts) : 0;
    if (n == 0) {
        return sherd__fail(err, SHERD_EINVAL, "--set %.200s: the key path is not made of 1 to %d names with dots "
                           "between", set, SHERD__DEPTH_MAX);
    }
    for (size_t i = 0; i + 1 < n; i++) {
        at = open_object(at, parts[i]);
        if (at == NULL) {
            return sherd__fail(err, SHERD_EINVAL, "--set %.200s: \"%s\" is not an object and cannot hold \"%s\"", set,
                               parts[i], parts[i + 1]);
        }
    }
    status = read_value(set, equals + 1, &value, err);
    if (status != SHERD_OK) {
        return status;
    }
    if (json_object_set_new(at, parts[n - 1], value) != 0) {
        return sherd__fail(err, SHERD_EINVAL, "--set %.200s: the key path is not UTF-8 text, correct it", set);
    }
    return SHERD_OK;
}

sherd_status sherd__sets_apply(const sherd__source *source, json_t *root, sherd_error *err)
{
    for (size_t i = 0; i < source->n_sets; i++) {
        sherd_status status = apply_one(source->sets[i], root, err);

        if (status != SHERD_OK) {
            return status;
        }
    }
    return SHERD_OK;
}
