/* SPDX-License-Identifier: MIT
 *
 * Collectives of the NCCL communicator on the stubs, worlds 1 to 5, against results computed here: the same bodies as
 * the direct communicator's, so the same bits.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bodies.h"
#include "nccl_world.h"
#include "tests/support/leaves.h"

#define SCRATCH (8 * 1280 * 4)

static const nccl_stub *stub;

static void run_body(nccl_rank *rank)
{
    static const world_options options = {.device = SHERD_DEVICE_CUDA};
    rank_fn body;
    uint64_t seed = 3;
    memcpy(&body, rank->arg, sizeof body);
    rank->comm->receive_bytes = SCRATCH;
    rank->failed = rank_run(rank->comm, &options, body, &seed);
}

static void all_worlds(rank_fn body, int polls, int adopt)
{
    for (int32_t world = 1; world <= 5; world++) {
        nccl_rank ranks[NCCL_RANKS] = {{.body = run_body, .arg = &body, .adopt = adopt}};
        stub = nccl_stub_open();
        stub->slow_launch(polls);
        stub->slow_init(2 * polls);
        nccl_run(world, ranks);
        for (int32_t r = 0; r < world; r++) {
            if (ranks[r].status != SHERD_OK || ranks[r].failed)
                fail_msg("rank %d of %d: %s", (int)r, (int)world, ranks[r].err.text);
        }
        assert_int_equal(stub->misuses(), 0);
        assert_int_equal(stub->calls("CommAbort"), 0);
        assert_int_equal(stub->calls("CommDestroy"), adopt ? 2 * world : world);
        assert_true(nccl_nothing_left(stub));
    }
}

#define CASE(name)                                                                                                     \
    static void test_##name(void **state)                                                                              \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        all_worlds(body_##name, 0, 0);                                                                                 \
    }
CASE(reduce_scatter)
CASE(all_gather)
CASE(broadcast)
CASE(all_reduce)
CASE(reuse)
CASE(random)

static void test_slow_launches(void **state)
{
    (void)state;
    all_worlds(body_random, 3, 0);
    all_worlds(body_reduce_scatter, 2, 0);
}

/* The client's communicator is neither aborted nor destroyed by the library: the test does that. */
static void test_adopted(void **state)
{
    (void)state;
    all_worlds(body_random, 1, 1);
}

/* ------------------------------------------------------------------------------------------------------------- windows
 */

static void windows_body(nccl_rank *rank)
{
    static const uint64_t sizes[] = {0, 1, 64, 4097, 100000, 1u << 20, (3u << 20) + 64};
    nccl_bench bench;
    sherd__window window;
    sherd_memory live;
    rank->failed = 1;
    if (!nccl_bench_open(rank, 64, &bench))
        return;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        if (rank->comm->ops->window_create(rank->comm, sizes[s], SHERD_CAT_PARAMETERS, &window, &bench.err) != SHERD_OK)
            return;
        sherd_device_memory(bench.device, &live, NULL);
        if (live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_PARAMETERS] != sizes[s])
            return;
        for (uint64_t i = 0; i < sizes[s]; i++)
            if (((const unsigned char *)window.local)[i] != 0)
                return;
        if (s == 6 && rank->rank == 0) /* all ranks' are the same */
            snprintf(rank->arg, 128, "%s", sherd_comm_describe(rank->comm));
        rank->comm->ops->window_destroy(rank->comm, &window);
        rank->comm->ops->window_destroy(rank->comm, &window);
        sherd_device_memory(bench.device, &live, NULL);
        if (live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_PARAMETERS] != 0 || window.local)
            return;
    }
    nccl_bench_close(rank, &bench);
    rank->failed = 0;
}

static void run_windows(int32_t world, int symmetric, int refuse, const char *description)
{
    char said[128] = "";
    nccl_rank ranks[NCCL_RANKS] = {{.body = windows_body, .arg = said}};
    stub = nccl_stub_open();
    stub->symmetric(symmetric);
    stub->slow_launch(2);
    if (refuse) {
        stub->refuse("CommRegister", 1, 5); /* world 1 after a CommWindowRegister without effect */
        stub->refuse("CommWindowRegister", 1, 5);
    }
    nccl_run(world, ranks);
    for (int32_t r = 0; r < world; r++)
        assert_int_equal(ranks[r].failed, 0);
    assert_non_null(strstr(said, description));
    assert_int_equal(stub->misuses(), 0);
    assert_true(nccl_nothing_left(stub));
}

static void test_windows(void **state)
{
    (void)state;
    run_windows(1, 1, 0, "NCCL 2.28.9, 1 rank, GPU 0, tree-ordered sums, plain windows");
    run_windows(3, 1, 0, "3 ranks, GPU");
    run_windows(2, 1, 0, "symmetric windows");
    run_windows(2, 0, 0, "registered windows");
}

/* -------------------------------------------------------------------------------------------------------------- native
 */

#define ELEMS 512

