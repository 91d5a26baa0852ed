/* SPDX-License-Identifier: MIT
 *
 * Embedding under MPI: the program has a communicator already, here a part of its world, and Sherd takes its ranks from
 * it.
 *
 *     mpiexec -n RANKS mlp_mpi [STEPS]        ranks are processes of one host; ZeRO stage 2, AdamW, clipping
 */
#include <mpi.h>

#define MLP_QUIT() MPI_Abort(MPI_COMM_WORLD, 1)
#include "examples/mlp_sherd.h"
#include "sherd/sherd_mpi.h"

int main(int argc, char **argv)
{
    int steps = argc > 1 ? atoi(argv[1]) : 20;
    MPI_Comm mine;
    sherd_device *device;
    sherd_engine *engine;
    sherd_config config;
    sherd_plan *plan;
    sherd_comm *comm;
    sherd_error err;

    MPI_Init(&argc, &argv);
    MPI_Comm_dup(MPI_COMM_WORLD, &mine); /* or a part of it: the ranks that share this model */
    check(sherd_comm_create_mpi(NULL, mine, &comm, &err), &err);
    check(sherd_device_create(NULL, &device, &err), &err);
    mlp_config(&config);
    plan = mlp_plan(&config, sherd_comm_world(comm), NULL);
    check(sherd_engine_create(plan, device, comm, &engine, &err), &err);
    mlp_write(engine);
    mlp_train(engine, comm, steps, 1, mlp_micro_step, NULL);
    sherd_engine_destroy(engine);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    sherd_plan_destroy(plan);
    MPI_Comm_free(&mine); /* it stays the program's: Sherd neither changes nor frees it */
    MPI_Finalize();
    return 0;
}
