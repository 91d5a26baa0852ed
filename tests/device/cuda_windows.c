/* SPDX-License-Identifier: MIT
 *
 * Windows and collectives of ranks on CUDA devices, on the stub: in GPU memory where that can be, in pinned main memory
 * where GPUs or processes are kept apart; the same results in every place, with items of streams that come late by
 * chance. And the order is really kept by the waits: without them the results are wrong.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/comm/bodies.h"
#include "tests/device/cuda_world.h"

enum { RANKS = 4 };

typedef struct place {
    const char *says;
    rank_fn body;
} place;

typedef struct rank_thread {
    pthread_t thread;
    sherd_comm *comm;
    const world_options *options;
    rank_fn body;
    void *arg;
    int gpu, failed;
} rank_thread;

static void *rank_main(void *arg)
{
    rank_thread *self = arg;
    (void)cudaSetDevice(self->gpu);
    self->failed = rank_run(self->comm, self->options, self->body, self->arg);
    sherd_comm_destroy(self->comm);
    return NULL;
}

static int run_threads(int32_t world, int gpus, const world_options *options, rank_fn body, void *arg)
{
    rank_thread ranks[RANKS];
    sherd_comm *comms[RANKS];
    sherd_comm_options settings;
    int failed = 0;
    sherd_comm_options_init(&settings, sizeof settings);
    settings.fail_after_s = 30;
    settings.log = options->log;
    OK(sherd_comm_create_threads(&settings, world, comms, NULL));
    for (int32_t r = 0; r < world; r++) {
        ranks[r] = (rank_thread){.comm = comms[r], .options = options, .body = body, .arg = arg, .gpu = r % gpus};
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]), 0);
    }
    for (int32_t r = 0; r < world; r++) {
        pthread_join(ranks[r].thread, NULL);
        failed += ranks[r].failed;
    }
    return failed;
}

static const world_options on_cuda = {.device = SHERD_DEVICE_CUDA, .fail_after_s = 30};

/* A window, where it is, what is booked and what is gone afterwards; then the collectives. */
static int body_placed(rank_ctx *ctx)
{
    const place *want = ctx->arg;
    sherd_error error = {0};
    sherd__window window = {0};
    sherd_memory before, live;
    sherd_device_memory(ctx->device, &before, NULL);
    if (ctx->comm->ops->window_create(ctx->comm, 3000000, SHERD_CAT_GRADIENTS, &window, &error) != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", ctx->rank, error.text);
        return 1;
    }
    sherd_device_memory(ctx->device, &live, NULL);
    RANK_CHECK(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_GRADIENTS] == 3000000);
    RANK_CHECK(strstr(sherd_comm_describe(ctx->comm), want->says) != NULL);
    for (uint32_t i = 0; i < 3000000; i += 999)
        RANK_CHECK(((const char *)window.local)[i] == 0);
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    sherd_device_memory(ctx->device, &live, NULL);
    RANK_CHECK(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_GRADIENTS] == 0);
    RANK_CHECK(live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ROUNDING] ==
               before.bytes[SHERD_TIER_DEVICE][SHERD_CAT_ROUNDING]);
    ctx->arg = NULL;
    return want->body(ctx);
}

static void threads_have_windows_in_gpu_memory(void **state)
{
    place want = {"windows in GPU memory", body_all};
    (void)state;
    for (int32_t world = 1; world <= RANKS; world++) {
        for (int gpus = 1; gpus <= 2; gpus++) {
            cuda_stub_reset(2, 0);
            cuda_stub_delay(world == 3 ? 300 : 0);
            assert_int_equal(run_threads(world, gpus, &on_cuda, body_placed, &want), 0);
            assert_int_equal(cuda_stub_calls("cudaHostRegister"), 1); /* the control blocks */
            assert_int_equal(cuda_stub_reaches(0, 1) && cuda_stub_reaches(1, 0), gpus == 2 && world > 1);
            assert_nothing_left();
        }
    }
}

static _Atomic int32_t warnings;

static void count_warning(void *ctx, sherd_log_level level, const char *text)
{
    (void)ctx;
    if (level == SHERD_LOG_WARNING && strstr(text, "pinned main memory") && strstr(text, "GPU"))
        atomic_fetch_add(&warnings, 1);
}

static void gpus_apart_share_pinned_memory(void **state)
{
    place want = {"windows in pinned main memory", body_all};
    world_options options = on_cuda;
    options.log = (sherd_log){.fn = count_warning};
    (void)state;
    for (int how = 0; how < 2; how++) {
        cuda_stub_reset(2, 0);
        atomic_store(&warnings, 0);
        if (how == 0)
            cuda_stub_part_gpus(1);
        else
            cuda_stub_fail_call("cudaDeviceEnablePeerAccess", 2, cudaErrorPeerAccessUnsupported); /* one rank only */
        assert_int_equal(run_threads(2, 2, &options, body_placed, &want), 0);
        assert_int_equal(atomic_load(&warnings), 2); /* each rank, once */
        assert_nothing_left();
    }
}

/* ---------------------------------------------------------------------------------------------------------- meeting */

