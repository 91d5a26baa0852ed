/* SPDX-License-Identifier: MIT
 *
 * What survivors see when a rank dies, gives up, leaves, is late or does something else. Ranks are processes; nobody
 * helps them: each must end by itself, with the right sentence, in time.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "bodies.h"
#include "comm/direct.h"
#include "tests/support/leaves.h"

#define MANY 40

typedef struct fault {
    int32_t rank; /* who */
    int64_t at;   /* before which collective */
    sherd_status expected;
    const char *says[3];                   /* what the survivors' sentence contains */
    _Atomic int64_t *died_ns, *noticed_ns; /* shared memory: when, and how much later each rank knew; NULL: not asked */
} fault;

static void pause_ms(long ms)
{
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* MANY all-gathers of bucket = number; `stop` is called on the faulty rank instead of number `at`, and returns what the
 * rank returns if it goes on. Survivors check status and sentence. */
static int gather_until(rank_ctx *ctx, int (*stop)(rank_ctx *ctx, sherd__window *window))
{
    const fault *plan = ctx->arg;
    sherd_error error = {0};
    sherd__window window;
    sherd_status status = SHERD_OK;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, (uint64_t)ctx->world * 4096, SHERD_CAT_PARAMETERS, &window,
                                             &error) == SHERD_OK);
    for (int64_t number = 0; number < MANY && status == SHERD_OK; number++) {
        if (ctx->rank == plan->rank && number == plan->at) {
            return stop(ctx, &window);
        }
        status = ctx->comm->ops->all_gather(ctx->comm, ctx->stream, tag_of("gather", (int32_t)number), &window, 0, 4096,
                                            NULL);
        if (status == SHERD_OK) {
            status = rank_wait(ctx, &error);
        }
    }
    int64_t noticed = sherd__now_ns();
    sherd__device_error(ctx->device, &error);
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    for (int i = 0; i < 3 && plan->says[i] != NULL; i++) {
        if (strstr(error.text, plan->says[i]) == NULL) {
            fprintf(stderr, "rank %d: '%s' does not say '%s'\n", (int)ctx->rank, error.text, plan->says[i]);
            return 1;
        }
    }
    RANK_CHECK(error.status == plan->expected);
    if (plan->noticed_ns != NULL && plan->died_ns != NULL) {
        atomic_store(&plan->noticed_ns[ctx->rank], noticed - atomic_load(plan->died_ns));
    }
    RANK_CHECK(error.rank == (plan->expected == SHERD_EMISMATCH ? -1 : plan->rank));
    return 0;
}

static int die(rank_ctx *ctx, sherd__window *window)
{
    const fault *plan = ctx->arg;
    (void)window;
    if (plan->died_ns != NULL) {
        atomic_store(plan->died_ns, sherd__now_ns());
    }
    kill(getpid(), SIGKILL);
    return 1;
}

static int body_die(rank_ctx *ctx)
{
    return gather_until(ctx, die);
}

static void rank_is_killed(void **state)
{
    (void)state;
    int64_t longest = 0;
    _Atomic int64_t *times = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(times != MAP_FAILED);
    for (uint64_t trial = 0; trial < 8; trial++) {
        int32_t world = 2 + (int32_t)(trial % 4);
        fault plan = {.rank = (int32_t)(sherd_test_mix(trial, 1, 0, 0, 0) % (uint64_t)world),
                      .at = (int64_t)(sherd_test_mix(trial, 2, 0, 0, 0) % MANY),
                      .expected = SHERD_ERANKDEAD,
                      .died_ns = &times[0],
                      .noticed_ns = &times[1]};
        char who[32], where[64];
        snprintf(who, sizeof who, "rank %d (pid ", (int)plan.rank);
        snprintf(where, sizeof where, "died during all-gather of bucket %d", (int)plan.at);
        plan.says[0] = who;
        plan.says[1] = where;
        int status[8];
        double begin = seconds_now();
        world_run_status(world, NULL, body_die, &plan, status);
        assert_true(seconds_now() - begin < 10);
        for (int32_t rank = 0; rank < world; rank++) {
            assert_true(rank == plan.rank ? WIFSIGNALED(status[rank]) && WTERMSIG(status[rank]) == SIGKILL
                                          : status[rank] == 0);
            int64_t noticed = rank != plan.rank ? atomic_load(&times[1 + rank]) : 0;
            longest = noticed > longest ? noticed : longest;
        }
    }
    print_message("a death was noticed after at most %.1f ms\n", (double)longest * 1e-6);
    assert_true(longest > 0 && longest < 5000000000);
    munmap((void *)times, 4096);
}