/* The stub's own order is by ranks, rounded to the type at every step: not the tree's bits at world 4. */
static void native_body(nccl_rank *rank)
{
    nccl_bench bench;
    int64_t all = (int64_t)rank->world * ELEMS;
    float *leaf[NCCL_RANKS], *sum = calloc(ELEMS, sizeof *sum);
    int64_t differs = 0;
    rank->failed = 1;
    rank->comm->native = 1;
    if (!nccl_bench_open(rank, (uint64_t)all * 4, &bench))
        return;
    for (int32_t r = 0; r < rank->world; r++) {
        leaf[r] = calloc((size_t)all, sizeof(float));
        sherd_test_leaf(5, 1, r, 2, SHERD_FP32, all, leaf[r]);
    }
    memcpy(bench.window.local, leaf[rank->rank], (size_t)all * 4);
    sherd__tree_sum job = {.src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = sum, .elems = ELEMS};
    sherd__ticket ticket = 0;
    sherd__tag tag = {"reduce", 0, 1};
    (void)rank->comm->ops->reduce_scatter(rank->comm, bench.stream, tag, &bench.window, 0, &job, &ticket);
    if (nccl_bench_wait(&bench) != SHERD_OK)
        return;
    rank->failed = 0;
    for (int64_t i = 0; i < ELEMS; i++) {
        int64_t at = rank->rank * (int64_t)ELEMS + i;
        float by_ranks = leaf[0][at];
        for (int32_t r = 1; r < rank->world; r++)
            by_ranks += leaf[r][at];
        float tree = (leaf[0][at] + leaf[1][at]) + (leaf[2][at] + leaf[3][at]);
        rank->failed |= memcmp(&sum[i], &by_ranks, 4) != 0;
        differs += memcmp(&sum[i], &tree, 4) != 0;
    }
    rank->failed |= differs < ELEMS / 10;
    nccl_bench_close(rank, &bench);
    for (int32_t r = 0; r < rank->world; r++)
        free(leaf[r]);
    free(sum);
}

static void test_native(void **state)
{
    nccl_rank ranks[NCCL_RANKS] = {{.body = native_body}};
    (void)state;
    stub = nccl_stub_open();
    nccl_run(4, ranks);
    for (int32_t r = 0; r < 4; r++)
        assert_int_equal(ranks[r].failed, 0);
    assert_int_equal(stub->calls("ReduceScatter"), 4);
    assert_true(nccl_nothing_left(stub));
}

/* ------------------------------------------------------------------------------------------------------------ releases
 */

/* Another stream waits for the release, then overwrites: the peers' sums must not see that. */
static void release_body(nccl_rank *rank)
{
    enum { ROUNDS = 150, WIDTH = 256 };
    nccl_bench bench;
    uint64_t bytes = (uint64_t)rank->world * WIDTH * 4;
    rank->failed = 1;
    if (!nccl_bench_open(rank, bytes, &bench))
        return;
    const sherd__device_ops *ops = bench.device->ops;
    float *fill = malloc(ROUNDS * bytes), *sums = calloc(ROUNDS, WIDTH * 4);
    sherd__event *filled = NULL;
    sherd__ticket ticket = 0;
    (void)ops->event_create(bench.device, &filled, NULL);
    for (int round = 0; round < ROUNDS; round++) {
        sherd__tag tag = {"reduce", round, 1};
        float *bucket = fill + (size_t)round * (bytes / 4);
        for (uint64_t i = 0; i < bytes / 4; i++)
            bucket[i] = (float)(round * 100 + rank->rank * 10 + (int)(i % 7));
        (void)rank->comm->ops->released(rank->comm, bench.other, tag, ticket, "test: release");
        (void)ops->copy(bench.other, tag, bench.window.local, bucket, bytes);
        (void)ops->event_record(bench.other, filled);
        (void)ops->event_wait(bench.stream, filled, "test: filled");
        sherd__tree_sum job = {
            .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = sums + round * WIDTH, .elems = WIDTH};
        (void)rank->comm->ops->reduce_scatter(rank->comm, bench.stream, tag, &bench.window, 0, &job, &ticket);
    }
    rank->failed = nccl_bench_wait(&bench) != SHERD_OK;
    for (int i = 0; i < ROUNDS * WIDTH; i++) {
        int place = (rank->rank * WIDTH + i % WIDTH) % 7, w = rank->world;
        rank->failed |= sums[i] != (float)(w * ((i / WIDTH) * 100 + place) + 10 * w * (w - 1) / 2);
    }
    ops->event_destroy(filled);
    nccl_bench_close(rank, &bench);
    free(fill);
    free(sums);
}

static void test_release_on_another_stream(void **state)
{
    (void)state;
    for (int32_t world = 2; world <= 4; world += 2) {
        nccl_rank ranks[NCCL_RANKS] = {{.body = release_body}};
        stub = nccl_stub_open();
        stub->slow_launch(world == 4 ? 2 : 0);
        nccl_run(world, ranks);
        for (int32_t r = 0; r < world; r++)
            assert_int_equal(ranks[r].failed, 0);
        assert_true(nccl_nothing_left(stub));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reduce_scatter),
        cmocka_unit_test(test_all_gather),
        cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_all_reduce),
        cmocka_unit_test(test_reuse),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_slow_launches),
        cmocka_unit_test(test_adopted),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_native),
        cmocka_unit_test(test_release_on_another_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
