/* SPDX-License-Identifier: MIT
 *
 * One value against one row of the table. Integers may be written as reals without a fraction (5e8), as DeepSpeed
 * allows.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/status.h"
#include "config/keys.h"

/* Beyond 2^53 a double no longer tells neighbouring integers apart, so a real may not stand for one. */
static const double exact_limit = 9007199254740992.0;

static int read_integer(json_t *value, int64_t *out)
{
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return 1;
    }
    if (json_is_real(value)) {
        double real = json_real_value(value);

        if (fabs(real) <= exact_limit && floor(real) == real) {
            *out = (int64_t)real;
            return 1;
        }
    }
    return 0;
}

static int in_range(sherd__range range, double x)
{
    switch (range) {
    case SHERD__RANGE_ANY:
        return 1;
    case SHERD__RANGE_ZERO_UP:
        return x >= 0;
    case SHERD__RANGE_ONE_UP:
        return x >= 1;
    case SHERD__RANGE_POSITIVE:
        return x > 0;
    case SHERD__RANGE_UNIT:
        return x >= 0 && x <= 1;
    case SHERD__RANGE_BELOW_ONE:
        return x >= 0 && x < 1;
    case SHERD__RANGE_STAGE:
        return x >= 0 && x <= 3;
    case SHERD__RANGE_POWER:
        return x >= 0 && x <= 100;
    }
    return 0;
}

static const char *type_name(json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "the string ";
    case JSON_INTEGER:
    case JSON_REAL:
        return "";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "";
}

/* "the string \"two\"", "9", "a list": enough of the value to recognise it. */
static void describe(json_t *value, char *buffer, size_t capacity)
{
    char *text = NULL;

    if (json_is_string(value) || json_is_number(value)) {
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(12));
    }
    snprintf(buffer, capacity, "%s%.60s%s", type_name(value), text != NULL ? text : "",
             text != NULL && strlen(text) > 60 ? "..." : "");
    free(text);
}

static sherd_status refuse_value(const sherd__key *key, json_t *value, char *why, size_t capacity)
{
    char expected[256], found[128];

    describe(value, found, sizeof found);
    snprintf(why, capacity, "found %s, give %s", found, sherd__key_expects(key, expected, sizeof expected));
    return SHERD_EINVAL;
}

static void *member(const sherd__key *key, sherd__draft *draft)
{
    return (char *)draft + key->offset;
}

static void store_number(const sherd__key *key, sherd__draft *draft, int64_t integer, double real)
{
    switch (key->store) {
    case SHERD__STORE_I32:
        *(int32_t *)member(key, draft) = (int32_t)integer;
        break;
    case SHERD__STORE_I64:
        *(int64_t *)member(key, draft) = integer;
        break;
    case SHERD__STORE_F64:
        *(double *)member(key, draft) = real;
        break;
    case SHERD__STORE_NONE:
    case SHERD__STORE_BETAS:
    case SHERD__STORE_PATHS:
        break;
    }
}

/* Bytes: 12e9, "12GB", "12 GiB" (units of 1000 and of 1024), or "auto". */
static int read_bytes(json_t *value, int64_t *out)
{
    static const struct {
        const char *name;
        double bytes;
    } units[] = {{"", 1},    {"B", 1},       {"KB", 1e3},        {"MB", 1e6},           {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0}};
    const char *text = json_string_value(value);
    char *end;
    double number;

    if (text == NULL) {
        return read_integer(value, out) && *out >= 0;
    }
    if (strcmp(text, "auto") == 0) {
        *out = SHERD_BUDGET_AUTO;
        return 1;
    }
    number = strtod(text, &end);
    end += strspn(end, " ");
    for (size_t i = 0; i < sizeof units / sizeof *units && end != text; i++) {
        if (strcmp(end, units[i].name) == 0 && number >= 0 && number * units[i].bytes < 9e18) {
            *out = (int64_t)(number * units[i].bytes);
            return 1;
        }
    }
    return 0;
}

static int store_text(const sherd__key *key, json_t *value, sherd__draft *draft)
{
    if (!json_is_string(value) || json_string_length(value) >= SHERD_PATHS_MAX) {
        return 0;
    }
    if (key->store == SHERD__STORE_PATHS) {
        memcpy(member(key, draft), json_string_value(value), json_string_length(value) + 1);
    }
    return 1;
}

