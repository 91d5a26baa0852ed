/* SPDX-License-Identifier: MIT
 *
 * The engine's matrix with ranks on CUDA devices over the stub: control flow, order and arithmetic, equal to the
 * unsharded oracle in every bit. Ranks are threads, and processes that lend each other their memory. Memory of the
 * device tier is hidden from the CPU while no kernel or copy runs (but for what the client here reads and writes). It
 * shows nothing about a GPU.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "device/cuda.h"
#include "sherd/sherd_cuda.h"
#include "tests/engine/compare.h"
#include "tests/support/cuda_stub/stub.h"

enum { RANKS = 4, MAX_CASES = 512 };

typedef struct run {
    int32_t world;
    int64_t steps;
    int wide; /* 2: offloaded; 3: reproducible; 4: LAMB; 5: types on the wire; 6: Muon */
    uint32_t first, stride;
    case_result results[RANKS][MAX_CASES];
} run;

typedef struct rank_thread {
    pthread_t thread;
    run *run;
    int32_t rank;
    sherd_comm *comm;
    sherd_error err;
} rank_thread;

static uint32_t combinations;

/* The test's client is a CPU: where it is about to read or write memory of the device, the compute stream must have got
 * there. (A client on the GPU launches into that stream instead.) */
static sherd_status touch_by_cpu(sherd_device *device, sherd__tag tag, sherd__access access)
{
    if (strncmp(tag.name, "client ", 7) == 0)
        cuda_stub_show_memory(
            access.address); /* parameters and gradients are device memory, which it reads and writes */
    return sherd__cuda_await_idle((sherd__cuda_stream *)device->compute, "client on the CPU");
}

static int next_case(const run *run, uint32_t i, engine_case *out)
{
    if (run->wide == 3) { /* one tree over eight micro-batches; and a wrong order of parameters, mended */
        int more = case_at(i, run->world, run->steps, 0, out);
        out->reproducible = 1;
        out->accumulation = 8 / run->world;
        out->replan = i % 2;
        out->arrival = i % 2 ? ARRIVE_FORWARD : ARRIVE_BACKWARD;
        return more;
    }
    if (run->wide < 2)
        return case_at(i, run->world, run->steps, run->wide, out);
    int more = run->wide == 4   ? case_lamb_at(i, run->world, run->steps, out)
               : run->wide == 5 ? case_wire_at(i, run->world, run->steps, out)
               : run->wide == 6 ? case_muon_at(i, run->world, run->steps, out)
                                : case_offload_at(i, run->world, run->steps, out);
    out->read_back = 0; /* the client here is a CPU and reads main memory only */
    return more;
}

static void *rank_main(void *arg)
{
    rank_thread *self = arg;
    sherd_cuda_options options;
    sherd_device *device = NULL;
    sherd__device_ops ops;
    engine_case c;
    sherd_cuda_options_init(&options, sizeof options);
    if (sherd_device_create_cuda(&options, &device, &self->err) != SHERD_OK)
        return NULL;
    ops = *device->ops;
    ops.touch = touch_by_cpu;
    device->ops = &ops;
    const run *run = self->run;
    for (uint32_t i = run->first; i < MAX_CASES && next_case(run, i, &c); i += run->stride) {
        case_result *result = &self->run->results[self->rank][i];
        case_run_rank(&c, device, self->comm, result);
        if (result->status != SHERD_OK)
            break;
    }
    sherd_comm_destroy(self->comm);
    sherd_device_destroy(device);
    return NULL;
}

static void run_ranks(run *run)
{
    rank_thread ranks[RANKS] = {0};
    sherd_comm *comms[RANKS];
    sherd_comm_options options;
    sherd_error err;
    sherd_comm_options_init(&options, sizeof options);
    options.fail_after_s = 30;
    if (sherd_comm_create_threads(&options, run->world, comms, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    for (int32_t r = 0; r < run->world; r++) {
        ranks[r] = (rank_thread){.run = run, .rank = r, .comm = comms[r]};
        assert_int_equal(pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]), 0);
    }
    for (int32_t r = 0; r < run->world; r++) {
        pthread_join(ranks[r].thread, NULL);
        if (ranks[r].err.status != SHERD_OK)
            fail_msg("rank %d: %s", r, ranks[r].err.text);
    }
}

/* A process of its own: what it leaves is in `run`, which is shared. */
static int process_main(run *run, sherd_rendezvous *rendezvous, int32_t rank)
{
    rank_thread self = {.run = run, .rank = rank};
    sherd_comm_options options;
    sherd_comm_options_init(&options, sizeof options);
    options.fail_after_s = 30;
    if (sherd_rendezvous_join(rendezvous, rank, &self.err) != SHERD_OK ||
        sherd_comm_create_local(&options, rank, run->world, sherd_rendezvous_allgather, rendezvous, &self.comm,
                                &self.err) != SHERD_OK ||
        (rank_main(&self), self.err.status) != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, self.err.text);
        return 1;
    }
    return cuda_stub_calls("update") == 0;
}

