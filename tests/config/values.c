/* SPDX-License-Identifier: MIT
 *
 * The batch triad, the schedules, and callers whose struct is shorter than ours.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sherd/sherd.h"
#include "tests/config/parse.h"

static sherd_status resolve(int64_t batch, int64_t micro, int64_t steps, int32_t world, sherd_config *config,
                            sherd_error *err)
{
    sherd_config_init(config, sizeof *config);
    config->train_batch_size = batch;
    config->train_micro_batch_size_per_gpu = micro;
    config->gradient_accumulation_steps = steps;
    return sherd_config_resolve(config, world, err);
}

/* All seven ways to give some of the three, and what is inferred on 4 ranks. */
static void triad_is_inferred(void **state)
{
    static const int64_t rows[][6] = {
        {24, 0, 0, 24, 6, 1}, {0, 3, 0, 12, 3, 1}, {24, 3, 0, 24, 3, 2}, {24, 0, 2, 24, 3, 2},
        {0, 3, 2, 24, 3, 2},  {24, 3, 2, 24, 3, 2},
    };
    sherd_config config;
    sherd_error err;

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const int64_t *row = rows[i];

        for (int again = 0; again < 2; again++) { /* idempotent */
            assert_int_equal(again ? sherd_config_resolve(&config, 4, &err)
                                   : resolve(row[0], row[1], row[2], 4, &config, &err),
                             SHERD_OK);
            assert_int_equal(config.train_batch_size, row[3]);
            assert_int_equal(config.train_micro_batch_size_per_gpu, row[4]);
            assert_int_equal(config.gradient_accumulation_steps, row[5]);
        }
    }
    assert_int_equal(resolve(0, 0, 2, 4, &config, &err), SHERD_EINVAL);
}

static void triad_faults_give_the_numbers(void **state)
{
    sherd_config config;
    sherd_error err;

    (void)state;
    assert_int_equal(resolve(0, 0, 0, 4, &config, &err), SHERD_EINVAL);
    assert_string_equal(err.text, "train_batch_size 0, train_micro_batch_size_per_gpu 0, gradient_accumulation_steps "
                        "0 on 4 ranks (0: not given): give train_batch_size or train_micro_batch_size_per_gpu");
    assert_int_equal(resolve(25, 3, 2, 4, &config, &err), SHERD_EINVAL);
    assert_string_equal(err.text, "train_batch_size 25, train_micro_batch_size_per_gpu 3, "
                        "gradient_accumulation_steps 2 on 4 ranks (0: not given): train_batch_size must be "
                        "micro-batch times accumulation steps times ranks");
    assert_int_equal(config.train_batch_size, 25);
    assert_int_equal(resolve(25, 0, 0, 4, &config, &err), SHERD_EINVAL);
    assert_int_equal(resolve(25, 3, 0, 4, &config, &err), SHERD_EINVAL);
    assert_int_equal(resolve(25, 0, 2, 4, &config, &err), SHERD_EINVAL);
    assert_int_equal(resolve(3, 0, 0, 4, &config, &err), SHERD_EINVAL); /* fewer sequences than ranks */
    assert_int_equal(resolve(2, 3, 0, 1, &config, &err), SHERD_EINVAL);
    assert_int_equal(resolve(0, INT64_MAX / 2, 3, 4, &config, &err), SHERD_EINVAL);
    assert_int_equal(resolve(0, -1, 0, 4, &config, &err), SHERD_EINVAL);
    assert_int_equal(resolve(8, 0, 0, 0, &config, &err), SHERD_EINVAL);
}

/* Every small triad: inferred values multiply to the batch, or it is refused because nothing does. */
static void triad_by_exhaustion(void **state)
{
    size_t good = 0, bad = 0;

    (void)state;
    for (int64_t batch = 1; batch <= 24; batch++) {
        for (int32_t world = 1; world <= 5; world++) {
            for (int64_t micro = 0; micro <= 6; micro++) {
                sherd_config config;
                int possible = micro > 0 ? batch % (micro * world) == 0 : batch % world == 0;
                sherd_status status = resolve(batch, micro, 0, world, &config, NULL);

                assert_int_equal(status, possible ? SHERD_OK : SHERD_EINVAL);
                if (possible) {
                    assert_int_equal(config.train_micro_batch_size_per_gpu * config.gradient_accumulation_steps * world,
                                     batch);
                }
                *(possible ? &good : &bad) += 1;
            }
        }
    }
    assert_true(good > 100 && bad > 100);
}

typedef struct rate {
    int64_t updates;
    double lr;
} rate;

