/* SPDX-License-Identifier: MIT
 *
 * No wait is endless: poison, polls and limits end all of them, with one sentence that is kept.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/device/world.h"

static const sherd__tag tag = {"reduce", 3, 7};

#define MS INT64_C(1000000)

/* Generous, because the machine may be busy; an endless wait would still be found. */
#define SOON (3000 * MS)

static void count_call(void *arg) { atomic_fetch_add((_Atomic int32_t *)arg, 1); }

/* A device with a stream that waits for ever, unless something ends it. */
typedef struct stuck {
    sherd_device *device;
    sherd__stream *stream;
    sherd__event *event;
    _Atomic uint32_t word;
    _Atomic uint32_t *flags[1];
    sherd__await await;
} stuck;

static void stuck_init(stuck *self)
{
    memset(self, 0, sizeof *self);
    self->device = make_device(1, 0);
    self->stream = make_stream(self->device, "comm", 4);
    self->event = make_event(self->device);
    self->flags[0] = &self->word;
    self->await = (sherd__await){.flags = self->flags, .count = 1, .value = 1, .site = "peers' arrival"};
}

static void stuck_fini(stuck *self)
{
    self->device->ops->event_destroy(self->event);
    self->device->ops->stream_destroy(self->stream);
    sherd_device_destroy(self->device);
}

static sherd_status count_polls(void *ctx, uint32_t which, int64_t waited_ns, const sherd__tag *where, sherd_error *err)
{
    if (which != 0 || waited_ns < 0 || strcmp(where->name, "reduce") != 0)
        return sherd__fail(err, SHERD_EINVAL, "the poll was told something wrong");
    atomic_fetch_add((_Atomic int32_t *)ctx, 1);
    return SHERD_OK;
}

typedef struct waiter {
    stuck *stuck;
    int kind; /* 0: event_sync, 1: compute event_wait, 2: compute await, 3: enqueue into the full stream */
    sherd_status status;
} waiter;

static void *wait_somehow(void *arg)
{
    waiter *self = arg;
    stuck *stuck = self->stuck;
    const sherd__device_ops *ops = stuck->device->ops;
    static _Atomic int32_t calls;
    switch (self->kind) {
    case 0:
        self->status = ops->event_sync(stuck->device, stuck->event, "site a", NULL);
        break;
    case 1:
        self->status = ops->event_wait(stuck->device->compute, stuck->event, "site b");
        break;
    case 2:
        self->status = ops->await(stuck->device->compute, tag, &stuck->await);
        break;
    default:
        do
            self->status = ops->host_call(stuck->stream, tag, count_call, &calls, NULL, 0);
        while (self->status == SHERD_OK);
    }
    return NULL;
}

static void poison_ends_all_waits(void **state)
{
    (void)state;
    stuck stuck;
    _Atomic int32_t polls = 0;
    stuck_init(&stuck);
    stuck.await.poll = count_polls;
    stuck.await.ctx = (void *)&polls;
    OK(stuck.device->ops->await(stuck.stream, tag, &stuck.await));
    OK(stuck.device->ops->event_record(stuck.stream, stuck.event));
    waiter waiters[4];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        waiters[i] = (waiter){&stuck, i, SHERD_OK};
        assert_int_equal(pthread_create(&threads[i], NULL, wait_somehow, &waiters[i]), 0);
    }
    usleep(120000);
    assert_true(atomic_load(&polls) >= 4); /* two awaits, every 20 ms at least; half of that on a busy machine */
    sherd_error why, first;
    sherd__fail(&why, SHERD_EDEVICE, "the first reason");
    int64_t begin = sherd__now_ns();
    assert_int_equal(sherd__device_poison(stuck.device, &why), SHERD_EDEVICE);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(waiters[i].status, SHERD_EDEVICE);
    }
    assert_true(sherd__now_ns() - begin < SOON);
    sherd__fail(&why, SHERD_EIO, "a later reason");
    assert_int_equal(sherd__device_poison(stuck.device, &why), SHERD_EDEVICE);
    assert_int_equal(sherd__device_error(stuck.device, &first), SHERD_EDEVICE);
    assert_string_equal(first.text, "the first reason");
    stuck_fini(&stuck);
}

