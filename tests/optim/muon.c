/* SPDX-License-Identifier: MIT
 *
 * Muon: its elements written out once more and against the formula in double, its rates, and what Newton and Schulz
 * make of a matrix: singular values that are the polynomial of the former ones.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/host_math.h"
#include "optim/adamw.h"
#include "optim/muon.h"
#include "optim/optim.h"
#include "tests/support/leaves.h"

#define STEPS 60
#define MOST 64

static sherd__step_rules rules_make(double muon_lr, double adam_lr, int nesterov, double decay)
{
    return (sherd__step_rules){.kind = SHERD_MUON,
                               .beta1 = 0.9,
                               .beta2 = 0.999,
                               .eps = 1e-8,
                               .momentum = 0.95,
                               .bias_correction = 1,
                               .check_overflow = 1,
                               .base_lr = 1e-2,
                               .divisor = 1.0,
                               .n_groups = 2,
                               .groups = {{1e-2, decay}, {4e-2, 0.0}},
                               .muon_lr = muon_lr,
                               .adam_lr = adam_lr,
                               .nesterov = nesterov};
}

static sherd__step_scalars prepare(const sherd__step_rules *rules, sherd__step_state *state, double lr,
                                   const double *set_lr)
{
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    sherd__step_scalars out;
    memcpy(&vote[SHERD__VOTE_LR], &lr, sizeof lr);
    vote[SHERD__VOTE_GROUPS] = set_lr ? sherd__vote_word(*set_lr) : 0;
    vote[SHERD__VOTE_BAD] = SHERD__NO_BAD_BLOCK;
    sherd__step_prepare(rules, vote, state, &out);
    return out;
}

static sherd__step_scalars prepare_first(const sherd__step_rules *rules, double lr, const double *set_lr)
{
    sherd__step_state state;
    sherd__step_state_init(&state);
    return prepare(rules, &state, lr, set_lr);
}

/* -------------------------------------------------------------------------------------------------------- elements */

static float gradient_at(int t)
{
    return 0.5f * sinf((float)t) + 0.1f;
}

static double step_at(int t)
{
    return cosf((float)(3 * t));
}

/* Direction and step of one element over 60 steps; the steps come from elsewhere. */
static void trajectory_in_double(int nesterov, double decay, double *direction, double *weight)
{
    double p = 0.37f, buf = 0;
    for (int t = 1; t <= STEPS; ++t) {
        double g = gradient_at(t);
        buf = 0.95 * buf + 0.05 * g;
        *direction = nesterov ? 0.95 * buf + 0.05 * g : buf;
        p -= 1e-2 * decay * p;
        p -= 1e-2 * step_at(t);
    }
    *weight = p;
}

/* fp32 against double: every step rounds the momentum three times, the weight twice. */
static void test_trajectories_mean_what_they_should(void **state)
{
    double bound = 3 * STEPS * ldexp(1.0, -24);
    (void)state;
    for (int mode = 0; mode < 4; ++mode) {
        double decay = mode & 1 ? 0.3 : 0.0, want_direction = 0, want_weight = 0;
        sherd__step_rules rules = rules_make(-1, -1, mode >> 1, decay);
        const sherd__optim_matrix *matrix = sherd__optim_get(SHERD_MUON)->matrix;
        sherd__step_state step;
        float p = 0.37f, buf = 0, d = 0;
        sherd__step_state_init(&step);
        for (int t = 1; t <= STEPS; ++t) {
            sherd__step_scalars s = prepare(&rules, &step, 1e-2, NULL);
            matrix->direct(s.matrix[0], gradient_at(t) * s.factor, &d, &buf);
            matrix->apply(s.matrix[0], (float)step_at(t), &p);
        }
        trajectory_in_double(mode >> 1, decay, &want_direction, &want_weight);
        assert_true(fabs(d - want_direction) < bound);
        assert_true(fabs(p - want_weight) < bound);
        trajectory_in_double(!(mode >> 1), decay, &want_direction, &want_weight);
        assert_true(fabs(d - want_direction) > 100 * bound); /* the other kind of direction is another one */
    }
}