/* Windows and collectives without end; whoever is killed, whenever, is what all others must name. */
static int body_for_ever(rank_ctx *ctx)
{
    const int32_t *mortal = ctx->arg;
    sherd_error error = {0};
    sherd_status status = SHERD_OK;
    while (status == SHERD_OK) {
        sherd__window window = {0};
        uint64_t vote = 1;
        status =
            ctx->comm->ops->window_create(ctx->comm, (uint64_t)ctx->world * 4096, SHERD_CAT_MASTER, &window, &error);
        for (int32_t number = 0; number < 5 && status == SHERD_OK; number++) {
            ctx->comm->ops->all_gather(ctx->comm, ctx->stream, tag_of("gather", number), &window, 0, 4096, NULL);
            ctx->comm->ops->all_reduce(ctx->comm, ctx->stream, tag_of("vote", -1), &vote, 1, 0);
            status = rank_wait(ctx, &error);
        }
        ctx->comm->ops->window_destroy(ctx->comm, &window);
    }
    if (status != SHERD_ERANKDEAD || error.rank != *mortal) {
        fprintf(stderr, "rank %d: %s\n", (int)ctx->rank, error.text);
        return 1;
    }
    return 0;
}

static void killed_at_any_moment(void **state)
{
    (void)state;
    for (uint64_t trial = 0; trial < 30; trial++) {
        int32_t world = 2 + (int32_t)(trial % 3),
                mortal = (int32_t)(sherd_test_mix(trial, 3, 0, 0, 0) % (uint64_t)world);
        world_options options = {.mortal = mortal + 1,
                                 .mortal_us = 1 + (long)(sherd_test_mix(trial, 4, 0, 0, 0) % 20000)};
        int status[8];
        double begin = seconds_now();
        world_run_status(world, &options, body_for_ever, &mortal, status);
        assert_true(seconds_now() - begin < 10);
        for (int32_t rank = 0; rank < world; rank++) {
            assert_true(rank == mortal ? WIFSIGNALED(status[rank]) : status[rank] == 0);
        }
    }
}

static int give_up(rank_ctx *ctx, sherd__window *window)
{
    sherd_error why, second;
    sherd__fail(&why, SHERD_EIO, "the disk under rank %d is full", (int)ctx->rank);
    sherd__fail(&second, SHERD_EINVAL, "a later complaint");
    ctx->comm->ops->abort(ctx->comm, &why);
    ctx->comm->ops->abort(ctx->comm, &second);
    pause_ms(300);
    ctx->comm->ops->window_destroy(ctx->comm, window);
    return 0;
}

static int body_give_up(rank_ctx *ctx)
{
    return gather_until(ctx, give_up);
}

static void rank_gives_up(void **state)
{
    (void)state;
    fault plan = {.rank = 1,
                  .at = 3,
                  .expected = SHERD_EABORTED,
                  .says = {"rank 1 gave up during all-gather of bucket 3", "the disk under rank 1 is full"}};
    double begin = seconds_now();
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_give_up, &plan), 0);
    assert_int_equal(world_run(WORLD_THREADS, 3, NULL, body_give_up, &plan), 0);
    assert_true(seconds_now() - begin < 5);
}

static int leave_early(rank_ctx *ctx, sherd__window *window)
{
    ctx->comm->ops->window_destroy(ctx->comm, window);
    return 0;
}

static int body_leave(rank_ctx *ctx)
{
    return gather_until(ctx, leave_early);
}

static void rank_leaves(void **state)
{
    (void)state;
    fault plan = {
        .rank = 0, .at = 5, .expected = SHERD_EABORTED, .says = {"rank 0", "has left", "all-gather of bucket 5"}};
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_leave, &plan), 0);
    assert_int_equal(world_run(WORLD_THREADS, 2, NULL, body_leave, &plan), 0);
}

/* A rank that ends right after its last collective is no fault, however late the others are. */
static int body_end_at_once(rank_ctx *ctx)
{
    sherd_error error;
    for (int round = 0; round < 20; round++) {
        RANK_CHECK(ctx->comm->ops->barrier(ctx->comm, ctx->stream, tag_of("end", round)) == SHERD_OK);
    }
    if (ctx->rank != 0) {
        pause_ms(5 * ctx->rank);
    }
    if (rank_wait(ctx, &error) != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", (int)ctx->rank, error.text);
        return 1;
    }
    if (ctx->rank == 0) {
        _exit(0);
    }
    return 0;
}

static void ending_is_no_fault(void **state)
{
    (void)state;
    for (int trial = 0; trial < 10; trial++) {
        assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_end_at_once, NULL), 0);
    }
}

/* ------------------------------------------------------------------------------------------------- limits, warnings */

static int be_late(rank_ctx *ctx, sherd__window *window)
{
    pause_ms(1200);
    ctx->comm->ops->window_destroy(ctx->comm, window);
    return 0;
}