static void run_processes(run *run)
{
    sherd_rendezvous *rendezvous;
    pid_t pids[RANKS];
    int state;
    sherd_error err;
    if (sherd_rendezvous_create(run->world, &rendezvous, &err) != SHERD_OK)
        fail_msg("%s", err.text);
    fflush(NULL);
    for (int32_t r = 0; r < run->world; r++) {
        pids[r] = fork();
        assert_true(pids[r] >= 0);
        if (pids[r] == 0) {
            alarm(100);
            _exit(process_main(run, rendezvous, r));
        }
    }
    for (int32_t r = 0; r < run->world; r++)
        assert_true(waitpid(pids[r], &state, 0) == pids[r] && WIFEXITED(state) && WEXITSTATUS(state) == 0);
    sherd_rendezvous_destroy(rendezvous);
}

static void compare(const run *run)
{
    engine_case c;
    case_result want;
    uint32_t compared = 0;
    for (uint32_t i = run->first; i < MAX_CASES && next_case(run, i, &c); i += run->stride) {
        case_run_oracle(&c, SHERD_ORACLE_RIGHT, &want);
        for (int32_t r = 0; r < run->world; r++)
            compared_result(&c, &want, &run->results[r][i], r);
        compared++;
    }
    assert_true(compared > 0);
    combinations += compared;
}

static void run_world(int32_t world, int64_t steps, int wide, uint32_t first, uint32_t stride)
{
    run *run = calloc(1, sizeof *run);
    assert_non_null(run);
    cuda_stub_reset(1, 0);
    cuda_stub_hide_memory(wide || world == 2); /* it takes time */
    run->world = world;
    run->steps = steps;
    run->wide = wide;
    run->first = first;
    run->stride = stride;
    run_ranks(run);
    compare(run);
    assert_true(cuda_stub_calls("update") > 0 && cuda_stub_calls("sum") > 0); /* it ran where it should */
    free(run);
}

/* In GPU memory that is lent, and in pinned files where it cannot be. */
static void test_processes(void **state)
{
    (void)state;
    for (int lend = 0; lend < 2; lend++) {
        run *run = mmap(NULL, sizeof *run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        assert_true(run != MAP_FAILED);
        cuda_stub_reset(1, 0);
        cuda_stub_hide_memory(1);
        cuda_stub_refuse_lending(!lend);
        run->world = 2 + lend;
        run->steps = 4;
        run->stride = 5;
        run_processes(run);
        compare(run);
        munmap(run, sizeof *run);
    }
}

static void test_matrix(void **state)
{
    (void)state;
    for (int32_t world = 1; world <= RANKS; world++)
        run_world(world, 4, 0, 0, 1);
}

/* Accumulation 3, bf16 sums, Adam, parked gradients, foreign buffers, skipped steps: every fifth. */
static void test_wide(void **state)
{
    (void)state;
    run_world(2, 3, 1, 0, 5);
    run_world(3, 3, 1, 2, 5);
}

static void test_reproducible(void **state)
{
    (void)state;
    run_world(1, 3, 3, 0, 7);
    run_world(2, 3, 3, 1, 5);
}

/* State on the host and on disk, speculated or not. */
static void test_offload(void **state)
{
    (void)state;
    run_world(1, 3, 2, 0, 1);
    run_world(2, 3, 2, 0, 2);
    run_world(3, 3, 2, 1, 3);
}

/* Norms of whole parameters, whose ratios pass through the host. */
static void test_lamb(void **state)
{
    (void)state;
    run_world(1, 3, 4, 0, 4);
    run_world(2, 3, 4, 1, 3);
    run_world(3, 3, 4, 2, 5);
    assert_true(cuda_stub_calls("trust") > 0);
}

/* Matrices stepped as wholes, in a window that ranks read of each other. */
static void test_muon(void **state)
{
    (void)state;
    run_world(1, 3, 6, 0, 9);
    run_world(2, 3, 6, 1, 7);
    run_world(3, 3, 6, 2, 8);
    assert_true(cuda_stub_calls("product") > 0);
}

static void test_wire(void **state)
{
    (void)state;
    run_world(1, 3, 5, 0, 5);
    run_world(2, 3, 5, 1, 4);
    run_world(3, 3, 5, 2, 7);
    assert_true(cuda_stub_calls("narrow") > 0);
    printf("combinations: %u\n", combinations);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_processes), cmocka_unit_test(test_matrix),
                                       cmocka_unit_test(test_wide),      cmocka_unit_test(test_reproducible),
                                       cmocka_unit_test(test_offload),   cmocka_unit_test(test_lamb),
                                       cmocka_unit_test(test_muon),      cmocka_unit_test(test_wire)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