static void later_operations_are_skipped(void **state)
{
    (void)state;
    stuck stuck;
    _Atomic int32_t calls = 0;
    stuck_init(&stuck);
    OK(stuck.device->ops->await(stuck.stream, tag, &stuck.await));
    OK(stuck.device->ops->host_call(stuck.stream, tag, count_call, &calls, NULL, 0));
    sherd_error why;
    sherd__fail(&why, SHERD_EDEVICE, "stop");
    sherd__device_poison(stuck.device, &why);
    assert_int_equal(stuck.device->ops->host_call(stuck.stream, tag, count_call, &calls, NULL, 0), SHERD_EDEVICE);
    assert_int_equal(stuck.device->ops->host_call(stuck.device->compute, tag, count_call, &calls, NULL, 0),
                     SHERD_EDEVICE);
    assert_int_equal(stuck.device->ops->event_record(stuck.stream, stuck.event), SHERD_EDEVICE);
    assert_int_equal(stuck.device->ops->touch(stuck.device, tag, (sherd__access){0}), SHERD_EDEVICE);
    stuck_fini(&stuck);
    assert_int_equal(atomic_load(&calls), 0);
}

static sherd_status report_death(void *ctx, uint32_t which, int64_t waited_ns, const sherd__tag *where,
                                 sherd_error *err)
{
    (void)which;
    (void)ctx;
    if (waited_ns < 50 * MS)
        return SHERD_OK;
    return sherd__fail_rank(err, SHERD_ERANKDEAD, 2, "rank 2 died during %s of bucket %d", where->name, where->bucket);
}

static void a_poll_ends_its_wait(void **state)
{
    (void)state;
    stuck stuck;
    sherd_error err;
    stuck_init(&stuck);
    stuck.await.poll = report_death;
    OK(stuck.device->ops->await(stuck.stream, tag, &stuck.await));
    OK(stuck.device->ops->event_record(stuck.stream, stuck.event));
    int64_t begin = sherd__now_ns();
    assert_int_equal(stuck.device->ops->event_sync(stuck.device, stuck.event, "end", &err), SHERD_ERANKDEAD);
    int64_t waited = sherd__now_ns() - begin;
    assert_true(waited >= 40 * MS && waited < SOON);
    assert_int_equal(err.rank, 2);
    assert_string_equal(err.text, "rank 2 died during reduce of bucket 3");
    stuck_fini(&stuck);
}

static void limits_end_waits_without_a_poll(void **state)
{
    (void)state;
    for (int kind = 0; kind < 4; kind++) {
        stuck stuck;
        sherd_error err;
        stuck_init(&stuck);
        atomic_store(&stuck.device->wait_limit_ns, 80 * MS);
        /* For kind 2 nothing else waits, so that the sentence is the await's own. */
        if (kind != 2) {
            stuck.await.poll = count_polls;
            static _Atomic int32_t polls;
            stuck.await.ctx = (void *)&polls;
            OK(stuck.device->ops->await(stuck.stream, tag, &stuck.await));
            OK(stuck.device->ops->event_record(stuck.stream, stuck.event));
        }
        waiter waiter = {&stuck, kind, SHERD_OK};
        int64_t begin = sherd__now_ns();
        wait_somehow(&waiter);
        int64_t waited = sherd__now_ns() - begin;
        assert_int_equal(waiter.status, SHERD_ETIMEOUT);
        assert_true(waited >= 70 * MS && waited < SOON);
        assert_int_equal(sherd__device_error(stuck.device, &err), SHERD_ETIMEOUT);
        const char *named[4] = {"site a", "site b", "peers' arrival", "'comm': all 4 places"};
        assert_non_null(strstr(err.text, named[kind]));
        stuck_fini(&stuck);
    }
}

static void a_stream_that_waits_for_an_event_reaches_its_limit(void **state)
{
    (void)state;
    stuck stuck;
    sherd_error err;
    stuck_init(&stuck);
    sherd__stream *other = make_stream(stuck.device, "update", 4);
    atomic_store(&stuck.device->wait_limit_ns, 60 * MS);
    static _Atomic int32_t polls;
    stuck.await.poll = count_polls;
    stuck.await.ctx = (void *)&polls;
    OK(stuck.device->ops->await(stuck.stream, tag, &stuck.await));
    OK(stuck.device->ops->event_record(stuck.stream, stuck.event));
    OK(stuck.device->ops->event_wait(other, stuck.event, "update waits for reduced"));
    stuck.device->ops->stream_destroy(other);
    assert_int_equal(sherd__device_error(stuck.device, &err), SHERD_ETIMEOUT);
    assert_non_null(strstr(err.text, "stream 'update'"));
    assert_non_null(strstr(err.text, "update waits for reduced"));
    stuck_fini(&stuck);
}

