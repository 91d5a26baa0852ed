/* SPDX-License-Identifier: MIT
 *
 * Elements: the sequence of operations written out once more, and its meaning: a trajectory close to the textbook's
 * in double.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "optim/adagrad.h"
#include "optim/adamw.h"
#include "optim/lamb.h"
#include "optim/lion.h"
#include "optim/optim.h"
#include "optim/sgd.h"
#include "optim/trust.h"
#include "tests/support/leaves.h"

#define STEPS 60

typedef struct run {
    sherd__step_rules rules;
    sherd__step_state state;
    float p, moment[2];
} run;

static run run_make(sherd_optimizer kind, double decay, double momentum)
{
    run r = {.p = 0.37f, .moment = {0, 0}};
    r.rules = (sherd__step_rules){.kind = kind, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .momentum = momentum,
                                  .bias_correction = 1, .check_overflow = 1, .base_lr = 1e-2, .divisor = 1.0,
                                  .n_groups = 1, .groups = {{1e-2, decay}}};
    sherd__step_state_init(&r.state);
    return r;
}

static void run_step(run *r, float gradient)
{
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
    double lr = 1e-2;
    sherd__step_scalars s;
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    vote[SHERD__VOTE_SUMS] = SHERD__NO_BAD_BLOCK;
    sherd__step_prepare(&r->rules, vote, &r->state, &s);
    sherd__optim_get(r->rules.kind)->element(s.group[0], s.first, gradient * s.factor, &r->p, r->moment);
}

static float gradient_at(int t)
{
    return 0.5f * sinf((float)t) + 0.1f;
}

/* Textbook Adam in double; decoupled or L2 decay. */
static double adam_in_double(int decoupled, double decay)
{
    double p = 0.37f, m = 0, v = 0;
    for (int t = 1; t <= STEPS; ++t) {
        double g = gradient_at(t) + (decoupled ? 0.0 : decay * p);
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        if (decoupled) {
            p -= 1e-2 * decay * p;
        }
        p -= 1e-2 * (m / (1 - pow(0.9, t))) / (sqrt(v / (1 - pow(0.999, t))) + 1e-8);
    }
    return p;
}

static double sgd_in_double(double momentum, double decay)
{
    double p = 0.37f, buf = 0;
    for (int t = 1; t <= STEPS; ++t) {
        double g = gradient_at(t) + decay * p;
        buf = t == 1 ? g : momentum * buf + g;
        p -= 1e-2 * buf;
    }
    return p;
}

static double lion_in_double(double decay)
{
    double p = 0.37f, m = 0;
    for (int t = 1; t <= STEPS; ++t) {
        double g = gradient_at(t), c = 0.9 * m + 0.1 * g;
        p -= 1e-2 * (decay * p + (c > 0) - (c < 0));
        m = 0.999 * m + 0.001 * g;
    }
    return p;
}

static double adagrad_in_double(double decay)
{
    double p = 0.37f, sum = 0;
    for (int t = 1; t <= STEPS; ++t) {
        double g = gradient_at(t) + decay * p;
        sum += g * g;
        p -= 1e-2 * g / (sqrt(sum) + 1e-8);
    }
    return p;
}

/* Of a parameter of one element: its ratio is its own size over its direction's. */
static double lamb_in_double(double decay, double least, double most)
{
    double p = 0.37f, m = 0, v = 0;
    for (int t = 1; t <= STEPS; ++t) {
        double g = gradient_at(t), u, ratio;
        m = 0.9 * m + 0.1 * g;
        v = 0.999 * v + 0.001 * g * g;
        u = m / (sqrt(v) + 1e-8) + decay * p;
        ratio = fmin(fmax(fabs(p) / fabs(u), least), most);
        p -= 1e-2 * sqrt(1 - pow(0.999, t)) / (1 - pow(0.9, t)) * ratio * u;
    }
    return p;
}

/* The same in the library's two passes. */
static float lamb_trajectory(double decay, double least, double most)
{
    run r = run_make(SHERD_LAMB, decay, 0.0);
    for (int t = 1; t <= STEPS; ++t) {
        uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS] = {0};
        double lr = 1e-2;
        float moment[2], u, g;
        sherd__trust_sums sums = {.bad = 0};
        sherd__step_scalars s;
        memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
        vote[SHERD__VOTE_SUMS] = SHERD__NO_BAD_BLOCK;
        sherd__step_prepare(&r.rules, vote, &r.state, &s);
        g = gradient_at(t) * s.factor;
        memcpy(moment, r.moment, sizeof moment);
        u = sherd__optim_get(SHERD_LAMB)->direction(s.group[0], g, r.p, moment);
        sherd__trust_add_block(&sums, &r.p, &u, 1);
        s.group[0][SHERD__TENSOR_SCALAR] = sherd__trust_ratio(&sums, least, most);
        sherd__optim_get(SHERD_LAMB)->element(s.group[0], s.first, g, &r.p, r.moment);
        assert_memory_equal(moment, r.moment, sizeof moment); /* both passes advance them alike */
    }
    return r.p;
}

