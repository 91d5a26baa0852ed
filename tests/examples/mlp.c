/* SPDX-License-Identifier: MIT
 *
 * The embedding examples' losses, to the last bit, against the unsharded oracle driving the same model; and their
 * length.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "examples/mlp.h"
#include "tests/support/oracle.h"

enum { STEPS = 12, EPOCH = 5 };

static const char *ring_program, *own_program, *borrowed_program, *steered_program, *folder, *mpi_program, *mpiexec;

typedef struct truth {
    sherd_oracle *oracle;
    int64_t cached_step, cached_micro;
    float *grad[MLP_PARAMS];
    double loss[64]; /* by micro-batch number of the step */
} truth;

static void compute(truth *truth, int64_t step, int64_t micro)
{
    const float *weights[MLP_PARAMS];

    if (truth->cached_step == step && truth->cached_micro == micro)
        return;
    for (uint32_t p = 0; p < MLP_PARAMS; p++)
        weights[p] = sherd_oracle_master(truth->oracle, p);
    truth->loss[micro] = mlp_gradient(step, micro, weights, truth->grad);
    truth->cached_step = step;
    truth->cached_micro = micro;
}

static int leaf(void *ctx, int64_t step, int64_t micro, uint32_t param, sherd_dtype dtype, int64_t n, void *out)
{
    truth *truth = ctx;
    (void)dtype;
    compute(truth, step, micro);
    memcpy(out, truth->grad[param], (size_t)n * sizeof(float));
    return 1;
}

static void open_truth(truth *truth, const sherd_config *config, int world)
{
    sherd_param params[MLP_PARAMS] = {0};
    static const char *const names[MLP_PARAMS] = {"w1", "b1", "w2", "b2"};

    memset(truth, 0, sizeof *truth);
    for (int p = 0; p < MLP_PARAMS; p++)
        params[p] = (sherd_param){
            .name = names[p], .ndim = 1, .shape = {mlp_elems[p]}, .group = config->n_groups > 1 ? p % 2 : 0};
    truth->oracle = sherd_oracle_create(config, params, MLP_PARAMS, world);
    assert_non_null(truth->oracle);
    for (int p = 0; p < MLP_PARAMS; p++) {
        truth->grad[p] = malloc((size_t)mlp_elems[p] * sizeof(float));
        mlp_init(p, truth->grad[p]);
        sherd_oracle_write(truth->oracle, (uint32_t)p, truth->grad[p]);
    }
}

/* What rank `rank` adds up in one step, and the balanced tree over the ranks, as sherd_engine_sum forms it. */
static double tree(const double *value, int low, int high)
{
    int power = 1;
    if (high - low == 1)
        return value[low];
    while (power * 2 < high - low)
        power *= 2;
    return tree(value, low, low + power) + tree(value, low + power, high);
}

static FILE *start(const char *program, int world)
{
    char command[1024];
    FILE *out;

    if (program == mpi_program)
        snprintf(command, sizeof command, "%s -n %d %s %d", mpiexec, world, program, STEPS);
    else
        snprintf(command, sizeof command, "%s %d %d", program, world, STEPS);
    out = popen(command, "r");
    assert_non_null(out);
    return out;
}

static void close_truth(truth *truth)
{
    for (int p = 0; p < MLP_PARAMS; p++)
        free(truth->grad[p]);
    sherd_oracle_destroy(truth->oracle);
}

/* The mean loss of a step of `micros` micro-steps, of which there are `accumulation` in a whole one. */
static double next_loss(truth *truth, const sherd_config *config, int world, int accumulation, int micros)
{
    double rank_loss[8];

    sherd_oracle_step(truth->oracle, sherd_config_lr(config, sherd_oracle_updates(truth->oracle)), leaf, truth, NULL);
    for (int r = 0; r < world; r++) {
        rank_loss[r] = truth->loss[r * accumulation];
        for (int k = 1; k < micros; k++)
            rank_loss[r] += truth->loss[r * accumulation + k];
    }
    return tree(rank_loss, 0, world) / (world * micros);
}

static void expect(const char *program, int world, const char *line, double got, double want)
{
    if (memcmp(&got, &want, sizeof got) != 0)
        fail_msg("%s, world %d: the oracle says %a, not: %s", program, world, want, line);
}

static void compare(const char *program, const sherd_config *config, int world, int accumulation)
{
    FILE *out = start(program, world);
    double first = 0, got = 0;
    char line[256];
    truth truth;
    int lines = 0;

    open_truth(&truth, config, world);
    while (fgets(line, sizeof line, out)) {
        int step;
        assert_int_equal(sscanf(line, "step %d loss %la", &step, &got), 2);
        expect(program, world, line, got, next_loss(&truth, config, world, accumulation, accumulation));
        first = lines ? first : got;
        lines++;
    }
    assert_int_equal(pclose(out), 0);
    assert_int_equal(lines, STEPS);
    assert_true(got < first);
    close_truth(&truth);
}

/* ZeRO stage 2, AdamW, clipping, one micro-step. */
static void ring_like(const char *program, int worlds)
{
    for (int world = 1; world <= worlds; world++) {
        sherd_config config;
        sherd_config_init(&config, sizeof config);
        config.train_micro_batch_size_per_gpu = MLP_BATCH;
        config.zero.stage = 2;
        config.optimizer.lr = 0.01;
        config.gradient_clipping = 1.0;
        assert_int_equal(sherd_config_resolve(&config, world, NULL), SHERD_OK);
        compare(program, &config, world, 1);
    }
}

