/* SPDX-License-Identifier: MIT
 *
 * What goes wrong on a GPU, on the stub: every call fails once, the context breaks at any moment, the GPU hangs, memory
 * runs out. Each time everything ends by itself, with a sentence that names the call, and nothing is left behind.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/cuda_world.h"
#include "tests/engine/case.h"

static const char *const functions[] = {
    "cudaEventRecord", "cudaStreamWaitEvent", "cudaMemcpyAsync", "cudaLaunchHostFunc",
    "cudaEventQuery",  "zero",                "convert",         "narrow",
};

/* Work that uses every kind of call a few times. Its first error is in the device. */
static void work(sherd_device *device)
{
    sherd__stream *a = make_stream(device, "a", 16), *b = make_stream(device, "b", 16);
    sherd__event *event = make_event(device), *end[2] = {make_event(device), make_event(device)};
    _Atomic uint32_t flag = 0;
    _Atomic uint32_t *const flags[] = {&flag};
    sherd__await await = {.flags = flags, .count = 1, .site = "flag"};
    char *block = device_block(device, 8192), *other = device_block(device, 8192);
    sherd__byte_range range = {0, 8192};
    for (uint32_t i = 1; i <= 40; i++) {
        await.value = i;
        (void)device->ops->zero(a, tag, block, &range, 1);
        (void)device->ops->copy(a, tag, block, block + 4096, 4096);
        (void)device->ops->signal(a, tag, &flag, i);
        (void)device->ops->event_record(a, event);
        (void)device->ops->event_wait(b, event, "a");
        (void)device->ops->await(b, tag, &await);
        (void)device->ops->convert(b, tag, other, SHERD_BF16, other + 4096, SHERD_FP32, 512, 0);
        (void)device->ops->narrow(b, tag, other, SHERD_BF16, SHERD_FP32, 512);
    }
    (void)device->ops->event_record(b, end[0]);
    (void)device->ops->event_record(a, end[1]);
    (void)device->ops->event_sync(device, end[0], "end", NULL);
    (void)device->ops->event_sync(device, end[1], "end", NULL);
    device->ops->stream_destroy(a);
    device->ops->stream_destroy(b);
    device->ops->event_destroy(event);
    device->ops->event_destroy(end[0]);
    device->ops->event_destroy(end[1]);
    sherd_device_free(device, block);
    sherd_device_free(device, other);
}

static void any_call_may_fail(void **state)
{
    (void)state;
    for (size_t f = 0; f < sizeof functions / sizeof *functions; f++) {
        for (uint64_t nth = 1; nth <= 33; nth += 8) {
            cuda_stub_reset(1, 0);
            sherd_device *device = make_cuda_device(0);
            sherd_error err;
            atomic_store(&device->wait_limit_ns, 5000000000);
            cuda_stub_fail_call(functions[f], nth, cudaErrorLaunchFailure);
            work(device);
            if (sherd__device_error(device, &err) != SHERD_EDEVICE) {
                assert_string_equal(functions[f], "cudaEventQuery"); /* how often it is asked varies */
                assert_true(nth > 1);
            } else {
                const char *name = f < 5 ? functions[f] : "kernel";
                if (!strstr(err.text, name) || !strstr(err.text, "cudaErrorLaunchFailure"))
                    fail_msg("%s, call %d: %s", functions[f], (int)nth, err.text);
            }
            sherd_device_destroy(device);
            assert_nothing_left();
        }
    }
}

static void creation_may_fail_anywhere(void **state)
{
    static const char *const calls[] = {"cudaGetDeviceCount", "cudaGetDeviceProperties", "cudaMemGetInfo",
                                        "cudaEventCreateWithFlags", "cudaStreamCreateWithFlags", "cudaEventRecord",
                                        "cudaHostAlloc"};
    uint32_t failures = 0;
    (void)state;
    for (size_t f = 0; f < sizeof calls / sizeof *calls; f++) {
        for (uint64_t nth = 1;; nth++) {
            sherd_device *device = NULL;
            sherd_error err = {0};
            cuda_stub_reset(1, 0);
            cuda_stub_fail_call(calls[f], nth, cudaErrorInvalidValue);
            sherd_status status = sherd_device_create_cuda(NULL, &device, &err);
            if (status == SHERD_OK) {
                sherd_device_destroy(device);
                assert_true(nth > 1);
                break;
            }
            failures++;
            assert_true(err.text[0] != 0 && device == NULL);
            assert_nothing_left();
        }
        assert_nothing_left();
    }
    assert_true(failures >= 15);
}