/* Words compare by signed difference, so that counts may wrap; absent ones count as satisfied. */
static void flags_wrap_and_may_be_absent(void **state)
{
    (void)state;
    sherd_device *device = make_device(1, 0);
    _Atomic uint32_t low = 2, high = UINT32_MAX - 1;
    _Atomic uint32_t *flags[3] = {&low, NULL, &high};
    sherd__await await = {.flags = flags, .count = 3, .value = UINT32_MAX - 1, .site = "wrap"};
    OK(device->ops->await(device->compute, tag, &await));
    await.value = UINT32_MAX;
    atomic_store(&device->wait_limit_ns, 40 * MS);
    assert_int_equal(device->ops->await(device->compute, tag, &await), SHERD_ETIMEOUT);
    sherd_device_destroy(device);
    device = make_device(1, 0);
    await.count = 0;
    OK(device->ops->await(device->compute, tag, &await));
    sherd_device_destroy(device);
}

static void *signal_later(void *arg)
{
    stuck *stuck = arg;
    usleep(30000);
    (void)stuck->device->ops->signal(stuck->stream, tag, &stuck->word, 1);
    return NULL;
}

static void a_signal_wakes_the_compute_stream(void **state)
{
    (void)state;
    stuck stuck;
    pthread_t thread;
    stuck_init(&stuck);
    assert_int_equal(pthread_create(&thread, NULL, signal_later, &stuck), 0);
    int64_t begin = sherd__now_ns();
    OK(stuck.device->ops->await(stuck.device->compute, tag, &stuck.await));
    assert_true(sherd__now_ns() - begin < SOON);
    assert_int_equal(atomic_load(&stuck.word), 1);
    pthread_join(thread, NULL);
    stuck_fini(&stuck);
}

/* What was written before the signal is there after the wait, also in another process. */
static int child_answers(_Atomic uint32_t *words, int32_t *data)
{
    sherd_device *device = make_device(1, 0);
    sherd__stream *stream = make_stream(device, "comm", 64);
    _Atomic uint32_t *flags[1] = {&words[0]};
    for (uint32_t i = 1; i <= 100; i++) {
        sherd__await await = {.flags = flags, .count = 1, .value = i, .site = "ping"};
        if (device->ops->await(stream, tag, &await) ||
            device->ops->copy(stream, tag, &data[16], &data[0], sizeof *data) ||
            device->ops->signal(stream, tag, &words[16], i))
            return 1;
    }
    device->ops->stream_destroy(stream);
    sherd_device_destroy(device);
    return 0;
}

static void signals_cross_processes(void **state)
{
    (void)state;
    char *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    _Atomic uint32_t *words = (_Atomic uint32_t *)(void *)shared;
    int32_t *data = (int32_t *)(void *)(shared + 1024);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(child_answers(words, data));
    sherd_device *device = make_device(1, 0);
    atomic_store(&device->wait_limit_ns, 20000 * MS);
    _Atomic uint32_t *flags[1] = {&words[16]};
    for (uint32_t i = 1; i <= 100; i++) {
        sherd__await await = {.flags = flags, .count = 1, .value = i, .site = "pong"};
        data[0] = (int32_t)i * 3;
        OK(device->ops->signal(device->compute, tag, &words[0], i));
        OK(device->ops->await(device->compute, tag, &await));
        assert_int_equal(data[16], (int32_t)i * 3);
    }
    int result = 0;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    sherd_device_destroy(device);
    munmap(shared, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signals_cross_processes), cmocka_unit_test(poison_ends_all_waits),
        cmocka_unit_test(later_operations_are_skipped), cmocka_unit_test(a_poll_ends_its_wait),
        cmocka_unit_test(limits_end_waits_without_a_poll),
        cmocka_unit_test(a_stream_that_waits_for_an_event_reaches_its_limit),
        cmocka_unit_test(flags_wrap_and_may_be_absent), cmocka_unit_test(a_signal_wakes_the_compute_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
