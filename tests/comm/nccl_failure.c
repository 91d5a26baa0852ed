/* SPDX-License-Identifier: MIT
 *
 * What goes wrong with NCCL, on the stubs: no library, an old one, creations that fail or never end, calls that are
 * refused, operations that hang, errors that come later, peers that leave or give up. Each time every rank ends by
 * itself, in time, with a sentence, and nothing is left behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "nccl_world.h"
#include "tests/engine/case.h"

#define WIDTH 256

static const nccl_stub *stub;
static char library[512];

static void assert_in_time(int64_t begin, double seconds)
{
    double took = (double)(sherd__now_ns() - begin) * 1e-9;
    if (took > seconds)
        fail_msg("it took %.1f s", took);
}

static void assert_says(const sherd_error *err, const char *what)
{
    if (!strstr(err->text, what))
        fail_msg("'%s' is not in: %s", what, err->text);
}

/* --------------------------------------------------------------------------------------------------------------
 * library */

static void test_missing_library(void **state)
{
    char text[640];
    sherd_comm *comm = NULL;
    sherd_error err;
    (void)state;
    cuda_stub_reset(NCCL_RANKS, 0);
    setenv("SHERD_NCCL_LIBRARY", "/nowhere/libnccl.so.2", 1);
    assert_int_equal(sherd_comm_create_nccl(NULL, 0, 1, NULL, NULL, &comm, &err), SHERD_EUNSUPPORTED);
    assert_says(&err, "/nowhere/libnccl.so.2");
    assert_says(&err, "SHERD_NCCL_LIBRARY");
    sherd__nccl_describe(text, sizeof text);
    assert_int_equal(strncmp(text, "no: NCCL cannot be used", 23), 0);
    assert_null(comm);
    /* One that is no NCCL at all. */
    setenv("SHERD_NCCL_LIBRARY", "libm.so.6", 1);
    assert_int_equal(sherd_comm_create_nccl(NULL, 0, 1, NULL, NULL, &comm, &err), SHERD_EUNSUPPORTED);
    nccl_rank ranks[NCCL_RANKS] = {{0}};
    nccl_run(3, ranks);
    for (int32_t r = 0; r < 3; r++) {
        assert_int_equal(ranks[r].status, SHERD_EUNSUPPORTED);
        assert_says(&ranks[r].err, "rank 0: NCCL");
    }
    setenv("SHERD_NCCL_LIBRARY", library, 1);
    assert_int_equal(cuda_stub_alive(), 0);
}

static void test_too_old(void **state)
{
    sherd_comm *comm = NULL;
    sherd_error err;
    char text[640];
    (void)state;
    stub = nccl_stub_open();
    stub->version(21602);
    assert_int_equal(sherd_comm_create_nccl(NULL, 0, 1, NULL, NULL, &comm, &err), SHERD_EUNSUPPORTED);
    assert_says(&err, "NCCL 2.16.2");
    assert_says(&err, "2.19.3 or later");
    stub->version(2708);
    assert_int_equal(sherd_comm_adopt_nccl(NULL, &err, &comm, &err), SHERD_EUNSUPPORTED);
    assert_says(&err, "NCCL 2.7.8");
    stub->version(22809);
    assert_int_equal(sherd_comm_create_nccl(NULL, 0, 1, NULL, NULL, &comm, &err), SHERD_OK);
    assert_string_equal(sherd_comm_describe(comm), "NCCL 2.28.9, 1 rank, GPU 0, tree-ordered sums");
    sherd_comm_destroy(comm);
    sherd__nccl_describe(text, sizeof text);
    assert_int_equal(strncmp(text, "yes, 2.28.9 (", 13), 0);
    assert_true(nccl_nothing_left(stub));
}

static void test_no_gpu(void **state)
{
    sherd_comm *comm = NULL;
    sherd_error err;
    (void)state;
    stub = nccl_stub_open();
    cuda_stub_reset(0, 0);
    assert_int_equal(sherd_comm_create_nccl(NULL, 0, 1, NULL, NULL, &comm, &err), SHERD_EUNSUPPORTED);
    assert_says(&err, "NCCL needs a GPU: no CUDA-capable device");
    assert_int_equal(sherd_comm_create_nccl(NULL, 2, 2, NULL, NULL, &comm, &err), SHERD_EINVAL);
    assert_int_equal(sherd_comm_adopt_nccl(NULL, NULL, &comm, &err), SHERD_EINVAL);
}

