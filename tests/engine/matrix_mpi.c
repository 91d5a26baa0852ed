/* SPDX-License-Identifier: MIT
 *
 * The matrix with ranks that mpirun started. Every rank compares its own results with the oracle's; one line from rank
 * 0.
 */
#include <stdio.h>
#include <stdlib.h>

#include <mpi.h>

#include "sherd/sherd_mpi.h"
#include "tests/engine/case.h"

static int check_case(const engine_case *c, sherd_device *device, sherd_comm *comm)
{
    case_result want, got;

    case_run_rank(c, device, comm, &got);
    if (got.status != SHERD_OK) {
        fprintf(stderr, "%s: rank %d: %s\n", case_name(c), sherd_comm_rank(comm), got.error.text);
        return 1;
    }
    case_run_oracle(c, SHERD_ORACLE_RIGHT, &want);
    if (!case_equal(&want, &got, c->steps) || !got.memory_matches) {
        fprintf(stderr, "%s: rank %d differs from the oracle\n", case_name(c), sherd_comm_rank(comm));
        return 1;
    }
    return 0;
}

static int run_all(int64_t steps)
{
    sherd_comm_options options;
    sherd_device_options device_options;
    sherd_comm *comm = NULL;
    sherd_device *device = NULL;
    sherd_error err;
    engine_case c;
    uint32_t i;
    int failed = 0;

    sherd_comm_options_init(&options, sizeof options);
    options.fail_after_s = 60;
    sherd_device_options_init(&device_options, sizeof device_options);
    if (sherd_comm_create_mpi(&options, MPI_COMM_WORLD, &comm, &err) != SHERD_OK ||
        sherd_device_create(&device_options, &device, &err) != SHERD_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (i = 0; !failed && case_at(i, sherd_comm_world(comm), steps, 0, &c); i++)
        failed = check_case(&c, device, comm);
    if (i == 0)
        failed = 1;
    if (sherd_comm_rank(comm) == 0)
        printf("MPI, %d ranks: %u combinations of %lld steps %s the oracle\n", sherd_comm_world(comm), i,
               (long long)steps, failed ? "DIFFER from" : "equal");
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    return failed;
}

int main(int argc, char **argv)
{
    int provided, failed;

    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS)
        return 1;
    failed = run_all(argc > 1 ? atoll(argv[1]) : 5);
    MPI_Finalize();
    return failed;
}
