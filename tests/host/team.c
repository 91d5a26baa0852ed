/* SPDX-License-Identifier: MIT
 *
 * A team does every chunk once, whatever its size; workers are distinct at any one time; a busy team leaves the second
 * caller to itself instead of making it wait.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "host/team.h"
#include "tests/support/fail_alloc.h"

#define MAX_CHUNKS 300
#define MAX_THREADS 6

typedef struct count_ctx {
    _Atomic int32_t done[MAX_CHUNKS];
    _Atomic int32_t busy[MAX_THREADS];
    _Atomic int32_t clashes, out_of_range;
    int32_t threads;
} count_ctx;

static void count_chunk(void *arg, int64_t chunk, int32_t worker)
{
    count_ctx *ctx = arg;
    if (chunk < 0 || chunk >= MAX_CHUNKS || worker < 0 || worker >= ctx->threads) {
        atomic_fetch_add(&ctx->out_of_range, 1);
        return;
    }
    if (atomic_exchange(&ctx->busy[worker], 1) != 0)
        atomic_fetch_add(&ctx->clashes, 1);
    atomic_fetch_add(&ctx->done[chunk], 1);
    atomic_store(&ctx->busy[worker], 0);
}

static void check_loop(sherd__team *team, int32_t threads, int64_t chunks)
{
    count_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    ctx.threads = threads;
    sherd__team_run(team, chunks, count_chunk, &ctx);
    for (int64_t c = 0; c < MAX_CHUNKS; c++)
        assert_int_equal(atomic_load(&ctx.done[c]), c < chunks ? 1 : 0);
    assert_int_equal(atomic_load(&ctx.clashes), 0);
    assert_int_equal(atomic_load(&ctx.out_of_range), 0);
}

static sherd__team *make_team(int32_t threads)
{
    sherd__team *team = NULL;
    sherd_error err;
    if (sherd__team_create(NULL, threads, &team, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return team;
}

static void every_chunk_once(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= MAX_THREADS; threads++) {
        sherd__team *team = make_team(threads);
        assert_int_equal(sherd__team_threads(team), threads);
        for (int64_t chunks = 0; chunks < MAX_CHUNKS; chunks += 1 + chunks / 4)
            for (int repeat = 0; repeat < 5; repeat++)
                check_loop(team, threads, chunks);
        sherd__team_destroy(team);
    }
    check_loop(NULL, 1, 17);
    assert_int_equal(sherd__team_threads(NULL), 1);
}

/* Both threads of the team are seen at work: each waits, for a while, for the other. */
typedef struct meet_ctx {
    _Atomic int32_t seen[2];
    _Atomic int32_t met;
} meet_ctx;

static void meet(void *arg, int64_t chunk, int32_t worker)
{
    meet_ctx *ctx = arg;
    (void)chunk;
    atomic_store(&ctx->seen[worker], 1);
    for (int i = 0; i < 5000 && !atomic_load(&ctx->met); i++) {
        if (atomic_load(&ctx->seen[1 - worker]))
            atomic_store(&ctx->met, 1);
        else
            usleep(1000);
    }
}

static void workers_take_part(void **state)
{
    (void)state;
    sherd__team *team = make_team(2);
    meet_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    sherd__team_run(team, 2, meet, &ctx);
    assert_int_equal(atomic_load(&ctx.met), 1);
    sherd__team_destroy(team);
}

typedef struct busy_ctx {
    sherd__team *team;
    _Atomic int32_t entered, second_done, gave_up;
} busy_ctx;

/* Holds the team until the other caller's loop is over: if that loop waited for the team, this would give up. */
static void hold_team(void *arg, int64_t chunk, int32_t worker)
{
    busy_ctx *ctx = arg;
    (void)chunk;
    (void)worker;
    atomic_store(&ctx->entered, 1);
    for (int i = 0; i < 5000 && !atomic_load(&ctx->second_done); i++)
        usleep(1000);
    if (!atomic_load(&ctx->second_done))
        atomic_store(&ctx->gave_up, 1);
}

static void *first_caller(void *arg)
{
    busy_ctx *ctx = arg;
    sherd__team_run(ctx->team, 2, hold_team, ctx);
    return NULL;
}

