/* SPDX-License-Identifier: MIT
 *
 * A run that is saved, ended, and resumed elsewhere equals the one that never stopped, bit for bit: other buckets,
 * stages and placements at the same world; other worlds by the digest after loading, and by the masters as they are
 * read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/engine/checkpoints.h"
#include "tests/engine/compare.h"

enum { STEPS = 4, SAVE_AT = 2, MAX_CASES = 64 };

static compared_cases runs;
static uint32_t combinations;

static void run_cases(int32_t world)
{
    world_options options = {.world = world, .threads = 1};

    compared_cases_run(&runs, &options, 0);
    for (uint32_t i = 0; i < runs.n; i++)
        for (int32_t r = 0; r < world; r++)
            if (runs.results[r][i].status != SHERD_OK)
                fail_msg("%s: rank %d: %s", case_name(&runs.cases[i]), r, runs.results[r][i].error.text);
}

/* Where the second half runs: nothing of it may be seen in the bits. */
static engine_case elsewhere(engine_case c, uint32_t way)
{
    static const int64_t buckets[] = {1, 3000, (int64_t)1 << 40};

    c.bucket = buckets[way % 3];
    if (c.accumulation == 1)
        c.stage = (int32_t)((c.stage + way) % 3);
    c.tenths = (int32_t)(way * 3 % 11);
    c.disk = (int32_t)(way / 2 % 3);
    c.speculate = way % 2 && c.disk != 1;
    c.arrival = ARRIVE_SHUFFLED;
    c.remainder = (int32_t)(way / 3 % 2);
    return c;
}

/* LAMB looks at whole parameters before it updates, so nothing of it is speculated. */
static engine_case with_lamb(engine_case c)
{
    c.optimizer = SHERD_LAMB;
    c.speculate = 0;
    return c;
}

/* For each case: saved on the way by one run, which goes on; then another run from there to the end. */
static void resume_all(int32_t world, uint32_t from, uint32_t n, int lamb)
{
    char folders[MAX_CASES][CHECKPOINTS_NAME];

    runs.n = 0;
    for (uint32_t i = 0; i < n; i++) {
        engine_case c;
        assert_int_equal(case_offload_at((from + 5 * i) % 44, world, STEPS, &c), 1);
        c.seed = 100 + i;
        c.bad_step = i % 3 == 0 ? 2 : i % 3 == 1 ? 3 : 0;
        c.save_at = SAVE_AT;
        c.borrow = i % 4 == 1;
        c.read_back = c.read_back || c.borrow;
        checkpoints_folder(folders[i]);
        c.save_to = folders[i];
        runs.cases[runs.n++] = lamb ? with_lamb(c) : c;
        c = elsewhere(c, from + i);
        c.save_to = NULL;
        c.load_from = folders[i];
        c.first = SAVE_AT;
        c.borrow = i % 4 >= 2;
        c.read_back = c.read_back || c.borrow;
        runs.cases[runs.n++] = lamb ? with_lamb(c) : c;
    }
    run_cases(world);
    for (uint32_t i = 0; i < runs.n; i++) {
        case_result want;
        const engine_case *c = &runs.cases[i & ~1u];
        case_run_oracle(c, SHERD_ORACLE_RIGHT, &want);
        for (int32_t r = 0; r < world; r++) {
            const case_result *got = &runs.results[r][i];
            if (memcmp(want.state_hash, got->state_hash, 16) != 0 || want.updates != got->updates)
                fail_msg("%s: rank %d %s differs from the oracle", case_name(&runs.cases[i]), r,
                         i & 1 ? "resumed" : "saved");
            assert_int_equal(got->memory_matches, 1);
            for (int64_t s = i & 1 ? SAVE_AT : 0; s < STEPS; s++)
                if (!want.skipped[s])
                    assert_memory_equal(&want.norm[s], &got->norm[s], sizeof(double));
        }
    }
    combinations += n;
    for (uint32_t i = 0; i < n; i++)
        checkpoints_remove(folders[i]);
}

static void resumed_runs_equal_the_uninterrupted(void **state)
{
    (void)state;
    resume_all(1, 0, 18, 0);
    resume_all(2, 1, 18, 0);
    resume_all(3, 2, 12, 0);
}

/* Its ratios are formed anew from what was loaded. */
static void resumed_runs_with_lamb_equal_the_uninterrupted(void **state)
{
    (void)state;
    resume_all(1, 1, 6, 1);
    resume_all(2, 0, 6, 1);
    resume_all(3, 4, 6, 1);
}

