/* SPDX-License-Identifier: MIT
 *
 * On one rank of several the k-th allocation, collective, read or write fails, for k = 1, 1 + stride, … until a run has
 * fewer: creation, training on every tier, saving, loading. All ranks end by themselves, none well; the victim's
 * allocator and every rank's ledger hold nothing afterwards. One rank alone is offload_faults's and
 * checkpoint_faults's.
 *
 *     test_engine_fail_every [stride]
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "tests/engine/case.h"
#include "tests/engine/checkpoints.h"
#include "tests/engine/worlds.h"
#include "tests/support/fail_alloc.h"
#include "tests/support/fail_io.h"

static int64_t stride = 29;

typedef enum fault_kind { ALLOCATION, COLLECTIVE, TRANSFER } fault_kind;

typedef struct trial {
    engine_case c;
    fault_kind kind;
    int32_t victim;
    int64_t k;
    int64_t counted; /* of the kind, on the victim */
    uint64_t held[WORLD_MAX];
    sherd_test_alloc memory;
    sherd_test_io io;
    case_result results[WORLD_MAX];
} trial;

/* ---------------------------------------------------------------------------------------- a communicator's k-th call
 */

static const sherd__comm_ops *real;
static _Atomic int64_t called, fail_at;

static int strikes(const sherd_comm *comm)
{
    sherd_error error;

    if (atomic_fetch_add(&called, 1) + 1 != atomic_load(&fail_at))
        return 0;
    sherd__fail(&error, SHERD_ESYSTEM, "the collective fails for a test");
    sherd__device_poison(comm->device, &error);
    return 1;
}

static sherd_status bad_reduce_scatter(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                       const sherd__window *window, uint64_t offset, const sherd__tree_sum *sum,
                                       sherd__ticket *ticket)
{
    return strikes(comm) ? SHERD_ESYSTEM : real->reduce_scatter(comm, stream, tag, window, offset, sum, ticket);
}

static sherd_status bad_all_gather(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                   uint64_t offset, uint64_t slice_bytes, sherd__ticket *ticket)
{
    return strikes(comm) ? SHERD_ESYSTEM : real->all_gather(comm, stream, tag, window, offset, slice_bytes, ticket);
}

static sherd_status bad_all_reduce(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, uint64_t *values,
                                   uint32_t n_sum, uint32_t n_min)
{
    return strikes(comm) ? SHERD_ESYSTEM : real->all_reduce(comm, stream, tag, values, n_sum, n_min);
}

static sherd_status bad_broadcast(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                  uint64_t offset, uint64_t bytes, int32_t root, sherd__ticket *ticket)
{
    return strikes(comm) ? SHERD_ESYSTEM : real->broadcast(comm, stream, tag, window, offset, bytes, root, ticket);
}

static sherd_status bad_barrier(sherd_comm *comm, sherd__stream *stream, sherd__tag tag)
{
    return strikes(comm) ? SHERD_ESYSTEM : real->barrier(comm, stream, tag);
}

/* ------------------------------------------------------------------------------------------------------------ one
 * trial */

static uint64_t held(sherd_device *device)
{
    sherd_memory live;
    uint64_t bytes = 0;

    sherd_device_memory(device, &live, NULL);
    for (int tier = 0; tier < SHERD_TIERS; tier++)
        for (int category = 0; category < SHERD_CATEGORIES; category++)
            if (category != SHERD_CAT_METADATA && category != SHERD_CAT_RUNTIME)
                bytes += live.bytes[tier][category];
    return bytes;
}

