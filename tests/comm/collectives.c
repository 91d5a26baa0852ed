/* SPDX-License-Identifier: MIT
 *
 * Collectives over threads and over processes, worlds 1 to 8, against results computed here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bodies.h"
#include "comm/direct.h"
#include "shard/plan.h"

_Static_assert(SHERD__CONTROL_SIZE == SHERD__CONTROL_BYTES, "the plan counts the control block as it is");

static void all_worlds(world_kind kind, rank_fn body, void *arg)
{
    for (int32_t world = 1; world <= 8; world++) {
        assert_int_equal(world_run(kind, world, NULL, body, arg), 0);
    }
}

#define CASE(name)                                                                                                     \
    static void threads_##name(void **state)                                                                           \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        all_worlds(WORLD_THREADS, body_##name, NULL);                                                                  \
    }                                                                                                                  \
    static void processes_##name(void **state)                                                                         \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        all_worlds(WORLD_PROCESSES, body_##name, NULL);                                                                \
    }

CASE(reduce_scatter)
CASE(all_gather)
CASE(broadcast)
CASE(all_reduce)
CASE(reuse)
CASE(windows)

static void random_sequences(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        assert_int_equal(world_run(WORLD_THREADS, (int32_t)seed + 1, NULL, body_random, &seed), 0);
        assert_int_equal(world_run(WORLD_PROCESSES, (int32_t)seed + 1, NULL, body_random, &seed), 0);
    }
}

static void alone(void **state)
{
    (void)state;
    sherd_comm *comm;
    sherd_error error;
    assert_int_equal(sherd_comm_create_self(NULL, &comm, &error), SHERD_OK);
    assert_string_equal(sherd_comm_describe(comm), "direct, alone");
    assert_int_equal(sherd_comm_rank(comm), 0);
    assert_int_equal(sherd_comm_world(comm), 1);
    assert_int_equal(rank_run(comm, NULL, body_all, NULL), 0);
    sherd_comm_destroy(comm);
    sherd_comm_destroy(NULL);
}

static int say_where(rank_ctx *ctx)
{
    char expected[64];
    snprintf(expected, sizeof expected, (const char *)ctx->arg, (int)ctx->world);
    RANK_CHECK(strcmp(sherd_comm_describe(ctx->comm), expected) == 0);
    RANK_CHECK(sherd_comm_world(ctx->comm) == ctx->world && sherd_comm_rank(ctx->comm) == ctx->rank);
    return 0;
}

static void description(void **state)
{
    (void)state;
    char threads[] = "direct in one process, %d threads", processes[] = "direct over shared memory (memfd), %d ranks";
    assert_int_equal(world_run(WORLD_THREADS, 3, NULL, say_where, threads), 0);
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, say_where, processes), 0);
}

/* Numbers wrap: the sequence steps over 0, and flags still compare rightly. Windows first, so that nothing is under
 * way. */
static int near_wrap(rank_ctx *ctx)
{
    sherd__direct *direct = (sherd__direct *)ctx->comm;
    direct->sequence = UINT32_MAX - 30;
    atomic_store(&direct->control[ctx->rank]->arrive, UINT32_MAX - 30);
    atomic_store(&direct->control[ctx->rank]->depart, UINT32_MAX - 30);
    sherd_error error;
    sherd__window fence;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, 64, SHERD_CAT_GRADIENTS, &fence, &error) == SHERD_OK);
    ctx->comm->ops->window_destroy(ctx->comm, &fence);
    int failed = body_reuse(ctx);
    RANK_CHECK(failed || direct->sequence == 70);
    return failed;
}

static void wrapping(void **state)
{
    (void)state;
    assert_int_equal(world_run(WORLD_THREADS, 3, NULL, near_wrap, NULL), 0);
    assert_int_equal(world_run(WORLD_PROCESSES, 2, NULL, near_wrap, NULL), 0);
}

static void bad_arguments(void **state)
{
    (void)state;
    sherd_comm *comms[2];
    sherd_error error;
    sherd_comm_options options;
    sherd_comm_options_init(&options, sizeof options);
    assert_int_equal(sherd_comm_create_threads(NULL, 0, comms, &error), SHERD_EINVAL);
    options.fail_after_s = 0;
    assert_int_equal(sherd_comm_create_threads(&options, 1, comms, &error), SHERD_EINVAL);
    assert_non_null(strstr(error.text, "fail_after_s"));
    options.size = 1u << 30;
    assert_int_equal(sherd_comm_create_self(&options, comms, &error), SHERD_EINVAL);
    assert_int_equal(sherd_comm_create_local(NULL, 2, 2, sherd_rendezvous_allgather, NULL, comms, &error),
                     SHERD_EINVAL);
    assert_int_equal(sherd_comm_create_local(NULL, 0, 2, NULL, NULL, comms, &error), SHERD_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone),
        cmocka_unit_test(description),
        cmocka_unit_test(bad_arguments),
        cmocka_unit_test(wrapping),
        cmocka_unit_test(threads_windows),
        cmocka_unit_test(processes_windows),
        cmocka_unit_test(threads_reduce_scatter),
        cmocka_unit_test(processes_reduce_scatter),
        cmocka_unit_test(threads_all_gather),
        cmocka_unit_test(processes_all_gather),
        cmocka_unit_test(threads_broadcast),
        cmocka_unit_test(processes_broadcast),
        cmocka_unit_test(threads_all_reduce),
        cmocka_unit_test(processes_all_reduce),
        cmocka_unit_test(threads_reuse),
        cmocka_unit_test(processes_reuse),
        cmocka_unit_test(random_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