/* -------------------------------------------------------------------------------------------------------------
 * creation */

static void test_creation_refused(void **state)
{
    static const char *const calls[] = {"GetUniqueId", "CommInitRankConfig", "GroupStart", "GroupEnd", "Send",
                                        "Recv",        "AllReduce"};
    (void)state;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        nccl_rank ranks[NCCL_RANKS] = {{0}};
        int64_t begin = sherd__now_ns();
        int refused = 0;
        stub = nccl_stub_open();
        stub->refuse(calls[c], 1, 2);
        nccl_run(3, ranks);
        for (int32_t r = 0; r < 3; r++) {
            assert_int_not_equal(ranks[r].status, SHERD_OK);
            refused += strstr(ranks[r].err.text, "unhandled system error") != NULL;
        }
        assert_true(refused >= 1);
        assert_in_time(begin, 5);
        assert_true(nccl_nothing_left(stub));
    }
}

static void test_creation_out_of_cuda(void **state)
{
    static const char *const calls[] = {
        "cudaMalloc", "cudaHostAlloc",  "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags", "cudaMemGetInfo",
        "zero",       "cudaStreamQuery"};
    (void)state;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        nccl_rank ranks[NCCL_RANKS] = {{0}};
        stub = nccl_stub_open();
        cuda_stub_fail_call(calls[c], 1, cudaErrorMemoryAllocation);
        nccl_run(2, ranks);
        assert_true(ranks[0].status != SHERD_OK && ranks[1].status != SHERD_OK);
        assert_true(strstr(ranks[0].err.text, "cudaErrorMemoryAllocation") || /* its own, or what the peer told */
                    strstr(ranks[1].err.text, "cudaErrorMemoryAllocation"));
        assert_true(nccl_nothing_left(stub));
    }
}

static void test_creation_never_ends(void **state)
{
    nccl_rank ranks[NCCL_RANKS] = {{.fail_after_s = 0.3}};
    int64_t begin = sherd__now_ns();
    (void)state;
    stub = nccl_stub_open();
    stub->slow_init(-1);
    nccl_run(2, ranks);
    for (int32_t r = 0; r < 2; r++)
        assert_true(ranks[r].status == SHERD_ETIMEOUT || ranks[r].status == SHERD_EABORTED);
    assert_true(ranks[0].status == SHERD_ETIMEOUT || ranks[1].status == SHERD_ETIMEOUT);
    const sherd_error *own = ranks[0].status == SHERD_ETIMEOUT ? &ranks[0].err : &ranks[1].err;
    assert_says(own, "NCCL did not finish creation of the NCCL communicator within 0.3 s");
    assert_int_equal(stub->calls("CommAbort"), 2);
    assert_in_time(begin, 4);
    assert_true(nccl_nothing_left(stub));
}

static void test_creation_slow(void **state)
{
    nccl_rank ranks[NCCL_RANKS] = {{0}};
    (void)state;
    stub = nccl_stub_open();
    stub->slow_init(200);
    stub->slow_launch(20);
    nccl_run(3, ranks);
    for (int32_t r = 0; r < 3; r++)
        if (ranks[r].status != SHERD_OK)
            fail_msg("rank %d: %s", (int)r, ranks[r].err.text);
    assert_int_equal(stub->misuses(), 0);
    assert_true(nccl_nothing_left(stub));
}

static void test_a_rank_never_comes(void **state)
{
    nccl_rank ranks[NCCL_RANKS] = {{.absent = 2}};
    (void)state;
    stub = nccl_stub_open();
    nccl_run(3, ranks);
    assert_int_equal(ranks[0].status, SHERD_ESYSTEM);
    assert_int_equal(ranks[2].status, SHERD_ESYSTEM);
    assert_says(&ranks[0].err, "the bootstrap's all-gather failed with code 7: not all ranks came");
    assert_true(nccl_nothing_left(stub));
}

/* ----------------------------------------------------------------------------------------------------------
 * collectives */

