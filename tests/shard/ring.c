/* SPDX-License-Identifier: MIT
 *
 * The ring machine call by call: what it answers, what it refuses, in which order it starts buckets.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "shard/ring.h"
#include "tests/shard/make.h"

typedef struct fixture {
    sherd_plan *plan;
    sherd__ring ring;
    sherd__ring_param params[MAKE_MAX];
    sherd__ring_bucket buckets[MAKE_MAX];
} fixture;

static void set_up(fixture *f, const make_table *table, int64_t target)
{
    sherd_config config = make_config(2, 1, target);
    memset(f, 0, sizeof *f);
    assert_int_equal(sherd_plan_create(&config, table->params, table->n, 1, &f->plan, NULL), SHERD_OK);
    sherd__ring_init(&f->ring, f->plan, f->params, f->buckets);
}

static void placed(fixture *f, uint32_t param, sherd__grad_place want, int32_t want_beta)
{
    sherd__grad_place place = SHERD__GRAD_NONE;
    int32_t beta = -1;
    const char *why = NULL;
    assert_int_equal(sherd__ring_acquire(&f->ring, param, &place, &beta, &why), SHERD__RING_PLACED);
    assert_int_equal(place, want);
    assert_int_equal(beta, want_beta);
    assert_null(why);
}

static void not_placed(fixture *f, uint32_t param, sherd__ring_answer want)
{
    sherd__grad_place place = SHERD__GRAD_NONE;
    int32_t beta = -1;
    const char *why = NULL;
    assert_int_equal(sherd__ring_acquire(&f->ring, param, &place, &beta, &why), want);
    assert_true((why != NULL) == (want == SHERD__RING_REFUSED));
}

static void ready(fixture *f, uint32_t param, uint32_t from, uint32_t to)
{
    uint32_t got_from = 99, got_to = 99;
    const char *why = NULL;
    assert_int_equal(sherd__ring_ready(&f->ring, param, &got_from, &got_to, &why), SHERD__RING_PLACED);
    assert_int_equal(got_from, from);
    assert_int_equal(got_to, to);
}

static void ready_refused(fixture *f, uint32_t param)
{
    uint32_t from = 99, to = 99;
    const char *why = NULL;
    assert_int_equal(sherd__ring_ready(&f->ring, param, &from, &to, &why), SHERD__RING_REFUSED);
    assert_non_null(why);
    assert_int_equal(from, to);
}

static void closed(fixture *f, uint32_t from, uint32_t to)
{
    uint32_t got_from = 99, got_to = 99;
    const char *why = NULL;
    assert_int_equal(sherd__ring_close(&f->ring, &got_from, &got_to, &why), SHERD__RING_PLACED);
    assert_int_equal(got_from, from);
    assert_int_equal(got_to, to);
    assert_int_equal(f->ring.open, 0);
}

/* Six equal parameters, one per bucket, in a ring of three slots: parameter 5 is bucket 0. */
static void make_six(fixture *f)
{
    make_table table = {.n = 0};
    for (int i = 0; i < 6; i++)
        make_param(&table, 256);
    set_up(f, &table, 1);
    assert_int_equal(f->plan->n_buckets, 6);
    assert_int_equal(f->plan->ring_bytes, 3 * 1024);
}

static void test_in_order(void **state)
{
    (void)state;
    fixture f;
    make_six(&f);
    sherd__ring_begin(&f.ring);
    for (uint32_t b = 0; b < 6; b++) {
        if (b >= 3) {
            not_placed(&f, 5 - b, SHERD__RING_WAIT);
            not_placed(&f, 5 - b, SHERD__RING_WAIT); /* asking again changes nothing */
            sherd__ring_released(&f.ring, b);
        }
        assert_int_equal(sherd__ring_missing(&f.ring, 0), 0);
        placed(&f, 5 - b, SHERD__GRAD_SLOT, 0);
        assert_int_equal(f.buckets[b].state, SHERD__SLOT_FILLING);
        ready(&f, 5 - b, b, b + 1);
        assert_int_equal(f.buckets[b].state, SHERD__SLOT_STARTED);
    }
    assert_int_equal(sherd__ring_missing(&f.ring, 0), 6);
    closed(&f, 6, 6);
    sherd__ring_begin(&f.ring); /* now each slot has a former user, of the former micro-step */
    not_placed(&f, 5, SHERD__RING_WAIT);
    sherd__ring_released(&f.ring, 0);
    placed(&f, 5, SHERD__GRAD_SLOT, 0);
    sherd_plan_destroy(f.plan);
}

static void test_out_of_order(void **state)
{
    (void)state;
    fixture f;
    make_six(&f);
    sherd__ring_begin(&f.ring);
    placed(&f, 2, SHERD__GRAD_PARKED, 0); /* bucket 3 follows bucket 0, which only the caller can complete */
    ready(&f, 2, 0, 0);
    placed(&f, 4, SHERD__GRAD_SLOT, 0);
    ready(&f, 4, 0, 0);
    placed(&f, 5, SHERD__GRAD_SLOT, 0);
    placed(&f, 3, SHERD__GRAD_SLOT, 0);
    ready(&f, 3, 0, 0);
    assert_int_equal(sherd__ring_missing(&f.ring, 0), 0);
    assert_int_equal(sherd__ring_missing(&f.ring, 2), 5);
    ready(&f, 5, 0, 4); /* the last one of bucket 0 starts all that stood in line */
    not_placed(&f, 1, SHERD__RING_WAIT);
    closed(&f, 4, 6);
    for (uint32_t b = 0; b < 6; b++)
        assert_int_equal(f.buckets[b].state, SHERD__SLOT_STARTED);
    assert_int_equal(f.params[0].place, SHERD__GRAD_NONE);
    assert_int_equal(f.params[2].place, SHERD__GRAD_PARKED);
    sherd_plan_destroy(f.plan);
}

