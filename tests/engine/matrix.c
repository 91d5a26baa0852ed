/* SPDX-License-Identifier: MIT
 *
 * The matrix: stages × bucket sizes × optimizers × types, each a whole training run, equal to the unsharded oracle in
 * the bits of masters, moments and norms; over threads and over processes on shared memory. (MPI's bootstrap:
 * matrix_mpi.c; the checking device: check.c.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/compare.h"

enum { MAX_CASES = 512 };

typedef struct run {
    int32_t world;
    int64_t steps;
    int wide;
    case_result (*results)[MAX_CASES]; /* [rank][case] */
} run;

static int64_t steps = 5;
static uint32_t combinations;

static void run_all(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    const run *run = ctx;
    engine_case c;

    for (uint32_t i = 0; i < MAX_CASES && case_at(i, run->world, run->steps, run->wide, &c); i++) {
        case_run_rank(&c, device, comm, &run->results[rank][i]);
        if (run->results[rank][i].status != SHERD_OK)
            return;
    }
}

/* The oracle knows nothing of buckets: where only they differ, its last answer stands. */
static int same_for_oracle(const engine_case *a, const engine_case *b)
{
    engine_case x = *a, y = *b;
    x.bucket = y.bucket = 0;
    x.arrival = y.arrival = ARRIVE_BACKWARD;
    x.copy_grads = y.copy_grads = 0;
    x.overlap = y.overlap = 0;
    x.remainder = y.remainder = 0;
    if (x.accumulation == 1)
        x.stage = y.stage = 0;
    return memcmp(&x, &y, sizeof x) == 0;
}

static void compare_all(const run *run)
{
    engine_case c, known = {0};
    case_result want;
    uint64_t parked = 0;
    uint32_t i;

    for (i = 0; i < MAX_CASES && case_at(i, run->world, run->steps, run->wide, &c); i++) {
        if (!same_for_oracle(&c, &known)) {
            case_run_oracle(&c, SHERD_ORACLE_RIGHT, &want);
            known = c;
        }
        for (int32_t r = 0; r < run->world; r++)
            compared_result(&c, &want, &run->results[r][i], r);
        parked += run->results[0][i].parked;
    }
    assert_true(i > 0 && i < MAX_CASES);
    if (run->wide)
        assert_true(parked > 0); /* else the shuffled arrivals did not do their work */
    combinations += i;
}

static void run_world(int32_t world, int wide, int processes)
{
    run run = {world, steps, wide, NULL};
    world_options options = {.world = world, .threads = 1 + world % 2};

    run.results = world_shared(sizeof *run.results * (size_t)world);
    assert_non_null(run.results);
    if (processes)
        assert_int_equal(world_run_processes(&options, 300, run_all, &run), 0);
    else
        assert_int_equal(world_run_threads(&options, run_all, &run), 0);
    compare_all(&run);
}

static void test_threads(void **state)
{
    static const int32_t worlds[] = {1, 2, 3, 4, 8};
    (void)state;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
        run_world(worlds[i], 0, 0);
}

static void test_processes(void **state)
{
    static const int32_t worlds[] = {1, 2, 3, 4, 8};
    (void)state;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
        run_world(worlds[i], 0, 1);
}

/* Accumulation 3, bf16 sums, Adam, parked gradients, foreign buffers, skipped steps. */
static void test_wide(void **state)
{
    (void)state;
    run_world(1, 1, 0);
    run_world(2, 1, 0);
    run_world(3, 1, 1);
}

/* A comparison that could not fail would prove nothing: the tree over 3 is left to right by nature, so it takes 4. */
static void test_wrong_order_fails(void **state)
{
    engine_case c;
    case_result right, wrong;

    (void)state;
    assert_int_equal(case_at(0, 4, steps, 0, &c), 1);
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &right);
    case_run_oracle(&c, SHERD_ORACLE_LEFT_TO_RIGHT, &wrong);
    assert_false(case_equal(&right, &wrong, steps));
    c.accumulation = 3;
    case_run_oracle(&c, SHERD_ORACLE_RIGHT, &right);
    case_run_oracle(&c, SHERD_ORACLE_OTHER_ORDER, &wrong);
    assert_false(case_equal(&right, &wrong, steps));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_order_fails),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_wide),
    };
    int failed;

    if (argc > 1)
        steps = atoll(argv[1]);
    if (steps < 2 || steps > CASE_MAX_STEPS)
        return 2;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u combinations of %lld steps equal the oracle\n", combinations, (long long)steps);
    return failed;
}
