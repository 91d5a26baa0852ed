/* SPDX-License-Identifier: MIT
 *
 * The emulator runs right kernels rightly in every order, and finds each fault that is planted for it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/support/cuda_stub/simt_control.h"
#include "tests/support/cuda_stub/simt_kernels.h"
#include "tests/support/cuda_stub/stub.h"

enum { BLOCKS = 3, THREADS = 96, ELEMS = BLOCKS * THREADS * 8 };

static _Alignas(64) int32_t in[ELEMS], out[ELEMS];
static cudaStream_t stream;

static int setup(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    simt_catch(1);
    for (int i = 0; i < ELEMS; i++)
        in[i] = i * 7919 % 1000 - 300;
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return cudaStreamDestroy(stream) == cudaSuccess ? 0 : -1;
}

static void wait(void)
{
    const struct timespec pause = {0, 100000};
    for (int i = 0; cudaStreamQuery(stream) == cudaErrorNotReady; i++) {
        assert_true(i < 200000);
        nanosleep(&pause, NULL);
    }
}

static void run(simt_kernel which, unsigned blocks, unsigned threads, size_t shared_bytes)
{
    memset(out, 0, sizeof out);
    assert_int_equal(simt_run(which, blocks, threads, shared_bytes, in, out, stream), cudaSuccess);
    wait();
}

static int sums_are_wrong(void)
{
    int wrong = 0;
    for (int block = 0; block < BLOCKS; block++) {
        int32_t sum = 0;
        for (int i = 0; i < THREADS; i++)
            sum += in[block * THREADS + i];
        wrong += out[block] != sum;
    }
    return wrong;
}

static void blocks_sum(void **state)
{
    (void)state;
    uint64_t before = simt_blocks();
    int found = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        simt_seed(seed);
        run(SIMT_SUM, BLOCKS, THREADS, THREADS / 32 * sizeof(int32_t));
        assert_int_equal(sums_are_wrong(), 0);
        run(SIMT_SUM_NO_BARRIER, BLOCKS, THREADS, THREADS / 32 * sizeof(int32_t));
        found += sums_are_wrong() > 0;
    }
    assert_true(found >= 3); /* rising order hides nothing here: the first warp is the reader */
    assert_int_equal(simt_blocks() - before, 6 * 2 * BLOCKS);
    assert_string_equal(simt_fault(), "");
}

static int32_t at(int thread, int lane)
{
    return in[thread / 32 * 32 + lane];
}

static int32_t half_reduced(int thread)
{
    int32_t greatest = at(thread, 0), sum = 0;
    for (int lane = 0; lane < 16; lane++) {
        greatest = greatest < at(thread, lane) ? at(thread, lane) : greatest;
        sum += at(thread, lane + 16);
    }
    return thread % 32 < 16 ? greatest : 3 * sum;
}

static void votes_and_shuffles(void **state)
{
    (void)state;
    int32_t positive = 0;
    for (int i = 0; i < THREADS; i++)
        positive += in[i] > 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        simt_seed(seed);
        run(SIMT_VOTES, 1, THREADS, 0);
        for (int i = 0; i < THREADS; i++) {
            int lane = i % 32;
            int32_t want = (in[i] & 1) + 2 * at(i, 3) + 4 * at(i, lane < 31 ? lane + 1 : 31);
            want += 8 * at(i, lane >= 2 ? lane - 2 : lane) + 16 * at(i, lane ^ 4);
            assert_int_equal(out[i], want + half_reduced(i) + positive);
        }
    }
    assert_string_equal(simt_fault(), "");
}

static void asynchronous_copies(void **state)
{
    (void)state;
    int found = 0;
    for (uint64_t seed = 0; seed < 4; seed++) {
        simt_seed(seed);
        run(SIMT_COPIES, 1, THREADS, THREADS * 32);
        for (int i = 0; i < THREADS; i++)
            assert_int_equal(out[i], in[8 * i] + in[8 * i + 3] + in[8 * i + 5]); /* behind 8 bytes: zeros */
        run(SIMT_COPIES_NO_WAIT, 1, THREADS, THREADS * 32);
        found += out[0] != in[0] + in[3] + in[5];
    }
    assert_int_equal(found, 2);
}