/* Every operation once more, bit for bit. */
static void test_sequence_of_operations(void **state)
{
    float s[SHERD__GROUP_SCALARS] = {0};
    (void)state;
    s[SHERD__MUON_MU] = 0.95f;
    s[SHERD__MUON_1_MU] = (float)(1.0 - 0.95);
    s[SHERD__MUON_DECAY] = -3e-4f;
    s[SHERD__MUON_RATE] = -0.02f;
    for (int i = 0; i < 2000; ++i) {
        float v[3], d, buf, p, product, want_buf, want_p;
        sherd_test_leaf(5, i, 0, 0, SHERD_FP32, 3, v);
        s[SHERD__MUON_NESTEROV] = (float)(i % 2);
        buf = v[1];
        p = v[2];
        sherd__muon_direct_element(s, 0, v[0], &d, &buf);
        sherd__muon_apply_element(s, 0, v[0], &p, NULL);
        product = 0.95f * v[1];
        want_buf = fmaf(v[0], s[SHERD__MUON_1_MU], product);
        product = 0.95f * want_buf;
        assert_true(buf == want_buf);
        assert_true(d == (i % 2 ? fmaf(v[0], s[SHERD__MUON_1_MU], product) : want_buf));
        want_p = fmaf(v[2], -3e-4f, v[2]);
        want_p = fmaf(v[0], -0.02f, want_p);
        assert_true(p == want_p);
    }
}

/* ------------------------------------------------------------------------------------------------------------ rates */

/* What is scheduled, or set, is the rate that both kinds share; each takes its proportion of it. */
static void test_rates(void **state)
{
    sherd__step_rules same = rules_make(-1, -1, 1, 0.1), other = rules_make(5e-2, 2e-3, 1, 0.1), adamw = same;
    sherd__step_scalars s = prepare_first(&same, 3e-3, NULL), a;
    double set = 7e-3;
    (void)state;
    adamw.kind = SHERD_ADAMW;
    a = prepare_first(&adamw, 3e-3, NULL);
    assert_memory_equal(s.group, a.group, sizeof s.group); /* the other parameters' scalars are AdamW's */
    assert_true(s.matrix[0][SHERD__MUON_RATE] == -3e-3f && s.matrix[1][SHERD__MUON_RATE] == (float)-(3e-3 * 4.0));
    assert_true(s.matrix[0][SHERD__MUON_DECAY] == (float)(-3e-3 * 0.1));
    assert_int_equal(sherd__bits_of_f32(s.matrix[1][SHERD__MUON_DECAY]), 0); /* +0: leaves −0 alone */
    assert_true(s.matrix[0][SHERD__MUON_MU] == 0.95f && s.matrix[0][SHERD__MUON_1_MU] == (float)(1.0 - 0.95));
    assert_true(s.matrix[0][SHERD__MUON_NESTEROV] == 1.0f);
    s = prepare_first(&other, 3e-3, NULL);
    assert_true(s.matrix[0][SHERD__MUON_RATE] == (float)-(3e-3 * (5e-2 / 1e-2)));
    assert_true(s.group[0][SHERD__ADAM_DECAY] == (float)(-(3e-3 * (2e-3 / 1e-2)) * 0.1));
    s = prepare_first(&other, 3e-3, &set); /* group 0 was set: each kind keeps its proportion */
    assert_true(s.matrix[0][SHERD__MUON_RATE] == (float)-(7e-3 * (5e-2 / 1e-2)));
    assert_true(s.group[0][SHERD__ADAM_DECAY] == (float)(-(7e-3 * (2e-3 / 1e-2)) * 0.1));
    assert_true(s.matrix[1][SHERD__MUON_RATE] == (float)-(3e-3 * 4.0 * (5e-2 / 1e-2)));
    other.base_lr = 0.0; /* nothing to be in proportion to: all follow the vote */
    s = prepare_first(&other, 3e-3, NULL);
    assert_true(s.matrix[0][SHERD__MUON_RATE] == -3e-3f && s.matrix[1][SHERD__MUON_RATE] == -3e-3f);
}

static void test_configured(void **state)
{
    sherd_config config;
    sherd__step_rules rules;
    (void)state;
    sherd_config_init(&config, sizeof config);
    config.gradient_accumulation_steps = 1;
    config.optimizer.kind = SHERD_MUON;
    config.scheduler.kind = SHERD_SCHED_ONE_CYCLE;
    sherd__step_rules_init(&rules, &config, 1);
    assert_true(rules.muon_lr < 0.0 && rules.adam_lr < 0.0 && rules.nesterov == 1 && config.muon.ns_steps == 5);
    assert_int_equal(rules.cycle_betas, 0);
    config.muon.muon_lr = 0.02;
    config.muon.nesterov = 0;
    sherd__step_rules_init(&rules, &config, 1);
    assert_true(rules.muon_lr == 0.02 && rules.nesterov == 0);
}