static void assert_rates(const char *scheduler, const rate *rates, size_t n)
{
    char text[512];
    parsed p;

    snprintf(text, sizeof text, "{\"optimizer\": {\"type\": \"SGD\", \"params\": {\"lr\": 2e-3}}, \"scheduler\": %s}",
             scheduler);
    parse(&p, text);
    assert_string_equal(p.error.text, "");
    for (size_t i = 0; i < n; i++) {
        double lr = sherd_config_lr(&p.config, rates[i].updates);

        if (fabs(lr - rates[i].lr) > 1e-15) {
            fail_msg("%s at %lld: %.17g, not %.17g", scheduler, (long long)rates[i].updates, lr, rates[i].lr);
        }
    }
}

#define ASSERT_RATES(scheduler, rates) assert_rates(scheduler, rates, sizeof(rates) / sizeof(rates)[0])

/* min + (max - min) * g, g = ln(it + 1) / ln(W) or it / W below W = 10, then 1; computed in Python from the
 * formulas. */
static void warmup_follows_the_formula(void **state)
{
    static const rate log_rates[] = {{0, 1e-05}, {1, 9.729869874255451e-05}, {5, 0.0002356638626112566},
                                     {9, 0.0003}, {10, 0.0003}, {50, 0.0003}};
    static const rate linear_rates[] = {{0, 1e-05}, {1, 3.9e-05}, {5, 0.00015499999999999997}, {9, 0.000271},
                                        {10, 0.0003}, {50, 0.0003}};

    (void)state;
    ASSERT_RATES("{\"type\": \"WarmupLR\", \"params\": {\"warmup_min_lr\": 1e-5, \"warmup_max_lr\": 3e-4, "
                 "\"warmup_num_steps\": 10}}", log_rates);
    ASSERT_RATES("{\"type\": \"WarmupLR\", \"params\": {\"warmup_min_lr\": 1e-5, \"warmup_max_lr\": 3e-4, "
                 "\"warmup_num_steps\": 10, \"warmup_type\": \"linear\"}}", linear_rates);
}

static void warmup_has_at_least_two_steps(void **state)
{
    static const rate log_rates[] = {{0, 0}, {1, 0.001}, {2, 0.001}};
    static const rate linear_rates[] = {{0, 0}, {1, 0.0005}, {2, 0.001}, {3, 0.001}};

    (void)state;
    ASSERT_RATES("{\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 0}}", log_rates);
    ASSERT_RATES("{\"type\": \"WarmupLR\", \"params\": {\"warmup_num_steps\": 1, \"warmup_type\": \"linear\"}}",
                 linear_rates);
}

/* The warm-up, then max(0, (T - it) / max(1, T - W)) with W = 10, T = 100. */
static void decay_follows_the_formula(void **state)
{
    static const rate rates[] = {{0, 1e-05}, {4, 0.000126}, {9, 0.000271}, {10, 0.0003}, {55, 0.00015499999999999997},
                                 {99, 1.3222222222222223e-05}, {100, 1e-05}, {150, 1e-05}};

    (void)state;
    ASSERT_RATES("{\"type\": \"WarmupDecayLR\", \"params\": {\"warmup_min_lr\": 1e-5, \"warmup_max_lr\": 3e-4, "
                 "\"warmup_num_steps\": 10, \"total_num_steps\": 100, \"warmup_type\": \"linear\"}}", rates);
}

/* lr * (r + (1 - r) ln(it + 1) / ln(W)), then lr * (c + (1 - c)(1 + cos(pi p)) / 2) with p = min(1, (it - W + 1) /
 * (T - W)), lr 2e-3, r = 0.1, c = 0.05, W = 10, T = 100. */
static void cosine_follows_the_formula(void **state)
{
    static const rate rates[] = {{0, 0.0002}, {4, 0.0014581460078048338}, {9, 0.002}, {10, 0.001999421285668141},
                                 {55, 0.0010168454781326244}, {98, 0.00010057871433185903}, {99, 0.0001},
                                 {150, 0.0001}};

    (void)state;
    ASSERT_RATES("{\"type\": \"WarmupCosineLR\", \"params\": {\"warmup_min_ratio\": 0.1, \"cos_min_ratio\": 0.05, "
                 "\"warmup_num_steps\": 10, \"total_num_steps\": 100}}", rates);
}

