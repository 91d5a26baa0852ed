/* SPDX-License-Identifier: MIT
 *
 * The checker against a plain oracle: random programs of one rank with three streams and a host thread. The oracle
 * draws the whole graph of what must come before what, closes it, and looks at every pair of accesses. Verdicts must
 * agree, whatever the order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/check_world.h"

enum { STREAMS = 3, EVENTS = 3, FLAGS = 2, OPS = 22, HOST = STREAMS, BYTES = 8, PROGRAMS = 1500, SEEDS = 3 };

typedef enum kind { KERNEL, RECORD, WAIT, SYNC, SIGNAL, AWAIT, KINDS } kind;

typedef struct step {
    kind kind;
    int stream;       /* 0: compute; HOST: the calling thread (SYNC) */
    int object;       /* event or flag */
    uint32_t value;   /* of a flag */
    int n;            /* accesses of a kernel */
    struct { int begin, end, write; } access[2];
} step;

typedef struct random_program {
    step step[OPS];
    uint64_t before[OPS]; /* bits of the steps that come before this one in every order */
} random_program;

static uint64_t random_state;

static uint32_t below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

/* `kernels` of 100 steps are kernels; few of them in some programs, so that not all programs race. */
static kind draw_kind(uint32_t kernels)
{
    uint32_t r = below(60);
    if (below(100) < kernels)
        return KERNEL;
    return r < 20 ? RECORD : r < 37 ? WAIT : r < 40 ? SYNC : r < 50 ? SIGNAL : AWAIT;
}

static void draw_kernel(step *s)
{
    s->n = 1 + (int)(below(4) == 0);
    for (int i = 0; i < s->n; i++) {
        s->access[i].begin = (int)below(BYTES);
        s->access[i].end = s->access[i].begin + 1 + (int)below((uint32_t)(BYTES - s->access[i].begin) / 2 + 1);
        s->access[i].write = below(3) == 0;
    }
}

/* Events have one recording stream each, and a flag one writer, as in an engine. An await is for a value that is
 * signalled before it in the program, so that nothing can get stuck. */
static void draw_program(random_program *p)
{
    uint32_t signalled[FLAGS] = {0}, kernels = 8 + 8 * below(5);
    for (int i = 0; i < OPS; i++) {
        step *s = &p->step[i];
        memset(s, 0, sizeof *s);
        s->kind = draw_kind(kernels);
        s->stream = (int)below(STREAMS);
        s->object = (int)below(EVENTS);
        if (s->kind == SIGNAL || s->kind == AWAIT)
            s->object = (int)below(FLAGS);
        if (s->kind == RECORD)
            s->stream = s->object % STREAMS;
        if (s->kind == SYNC)
            s->stream = HOST;
        if (s->kind == AWAIT && signalled[s->object] == 0)
            s->kind = SIGNAL;
        if (s->kind == SIGNAL) {
            s->stream = 1 + s->object;
            s->value = ++signalled[s->object];
        }
        if (s->kind == AWAIT)
            s->value = 1 + below(signalled[s->object]);
        if (s->kind == KERNEL)
            draw_kernel(s);
    }
}

/* The last step before `i` of that kind, object and value (0: any); −1: none. */
static int latest(const random_program *p, int i, kind k, int object, uint32_t value)
{
    while (--i >= 0)
        if (p->step[i].kind == k && p->step[i].object == object && (value == 0 || p->step[i].value == value))
            return i;
    return -1;
}

static void close_order(random_program *p)
{
    for (int i = 0; i < OPS; i++) {
        const step *s = &p->step[i];
        uint64_t before = 0;
        int cause = -1;
        for (int j = 0; j < i;
             j++) /* stream order; what the host has waited for comes before all that it enqueues later */
            if (p->step[j].stream == s->stream || p->step[j].stream == HOST)
                before |= p->before[j] | (p->step[j].stream == HOST ? 0 : UINT64_C(1) << j);
        if (s->kind == WAIT || s->kind == SYNC)
            cause = latest(p, i, RECORD, s->object, 0);
        if (s->kind == AWAIT)
            cause = latest(p, i, SIGNAL, s->object, s->value);
        if (cause >= 0)
            before |= p->before[cause] | UINT64_C(1) << cause;
        p->before[i] = before;
    }
}

static int conflict(const step *a, const step *b)
{
    for (int i = 0; i < a->n; i++)
        for (int j = 0; j < b->n; j++)
            if ((a->access[i].write || b->access[j].write) && a->access[i].begin < b->access[j].end &&
                b->access[j].begin < a->access[i].end)
                return 1;
    return 0;
}