static int body_late(rank_ctx *ctx)
{
    return gather_until(ctx, be_late);
}

static void rank_is_stuck(void **state)
{
    (void)state;
    world_options options = {.fail_after_s = 0.5};
    fault plan = {.rank = 2,
                  .at = 7,
                  .expected = SHERD_ETIMEOUT,
                  .says = {"rank 2 (pid ", "did not arrive within 0.5 s at all-gather of bucket 7"}};
    double begin = seconds_now();
    assert_int_equal(world_run(WORLD_PROCESSES, 3, &options, body_late, &plan), 0);
    plan.says[0] = "rank 2";
    assert_int_equal(world_run(WORLD_THREADS, 3, &options, body_late, &plan), 0);
    assert_true(seconds_now() - begin < 8);
}

typedef struct warnings {
    int count;
    char text[256];
} warnings;

static void keep_warning(void *ctx, sherd_log_level level, const char *text)
{
    warnings *seen = ctx;
    if (level == SHERD_LOG_WARNING) {
        seen->count++;
        snprintf(seen->text, sizeof seen->text, "%s", text);
    }
}

static int body_slow(rank_ctx *ctx)
{
    const warnings *seen = ctx->arg;
    sherd_error error;
    for (int32_t bucket = 0; bucket < 3; bucket++) {
        if (ctx->rank == 1 && bucket == 1) {
            pause_ms(400);
        }
        RANK_CHECK(ctx->comm->ops->barrier(ctx->comm, ctx->stream, tag_of("slow", bucket)) == SHERD_OK);
        RANK_CHECK(rank_wait(ctx, &error) == SHERD_OK);
    }
    RANK_CHECK(seen->count == (ctx->rank == 0));
    RANK_CHECK(ctx->rank == 1 || (strstr(seen->text, "rank 0 waited 0.") && strstr(seen->text, "for rank 1 (pid ") &&
                                  strstr(seen->text, "in barrier of bucket 1")));
    return 0;
}

static void one_warning(void **state)
{
    (void)state;
    warnings seen = {0}; /* each process has its own copy */
    world_options options = {.warn_after_s = 0.1, .log = {keep_warning, &seen}};
    assert_int_equal(world_run(WORLD_PROCESSES, 2, &options, body_slow, &seen), 0);
}

/* --------------------------------------------------------------------------------------------------------- mismatch */

static int do_other(rank_ctx *ctx, sherd__window *window)
{
    float sum[256];
    sherd_error error = {0};
    sherd__tree_sum job = {.src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = sum, .elems = 256};
    ctx->comm->ops->reduce_scatter(ctx->comm, ctx->stream, tag_of("reduce", 9), window, 0, &job, NULL);
    RANK_CHECK(rank_wait(ctx, &error) == SHERD_EMISMATCH);
    RANK_CHECK(strstr(error.text, "called all-gather of bucket 4 where rank 1 called reduce-scatter of bucket 9") !=
               NULL);
    ctx->comm->ops->window_destroy(ctx->comm, window);
    return 0;
}

static int do_other_size(rank_ctx *ctx, sherd__window *window)
{
    sherd_error error = {0};
    ctx->comm->ops->all_gather(ctx->comm, ctx->stream, tag_of("gather", 4), window, 0, 2048, NULL);
    RANK_CHECK(rank_wait(ctx, &error) == SHERD_EMISMATCH);
    ctx->comm->ops->window_destroy(ctx->comm, window);
    return 0;
}

static int body_other(rank_ctx *ctx)
{
    return gather_until(ctx, do_other);
}
static int body_other_size(rank_ctx *ctx)
{
    return gather_until(ctx, do_other_size);
}

static void ranks_disagree(void **state)
{
    (void)state;
    fault plan = {.rank = 1,
                  .at = 4,
                  .expected = SHERD_EMISMATCH,
                  .says = {"rank 1 called reduce-scatter of bucket 9 where rank", "called all-gather of bucket 4"}};
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_other, &plan), 0);
    assert_int_equal(world_run(WORLD_THREADS, 3, NULL, body_other, &plan), 0);
    plan.says[0] = "rank 1 called all-gather of bucket 4 with another size";
    plan.says[1] = NULL;
    assert_int_equal(world_run(WORLD_PROCESSES, 2, NULL, body_other_size, &plan), 0);
}

static int body_wrong_range(rank_ctx *ctx)
{
    sherd_error error;
    sherd__window window;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, 4096, SHERD_CAT_PARAMETERS, &window, &error) == SHERD_OK);
    RANK_CHECK(ctx->comm->ops->all_gather(ctx->comm, ctx->stream, tag_of("gather", 0), &window, 64, 4096, NULL) ==
               SHERD_EINVAL);
    RANK_CHECK(rank_wait(ctx, &error) == SHERD_EINVAL && strstr(error.text, "window of 4096") != NULL);
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    return 0;
}

