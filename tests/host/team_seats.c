/* SPDX-License-Identifier: MIT
 *
 * Seated teams: who may do which chunks, what happens when a seat cannot be had, and that children of fork() finish
 * alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "host/pin.h"
#include "host/team.h"

#define CHUNKS 200

static sherd__team *make_team(int32_t threads, const sherd__seat *seats, int64_t spin_ns)
{
    sherd__team_options options = {.threads = threads, .seats = seats, .spin_ns = spin_ns, .name = "test"};
    sherd__team *team = NULL;
    sherd_error err;
    if (sherd__team_make(&options, &team, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    return team;
}

/* ------------------------------------------------------------------------------------------------------------ by node
 */

static const sherd__seat on_three_nodes[] = {{-1, 4}, {-1, 4}, {-1, 7}, {-1, 2}, {-1, 2}, {-1, 2}};
static const int32_t group_of[] = {0, 0, 1, 2, 2, 2};

typedef struct split_ctx {
    const int64_t *ends;
    _Atomic int32_t done[CHUNKS];
    _Atomic int32_t strangers;
} split_ctx;

static void note_split(void *arg, int64_t chunk, int32_t worker)
{
    split_ctx *ctx = arg;
    int32_t group = group_of[worker];
    int64_t begin = group == 0 ? 0 : ctx->ends[group - 1];
    atomic_fetch_add(&ctx->done[chunk], 1);
    if (chunk < begin || chunk >= ctx->ends[group])
        atomic_fetch_add(&ctx->strangers, 1);
    usleep(20);
}

static void check_split(sherd__team *team, const int64_t ends[3], sherd__team_how how)
{
    split_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    ctx.ends = ends;
    sherd__team_run_nodes(team, ends, how, note_split, &ctx);
    for (int64_t c = 0; c < CHUNKS; c++)
        assert_int_equal(atomic_load(&ctx.done[c]), c < ends[2]);
    if (how == SHERD__TEAM_STAY)
        assert_int_equal(atomic_load(&ctx.strangers), 0);
}

static void chunks_stay_on_their_node(void **state)
{
    static const int64_t splits[][3] = {{50, 120, 200}, {0, 0, 1},   {0, 1, 1}, {1, 1, 1},
                                        {0, 0, 0},      {0, 60, 60}, {3, 3, 90}};
    (void)state;
    sherd__team *team = make_team(6, on_three_nodes, 0);
    assert_int_equal(sherd__team_nodes(team), 3);
    assert_int_equal(sherd__team_node(team, 0), 4);
    assert_int_equal(sherd__team_node(team, 1), 7);
    assert_int_equal(sherd__team_node(team, 2), 2);
    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        check_split(team, splits[i], SHERD__TEAM_STAY);
        check_split(team, splits[i], SHERD__TEAM_HELP);
    }
    sherd__team_destroy(team);
    assert_int_equal(sherd__team_nodes(NULL), 1);
    int64_t one = 5;
    split_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    ctx.ends = splits[0];
    sherd__team_run_nodes(NULL, &one, SHERD__TEAM_STAY, note_split, &ctx);
    for (int64_t c = 0; c < CHUNKS; c++)
        assert_int_equal(atomic_load(&ctx.done[c]), c < 5);
}

static void unsorted_seats_are_refused(void **state)
{
    (void)state;
    sherd__seat seats[200];
    sherd__team *team = NULL;
    sherd_error err;
    for (int32_t i = 0; i < 200; i++)
        seats[i] = (sherd__seat){-1, i % 2};
    sherd__team_options options = {.threads = 200, .seats = seats};
    assert_int_equal(sherd__team_make(&options, &team, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "sorted"));
    assert_null(team);
}

/* The only worker of node 1 is held in its first chunk, so nobody claims the second: the caller must do that one in the
 * end. */
typedef struct stuck_ctx {
    _Atomic int32_t rest_done, gave_up;
} stuck_ctx;

static void hold_worker(void *arg, int64_t chunk, int32_t worker)
{
    stuck_ctx *ctx = arg;
    (void)chunk;
    if (worker == 0)
        atomic_store(&ctx->rest_done, 1);
    for (int i = 0; worker == 1 && i < 15000 && !atomic_load(&ctx->rest_done); i++)
        usleep(1000);
    if (!atomic_load(&ctx->rest_done))
        atomic_store(&ctx->gave_up, 1);
}

