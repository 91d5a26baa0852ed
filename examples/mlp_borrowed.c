/* SPDX-License-Identifier: MIT
 *
 * Embedding, own buffers all through: the weights lie in the program's memory, where the engine keeps them up to date,
 * and its gradients are handed over by sherd_grad_copy. The program's forward and backward know nothing of Sherd.
 *
 *     mlp_borrowed [RANKS] [STEPS]    ranks are threads; ZeRO stage 1, SGD, two micro-steps per step
 */
#include "examples/mlp_sherd.h"

static int steps;

typedef struct model {
    float w1[MLP_HIDDEN * MLP_IN], b1[MLP_HIDDEN], w2[MLP_HIDDEN], b2[1];
} model; /* its weights, and another one its gradients */

typedef struct buffers {
    float *weights[MLP_PARAMS], *grads[MLP_PARAMS];
} buffers;

static void list(model *m, float *out[MLP_PARAMS])
{
    out[0] = m->w1, out[1] = m->b1, out[2] = m->w2, out[3] = m->b2;
}

static double micro_step(sherd_engine *engine, void *ctx)
{
    buffers *own = ctx;
    const float *same[MLP_PARAMS]; /* as own->weights: the call says that they are up to date */
    sherd_error err = {0};
    sherd_micro micro;
    double loss;

    check(sherd_micro_begin(engine, &micro), &err);
    mlp_acquire(engine, same);
    loss = mlp_gradient(micro.step, micro.number, (const float *const *)own->weights, own->grads);
    for (uint32_t p = MLP_PARAMS; p-- > 0;)
        check(sherd_grad_copy(engine, p, own->grads[p], SHERD_FP32), &err);
    mlp_release(engine);
    check(sherd_engine_step(engine, NULL, &err), &err);
    return loss;
}

static void *rank_main(void *arg)
{
    sherd_comm *comm = arg;
    model weight_memory, grad_memory;
    buffers own;
    sherd_config config;
    sherd_plan *plan;
    sherd_device *device;
    sherd_engine *engine;
    sherd_error err;

    list(&weight_memory, own.weights);
    list(&grad_memory, own.grads);
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = MLP_BATCH;
    config.gradient_accumulation_steps = 2;
    config.zero.stage = 1;
    config.optimizer.kind = SHERD_SGD, config.optimizer.lr = 0.05, config.optimizer.momentum = 0.9;
    plan = mlp_plan(&config, sherd_comm_world(comm), own.weights); /* of this rank: it says where its weights lie */
    check(sherd_device_create(NULL, &device, &err), &err);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    mlp_write(engine); /* from here on nobody but the engine writes the weights */
    mlp_train(engine, comm, steps, 2, micro_step, &own);
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
    return NULL;
}

int main(int argc, char **argv)
{
    return mlp_run_threads(argc, argv, &steps, rank_main);
}