/* The triangle and the decay as exact fractions, computed in Python. */
static void one_cycle_follows_the_formula(void **state)
{
    static const rate decay[] = {{0, 1e-05}, {1, 3.9e-05}, {5, 0.000155}, {10, 0.0003}, {11, 0.0002855}, {20, 0.000155},
                                 {29, 2.45e-05}, {30, 1e-05}, {31, 8.88888888888889e-06}, {35, 6.153846153846154e-06},
                                 {100, 1.0256410256410257e-06}};
    static const rate stairs[] = {{0, 0.1}, {1, 0.1}, {2, 0.3}, {3, 0.3}, {5, 0.5}, {9, 0.9}, {10, 1.1}, {11, 0.6},
                                  {14, 0.6}, {16, 0.1}, {19, 0.1}, {20, 0.1}, {21, 0.1}, {50, 0.1}};
    static const rate odd_stairs[] = {{0, 0}, {2, 0}, {3, 1 / 3.0}, {6, 2 / 3.0}, {7, 1}, {8, 2 / 3.0}, {9, 2 / 3.0},
                                      {10, 1 / 3.0}, {11, 1 / 3.0}, {12, 0}, {13, 0}, {14, 0}};

    (void)state;
    ASSERT_RATES("{\"type\": \"OneCycle\", \"params\": {\"cycle_min_lr\": 1e-5, \"cycle_max_lr\": 3e-4, "
                 "\"cycle_first_step_size\": 10, \"cycle_second_step_size\": 20, \"decay_lr_rate\": 0.5, "
                 "\"decay_step_size\": 4}}", decay);
    ASSERT_RATES("{\"type\": \"OneCycle\", \"params\": {\"cycle_min_lr\": 0.1, \"cycle_max_lr\": 1.1, "
                 "\"cycle_first_step_size\": 10, \"cycle_first_stair_count\": 5, \"cycle_second_stair_count\": 2, "
                 "\"decay_lr_rate\": 0.5}}", stairs);
    ASSERT_RATES("{\"type\": \"OneCycle\", \"params\": {\"cycle_min_lr\": 0, \"cycle_max_lr\": 1, "
                 "\"cycle_first_step_size\": 7, \"cycle_first_stair_count\": 3, \"decay_step_size\": 9}}", odd_stairs);
}

static void range_test_follows_the_formula(void **state)
{
    static const rate slope[] = {{0, 1e-4}, {1, 1.4e-4}, {4, 2.6e-4}, {5, 3e-4}, {9, 4.6e-4}, {10, 5e-4}, {23, 1.02e-3}};
    static const rate stairs[] = {{0, 1e-4}, {1, 1e-4}, {4, 1e-4}, {5, 3e-4}, {9, 3e-4}, {10, 5e-4}, {23, 9e-4}};

    (void)state;
    ASSERT_RATES("{\"type\": \"LRRangeTest\", \"params\": {\"lr_range_test_min_lr\": 1e-4, "
                 "\"lr_range_test_step_size\": 5, \"lr_range_test_step_rate\": 2}}", slope);
    ASSERT_RATES("{\"type\": \"LRRangeTest\", \"params\": {\"lr_range_test_min_lr\": 1e-4, \"lr_range_test_step_size\": "
                 "5, \"lr_range_test_step_rate\": 2, \"lr_range_test_staircase\": true}}", stairs);
}

static void without_a_scheduler_the_rate_stays(void **state)
{
    sherd_config config;

    (void)state;
    sherd_config_init(&config, sizeof config);
    config.optimizer.lr = 0.125;
    assert_true(sherd_config_lr(&config, 0) == 0.125 && sherd_config_lr(&config, 1000000) == 0.125);
}

/* A caller compiled against a shorter struct: nothing beyond its size is read or written. */
static void a_shorter_struct_is_left_alone_beyond_its_end(void **state)
{
    size_t shorter = offsetof(sherd_config, sherd);
    sherd_config config;
    unsigned char *bytes = (unsigned char *)&config;
    sherd_error err;
    const char *set = "train_batch_size=8";

    (void)state;
    memset(&config, 0xA5, sizeof config);
    sherd_config_init(&config, shorter);
    assert_int_equal(sherd_config_read(&config, NULL, &set, 1, NULL, &err), SHERD_OK);
    assert_int_equal(sherd_config_resolve(&config, 2, &err), SHERD_OK);
    assert_int_equal(config.size, shorter);
    assert_int_equal(config.train_micro_batch_size_per_gpu, 4);
    for (size_t i = shorter; i < sizeof config; i++) {
        assert_int_equal(bytes[i], 0xA5);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(triad_is_inferred),
        cmocka_unit_test(triad_faults_give_the_numbers),
        cmocka_unit_test(triad_by_exhaustion),
        cmocka_unit_test(warmup_follows_the_formula),
        cmocka_unit_test(warmup_has_at_least_two_steps),
        cmocka_unit_test(decay_follows_the_formula),
        cmocka_unit_test(cosine_follows_the_formula),
        cmocka_unit_test(one_cycle_follows_the_formula),
        cmocka_unit_test(range_test_follows_the_formula),
        cmocka_unit_test(without_a_scheduler_the_rate_stays),
        cmocka_unit_test(a_shorter_struct_is_left_alone_beyond_its_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
