/* SPDX-License-Identifier: MIT
 *
 * The checking device with one rank: small programs of two streams, with their waits and without.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/check_world.h"

#define SEEDS 40
#define ELEMS 256

static const sherd__tag produce = {"produce", 3, 2}, consume = {"consume", 4, 1}, reuse = {"reuse", -1, 1};

typedef struct outcome {
    sherd_status verdict;
    sherd_error error;
    uint64_t operations, order;
    float result;
    const char *sites[8];
    uint32_t n_sites;
} outcome;

typedef struct program {
    int wait_consume;   /* consume on stream b waits for produce on stream a */
    int wait_reuse;     /* the next write on a waits for consume */
    int compute_waits;  /* compute waits for the end before it touches */
    int host_syncs;     /* the host waits, then enqueues without another wait */
    uint64_t seed;
    const char *drop;
} program;

/* a writes x; b copies x to y; a overwrites x; the client reads y. */
static outcome run(const program *p)
{
    outcome out = {.verdict = SHERD_OK};
    sherd_checker *checker = make_checker(1, p->seed);
    sherd__checker_drop(checker, p->drop);
    sherd_device *device = make_check_device(checker, 0);
    const sherd__device_ops *ops = device->ops;
    sherd__stream *a = make_stream(device, "a", 4), *b = make_stream(device, "b", 4);
    sherd__event *produced = make_event(device), *consumed = make_event(device);
    float *x, *y, *src;
    OK(sherd_device_alloc(device, ELEMS * 4, SHERD_CAT_WORKSPACE, (void **)&x, NULL));
    OK(sherd_device_alloc(device, ELEMS * 4, SHERD_CAT_WORKSPACE, (void **)&y, NULL));
    OK(sherd_device_alloc(device, 2 * ELEMS * 4, SHERD_CAT_WORKSPACE, (void **)&src, NULL));
    for (int i = 0; i < ELEMS; i++) {
        x[i] = y[i] = 0;
        src[i] = 1;
        src[i + ELEMS] = 2;
    }
    OK(ops->copy(a, produce, x, src, ELEMS * 4));
    OK(ops->event_record(a, produced));
    if (p->wait_consume)
        OK(ops->event_wait(b, produced, "consume waits for produced"));
    OK(ops->copy(b, consume, y, x, ELEMS * 4));
    OK(ops->event_record(b, consumed));
    if (p->host_syncs)
        OK(ops->event_sync(device, consumed, "host sync", NULL));
    if (p->wait_reuse)
        OK(ops->event_wait(a, consumed, "reuse waits for consumed"));
    OK(ops->copy(a, reuse, x, src + ELEMS, ELEMS * 4));
    if (p->compute_waits)
        OK(ops->event_wait(device->compute, consumed, "client waits for consumed"));
    OK(ops->touch(device, (sherd__tag){"client", -1, 1}, (sherd__access){y, ELEMS * 4, 0}));
    out.result = y[0];
    OK(sync_stream(device, a));
    OK(sync_stream(device, b));
    ops->event_destroy(produced);
    ops->event_destroy(consumed);
    ops->stream_destroy(a);
    ops->stream_destroy(b);
    sherd_device_free(device, x);
    sherd_device_free(device, y);
    sherd_device_free(device, src);
    sherd_device_destroy(device);
    out.verdict = sherd_checker_verdict(checker, &out.operations, &out.error);
    out.order = sherd__checker_order(checker);
    out.n_sites = sherd__checker_sites(checker, out.sites, 8);
    sherd_checker_destroy(checker);
    return out;
}

static const program whole = {.wait_consume = 1, .wait_reuse = 1, .compute_waits = 1};

static void with_all_waits_every_order_is_clean(void **state)
{
    (void)state;
    uint64_t orders = 0, last = 0;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        program p = whole;
        p.seed = seed;
        outcome out = run(&p);
        if (out.verdict != SHERD_OK)
            fail_msg("seed %d: %s", (int)seed, out.error.text);
        assert_true(out.result == 1.0f);
        assert_true(out.operations > 5);
        orders += out.order != last;
        last = out.order;
    }
    assert_true(orders > SEEDS / 4); /* the seeds do draw different orders */
}