/* Small integers: exact in bf16, and their sums in fp32. */
static void tensor_core_layout(void **state)
{
    (void)state;
    int32_t kept[16 * 24], value[16 * 24];
    memcpy(kept, in, sizeof kept);
    for (int i = 0; i < 16 * 24; i++) {
        union {
            float f;
            uint32_t u;
        } x = {.f = (float)(i * 31 % 64 - 21)};
        value[i] = (int32_t)x.f;
        in[i] = (int32_t)(x.u >> 16);
    }
    simt_seed(5);
    run(SIMT_MMA, 1, 32, sizeof(uint16_t) * 16 * 24);
    memcpy(in, kept, sizeof kept);
    for (int row = 0; row < 16; row++) {
        for (int col = 0; col < 8; col++) {
            int32_t sum = 0;
            for (int k = 0; k < 16; k++)
                sum += value[16 * row + k] * value[256 + 8 * k + col];
            assert_int_equal(out[8 * row + col], sum);
        }
    }
}

static void integers_add_up(void **state)
{
    (void)state;
    run(SIMT_ATOMICS, BLOCKS, THREADS, 0);
    assert_int_equal(out[0], BLOCKS * THREADS * (in[0] + (THREADS - 1) / 2.0));
    assert_int_equal(out[1], BLOCKS * THREADS - 1);
}

static void finds(simt_kernel which, const char *what)
{
    for (uint64_t seed = 0; seed < 4; seed++) {
        simt_seed(seed);
        run(which, 2, 64, 64 * sizeof(int32_t));
        const char *sentence = simt_fault();
        if (!strstr(sentence, what))
            fail_msg("kernel %d, seed %d: '%s' does not say '%s'", (int)which, (int)seed, sentence, what);
    }
}

static void faults_are_found(void **state)
{
    (void)state;
    finds(SIMT_LEFT_EARLY, "32 of 64 threads wait at __syncthreads, which the others never reach");
    finds(SIMT_TWO_PLACES, "reaches this __syncthreads while others of its block wait at");
    finds(SIMT_HALF_A_WARP, "wait at __shfl_sync, which the others never reach");
    finds(SIMT_ODD_ROW, "row is not aligned to 16 bytes");
    in[40] = 7;
    finds(SIMT_TRAP, "__trap");
#if !defined(__SANITIZE_ADDRESS__) /* there the program ends at the write */
    finds(SIMT_BEYOND_SHARED, "wrote byte 0 behind its 256 bytes of dynamic shared memory");
#endif
    run(SIMT_SUM, BLOCKS, THREADS, THREADS / 32 * sizeof(int32_t)); /* and goes on */
    assert_int_equal(sums_are_wrong(), 0);
    assert_string_equal(simt_fault(), "");
}

static void launches_are_checked(void **state)
{
    (void)state;
    assert_int_equal(simt_run(SIMT_SUM, 1, 1025, 0, in, out, stream), cudaErrorInvalidValue);
    assert_int_equal(simt_run(SIMT_SUM, 0, 32, 0, in, out, stream), cudaErrorInvalidValue);
    assert_int_equal(simt_run(SIMT_SUM, 1, 32, 48 * 1024 + 1, in, out, stream), cudaErrorInvalidValue);
    assert_int_equal(simt_allow_shared(SIMT_SUM, 227 * 1024 + 1), cudaErrorInvalidValue);
    assert_int_equal(simt_allow_shared(SIMT_SUM, 99 * 1024), cudaSuccess);
    assert_int_equal(simt_run(SIMT_SUM, 1, 32, 99 * 1024, in, out, stream), cudaSuccess);
    wait();
    simt_shared_limit(64 * 1024);
    assert_int_equal(simt_shared_optin(), 64 * 1024);
    assert_int_equal(simt_allow_shared(SIMT_SUM, 99 * 1024), cudaErrorInvalidValue);
    simt_shared_limit(0);
    cuda_stub_fail_call("cudaLaunchKernel", 1, cudaErrorLaunchFailure);
    assert_int_equal(simt_run(SIMT_SUM, 1, 32, 64, in, out, stream), cudaErrorLaunchFailure);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(blocks_sum, setup, teardown),
        cmocka_unit_test_setup_teardown(votes_and_shuffles, setup, teardown),
        cmocka_unit_test_setup_teardown(asynchronous_copies, setup, teardown),
        cmocka_unit_test_setup_teardown(tensor_core_layout, setup, teardown),
        cmocka_unit_test_setup_teardown(integers_add_up, setup, teardown),
        cmocka_unit_test_setup_teardown(faults_are_found, setup, teardown),
        cmocka_unit_test_setup_teardown(launches_are_checked, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