static void test_refusals(void **state)
{
    (void)state;
    fixture f;
    make_table table = {.n = 0};
    make_param(&table, 256);
    make_param(&table, 256)->flags = SHERD_PARAM_FROZEN;
    make_param(&table, 0);
    make_param(&table, 256);
    set_up(&f, &table, 1);
    uint32_t from, to;
    const char *why = NULL;

    not_placed(&f, 0, SHERD__RING_REFUSED); /* before a micro-step */
    ready_refused(&f, 0);
    assert_int_equal(sherd__ring_close(&f.ring, &from, &to, &why), SHERD__RING_REFUSED);
    sherd__ring_begin(&f.ring);
    not_placed(&f, 4, SHERD__RING_REFUSED); /* no such parameter */
    ready_refused(&f, 4);
    not_placed(&f, 1, SHERD__RING_REFUSED); /* frozen */
    ready_refused(&f, 1);
    placed(&f, 2, SHERD__GRAD_NONE, 0); /* empty */
    ready(&f, 2, 0, 0);
    ready_refused(&f, 0); /* not acquired */
    placed(&f, 0, SHERD__GRAD_SLOT, 0);
    not_placed(&f, 0, SHERD__RING_REFUSED); /* twice */
    assert_int_equal(sherd__ring_close(&f.ring, &from, &to, &why), SHERD__RING_REFUSED);
    assert_int_equal(f.ring.open, 1);
    ready(&f, 0, 0, 0);
    ready_refused(&f, 0);
    not_placed(&f, 0, SHERD__RING_REFUSED);
    assert_int_equal(sherd__ring_missing(&f.ring, 0), 3);
    closed(&f, 0, 2);
    ready_refused(&f, 3); /* after it */
    sherd_plan_destroy(f.plan);
}

static void test_shared(void **state)
{
    (void)state;
    fixture f;
    make_table table = {.n = 0};
    make_param(&table, 256);
    make_param(&table, 256)->uses = 3;
    make_param(&table, 256);
    set_up(&f, &table, 512); /* buckets {2, 1} and {0} */
    assert_int_equal(f.plan->n_buckets, 2);
    sherd__ring_begin(&f.ring);
    placed(&f, 1, SHERD__GRAD_SHARED, 0);
    ready(&f, 1, 0, 0);
    placed(&f, 2, SHERD__GRAD_SLOT, 0);
    ready(&f, 2, 0, 0);
    placed(&f, 1, SHERD__GRAD_SHARED, 1);
    placed(&f, 1, SHERD__GRAD_SHARED, 1);
    not_placed(&f, 1, SHERD__RING_REFUSED);
    placed(&f, 0, SHERD__GRAD_SLOT, 0);
    ready(&f, 0, 0, 0);
    ready(&f, 1, 0, 0);
    assert_int_equal(sherd__ring_missing(&f.ring, 0), 1);
    ready(&f, 1, 0, 2);
    closed(&f, 2, 2);
    sherd__ring_begin(&f.ring); /* fewer uses than announced: closing takes what came */
    placed(&f, 1, SHERD__GRAD_SHARED, 0);
    ready(&f, 1, 0, 0);
    closed(&f, 0, 2);
    assert_int_equal(f.params[1].place, SHERD__GRAD_SHARED);
    assert_int_equal(f.params[2].place, SHERD__GRAD_NONE);
    sherd__ring_begin(&f.ring); /* and the next micro-step starts afresh */
    for (int32_t use = 0; use < 3; use++) {
        placed(&f, 1, SHERD__GRAD_SHARED, use > 0);
        ready(&f, 1, 0, 0);
    }
    sherd__ring_released(&f.ring, 0);
    placed(&f, 2, SHERD__GRAD_SLOT, 0);
    ready(&f, 2, 0, 1);
    sherd_plan_destroy(f.plan);
}

static void test_moves(void **state)
{
    (void)state;
    static const int slot[3][3] = {{0, 1, 0}, {0, 0, 1}, {1, 0, 0}};
    static const int shard[5][5] = {
        {0, 1, 1, 0, 0}, {1, 1, 1, 0, 0}, {1, 0, 0, 1, 0}, {0, 0, 0, 0, 1}, {1, 0, 0, 0, 0}};
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++)
            assert_int_equal(sherd__slot_move_legal((sherd__slot_state)a, (sherd__slot_state)b), slot[a][b]);
    for (int a = 0; a < 5; a++)
        for (int b = 0; b < 5; b++)
            assert_int_equal(sherd__shard_move_legal((sherd__shard_state)a, (sherd__shard_state)b), shard[a][b]);
    assert_int_equal(sherd__slot_move_legal((sherd__slot_state)3, SHERD__SLOT_EMPTY), 0);
    assert_int_equal(sherd__shard_move_legal(SHERD__CLEAN, (sherd__shard_state)7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order), cmocka_unit_test(test_out_of_order), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_shared),   cmocka_unit_test(test_moves),
    };
    return cmocka_run_group_tests_name("shard/ring", tests, NULL, NULL);
}