static void expect_race(program p, const char *one, const char *other)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        p.seed = seed;
        outcome out = run(&p);
        if (out.verdict != SHERD_ERACE)
            fail_msg("seed %d: no report where %s and %s race", (int)seed, one, other);
        assert_non_null(strstr(out.error.text, one));
        assert_non_null(strstr(out.error.text, other));
        assert_non_null(strstr(out.error.text, "no wait between them"));
    }
}

static void each_missing_wait_is_reported_in_every_order(void **state)
{
    (void)state;
    program p = whole;
    p.wait_consume = 0;
    expect_race(p, "rank 0 produce[bucket 3, step 2] on stream 'a' writes 0x",
                "rank 0 consume[bucket 4, step 1] on stream 'b' reads 0x");
    p = whole;
    p.wait_reuse = 0;
    expect_race(p, "reuse[step 1]", "consume[bucket 4, step 1]");
    p = whole;
    p.compute_waits = 0;
    expect_race(p, "client[step 1] on stream 'compute' reads", "consume[bucket 4, step 1]");
}

static void each_dropped_wait_is_reported_in_every_order(void **state)
{
    static const char *const sites[] = {"consume waits for produced", "reuse waits for consumed",
                                        "client waits for consumed"};
    (void)state;
    for (size_t i = 0; i < sizeof sites / sizeof *sites; i++) {
        program p = whole;
        p.drop = sites[i];
        expect_race(p, i == 0 ? "produce" : i == 1 ? "reuse" : "client", "consume");
        outcome out = run(&p);
        uint32_t seen = 0;
        for (uint32_t s = 0; s < out.n_sites; s++)
            seen += strcmp(out.sites[s], sites[i]) == 0;
        assert_int_equal(seen, 1);
        assert_true(out.result == 1.0f); /* the order was withheld from the proof, not from the run */
    }
    program p = whole;
    p.drop = "a site that is not there";
    assert_int_equal(run(&p).verdict, SHERD_OK);
}

/* What the calling thread has waited for, it need not wait for again on another stream; but that proves nothing for
 * compute. */
static void the_host_clock_is_inherited(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        program p = {.wait_consume = 1, .host_syncs = 1, .seed = seed};
        outcome out = run(&p);
        if (out.verdict != SHERD_OK)
            fail_msg("seed %d: %s", (int)seed, out.error.text);
        p.drop = "host sync";
        assert_int_equal(run(&p).verdict, SHERD_ERACE);
    }
}

static void a_seed_draws_the_same_order_twice(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        program p = whole;
        p.seed = seed;
        outcome first = run(&p), second = run(&p);
        assert_true(first.order == second.order);
        assert_true(first.operations == second.operations);
    }
}

/* What was done on the compute stream is not known to another stream because it was enqueued later: only an event says
 * so. */
static void compute_is_a_stream(void **state)
{
    (void)state;
    for (int with_event = 0; with_event < 2; with_event++) {
        sherd_checker *checker = make_checker(1, 5);
        sherd_device *device = make_check_device(checker, 0);
        sherd__stream *a = make_stream(device, "a", 4);
        sherd__event *ready = make_event(device);
        float *x;
        OK(sherd_device_alloc(device, 64, SHERD_CAT_WORKSPACE, (void **)&x, NULL));
        OK(device->ops->touch(device, produce, (sherd__access){x, 64, 1}));
        OK(device->ops->event_record(device->compute, ready));
        if (with_event)
            OK(device->ops->event_wait(a, ready, "ready"));
        sherd__byte_range all = {0, 64};
        OK(device->ops->zero(a, consume, x, &all, 1));
        device->ops->stream_destroy(a);
        assert_int_equal(sherd_checker_verdict(checker, NULL, NULL), with_event ? SHERD_OK : SHERD_ERACE);
        device->ops->event_destroy(ready);
        sherd_device_free(device, x);
        sherd_device_destroy(device);
        sherd_checker_destroy(checker);
    }
}