enum { ROUNDS = 40, ELEMS = 256 };

typedef struct meeting {
    _Atomic int32_t wrong;
    int32_t reads_host; /* callbacks are made by this body: one a round */
} meeting;

/* What every rank writes is known, so every sum is. All in stream order, on memory of the GPU. */
static int body_meet(rank_ctx *ctx)
{
    const sherd__comm_ops *comm = ctx->comm->ops;
    const sherd__device_ops *device = ctx->device->ops;
    meeting *meeting = ctx->arg;
    uint64_t slice = ELEMS * 4, bytes = slice * (uint64_t)ctx->world;
    sherd__window window;
    sherd__ticket ticket = 0;
    float *source, *sums;
    void *block;
    RANK_CHECK(comm->window_create(ctx->comm, bytes, SHERD_CAT_GRADIENTS, &window, NULL) == SHERD_OK);
    RANK_CHECK(sherd_device_alloc(ctx->device, ROUNDS * bytes, SHERD_CAT_WORKSPACE, &block, NULL) == SHERD_OK);
    source = block;
    RANK_CHECK(sherd_device_alloc(ctx->device, ROUNDS * slice, SHERD_CAT_WORKSPACE, &block, NULL) == SHERD_OK);
    sums = block;
    for (int32_t i = 0; i < ROUNDS * ELEMS * ctx->world; i++)
        source[i] = (float)(i / (ELEMS * ctx->world) * 10 + ctx->rank);
    for (int32_t round = 0; round < ROUNDS; round++) {
        sherd__tag at = tag_of("round", round);
        sherd__tree_sum sum = {.src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .elems = ELEMS};
        sum.dst = sums + round * ELEMS;
        RANK_CHECK(comm->released(ctx->comm, ctx->stream, at, ticket, "read by all") == SHERD_OK);
        RANK_CHECK(device->copy(ctx->stream, at, window.local, source + round * ELEMS * ctx->world, bytes) == SHERD_OK);
        RANK_CHECK(comm->reduce_scatter(ctx->comm, ctx->stream, at, &window, 0, &sum, &ticket) == SHERD_OK);
    }
    RANK_CHECK(comm->released(ctx->comm, ctx->stream, tag_of("end", -1), ticket, "read by all") == SHERD_OK);
    RANK_CHECK(rank_wait(ctx, NULL) == SHERD_OK);
    for (int32_t i = 0; i < ROUNDS * ELEMS; i++) {
        int32_t round = i / ELEMS;
        if (sums[i] != (float)(ctx->world * round * 10 + ctx->world * (ctx->world - 1) / 2))
            atomic_fetch_add(&meeting->wrong, 1);
    }
    comm->window_destroy(ctx->comm, &window);
    sherd_device_free(ctx->device, source);
    sherd_device_free(ctx->device, sums);
    return 0;
}

static void threads_meet_without_callbacks(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= RANKS; world++) {
        meeting meeting = {0};
        cuda_stub_reset(2, 0);
        cuda_stub_delay(400);
        assert_int_equal(run_threads(world, world == 4 ? 2 : 1, &on_cuda, body_meet, &meeting), 0);
        assert_int_equal(atomic_load(&meeting.wrong), 0);
        assert_int_equal(cuda_stub_calls("cudaLaunchHostFunc"), 0);
        assert_true(cuda_stub_calls("cudaStreamWaitEvent") >= (uint64_t)ROUNDS * (uint64_t)world);
        assert_nothing_left();
    }
}

/* If the streams did not wait, somebody would read what is not written yet. */
static void the_waits_are_what_keeps_order(void **state)
{
    int32_t wrong = 0;
    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* it would find exactly that */
#endif
    for (int attempt = 0; attempt < 10 && wrong == 0; attempt++) {
        meeting meeting = {0};
        cuda_stub_reset(1, 0);
        cuda_stub_delay(1500);
        cuda_stub_ignore_waits(1);
        assert_int_equal(run_threads(3, 1, &on_cuda, body_meet, &meeting), 0);
        wrong = atomic_load(&meeting.wrong);
    }
    assert_true(wrong > 0);
}

/* A communicator serves engines on different GPUs, one after the other. */
static int body_rebind(rank_ctx *ctx)
{
    meeting meeting = {0};
    for (int round = 0; round < 3; round++) {
        sherd_cuda_options options;
        sherd_device *own = ctx->device, *other = NULL;
        sherd__stream *stream = ctx->stream;
        sherd__event *event = ctx->event;
        sherd_cuda_options_init(&options, sizeof options);
        options.ordinal = round % 2;
        RANK_CHECK(sherd_device_create_cuda(&options, &other, NULL) == SHERD_OK);
        ctx->comm->ops->unbind(ctx->comm);
        RANK_CHECK(ctx->comm->ops->bind(ctx->comm, other, NULL) == SHERD_OK);
        ctx->device = other;
        ctx->stream = make_stream(other, "comm", 64);
        ctx->event = make_event(other);
        ctx->arg = &meeting;
        RANK_CHECK(body_meet(ctx) == 0 && atomic_load(&meeting.wrong) == 0);
        other->ops->stream_destroy(ctx->stream);
        other->ops->event_destroy(ctx->event);
        ctx->comm->ops->unbind(ctx->comm);
        RANK_CHECK(ctx->comm->ops->bind(ctx->comm, own, NULL) == SHERD_OK);
        ctx->device = own;
        ctx->stream = stream;
        ctx->event = event;
        sherd_device_destroy(other);
    }
    return 0;
}