/* The world's own device has no faults and goes unused. */
static void run_rank(void *ctx, int32_t rank, sherd_device *unused, sherd_comm *comm)
{
    trial *t = ctx;
    sherd_device_options options;
    sherd_device *device = NULL;
    sherd__comm_ops ops = *comm->ops;
    sherd__io io = sherd_test_io_hook(&t->io);
    int victim = rank == t->victim;

    (void)unused;
    sherd_device_options_init(&options, sizeof options);
    options.threads = 1;
    if (victim && t->kind == ALLOCATION)
        options.allocator = sherd_test_allocator(&t->memory);
    t->results[rank].status = sherd_device_create(&options, &device, &t->results[rank].error);
    if (!device) { /* peers wait for this rank's engine: it says that there will be none */
        comm->ops->abort(comm, &t->results[rank].error);
        return;
    }
    if (victim && t->kind == TRANSFER)
        device->io = &io;
    if (victim && t->kind == COLLECTIVE) {
        ops.reduce_scatter = bad_reduce_scatter;
        ops.all_gather = bad_all_gather;
        ops.all_reduce = bad_all_reduce;
        ops.broadcast = bad_broadcast;
        ops.barrier = bad_barrier;
        real = comm->ops;
        comm->ops = &ops;
    }
    case_run_rank(&t->c, device, comm, &t->results[rank]);
    if (victim && t->kind == COLLECTIVE)
        comm->ops = real;
    t->held[rank] = held(device);
    sherd_device_destroy(device);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* 1: the victim came to its k-th. */
static int try_one(trial *t)
{
    world_options options = {.world = t->c.world, .fail_after_s = 60};
    double begin = now_s();

    t->memory = (sherd_test_alloc){.fail_at = t->kind == ALLOCATION ? t->k : 0};
    t->io = (sherd_test_io){.kinds = 1u << SHERD__IO_READ | 1u << SHERD__IO_WRITE, .fail_at = t->k, .code = EIO};
    atomic_store(&called, 0);
    atomic_store(&fail_at, t->k);
    memset(t->results, 0, sizeof t->results);
    assert_int_equal(world_run_threads(&options, run_rank, t), 0);
    t->counted = t->kind == ALLOCATION ? t->memory.calls : t->kind == COLLECTIVE ? atomic_load(&called) : t->io.counted;
    for (int32_t r = 0; r < t->c.world; r++)
        if (t->held[r] != 0)
            fail_msg("%s, fault %d number %lld: rank %d holds %llu bytes", case_name(&t->c), (int)t->kind,
                     (long long)t->k, r, (unsigned long long)t->held[r]);
    assert_int_equal(t->memory.live_blocks, 0);
    assert_int_equal(t->memory.live_bytes, 0);
    assert_int_equal(t->memory.wrong_sizes, 0);
    assert_true(now_s() - begin < 50);
    return t->counted >= t->k;
}

/* Returns how many trials ended badly, as they should. */
static int64_t fail_each(const engine_case *c, fault_kind kind, int64_t step)
{
    trial t = {.c = *c, .kind = kind};
    int64_t failed = 0;

    for (t.k = 1;; t.k += step) {
        int struck;
        t.victim = (int32_t)(t.k % c->world);
        struck = try_one(&t);
        for (int32_t r = 0; r < c->world; r++) {
            const case_result *got = &t.results[r];
            if (!struck && got->status != SHERD_OK)
                fail_msg("%s: rank %d: %s", case_name(c), r, got->error.text);
            /* what fails after a rank's last collective is its own affair; a block that can do without is not missed */
            if (struck && r == t.victim && got->status != SHERD_OK && got->error.text[0] == '\0')
                fail_msg("%s, fault %d number %lld: rank %d says nothing", case_name(c), (int)kind, (long long)t.k, r);
        }
        if (!struck) {
            static const char *const names[] = {"allocations", "collectives", "reads and writes"};
            print_message("world %d, tier %d: %lld of %lld %s tried ended the run\n", (int)c->world,
                          c->disk ? 2 : c->tenths > 0, (long long)failed, (long long)((t.k - 1) / step), names[kind]);
            return failed;
        }
        failed += t.results[t.victim].status != SHERD_OK;
        if (kind == COLLECTIVE) /* is never done without */
            for (int32_t r = 0; r < c->world; r++)
                if (t.results[r].status == SHERD_OK && r == t.victim)
                    fail_msg("%s, collective %lld: rank %d ended well", case_name(c), (long long)t.k, r);
    }
}

static engine_case tier_case(int32_t world, int tier)
{
    engine_case c = case_plain(world, (uint32_t)tier, 2);

    c.stage = tier == 0 ? world - 1 : 2;
    c.dtype = SHERD_BF16;
    c.remainder = tier == 0 && world == 2;
    c.optimizer = tier == 0 && world == 3 ? SHERD_MUON : SHERD_ADAMW; /* which stays on the device */
    c.accumulation = tier == 0 ? 2 : 1;
    c.bucket = 6000;
    c.bad_step = 0;
    c.read_back = 0;
    c.tenths = tier ? 10 : 0;
    c.disk = tier == 2;
    c.speculate = tier == 1;
    c.workers = 1;
    return c;
}

static void test_tiers(void **state)
{
    (void)state;
    for (int32_t world = 2; world <= 3; world++)
        for (int tier = 0; tier < 3; tier++) {
            engine_case c = tier_case(world, tier);
            assert_true(fail_each(&c, COLLECTIVE, stride) >= 20 / stride);
            assert_true(fail_each(&c, ALLOCATION, stride) >= 30 / stride);
            if (tier == 2)
                assert_true(fail_each(&c, TRANSFER, stride) >= 30 / stride);
        }
}

static void test_save_and_load(void **state)
{
    char dir[CHECKPOINTS_NAME];

    (void)state;
    checkpoints_folder(dir);
    for (int loads = 0; loads <= 1; loads++)
        for (int32_t world = 3; world >= 2; world--) {
            engine_case c = tier_case(world, world == 3 ? 0 : 2);
            c.optimizer = SHERD_ADAMW; /* both worlds read the same */
            c.steps = loads ? 3 : 2;
            c.save_at = 1;
            c.save_to = loads ? NULL : dir;
            c.load_from = loads ? dir : NULL;
            c.first = 1;
            assert_true(fail_each(&c, COLLECTIVE, stride) >= 20 / stride);
            assert_true(fail_each(&c, ALLOCATION, stride) >= 30 / stride);
        }
    checkpoints_remove(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiers),
        cmocka_unit_test(test_save_and_load),
    };

    stride = argc > 1 ? atoll(argv[1]) : stride;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
