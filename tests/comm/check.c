/* SPDX-License-Identifier: MIT
 *
 * The collectives on the checking device: clean under drawn orders, and each of their waits, left out, is reported.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bodies.h"
#include "comm/direct.h"

#define ELEMS 512

typedef struct buffers {
    float source[2][8 * ELEMS], sum[ELEMS], back[8 * ELEMS];
    uint64_t vote[4];
} buffers;

/* Each collective three times, its input rewritten right after it, all in stream order: what keeps ranks apart is the
 * waits only. (After a later collective the release would be there anyway: that one's arrival says it too.) */
static int use_everything(rank_ctx *ctx, sherd__window *window, buffers *b)
{
    const sherd__comm_ops *comm = ctx->comm->ops;
    const sherd__device_ops *device = ctx->device->ops;
    const sherd__view *view = window->handle;
    uint64_t slice = ELEMS * 4, bytes = slice * (uint64_t)ctx->world, own = slice * (uint64_t)ctx->rank;
    int32_t right = (ctx->rank + 1) % ctx->world;
    char *at = window->local;
    sherd__ticket ticket = 0;
    for (int32_t round = 0; round < 3; round++) {
        sherd__tag tag = tag_of("check", round);
        sherd__tree_sum job = {.src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = b->sum, .elems = ELEMS};
        RANK_CHECK(device->copy(ctx->stream, tag, at, b->source[0], bytes) == SHERD_OK);
        RANK_CHECK(comm->reduce_scatter(ctx->comm, ctx->stream, tag, window, 0, &job, &ticket) == SHERD_OK);
        RANK_CHECK(comm->released(ctx->comm, ctx->stream, tag, ticket, "reduced by all") == SHERD_OK);
        RANK_CHECK(device->copy(ctx->stream, tag, at, b->source[1], bytes) == SHERD_OK);

        RANK_CHECK(device->copy(ctx->stream, tag, at + bytes + own, b->sum, slice) == SHERD_OK);
        RANK_CHECK(comm->all_gather(ctx->comm, ctx->stream, tag, window, bytes, slice, &ticket) == SHERD_OK);
        RANK_CHECK(comm->released(ctx->comm, ctx->stream, tag, ticket, "gathered by all") == SHERD_OK);
        RANK_CHECK(device->copy(ctx->stream, tag, at + bytes + own, b->source[1], slice) == SHERD_OK);

        RANK_CHECK(device->copy(ctx->stream, tag, at + 2 * bytes, b->source[0], slice) == SHERD_OK);
        RANK_CHECK(comm->broadcast(ctx->comm, ctx->stream, tag, window, 2 * bytes, slice, round % ctx->world,
                                   &ticket) == SHERD_OK);
        RANK_CHECK(comm->released(ctx->comm, ctx->stream, tag, ticket, "received by all") == SHERD_OK);
        RANK_CHECK(device->copy(ctx->stream, tag, at + 2 * bytes, b->source[1], slice) == SHERD_OK);

        RANK_CHECK(comm->all_reduce(ctx->comm, ctx->stream, tag, b->vote, 2, 2) == SHERD_OK);
        RANK_CHECK(device->copy(ctx->stream, tag, at + 3 * bytes, b->source[1], slice) == SHERD_OK);
        RANK_CHECK(comm->barrier(ctx->comm, ctx->stream, tag) == SHERD_OK);
        RANK_CHECK(device->copy(ctx->stream, tag, b->back, (const char *)view->base[right] + 3 * bytes, slice) ==
                   SHERD_OK);
        RANK_CHECK(comm->all_reduce(ctx->comm, ctx->stream, tag, b->vote, 2, 2) == SHERD_OK);
    }
    return 0;
}

static int body_check(rank_ctx *ctx)
{
    sherd_error error = {0};
    sherd__window window;
    buffers *b = calloc(1, sizeof *b);
    b->vote[0] = 1;
    RANK_CHECK(ctx->comm->ops->window_create(ctx->comm, 4 * ELEMS * 4 * (uint64_t)ctx->world, SHERD_CAT_GRADIENTS,
                                             &window, &error) == SHERD_OK);
    int failed = use_everything(ctx, &window, b);
    if (!failed && rank_wait(ctx, &error) != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", (int)ctx->rank, error.text);
        failed = 1;
    }
    uint64_t factor = 1;
    for (int i = 0; i < 6; i++) {
        factor *= (uint64_t)ctx->world;
    }
    RANK_CHECK(failed || (b->vote[0] == factor && b->vote[2] == 0));
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    free(b);
    return failed;
}

static sherd_status verdict(int32_t world, uint64_t seed, const char *drop, rank_fn body, int *failed, sherd_error *err)
{
    sherd_checker *checker;
    uint64_t operations = 0;
    assert_int_equal(sherd_checker_create(world, seed, &checker, err), SHERD_OK);
    sherd__checker_drop(checker, drop);
    world_options options = {.device = SHERD_DEVICE_CHECK, .checker = checker};
    *failed = world_run(WORLD_THREADS, world, &options, body, NULL);
    sherd_status status = sherd_checker_verdict(checker, &operations, err);
    assert_true(operations > 20);
    sherd_checker_destroy(checker);
    return status;
}

static void clean_in_any_order(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= 4; world++) {
        for (uint64_t seed = 1; seed <= 5; seed++) {
            sherd_error error = {0};
            int failed;
            sherd_status status = verdict(world, seed, NULL, body_check, &failed, &error);
            if (status != SHERD_OK) {
                print_message("world %d, seed %d: %s\n", (int)world, (int)seed, error.text);
            }
            assert_int_equal(status, SHERD_OK);
            assert_int_equal(failed, 0);
        }
    }
}

/* Right results too, and windows made and destroyed again at the same addresses. */
static void right_in_any_order(void **state)
{
    (void)state;
    for (int32_t world = 2; world <= 3; world++) {
        sherd_error error = {0};
        int failed;
        assert_int_equal(verdict(world, 9, NULL, body_all, &failed, &error), SHERD_OK);
        assert_int_equal(failed, 0);
    }
}

static void every_wait_is_needed(void **state)
{
    (void)state;
    static const char *const sites[] = {
        "reduce-scatter: peers' gradients",
        "all-gather: peers' slices",
        "all-reduce: peers' values",
        "broadcast: root's bytes",
        "barrier: peers' arrival",
        "reduced by all",
        "gathered by all",
        "received by all",
    };
    for (size_t s = 0; s < sizeof sites / sizeof *sites; s++) {
        sherd_error error = {0};
        int failed;
        sherd_status status = verdict(3, 1, sites[s], body_check, &failed, &error);
        print_message("without '%s': %s\n", sites[s], status == SHERD_ERACE ? error.text : "nothing is reported");
        assert_int_equal(status, SHERD_ERACE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clean_in_any_order),
        cmocka_unit_test(right_in_any_order),
        cmocka_unit_test(every_wait_is_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