typedef struct alone_ctx {
    pthread_t caller;
    int32_t chunks, strangers;
} alone_ctx;

static void note_thread(void *arg, int64_t chunk, int32_t worker)
{
    alone_ctx *ctx = arg;
    (void)chunk;
    ctx->chunks++;
    if (worker != 0 || !pthread_equal(ctx->caller, pthread_self()))
        ctx->strangers++;
}

static void busy_team_leaves_the_caller_alone(void **state)
{
    (void)state;
    busy_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    ctx.team = make_team(2);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, first_caller, &ctx), 0);
    for (int i = 0; i < 5000 && !atomic_load(&ctx.entered); i++)
        usleep(1000);
    assert_int_equal(atomic_load(&ctx.entered), 1);
    alone_ctx alone = {.caller = pthread_self()};
    sherd__team_run(ctx.team, 40, note_thread, &alone);
    assert_int_equal(alone.chunks, 40);
    assert_int_equal(alone.strangers, 0);
    atomic_store(&ctx.second_done, 1);
    pthread_join(thread, NULL);
    assert_int_equal(atomic_load(&ctx.gave_up), 0);
    check_loop(ctx.team, 2, 50);
    sherd__team_destroy(ctx.team);
}

typedef struct nested_ctx {
    sherd__team *team;
    _Atomic int32_t inner;
} nested_ctx;

static void count_inner(void *arg, int64_t chunk, int32_t worker)
{
    (void)chunk;
    (void)worker;
    atomic_fetch_add((_Atomic int32_t *)arg, 1);
}

static void run_inner(void *arg, int64_t chunk, int32_t worker)
{
    nested_ctx *ctx = arg;
    (void)chunk;
    (void)worker;
    sherd__team_run(ctx->team, 10, count_inner, &ctx->inner);
}

static void loops_may_nest(void **state)
{
    (void)state;
    nested_ctx ctx = {.team = make_team(3)};
    sherd__team_run(ctx.team, 20, run_inner, &ctx);
    assert_int_equal(atomic_load(&ctx.inner), 200);
    sherd__team_destroy(ctx.team);
}

static void *loop_caller(void *arg)
{
    for (int i = 0; i < 200; i++) {
        _Atomic int32_t count = 0;
        sherd__team_run(arg, 30, count_inner, &count);
        if (atomic_load(&count) != 30)
            return arg;
    }
    return NULL;
}

static void several_callers(void **state)
{
    (void)state;
    sherd__team *team = make_team(3);
    pthread_t thread[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, loop_caller, team), 0);
    for (int i = 0; i < 3; i++) {
        void *wrong = team;
        pthread_join(thread[i], &wrong);
        assert_null(wrong);
    }
    sherd__team_destroy(team);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    sherd__team *team = NULL;
    sherd_error err;
    assert_int_equal(sherd__team_create(NULL, 0, &team, &err), SHERD_EINVAL);
    assert_int_equal(sherd__team_create(NULL, -3, &team, NULL), SHERD_EINVAL);
    assert_int_equal(sherd__team_create(NULL, 1 << 20, &team, NULL), SHERD_EINVAL);
    assert_null(team);
    sherd__team_destroy(NULL);
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    int failed = 0;
    for (int64_t k = 1;; k++) {
        sherd_test_alloc counts = {.fail_at = k};
        sherd_allocator allocator = sherd_test_allocator(&counts);
        sherd__team *team = NULL;
        sherd_error err;
        sherd_status status = sherd__team_create(&allocator, 3, &team, &err);
        if (status == SHERD_OK)
            sherd__team_destroy(team);
        assert_int_equal(atomic_load(&counts.live_blocks), 0);
        assert_int_equal(atomic_load(&counts.wrong_sizes), 0);
        if (status == SHERD_OK)
            break;
        assert_int_equal(status, SHERD_ENOMEM);
        assert_null(team);
        failed++;
    }
    assert_true(failed >= 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_chunk_once),
        cmocka_unit_test(workers_take_part),
        cmocka_unit_test(busy_team_leaves_the_caller_alone),
        cmocka_unit_test(loops_may_nest),
        cmocka_unit_test(several_callers),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
