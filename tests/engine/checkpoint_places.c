/* SPDX-License-Identifier: MIT
 *
 * Every stage, type and placement saves, and the run that resumes there, or at another placement, ends with the bits of
 * the unsharded oracle, which never stopped. Overflows before and after the checkpoint make the loss scale part of
 * what has to come back. Arguments: worlds; each run resumes at two placements, with "all" before them at all four.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/engine/checkpoints.h"
#include "tests/engine/compare.h"

enum { STEPS = 5, SAVE_AT = 2, MAX_CASES = 5 };
typedef enum place { ON_DEVICE, ON_HOST, ON_DISK, MIXED, PLACES } place;

static compared_cases runs;
static int32_t worlds[8], n_worlds;
static int everywhere;
static uint32_t saved, resumed;

static engine_case put(engine_case c, place where)
{
    c.tenths = where == ON_DEVICE ? 0 : where == MIXED ? 6 : 10;
    c.disk = where == ON_DISK ? 1 : where == MIXED ? 2 : 0;
    c.bucket = where == MIXED ? 1 : c.bucket; /* small ones, for something of each */
    c.workers = 2;
    return c;
}

/* One of the 9 of a world: stage and type; the rest varies along. */
static engine_case case_of(int32_t world, uint32_t i)
{
    static const sherd_dtype types[] = {SHERD_FP32, SHERD_BF16, SHERD_FP16};
    engine_case c = case_plain(world, i, STEPS);

    c.stage = (int32_t)(i % 3);
    c.dtype = types[i / 3 % 3];
    c.bucket = i % 2 ? 1 : 700;
    c.accumulation = i % 4 == 3 ? 2 : 1;
    c.grad_sum_bf16 = 0;
    c.bad_step = 0;
    c.bad_steps = 1u << 1 | 1u << 4; /* the first is borne, the second is not: who forgets the one keeps its scale */
    c.scaling = c.dtype == SHERD_FP16 ? SHERD_SCALING_DYNAMIC : c.scaling;
    c.read_back = 1;
    c.seed = 300 + i;
    return c;
}

/* The state lies where the case wants it, so that nothing here is proved of another placement. */
static void is_there(const engine_case *c, const case_result *got, place where)
{
    const uint32_t *by = got->buckets;
    int there = where == MIXED       ? by[SHERD_TIER_DEVICE] && by[SHERD_TIER_HOST] && by[SHERD_TIER_DISK]
                : where == ON_DEVICE ? by[SHERD_TIER_DEVICE] && !by[SHERD_TIER_HOST] && !by[SHERD_TIER_DISK]
                : where == ON_HOST   ? by[SHERD_TIER_HOST] && !by[SHERD_TIER_DEVICE] && !by[SHERD_TIER_DISK]
                                     : by[SHERD_TIER_DISK] && !by[SHERD_TIER_DEVICE] && !by[SHERD_TIER_HOST];

    if (!there)
        fail_msg("%s: %u buckets on the device, %u on the host, %u on disk", case_name(c), by[SHERD_TIER_DEVICE],
                 by[SHERD_TIER_HOST], by[SHERD_TIER_DISK]);
}

static void equals_oracle(const case_result *want, uint32_t i, int32_t rank, place where)
{
    const engine_case *c = &runs.cases[i];
    const case_result *got = &runs.results[rank][i];

    if (got->status != SHERD_OK)
        fail_msg("%s: rank %d: %s", case_name(c), rank, got->error.text);
    is_there(c, got, where);
    assert_int_equal(got->memory_matches, 1);
    if (memcmp(want->state_hash, got->state_hash, 16) != 0 || memcmp(want->param_hash, got->param_hash, 16) != 0 ||
        want->updates != got->updates)
        fail_msg("%s: rank %d, %s, differs from the oracle", case_name(c), rank, c->load_from ? "resumed" : "saved");
    for (int64_t s = c->load_from ? SAVE_AT : 0; s < STEPS; s++) {
        assert_int_equal(want->skipped[s], got->skipped[s]);
        assert_memory_equal(&want->loss_scale[s], &got->loss_scale[s], sizeof(double));
        if (!want->skipped[s])
            assert_memory_equal(&want->norm[s], &got->norm[s], sizeof(double));
    }
}

static void save_and_resume(int32_t world, uint32_t i, place from)
{
    world_options options = {.world = world, .threads = 1};
    place places[MAX_CASES] = {from, from};
    char folder[CHECKPOINTS_NAME];
    case_result want;
    engine_case c = put(case_of(world, i), from);

    checkpoints_folder(folder);
    c.save_at = SAVE_AT;
    c.save_to = folder;
    runs.cases[0] = c;
    c.save_to = NULL;
    c.load_from = folder;
    c.first = SAVE_AT;
    c.arrival = ARRIVE_SHUFFLED;
    runs.cases[1] = c;
    runs.n = everywhere ? PLACES + 1 : 3;
    for (uint32_t k = 2; k < runs.n; k++) {
        places[k] = (place)((from + (everywhere ? k - 1 : 1 + i % 3)) % PLACES);
        runs.cases[k] = put(c, places[k]);
    }
    compared_cases_run(&runs, &options, 0);
    case_run_oracle(&runs.cases[0], SHERD_ORACLE_RIGHT, &want);
    assert_int_equal(want.skipped[0] && want.skipped[3] && !want.skipped[4], 1);
    if (c.scaling == SHERD_SCALING_DYNAMIC)
        assert_true(want.loss_scale[4] != want.loss_scale[3]);
    for (uint32_t k = 0; k < runs.n; k++)
        for (int32_t r = 0; r < world; r++)
            equals_oracle(&want, k, r, places[k]);
    saved++;
    resumed += runs.n - 1;
    checkpoints_remove(folder);
}

static void resumed_equals_uninterrupted_everywhere(void **state)
{
    (void)state;
    for (int32_t w = 0; w < n_worlds; w++)
        for (uint32_t i = 0; i < 9; i++)
            for (uint32_t from = 0; from < PLACES; from++)
                save_and_resume(worlds[w], i, (place)from);
    assert_true(saved >= 36);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(resumed_equals_uninterrupted_everywhere)};
    int failed, at = 1;

    everywhere = argc > 1 && strcmp(argv[1], "all") == 0;
    for (at += everywhere; at < argc && n_worlds < 8; at++)
        worlds[n_worlds++] = atoi(argv[at]);
    if (n_worlds == 0)
        worlds[n_worlds++] = 2;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u runs saved, %u resumed\n", saved, resumed);
    return failed;
}
