/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/engine/compare.h"
#include "tests/support/fail_alloc.h"

void compared_run_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    compared_run *run = ctx;
    case_run_rank(&run->c, device, comm, &run->results[rank]);
}

void compared_run_world(compared_run *run)
{
    world_options options = {.world = run->c.world, .threads = 1};
    assert_int_equal(world_run_threads(&options, compared_run_rank, run), 0);
}

void compared_result(const engine_case *c, const case_result *want, const case_result *got, int32_t rank)
{
    if (got->status != SHERD_OK)
        fail_msg("%s: rank %d: %s", case_name(c), (int)rank, got->error.text);
    if (!case_equal(want, got, c->steps))
        fail_msg("%s: rank %d differs from the oracle (norm %a, want %a)", case_name(c), (int)rank, got->norm[0],
                 want->norm[0]);
    if (!got->memory_matches)
        fail_msg("%s: rank %d: the ledger is not the plan", case_name(c), (int)rank);
}

void compared_results(const compared_run *run, const case_result *want)
{
    for (int32_t r = 0; r < run->c.world; r++)
        compared_result(&run->c, want, &run->results[r], r);
}

void compared_run_and_compare(compared_run *run, case_result *want)
{
    compared_run_world(run);
    case_run_oracle(&run->c, SHERD_ORACLE_RIGHT, want);
    compared_results(run, want);
}

void compared_run_and_check(compared_run *run, uint64_t seed, case_result *want)
{
    world_options options = {.world = run->c.world, .threads = 1};
    uint64_t operations = 0;
    sherd_error err;

    assert_int_equal(sherd_checker_create(run->c.world, seed, &options.checker, &err), SHERD_OK);
    assert_int_equal(world_run_threads(&options, compared_run_rank, run), 0);
    if (sherd_checker_verdict(options.checker, &operations, &err) != SHERD_OK)
        fail_msg("%s, checker's seed %llu: %s", case_name(&run->c), (unsigned long long)seed, err.text);
    assert_true(operations > 100);
    sherd_checker_destroy(options.checker);
    case_run_oracle(&run->c, SHERD_ORACLE_RIGHT, want);
    compared_results(run, want);
}

static void run_cases_rank(void *ctx, int32_t rank, sherd_device *device, sherd_comm *comm)
{
    const compared_cases *all = ctx;

    for (uint32_t i = 0; i < all->n; i++) {
        case_run_rank(&all->cases[i], device, comm, &all->results[rank][i]);
        if (all->results[rank][i].status != SHERD_OK)
            return;
    }
}

void compared_cases_run(compared_cases *all, const world_options *options, int processes)
{
    assert_in_range(all->n, 1, COMPARED_CASES);
    all->results = world_shared(sizeof *all->results * (size_t)options->world);
    assert_non_null(all->results);
    assert_int_equal(processes ? world_run_processes(options, 300, run_cases_rank, all)
                               : world_run_threads(options, run_cases_rank, all),
                     0);
}

void compared_cases_and_oracle(const compared_cases *all, int32_t world)
{
    for (uint32_t i = 0; i < all->n; i++) {
        case_result want;
        case_run_oracle(&all->cases[i], SHERD_ORACLE_RIGHT, &want);
        for (int32_t r = 0; r < world; r++)
            compared_result(&all->cases[i], &want, &all->results[r][i], r);
    }
}

void compared_cases_on_tiers(const compared_cases *all)
{
    int on_all = 0, disk = 0;
    for (uint32_t i = 0; i < all->n; i++) {
        const uint32_t *buckets = all->results[0][i].buckets;
        on_all += buckets[SHERD_TIER_DEVICE] && buckets[SHERD_TIER_HOST] && buckets[SHERD_TIER_DISK];
        disk += buckets[SHERD_TIER_DISK] > 2;
    }
    if (on_all == 0 || disk == 0)
        fail_msg("of %u cases %d have buckets on all tiers, %d more on disk than slots", all->n, on_all, disk);
}

uint64_t compared_planned_bytes(sherd_device *device)
{
    sherd_memory live;
    uint64_t bytes = 0;

    sherd_device_memory(device, &live, NULL);
    for (int tier = 0; tier < SHERD_TIERS; tier++)
        for (int category = 0; category < SHERD_CATEGORIES; category++)
            bytes += sherd_category_planned((sherd_category)category) ? live.bytes[tier][category] : 0;
    return bytes;
}

int64_t compared_fail_allocations(const engine_case *c)
{
    int64_t failed = 0;

    for (int64_t k = 1;; k++) {
        sherd_test_alloc counter = {.fail_at = k};
        sherd_device_options options;
        sherd_device *device = NULL;
        sherd_comm *comm;
        case_result result = {.status = SHERD_ENOMEM};
        sherd_device_options_init(&options, sizeof options);
        options.allocator = sherd_test_allocator(&counter);
        assert_int_equal(sherd_comm_create_self(NULL, &comm, NULL), SHERD_OK);
        if (sherd_device_create(&options, &device, NULL) == SHERD_OK) {
            case_run_rank(c, device, comm, &result);
            assert_int_equal(compared_planned_bytes(device), 0);
        }
        sherd_comm_destroy(comm);
        sherd_device_destroy(device);
        assert_int_equal(counter.live_blocks, 0);
        assert_int_equal(counter.wrong_sizes, 0);
        if (counter.calls < k)
            return failed;
        failed += result.status != SHERD_OK;
    }
}
