/* SPDX-License-Identifier: MIT
 *
 * The scanner that finds lines and columns: right places in good text, no run past the end of bad text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/position.h"
#include "tests/config/parse.h"

static const char *const text = "{\n"                                   /* 1 */
                                "  \"a\": {\"b\": 1, \"c\": [ {\"d\": 2} ]},\n" /* 2 */
                                "  \"s\": \"{\\\"x\\\": [\", \"t\": 3,\n"       /* 3: brackets within a string */
                                "  \"\xc3\xa9t\xc3\xa9\": 0, \"u\": 4,\n"      /* 4: two characters of two bytes */
                                "  \"e\": {}, \"f\": [], \"b\": {\"a\": 5}\n"  /* 5 */
                                "}\n";

static void assert_at(const char *path, uint32_t line, uint32_t column)
{
    sherd__position at = {0, 0};

    assert_int_equal(sherd__position_of_path(text, strlen(text), path, &at), 1);
    assert_int_equal(at.line, line);
    assert_int_equal(at.column, column);
}

static void finds_keys(void **state)
{
    (void)state;
    assert_at("a", 2, 3);
    assert_at("a.b", 2, 9);
    assert_at("a.c", 2, 17);
    assert_at("a.c.d", 2, 25);
    assert_at("s", 3, 3);
    assert_at("t", 3, 21);
    assert_at("u", 4, 13);
    assert_at("b", 5, 21);
    assert_at("b.a", 5, 27);
}

static void finds_nothing_that_is_not_there(void **state)
{
    static const char *const absent[] = {"x", "b.b", "a.d", "", "a.", ".a", "d", "s.x", "a.b.c"};
    sherd__position at;

    (void)state;
    for (size_t i = 0; i < sizeof absent / sizeof absent[0]; i++) {
        assert_int_equal(sherd__position_of_path(text, strlen(text), absent[i], &at), 0);
    }
}

static void names_the_path_at_an_offset(void **state)
{
    char path[64];

    (void)state;
    sherd__position_path_at(text, strlen(text), 0, path, sizeof path);
    assert_string_equal(path, "");
    sherd__position_path_at(text, strlen(text), (size_t)(strstr(text, "2}") - text), path, sizeof path);
    assert_string_equal(path, "a.c.d");
    sherd__position_path_at(text, strlen(text), strlen(text), path, sizeof path);
    assert_string_equal(path, "b.a");
    sherd__position_path_at(text, strlen(text), strlen(text), path, 2);
    assert_string_equal(path, "b");
}

/* Every prefix, in a block of exactly its size so that the address sanitizer sees a read past the end. */
static void is_safe_on_every_prefix(void **state)
{
    size_t whole = strlen(text), found = 0;
    sherd__position at;
    char path[64];

    (void)state;
    for (size_t bytes = 0; bytes <= whole; bytes++) {
        char *copy = malloc(bytes + (bytes == 0));

        assert_non_null(copy);
        memcpy(copy, text, bytes);
        found += (size_t)sherd__position_of_path(copy, bytes, "b.a", &at);
        sherd__position_path_at(copy, bytes, bytes, path, sizeof path);
        free(copy);
    }
    assert_int_equal(found, whole - (size_t)(strstr(text, "\"a\": 5") - text) - 1);
}

static void is_safe_on_deep_and_long_text(void **state)
{
    enum { LENGTH = 4096 };
    static char deep[LENGTH], wide[LENGTH];
    sherd__position at;

    (void)state;
    for (size_t i = 0; i + 5 <= LENGTH; i += 5) {
        memcpy(deep + i, "{\"k\":", 5);
    }
    memset(wide, 'k', LENGTH);
    memcpy(wide, "{\"", 2);
    memcpy(wide + LENGTH - 8, "\":1,\"z\":", 8);
    assert_int_equal(sherd__position_of_path(deep, LENGTH, "k.k.k", &at), 1);
    assert_int_equal(at.column, 12);
    assert_int_equal(sherd__position_of_path(wide, LENGTH, "z", &at), 1);
    assert_int_equal(at.column, LENGTH - 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_keys),
        cmocka_unit_test(finds_nothing_that_is_not_there),
        cmocka_unit_test(names_the_path_at_an_offset),
        cmocka_unit_test(is_safe_on_every_prefix),
        cmocka_unit_test(is_safe_on_deep_and_long_text),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
