/* SPDX-License-Identifier: MIT
 *
 * Resharding by exhaustion: what N ranks save, M ranks find again, element by element, for N and M in 1, 2, 3, 4, 8,
 * with other buckets and stages; and what is missing, there twice, or unasked for is named.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "shard/reshard.h"
#include "tests/shard/make.h"

enum { STATES = 3, MAX_PIECES = 4096, MAX_ELEMS = 8192 };

static const int32_t worlds[] = {1, 2, 3, 4, 8};
static const int64_t targets[] = {1, 1000, INT64_MAX};

static sherd_plan *make_plan(int32_t stage, int64_t target, int32_t world)
{
    static const int64_t sizes[] = {700, 1, 0, 256, 5000, 255, 257, 12};
    sherd_config config = make_config(stage, 1, target);
    sherd_plan *plan = NULL;
    make_table table = {.n = 0};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        make_param(&table, sizes[i]);
    table.params[3].flags = SHERD_PARAM_FROZEN;
    assert_int_equal(sherd_plan_create(&config, table.params, table.n, world, &plan, NULL), SHERD_OK);
    return plan;
}

/* What all ranks of a plan write; a tensor's number tells where it begins. */
static size_t pieces_of(const sherd_plan *plan, sherd__piece *out)
{
    size_t n = 0;

    for (int32_t r = 0; r < plan->world; r++) {
        sherd__range_of_param ranges[64];
        uint32_t count = sherd__reshard_ranges(plan, r, ranges, 64);
        assert_true(count <= 64);
        assert_int_equal(sherd__reshard_ranges(plan, r, NULL, 0), count);
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t which = 0; which < STATES; which++) {
                assert_true(n < MAX_PIECES);
                out[n++] = (sherd__piece){ranges[i].param, which,
                                          ranges[i].first, ranges[i].elems,
                                          (uint32_t)r,     ranges[i].param * MAX_ELEMS + (uint32_t)ranges[i].first};
            }
    }
    return n;
}

/* Every element of every rank's part is found in the piece that holds it; together they are all elements. */
static void check_part(const sherd_plan *plan, int32_t rank, const sherd__piece *pieces, size_t n, int32_t *seen)
{
    sherd__range_of_param ranges[64];
    uint32_t count = sherd__reshard_ranges(plan, rank, ranges, 64);

    for (uint32_t i = 0; i < count; i++)
        for (int64_t e = ranges[i].first; e < ranges[i].first + ranges[i].elems; e++) {
            const sherd__plan_param *param = &plan->params[ranges[i].param];
            assert_int_equal(param->bucket, ranges[i].bucket);
            assert_true(param->offset + e == ranges[i].at + (e - ranges[i].first));
            seen[ranges[i].param * MAX_ELEMS + (uint32_t)e]++;
            for (uint32_t which = 0; which < STATES; which++) {
                const sherd__piece *piece = sherd__reshard_find(pieces, n, ranges[i].param, which, e);
                assert_non_null(piece);
                assert_true(piece->param == ranges[i].param && piece->which == which);
                assert_true(piece->first <= e && e < piece->first + piece->elems);
                assert_int_equal(piece->tensor, piece->param * MAX_ELEMS + (uint32_t)piece->first);
            }
        }
}

static void check_pair(const sherd_plan *old, const sherd_plan *new)
{
    static sherd__piece pieces[MAX_PIECES];
    size_t n = pieces_of(old, pieces);
    int32_t *seen = calloc(8 * MAX_ELEMS, sizeof *seen);

    assert_non_null(seen);
    assert_int_equal(sherd__reshard_prepare(new, pieces, n, NULL), SHERD_OK);
    for (int32_t r = 0; r < new->world; r++)
        check_part(new, new->whole_state ? -1 : r, pieces, n, seen);
    for (uint32_t p = 0; p < new->n_params; p++)
        for (int64_t e = 0; e < MAX_ELEMS; e++) {
            int inside = new->params[p].bucket >= 0 && e < new->params[p].elems;
            assert_int_equal(seen[p * MAX_ELEMS + (uint32_t)e], inside ? (new->whole_state ? new->world : 1) : 0);
        }
    free(seen);
}

static void every_pair_of_worlds(void **state)
{
    uint32_t turn = 0;

    (void)state;
    for (size_t n = 0; n < 5; n++)
        for (size_t m = 0; m < 5; m++)
            for (size_t t = 0; t < 3; t++, turn++) {
                sherd_plan *old = make_plan((int32_t)(turn % 3), targets[t], worlds[n]);
                sherd_plan *new = make_plan((int32_t)(turn / 3 % 3), targets[(t + turn) % 3], worlds[m]);
                check_pair(old, new);
                sherd_plan_destroy(old);
                sherd_plan_destroy(new);
            }
}

static void says(const sherd_plan *plan, sherd__piece *pieces, size_t n, const char *what)
{
    sherd_error err = {SHERD_OK, -1, ""};

    assert_int_equal(sherd__reshard_prepare(plan, pieces, n, &err), SHERD_EINVAL);
    if (!strstr(err.text, what))
        fail_msg("'%s' is not in: %s", what, err.text);
}

/* Each piece in turn is taken away, given twice, shortened, moved. */
static void what_is_wrong_is_named(void **state)
{
    static sherd__piece all[MAX_PIECES], some[MAX_PIECES];
    sherd_plan *plan = make_plan(2, 1000, 3);
    size_t n = pieces_of(plan, all);

    (void)state;
    for (size_t i = 0; i < n; i++) {
        memcpy(some, all, n * sizeof *some);
        some[i] = some[n - 1];
        says(plan, some, n - 1, "is missing from the checkpoint's files, or there twice");
        memcpy(some, all, n * sizeof *some);
        some[n] = all[i];
        says(plan, some, n + 1, "use another checkpoint");
        memcpy(some, all, n * sizeof *some);
        some[i].elems--;
        says(plan, some, n, "is missing from the checkpoint's files, or there twice");
        memcpy(some, all, n * sizeof *some);
        some[i].first++;
        says(plan, some, n, "is missing from the checkpoint's files, or there twice");
    }
    memcpy(some, all, n * sizeof *some);
    some[n] = (sherd__piece){.param = 3, .which = 0, .first = 0, .elems = 256}; /* frozen */
    says(plan, some, n + 1, "");
    says(plan, some, 0, "state 0 of parameter 'p00': element 0 is missing");
    assert_null(sherd__reshard_find(all, 0, 0, 0, 0));
    assert_int_equal(sherd__reshard_prepare(plan, all, n, NULL), SHERD_OK);
    assert_null(sherd__reshard_find(all, n, 0, 0, 700));
    assert_null(sherd__reshard_find(all, n, 2, 0, 0));
    assert_null(sherd__reshard_find(all, n, 99, 0, 0));
    sherd_plan_destroy(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_pair_of_worlds),
                                       cmocka_unit_test(what_is_wrong_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