static void a_communicator_outlives_its_devices(void **state)
{
    (void)state;
    cuda_stub_reset(2, 0);
    assert_int_equal(run_threads(2, 2, &on_cuda, body_rebind, NULL), 0);
    assert_nothing_left();
}

/* --------------------------------------------------------------------------------------------------------- processes
 */

static void processes_lend_their_memory(void **state)
{
    place want = {"windows in GPU memory", body_all};
    (void)state;
    for (int32_t world = 2; world <= 3; world++) {
        cuda_stub_reset(1, 0);
        cuda_stub_delay(world == 3 ? 200 : 0);
        assert_int_equal(world_run(WORLD_PROCESSES, world, &on_cuda, body_placed, &want), 0);
    }
}

static int body_one_refuses(rank_ctx *ctx)
{
    if (ctx->rank == 1)
        cuda_stub_fail_call("cudaIpcOpenMemHandle", 1, cudaErrorMapBufferObjectFailed);
    return body_placed(ctx);
}

static void processes_apart_share_pinned_memory(void **state)
{
    place want = {"windows in pinned main memory", body_all};
    (void)state;
    cuda_stub_reset(1, 0);
    cuda_stub_refuse_lending(1);
    assert_int_equal(world_run(WORLD_PROCESSES, 2, &on_cuda, body_placed, &want), 0);
    cuda_stub_reset(1, 0);
    assert_int_equal(world_run(WORLD_PROCESSES, 3, &on_cuda, body_one_refuses, &want), 0);
}

/* One callback at a collective's beginning, one at its end. */
static int body_count(rank_ctx *ctx)
{
    meeting meeting = {0};
    ctx->arg = &meeting;
    RANK_CHECK(body_meet(ctx) == 0 && atomic_load(&meeting.wrong) == 0);
    RANK_CHECK(cuda_stub_calls("cudaLaunchHostFunc") == 2 * ROUNDS);
    return 0;
}

static void processes_meet_with_one_callback_each(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    cuda_stub_delay(200);
    assert_int_equal(world_run(WORLD_PROCESSES, 2, &on_cuda, body_count, NULL), 0);
}

/* ------------------------------------------------------------------------------------------------------------ faults
 */

/* Whatever fails in making a window: all ranks say so, or all have one; nothing is left, nobody waits. */
static int body_window_may_fail(rank_ctx *ctx)
{
    _Atomic int32_t *failed = ctx->arg;
    sherd__window window = {0};
    sherd_error error = {0};
    sherd_status status = ctx->comm->ops->window_create(ctx->comm, 100000, SHERD_CAT_GRADIENTS, &window, &error);
    RANK_CHECK(status == SHERD_OK || error.text[0] != 0);
    if (status != SHERD_OK)
        atomic_fetch_add(failed, 1);
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    return 0;
}

static void windows_fail_together(void **state)
{
    static const struct {
        const char *call;
        cudaError_t code;
    } faults[] = {{"cudaMalloc", cudaErrorMemoryAllocation},
                  {"cudaMemsetAsync", cudaErrorInvalidValue},
                  {"cudaStreamCreateWithFlags", cudaErrorMemoryAllocation},
                  {"cudaHostRegister", cudaErrorMemoryAllocation},
                  {"cudaEventCreateWithFlags", cudaErrorInvalidValue}};
    uint32_t seen = 0;
    (void)state;
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        for (uint64_t nth = 1; nth <= 48; nth += f == 4 ? 7 : 1) {
            _Atomic int32_t failed = 0;
            cuda_stub_reset(2, 0);
            cuda_stub_part_gpus(f == 3);
            cuda_stub_fail_call(faults[f].call, nth, faults[f].code);
            int64_t begin = sherd__now_ns();
            int broken = run_threads(2, 2, &on_cuda, body_window_may_fail, &failed); /* binding or streams, else */
            assert_true(sherd__now_ns() - begin < 10000000000);
            assert_true(atomic_load(&failed) == 0 || atomic_load(&failed) + broken == 2);
            seen += atomic_load(&failed) == 2;
            assert_nothing_left();
            if (cuda_stub_calls(faults[f].call) < nth)
                break;
        }
    }
    assert_true(seen >= 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes_lend_their_memory),
        cmocka_unit_test(processes_apart_share_pinned_memory),
        cmocka_unit_test(processes_meet_with_one_callback_each),
        cmocka_unit_test(threads_have_windows_in_gpu_memory),
        cmocka_unit_test(gpus_apart_share_pinned_memory),
        cmocka_unit_test(threads_meet_without_callbacks),
        cmocka_unit_test(the_waits_are_what_keeps_order),
        cmocka_unit_test(a_communicator_outlives_its_devices),
        cmocka_unit_test(windows_fail_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
