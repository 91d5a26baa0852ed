/* SPDX-License-Identifier: MIT
 *
 * From vote to scalars: norm, clip, factor, skipping, powers, groups' rates.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "optim/adamw.h"
#include "optim/optim.h"
#include "optim/sgd.h"

typedef uint64_t vote_words[SHERD__VOTE_SUMS + SHERD__VOTE_MINS];

/* The vote of one block sum. */
static void vote_make(vote_words vote, double squares, double lr, uint64_t bad)
{
    sherd__norm norm;
    memset(vote, 0, sizeof(vote_words));
    sherd__norm_clear(&norm);
    sherd__norm_add_double(&norm, squares);
    memcpy(vote, norm.limb, sizeof norm.limb);
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    vote[SHERD__VOTE_SUMS] = bad;
}

static sherd_config config_make(void)
{
    sherd_config c = {.size = sizeof c, .gradient_accumulation_steps = 3, .gradient_clipping = 1.0,
                      .check_grad_overflow = 1};
    c.optimizer.kind = SHERD_ADAMW;
    c.optimizer.lr = 2e-3;
    c.optimizer.beta1 = 0.9;
    c.optimizer.beta2 = 0.95;
    c.optimizer.eps = 1e-6;
    c.optimizer.weight_decay = 0.1;
    c.optimizer.momentum = 0.8;
    c.optimizer.bias_correction = 1;
    return c;
}

static sherd__step_scalars prepare_once(const sherd_config *config, double squares, double lr)
{
    sherd__step_rules rules;
    sherd__step_state state;
    sherd__step_scalars out;
    vote_words vote;
    sherd__step_rules_init(&rules, config, 4);
    sherd__step_state_init(&state);
    vote_make(vote, squares, lr, SHERD__NO_BAD_BLOCK);
    sherd__step_prepare(&rules, vote, &state, &out);
    return out;
}

static void test_norm_clip_factor(void **state)
{
    sherd_config config = config_make();
    sherd__step_scalars out = prepare_once(&config, 144.0 * 100.0, 1e-3); /* 120 / (4 × 3) */
    (void)state;
    assert_true(out.norm == 10.0);
    assert_true(out.clip == 1.0 / (10.0 + 1e-6));
    assert_true(out.factor == (float)(1.0 / (10.0 + 1e-6) / 12.0));
    assert_true(out.lr == 1e-3);
    assert_int_equal(out.skip, 0);
    assert_int_equal(out.first, 1);
    assert_int_equal(out.updates, 1);
    out = prepare_once(&config, 36.0, 1e-3); /* 0.5: below the threshold */
    assert_true(out.norm == 0.5 && out.clip == 1.0 && out.factor == (float)(1.0 / 12.0));
    out = prepare_once(&config, 0.0, 1e-3);
    assert_true(out.norm == 0.0 && out.clip == 1.0);
    config.gradient_clipping = 0.0;
    out = prepare_once(&config, 1e30, 1e-3);
    assert_true(out.clip == 1.0 && out.factor == (float)(1.0 / 12.0));
    config.allreduce_sum = 1;
    out = prepare_once(&config, 144.0, 1e-3);
    assert_true(out.norm == 4.0 && out.factor == (float)(1.0 / 3.0));
}

static void test_powers_are_products(void **state)
{
    sherd_config config = config_make();
    sherd__step_rules rules;
    sherd__step_state step;
    sherd__step_scalars out;
    vote_words vote;
    double p1 = 1.0, p2 = 1.0;
    (void)state;
    sherd__step_rules_init(&rules, &config, 1);
    sherd__step_state_init(&step);
    for (int t = 1; t <= 50; ++t) {
        vote_make(vote, 1.0, 1e-3, SHERD__NO_BAD_BLOCK);
        sherd__step_prepare(&rules, vote, &step, &out);
        p1 *= 0.9;
        p2 *= 0.95;
        assert_true(step.power[0] == p1 && step.power[1] == p2);
        assert_int_equal(step.updates, t);
        assert_int_equal(out.first, t == 1);
        assert_true(out.group[0][SHERD__ADAM_RATE] == (float)(-1e-3 / (1.0 - p1)));
        assert_true(out.group[0][SHERD__ADAM_ROOT_SCALE] == (float)(1.0 / sqrt(1.0 - p2)));
    }
}