static float trajectory(sherd_optimizer kind, double decay, double momentum)
{
    run r = run_make(kind, decay, momentum);
    for (int t = 1; t <= STEPS; ++t) {
        run_step(&r, gradient_at(t));
    }
    return r.p;
}

/* fp32 against double: each step adds a rounding of p and of an update of 0.01 p's size; 60 steps stay below 60 ·
 * 2^-23. */
static void test_trajectories_mean_what_they_should(void **state)
{
    double bound = STEPS * ldexp(1.0, -23);
    (void)state;
    for (int decayed = 0; decayed < 2; ++decayed) {
        double decay = decayed ? 0.3 : 0.0;
        assert_true(fabs(trajectory(SHERD_ADAMW, decay, 0) - adam_in_double(1, decay)) < bound);
        assert_true(fabs(trajectory(SHERD_ADAM, decay, 0) - adam_in_double(0, decay)) < bound);
        assert_true(fabs(trajectory(SHERD_SGD, decay, 0.9) - sgd_in_double(0.9, decay)) < bound);
        assert_true(fabs(trajectory(SHERD_SGD, decay, 0.0) - sgd_in_double(0.0, decay)) < bound);
        assert_true(fabs(trajectory(SHERD_LION, decay, 0.0) - lion_in_double(decay)) < bound);
        assert_true(fabs(trajectory(SHERD_ADAGRAD, decay, 0.0) - adagrad_in_double(decay)) < bound);
        assert_true(fabs(lamb_trajectory(decay, 0.01, 10) - lamb_in_double(decay, 0.01, 10)) < bound);
        assert_true(fabs(lamb_trajectory(decay, 0.5, 0.6) - lamb_in_double(decay, 0.5, 0.6)) < bound);
        assert_true(fabs(lamb_trajectory(decay, 0.01, 10) - lamb_in_double(decay, 0.5, 0.6)) > 10 * bound);
    }
    /* The bound can tell the optimizers apart. */
    assert_true(fabs(trajectory(SHERD_ADAMW, 0.3, 0) - adam_in_double(0, 0.3)) > 10 * bound);
    assert_true(fabs(trajectory(SHERD_SGD, 0.3, 0.9) - sgd_in_double(0.9, 0.0)) > 10 * bound);
    assert_true(fabs(trajectory(SHERD_LION, 0.3, 0.9) - lion_in_double(0.0)) > 10 * bound);
    assert_true(fabs(trajectory(SHERD_ADAGRAD, 0.3, 0.9) - adagrad_in_double(0.0)) > 10 * bound);
}

/* The sequence by hand, over spread values; sequences with one operation fused otherwise differ somewhere. */
static void test_adamw_sequence(void **state)
{
    static const float s[SHERD__GROUP_SCALARS] = {0.9f, 0.1f, 0.999f, 0.001f, 3.7f, 1e-8f, -1e-4f, -3e-3f};
    float x[4];
    int other_m = 0, other_p = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 500; ++seed) {
        float p, moment[2], m, v, u, wrong;
        sherd_test_leaf(seed, 2, 0, 0, SHERD_FP32, 4, x);
        p = x[0];
        moment[0] = x[1];
        moment[1] = fabsf(x[2]) + 1e-6f;
        m = 0.9f * moment[0];
        wrong = m + x[3] * 0.1f;
        m = fmaf(x[3], 0.1f, m);
        v = 0.999f * moment[1];
        v = fmaf(x[3] * x[3], 0.001f, v);
        u = m / fmaf(sqrtf(v), 3.7f, 1e-8f);
        sherd__adamw_element(s, 0, x[3], &p, moment);
        assert_int_equal(sherd__bits_of_f32(moment[0]), sherd__bits_of_f32(m));
        assert_int_equal(sherd__bits_of_f32(moment[1]), sherd__bits_of_f32(v));
        assert_int_equal(sherd__bits_of_f32(p), sherd__bits_of_f32(fmaf(u, -3e-3f, fmaf(x[0], -1e-4f, x[0]))));
        other_m += wrong != m;
        wrong = u * -3e-3f + fmaf(x[0], -1e-4f, x[0]);
        other_p += wrong != p;
    }
    assert_true(other_m > 20 && other_p > 20);
}

static void test_sgd_sequence(void **state)
{
    static const float s[SHERD__GROUP_SCALARS] = {0.9f, 0.01f, -0.05f};
    float x[3];
    (void)state;
    for (uint64_t seed = 0; seed < 200; ++seed) {
        for (uint32_t first = 0; first < 2; ++first) {
            float p, buf, g;
            sherd_test_leaf(seed, 3, 0, 0, SHERD_FP32, 3, x);
            p = x[0];
            buf = x[1];
            sherd__sgd_element(s, first, x[2], &p, &buf);
            g = fmaf(x[0], 0.01f, x[2]);
            g = first ? g : fmaf(0.9f, x[1], g);
            assert_int_equal(sherd__bits_of_f32(buf), sherd__bits_of_f32(g));
            assert_int_equal(sherd__bits_of_f32(p), sherd__bits_of_f32(fmaf(g, -0.05f, x[0])));
        }
    }
}