/* A wait that runs long after its record gets a later clock, and that is counted: the proof is not whole then. */
static void late_waits_are_counted(void **state)
{
    (void)state;
    for (int records = SHERD__CHECK_HISTORY - 1; records <= SHERD__CHECK_HISTORY + 1; records++) {
        sherd_checker *checker = make_checker(1, 5);
        sherd_device *device = make_check_device(checker, 0);
        sherd__stream *a = make_stream(device, "a", 4);
        sherd__event *event = make_event(device);
        _Atomic uint32_t word = 0;
        _Atomic uint32_t *flags[1] = {&word};
        sherd__await await = {.flags = flags, .count = 1, .value = 1, .site = "gate"};
        OK(device->ops->event_record(device->compute, event));
        OK(device->ops->await(a, produce, &await));
        OK(device->ops->event_wait(a, event, "first record"));
        for (int i = 1; i < records; i++)
            OK(device->ops->event_record(device->compute, event));
        OK(device->ops->signal(device->compute, produce, &word, 1));
        device->ops->stream_destroy(a);
        assert_int_equal(sherd__checker_late(checker), records > SHERD__CHECK_HISTORY ? 1 : 0);
        device->ops->event_destroy(event);
        sherd_device_destroy(device);
        sherd_checker_destroy(checker);
    }
}

static void freed_memory_is_forgotten(void **state)
{
    (void)state;
    sherd_checker *checker = make_checker(1, 5);
    sherd_device *device = make_check_device(checker, 0);
    sherd__stream *a = make_stream(device, "a", 4), *b = make_stream(device, "b", 4);
    char *block, *again = NULL;
    OK(sherd_device_alloc(device, 1 << 20, SHERD_CAT_WORKSPACE, (void **)&block, NULL));
    sherd__byte_range range = {0, 4096};
    OK(device->ops->zero(a, produce, block, &range, 1));
    device->ops->stream_destroy(a);
    sherd_device_free(device, block);
    for (int i = 0; i < 50 && again != block; i++) { /* mappings usually come back at the same place */
        if (again)
            sherd_device_free(device, again);
        OK(sherd_device_alloc(device, 1 << 20, SHERD_CAT_WORKSPACE, (void **)&again, NULL));
    }
    OK(device->ops->zero(b, consume, again, &range, 1));
    device->ops->stream_destroy(b);
    assert_int_equal(sherd_checker_verdict(checker, NULL, NULL), SHERD_OK);
    sherd_device_free(device, again);
    sherd_device_destroy(device);
    sherd_checker_destroy(checker);
}

static void an_event_has_one_pending_recorder(void **state)
{
    (void)state;
    sherd_checker *checker = make_checker(1, 5);
    sherd_device *device = make_check_device(checker, 0);
    sherd__stream *a = make_stream(device, "a", 4), *b = make_stream(device, "b", 4);
    sherd__event *event = make_event(device);
    sherd_error err;
    _Atomic uint32_t word = 0;
    _Atomic uint32_t *flags[1] = {&word};
    sherd__await await = {.flags = flags, .count = 1, .value = 1, .site = "a word that nobody sets"};
    OK(device->ops->await(a, produce, &await));
    OK(device->ops->event_record(a, event));
    OK(device->ops->event_wait(b, event, "b waits for a"));
    assert_int_equal(device->ops->event_record(b, event), SHERD_EINVAL);
    assert_int_equal(sherd__device_error(device, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "stream 'b'"));
    device->ops->stream_destroy(b);
    device->ops->stream_destroy(a);
    device->ops->event_destroy(event);
    sherd_device_destroy(device);
    sherd_checker_destroy(checker);
}