static int oracle_finds_race(random_program *p)
{
    close_order(p);
    for (int j = 0; j < OPS; j++)
        for (int i = 0; i < j; i++)
            if (p->step[i].kind == KERNEL && p->step[j].kind == KERNEL && !(p->before[j] >> i & 1) &&
                conflict(&p->step[i], &p->step[j]))
                return 1;
    return 0;
}

static void nothing(void *arg) { (void)arg; }

typedef struct rig {
    sherd_device *device;
    sherd__stream *stream[STREAMS];
    sherd__event *event[EVENTS];
    _Atomic uint32_t flag[FLAGS];
    _Atomic uint32_t *flags[FLAGS];
    char *memory;
} rig;

static void enqueue(rig *rig, const step *s, int number)
{
    const sherd__device_ops *ops = rig->device->ops;
    sherd__tag tag = {"step", number, 1};
    sherd__access access[2];
    for (int i = 0; i < s->n; i++)
        access[i] = (sherd__access){rig->memory + s->access[i].begin, (uint64_t)(s->access[i].end - s->access[i].begin),
                                    s->access[i].write};
    sherd__await await = {.flags = &rig->flags[s->object % FLAGS], .count = 1, .value = s->value, .site = "flag"};
    switch (s->kind) {
    case KERNEL:
        OK(ops->host_call(rig->stream[s->stream], tag, nothing, NULL, access, (uint32_t)s->n));
        break;
    case RECORD:
        OK(ops->event_record(rig->stream[s->stream], rig->event[s->object]));
        break;
    case WAIT:
        OK(ops->event_wait(rig->stream[s->stream], rig->event[s->object], "wait"));
        break;
    case SYNC:
        OK(ops->event_sync(rig->device, rig->event[s->object], "sync", NULL));
        break;
    case SIGNAL:
        OK(ops->signal(rig->stream[s->stream], tag, &rig->flag[s->object], s->value));
        break;
    default:
        OK(ops->await(rig->stream[s->stream], tag, &await));
    }
}

static sherd_status checker_finds(const random_program *p, uint64_t seed, sherd_error *err)
{
    sherd_checker *checker = make_checker(1, seed);
    rig rig;
    memset(&rig, 0, sizeof rig);
    rig.device = make_check_device(checker, 0);
    rig.stream[0] = rig.device->compute;
    rig.stream[1] = make_stream(rig.device, "a", 3);
    rig.stream[2] = make_stream(rig.device, "b", 30);
    for (int i = 0; i < EVENTS; i++)
        rig.event[i] = make_event(rig.device);
    for (int i = 0; i < FLAGS; i++)
        rig.flags[i] = &rig.flag[i];
    OK(sherd_device_alloc(rig.device, BYTES, SHERD_CAT_WORKSPACE, (void **)&rig.memory, NULL));
    for (int i = 0; i < OPS; i++)
        enqueue(&rig, &p->step[i], i);
    for (int i = 1; i < STREAMS; i++)
        rig.device->ops->stream_destroy(rig.stream[i]);
    OK(sherd__device_error(rig.device, err));
    sherd_status verdict = sherd_checker_verdict(checker, NULL, err);
    for (int i = 0; i < EVENTS; i++)
        rig.device->ops->event_destroy(rig.event[i]);
    sherd_device_free(rig.device, rig.memory);
    sherd_device_destroy(rig.device);
    sherd_checker_destroy(checker);
    return verdict;
}

static void verdicts_equal_the_oracles(void **state)
{
    (void)state;
    int races = 0, clean = 0;
    random_program p;
    for (int i = 0; i < PROGRAMS; i++) {
        random_state = (uint64_t)i * 977 + 5;
        draw_program(&p);
        int expected = oracle_finds_race(&p);
        races += expected;
        clean += !expected;
        for (uint64_t seed = 0; seed < SEEDS; seed++) {
            sherd_error err = {.text = "clean"};
            sherd_status found = checker_finds(&p, seed, &err);
            if ((found == SHERD_ERACE) != expected)
                fail_msg("program %d, seed %d: the oracle says %s, the checker: %s", i, (int)seed,
                         expected ? "race" : "clean", err.text);
        }
    }
    print_message("%d programs with a race, %d without\n", races, clean);
    assert_true(races > PROGRAMS / 10 && clean > PROGRAMS / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(verdicts_equal_the_oracles)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