/* beta1 of each update as exact fractions give it; the correction is that of a beta that was always so. */
static void test_cycled_betas(void **state)
{
    static const double momentum[] = {0.8, 0.875, 0.85, 0.825, 0.8, 0.85, 0.9, 0.9 * 1.05};
    sherd_config config = config_make();
    sherd__step_rules rules;
    sherd__step_state step;
    sherd__step_scalars out;
    vote_words vote;
    (void)state;
    config.scheduler.kind = SHERD_SCHED_ONE_CYCLE;
    config.one_cycle = (sherd_one_cycle){.first_step_size = 4, .second_step_size = 2, .second_stair_count = -1,
                                         .decay_step_size = 2, .cycle_momentum = 1, .min_mom = 0.8, .max_mom = 0.9,
                                         .decay_mom_rate = 0.1};
    sherd__step_rules_init(&rules, &config, 1);
    sherd__step_state_init(&step);
    for (int it = 0; it < 8; ++it) {
        double power = 1.0, power2 = 1.0;
        for (int t = 0; t <= it; ++t) {
            power *= momentum[it];
            power2 *= 0.99;
        }
        vote_make(vote, 1.0, 1e-3, SHERD__NO_BAD_BLOCK);
        sherd__step_prepare(&rules, vote, &step, &out);
        assert_true(fabs((double)out.group[0][SHERD__ADAM_BETA1] - momentum[it]) < 1e-7);
        assert_true(out.group[0][SHERD__ADAM_BETA2] == 0.99f);
        assert_true(fabs(step.power[0] - power) < 1e-15 && fabs(step.power[1] - power2) < 1e-15);
        assert_true(fabs((double)out.group[0][SHERD__ADAM_RATE] + 1e-3 / (1.0 - power)) < 1e-9);
    }
    config.optimizer.kind = SHERD_SGD; /* it has no betas */
    sherd__step_rules_init(&rules, &config, 1);
    assert_int_equal(rules.cycle_betas, 0);
}

static void test_bad_gradients_skip_or_go_on(void **state)
{
    sherd_config config = config_make();
    sherd__step_rules rules;
    sherd__step_state step, before;
    sherd__step_scalars out;
    vote_words vote;
    (void)state;
    sherd__step_rules_init(&rules, &config, 1);
    sherd__step_state_init(&step);
    vote_make(vote, 1.0, 1e-3, 17);
    before = step;
    sherd__step_prepare(&rules, vote, &step, &out);
    assert_int_equal(out.skip, 1);
    assert_int_equal(out.bad_block, 17);
    assert_true(isnan(out.norm));
    assert_memory_equal(&before, &step, sizeof step);
    assert_int_equal(out.updates, 0);
    vote_make(vote, 1.0, 1e-3, SHERD__NO_BAD_BLOCK);
    sherd__step_prepare(&rules, vote, &step, &out);
    assert_int_equal(out.first, 1); /* a skipped step is not the first update */
    config.check_grad_overflow = 0;
    sherd__step_rules_init(&rules, &config, 1);
    vote_make(vote, 1.0, 1e-3, 17);
    sherd__step_prepare(&rules, vote, &step, &out);
    assert_int_equal(out.skip, 0);
    assert_true(isnan(out.norm) && isnan(out.clip) && isnan(out.factor));
    assert_int_equal(step.updates, 2);
}

/* Scales after each step: '.' good, 'x' overflow; from the rules by hand. */
static void assert_scales(sherd_config *config, const char *steps, const double *scales)
{
    sherd__step_rules rules;
    sherd__step_state state;
    sherd__step_scalars out;
    vote_words vote;
    config->scaling.kind = SHERD_SCALING_DYNAMIC;
    sherd__step_rules_init(&rules, config, 4);
    sherd__step_state_init(&state);
    sherd__step_scale_init(&state, &rules);
    for (int i = 0; steps[i]; ++i) {
        double scale = state.scale;
        vote_make(vote, 144.0, 1e-3, steps[i] == 'x' || steps[i] == '!' ? 3 : SHERD__NO_BAD_BLOCK);
        sherd__step_prepare(&rules, vote, &state, &out);
        if (state.scale != scales[i] || out.next_scale != scales[i] || out.loss_scale != scale)
            fail_msg("%s: step %d: %g, not %g", steps, i, state.scale, scales[i]);
        assert_int_equal(out.stuck, steps[i] == '!');
        assert_int_equal(out.skip, steps[i] != '.');
        assert_true(out.skip || out.norm == 12.0 / (scale * 12.0));
        assert_true(out.skip || out.factor == (float)(1.0 / (scale * 12.0)));
    }
}

static void test_dynamic_scale(void **state)
{
    sherd_config config = config_make();
    (void)state;
    config.gradient_clipping = 0.0;
    config.check_grad_overflow = 0; /* a dynamic scale looks anyway */
    config.scaling.initial_scale_power = 4;
    config.scaling.hysteresis = 2;
    config.scaling.loss_scale_window = 2;
    config.scaling.min_loss_scale = 1;
    assert_scales(&config, "...xx.x......", (double[]){16, 16, 32, 32, 16, 16, 8, 8, 8, 16, 16, 32, 32});
    assert_scales(&config, "x...x", (double[]){16, 16, 16, 32, 32}); /* doubling refills the patience */
    assert_scales(&config, "x.xxx", (double[]){16, 16, 8, 4, 2});    /* a good step does not */
    config.scaling.consecutive_hysteresis = 1;
    assert_scales(&config, "x.xxx", (double[]){16, 16, 16, 8, 4});   /* unless it is told to */
    config.scaling.consecutive_hysteresis = 0;
    config.scaling.hysteresis = 1;
    config.scaling.min_loss_scale = 3;
    assert_scales(&config, "xxx!!.!", (double[]){8, 4, 3, 3, 3, 3, 3});
    config.scaling.loss_scale_window = 1;
    config.scaling.min_loss_scale = 1;
    assert_scales(&config, "....x..", (double[]){16, 32, 64, 128, 64, 64, 128});
}

