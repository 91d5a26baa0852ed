/* SPDX-License-Identifier: MIT
 *
 * Orthogonalising: every fast variant against the reference, bit for bit: shapes of all kinds, teams, special values,
 * matrices that begin anywhere. What lies behind the matrix and behind the scratch memory must not change.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/device/host_math_values.h"

#define GUARD 1024 /* elements behind the scratch memory that are looked at */
#define TEAMS 3

typedef struct shape {
    int64_t rows, cols;
    int32_t steps;
    value_mix mix;
} shape;

static const shape shapes[] = {
    {1, 1, 5, FINITE},     {1, 7, 5, FINITE},     {7, 1, 5, FINITE},     {5, 5, 5, FINITE},     {31, 257, 5, FINITE},
    {257, 31, 5, FINITE},  {32, 32, 5, FINITE},   {33, 64, 2, FINITE},   {64, 33, 3, FINITE},   {128, 129, 1, FINITE},
    {130, 131, 5, FINITE}, {129, 260, 2, FINITE}, {260, 129, 2, FINITE}, {3, 20000, 2, FINITE}, {9000, 2, 2, FINITE},
    {70, 300, 0, FINITE},  {300, 70, 0, FINITE},  {40, 90, 3, SPECIAL},  {1, 1, 2, SPECIAL},    {20, 3000, 1, SPECIAL},
};

static sherd__team *teams[TEAMS + 1];

/* The matrix begins `shift` elements behind a multiple of 64 bytes. */
static float *matrix_new(const shape *s, int64_t shift)
{
    float *block = array_new((s->rows * s->cols + shift) * 4);
    fill_values(block + shift, SHERD_FP32, s->rows * s->cols, 11, s->mix);
    return block;
}

static float *run(const sherd__host_math *math, sherd__team *team, const shape *s, int64_t shift,
                  const sherd__step_scalars *scalars)
{
    float *block = matrix_new(s, shift), *scratch, *guard;
    int64_t elems = sherd__muon_scratch_elems(s->rows, s->cols);
    sherd__orthogonal job = {
        .scalars = scalars, .matrix = block + shift, .rows = s->rows, .cols = s->cols, .steps = s->steps};
    scratch = array_new((elems + GUARD) * 4);
    guard = array_new((elems + GUARD) * 4);
    job.scratch = scratch;
    math->orthogonalise(team, &job);
    assert_memory_equal(scratch + elems, guard + elems, GUARD * 4);
    free(guard);
    free(scratch);
    return block;
}

static void check_shape(const shape *s, int64_t shift, uint64_t *cases)
{
    const sherd__host_math *fast[MAX_VARIANTS];
    uint32_t n = fast_variants(fast);
    size_t bytes = (size_t)(s->rows * s->cols + shift) * 4 + 4096;
    float *want = run(reference_variant(), NULL, s, shift, NULL);
    for (int64_t i = 0; i < s->rows * s->cols; ++i) {
        assert_int_not_equal(sherd__bits_of_f32(want[shift + i]), 0x80000000u);
    }
    for (uint32_t v = 0; v < n; ++v) {
        for (int t = 0; t <= TEAMS; ++t, ++*cases) {
            float *got = run(fast[v], teams[t], s, shift, NULL);
            if (memcmp(want, got, bytes) != 0) {
                fail_msg("%s, team %d: %lld × %lld, %d steps, mix %d, shift %lld: unlike the reference", fast[v]->name,
                         t, (long long)s->rows, (long long)s->cols, (int)s->steps, (int)s->mix, (long long)shift);
            }
            free(got);
        }
    }
    free(want);
}

static void test_every_variant_has_the_reference_s_bits(void **state)
{
    uint64_t cases = 0;
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; ++i) {
        check_shape(&shapes[i], (int64_t)(i % 3), &cases);
    }
    assert_true(cases >= (TEAMS + 1) * (sizeof shapes / sizeof *shapes));
    printf("matrices compared: %llu\n", (unsigned long long)cases);
}

/* Zeros have no direction: they stay +0, also where they were −0. Where a step is skipped nothing changes. */
static void test_zeros_and_skips(void **state)
{
    const sherd__host_math *all[MAX_VARIANTS];
    uint32_t n = sherd__host_math_all(all, MAX_VARIANTS);
    static const shape s = {40, 90, 5, FINITE};
    sherd__step_scalars skip = {.skip = 1}, go = {.skip = 0};
    float *before = matrix_new(&s, 0), *want = run(reference_variant(), NULL, &s, 0, NULL);
    (void)state;
    for (uint32_t v = 0; v < n; ++v) {
        float *scratch = array_new(sherd__muon_scratch_elems(40, 90) * 4), zeros[40 * 90];
        sherd__orthogonal job = {.matrix = zeros, .scratch = scratch, .rows = 40, .cols = 90, .steps = 5};
        for (int i = 0; i < 40 * 90; ++i) {
            zeros[i] = i % 2 ? -0.0f : 0.0f;
        }
        all[v]->orthogonalise(NULL, &job);
        for (int i = 0; i < 40 * 90; ++i) {
            assert_int_equal(sherd__bits_of_f32(zeros[i]), 0);
        }
        free(scratch);
        float *skipped = run(all[v], NULL, &s, 0, &skip), *done = run(all[v], NULL, &s, 0, &go);
        assert_memory_equal(skipped, before, 40 * 90 * 4);
        assert_memory_equal(done, want, 40 * 90 * 4);
        free(skipped);
        free(done);
    }
    assert_memory_not_equal(before, want, 40 * 90 * 4);
    free(before);
    free(want);
}

/* One value that is not finite leaves no number. */
static void test_one_bad_value_spoils_the_matrix(void **state)
{
    static const shape s = {33, 40, 2, FINITE};
    float *scratch = array_new(sherd__muon_scratch_elems(33, 40) * 4), *block = matrix_new(&s, 0);
    sherd__orthogonal job = {.matrix = block, .scratch = scratch, .rows = 33, .cols = 40, .steps = 2};
    (void)state;
    block[700] = sherd__f32_of_bits(0x7F800000u);
    sherd__host_math_best()->orthogonalise(NULL, &job);
    for (int i = 0; i < 33 * 40; ++i) {
        assert_int_equal(sherd__bits_of_f32(block[i]), 0x7FC00000u);
    }
    free(block);
    free(scratch);
}

static int begin(void **state)
{
    (void)state;
    for (int32_t t = 1; t <= TEAMS; ++t) {
        assert_int_equal(sherd__team_create(&sherd__default_allocator, t, &teams[t], NULL), SHERD_OK);
    }
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (int t = 1; t <= TEAMS; ++t) {
        sherd__team_destroy(teams[t]);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_variant_has_the_reference_s_bits),
        cmocka_unit_test(test_zeros_and_skips),
        cmocka_unit_test(test_one_bad_value_spoils_the_matrix),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
