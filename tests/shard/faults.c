/* SPDX-License-Identifier: MIT
 *
 * Every allocation of a plan fails once: a clean error, nothing written, nothing leaked. The linker puts these
 * functions in the place of the allocator's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/shard/make.h"

enum { MAX_LIVE = 4096 };

static void *live[MAX_LIVE];
static size_t n_live, n_calls, fail_at;

void *__real_aligned_alloc(size_t alignment, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
void __real_free(void *block);
void __wrap_free(void *block);

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    if (++n_calls == fail_at)
        return NULL;
    void *block = __real_aligned_alloc(alignment, bytes);
    if (block && n_live < MAX_LIVE)
        live[n_live++] = block;
    return block;
}

void __wrap_free(void *block)
{
    for (size_t i = 0; i < n_live && block; i++)
        if (live[i] == block) {
            live[i] = live[--n_live];
            break;
        }
    __real_free(block);
}

static sherd_status create(const sherd_config *config, const make_table *table, sherd_plan **plan, sherd_error *err)
{
    n_calls = 0;
    return sherd_plan_create(config, table->params, table->n, 3, plan, err);
}

static void test_each_allocation(void **state)
{
    (void)state;
    make_table table = {.n = 0};
    sherd_config config = make_config(2, 3, 1);
    sherd_plan *plan = NULL;
    sherd_error err;
    for (int i = 0; i < 5; i++)
        make_param(&table, 700);
    fail_at = 0;
    assert_int_equal(create(&config, &table, &plan, &err), SHERD_OK);
    size_t calls = n_calls;
    assert_true(calls >= 5 + 9 && n_live > 0 && n_live < MAX_LIVE);
    sherd_plan_destroy(plan);
    assert_int_equal(n_live, 0);
    for (fail_at = 1; fail_at <= calls; fail_at++) {
        plan = NULL;
        memset(&err, 0, sizeof err);
        assert_int_equal(create(&config, &table, &plan, &err), SHERD_ENOMEM);
        assert_null(plan);
        assert_int_equal(err.status, SHERD_ENOMEM);
        assert_non_null(strstr(err.text, "no memory"));
        assert_int_equal(n_live, 0);
    }
    fail_at = 0;
    assert_int_equal(create(&config, &table, &plan, &err), SHERD_OK);
    sherd_profile profile = {.size = sizeof profile};
    sherd_forecast forecast;
    n_calls = 0;
    fail_at = 1;
    assert_int_equal(sherd_plan_forecast(plan, &profile, &forecast), SHERD_ENOMEM);
    sherd_plan_destroy(plan);
    assert_int_equal(n_live, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_allocation)};
    return cmocka_run_group_tests_name("shard/faults", tests, NULL, NULL);
}
