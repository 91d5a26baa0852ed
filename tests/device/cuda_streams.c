/* SPDX-License-Identifier: MIT
 *
 * Streams, events, flags and memory of the CUDA device on the stub: what device.h promises.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/calls.h"
#include "tests/device/cuda_world.h"

/* More than fit into ring, marks and callbacks, so every limit is met. */
static void a_stream_keeps_order(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    sherd_device *device = make_cuda_device(0);
    for (uint32_t capacity = 1; capacity <= 16; capacity += 15) {
        sherd__stream *stream = make_stream(device, "order", capacity);
        static numbered calls[3000];
        sequence sequence = {0, 0};
        for (int32_t i = 0; i < 3000; i++) {
            calls[i] = (numbered){&sequence, i};
            OK(device->ops->host_call(stream, tag, expect_number, &calls[i], NULL, 0));
        }
        device->ops->stream_destroy(stream);
        assert_int_equal(sequence.next, 3000);
        assert_int_equal(sequence.wrong, 0);
    }
    sherd_device_destroy(device);
    assert_nothing_left();
}

static void an_event_orders_streams(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    sherd_device *device = make_cuda_device(0);
    sherd__stream *a = make_stream(device, "a", 8), *b = make_stream(device, "b", 8);
    sherd__event *event = make_event(device);
    gate first = {0}, later = {0};
    _Atomic int32_t after = 0;
    OK(device->ops->event_wait(b, event, "no record yet"));
    OK(device->ops->event_sync(device, event, "no record yet", NULL));
    OK(device->ops->host_call(a, tag, pass_gate, &first, NULL, 0));
    OK(device->ops->event_record(a, event));
    OK(device->ops->event_wait(b, event, "a before b"));
    OK(device->ops->host_call(b, tag, set_flag, &after, NULL, 0));
    usleep(20000);
    assert_int_equal(atomic_load(&after), 0);
    assert_true(device->ops->event_time_ns(event) == 0);
    atomic_store(&first.open, 1);
    OK(sync_stream(device, b));
    assert_int_equal(atomic_load(&after), 1);
    int64_t reached = device->ops->event_time_ns(event);
    assert_true(reached > sherd__now_ns() - 10000000000 && reached < sherd__now_ns() + 100000000);
    OK(device->ops->host_call(a, tag, pass_gate, &later, NULL, 0));
    OK(device->ops->event_record(a, event));
    atomic_store(&after, 0);
    OK(device->ops->event_wait(device->compute, event, "compute waits, its thread does not"));
    OK(device->ops->host_call(device->compute, tag, set_flag, &after, NULL, 0));
    assert_int_equal(atomic_load(&later.passed), 0);
    assert_int_equal(atomic_load(&after), 0);
    atomic_store(&later.open, 1);
    OK(sync_stream(device, device->compute));
    assert_int_equal(atomic_load(&after), 1);
    device->ops->event_destroy(event);
    device->ops->stream_destroy(a);
    device->ops->stream_destroy(b);
    sherd_device_destroy(device);
    assert_nothing_left();
}

static void events_are_used_again(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    sherd_device *device = make_cuda_device(0);
    sherd__stream *a = make_stream(device, "a", 64);
    for (int i = 0; i < 300; i++) {
        sherd__event *event = make_event(device);
        assert_true(device->ops->event_time_ns(event) == 0);
        OK(device->ops->event_sync(device, event, "fresh", NULL));
        OK(device->ops->event_record(a, event));
        OK(device->ops->event_sync(device, event, "recorded", NULL));
        device->ops->event_destroy(event);
    }
    device->ops->event_destroy(NULL);
    device->ops->stream_destroy(NULL);
    device->ops->stream_destroy(a);
    sherd_device_destroy(device);
    assert_nothing_left();
}

