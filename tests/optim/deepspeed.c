/* SPDX-License-Identifier: MIT
 *
 * From vote to scalars over long random sequences, against DeepSpeed's rules (tests/support/deepspeed.c): the loss
 * scale to the bit, the end at its minimum at the same step, norm and factor as near as their types allow.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "optim/optim.h"
#include "tests/support/deepspeed.h"

enum { RUNS = 3000, STEPS = 300, WORLD = 8 };

typedef uint64_t vote_words[SHERD__VOTE_SUMS + SHERD__VOTE_MINS];

static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % below;
}

static sherd_config draw_config(uint64_t seed)
{
    static const double least[] = {0.25, 1, 1, 3, 1024}, clips[] = {0, 0.1, 1, 5}, predivide[] = {1, 2, 8};
    sherd_config c;

    random_state = seed * 7919 + 1;
    sherd_config_init(&c, sizeof c);
    c.optimizer.kind = SHERD_SGD;
    c.gradient_accumulation_steps = 1 + (int64_t)draw(4);
    c.gradient_clipping = clips[draw(4)];
    c.allreduce_sum = (int32_t)draw(2);
    c.prescale_gradients = (int32_t)draw(2);
    c.gradient_predivide_factor = predivide[draw(3)];
    c.scaling.kind = draw(6) == 0 ? SHERD_SCALING_STATIC : SHERD_SCALING_DYNAMIC;
    c.scaling.loss_scale = (double)(1 << draw(12));
    c.scaling.initial_scale_power = (int32_t)draw(20);
    c.scaling.loss_scale_window = 1 + (int64_t)draw(9);
    c.scaling.hysteresis = 1 + (int32_t)draw(4);
    c.scaling.consecutive_hysteresis = (int32_t)draw(2);
    c.scaling.min_loss_scale = least[draw(5)];
    return c;
}

/* One vote: the undivided sum over ranks and micro-steps has this square; its bits of lr are 0.1. */
static void vote_make(vote_words vote, double squares, int overflow)
{
    const double lr = 0.1;
    sherd__norm norm;

    memset(vote, 0, sizeof(vote_words));
    sherd__norm_clear(&norm);
    if (!overflow) {
        sherd__norm_add_double(&norm, squares);
    }
    memcpy(vote, norm.limb, sizeof norm.limb);
    memcpy(&vote[SHERD__NORM_LIMBS], &lr, sizeof lr);
    vote[SHERD__VOTE_SUMS] = overflow ? 5 : SHERD__NO_BAD_BLOCK;
}

/* A gradient whose unscaled mean has a norm around 1, as its undivided, scaled sum. */
static double draw_squares(const sherd_config *config, double scale)
{
    ds_average average = ds_average_of(config, WORLD);
    double norm = exp2((double)draw(4000) / 400 - 6) * scale / (average.before * average.after);

    return norm * norm;
}

static void check_step(const sherd_config *config, const sherd__step_scalars *out, double scale, double squares)
{
    ds_average average = ds_average_of(config, WORLD);
    double norm = sqrt(squares) * average.before * average.after;
    double factor = average.before * average.after / ds_divisor(norm, scale, config->gradient_clipping);

    assert_true(fabs(out->norm - norm / scale) <= 1e-14 * out->norm);
    assert_true(fabs((double)out->factor - factor) <= 6.1e-8 * factor); /* rounded once to fp32 */
}

typedef struct tally {
    int64_t overflows, grown, stuck, steps;
} tally;

/* Returns the step at which `mistake` shows, or STEPS. */
static int run_sequence(uint64_t seed, ds_mistake mistake, tally *tally)
{
    sherd_config config = draw_config(seed);
    sherd__step_rules rules;
    sherd__step_state state;
    ds_scaler scaler;
    uint64_t rarity = 1 + draw(12);

    sherd__step_rules_init(&rules, &config, WORLD);
    sherd__step_state_init(&state);
    sherd__step_scale_init(&state, &rules);
    ds_scaler_init(&scaler, &config);
    scaler.mistake = mistake;
    for (int step = 0; step < STEPS; step++) {
        int overflow = (draw(40) < 20 / rarity && draw(2)) || state.scale > 0x1p40, ended; /* as gradients would */
        double squares = draw_squares(&config, state.scale);
        sherd__step_scalars out;
        vote_words vote;

        vote_make(vote, squares, overflow);
        sherd__step_prepare(&rules, vote, &state, &out);
        if (out.loss_scale != scaler.scale) {
            return step;
        }
        assert_int_equal(out.skip, overflow);
        if (!overflow) {
            check_step(&config, &out, scaler.scale, squares);
        }
        ended = ds_scaler_update(&scaler, overflow);
        if ((int)out.stuck != ended) {
            return step;
        }
        tally->overflows += overflow;
        tally->grown += out.next_scale > out.loss_scale;
        tally->stuck += ended;
        tally->steps++;
        if (ended) {
            break;
        }
    }
    return STEPS;
}

static void sequences_are_those_of_the_rules(void **state)
{
    tally tally = {0};

    (void)state;
    for (uint64_t seed = 0; seed < RUNS; seed++) {
        int step = run_sequence(seed, DS_RIGHT, &tally);
        if (step != STEPS) {
            fail_msg("run %d differs from the rules at step %d", (int)seed, step);
        }
    }
    print_message("%d runs, %lld steps, %lld overflows, %lld doublings, %lld ends at the minimum\n", RUNS,
                  (long long)tally.steps, (long long)tally.overflows, (long long)tally.grown, (long long)tally.stuck);
    assert_true(tally.overflows > 10000 && tally.grown > 10000 && tally.stuck > 100);
}

static void mistakes_would_show(void **state)
{
    (void)state;
    for (int mistake = DS_RIGHT + 1; mistake < DS_MISTAKES; mistake++) {
        tally tally = {0};
        int shown = 0;

        for (uint64_t seed = 0; seed < RUNS / 10; seed++) {
            shown += run_sequence(seed, (ds_mistake)mistake, &tally) != STEPS;
        }
        if (shown == 0) {
            fail_msg("mistake %d shows in no sequence", mistake);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_are_those_of_the_rules),
        cmocka_unit_test(mistakes_would_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
