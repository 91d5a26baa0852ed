/* SPDX-License-Identifier: MIT
 *
 * Embedding, first way: backward writes its gradients straight into the engine's ring, so full gradients never exist.
 * Plan, micro-step and loop are in mlp_sherd.h, since other examples take them as they are.
 *
 *     mlp_ring [RANKS] [STEPS]        ranks are threads of this process; ZeRO stage 2, AdamW, clipping
 */
#include "examples/mlp_sherd.h"

static int steps;

static void *rank_main(void *arg)
{
    sherd_comm *comm = arg;
    sherd_device *device;
    sherd_engine *engine;
    sherd_config config;
    sherd_plan *plan;
    sherd_error err;

    mlp_config(&config);
    plan = mlp_plan(&config, sherd_comm_world(comm), NULL);
    check(sherd_device_create(NULL, &device, &err), &err);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    mlp_write(engine);
    mlp_train(engine, comm, steps, 1, mlp_micro_step, NULL);
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