typedef struct trouble {
    int32_t who;      /* the rank that does something else after `rounds` */
    int rounds, then; /* then: 1 leaves, 2 gives up with a reason, 3 stays away */
    sherd_status status[NCCL_RANKS];
    sherd_error err[NCCL_RANKS];
} trouble;

static void give_up(nccl_rank *rank)
{
    sherd_error why = {SHERD_EIO, -1, "the data file ends here"};
    rank->comm->ops->abort(rank->comm, &why);
}

static void trouble_body(nccl_rank *rank)
{
    trouble *t = rank->arg;
    nccl_bench bench;
    uint64_t bytes = (uint64_t)rank->world * WIDTH * 4;
    sherd_status status = SHERD_OK;
    sherd__ticket ticket = 0;
    if (!nccl_bench_open(rank, bytes, &bench)) {
        t->status[rank->rank] = bench.err.status;
        t->err[rank->rank] = bench.err;
        return;
    }
    static _Alignas(64) float sums[NCCL_RANKS][WIDTH]; /* it outlives a GPU that hangs */
    float *sum = sums[rank->rank];
    for (int round = 0; round < 20 && status == SHERD_OK; round++) {
        sherd__tag tag = {"reduce", round, 1};
        sherd__tree_sum job = {.src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = sum, .elems = WIDTH};
        if (rank->rank == t->who && round == t->rounds) {
            if (t->then == 2)
                give_up(rank);
            if (t->then == 3)
                usleep((useconds_t)(rank->fail_after_s * 3e6));
            break;
        }
        (void)rank->comm->ops->reduce_scatter(rank->comm, bench.stream, tag, &bench.window, 0, &job, &ticket);
        (void)rank->comm->ops->all_gather(rank->comm, bench.stream, tag, &bench.window, 0, WIDTH * 4, &ticket);
        status = nccl_bench_wait(&bench);
    }
    t->status[rank->rank] = sherd__device_error(bench.device, &t->err[rank->rank]);
    nccl_bench_close(rank, &bench);
}

static void run_trouble(int32_t world, double fail_after_s, int adopt, trouble *t)
{
    nccl_rank ranks[NCCL_RANKS] = {{.fail_after_s = fail_after_s, .body = trouble_body, .arg = t, .adopt = adopt}};
    int64_t begin = sherd__now_ns();
    nccl_run(world, ranks);
    assert_in_time(begin, 8);
    for (int32_t r = 0; r < world; r++)
        if (ranks[r].status != SHERD_OK)
            fail_msg("rank %d: %s", (int)r, ranks[r].err.text);
    assert_true(nccl_nothing_left(stub));
}

static void test_hang(void **state)
{
    (void)state;
    for (uint64_t nth = 6; nth <= 20; nth += 7) { /* the first are the creation's and the windows' */
        trouble t = {.who = -1};
        stub = nccl_stub_open();
        stub->hang(1, nth);
        run_trouble(3, 0.4, 0, &t);
        int late = 0;
        for (int32_t r = 0; r < 3; r++) {
            assert_true(t.status[r] == SHERD_ETIMEOUT || t.status[r] == SHERD_EABORTED);
            late += t.status[r] == SHERD_ETIMEOUT && strstr(t.err[r].text, "though all ranks have entered it") != NULL;
        }
        assert_true(late >= 1);
        assert_int_equal(stub->calls("CommAbort"), 3);
    }
}

static void test_hang_in_creation(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 2; nth++) {
        nccl_rank ranks[NCCL_RANKS] = {{.fail_after_s = 0.3}};
        stub = nccl_stub_open();
        stub->hang(0, nth);
        nccl_run(2, ranks);
        assert_true(ranks[0].status != SHERD_OK && ranks[1].status != SHERD_OK);
        assert_true(nccl_nothing_left(stub));
    }
}

/* Nobody else is waited for longer than it takes to hear of it: the limit is far away. */
static void test_asynchronous_error(void **state)
{
    (void)state;
    for (uint64_t nth = 7; nth <= 19; nth += 6) {
        trouble t = {.who = -1};
        stub = nccl_stub_open();
        stub->error(1, nth, SHERD__NCCL_REMOTE_ERROR);
        run_trouble(3, 30, 0, &t);
        assert_int_equal(t.status[1], SHERD_EDEVICE);
        assert_says(&t.err[1], "remote process exited or there was a network error (6); a peer is gone");
        assert_says(&t.err[1], " of bucket ");
        for (int32_t r = 0; r < 3; r += 2) {
            assert_int_equal(t.status[r], SHERD_EABORTED);
            assert_says(&t.err[r], "rank 1 gave up during");
            assert_says(&t.err[r], "NCCL in ");
        }
    }
}

