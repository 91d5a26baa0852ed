/* SPDX-License-Identifier: MIT
 *
 * The checking device: whole training runs of 2 and 3 ranks in orders drawn from seeds, with no two conflicting
 * accesses unordered and the oracle's bits; and every wait taken away in turn, which must be reported. A wait whose
 * absence nobody could notice would be listed in `tolerated` with its reason (and in docs/architecture.md); the test
 * fails if one of those is noticed after all.
 *
 *     test_engine_check [SEEDS] [STEPS] [offload|lamb|muon|offloaded-muon]
 *
 * With `offload` the same cases keep state on the host and on disk, speculated or not. With `lamb` they do, or keep it
 * on the device, and step by the norms of whole parameters. With `muon` matrices are stepped as wholes, on the device;
 * with `offloaded-muon` some or all of them on the host and on disk, and one rank alone is run too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/device.h"
#include "tests/engine/case.h"
#include "tests/engine/worlds.h"

static int64_t seeds = 3, steps = 5;
static uint32_t combinations;
static int offload, lamb, muon;

typedef struct check_run {
    engine_case c;
    case_result results[WORLD_MAX];
} check_run;

static void run_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    check_run *run = ctx;
    case_run_rank(&run->c, device, comm, &run->results[rank]);
}

/* Which cases: all three stages, small and large buckets, K 1 and 3, orders of arrival that park and share. */
static int case_number(uint32_t i, int32_t world, engine_case *out)
{
    static const int64_t buckets[] = {1, 3000};
    memset(out, 0, sizeof *out);
    out->world = world;
    out->steps = steps;
    out->seed = 3;
    out->clipping = 0.02;
    out->overlap = 1;
    out->dtype = i % 2 ? SHERD_BF16 : SHERD_FP32;
    out->stage = (int32_t)(i % 3);
    out->bucket = buckets[i / 3 % 2];
    out->accumulation = i / 6 % 2 ? 3 : 1;
    out->arrival = (case_arrival)(i % 3 == 0 ? i / 3 % 3 : (i / 2) % 3);
    out->optimizer = i % 5 == 4 ? SHERD_SGD : SHERD_ADAMW;
    out->overlap = i != 11;
    out->wire = i % 4 == 2 ? SHERD_WIRE_BF16 : i % 8 == 3 ? SHERD_WIRE_FP16 : SHERD_WIRE_GRADIENT;
    out->blind = i >= 12 && i < 26;
    out->all_used = i % 2;
    out->tied_large = i / 4 % 2;
    out->leave_early = i % 8 == 7;
    out->remainder = i / 4 % 2;
    if (i >= 24 && i < 30) { /* discarded micro-steps, steps that end early, evaluation between */
        out->accumulation = 1 + i % 3;
        out->stage = (int32_t)(i / 2 % 3);
        out->discard = 1;
        out->early = i % 2;
        out->evaluate = !out->blind;
        out->borrow = 1;
    }
    if (offload) {
        out->tenths = i % 4 == 1 ? 5 : 10;
        out->disk = i % 4 == 2 ? 2 : i % 4 == 3 ? 1 : 0;
        out->speculate = i / 4 % 2;
        out->grad_sum_bf16 = i / 5 % 2;
        out->bad_step = i % 6 == 4 ? 2 : 0;
        out->workers = 1;
    }
    if (i >= 30) { /* one tree over micro-batches; its places are finished by carries */
        out->reproducible = 1;
        out->accumulation = 4;
        out->stage = world % 2 ? (int32_t)(i % 2) : 2 - (int32_t)(i % 2);
    }
    if (lamb) {
        out->optimizer = SHERD_LAMB;
        out->tenths = i % 4 == 1 ? 0 : i % 4 == 2 ? 5 : 10;
        out->disk = i % 4 == 3 ? 1 : 0;
        out->bad_step = i % 6 == 4 ? 2 : 0;
        out->workers = 1;
    }
    if (muon) {
        out->optimizer = SHERD_MUON;
        out->bad_step = i % 6 == 4 ? 2 : 0;
        out->seed = i;
        out->workers = 1;
    }
    if (muon && offload) {
        out->tenths = i % 4 == 1 ? 5 : i == 12 ? 0 : 2 + i % 9;
        out->blind = i % 6 == 0 || i >= 12;
        out->disk = i % 4 == 2 ? 2 : i % 4 == 3 ? 1 : 0;
        out->speculate = 0;
    }
    return i < (muon && offload ? 16 : lamb || muon ? 24 : 32);
}

static sherd_status run_once(check_run *run, uint64_t seed, const char *drop, const char **sites, uint32_t *n_sites,
                             sherd_error *err)
{
    sherd_checker *checker;
    world_options options = {.world = run->c.world, .threads = 1, .fail_after_s = 20};
    sherd_status status;
    uint64_t operations = 0;
    static char names[128][64];

    assert_int_equal(sherd_checker_create(run->c.world, seed, &checker, err), SHERD_OK);
    sherd__checker_drop(checker, drop);
    options.checker = checker;
    assert_int_equal(world_run_threads(&options, run_rank, run), 0);
    status = sherd_checker_verdict(checker, &operations, err);
    assert_true(operations > 100);
    if (sites) {
        const char *seen[128];
        *n_sites = sherd__checker_sites(checker, seen, 128);
        assert_true(*n_sites <= 128);
        for (uint32_t i = 0; i < *n_sites; i++) {
            snprintf(names[i], sizeof names[i], "%s", seen[i]);
            sites[i] = names[i];
        }
    }
    sherd_checker_destroy(checker);
    return status;
}

