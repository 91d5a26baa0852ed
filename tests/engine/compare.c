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

void compared_run_and_compare(compared_run *run, case_result *want)
{
    compared_run_world(run);
    case_run_oracle(&run->c, SHERD_ORACLE_RIGHT, want);
    for (int32_t r = 0; r < run->c.world; r++) {
        if (run->results[r].status != SHERD_OK)
            fail_msg("%s: rank %d: %s", case_name(&run->c), r, run->results[r].error.text);
        if (!case_equal(want, &run->results[r], run->c.steps))
            fail_msg("%s: rank %d differs from the oracle", case_name(&run->c), r);
    }
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