/* A step that another momentum rate would make must not be taken for the same. */
static void test_same_steps_are_told_from_others(void **state)
{
    sherd__step_rules rules = rules_make(-1, -1, 1, 0.1);
    sherd__step_scalars a = prepare_first(&rules, 3e-3, NULL), b = a;
    (void)state;
    assert_true(sherd__step_scalars_same(&a, &b));
    b.matrix[1][SHERD__MUON_RATE] *= 2.0f;
    assert_false(sherd__step_scalars_same(&a, &b));
}

/* ---------------------------------------------------------------------------------------------------- Newton, Schulz
 */

static double quintic(double x, int steps)
{
    for (int i = 0; i < steps; ++i) {
        double square = x * x;
        x *= 3.4445 + square * (-4.7750 + square * 2.0315);
    }
    return x;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Singular values of a rows × cols matrix, rows ≤ cols ≤ MOST, rising: rows are turned by pairs until all are
 * orthogonal (Hestenes 1958). */
static void singular_values(const float *matrix, int rows, int cols, double *out)
{
    static double a[MOST][MOST];
    for (int i = 0; i < rows * cols; ++i) {
        a[i / cols][i % cols] = matrix[i];
    }
    for (int sweep = 0; sweep < 30; ++sweep) {
        for (int i = 0; i < rows; ++i) {
            for (int j = i + 1; j < rows; ++j) {
                double ii = 0, jj = 0, ij = 0, tau, t, c, s;
                for (int k = 0; k < cols; ++k) {
                    ii += a[i][k] * a[i][k];
                    jj += a[j][k] * a[j][k];
                    ij += a[i][k] * a[j][k];
                }
                if (fabs(ij) <= 1e-15 * sqrt(ii * jj)) {
                    continue;
                }
                tau = (jj - ii) / (2 * ij);
                t = (tau < 0 ? -1 : 1) / (fabs(tau) + sqrt(1 + tau * tau));
                c = 1 / sqrt(1 + t * t);
                s = c * t;
                for (int k = 0; k < cols; ++k) {
                    double x = a[i][k], y = a[j][k];
                    a[i][k] = c * x - s * y;
                    a[j][k] = s * x + c * y;
                }
            }
        }
    }
    for (int i = 0; i < rows; ++i) {
        double square = 0;
        for (int k = 0; k < cols; ++k) {
            square += a[i][k] * a[i][k];
        }
        out[i] = sqrt(square);
    }
    qsort(out, (size_t)rows, sizeof *out, by_size);
}

static void turn(float *out, const float *in, int rows, int cols)
{
    for (int i = 0; i < rows * cols; ++i) {
        out[i % cols * rows + i / cols] = in[i];
    }
}

/* Sums of twelve: nearly normal. */
static void fill_random(float *out, int n, uint64_t seed)
{
    for (int i = 0; i < n; ++i) {
        double sum = -6;
        for (uint64_t k = 0; k < 12; ++k) {
            sum += ldexp((double)(sherd_test_mix(seed, (uint64_t)i, k, 0, 0) >> 11), -53);
        }
        out[i] = (float)sum;
    }
}

/* An error of a step grows by at most 3.4445, the polynomial's slope at 0, in each later one. A step itself makes one
 * of about the roots of its chains' lengths in roundings of numbers near 1: 8 · 2^-24 · sqrt(MOST) is a generous bound
 * of each. */
static double error_bound(int steps)
{
    double bound = 0;
    for (int i = 0; i < steps; ++i) {
        bound = 3.4445 * bound + 8 * ldexp(sqrt(MOST), -24);
    }
    return bound;
}

static float *orthogonal(const float *from, int rows, int cols, int steps)
{
    static float matrix[MOST * MOST];
    static _Alignas(64) float scratch[SHERD__MUON_HEAD + 4 * MOST * MOST];
    sherd__orthogonal job = {.matrix = matrix, .scratch = scratch, .rows = rows, .cols = cols, .steps = steps};
    assert_true(sherd__muon_scratch_elems(rows, cols) <= (int64_t)(sizeof scratch / sizeof *scratch));
    memcpy(matrix, from, (size_t)(rows * cols) * sizeof *matrix);
    sherd__host_math_best()->orthogonalise(NULL, &job);
    return matrix;
}

/* Largest difference between what came out and the polynomial of what went in. */
static double off_by(const double *before, double norm, const double *after, int n, int steps, double scale)
{
    double want[MOST], most = 0;
    for (int i = 0; i < n; ++i) {
        want[i] = scale * quintic(before[i] / norm, steps);
    }
    qsort(want, (size_t)n, sizeof *want, by_size);
    for (int i = 0; i < n; ++i) {
        most = fmax(most, fabs(want[i] - after[i]));
    }
    return most;
}

static void test_singular_values_are_the_polynomial_s(void **state)
{
    static const struct {
        int rows, cols;
    } shapes[] = {{24, 64}, {64, 24}, {33, 47}, {50, 50}, {1, 64}, {64, 1}};
    (void)state;
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; ++k) {
        int rows = shapes[k].rows, cols = shapes[k].cols, m = rows < cols ? rows : cols, n = rows < cols ? cols : rows;
        float matrix[MOST * MOST], turned[MOST * MOST];
        double before[MOST], after[MOST], norm = 1e-7, scale = rows > cols ? sqrt((double)rows / cols) : 1.0,
                                          squares = 0;
        fill_random(matrix, rows * cols, 3 + k);
        for (int i = 0; i < rows * cols; ++i) {
            squares += (double)matrix[i] * matrix[i];
        }
        norm += sqrt(squares);
        turn(turned, matrix, rows, cols);
        singular_values(rows > cols ? turned : matrix, m, n, before);
        turn(turned, orthogonal(matrix, rows, cols, 5), rows, cols);
        singular_values(rows > cols ? turned : orthogonal(matrix, rows, cols, 5), m, n, after);
        assert_true(off_by(before, norm, after, m, 5, scale) < scale * error_bound(5));
        assert_true(off_by(before, norm, after, m, 4, scale) > 4 * scale * error_bound(5)); /* the test can fail */
        if (m < n && m > 1) { /* far from singular: all directions move about equally far */
            assert_true(after[0] > 0.65 * scale && after[m - 1] < 1.25 * scale);
            assert_true(before[m - 1] > 2 * before[0]); /* which they did not before */
        }
    }
}

