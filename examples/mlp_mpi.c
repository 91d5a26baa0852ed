/* SPDX-License-Identifier: MIT
 *
 * Embedding under MPI: the program has a communicator already, here a part of its world, and Sherd takes its ranks from
 * it.
 *
 *     mpiexec -n RANKS mlp_mpi [STEPS]        ranks are processes of one host; ZeRO stage 2, AdamW, clipping
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

#include "examples/mlp.h"
#include "sherd/sherd_mpi.h"

static void check(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fprintf(stderr, "mlp_mpi: %s\n", err->text);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static sherd_plan *make_plan(int world)
{
    static const char *const names[MLP_PARAMS] = {"w1", "b1", "w2", "b2"};
    sherd_param params[MLP_PARAMS] = {0};
    sherd_config config;
    sherd_plan *plan;
    sherd_error err;

    for (int p = 0; p < MLP_PARAMS; p++)
        params[p] = (sherd_param){.name = names[p], .ndim = 1, .shape = {mlp_elems[p]}};
    sherd_config_init(&config, sizeof config);
    config.train_micro_batch_size_per_gpu = MLP_BATCH;
    config.zero.stage = 2;
    config.optimizer.lr = 0.01;
    config.gradient_clipping = 1.0;
    check(sherd_plan_create(&config, params, MLP_PARAMS, world, &plan, &err), &err);
    return plan;
}

static double micro_step(sherd_engine *engine)
{
    const float *weights[MLP_PARAMS];
    float *grads[MLP_PARAMS];
    sherd_error err = {0};
    sherd_micro micro;
    double loss;

    check(sherd_micro_begin(engine, &micro), &err);
    for (uint32_t p = 0; p < MLP_PARAMS; p++) {
        const void *data;
        check(sherd_param_acquire(engine, p, &data), &err);
        weights[p] = data;
    }
    for (uint32_t p = MLP_PARAMS; p-- > 0;) {
        sherd_grad grad;
        check(sherd_grad_acquire(engine, p, &grad), &err);
        grads[p] = grad.data;
    }
    loss = mlp_gradient(micro.step, micro.number, weights, grads);
    for (uint32_t p = MLP_PARAMS; p-- > 0;) {
        check(sherd_grad_ready(engine, p), &err);
        check(sherd_param_release(engine, p), &err);
    }
    check(sherd_engine_step(engine, NULL, &err), &err);
    return loss;
}

static void train(sherd_engine *engine, int rank, int world, int steps)
{
    float values[MLP_HIDDEN * MLP_IN];
    sherd_error err;

    for (int p = 0; p < MLP_PARAMS; p++) {
        mlp_init(p, values);
        check(sherd_param_write(engine, (uint32_t)p, values, &err), &err);
    }
    for (int s = 1; s <= steps; s++) {
        double loss = micro_step(engine);
        check(sherd_engine_sum(engine, &loss, &err), &err);
        if (rank == 0)
            printf("step %d loss %a (%.6f)\n", s, loss / world, loss / world);
    }
}

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 20;
    MPI_Comm mine;
    sherd_device *device;
    sherd_engine *engine;
    sherd_plan *plan;
    sherd_comm *comm;
    sherd_error err;

    MPI_Init(&argc, &argv);
    MPI_Comm_dup(MPI_COMM_WORLD, &mine); /* or a part of it: the ranks that share this model */
    check(sherd_comm_create_mpi(NULL, mine, &comm, &err), &err);
    check(sherd_device_create(NULL, &device, &err), &err);
    plan = make_plan(sherd_comm_world(comm));
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    train(engine, sherd_comm_rank(comm), sherd_comm_world(comm), steps);
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
    MPI_Comm_free(&mine); /* it stays the program's: Sherd neither changes nor frees it */
    MPI_Finalize();
    return 0;
}