static void test_ring(void **state)
{
    (void)state;
    ring_like(ring_program, 4);
}

static void test_mpi(void **state)
{
    (void)state;
    if (strcmp(mpi_program, "-") == 0)
        skip();
    ring_like(mpi_program, 3);
}

/* ZeRO stage 1, SGD, two micro-steps. */
static void own_like(const char *program)
{
    for (int world = 1; world <= 3; world++) {
        sherd_config config;
        sherd_config_init(&config, sizeof config);
        config.train_micro_batch_size_per_gpu = 16;
        config.gradient_accumulation_steps = 2;
        config.zero.stage = 1;
        config.optimizer.kind = SHERD_SGD;
        config.optimizer.lr = 0.05;
        config.optimizer.momentum = 0.9;
        assert_int_equal(sherd_config_resolve(&config, world, NULL), SHERD_OK);
        compare(program, &config, world, 2);
    }
}

static void test_own(void **state)
{
    (void)state;
    own_like(own_program);
}

static void test_borrowed(void **state)
{
    (void)state;
    own_like(borrowed_program);
}

/* What the program does between steps and to them, told to the oracle. Of discarded micro-steps it hears nothing. */
static double next_steered_loss(truth *truth, const sherd_config *config, int world, int step)
{
    int micros = step % EPOCH == 0 ? 1 : 2;

    sherd_oracle_set_group(truth->oracle, 1, step < 9 ? 0.02 / step : NAN, NAN);
    sherd_oracle_set_group(truth->oracle, 0, NAN, step < 6 ? NAN : 0.5);
    sherd_oracle_set_micros(truth->oracle, micros);
    return next_loss(truth, config, world, 2, micros);
}

/* Every rank evaluates the same. */
static double evaluate(truth *truth, int world)
{
    const float *weights[MLP_PARAMS];
    double loss[8];

    for (uint32_t p = 0; p < MLP_PARAMS; p++)
        weights[p] = sherd_oracle_master(truth->oracle, p);
    truth->cached_step = -1;
    loss[0] = mlp_gradient(0, 0, weights, truth->grad);
    for (int r = 1; r < world; r++)
        loss[r] = loss[0];
    return tree(loss, 0, world) / world;
}

static void compare_steered(int world, const sherd_config *config)
{
    FILE *out = start(steered_program, world);
    int steps = 0, evaluations = 0, masters = 0, number;
    double got, w[4];
    char line[256];
    truth truth;

    open_truth(&truth, config, world);
    while (fgets(line, sizeof line, out)) {
        if (sscanf(line, "step %d loss %la", &number, &got) == 2) {
            assert_int_equal(number, ++steps);
            expect(steered_program, world, line, got, next_steered_loss(&truth, config, world, steps));
        } else if (sscanf(line, "eval %d loss %la", &number, &got) == 2) {
            assert_int_equal(number, steps);
            expect(steered_program, world, line, got, evaluate(&truth, world));
            evaluations++;
        } else {
            assert_int_equal(sscanf(line, "w1[30..34) %la %la %la %la", &w[0], &w[1], &w[2], &w[3]), 4);
            for (int i = 0; i < 4; i++)
                expect(steered_program, world, line, w[i], sherd_oracle_master(truth.oracle, 0)[30 + i]);
            masters++;
        }
    }
    assert_int_equal(pclose(out), 0);
    assert_int_equal(steps, STEPS);
    assert_int_equal(evaluations, STEPS / 4);
    assert_int_equal(masters, 1);
    close_truth(&truth);
}

static void test_steered(void **state)
{
    (void)state;
    for (int world = 1; world <= 3; world++) {
        sherd_config config;
        sherd_config_init(&config, sizeof config);
        config.train_micro_batch_size_per_gpu = MLP_BATCH;
        config.gradient_accumulation_steps = 2;
        config.zero.stage = 1;
        config.optimizer.lr = 0.01;
        config.gradient_clipping = 1.0;
        config.n_groups = 2;
        config.groups[0] = (sherd_group){.lr = 0.01, .weight_decay = 0.01};
        config.groups[1] = (sherd_group){.lr = 0.01};
        assert_int_equal(sherd_config_resolve(&config, world, NULL), SHERD_OK);
        compare_steered(world, &config);
    }
}

static void test_length(void **state)
{
    static const char *const names[] = {"mlp_ring.c",    "mlp_own.c", "mlp_borrowed.c",
                                        "mlp_steered.c", "mlp_mpi.c", "mlp_nccl.c"};
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1024], line[512];
        int lines = 0;
        FILE *file;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        file = fopen(path, "r");
        assert_non_null(file);
        while (fgets(line, sizeof line, file))
            lines++;
        fclose(file);
        if (lines >= 120)
            fail_msg("%s has %d lines; under 120 are promised", names[i], lines);
        assert_true(lines > 20);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ring),     cmocka_unit_test(test_own),
                                       cmocka_unit_test(test_borrowed), cmocka_unit_test(test_steered),
                                       cmocka_unit_test(test_mpi),      cmocka_unit_test(test_length)};

    if (argc != 8)
        return 2;
    ring_program = argv[1];
    own_program = argv[2];
    borrowed_program = argv[3];
    steered_program = argv[4];
    folder = argv[5];
    mpi_program = argv[6];
    mpiexec = argv[7];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