static void test_peer_leaves(void **state)
{
    trouble t = {.who = 2, .rounds = 5, .then = 1};
    (void)state;
    stub = nccl_stub_open();
    run_trouble(3, 30, 0, &t);
    assert_int_equal(t.status[2], SHERD_OK);
    for (int32_t r = 0; r < 2; r++) {
        assert_int_equal(t.status[r], SHERD_EABORTED);
        if (!strstr(t.err[r].text, "rank 2 (pid ") || !strstr(t.err[r].text, "has left"))
            assert_says(&t.err[r], "gave up during"); /* the other one, who said so first */
    }
}

static void test_peer_gives_up(void **state)
{
    trouble t = {.who = 0, .rounds = 3, .then = 2};
    (void)state;
    stub = nccl_stub_open();
    run_trouble(4, 30, 0, &t);
    assert_int_equal(t.status[0], SHERD_EIO);
    for (int32_t r = 1; r < 4; r++) {
        assert_int_equal(t.status[r], SHERD_EABORTED);
        assert_says(&t.err[r], "the data file ends here");
    }
}

static void test_peer_stays_away(void **state)
{
    trouble t = {.who = 1, .rounds = 2, .then = 3};
    (void)state;
    stub = nccl_stub_open();
    run_trouble(2, 0.4, 0, &t);
    assert_int_equal(t.status[0], SHERD_ETIMEOUT);
    assert_string_equal(t.err[0].text, "rank 1 did not arrive within 0.4 s at reduce-scatter of bucket 2");
    assert_int_equal(t.err[0].rank, 1);
}

/* Between hosts, and adopted: nobody knows who. */
static void test_without_side_channel(void **state)
{
    trouble t = {.who = 1, .rounds = 2, .then = 3};
    (void)state;
    stub = nccl_stub_open();
    run_trouble(2, 0.4, 1, &t);
    assert_int_equal(t.status[0], SHERD_ETIMEOUT);
    assert_says(&t.err[0],
                "NCCL did not finish reduce-scatter of bucket 2 within 0.4 s: a rank has not come, or is gone");
    assert_int_equal(stub->calls("CommAbort"), 2); /* the children; the client's own two were finalized and destroyed */
    assert_true(stub->calls("CommDestroy") >= 2);
}

static void test_calls_refused(void **state)
{
    static const char *const calls[] = {"GroupStart", "GroupEnd", "Send", "Recv", "AllGather", "CommGetAsyncError"};
    (void)state;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        trouble t = {.who = -1};
        stub = nccl_stub_open();
        stub->slow_launch(1);
        stub->refuse(calls[c], c == 5 ? 60 : 12, 3);
        run_trouble(2, 30, 0, &t);
        assert_true(t.status[0] != SHERD_OK && t.status[1] != SHERD_OK);
        assert_true(strstr(t.err[0].text, "an error (3): injected by a test") || strstr(t.err[1].text, "an error (3)"));
    }
}

static void test_window_refused(void **state)
{
    (void)state;
    nccl_rank ranks[NCCL_RANKS] = {{0}};
    trouble t = {.who = -1};
    ranks[0].body = trouble_body;
    ranks[0].arg = &t;
    stub = nccl_stub_open();
    cuda_stub_fail_call("cudaMalloc", 5, cudaErrorMemoryAllocation); /* of one of the ranks' windows */
    nccl_run(2, ranks);
    int32_t who = t.status[0] == SHERD_ENOMEM ? 0 : 1;
    assert_int_equal(t.status[who], SHERD_ENOMEM);
    assert_int_equal(t.status[1 - who], SHERD_EABORTED);
    assert_true(nccl_nothing_left(stub));
}

