/* SPDX-License-Identifier: MIT
 *
 * Orthogonalising through the CUDA device's table, its kernels' bodies on the host: the reference's bits in both sizes
 * of tiles, and nothing else touched.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/cuda_world.h"
#include "tests/device/host_math_values.h"

#define GUARD 64 /* elements */

static sherd_device *device;
static sherd__stream *stream;

static int begin(void **state)
{
    (void)state;
    cuda_stream_begin(&device, &stream);
    return 0;
}

static int end(void **state)
{
    (void)state;
    cuda_stream_end(device, stream);
    return 0;
}

static void check_matrix(int64_t rows, int64_t cols, int32_t steps, value_mix mix, uint32_t skip)
{
    int64_t elems = rows * cols, scratch_elems = sherd__muon_scratch_elems(rows, cols);
    size_t bytes = (size_t)(elems + GUARD) * 4, scratch_bytes = (size_t)(scratch_elems + GUARD) * 4;
    float *want = array_new((int64_t)bytes), *room = array_new((int64_t)scratch_bytes);
    float *got = device_block(device, bytes), *scratch = device_block(device, scratch_bytes);
    sherd__step_scalars *scalars = device_block(device, sizeof *scalars);
    sherd__orthogonal job = {.matrix = want, .scratch = room, .rows = rows, .cols = cols, .steps = steps};
    uint64_t products = cuda_stub_calls("product");
    scalars->skip = skip;
    fill_values(want, SHERD_FP32, elems + GUARD, 17, mix);
    memcpy(got, want, bytes);
    memset(scratch, 0x5B, scratch_bytes);
    if (!skip)
        reference_variant()->orthogonalise(NULL, &job);
    job.matrix = got;
    job.scratch = scratch;
    job.scalars = scalars;
    OK(device->ops->orthogonalise(stream, tag, &job));
    OK(sync_stream(device, stream));
    if (memcmp(want, got, bytes) != 0)
        fail_msg("%lld × %lld, %d steps, mix %d, skip %u", (long long)rows, (long long)cols, steps, mix, skip);
    for (int64_t i = 0; i < GUARD * 4; i++)
        assert_int_equal(((unsigned char *)(scratch + scratch_elems))[i], 0x5B);
    assert_int_equal(cuda_stub_calls("product") - products, 3 * steps);
    free(want);
    free(room);
    sherd_device_free(device, scalars);
    sherd_device_free(device, scratch);
    sherd_device_free(device, got);
}

/* The stub takes wide tiles for products of four of them or more: 130 × 300 has narrow and wide ones. */
static void matrices_have_the_reference_s_bits(void **state)
{
    static const struct {
        int64_t rows, cols;
        int32_t steps;
        value_mix mix;
    } shapes[] = {
        {1, 1, 5, FINITE},   {1, 7, 5, FINITE},     {7, 1, 5, FINITE},     {31, 257, 5, FINITE},  {257, 31, 5, FINITE},
        {64, 64, 2, FINITE}, {130, 300, 2, FINITE}, {300, 130, 2, FINITE}, {260, 260, 1, FINITE}, {3, 5000, 1, FINITE},
        {70, 90, 0, FINITE}, {90, 70, 0, FINITE},   {40, 50, 2, SPECIAL},  {65, 129, 1, SPECIAL},
    };
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_matrix(shapes[i].rows, shapes[i].cols, shapes[i].steps, shapes[i].mix, 0);
}

static void a_skipped_step_changes_nothing(void **state)
{
    (void)state;
    check_matrix(40, 70, 5, FINITE, 1);
    check_matrix(70, 40, 5, SPECIAL, 1);
}

/* Every launch fails once: the device is poisoned with a sentence that names the kernel, and nothing is issued after
 * it. */
static void every_launch_may_fail(void **state)
{
    static const struct {
        const char *function, *kernel;
        uint64_t launches;
    } faults[] = {
        {"product", "product kernel", 6},
        {"orthogonal", "orthogonalise kernel", 4},
    };
    float *matrix = array_new(20 * 30 * 4), *scratch = array_new(sherd__muon_scratch_elems(20, 30) * 4);
    sherd__orthogonal job = {.matrix = matrix, .scratch = scratch, .rows = 20, .cols = 30, .steps = 2};
    (void)state;
    for (size_t f = 0; f < sizeof faults / sizeof *faults; f++) {
        for (uint64_t nth = 1; nth <= faults[f].launches; nth++) {
            sherd_error err;
            begin(NULL);
            fill_values(matrix, SHERD_FP32, 20 * 30, 17, FINITE);
            cuda_stub_fail_call(faults[f].function, nth, cudaErrorInvalidValue);
            (void)device->ops->orthogonalise(stream, tag, &job);
            (void)sync_stream(device, stream);
            assert_int_not_equal(sherd__device_error(device, &err), SHERD_OK);
            assert_non_null(strstr(err.text, faults[f].kernel));
            assert_int_equal(cuda_stub_calls(faults[f].function), nth);
            end(NULL);
        }
    }
    free(matrix);
    free(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(matrices_have_the_reference_s_bits, begin, end),
        cmocka_unit_test_setup_teardown(a_skipped_step_changes_nothing, begin, end),
        cmocka_unit_test(every_launch_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
