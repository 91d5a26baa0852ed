/* SPDX-License-Identifier: MIT
 *
 * Embedding, own buffers all through: the weights lie in the program's memory, where the engine keeps them up to date, and its
 * gradients are handed over by sherd_grad_copy. The program's forward and backward know nothing of Sherd.
 *
 *     mlp_borrowed [RANKS] [STEPS]    ranks are threads; ZeRO stage 1, SGD, two micro-steps per step
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/mlp.h"
#include "sherd/sherd.h"

static int steps = 20;

typedef struct model {
    float w1[MLP_HIDDEN * MLP_IN], b1[MLP_HIDDEN], w2[MLP_HIDDEN], b2[1];
} model; /* its weights, and another one its gradients */

static void check(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fprintf(stderr, "mlp_borrowed: %s\n", err->text);
        exit(1);
    }
}

static void list(model *m, float *out[MLP_PARAMS])
{
    out[0] = m->w1, out[1] = m->b1, out[2] = m->w2, out[3] = m->b2;
}

/* Each rank has a plan of its own: it says where this rank's weights lie. */
static sherd_plan *make_plan(int world, float *const weights[MLP_PARAMS])
{
    static const char *const names[MLP_PARAMS] = {"w1", "b1", "w2", "b2"};
    sherd_param params[MLP_PARAMS] = {0};
    sherd_config config;
    sherd_plan *plan;
    sherd_error err;
    for (int p = 0; p < MLP_PARAMS; p++)
        params[p] = (sherd_param){.name = names[p], .ndim = 1, .shape = {mlp_elems[p]}, .storage = weights[p]};
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = MLP_BATCH;
    config.gradient_accumulation_steps = 2;
    config.zero.stage = 1;
    config.optimizer.kind = SHERD_SGD, config.optimizer.lr = 0.05, config.optimizer.momentum = 0.9;
    check(sherd_plan_create(&config, params, MLP_PARAMS, world, &plan, &err), &err);
    return plan;
}

static double micro_step(sherd_engine *engine, float *const weights[MLP_PARAMS], float *const grads[MLP_PARAMS])
{
    const void *same; /* as weights[p]: the call says that it is up to date */
    sherd_error err = {0};
    sherd_micro micro;
    double loss;
    check(sherd_micro_begin(engine, &micro), &err);
    for (uint32_t p = 0; p < MLP_PARAMS; p++)
        check(sherd_param_acquire(engine, p, &same), &err);
    loss = mlp_gradient(micro.step, micro.number, (const float *const *)weights, grads);
    for (uint32_t p = MLP_PARAMS; p-- > 0;) {
        check(sherd_grad_copy(engine, p, grads[p], SHERD_FP32), &err);
        check(sherd_param_release(engine, p), &err);
    }
    check(sherd_engine_step(engine, NULL, &err), &err);
    return loss;
}

static void *rank_main(void *arg)
{
    sherd_comm *comm = arg;
    int world = sherd_comm_world(comm);
    model weight_memory, grad_memory;
    float *weights[MLP_PARAMS], *grads[MLP_PARAMS];
    sherd_plan *plan;
    sherd_device *device;
    sherd_engine *engine;
    sherd_error err;

    list(&weight_memory, weights);
    list(&grad_memory, grads);
    plan = make_plan(world, weights);
    check(sherd_device_create(NULL, &device, &err), &err);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    for (int p = 0; p < MLP_PARAMS; p++) {
        mlp_init(p, weights[p]);
        check(sherd_param_write(engine, (uint32_t)p, weights[p], &err), &err);
    }
    for (int s = 1; s <= steps; s++) { /* from here on nobody but the engine writes the weights */
        double loss = micro_step(engine, weights, grads) + micro_step(engine, weights, grads);
        check(sherd_engine_sum(engine, &loss, &err), &err);
        if (sherd_comm_rank(comm) == 0)
            printf("step %d loss %a (%.6f)\n", s, loss / (2 * world), loss / (2 * world));
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
        return 2;
    check(sherd_comm_create_threads(NULL, world, comms, &err), &err);
    for (int r = 0; r < world; r++)
        if (pthread_create(&threads[r], NULL, rank_main, comms[r]))
            return 1;
    for (int r = 0; r < world; r++)
        pthread_join(threads[r], NULL);
}