static int list_fits(const sherd__key *key, json_t *value)
{
    size_t index, count = json_array_size(value);
    json_t *item;
    int64_t integer;

    if (!json_is_array(value) || (key->type == SHERD__BETAS && count != 2)) {
        return 0;
    }
    json_array_foreach(value, index, item) {
        if (key->type == SHERD__INTEGERS && !read_integer(item, &integer)) {
            return 0;
        }
        if (!json_is_number(item) || !in_range(key->range, json_number_value(item))) {
            return 0;
        }
    }
    return 1;
}

static int store_list(const sherd__key *key, json_t *value, sherd__draft *draft)
{
    if (!list_fits(key, value)) {
        return 0;
    }
    if (key->store == SHERD__STORE_BETAS) {
        draft->config.optimizer.beta1 = json_number_value(json_array_get(value, 0));
        draft->config.optimizer.beta2 = json_number_value(json_array_get(value, 1));
    }
    return 1;
}

static int store_scalar(const sherd__key *key, json_t *value, sherd__draft *draft)
{
    int64_t integer = 0;
    double real = 0;

    switch (key->type) {
    case SHERD__BOOLEAN:
        integer = json_is_true(value);
        if (!json_is_boolean(value)) {
            return 0;
        }
        break;
    case SHERD__INTEGER:
        if (!read_integer(value, &integer) || !in_range(key->range, (double)integer)) {
            return 0;
        }
        break;
    case SHERD__NUMBER:
        real = json_number_value(value);
        if (!json_is_number(value) || !in_range(key->range, real)) {
            return 0;
        }
        break;
    case SHERD__BYTES:
        if (!read_bytes(value, &integer)) {
            return 0;
        }
        break;
    case SHERD__CHOICE:
        integer = json_is_string(value) ? sherd__key_choose(key, json_string_value(value)) : -1;
        if (integer < 0) {
            return 0;
        }
        break;
    default:
        return 0;
    }
    store_number(key, draft, integer, real);
    return 1;
}

sherd_status sherd__value_store(const sherd__key *key, json_t *value, sherd__draft *draft, char *why, size_t capacity)
{
    int fits = 0;

    switch (key->type) {
    case SHERD__ANY:
        fits = 1;
        break;
    case SHERD__STRING:
        fits = store_text(key, value, draft);
        break;
    case SHERD__INTEGERS:
    case SHERD__BETAS:
        fits = store_list(key, value, draft);
        break;
    case SHERD__OBJECT:
        fits = json_is_object(value);
        break;
    default:
        fits = store_scalar(key, value, draft);
        break;
    }
    return fits ? SHERD_OK : refuse_value(key, value, why, capacity);
}

static int same_value(json_t *a, json_t *b)
{
    if (json_is_number(a) && json_is_number(b)) {
        return json_number_value(a) == json_number_value(b);
    }
    if (json_is_array(a) && json_is_array(b) && json_array_size(a) == json_array_size(b)) {
        for (size_t i = 0; i < json_array_size(a); i++) {
            if (!json_equal(json_array_get(a, i), json_array_get(b, i))) {
                return 0;
            }
        }
        return 1;
    }
    return json_equal(a, b);
}

/* The default is written with quotes, as in JSON. */
static int same_choice(const sherd__key *key, const char *text)
{
    size_t length = strlen(key->default_value);

    return length > 2 && strlen(text) == length - 2 && strncasecmp(text, key->default_value + 1, length - 2) == 0;
}

int sherd__value_is_default(const sherd__key *key, json_t *value)
{
    json_t *usual;
    int same;

    if (json_is_null(value) || (json_is_string(value) && strcmp(json_string_value(value), "auto") == 0)) {
        return 1;
    }
    if (key->type == SHERD__CHOICE && json_is_string(value) && (key->flags & SHERD__KEY_ANY_CASE)) {
        return same_choice(key, json_string_value(value));
    }
    usual = json_loads(key->default_value, JSON_DECODE_ANY, NULL);
    same = usual != NULL && same_value(value, usual);
    json_decref(usual);
    return same;
}

int sherd__value_is_refused(const sherd__key *key, json_t *value)
{
    if (key->type == SHERD__CHOICE) {
        char choice[64];
        int32_t index = json_is_string(value) ? sherd__key_choose(key, json_string_value(value)) : -1;
        int refused = 0;

        return sherd__key_choice(key, index, choice, sizeof choice, &refused) && refused;
    }
    if (key->range == SHERD__RANGE_STAGE) {
        return json_number_value(value) == 3;
    }
    return key->status == SHERD_KEY_REFUSED && !sherd__value_is_default(key, value);
}