static void test_lion_and_adagrad_sequences(void **state)
{
    static const float lion[SHERD__GROUP_SCALARS] = {0.9f, 0.1f, 0.99f, 0.01f, -1e-4f, -3e-3f};
    static const float adagrad[SHERD__GROUP_SCALARS] = {1e-10f, 0.01f, -0.05f};
    float x[3];
    (void)state;
    for (uint64_t seed = 0; seed < 200; ++seed) {
        float p, m, c, g;
        sherd_test_leaf(seed, 4, 0, 0, SHERD_FP32, 3, x);
        p = x[0];
        m = x[1];
        c = fmaf(x[2], 0.1f, 0.9f * x[1]);
        sherd__lion_element(lion, 0, x[2], &p, &m);
        assert_int_equal(sherd__bits_of_f32(m), sherd__bits_of_f32(fmaf(x[2], 0.01f, 0.99f * x[1])));
        assert_int_equal(sherd__bits_of_f32(p),
                         sherd__bits_of_f32(fmaf(x[0], -1e-4f, x[0]) + (c > 0 ? -3e-3f : c < 0 ? 3e-3f : -0.0f)));
        p = x[0];
        m = fabsf(x[1]);
        g = fmaf(x[0], 0.01f, x[2]);
        sherd__adagrad_element(adagrad, 0, x[2], &p, &m);
        assert_int_equal(sherd__bits_of_f32(m), sherd__bits_of_f32(fmaf(g, g, fabsf(x[1]))));
        assert_int_equal(sherd__bits_of_f32(p), sherd__bits_of_f32(fmaf(g / (sqrtf(m) + 1e-10f), -0.05f, x[0])));
    }
}

/* What was never moved by a gradient stays, sign of zero included; what became NaN is not hidden by a sign. */
static void test_lion_at_zero(void **state)
{
    static const float s[SHERD__GROUP_SCALARS] = {0.9f, 0.1f, 0.99f, 0.01f, 0.0f, -3e-3f};
    static const float places[] = {0.0f, -0.0f, 1.5f, -2.0f};
    (void)state;
    for (size_t i = 0; i < sizeof places / sizeof *places; ++i) {
        float p = places[i], m = 0.0f;
        sherd__lion_element(s, 1, i % 2 ? -0.0f : 0.0f, &p, &m);
        assert_int_equal(sherd__bits_of_f32(p), sherd__bits_of_f32(places[i]));
        sherd__lion_element(s, 0, (float)NAN, &p, &m);
        assert_true(isnan(p) && isnan(m));
    }
}

/* A norm of 5 over one of 2; the bounds; what has no length; what is not finite. */
static void test_trust_ratios(void **state)
{
    static const float weight[] = {3.0f, -4.0f}, direction[] = {0.0f, 2.0f}, zeros[2] = {0}, bad[] = {0.0f, INFINITY};
    sherd__trust_sums sums = {.bad = 0};
    (void)state;
    assert_true(sherd__trust_ratio(&sums, 2, 3) == 1.0f);
    sherd__trust_add_block(&sums, weight, zeros, 2);
    assert_true(sherd__trust_ratio(&sums, 2, 3) == 1.0f);
    sherd__trust_add_block(&sums, zeros, direction, 2);
    assert_true(sherd__trust_ratio(&sums, 0.01, 10) == 2.5f);
    assert_true(sherd__trust_ratio(&sums, 0.01, 2) == 2.0f && sherd__trust_ratio(&sums, 3, 10) == 3.0f);
    sherd__trust_add_block(&sums, weight, bad, 2);
    assert_true(sums.bad == 1 && isnan(sherd__trust_ratio(&sums, 0.01, 10)));
}

/* Without decay a gradient of -0 and a weight of -0 keep their signs; buf = g must not be 0 + g. */
static void test_signs_of_zero(void **state)
{
    float sgd[SHERD__GROUP_SCALARS] = {0.9f, 0.0f, -0.05f};
    float adamw[SHERD__GROUP_SCALARS] = {0.9f, 0.1f, 0.99f, 0.01f, 1.0f, 1e-8f, 0.0f, -1e-3f};
    float p = 1.0f, buf = 0.0f, moment[2] = {0.0f, 0.0f};
    (void)state;
    sherd__sgd_element(sgd, 1, -0.0f, &p, &buf);
    assert_int_equal(sherd__bits_of_f32(buf), 0x80000000);
    p = -0.0f;
    sherd__adamw_element(adamw, 0, 0.0f, &p, moment);
    assert_int_equal(sherd__bits_of_f32(p), 0x80000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trajectories_mean_what_they_should), cmocka_unit_test(test_adamw_sequence),
        cmocka_unit_test(test_sgd_sequence), cmocka_unit_test(test_signs_of_zero),
        cmocka_unit_test(test_lion_and_adagrad_sequences), cmocka_unit_test(test_lion_at_zero),
        cmocka_unit_test(test_trust_ratios),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
