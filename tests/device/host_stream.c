/* SPDX-License-Identifier: MIT
 *
 * What streams and events of the host device promise: order inside a stream, waits for the latest record at the time of
 * the wait, the compute stream in the calling thread, and that every operation of the table does what it says.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/device/calls.h"
#include "tests/device/world.h"

static const sherd__tag tag = {"test", 3, 1};

static void a_stream_keeps_order(void **state)
{
    (void)state;
    sherd_device *device = make_device(2, 0);
    for (uint32_t capacity = 1; capacity <= 16; capacity += 5) {
        sherd__stream *stream = make_stream(device, "order", capacity);
        sequence sequence = {0, 0};
        numbered calls[500];
        for (int32_t i = 0; i < 500; i++) {
            calls[i] = (numbered){&sequence, i};
            OK(device->ops->host_call(stream, tag, expect_number, &calls[i], NULL, 0));
        }
        device->ops->stream_destroy(stream); /* waits for what is enqueued */
        assert_int_equal(sequence.next, 500);
        assert_int_equal(sequence.wrong, 0);
    }
    sherd_device_destroy(device);
}

static void an_event_orders_streams(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    sherd__stream *a = make_stream(device, "a", 8), *b = make_stream(device, "b", 8);
    sherd__event *event = make_event(device);
    gate first = {0, 0, 0};
    _Atomic int32_t after = 0;
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
    assert_int_equal(atomic_load(&first.gave_up), 0);
    int64_t reached = device->ops->event_time_ns(event);
    assert_true(reached > 0 && reached <= sherd__now_ns());
    device->ops->event_destroy(event);
    device->ops->stream_destroy(a);
    device->ops->stream_destroy(b);
    sherd_device_destroy(device);
}

/* A wait is for the record that was the latest when the wait was enqueued: a later record, behind a closed gate, does
 * not count. */
static void a_wait_is_for_the_latest_record_before_it(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    sherd__stream *a = make_stream(device, "a", 8), *b = make_stream(device, "b", 8);
    sherd__event *event = make_event(device);
    gate later = {0, 0, 0};
    _Atomic int32_t after = 0;
    OK(device->ops->event_wait(b, event, "no record yet"));
    OK(device->ops->event_sync(device, event, "no record yet", NULL));
    OK(device->ops->event_record(a, event));
    OK(device->ops->event_wait(b, event, "first record"));
    OK(device->ops->host_call(a, tag, pass_gate, &later, NULL, 0));
    OK(device->ops->event_record(a, event));
    OK(device->ops->host_call(b, tag, set_flag, &after, NULL, 0));
    OK(sync_stream(device, b));
    assert_int_equal(atomic_load(&after), 1);
    assert_int_equal(atomic_load(&later.passed), 0);
    OK(device->ops->event_wait(b, event, "second record"));
    OK(device->ops->host_call(b, tag, set_flag, &after, NULL, 0));
    atomic_store(&after, 0);
    usleep(10000);
    assert_int_equal(atomic_load(&after), 0);
    atomic_store(&later.open, 1);
    OK(sync_stream(device, b));
    assert_int_equal(atomic_load(&after), 1);
    assert_int_equal(atomic_load(&later.gave_up), 0);
    device->ops->event_destroy(event);
    device->ops->stream_destroy(a);
    device->ops->stream_destroy(b);
    sherd_device_destroy(device);
}

static void note_thread(void *arg) { *(pthread_t *)arg = pthread_self(); }

static void compute_runs_in_the_caller(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    sherd__stream *a = make_stream(device, "a", 8);
    sherd__event *event = make_event(device);
    pthread_t here, there;
    gate gate = {1, 0, 0};
    OK(device->ops->host_call(device->compute, tag, note_thread, &here, NULL, 0));
    assert_true(pthread_equal(here, pthread_self()));
    OK(device->ops->host_call(a, tag, note_thread, &there, NULL, 0));
    OK(device->ops->host_call(a, tag, pass_gate, &gate, NULL, 0));
    OK(device->ops->event_record(a, event));
    OK(device->ops->event_wait(device->compute, event, "compute waits"));
    assert_int_equal(atomic_load(&gate.passed), 1); /* the caller itself has waited */
    assert_false(pthread_equal(there, pthread_self()));
    OK(device->ops->event_record(device->compute, event));
    assert_true(device->ops->event_time_ns(event) > 0);
    device->ops->event_destroy(event);
    device->ops->stream_destroy(a);
    sherd_device_destroy(device);
}

static void events_are_used_again(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    sherd__stream *a = make_stream(device, "a", 64);
    for (int i = 0; i < 2000; i++) {
        sherd__event *event = make_event(device);
        assert_true(device->ops->event_time_ns(event) == 0);
        OK(device->ops->event_sync(device, event, "fresh", NULL));
        OK(device->ops->event_record(a, event));
        OK(device->ops->event_sync(device, event, "recorded", NULL));
        device->ops->event_destroy(event); /* at once, while the recorder may still be at it */
    }
    device->ops->event_destroy(NULL);
    device->ops->stream_destroy(NULL);
    device->ops->stream_destroy(a);
    sherd_device_destroy(device);
}