/* Whatever the GPU was at: callbacks that are never called included. */
static void the_context_may_break_at_any_moment(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 200; nth += 11) {
        cuda_stub_reset(1, 0);
        sherd_device *device = make_cuda_device(0);
        sherd_error err;
        atomic_store(&device->wait_limit_ns, 5000000000);
        cuda_stub_break_at(nth, cudaErrorIllegalAddress);
        int64_t begin = sherd__now_ns();
        work(device);
        assert_int_equal(sherd__device_error(device, &err), SHERD_EDEVICE);
        assert_non_null(strstr(err.text, "cudaErrorIllegalAddress"));
        assert_true(sherd__now_ns() - begin < 4000000000); /* nobody waited for the limit */
        sherd_device_destroy(device);
    }
}

static void a_hanging_gpu_ends_in_time(void **state)
{
    static sherd_device *device; /* it is not freed while the GPU hangs */
    (void)state;
    cuda_stub_reset(1, 0);
    device = make_cuda_device(0);
    sherd_error err;
    atomic_store(&device->wait_limit_ns, 300000000);
    cuda_stub_hang_at(5);
    int64_t begin = sherd__now_ns();
    work(device);
    assert_int_equal(sherd__device_error(device, &err), SHERD_ETIMEOUT);
    assert_true(err.text[0] != 0); /* whoever of the waiting was first */
    uint64_t frees = cuda_stub_calls("cudaFree");
    sherd_device_destroy(device);
    assert_true(sherd__now_ns() - begin < 5000000000);
    assert_int_equal(cuda_stub_calls("cudaFree"), frees); /* it would never have returned */
    cuda_stub_unhang();
    usleep(50000); /* what the GPU still had runs now, on memory that is still there */
}

/* ------------------------------------------------------------------------------------------------------------ engine */

typedef struct rank_thread {
    pthread_t thread;
    int32_t rank;
    sherd_comm *comm;
    case_result result;
} rank_thread;

static sherd_status touch_by_cpu(sherd_device *device, sherd__tag which, sherd__access access)
{
    (void)which;
    (void)access;
    return sherd__cuda_await_idle((sherd__cuda_stream *)device->compute, "client on the CPU");
}

static void *rank_main(void *arg)
{
    rank_thread *self = arg;
    engine_case c;
    sherd_device *device = NULL;
    sherd__device_ops ops;
    case_at(10, 2, 4, 0, &c);
    self->result.status = sherd_device_create_cuda(NULL, &device, &self->result.error);
    if (self->result.status != SHERD_OK)
        return NULL;
    ops = *device->ops;
    ops.touch = touch_by_cpu;
    device->ops = &ops;
    case_run_rank(&c, device, self->comm, &self->result);
    sherd_comm_destroy(self->comm);
    sherd_device_destroy(device);
    return NULL;
}

/* Two ranks on one GPU, whose context breaks somewhere in creation or training: both end, each with its own sentence. */
static void ranks_end_together(void **state)
{
    uint32_t failed = 0;
    (void)state;
    for (uint64_t nth = 20; nth <= 900; nth += 97) {
        rank_thread ranks[2] = {{.rank = 0}, {.rank = 1}};
        sherd_comm *comms[2];
        sherd_comm_options options;
        cuda_stub_reset(1, 0);
        sherd_comm_options_init(&options, sizeof options);
        options.fail_after_s = 5;
        OK(sherd_comm_create_threads(&options, 2, comms, NULL));
        cuda_stub_break_at(nth, cudaErrorIllegalAddress);
        int64_t begin = sherd__now_ns();
        for (int r = 0; r < 2; r++) {
            ranks[r].comm = comms[r];
            assert_int_equal(pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]), 0);
        }
        for (int r = 0; r < 2; r++)
            pthread_join(ranks[r].thread, NULL);
        assert_true(sherd__now_ns() - begin < 10000000000);
        for (int r = 0; r < 2; r++) {
            failed += ranks[r].result.status != SHERD_OK;
            if (ranks[r].result.status != SHERD_OK)
                assert_true(ranks[r].result.error.text[0] != 0);
        }
    }
    assert_true(failed >= 10);
    printf("ranks that ended with a sentence: %u\n", failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_call_may_fail),          cmocka_unit_test(creation_may_fail_anywhere),
        cmocka_unit_test(the_context_may_break_at_any_moment), cmocka_unit_test(a_hanging_gpu_ends_in_time),
        cmocka_unit_test(ranks_end_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
