/* SPDX-License-Identifier: MIT
 *
 * Offloaded runs: every tenth of the state on the host or on disk, speculated or not, on one to eight workers, equal to
 * the unsharded oracle in the bits of masters, moments and norms; ledger = plan on every tier. Skips and clips are
 * forced, so that guesses miss; one run without either must never miss.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "device/host_math.h"
#include "host/topology.h"
#include "tests/engine/compare.h"

enum { STEPS = 4 };

static uint32_t combinations;

static void run_cases(compared_cases *run, int32_t world, int processes)
{
    world_options options = {.world = world, .threads = 1};

    compared_cases_run(run, &options, processes);
    compared_cases_and_oracle(run, world);
    combinations += run->n;
}

/* Every tenth, each on the host, speculated, on disk, and in parts on all three. */
static void add_tenths(compared_cases *run, int32_t world)
{
    while (case_offload_at(run->n, world, STEPS, &run->cases[run->n]))
        run->n++;
}

static void test_tenths(void **state)
{
    static const int32_t worlds[] = {1, 2, 3};
    (void)state;
    for (size_t w = 0; w < sizeof worlds / sizeof *worlds; w++) {
        static compared_cases run;
        run.n = 0;
        add_tenths(&run, worlds[w]);
        run_cases(&run, worlds[w], worlds[w] == 2);
        int on_all = 0, host = 0, disk = 0, guessed = 0;
        for (uint32_t i = 0; i < run.n; i++) {
            const case_result *r = &run.results[0][i];
            assert_int_equal(r->threads > 0, run.cases[i].tenths > 0); /* what was asked for is what was done */
            on_all += r->buckets[SHERD_TIER_DEVICE] && r->buckets[SHERD_TIER_HOST] && r->buckets[SHERD_TIER_DISK];
            host += r->buckets[SHERD_TIER_HOST] > 0;
            disk += r->buckets[SHERD_TIER_DISK] > 0;
            guessed += r->speculated > 0;
        }
        if (on_all == 0 || host < 10 || disk < 10 || guessed < 10)
            fail_msg("world %d: on all tiers %d, host %d, disk %d, guessed %d", worlds[w], on_all, host, disk, guessed);
    }
}

/* The same case on one to eight workers, with and without speculation: one digest. */
static void test_workers(void **state)
{
    static compared_cases run;
    (void)state;
    run.n = 0;
    for (int32_t workers = 1; workers <= 8; workers++)
        for (int32_t speculate = 0; speculate < 2; speculate++) {
            engine_case c = case_plain(2, 1, STEPS);
            c.stage = 2;
            c.dtype = SHERD_BF16;
            c.optimizer = SHERD_ADAMW;
            c.tenths = 10;
            c.workers = workers;
            c.speculate = speculate;
            c.seed = 5;
            run.cases[run.n++] = c;
        }
    run_cases(&run, 2, 0);
    for (uint32_t i = 0; i < run.n; i++)
        assert_int_equal(run.results[0][i].threads, run.cases[i].workers);
    for (uint32_t i = 1; i < run.n; i++)
        assert_memory_equal(run.results[0][0].state_hash, run.results[0][i].state_hash, 16);
}

/* One digest on every instruction set that this processor runs, for each optimizer. */
static void test_kernels(void **state)
{
    static compared_cases run;
    const sherd__host_math *all[8];
    uint32_t built = sherd__host_math_all(all, 8);
    static const char *const names[] = {"", "avx512", "avx2", "portable", "reference"};

    (void)state;
    run.n = 0;
    for (uint32_t o = 0; o < 3; o++)
        for (int32_t k = 1; k <= 4; k++)
            for (uint32_t i = 0; i < built; i++)
                if (strcmp(all[i]->name, names[k]) == 0) {
                    engine_case c = case_plain(1, 3 * o + 2, STEPS);
                    c.optimizer = (sherd_optimizer)o;
                    c.tenths = 10;
                    c.speculate = (int32_t)o % 2;
                    c.kernels = k;
                    c.seed = 5;
                    run.cases[run.n++] = c;
                }
    assert_true(run.n >= 6);
    run_cases(&run, 1, 0);
}

/* A part cut over two and three memory nodes of a made-up machine: the same bits, the same reading. */
static void test_nodes(void **state)
{
    static compared_cases run;
    const sherd__topology_options options = {.from = SHERD__TOPOLOGY_SYNTHETIC, .text = "numa:2 core:1 pu:1"};
    sherd__topology topology;

    (void)state;
    if (sherd__topology_load(&options, &topology, NULL) == SHERD_EUNSUPPORTED)
        skip(); /* built without hwloc */
    sherd__topology_free(&topology);
    for (int32_t world = 1; world <= 2; world++) {
        run.n = 0;
        for (uint32_t i = 0; i < 12; i++) {
            engine_case c;
            assert_int_equal(case_offload_at(8 + 3 * i, world, STEPS, &c), 1);
            c.nodes = 2 + (int32_t)(i % 2);
            c.workers = 0;
            c.read_back = 1;
            run.cases[run.n++] = c;
        }
        run_cases(&run, world, 0);
        for (uint32_t i = 0; i < run.n; i++)
            assert_int_equal(run.results[0][i].nodes, run.cases[i].nodes);
    }
}

static case_result one(engine_case c)
{
    static compared_cases run;
    run.n = 1;
    run.cases[0] = c;
    run_cases(&run, c.world, 0);
    return run.results[0][0];
}

static void test_guesses(void **state)
{
    engine_case c = case_plain(2, 0, STEPS);
    case_result result;

    (void)state;
    c.stage = 2;
    c.tenths = 10;
    c.speculate = 1;
    c.accumulation = 1;
    c.clipping = 0;
    c.bad_step = 0;
    result = one(c);
    assert_true(result.speculated > 0 && result.speculated % STEPS == 0);
    assert_int_equal(result.missed, 0);
    c.bad_step = 2; /* skipped: one step of them is wrong */
    result = one(c);
    assert_int_equal(result.missed, result.speculated / STEPS);
    c.bad_step = 0;
    c.clipping = 1e-6; /* always clipped */
    result = one(c);
    assert_int_equal(result.missed, result.speculated);
}

/* A digest that could not differ would prove nothing. */
static void test_another_seed_differs(void **state)
{
    engine_case c = case_plain(1, 0, STEPS);
    case_result a, b;

    (void)state;
    c.tenths = 5;
    a = one(c);
    c.seed++;
    b = one(c);
    assert_memory_not_equal(a.state_hash, b.state_hash, 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_another_seed_differs),
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_workers),
        cmocka_unit_test(test_kernels),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_tenths),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u offloaded combinations equal the oracle\n", combinations);
    return failed;
}
