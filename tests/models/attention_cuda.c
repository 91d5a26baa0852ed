/* SPDX-License-Identifier: MIT
 *
 * Attention's CUDA kernels over shapes, types and orders of execution. Linked with attention_cuda_simt.c they run on
 * the emulator of a thread block, which cannot show what nvcc's code does on a GPU; with attention_cuda_gpu.c on a GPU,
 * or not at all (77).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/models/attention_cuda_case.h"

static const int64_t head_counts[][2] = {{1, 1}, {4, 2}, {6, 1}};
static const int64_t lengths[] = {1, 7, 63, 64, 65, 130};

static void assert_right(sherd_dtype dtype, int64_t batch, int64_t seq, const int64_t heads[2], int64_t dim)
{
    problem p;
    tally forward = {0}, backward = {0};
    problem_make(&p, dtype, batch, seq, heads[0], heads[1], dim);
    problem_run(&p, 0);
    problem_check(&p, 0, &forward, &backward);
    if (forward.missed || backward.missed)
        fail_msg("type %d, batch %d, seq %d, heads %d/%d, dim %d: %d and %d values beyond their bounds, by %g and %g",
                 (int)dtype, (int)batch, (int)seq, (int)heads[0], (int)heads[1], (int)dim, (int)forward.missed,
                 (int)backward.missed, forward.worst, backward.worst);
    assert_int_equal(forward.compared, batch * heads[0] * seq * (dim + 1));
    assert_int_equal(backward.compared, batch * (heads[0] + 2 * heads[1]) * seq * dim);
    problem_drop(&p);
}

/* Every length with every count of heads where `all`, else with one of them. */
static void over_shapes(sherd_dtype dtype, int64_t dim, int all)
{
    for (size_t h = 0; h < sizeof head_counts / sizeof *head_counts; h++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            if ((all && lengths[l] < 100) || h == (l + (size_t)dim) % 3)
                assert_right(dtype, lengths[l] < 10 ? 3 : 1, lengths[l], head_counts[h], dim);
}

static void tensor_cores_32(void **state)
{
    (void)state;
    over_shapes(SHERD_BF16, 32, 0);
}

static void tensor_cores_64(void **state)
{
    (void)state;
    over_shapes(SHERD_BF16, 64, 1);
}

static void tensor_cores_128(void **state)
{
    (void)state;
    over_shapes(SHERD_BF16, 128, 0);
}

static void tensor_cores_between(void **state)
{
    static const int64_t dims[] = {8, 24, 40, 80, 96, 120};
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        assert_right(SHERD_BF16, 2, 70, head_counts[1], dims[i]);
}

static void plain_fp32(void **state)
{
    static const int64_t dims[] = {1, 5, 32, 64, 128, 256};
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            if (i == 3 || lengths[l] < 65)
                assert_right(SHERD_FP32, 1, lengths[l], head_counts[(i + l) % 3], dims[i]);
}

static void plain_bf16(void **state)
{
    static const int64_t dims[] = {1, 20, 65, 132, 256};
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        assert_right(SHERD_BF16, 2, 37, head_counts[1], dims[i]);
}

/* On no tensor cores: their kernels take bf16. */
static void plain_fp16(void **state)
{
    static const int64_t dims[] = {1, 20, 64, 65, 128};
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        assert_right(SHERD_FP16, 2, 37, head_counts[1], dims[i]);
}

/* A mask one too wide or too narrow is far beyond the bounds. */
static void a_wrong_mask_is_found(void **state)
{
    static const sherd_dtype types[] = {SHERD_BF16, SHERD_FP32};
    (void)state;
    for (int type = 0; type < 2; type++) {
        for (int64_t shift = -1; shift <= 1; shift += 2) {
            problem p;
            tally forward = {0}, backward = {0};
            problem_make(&p, types[type], 1, 40, 2, 1, 64);
            problem_run(&p, 0);
            problem_check(&p, shift, &forward, &backward);
            assert_true(forward.missed > forward.compared / 3);
            assert_true(backward.missed > backward.compared / 3);
            problem_drop(&p);
        }
    }
}

/* Runs and orders of execution give the same bits. */
static void assert_same_bits(sherd_dtype dtype, int64_t seq, const int64_t heads[2], int64_t dim)
{
    problem first, again;
    problem_make(&first, dtype, 2, seq, heads[0], heads[1], dim);
    problem_make(&again, dtype, 2, seq, heads[0], heads[1], dim);
    problem_run(&first, 0);
    for (uint64_t seed = 0; seed < 4; seed++) {
        problem_run(&again, seed);
        for (int i = OUT; i < ARRAYS; i++)
            assert_memory_equal(first.array[i], again.array[i], first.bytes[i]);
    }
    problem_drop(&first);
    problem_drop(&again);
}

static void every_order_gives_the_same_bits(void **state)
{
    (void)state;
    assert_same_bits(SHERD_BF16, 65, head_counts[1], 32);
    assert_same_bits(SHERD_BF16, 130, head_counts[0], 64);
    assert_same_bits(SHERD_BF16, 50, head_counts[0], 128);
    assert_same_bits(SHERD_BF16, 20, head_counts[1], 20);
    assert_same_bits(SHERD_FP32, 40, head_counts[1], 16);
    assert_same_bits(SHERD_FP16, 40, head_counts[1], 16);
}

/* Scores so large that only the running maximum keeps them finite, and rows that see one key only with weight. */
static void large_scores_stay_finite(void **state)
{
    (void)state;
    for (int type = 0; type < 2; type++) {
        problem p;
        tally forward = {0}, backward = {0};
        problem_make(&p, type ? SHERD_FP32 : SHERD_BF16, 1, 70, 1, 1, 64);
        problem_draw(&p, Q, 11, 40);
        problem_draw(&p, K, 12, 40);
        problem_run(&p, 0);
        problem_check(&p, 0, &forward, &backward);
        assert_int_equal(forward.missed + backward.missed, 0);
        problem_drop(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensor_cores_32),
        cmocka_unit_test(tensor_cores_64),
        cmocka_unit_test(tensor_cores_128),
        cmocka_unit_test(tensor_cores_between),
        cmocka_unit_test(plain_fp32),
        cmocka_unit_test(plain_bf16),
        cmocka_unit_test(plain_fp16),
        cmocka_unit_test(a_wrong_mask_is_found),
        cmocka_unit_test(every_order_gives_the_same_bits),
        cmocka_unit_test(large_scores_stay_finite),
    };
    int code = attention_place_open();
    if (code != 0)
        return code;
    code = cmocka_run_group_tests(tests, NULL, NULL);
    attention_place_close();
    return code;
}