/* Every kernel of the table, on the compute stream and on another, over the same values. */
static void kernels(sherd_device *device, sherd__stream *stream)
{
    enum { N = 512 };
    float src[2][N], dst[N], copy[N];
    uint16_t half[N];
    const void *sources[2] = {src[0], src[1]};
    for (int i = 0; i < N; i++) {
        src[0][i] = (float)i;
        src[1][i] = 0.5f;
    }
    sherd__norm norm;
    sherd__norm_clear(&norm);
    sherd__tree_sum sum = {.src = sources, .n_src = 2, .src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = dst,
                           .elems = N, .norm = &norm};
    sherd__byte_range range = {4, 12};
    OK(device->ops->tree_sum(stream, tag, &sum));
    OK(device->ops->copy(stream, tag, copy, dst, sizeof copy));
    OK(device->ops->zero(stream, tag, copy, &range, 1));
    OK(device->ops->convert(stream, tag, half, SHERD_BF16, src[0], SHERD_FP32, N, 0));
    OK(device->ops->convert(stream, tag, src[1], SHERD_FP32, half, SHERD_BF16, N, 1));
    uint64_t votes[2][3] = {{1, 2, 9}, {10, 20, 5}}, out[3];
    const void *vote_src[2] = {votes[0], votes[1]};
    OK(device->ops->reduce_u64(stream, tag, out, vote_src, 2, 0, 2, 1));
    OK(sync_stream(device, stream));
    for (int i = 0; i < N; i++) {
        assert_true(dst[i] == (float)i + 0.5f);
        assert_true(copy[i] == (i == 1 || i == 2 ? 0.0f : dst[i]));
        if (i < 256) /* small integers are exact in bf16 */
            assert_true(src[1][i] == 0.5f + (float)i);
    }
    assert_true(out[0] == 11 && out[1] == 22 && out[2] == 5);
    assert_true(sherd__norm_root(&norm) > 0);
}

static void the_table_does_what_it_says(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= 3; threads += 2) {
        sherd_device *device = make_device(threads, 0);
        sherd__stream *a = make_stream(device, "a", 8);
        kernels(device, a);
        kernels(device, device->compute);
        device->ops->stream_destroy(a);
        sherd_device_destroy(device);
    }
}

static void prepare_and_update(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    sherd__stream *a = make_stream(device, "a", 8);
    sherd__step_rules rules = {
        .kind = SHERD_SGD, .base_lr = 1.0, .divisor = 1.0, .n_groups = 1, .groups = {{.lr = 1.0}}};
    sherd__step_state carried;
    sherd__step_scalars scalars;
    sherd__norm norm;
    double lr = 0.25;
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    float sum[256], master[256], buffer[256] = {0};
    sherd__step_state_init(&carried);
    sherd__norm_clear(&norm);
    memcpy(vote, norm.limb, sizeof norm.limb);
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    vote[SHERD__VOTE_SUMS] = SHERD__NO_BAD_BLOCK;
    for (int i = 0; i < 256; i++) {
        sum[i] = 4.0f;
        master[i] = (float)i;
    }
    sherd__span spans[2] = {{0, 100, 0, 0}, {200, 256, 0, 0}};
    sherd__update update = {.kind = SHERD_SGD,
                            .scalars = &scalars,
                            .sum = sum,
                            .sum_dtype = SHERD_FP32,
                            .master = master,
                            .moment = {buffer},
                            .spans = spans,
                            .n_spans = 2};
    OK(device->ops->prepare(a, tag, &rules, vote, &carried, &scalars));
    OK(device->ops->update(a, tag, &update));
    OK(sync_stream(device, a));
    for (int i = 0; i < 256; i++)
        assert_true(master[i] == (float)i - (i < 100 || i >= 200 ? 1.0f : 0.0f));
    assert_int_equal(carried.updates, 1);
    device->ops->stream_destroy(a);
    sherd_device_destroy(device);
}

static void misuse_is_refused(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    sherd__stream *a = make_stream(device, "a", 8), *none = NULL;
    sherd_error err;
    assert_int_equal(device->ops->stream_create(device, "empty", 0, &none, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "empty"));
    sherd__access access[5] = {{0}};
    _Atomic int32_t ran = 0;
    assert_int_equal(device->ops->host_call(a, tag, set_flag, &ran, access, 5), SHERD_EINVAL);
    assert_int_equal(sherd__device_error(device, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "'test'"));
    assert_int_equal(atomic_load(&ran), 0);
    device->ops->stream_destroy(a);
    sherd_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stream_keeps_order), cmocka_unit_test(an_event_orders_streams),
        cmocka_unit_test(a_wait_is_for_the_latest_record_before_it), cmocka_unit_test(compute_runs_in_the_caller),
        cmocka_unit_test(events_are_used_again), cmocka_unit_test(the_table_does_what_it_says),
        cmocka_unit_test(prepare_and_update), cmocka_unit_test(misuse_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