/* Two ranks, each waiting for the other's word: what is behind an await is not given to the GPU before its time. */
static void ranks_meet(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    sherd_device *device[2] = {make_cuda_device(0), make_cuda_device(0)};
    sherd__stream *stream[2] = {make_stream(device[0], "comm", 8), make_stream(device[1], "comm", 8)};
    _Atomic uint32_t flags[2] = {0, 0};
    _Atomic uint32_t *const watched[2] = {&flags[0], &flags[1]};
    int32_t *block[2] = {device_block(device[0], 64), device_block(device[1], 64)};
    block[0][0] = 1;
    block[1][0] = 2;
    sherd__await await = {.flags = watched, .count = 2, .value = 1, .site = "arrive"};
    OK(device[0]->ops->signal(stream[0], tag, &flags[0], 1));
    OK(device[0]->ops->await(stream[0], tag, &await));
    uint64_t copies = cuda_stub_calls("cudaMemcpyAsync");
    OK(device[0]->ops->copy(stream[0], tag, &block[0][1], &block[1][0], 4));
    usleep(20000);
    assert_int_equal(atomic_load(&flags[0]), 1);
    assert_int_equal(cuda_stub_calls("cudaMemcpyAsync"), copies); /* held back */
    OK(device[1]->ops->signal(stream[1], tag, &flags[1], 1));
    OK(device[1]->ops->await(stream[1], tag, &await));
    OK(device[1]->ops->copy(stream[1], tag, &block[1][1], &block[0][0], 4));
    OK(sync_stream(device[0], stream[0]));
    OK(sync_stream(device[1], stream[1]));
    assert_int_equal(block[0][1], 2);
    assert_int_equal(block[1][1], 1);
    for (int r = 0; r < 2; r++) {
        sherd_device_free(device[r], block[r]);
        device[r]->ops->stream_destroy(stream[r]);
        sherd_device_destroy(device[r]);
    }
    assert_nothing_left();
}

static uint64_t live(sherd_device *device, sherd_tier tier, sherd_category category)
{
    sherd_memory memory;
    sherd_device_memory(device, &memory, NULL);
    return memory.bytes[tier][category];
}

static void memory_is_booked_as_the_driver_takes_it(void **state)
{
    static const struct {
        uint64_t bytes, rounding;
    } sizes[] = {
        {0, 512}, {1, 511}, {512, 0}, {1000, 24}, {1 << 20, 1 << 20}, {2 << 20, 0}, {(2 << 20) + 1, (2 << 20) - 1}};
    (void)state;
    cuda_stub_reset(1, 16u << 20);
    sherd_device *device = make_cuda_device(0);
    uint64_t metadata = live(device, SHERD_TIER_HOST, SHERD_CAT_METADATA);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *block = NULL;
        OK(sherd_device_alloc(device, sizes[i].bytes, SHERD_CAT_MOMENTS, &block, NULL));
        assert_int_equal(live(device, SHERD_TIER_DEVICE, SHERD_CAT_MOMENTS), sizes[i].bytes);
        assert_int_equal(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ROUNDING), sizes[i].rounding);
        sherd_device_free(device, block);
    }
    void *block = NULL;
    sherd_error err;
    assert_int_equal(sherd_device_alloc(device, 17u << 20, SHERD_CAT_MOMENTS, &block, &err), SHERD_ENOMEM);
    assert_non_null(strstr(err.text, "16777216 of 16777216 are free"));
    assert_int_equal(sherd_device_alloc(device, UINT64_MAX, SHERD_CAT_MOMENTS, &block, &err), SHERD_ENOMEM);
    OK(sherd__device_error(device, NULL)); /* the device is as good as before */
    cuda_stub_fail_call("cudaHostAlloc", 1, cudaErrorMemoryAllocation);
    assert_int_equal(sherd__device_alloc(device, SHERD_TIER_HOST, SHERD_CAT_METADATA, 8, &block, &err), SHERD_ENOMEM);
    assert_non_null(strstr(err.text, "pinned"));
    assert_int_equal(live(device, SHERD_TIER_HOST, SHERD_CAT_METADATA), metadata);
    sherd_device_destroy(device);
    assert_nothing_left();
}

static uint64_t rounding_of(sherd_device *device)
{
    return live(device, SHERD_TIER_DEVICE, SHERD_CAT_ROUNDING);
}

/* Activations come and go in every micro-step. */
static void freed_blocks_are_kept(void **state)
{
    enum { SIZES = 5 };
    static const uint64_t sizes[SIZES] = {100, 512, 70000, 1 << 20, 3000000};
    void *block[SIZES];
    (void)state;
    cuda_stub_reset(1, 16 << 20);
    sherd_device *device = make_cuda_device(0);
    uint64_t before = rounding_of(device), mallocs = cuda_stub_calls("cudaMalloc"), frees = cuda_stub_calls("cudaFree");
    for (int step = 0; step < 20; step++) {
        for (int i = 0; i < SIZES; i++)
            OK(sherd_device_alloc(device, sizes[i], SHERD_CAT_ACTIVATIONS, &block[i], NULL));
        assert_int_equal(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ACTIVATIONS),
                         100 + 512 + 70000 + (1 << 20) + 3000000);
        for (int i = 0; i < SIZES; i++)
            sherd_device_free(device, block[(i + step) % SIZES]);
        assert_int_equal(live(device, SHERD_TIER_DEVICE, SHERD_CAT_ACTIVATIONS), 0);
    }
    assert_int_equal(cuda_stub_calls("cudaMalloc") - mallocs, SIZES);
    assert_int_equal(cuda_stub_calls("cudaFree"), frees);
    assert_int_equal(rounding_of(device) - before, 512 + 512 + 70144 + (2 << 20) + (4 << 20));
    void *large; /* there is room for it only without what is kept */
    OK(sherd_device_alloc(device, 14 << 20, SHERD_CAT_MASTER, &large, NULL));
    assert_int_equal(rounding_of(device), before);
    sherd_device_free(device, large);
    assert_int_equal(rounding_of(device), before); /* only what comes and goes is kept */
    OK(sherd_device_alloc(device, 3 << 20, SHERD_CAT_WORKSPACE, &block[0], NULL));
    sherd_device_free(device, block[0]);
    device->ledger.limit[SHERD_TIER_DEVICE] = rounding_of(device) + (1 << 20);
    OK(sherd_device_alloc(device, 2 << 20, SHERD_CAT_WORKSPACE, &block[0],
                          NULL)); /* within the limit for the same reason */
    sherd_device_free(device, block[0]);
    sherd_device_destroy(device);
    assert_nothing_left();
}