/* N ranks save, M load: stage, buckets and placement change too, and where the working copies lie. */
static void load_across_worlds(sherd_optimizer optimizer)
{
    static const int32_t worlds[] = {1, 2, 3, 4, 8};
    static const sherd_dtype types[] = {SHERD_BF16, SHERD_FP32, SHERD_FP16, SHERD_BF16, SHERD_FP16};
    char folder[5][CHECKPOINTS_NAME];
    case_result saved[5];

    for (uint32_t n = 0; n < 5; n++) {
        engine_case c = case_plain(worlds[n], n, 1);
        c.optimizer = optimizer;
        c.dtype = types[n];
        checkpoints_folder(folder[n]);
        c.save_to = folder[n];
        c.save_at = 1;
        runs.n = 1;
        runs.cases[0] = c;
        run_cases(worlds[n]);
        saved[n] = runs.results[0][0];
    }
    for (uint32_t m = 0; m < 5; m++) {
        runs.n = 0;
        for (uint32_t n = 0; n < 5; n++) {
            engine_case c = elsewhere(case_plain(worlds[m], n, 1), n + 5 * m);
            c.optimizer = optimizer;
            c.speculate = c.speculate && optimizer != SHERD_LAMB;
            c.dtype = types[n];
            c.load_from = folder[n];
            c.first = 1;
            c.read_back = 1;
            c.borrow = (n + m) % 2 == 0;
            runs.cases[runs.n++] = c;
        }
        run_cases(worlds[m]);
        for (uint32_t n = 0; n < 5; n++)
            for (int32_t r = 0; r < worlds[m]; r++) {
                assert_memory_equal(runs.results[r][n].param_hash, saved[n].param_hash, 16);
                assert_memory_equal(runs.results[r][n].state_hash, saved[n].state_hash, 16);
                assert_int_equal(runs.results[r][n].updates, saved[n].updates);
            }
        combinations += 5;
    }
    for (uint32_t n = 0; n < 5; n++)
        checkpoints_remove(folder[n]);
}

static void any_world_loads_any_other(void **state)
{
    (void)state;
    load_across_worlds(SHERD_ADAMW);
    load_across_worlds(SHERD_LAMB);
}

/* A run goes on with moments of the other type: bf16's as they are, fp32's rounded once, masters untouched. */
static void moments_may_change_their_type(void **state)
{
    static const char *const names[] = {"fp32", "bf16"};
    char folder[CHECKPOINTS_NAME];
    case_result saved;

    (void)state;
    for (int from = 0; from < 2; from++) {
        engine_case c = case_plain(2, 3, 3);
        c.optimizer = SHERD_ADAMW;
        c.bad_step = 0;
        c.moments_bf16 = from;
        checkpoints_folder(folder);
        c.save_to = folder;
        c.save_at = 3;
        runs.n = 1;
        runs.cases[0] = c;
        run_cases(2);
        saved = runs.results[0][0];
        c.save_to = NULL;
        c.load_from = folder;
        c.first = 3;
        c.moments_bf16 = !from;
        c.tenths = from ? 10 : 0;
        runs.cases[0] = c;
        run_cases(2);
        print_message("moments from %s to %s\n", names[from], names[!from]);
        assert_memory_equal(runs.results[1][0].param_hash, saved.param_hash, 16);
        assert_true((memcmp(runs.results[1][0].state_hash, saved.state_hash, 16) == 0) == from);
        checkpoints_remove(folder);
    }
}

/* Every access of saving and loading on the checking device, in several orders. */
static void no_wait_is_missing(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        char folder[CHECKPOINTS_NAME];
        world_options options = {.world = 2, .threads = 1};
        engine_case c = case_plain(2, 2 + (uint32_t)seed, 3);
        sherd_error err = {SHERD_OK, -1, ""};
        uint64_t operations = 0;

        checkpoints_folder(folder);
        assert_int_equal(sherd_checker_create(2, seed, &options.checker, NULL), SHERD_OK);
        c.stage = (int32_t)(seed % 3);
        c.save_to = folder;
        c.save_at = 2;
        runs.cases[0] = c;
        c.save_to = NULL;
        c.load_from = folder;
        c.first = 2;
        c.tenths = seed % 2 ? 5 : 0;
        runs.cases[1] = c;
        runs.n = 2;
        compared_cases_run(&runs, &options, 0);
        for (int32_t i = 0; i < 4; i++)
            if (runs.results[i / 2][i % 2].status != SHERD_OK)
                fail_msg("%s: %s", case_name(&runs.cases[i % 2]), runs.results[i / 2][i % 2].error.text);
        if (sherd_checker_verdict(options.checker, &operations, &err) != SHERD_OK)
            fail_msg("seed %d: %s", (int)seed, err.text);
        assert_true(operations > 100);
        assert_memory_equal(runs.results[0][0].state_hash, runs.results[0][1].state_hash, 16);
        sherd_checker_destroy(options.checker);
        checkpoints_remove(folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(resumed_runs_equal_the_uninterrupted),
                                       cmocka_unit_test(resumed_runs_with_lamb_equal_the_uninterrupted),
                                       cmocka_unit_test(any_world_loads_any_other),
                                       cmocka_unit_test(moments_may_change_their_type),
                                       cmocka_unit_test(no_wait_is_missing)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u combinations\n", combinations);
    return failed;
}
