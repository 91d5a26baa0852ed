/* SPDX-License-Identifier: MIT
 *
 * Embedding, first way: backward writes its gradients straight into the engine's ring, so full gradients never exist.
 *
 *     mlp_ring [RANKS] [STEPS]        ranks are threads of this process; ZeRO stage 2, AdamW, clipping
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/mlp.h"
#include "sherd/sherd.h"

static int steps = 20;

static void check(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fprintf(stderr, "mlp_ring: %s\n", err->text);
        exit(1);
    }
}

static sherd_plan *make_plan(int world)
{
    static const char *const names[MLP_PARAMS] = {"w1", "b1", "w2", "b2"};
    sherd_param params[MLP_PARAMS] = {0};
    sherd_config config;
    sherd_plan *plan;
    sherd_error err;

    for (int p = 0; p < MLP_PARAMS; p++) /* in forward order of first use; fp32 all through */
        params[p] = (sherd_param){.name = names[p], .ndim = 1, .shape = {mlp_elems[p]}};
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = MLP_BATCH;
    config.zero.stage = 2;
    config.optimizer.lr = 0.01;
    config.gradient_clipping = 1.0;
    check(sherd_plan_create(&config, params, MLP_PARAMS, world, &plan, &err), &err);
    return plan;
}

/* One micro-step: the weights are the engine's, the gradients go where the engine says. */
static double micro_step(sherd_engine *engine)
{
    const float *weights[MLP_PARAMS];
    float *grads[MLP_PARAMS];
    sherd_error err = {0};
    sherd_micro micro;
    sherd_grad grad;
    double loss;

    check(sherd_micro_begin(engine, &micro), &err);
    for (uint32_t p = 0; p < MLP_PARAMS; p++) {
        const void *data;
        check(sherd_param_acquire(engine, p, &data), &err);
        weights[p] = data;
    }
    for (uint32_t p = MLP_PARAMS; p-- > 0;) {
        check(sherd_grad_acquire(engine, p, &grad), &err);
        grads[p] = grad.data;
    }
    loss = mlp_gradient(micro.step, micro.number, weights, grads);
    for (uint32_t p = MLP_PARAMS; p-- > 0;) { /* backward order: a bucket's reduction starts with its last gradient */
        check(sherd_grad_ready(engine, p), &err);
        check(sherd_param_release(engine, p), &err);
    }
    check(sherd_engine_step(engine, NULL, &err), &err);
    return loss;
}

static void *rank_main(void *arg)
{
    sherd_comm *comm = arg;
    int world = sherd_comm_world(comm);
    sherd_plan *plan = make_plan(world);
    sherd_device_options options;
    sherd_device *device;
    sherd_engine *engine;
    sherd_error err;
    float values[MLP_HIDDEN * MLP_IN];

    sherd_device_options_init(&options, sizeof options);
    check(sherd_device_create(&options, &device, &err), &err);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    for (int p = 0; p < MLP_PARAMS; p++) {
        mlp_init(p, values);
        check(sherd_param_write(engine, (uint32_t)p, values, &err), &err);
    }
    for (int s = 1; s <= steps; s++) {
        double loss = micro_step(engine);
        check(sherd_engine_sum(engine, &loss, &err), &err);
        if (sherd_comm_rank(comm) == 0)
            printf("step %d loss %a (%.6f)\n", s, loss / world, loss / world);
    }
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
    return NULL;
}

int main(int argc, char **argv)
{
    int world = argc > 1 ? atoi(argv[1]) : 2;
    pthread_t threads[64];
    sherd_comm *comms[64];
    sherd_error err;
    steps = argc > 2 ? atoi(argv[2]) : steps;
    if (world < 1 || world > 64 || steps < 1)
        return fprintf(stderr, "usage: mlp_ring [RANKS 1..64] [STEPS]\n"), 2;
    check(sherd_comm_create_threads(NULL, world, comms, &err), &err);
    for (int r = 0; r < world; r++)
        if (pthread_create(&threads[r], NULL, rank_main, comms[r]))
            return 1;
    for (int r = 0; r < world; r++)
        pthread_join(threads[r], NULL);
}
