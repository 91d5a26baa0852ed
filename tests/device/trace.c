/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/device/world.h"

#define MS INT64_C(1000000)

static void nap(void *arg) { usleep(*(useconds_t *)arg); }

static const sherd_trace_record *find(const sherd_trace_record *records, size_t n, const char *name, const char *stream)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(records[i].name, name) == 0 && strcmp(records[i].stream, stream) == 0)
            return &records[i];
    fail_msg("no record '%s' on '%s' among %zu", name, stream, n);
    return NULL;
}

static void operations_and_waits_are_recorded(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 100);
    sherd__stream *comm = make_stream(device, "comm", 8), *update = make_stream(device, "update", 8);
    sherd__event *event = make_event(device);
    useconds_t us = 30000, short_us = 3000;
    int64_t begin = sherd__now_ns();
    OK(device->ops->host_call(comm, (sherd__tag){"reduce", 5, 9}, nap, &us, NULL, 0));
    OK(device->ops->event_record(comm, event));
    OK(device->ops->event_wait(update, event, "reduced"));
    OK(device->ops->host_call(update, (sherd__tag){"update", 5, 9}, nap, &short_us, NULL, 0));
    OK(device->ops->event_wait(device->compute, event, "gathered"));
    OK(device->ops->host_call(device->compute, (sherd__tag){"forward", -1, 9}, nap, &short_us, NULL, 0));
    OK(sync_stream(device, update));
    int64_t end = sherd__now_ns();
    sherd_trace_record records[100];
    uint64_t lost = 7;
    size_t n = sherd_device_trace(device, records, 100, &lost);
    assert_true(lost == 0);
    const sherd_trace_record *reduce = find(records, n, "reduce", "comm"),
                             *wait = find(records, n, "wait:reduced", "update"),
                             *upd = find(records, n, "update", "update"),
                             *exposed = find(records, n, "wait:gathered", "compute"),
                             *forward = find(records, n, "forward", "compute");
    assert_int_equal(reduce->bucket, 5);
    assert_int_equal(reduce->step, 9);
    assert_true(reduce->begin_ns >= begin && reduce->end_ns <= end);
    assert_true(reduce->end_ns - reduce->begin_ns >= 29 * MS);
    assert_true(wait->end_ns - wait->begin_ns >= 10 * MS && wait->end_ns >= reduce->end_ns);
    assert_true(upd->begin_ns >= reduce->end_ns && upd->end_ns > upd->begin_ns);
    assert_true(exposed->end_ns - exposed->begin_ns >= 10 * MS);
    assert_true(forward->begin_ns >= exposed->end_ns);
    assert_true(sherd_device_trace(device, records, 100, NULL) == 0); /* forgotten */
    device->ops->event_destroy(event);
    device->ops->stream_destroy(comm);
    device->ops->stream_destroy(update);
    sherd_device_destroy(device);
}

static void a_full_trace_counts_what_it_lost(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 4);
    sherd_trace_record records[4];
    uint64_t lost = 0;
    for (int i = 0; i < 7; i++)
        sherd__trace_add(device, "comm", (sherd__tag){"x", i, 1}, i, i + 1);
    assert_true(sherd_device_trace(device, records, 3, &lost) == 3);
    assert_true(lost == 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(records[i].bucket, i);
    sherd__trace_add(device, "comm", (sherd__tag){"x", 50, 1}, 50, 51);
    assert_true(sherd_device_trace(device, records, 4, &lost) == 2);
    assert_true(lost == 0);
    assert_int_equal(records[0].bucket, 3);
    assert_int_equal(records[1].bucket, 50);
    sherd_device_destroy(device);
}

static void without_a_trace_nothing_is_kept(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    sherd_trace_record records[4];
    uint64_t lost = 9;
    sherd__trace_add(device, "comm", (sherd__tag){"x", 0, 1}, 0, 1);
    assert_true(sherd_device_trace(device, records, 4, &lost) == 0);
    assert_true(lost == 0);
    sherd_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations_and_waits_are_recorded), cmocka_unit_test(a_full_trace_counts_what_it_lost),
        cmocka_unit_test(without_a_trace_nothing_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