static void test_clean(void **state)
{
    (void)state;
    for (int32_t world = muon && offload ? 1 : 2; world <= 3; world++)
        for (int64_t seed = 1; seed <= seeds; seed++) {
            check_run run = {0};
            case_result want;
            sherd_error err;
            for (uint32_t i = 0; case_number(i, world, &run.c); i++) {
                if (run_once(&run, (uint64_t)seed, NULL, NULL, NULL, &err) != SHERD_OK)
                    fail_msg("%s, checker's seed %lld: %s", case_name(&run.c), (long long)seed, err.text);
                case_run_oracle(&run.c, SHERD_ORACLE_RIGHT, &want);
                for (int32_t r = 0; r < world; r++) {
                    if (run.results[r].status != SHERD_OK)
                        fail_msg("%s: rank %d: %s", case_name(&run.c), r, run.results[r].error.text);
                    if (!run.c.leave_early && !case_equal(&want, &run.results[r], steps))
                        fail_msg("%s, checker's seed %lld: rank %d differs from the oracle", case_name(&run.c),
                                 (long long)seed, r);
                }
                combinations++;
            }
        }
}

/* Waits whose removal need not be noticed, with the reason. */
static const struct {
    const char *site, *reason;
} tolerated[] = {
    {"barrier: peers' arrival", "tolerated: orders no data; no rank leaves creation before all have succeeded"},
    {"creation sync", "tolerated: the same barrier, waited for by the caller"},
    {"serialised reduction", "tolerated: orders no data; it is what overlap_comm false asks for"},
};

static const char *reason_for(const char *site)
{
    for (size_t i = 0; i < sizeof tolerated / sizeof *tolerated; i++)
        if (!strcmp(tolerated[i].site, site))
            return tolerated[i].reason;
    return NULL;
}

/* Collects every site that any case has. */
static uint32_t all_sites(int32_t world, char out[128][64])
{
    check_run run = {0};
    sherd_error err;
    uint32_t n = 0;

    for (uint32_t i = 0; case_number(i, world, &run.c); i++) {
        const char *sites[128];
        uint32_t n_sites;
        assert_int_equal(run_once(&run, 1, NULL, sites, &n_sites, &err), SHERD_OK);
        for (uint32_t s = 0; s < n_sites; s++) {
            uint32_t k = 0;
            while (k < n && strcmp(out[k], sites[s]))
                k++;
            if (k == n)
                snprintf(out[n++], 64, "%s", sites[s]);
        }
    }
    return n;
}

static int removal_noticed(const char *site, int32_t world, char *how, size_t size)
{
    check_run run = {0};
    sherd_error err;

    for (uint32_t i = 0; case_number(i, world, &run.c); i++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            run.c.steps = 3;
            if (run_once(&run, seed, site, NULL, NULL, &err) == SHERD_ERACE) {
                snprintf(how, size, "%s", err.text);
                return 1;
            }
        }
    return 0;
}

static void test_every_wait_is_needed(void **state)
{
    static char sites[128][64];
    uint32_t n = all_sites(3, sites), unnoticed = 0;
    char how[512];

    (void)state;
    assert_true(n > 8);
    for (uint32_t s = 0; s < n; s++) {
        const char *reason = reason_for(sites[s]);
        int noticed = removal_noticed(sites[s], 3, how, sizeof how);
        printf("without '%s': %s\n", sites[s], noticed ? how : reason ? reason : "NOT NOTICED");
        unnoticed += !noticed && !reason;
        if (noticed && reason)
            fail_msg("'%s' is listed as not noticeable, but it is", sites[s]);
    }
    printf("%u waits taken away in turn\n", n);
    assert_int_equal(unnoticed, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_clean), cmocka_unit_test(test_every_wait_is_needed)};
    int failed;

    if (argc > 1)
        seeds = atoll(argv[1]);
    if (argc > 2)
        steps = atoll(argv[2]);
    offload = argc > 3 && strcmp(argv[3], "offload") == 0;
    lamb = argc > 3 && strcmp(argv[3], "lamb") == 0;
    muon = argc > 3 && strcmp(argv[3], "muon") == 0;
    if (argc > 3 && strcmp(argv[3], "offloaded-muon") == 0)
        muon = offload = 1;
    if (seeds < 1 || steps < 2 || steps > CASE_MAX_STEPS)
        return 2;
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    printf("%u runs on the checking device (%lld seeds, %lld steps) clean and equal to the oracle\n", combinations,
           (long long)seeds, (long long)steps);
    return failed;
}
