/* SPDX-License-Identifier: MIT
 *
 * Orthogonalising with threads and thread blocks in any order, on the emulator: both sizes of tiles give the
 * reference's bits, and do not without their barriers. It shows nothing about a GPU's speed or memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/device/cuda_orthogonal_simt.h"
#include "tests/device/host_math_values.h"
#include "tests/support/cuda_stub/simt_control.h"
#include "tests/support/cuda_stub/stub.h"

typedef struct launchers {
    int (*product)(const sherd__cuda_product *args, int per, void *stream);
    int (*part)(const sherd__cuda_orthogonal *args, sherd__cuda_part part, void *stream);
} launchers;

static const launchers whole = {simt_product, simt_part};
static const launchers no_barrier_in_products = {simt_product_loose, simt_part};
static const launchers no_barrier_around_them = {simt_product, simt_part_loose};

static cudaStream_t stream;

static int begin(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    simt_catch(1);
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess;
}

static int end(void **state)
{
    (void)state;
    return cudaStreamDestroy(stream) != cudaSuccess;
}

/* One step after the other, as device/cuda_orthogonal.c launches them. */
static void launch_all(const launchers *with, float *matrix, float *scratch, int64_t rows, int64_t cols, int steps,
                       int per)
{
    int turned = rows > cols;
    int64_t m = turned ? cols : rows, n = turned ? rows : cols, narrow = sherd__muon_padded(m),
            wide = sherd__muon_padded(n);
    float *x = scratch + SHERD__MUON_HEAD, *next = x + narrow * wide, *gram = next + narrow * wide;
    float *mix = gram + narrow * narrow;
    sherd__cuda_orthogonal args = {.matrix = matrix,
                                   .x = x,
                                   .rows = rows,
                                   .cols = cols,
                                   .pitch = wide,
                                   .turned = (uint8_t)turned,
                                   .scale = sherd__muon_scale(rows, cols)};
    args.norm = (sherd__norm *)(void *)scratch;
    for (sherd__cuda_part part = SHERD__CUDA_CLEAR; part < SHERD__CUDA_END; part++)
        assert_int_equal(with->part(&args, part, stream), cudaSuccess);
    for (int i = 0; i < steps; i++) {
        sherd__cuda_product products[] = {
            {NULL, x, x, gram, m, m, n, wide, wide, narrow, SHERD__CUDA_GRAM},
            {NULL, gram, gram, mix, m, m, m, narrow, narrow, narrow, SHERD__CUDA_MIX},
            {NULL, mix, x, next, m, n, m, narrow, wide, wide, SHERD__CUDA_STEP},
        };
        for (int k = 0; k < 3; k++)
            assert_int_equal(with->product(&products[k], per, stream), cudaSuccess);
        next = x;
        x = products[2].out;
    }
    args.x = x;
    assert_int_equal(with->part(&args, SHERD__CUDA_END, stream), cudaSuccess);
}

/* 1: the reference's bits. */
static int right(const launchers *with, int64_t rows, int64_t cols, int steps, int per)
{
    int64_t bytes = rows * cols * 4, scratch_bytes = sherd__muon_scratch_elems(rows, cols) * 4;
    float *want = array_new(bytes), *got = array_new(bytes), *scratch = array_new(scratch_bytes);
    sherd__orthogonal job = {.matrix = want, .scratch = scratch, .rows = rows, .cols = cols, .steps = steps};
    fill_values(want, SHERD_FP32, rows * cols, 31, FINITE);
    memcpy(got, want, (size_t)bytes);
    reference_variant()->orthogonalise(NULL, &job);
    memset(scratch, 0, (size_t)scratch_bytes);
    launch_all(with, got, scratch, rows, cols, steps, per);
    for (int i = 0; cudaStreamQuery(stream) == cudaErrorNotReady; i++) {
        assert_true(i < 200000);
        usleep(100);
    }
    int same = memcmp(want, got, (size_t)bytes) == 0;
    free(want);
    free(got);
    free(scratch);
    return same;
}

static void any_order_gives_the_bits(void **state)
{
    static const struct {
        int64_t rows, cols;
        int steps;
    } shapes[] = {{1, 7, 2}, {31, 70, 2}, {70, 31, 2}, {150, 131, 1}};
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            simt_seed(seed);
            assert_true(right(&whole, shapes[s].rows, shapes[s].cols, shapes[s].steps, seed % 2 ? 8 : 4));
            assert_true(s == 3 || right(&whole, shapes[s].rows, shapes[s].cols, shapes[s].steps, seed % 2 ? 4 : 8));
        }
    assert_string_equal(simt_fault(), "");
}

static void without_barriers_the_bits_are_lost(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3; seed++) {
        simt_seed(seed);
        assert_false(right(&no_barrier_in_products, 31, 70, 1, 4));
        assert_false(right(&no_barrier_in_products, 31, 70, 1, 8));
        assert_false(right(&no_barrier_around_them, 31, 70, 1, 4));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_gives_the_bits),
        cmocka_unit_test(without_barriers_the_bits_are_lost),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