static void a_deadlock_is_found_and_described(void **state)
{
    (void)state;
    sherd_checker *checker = make_checker(1, 5);
    sherd_device *device = make_check_device(checker, 0);
    sherd__stream *a = make_stream(device, "a", 4), *b = make_stream(device, "b", 4);
    sherd__event *event = make_event(device), *end = make_event(device);
    sherd_error err;
    _Atomic uint32_t word = 0;
    _Atomic uint32_t *flags[1] = {&word};
    sherd__await await = {.flags = flags, .count = 1, .value = 1, .site = "a word that nobody sets"};
    OK(device->ops->await(a, produce, &await));
    OK(device->ops->event_record(a, event));
    OK(device->ops->event_wait(b, event, "b waits for a"));
    OK(device->ops->event_record(b, end));
    int64_t begin = sherd__now_ns();
    assert_int_equal(device->ops->event_sync(device, end, "caller", &err), SHERD_ETIMEOUT);
    assert_true(sherd__now_ns() - begin < INT64_C(5000000000));
    assert_non_null(strstr(err.text, "deadlock"));
    assert_non_null(strstr(err.text, "rank 0 stream 'a' at 'a word that nobody sets'"));
    assert_non_null(strstr(err.text, "rank 0 stream 'b' at 'b waits for a'"));
    assert_non_null(strstr(err.text, "rank 0's caller at 'caller'"));
    device->ops->stream_destroy(b);
    device->ops->stream_destroy(a);
    device->ops->event_destroy(event);
    device->ops->event_destroy(end);
    sherd_device_destroy(device);
    sherd_checker_destroy(checker);
}

static void misuse_is_refused(void **state)
{
    (void)state;
    sherd_checker *checker = NULL;
    sherd_error err;
    assert_int_equal(sherd_checker_create(0, 1, &checker, &err), SHERD_EINVAL);
    assert_int_equal(sherd_checker_create(1000, 1, &checker, &err), SHERD_EINVAL);
    assert_null(checker);
    sherd_checker_destroy(NULL);
    checker = make_checker(2, 1);
    sherd_device_options options;
    sherd_device *device = NULL, *second = NULL;
    sherd_device_options_init(&options, sizeof options);
    options.kind = SHERD_DEVICE_CHECK;
    options.checker = checker;
    options.rank = 2;
    assert_int_equal(sherd_device_create(&options, &device, &err), SHERD_EINVAL);
    options.rank = 1;
    OK(sherd_device_create(&options, &device, &err));
    assert_non_null(strstr(sherd_device_describe(device), "check, rank 1 of 2"));
    assert_int_equal(sherd_device_create(&options, &second, &err), SHERD_EINVAL);
    assert_null(second);
    sherd_device_destroy(device);
    OK(sherd_device_create(&options, &device, &err)); /* after the first is gone */
    sherd_device_destroy(device);
    sherd_checker_destroy(checker);
}

/* One stream updates, another copies one array of the state away, without a wait between them. `elsewhere`: the new
 * values go to second buffers. */
static sherd_status update_beside_read(int elsewhere, int array, int second)
{
    sherd_checker *checker = make_checker(1, 5);
    sherd_device *device = make_check_device(checker, 0);
    sherd__stream *a = make_stream(device, "a", 4), *b = make_stream(device, "b", 4);
    sherd__step_scalars *scalars;
    float *state;
    OK(sherd_device_alloc(device, sizeof *scalars, SHERD_CAT_WORKSPACE, (void **)&scalars, NULL));
    OK(sherd_device_alloc(device, 8 * ELEMS * 4, SHERD_CAT_WORKSPACE, (void **)&state, NULL));
    memset(scalars, 0, sizeof *scalars);
    memset(state, 0, 8 * ELEMS * 4);
    sherd__span span = {ELEMS, 2 * ELEMS, 0, 0};
    sherd__update update = {.kind = SHERD_ADAMW, .scalars = scalars, .sum = state + 6 * ELEMS, .master = state,
                            .moment = {state + ELEMS, state + 2 * ELEMS}, .origin = ELEMS, .spans = &span, .n_spans = 1};
    update.sum_dtype = SHERD_FP32;
    if (elsewhere) {
        update.master_out = state + 3 * ELEMS;
        update.moment_out[0] = state + 4 * ELEMS;
        update.moment_out[1] = state + 5 * ELEMS;
    }
    OK(device->ops->update(a, produce, &update));
    OK(device->ops->copy(b, consume, state + 7 * ELEMS, state + (array + 3 * second) * ELEMS, ELEMS * 4));
    device->ops->stream_destroy(a);
    device->ops->stream_destroy(b);
    sherd_status verdict = sherd_checker_verdict(checker, NULL, NULL);
    sherd_device_free(device, scalars);
    sherd_device_free(device, state);
    sherd_device_destroy(device);
    sherd_checker_destroy(checker);
    return verdict;
}