static void a_stuck_node_is_helped(void **state)
{
    static const sherd__seat seats[] = {{-1, 0}, {-1, 1}};
    static const int64_t ends[] = {0, 2};
    (void)state;
    stuck_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    sherd__team *team = make_team(2, seats, 0);
    sherd__team_run_nodes(team, ends, SHERD__TEAM_STAY, hold_worker, &ctx);
    assert_int_equal(atomic_load(&ctx.rest_done), 1);
    assert_int_equal(atomic_load(&ctx.gave_up), 0);
    sherd__team_destroy(team);
}

/* ------------------------------------------------------------------------------------------------------------- pinning
 */

typedef struct where_ctx {
    int32_t cpu[8];
    _Atomic int32_t arrived, threads;
} where_ctx;

/* Every member does one chunk: each waits for the others (for a while). */
static void note_cpu(void *arg, int64_t chunk, int32_t worker)
{
    where_ctx *ctx = arg;
    (void)chunk;
    ctx->cpu[worker] = sched_getcpu();
    atomic_fetch_add(&ctx->arrived, 1);
    for (int i = 0; i < 5000 && atomic_load(&ctx->arrived) < atomic_load(&ctx->threads); i++)
        usleep(1000);
}

typedef struct first_cpus {
    int32_t cpu[8], count;
} first_cpus;

static void take_cpu(void *arg, int32_t cpu)
{
    first_cpus *list = arg;
    if (list->count < 8)
        list->cpu[list->count++] = cpu;
}

static void workers_sit_where_they_should(void **state)
{
    (void)state;
    first_cpus cpus = {.count = 0};
    assert_true(sherd__pin_each(take_cpu, &cpus) >= 1);
    sherd__seat seats[4];
    for (int32_t i = 0; i < 4; i++)
        seats[i] = (sherd__seat){cpus.cpu[(i + 1) % cpus.count], 0};
    sherd__team *team = make_team(4, seats, 0);
    const char *why = NULL;
    assert_int_equal(sherd__team_unpinned(team, &why), 0);
    assert_string_equal(why, "");
    where_ctx ctx;
    memset(&ctx, 0, sizeof ctx);
    atomic_store(&ctx.threads, 4);
    sherd__team_run(team, 4, note_cpu, &ctx);
    assert_int_equal(atomic_load(&ctx.arrived), 4);
    for (int32_t i = 1; i < 4; i++)
        assert_int_equal(ctx.cpu[i], seats[i].cpu);
    sherd__team_destroy(team);
}

static void *pin_and_look(void *arg)
{
    sherd_error err;
    int32_t *cpu = arg;
    sherd__seat seat = {*cpu, 0};
    sherd__team *team = make_team(1, &seat, 0);
    *cpu = sherd__team_pin_caller(team, &err) == SHERD_OK ? sched_getcpu() : -1;
    sherd__team_destroy(team);
    return NULL;
}

static void the_caller_can_be_pinned(void **state)
{
    (void)state;
    first_cpus cpus = {.count = 0};
    sherd__pin_each(take_cpu, &cpus);
    for (int32_t i = 0; i < cpus.count; i++) {
        int32_t cpu = cpus.cpu[i];
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, pin_and_look, &cpu), 0);
        pthread_join(thread, NULL);
        assert_int_equal(cpu, cpus.cpu[i]);
    }
}

static void count_chunk(void *arg, int64_t chunk, int32_t worker)
{
    (void)chunk;
    (void)worker;
    atomic_fetch_add((_Atomic int32_t *)arg, 1);
}

static void a_missing_processor_is_reported(void **state)
{
    static const sherd__seat seats[] = {{8000, 0}, {8001, 0}, {8002, 0}};
    (void)state;
    sherd__team *team = make_team(3, seats, 0);
    const char *why = NULL;
    _Atomic int32_t count = 0;
    sherd_error err;
    assert_int_equal(sherd__team_unpinned(team, &why), 2);
    assert_non_null(strstr(why, "worker 1 could not be pinned to processor 8001"));
    assert_int_equal(sherd__team_pin_caller(team, &err), SHERD_ESYSTEM);
    assert_non_null(strstr(err.text, "8000"));
    sherd__team_run(team, 100, count_chunk, &count);
    assert_int_equal(atomic_load(&count), 100);
    sherd__team_destroy(team);
}

