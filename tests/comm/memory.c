/* SPDX-License-Identifier: MIT
 *
 * Every allocation of a communicator and of a window fails once: a clean error, nothing kept. And nothing of a window
 * is left behind: no mapping, no file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bodies.h"
#include "comm/direct.h"

typedef struct faulty {
    int64_t until_failure, live_blocks, live_bytes;
} faulty;

static void *faulty_alloc(void *ctx, size_t bytes)
{
    faulty *self = ctx;
    if (self->until_failure-- == 0) {
        return NULL;
    }
    self->live_blocks++;
    self->live_bytes += (int64_t)bytes;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void faulty_release(void *ctx, void *block, size_t bytes)
{
    faulty *self = ctx;
    self->live_blocks--;
    self->live_bytes -= (int64_t)bytes;
    free(block);
}

static int gather_alone(void *ctx, const void *mine, void *all, size_t bytes)
{
    (void)ctx;
    memcpy(all, mine, bytes);
    return 0;
}

typedef sherd_status (*create_fn)(const sherd_comm_options *options, sherd_comm **out, sherd_error *err);

static sherd_status create_threads(const sherd_comm_options *options, sherd_comm **out, sherd_error *err)
{
    return sherd_comm_create_threads(options, 3, out, err);
}

static sherd_status create_local(const sherd_comm_options *options, sherd_comm **out, sherd_error *err)
{
    return sherd_comm_create_local(options, 0, 1, gather_alone, NULL, out, err);
}

/* Fails the first, second, … allocation until none fails; returns how many were made to. */
static int64_t fail_each(create_fn create, int32_t world)
{
    for (int64_t k = 0;; k++) {
        faulty state = {.until_failure = k};
        sherd_comm_options options;
        sherd_comm *comms[3] = {NULL};
        sherd_error error;
        sherd_comm_options_init(&options, sizeof options);
        options.allocator = (sherd_allocator){faulty_alloc, faulty_release, &state};
        sherd_status status = create(&options, comms, &error);
        for (int32_t rank = 0; rank < world && status == SHERD_OK; rank++) {
            sherd_comm_destroy(comms[rank]);
        }
        assert_int_equal(state.live_blocks, 0);
        assert_int_equal(state.live_bytes, 0);
        if (status == SHERD_OK) {
            return k;
        }
        assert_int_equal(status, SHERD_ENOMEM);
        assert_true(error.text[0] != '\0');
    }
}

static void creation(void **state)
{
    (void)state;
    assert_true(fail_each(create_threads, 3) > 10);
    assert_true(fail_each(create_local, 1) > 5);
}

static int body_fail_window(rank_ctx *ctx)
{
    faulty *state = ctx->arg;
    int64_t before = state->live_blocks, k = 0;
    for (;; k++) {
        sherd_error error = {0};
        sherd__window window;
        sherd_memory live;
        state->until_failure = k;
        sherd_status status = ctx->comm->ops->window_create(ctx->comm, 10000, SHERD_CAT_MASTER, &window, &error);
        state->until_failure = -1;
        if (status == SHERD_OK) {
            ctx->comm->ops->window_destroy(ctx->comm, &window);
        }
        sherd_device_memory(ctx->device, &live, NULL);
        RANK_CHECK(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_MASTER] == 0);
        RANK_CHECK(state->live_blocks == before);
        if (status == SHERD_OK) {
            break;
        }
        RANK_CHECK(status == SHERD_ENOMEM && error.text[0] != '\0');
    }
    RANK_CHECK(k >= 4);
    return 0;
}

static void windows(void **state)
{
    (void)state;
    create_fn creates[] = {sherd_comm_create_self, create_local};
    for (int i = 0; i < 2; i++) {
        faulty memory = {.until_failure = -1};
        sherd_comm_options options;
        sherd_comm *comm;
        sherd_comm_options_init(&options, sizeof options);
        options.allocator = (sherd_allocator){faulty_alloc, faulty_release, &memory};
        assert_int_equal(creates[i](&options, &comm, NULL), SHERD_OK);
        assert_int_equal(rank_run(comm, NULL, body_fail_window, &memory), 0);
        sherd_comm_destroy(comm);
        assert_int_equal(memory.live_blocks, 0);
    }
}

static int open_files(void)
{
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder != NULL && readdir(folder) != NULL) {
        count++;
    }
    closedir(folder);
    return count;
}

/* Lines of the process's map that are windows or control blocks. */
static int window_mappings(void)
{
    char line[512];
    int count = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        count += strstr(line, "memfd:sherd-") != NULL;
    }
    fclose(maps);
    return count;
}

static int body_nothing_left(rank_ctx *ctx)
{
    int files = open_files(), mappings = window_mappings();
    RANK_CHECK(mappings >= ctx->world);
    for (int round = 0; round < 5; round++) {
        sherd_error error;
        sherd__window window;
        RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, 4 << 20, SHERD_CAT_MASTER, &window, &error) == SHERD_OK);
        RANK_CHECK(open_files() == files && window_mappings() == mappings + ctx->world);
        ctx->comm->ops->window_destroy(ctx->comm, &window);
        RANK_CHECK(open_files() == files && window_mappings() == mappings);
    }
    return 0;
}

static void nothing_left(void **state)
{
    (void)state;
    assert_int_equal(world_run(WORLD_PROCESSES, 3, NULL, body_nothing_left, NULL), 0);
    int files = open_files();
    for (int round = 0; round < 20; round++) {
        sherd_comm *comm;
        assert_int_equal(create_local(NULL, &comm, NULL), SHERD_OK);
        sherd_comm_destroy(comm);
    }
    assert_int_equal(open_files(), files);
    assert_int_equal(window_mappings(), 0);
}

/* A child that a rank forks for its own purposes has none of the windows. */
static int body_fork(rank_ctx *ctx)
{
    int all = window_mappings(), status;
    RANK_CHECK(all == ctx->world);
    pid_t child = fork();
    if (child == 0) {
        _exit(window_mappings());
    }
    RANK_CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}

static void not_inherited(void **state)
{
    (void)state;
    assert_int_equal(world_run(WORLD_PROCESSES, 2, NULL, body_fork, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creation),
        cmocka_unit_test(windows),
        cmocka_unit_test(nothing_left),
        cmocka_unit_test(not_inherited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
