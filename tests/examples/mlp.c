/* SPDX-License-Identifier: MIT
 *
 * The embedding examples' losses, to the last bit, against the unsharded oracle driving the same model; and their
 * length.
 */
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

static const char *ring_program, *own_program, *borrowed_program, *folder, *mpi_program, *mpiexec;

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
        params[p] = (sherd_param){.name = names[p], .ndim = 1, .shape = {mlp_elems[p]}};
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

static void compare(const char *program, const sherd_config *config, int world, int accumulation)
{
    enum { STEPS = 12 };
    char command[1024], line[256];
    double first = 0, last = 0;
    truth truth;
    FILE *out;
    int lines = 0;

    if (program == mpi_program)
        snprintf(command, sizeof command, "%s -n %d %s %d", mpiexec, world, program, STEPS);
    else
        snprintf(command, sizeof command, "%s %d %d", program, world, STEPS);
    out = popen(command, "r");
    assert_non_null(out);
    open_truth(&truth, config, world);
    while (fgets(line, sizeof line, out)) {
        double got, rank_loss[8], want;
        int step;
        assert_int_equal(sscanf(line, "step %d loss %la", &step, &got), 2);
        sherd_oracle_step(truth.oracle, sherd_config_lr(config, sherd_oracle_updates(truth.oracle)), leaf, &truth,
                          NULL);
        for (int r = 0; r < world; r++) {
            rank_loss[r] = truth.loss[r * accumulation];
            for (int k = 1; k < accumulation; k++)
                rank_loss[r] += truth.loss[r * accumulation + k];
        }
        want = tree(rank_loss, 0, world) / (world * accumulation);
        if (memcmp(&got, &want, sizeof got) != 0)
            fail_msg("%s, world %d, step %d: loss %a, the oracle says %a", program, world, step, got, want);
        first = lines ? first : got;
        last = got;
        lines++;
    }
    assert_int_equal(pclose(out), 0);
    assert_int_equal(lines, STEPS);
    assert_true(last < first);
    for (int p = 0; p < MLP_PARAMS; p++)
        free(truth.grad[p]);
    sherd_oracle_destroy(truth.oracle);
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

static void test_length(void **state)
{
    static const char *const names[] = {"mlp_ring.c", "mlp_own.c", "mlp_borrowed.c", "mlp_mpi.c"};
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ring), cmocka_unit_test(test_own),
                                       cmocka_unit_test(test_borrowed), cmocka_unit_test(test_mpi),
                                       cmocka_unit_test(test_length)};

    if (argc != 7)
        return 2;
    ring_program = argv[1];
    own_program = argv[2];
    borrowed_program = argv[3];
    folder = argv[4];
    mpi_program = argv[5];
    mpiexec = argv[6];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