static void a_stream_is_adopted(void **state)
{
    cudaStream_t own;
    sherd_cuda_options options;
    sherd_device *device = NULL;
    _Atomic int32_t ran = 0;
    (void)state;
    cuda_stub_reset(2, 0);
    assert_int_equal(cudaStreamCreateWithFlags(&own, 0), cudaSuccess);
    sherd_cuda_options_init(&options, sizeof options);
    options.adopt_stream = 1;
    options.stream = own;
    options.ordinal = 1;
    OK(sherd_device_create_cuda(&options, &device, NULL));
    assert_ptr_equal(sherd_device_cuda_stream(device), own);
    assert_non_null(strstr(sherd_device_describe(device), "cuda 1, stub"));
    OK(device->ops->host_call(device->compute, tag, set_flag, &ran, NULL, 0));
    OK(sync_stream(device, device->compute));
    assert_int_equal(atomic_load(&ran), 1);
    int current = -1;
    assert_true(cudaGetDevice(&current) == cudaSuccess && current == 0); /* the client's device stays current */
    sherd_device_destroy(device);
    assert_int_equal(cudaStreamQuery(own), cudaSuccess); /* and its stream is there */
    assert_int_equal(cudaStreamDestroy(own), cudaSuccess);
    assert_nothing_left();
}

static void operations_are_traced(void **state)
{
    sherd_trace_record records[16];
    uint64_t lost = 0;
    (void)state;
    cuda_stub_reset(1, 0);
    sherd_device *device = make_cuda_device(16);
    sherd__stream *a = make_stream(device, "a", 8);
    char *block = device_block(device, 4096);
    sherd__byte_range range = {0, 4096};
    OK(device->ops->zero(a, tag, block, &range, 1));
    OK(sync_stream(device, a));
    size_t n = sherd_device_trace(device, records, 16, &lost), found = 0;
    for (size_t i = 0; i < n; i++)
        if (strcmp(records[i].name, "test") == 0) {
            found++;
            assert_true(strcmp(records[i].stream, "a") == 0 && records[i].bucket == 3);
            assert_true(records[i].begin_ns > 0 && records[i].begin_ns <= records[i].end_ns);
        }
    assert_int_equal(found, 1);
    sherd_device_free(device, block);
    device->ops->stream_destroy(a);
    sherd_device_destroy(device);
    assert_nothing_left();
}

static void no_gpu_is_one_sentence(void **state)
{
    sherd_device_options options;
    sherd_cuda_options cuda;
    sherd_device *device = NULL;
    sherd_error err;
    (void)state;
    cuda_stub_reset(0, 0);
    sherd_device_options_init(&options, sizeof options);
    options.kind = SHERD_DEVICE_CUDA;
    assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "driver"));
    cuda_stub_reset(1, 0);
    sherd_cuda_options_init(&cuda, sizeof cuda);
    cuda.ordinal = 3;
    assert_int_equal(sherd_device_create_cuda(&cuda, &device, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "no GPU 3"));
    cuda.size = 3;
    assert_int_equal(sherd_device_create_cuda(&cuda, &device, &err), SHERD_EINVAL);
    assert_null(device);
    OK(sherd_device_create(&options, &device, &err));
    sherd_device_destroy(device);
    assert_nothing_left();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_keeps_order),
        cmocka_unit_test(an_event_orders_streams),
        cmocka_unit_test(events_are_used_again),
        cmocka_unit_test(ranks_meet),
        cmocka_unit_test(memory_is_booked_as_the_driver_takes_it),
        cmocka_unit_test(freed_blocks_are_kept),
        cmocka_unit_test(a_stream_is_adopted),
        cmocka_unit_test(operations_are_traced),
        cmocka_unit_test(no_gpu_is_one_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