static void test_context_breaks(void **state)
{
    (void)state;
    for (uint64_t nth = 60; nth <= 200; nth += 45) {
        trouble t = {.who = -1};
        nccl_rank ranks[NCCL_RANKS] = {{.fail_after_s = 20, .body = trouble_body, .arg = &t}};
        int64_t begin = sherd__now_ns();
        stub = nccl_stub_open();
        cuda_stub_break_at(nth, cudaErrorIllegalAddress);
        nccl_run(2, ranks);
        assert_true(ranks[0].status != SHERD_OK || t.status[0] != SHERD_OK);
        assert_true(ranks[1].status != SHERD_OK || t.status[1] != SHERD_OK);
        assert_in_time(begin, 8);
    }
}

/* An abort that never comes back: the caller does. What it may still use stays. */
static void test_abort_that_hangs(void **state)
{
    static trouble t = {.who = 1, .rounds = 2, .then = 3};
    static nccl_rank ranks[NCCL_RANKS];
    int64_t begin = sherd__now_ns();
    (void)state;
    ranks[0] = (nccl_rank){.fail_after_s = 0.3, .body = trouble_body, .arg = &t};
    stub = nccl_stub_open();
    stub->stuck_abort(1);
    nccl_run(2, ranks);
    assert_int_equal(t.status[0], SHERD_ETIMEOUT);
    assert_in_time(begin, 12);
    stub->stuck_abort(0);
    usleep(100000);
}

/* ---------------------------------------------------------------------------------------------------------------
 * engine */

static void engine_body(nccl_rank *rank)
{
    case_result *results = rank->arg;
    engine_case c;
    sherd_device *device = NULL;
    sherd__device_ops ops;
    (void)case_at(5, rank->world, 3, 0, &c);
    c.transport = SHERD_TRANSPORT_NCCL;
    if (sherd_device_create_cuda(NULL, &device, &rank->err) != SHERD_OK)
        return;
    ops = *device->ops;
    ops.touch = nccl_touch_by_cpu;
    device->ops = &ops;
    case_run_rank(&c, device, rank->comm, &results[rank->rank]);
    sherd_device_destroy(device);
}

static void run_engine(uint64_t nth, int code)
{
    case_result *results = calloc(NCCL_RANKS, sizeof *results);
    nccl_rank ranks[NCCL_RANKS] = {{.fail_after_s = 0.4, .body = engine_body, .arg = results}};
    int64_t begin = sherd__now_ns();
    stub = nccl_stub_open();
    if (code)
        stub->error(1, nth, code);
    else
        stub->hang(1, nth);
    nccl_run(2, ranks);
    for (int32_t r = 0; r < 2; r++)
        if (ranks[r].status == SHERD_OK && (results[r].status == SHERD_OK || results[r].error.text[0] == 0))
            fail_msg("operation %d: rank %d went on: %s", (int)nth, (int)r, results[r].error.text);
    assert_in_time(begin, 6);
    assert_true(nccl_nothing_left(stub));
    free(results);
}

static void test_engine_at_any_operation(void **state)
{
    (void)state;
    for (uint64_t nth = 1; nth <= 40; nth += nth < 12 ? 3 : 9) {
        run_engine(nth, 0);
        run_engine(nth + 1, SHERD__NCCL_REMOTE_ERROR);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_library), /* first: a library that has been loaded stays */
        cmocka_unit_test(test_too_old),
        cmocka_unit_test(test_no_gpu),
        cmocka_unit_test(test_creation_refused),
        cmocka_unit_test(test_creation_out_of_cuda),
        cmocka_unit_test(test_creation_never_ends),
        cmocka_unit_test(test_creation_slow),
        cmocka_unit_test(test_a_rank_never_comes),
        cmocka_unit_test(test_hang),
        cmocka_unit_test(test_hang_in_creation),
        cmocka_unit_test(test_asynchronous_error),
        cmocka_unit_test(test_peer_leaves),
        cmocka_unit_test(test_peer_gives_up),
        cmocka_unit_test(test_peer_stays_away),
        cmocka_unit_test(test_without_side_channel),
        cmocka_unit_test(test_calls_refused),
        cmocka_unit_test(test_window_refused),
        cmocka_unit_test(test_engine_at_any_operation),
        cmocka_unit_test(test_abort_that_hangs),
        cmocka_unit_test(test_context_breaks), /* last: a broken context frees nothing */
    };
    snprintf(library, sizeof library, "%s", getenv("SHERD_NCCL_LIBRARY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