static void an_update_elsewhere_only_reads_the_old_state(void **state)
{
    (void)state;
    for (int array = 0; array < 3; array++) {
        assert_int_equal(update_beside_read(0, array, 0), SHERD_ERACE);
        assert_int_equal(update_beside_read(0, array, 1), SHERD_OK);
        assert_int_equal(update_beside_read(1, array, 0), SHERD_OK);
        assert_int_equal(update_beside_read(1, array, 1), SHERD_ERACE);
    }
}

/* A matrix is orthogonalised while another stream reads `bytes` at `from`: 0 the matrix, 1 what lies behind it, 2 the scratch memory,
 * 3 what lies behind that. */
static sherd_status orthogonalise_beside_read(int from, int waits)
{
    enum { ROWS = 7, COLS = 33, BEHIND = 16 };
    uint64_t matrix_elems = ROWS * COLS, scratch_elems = (uint64_t)sherd__muon_scratch_elems(ROWS, COLS);
    uint64_t at[] = {0, matrix_elems, 256, 256 + scratch_elems};
    sherd_checker *checker = make_checker(1, 5);
    sherd_device *device = make_check_device(checker, 0);
    sherd__stream *a = make_stream(device, "a", 4), *b = make_stream(device, "b", 4);
    sherd__event *done = make_event(device);
    float *block;
    OK(sherd_device_alloc(device, (256 + scratch_elems + 2 * BEHIND) * 4, SHERD_CAT_WORKSPACE, (void **)&block, NULL));
    memset(block, 0, (256 + scratch_elems + 2 * BEHIND) * 4);
    sherd__orthogonal job = {.matrix = block, .scratch = block + 256, .rows = ROWS, .cols = COLS, .steps = 1};
    OK(device->ops->orthogonalise(a, produce, &job));
    OK(device->ops->event_record(a, done));
    if (waits)
        OK(device->ops->event_wait(b, done, "read waits for the matrix"));
    OK(device->ops->copy(b, consume, block + 256 + scratch_elems + BEHIND, block + at[from], BEHIND * 4));
    device->ops->stream_destroy(a);
    device->ops->stream_destroy(b);
    device->ops->event_destroy(done);
    sherd_status verdict = sherd_checker_verdict(checker, NULL, NULL);
    sherd_device_free(device, block);
    sherd_device_destroy(device);
    sherd_checker_destroy(checker);
    return verdict;
}

static void a_matrix_and_its_scratch_memory_are_written(void **state)
{
    (void)state;
    for (int from = 0; from < 4; from++) {
        assert_int_equal(orthogonalise_beside_read(from, 0), from % 2 ? SHERD_OK : SHERD_ERACE);
        assert_int_equal(orthogonalise_beside_read(from, 1), SHERD_OK);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_all_waits_every_order_is_clean),
        cmocka_unit_test(each_missing_wait_is_reported_in_every_order),
        cmocka_unit_test(each_dropped_wait_is_reported_in_every_order), cmocka_unit_test(the_host_clock_is_inherited),
        cmocka_unit_test(a_seed_draws_the_same_order_twice), cmocka_unit_test(compute_is_a_stream),
        cmocka_unit_test(late_waits_are_counted), cmocka_unit_test(an_update_elsewhere_only_reads_the_old_state),
        cmocka_unit_test(a_matrix_and_its_scratch_memory_are_written),
        cmocka_unit_test(freed_memory_is_forgotten), cmocka_unit_test(an_event_has_one_pending_recorder),
        cmocka_unit_test(a_deadlock_is_found_and_described), cmocka_unit_test(misuse_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
