/* SPDX-License-Identifier: MIT
 *
 * Embedding, second way: the program keeps its own gradient buffers and hands them over by sherd_grad_copy.
 *
 *     mlp_own [RANKS] [STEPS]         ranks are processes over shared memory; ZeRO stage 1, SGD, two micro-steps per
 * step
 */
#include <sys/wait.h>
#include <unistd.h>

#include "examples/mlp_sherd.h"

static int world = 2, steps = 20;

static void configure(sherd_config *config)
{
    static const char *const sets[] = {"optimizer={\"type\":\"SGD\",\"params\":{\"lr\":0.05,\"momentum\":0.9}}",
                                       "zero_optimization.stage=1", "gradient_accumulation_steps=2",
                                       "train_micro_batch_size_per_gpu=16"};
    sherd_error err;

    sherd_config_init(config, sizeof *config);
    check(sherd_config_read(config, NULL, sets, sizeof sets / sizeof *sets, NULL, &err), &err);
}

static double micro_step(sherd_engine *engine, void *ctx)
{
    float *const *grads = ctx;
    const float *weights[MLP_PARAMS];
    sherd_error err = {0};
    sherd_micro micro;
    double loss;

    check(sherd_micro_begin(engine, &micro), &err);
    mlp_acquire(engine, weights);
    loss = mlp_gradient(micro.step, micro.number, weights, grads);
    for (uint32_t p = MLP_PARAMS; p-- > 0;)
        check(sherd_grad_copy(engine, p, grads[p], SHERD_FP32), &err);
    mlp_release(engine);
    check(sherd_engine_step(engine, NULL, &err), &err);
    return loss;
}

static int rank_main(sherd_rendezvous *rendezvous, int rank)
{
    float *grads[MLP_PARAMS];
    sherd_config config;
    sherd_plan *plan;
    sherd_device *device;
    sherd_comm *comm;
    sherd_engine *engine;
    sherd_error err;

    for (int p = 0; p < MLP_PARAMS; p++)
        grads[p] = malloc((size_t)mlp_elems[p] * sizeof(float));
    configure(&config);
    plan = mlp_plan(&config, world, NULL);
    check(sherd_rendezvous_join(rendezvous, rank, &err), &err);
    check(sherd_comm_create_local(NULL, rank, world, sherd_rendezvous_allgather, rendezvous, &comm, &err), &err);
    check(sherd_device_create(NULL, &device, &err), &err);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    mlp_write(engine);
    mlp_train(engine, comm, steps, 2, micro_step, grads);
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
    for (int p = 0; p < MLP_PARAMS; free(grads[p++])) {
    }
    return 0;
}

int main(int argc, char **argv)
{
    sherd_rendezvous *rendezvous;
    sherd_error err;
    int failed = 0, state;
    world = argc > 1 ? atoi(argv[1]) : world;
    steps = argc > 2 ? atoi(argv[2]) : steps;
    check(sherd_rendezvous_create(world, &rendezvous, &err), &err);
    for (int r = 0; r < world; r++)
        if (fork() == 0)
            exit(rank_main(rendezvous, r));
    while (wait(&state) > 0)
        failed |= state != 0;
    sherd_rendezvous_destroy(rendezvous);
    return failed;
}