/* ------------------------------------------------------------------------------------------------------------ sleeping
 */

static void busy_workers_need_no_wake_up(void **state)
{
    (void)state;
    sherd__team *busy = make_team(2, NULL, INT64_C(2000000000)), *lazy = make_team(2, NULL, 0);
    _Atomic int32_t count = 0;
    for (int i = 0; i < 500; i++)
        sherd__team_run(busy, 8, count_chunk, &count);
    assert_int_equal(sherd__team_wakes(busy), 0);
    for (int i = 0; i < 20; i++) {
        usleep(5000);
        sherd__team_run(lazy, 8, count_chunk, &count);
    }
    assert_true(sherd__team_wakes(lazy) > 0);
    assert_int_equal(atomic_load(&count), 520 * 8);
    sherd__team_destroy(busy);
    sherd__team_destroy(lazy);
}

/* --------------------------------------------------------------------------------------------------------------- forks
 */

/* 0: the child ended with this status by itself, within its alarm. */
static int child_status(pid_t pid)
{
    int status = -1;
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static void a_child_works_alone(void **state)
{
    (void)state;
    sherd__team *team = make_team(3, on_three_nodes, 0);
    _Atomic int32_t count = 0;
    sherd__team_run(team, 50, count_chunk, &count);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        static const int64_t ends[] = {10, 20};
        _Atomic int32_t own = 0;
        alarm(20);
        sherd__team_run(team, 50, count_chunk, &own);
        sherd__team_run_nodes(team, ends, SHERD__TEAM_STAY, count_chunk, &own);
        sherd__team_destroy(team);
        _exit(atomic_load(&own) == 70 ? 0 : 1);
    }
    assert_int_equal(child_status(pid), 0);
    sherd__team_run(team, 50, count_chunk, &count);
    assert_int_equal(atomic_load(&count), 100);
    sherd__team_destroy(team);
}

typedef struct fork_ctx {
    _Atomic int32_t done[CHUNKS];
    pid_t parent, child;
} fork_ctx;

static void fork_inside(void *arg, int64_t chunk, int32_t worker)
{
    fork_ctx *ctx = arg;
    if (worker == 0 && ctx->child == 0 && getpid() == ctx->parent) {
        pid_t pid = fork();
        if (pid == 0)
            alarm(20);
        else
            ctx->child = pid;
    }
    usleep(100);
    atomic_fetch_add(&ctx->done[chunk], 1);
}

/* Forked by the caller in the middle of a loop: the parent loses nothing, and the child's call comes back. */
static void fork_in_the_middle(void **state)
{
    (void)state;
    for (int how = 0; how < 2; how++) {
        sherd__team *team = make_team(3, on_three_nodes, 0);
        fork_ctx ctx;
        static const int64_t ends[] = {100, 200};
        memset(&ctx, 0, sizeof ctx);
        ctx.parent = getpid();
        sherd__team_run_nodes(team, ends, how ? SHERD__TEAM_STAY : SHERD__TEAM_HELP, fork_inside, &ctx);
        if (getpid() != ctx.parent) {
            sherd__team_destroy(team);
            _exit(0);
        }
        assert_true(ctx.child > 0);
        for (int c = 0; c < CHUNKS; c++)
            assert_int_equal(atomic_load(&ctx.done[c]), 1);
        assert_int_equal(child_status(ctx.child), 0);
        sherd__team_destroy(team);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_stay_on_their_node),    cmocka_unit_test(unsorted_seats_are_refused),
        cmocka_unit_test(a_stuck_node_is_helped),       cmocka_unit_test(workers_sit_where_they_should),
        cmocka_unit_test(the_caller_can_be_pinned),     cmocka_unit_test(a_missing_processor_is_reported),
        cmocka_unit_test(busy_workers_need_no_wake_up), cmocka_unit_test(a_child_works_alone),
        cmocka_unit_test(fork_in_the_middle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