static void test_static_scale(void **state)
{
    sherd_config config = config_make();
    sherd__step_rules rules;
    sherd__step_state step;
    sherd__step_scalars out;
    vote_words vote;
    (void)state;
    config.scaling.kind = SHERD_SCALING_STATIC;
    config.scaling.loss_scale = 96.0;
    sherd__step_rules_init(&rules, &config, 4);
    sherd__step_state_init(&step);
    sherd__step_scale_init(&step, &rules);
    for (int i = 0; i < 5; ++i) {
        vote_make(vote, 96.0 * 96.0 * 144.0 * 100.0, 1e-3, i == 2 ? 3 : SHERD__NO_BAD_BLOCK);
        sherd__step_prepare(&rules, vote, &step, &out);
        assert_true(out.loss_scale == 96.0 && out.next_scale == 96.0 && !out.stuck);
        assert_int_equal(out.skip, i == 2);
        assert_true(out.skip || (out.norm == 10.0 && out.clip == 1.0 / (10.0 + 1e-6)));
        assert_true(out.skip || out.factor == (float)(out.clip / (96.0 * 12.0)));
    }
}

static void test_groups(void **state)
{
    sherd_config config = config_make();
    sherd__step_scalars out = prepare_once(&config, 1.0, 3e-4);
    (void)state;
    assert_true(out.group[0][SHERD__ADAM_DECAY] == (float)(-3e-4 * 0.1));
    config.n_groups = 3;
    config.groups[0] = (sherd_group){2e-3, 0.1};
    config.groups[1] = (sherd_group){2e-3, 0.0};
    config.groups[2] = (sherd_group){5e-3, 0.2};
    out = prepare_once(&config, 1.0, 3e-4);
    assert_true(out.group[0][SHERD__ADAM_DECAY] == (float)(-3e-4 * 0.1));
    assert_int_equal(sherd__bits_of_f32(out.group[1][SHERD__ADAM_DECAY]), 0); /* +0: decay that leaves -0 alone */
    assert_true(out.group[2][SHERD__ADAM_DECAY] == (float)(-(3e-4 * (5e-3 / 2e-3)) * 0.2));
    assert_true(out.group[1][SHERD__ADAM_RATE] == out.group[0][SHERD__ADAM_RATE]);
    config.optimizer.kind = SHERD_SGD;
    out = prepare_once(&config, 1.0, 3e-4);
    assert_true(out.group[2][SHERD__SGD_RATE] == (float)-(3e-4 * (5e-3 / 2e-3)));
    assert_true(out.group[2][SHERD__SGD_DECAY] == 0.2f && out.group[0][SHERD__SGD_MOMENTUM] == 0.8f);
    config.optimizer.kind = SHERD_ADAM;
    config.optimizer.bias_correction = 0;
    out = prepare_once(&config, 1.0, 3e-4);
    assert_true(out.group[0][SHERD__ADAM_ROOT_SCALE] == 1.0f && out.group[0][SHERD__ADAM_RATE] == -3e-4f);
    assert_true(out.group[2][SHERD__ADAM_DECAY] == 0.2f);
}

static void test_table(void **state)
{
    static const struct { sherd_optimizer kind; const char *name; uint32_t moments; } known[] = {
        {SHERD_ADAMW, "AdamW", 2}, {SHERD_ADAM, "Adam", 2}, {SHERD_SGD, "SGD", 1},
        {SHERD_LION, "Lion", 1}, {SHERD_ADAGRAD, "Adagrad", 1}, {SHERD_LAMB, "Lamb", 2},
    };
    (void)state;
    for (size_t i = 0; i < sizeof known / sizeof *known; ++i) {
        const sherd__optim *optim = sherd__optim_get(known[i].kind);
        assert_string_equal(optim->name, known[i].name);
        assert_int_equal(optim->n_moments, known[i].moments);
        for (uint32_t k = 0; k < SHERD__MAX_MOMENTS; ++k) {
            assert_int_equal(optim->moment_names[k] != NULL, k < optim->n_moments);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norm_clip_factor), cmocka_unit_test(test_powers_are_products),
        cmocka_unit_test(test_bad_gradients_skip_or_go_on), cmocka_unit_test(test_groups), cmocka_unit_test(test_table),
        cmocka_unit_test(test_cycled_betas), cmocka_unit_test(test_dynamic_scale), cmocka_unit_test(test_static_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