static void range_outside_window(void **state)
{
    (void)state;
    assert_int_equal(world_run(WORLD_THREADS, 1, NULL, body_wrong_range, NULL), 0);
}

/* ---------------------------------------------------------------------------------------------------------- windows */

static int body_window_sizes_differ(rank_ctx *ctx)
{
    sherd_error error;
    sherd__window window;
    sherd_memory live;
    uint64_t bytes = ctx->rank == 1 ? 8192 : 4096;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, bytes, SHERD_CAT_PARAMETERS, &window, &error) ==
               SHERD_EMISMATCH);
    RANK_CHECK(strstr(error.text, "4096") != NULL && strstr(error.text, "8192") != NULL);
    sherd_device_memory(ctx->device, &live, NULL);
    RANK_CHECK(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_PARAMETERS] == 0 &&
               live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ROUNDING] == 0);
    return 0;
}

static int body_window_no_room(rank_ctx *ctx)
{
    sherd_error error;
    sherd__window window;
    if (ctx->rank == 1) {
        ctx->device->ledger.limit[SHERD_TIER_DEVICE] = 8192;
    }
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, 65536, SHERD_CAT_PARAMETERS, &window, &error) == SHERD_ENOMEM);
    RANK_CHECK(ctx->rank == 1 || (error.rank == 1 && strstr(error.text, "rank 1 could not make a window") != NULL));
    ctx->device->ledger.limit[SHERD_TIER_DEVICE] = 0;
    return body_all_gather(ctx); /* a refused window spoils nothing */
}

static int body_die_at_window(rank_ctx *ctx)
{
    sherd_error error;
    sherd__window window;
    if (ctx->rank == 1) {
        kill(getpid(), SIGKILL);
    }
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, 65536, SHERD_CAT_PARAMETERS, &window, &error) ==
               SHERD_ERANKDEAD);
    RANK_CHECK(strstr(error.text, "died during creation of a window") != NULL && error.rank == 1);
    return 0;
}

static void windows_fail_together(void **state)
{
    (void)state;
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_window_sizes_differ, NULL), 0);
    assert_int_equal(world_run(WORLD_THREADS, 3, NULL, body_window_sizes_differ, NULL), 0);
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_window_no_room, NULL), 0);
    assert_int_equal(world_run(WORLD_THREADS, 3, NULL, body_window_no_room, NULL), 0);
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_die_at_window, NULL), 1);
}

/* --------------------------------------------------------------------------------------------------------- processes
 */

static void pid_is_not_enough(void **state)
{
    (void)state;
    sherd__identity self;
    sherd__identity_self(&self);
    assert_true(self.pid == getpid() && self.start > 0 && self.host[0] != '\0' && self.pid_space != 0);
    assert_true(sherd__process_alive(self.pid, self.start));
    assert_false(sherd__process_alive(self.pid, self.start + 1));
    assert_int_equal(sherd__process_open(self.pid, self.start + 1), -1);
    int fd = sherd__process_open(self.pid, self.start);
    assert_true(fd >= 0 && !sherd__pidfd_ended(fd));
    close(fd);
}

/* A child that is dead but not yet waited for counts as dead, by both ways of looking. */
static void zombie_is_dead(void **state)
{
    (void)state;
    int ready[2];
    sherd__identity child = {0};
    assert_int_equal(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        sherd__identity_self(&child);
        (void)!write(ready[1], &child, sizeof child);
        pause_ms(50);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &child, sizeof child), sizeof child);
    int fd = sherd__process_open(child.pid, child.start);
    assert_true(fd >= 0);
    pause_ms(200);
    assert_true(sherd__pidfd_ended(fd));
    assert_false(sherd__process_alive(child.pid, child.start));
    close(fd);
    waitpid(pid, NULL, 0);
    assert_int_equal(sherd__process_open(child.pid, child.start), -1);
    close(ready[0]);
    close(ready[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pid_is_not_enough),    cmocka_unit_test(zombie_is_dead),
        cmocka_unit_test(rank_is_killed),       cmocka_unit_test(killed_at_any_moment),
        cmocka_unit_test(rank_gives_up),        cmocka_unit_test(rank_leaves),
        cmocka_unit_test(ending_is_no_fault),   cmocka_unit_test(rank_is_stuck),
        cmocka_unit_test(one_warning),          cmocka_unit_test(ranks_disagree),
        cmocka_unit_test(range_outside_window), cmocka_unit_test(windows_fail_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