/* What a direction's length is does not matter; scale is sqrt(rows / cols) for tall ones. */
static void test_lengths_do_not_matter(void **state)
{
    float matrix[20 * 30], longer[20 * 30], first[20 * 30];
    (void)state;
    fill_random(matrix, 20 * 30, 9);
    for (int i = 0; i < 20 * 30; ++i) {
        longer[i] = 1024.0f * matrix[i];
    }
    memcpy(first, orthogonal(matrix, 20, 30, 5), sizeof first);
    float *second = orthogonal(longer, 20, 30, 5);
    for (int i = 0; i < 20 * 30; ++i) {
        assert_true(fabs(first[i] - second[i]) < error_bound(5));
    }
    assert_true(sherd__muon_scale(30, 20) == (float)sqrt(1.5) && sherd__muon_scale(20, 30) == 1.0f);
    assert_true(sherd__muon_scale(20, 20) == 1.0f);
}

/* Written down by hand once: the matrix twice and its smaller square twice, in panels of 32, and a head. */
static void test_costs(void **state)
{
    (void)state;
    assert_int_equal(sherd__muon_scratch_elems(1, 1), 64 + 4 * 32 * 32);
    assert_int_equal(sherd__muon_scratch_elems(100, 33), 64 + 2 * 128 * 64 + 2 * 64 * 64);
    assert_int_equal(sherd__muon_scratch_elems(33, 100), sherd__muon_scratch_elems(100, 33));
    assert_true(sherd__muon_flops(2, 3, 1) == 2 * 3 * 3 + 2 * 2 * 3 + 2 * 2 * 2 * 3);
    assert_true(sherd__muon_flops(2, 3, 5) == 5 * sherd__muon_flops(3, 2, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trajectories_mean_what_they_should),
        cmocka_unit_test(test_sequence_of_operations),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_configured),
        cmocka_unit_test(test_same_steps_are_told_from_others),
        cmocka_unit_test(test_singular_values_are_the_polynomial_s),
        cmocka_unit_test(test_lengths_do_not_matter),
        cmocka_unit_test(test_costs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
