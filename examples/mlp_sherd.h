/* SPDX-License-Identifier: MIT
 *
 * What the embedding examples do alike: make the plan, take a micro-step, train, and start ranks as threads. Each
 * program shows what is its own.
 */
#ifndef SHERD_EXAMPLES_MLP_SHERD_H
#define SHERD_EXAMPLES_MLP_SHERD_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/mlp.h"
#include "sherd/sherd.h"

#ifndef MLP_QUIT
#define MLP_QUIT() exit(1)
#endif

static inline void check(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fprintf(stderr, "%s\n", err->text);
        MLP_QUIT();
    }
}

/* ZeRO stage 2, AdamW, clipping. */
static inline void mlp_config(sherd_config *config)
{
    sherd_config_init(config, sizeof *config);
    config->train_micro_batch_size_per_gpu = MLP_BATCH;
    config->zero.stage = 2;
    config->optimizer.lr = 0.01;
    config->gradient_clipping = 1.0;
}

/* Parameters in forward order of first use, fp32 all through. Weights are of group 0; biases of the last, where there
 * are groups. storage: where the program keeps its weights, or NULL. */
static inline sherd_plan *mlp_plan(const sherd_config *config, int world, float *const *storage)
{
    static const char *const names[MLP_PARAMS] = {"w1", "b1", "w2", "b2"};
    sherd_param params[MLP_PARAMS] = {0};
    sherd_plan *plan;
    sherd_error err;

    for (int p = 0; p < MLP_PARAMS; p++)
        params[p] = (sherd_param){.name = names[p],
                                  .ndim = 1,
                                  .shape = {mlp_elems[p]},
                                  .group = config->n_groups > 1 ? (uint32_t)p % 2 : 0,
                                  .storage = storage ? storage[p] : NULL};
    check(sherd_plan_create(config, params, MLP_PARAMS, world, &plan, &err), &err);
    return plan;
}

/* The weights as they are now, readable until they are released: before a step's last sherd_engine_step. */
static inline void mlp_acquire(sherd_engine *engine, const float *weights[MLP_PARAMS])
{
    sherd_error err = {0};
    const void *data;

    for (uint32_t p = 0; p < MLP_PARAMS; p++) {
        check(sherd_param_acquire(engine, p, &data), &err);
        weights[p] = data;
    }
}

static inline void mlp_release(sherd_engine *engine)
{
    sherd_error err = {0};

    for (uint32_t p = 0; p < MLP_PARAMS; p++)
        check(sherd_param_release(engine, p), &err);
}

/* Where the gradients are to be written: the engine's ring, so full gradients never exist. */
static inline void mlp_acquire_grads(sherd_engine *engine, float *grads[MLP_PARAMS])
{
    sherd_error err = {0};
    sherd_grad grad;

    for (uint32_t p = MLP_PARAMS; p-- > 0;) {
        check(sherd_grad_acquire(engine, p, &grad), &err);
        grads[p] = grad.data;
    }
}

/* One micro-step: the weights are the engine's, the gradients go where the engine says. */
static inline double mlp_micro_step(sherd_engine *engine, void *unused)
{
    const float *weights[MLP_PARAMS];
    float *grads[MLP_PARAMS];
    sherd_error err = {0};
    sherd_micro micro;
    double loss;

    (void)unused;
    check(sherd_micro_begin(engine, &micro), &err);
    mlp_acquire(engine, weights);
    mlp_acquire_grads(engine, grads);
    loss = mlp_gradient(micro.step, micro.number, weights, grads);
    for (uint32_t p = MLP_PARAMS; p-- > 0;) /* backward order: a bucket's reduction starts with its last gradient */
        check(sherd_grad_ready(engine, p), &err);
    mlp_release(engine);
    check(sherd_engine_step(engine, NULL, &err), &err);
    return loss;
}

/* First weights: rank 0's, for all. */
static inline void mlp_write(sherd_engine *engine)
{
    float values[MLP_HIDDEN * MLP_IN];
    sherd_error err;

    for (int p = 0; p < MLP_PARAMS; p++) {
        mlp_init(p, values);
        check(sherd_param_write(engine, (uint32_t)p, values, &err), &err);
    }
}

/* The mean loss over `count` micro-batches of each rank, of which `sum` is this rank's sum; rank 0 says it. */
static inline void mlp_say(sherd_engine *engine, sherd_comm *comm, const char *what, int step, double sum, int count)
{
    sherd_error err;

    check(sherd_engine_sum(engine, &sum, &err), &err);
    sum /= sherd_comm_world(comm) * count;
    if (sherd_comm_rank(comm) == 0)
        printf("%s %d loss %a (%.6f)\n", what, step, sum, sum);
}

/* Updates of `accumulation` micro-steps each. */
static inline void mlp_train(sherd_engine *engine, sherd_comm *comm, int steps, int accumulation,
                             double (*micro_step)(sherd_engine *engine, void *ctx), void *ctx)
{
    for (int s = 1; s <= steps; s++) {
        double sum = micro_step(engine, ctx);
        for (int k = 1; k < accumulation; k++)
            sum += micro_step(engine, ctx);
        mlp_say(engine, comm, "step", s, sum, accumulation);
    }
}

/* Arguments [RANKS] [STEPS]; every rank is a thread that gets a communicator. */
static inline int mlp_run_threads(int argc, char **argv, int *steps, void *(*rank_main)(void *comm))
{
    int world = argc > 1 ? atoi(argv[1]) : 2;
    pthread_t threads[64];
    sherd_comm *comms[64];
    sherd_error err;

    *steps = argc > 2 ? atoi(argv[2]) : 20;
    if (world < 1 || world > 64 || *steps < 1)
        return fprintf(stderr, "usage: %s [RANKS 1..64] [STEPS]\n", argv[0]), 2;
    check(sherd_comm_create_threads(NULL, world, comms, &err), &err);
    for (int r = 0; r < world; r++)
        if (pthread_create(&threads[r], NULL, rank_main, comms[r]))
            return 1;
    for (int r = 0; r < world; r++)
        pthread_join(threads[r], NULL);
    return 0;
}

#endif
