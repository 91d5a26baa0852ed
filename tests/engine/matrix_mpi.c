/* SPDX-License-Identifier: MIT
 *
 * The matrix with ranks that mpirun started. Every rank compares its own results with the oracle's; one line from rank
 * 0.
 *     test_engine_matrix_mpi STEPS                 one node: shared memory
 *     test_engine_matrix_mpi STEPS R               nodes of R ranks: messages between them
 *     test_engine_matrix_mpi STEPS R offload       the same with state offloaded to host and disk
 *     test_engine_matrix_mpi STEPS R wide          accumulation, bf16 sums, Adam, parked gradients, skipped steps
 *     test_engine_matrix_mpi STEPS R wire          gradients that travel in other types than their own
 *     test_engine_matrix_mpi STEPS R muon          matrices stepped as wholes
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

typedef int (*case_list)(uint32_t index, int32_t world, int64_t steps, engine_case *out);

/* Accumulation, bf16 sums, arrival orders come with the wide ones. */
static int plain_at(uint32_t index, int32_t world, int64_t steps, engine_case *out)
{
    return case_at(index, world, steps, 0, out);
}

static int wide_at(uint32_t index, int32_t world, int64_t steps, engine_case *out)
{
    return case_at(index, world, steps, 1, out);
}

static int run_all(int64_t steps, int32_t ranks_per_node, case_list at)
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
    options.ranks_per_node = ranks_per_node;
    sherd_device_options_init(&device_options, sizeof device_options);
    if (sherd_comm_create_mpi(&options, MPI_COMM_WORLD, &comm, &err) != SHERD_OK ||
        sherd_device_create(&device_options, &device, &err) != SHERD_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (i = 0; !failed && at(i, sherd_comm_world(comm), steps, &c); i++) {
        c.transport = sherd_comm_transport(comm);
        failed = check_case(&c, device, comm);
    }
    if (i == 0)
        failed = 1;
    if (sherd_comm_rank(comm) == 0)
        printf("%s: %u combinations of %lld steps %s the oracle\n", sherd_comm_describe(comm), i, (long long)steps,
               failed ? "DIFFER from" : "equal");
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    return failed;
}

int main(int argc, char **argv)
{
    int provided, failed;
    int32_t ranks_per_node = argc > 2 ? atoi(argv[2]) : 0;
    case_list at = argc <= 3                            ? plain_at
                   : strcmp(argv[3], "offload") == 0 ? case_offload_at
                   : strcmp(argv[3], "wire") == 0    ? case_wire_at
                   : strcmp(argv[3], "muon") == 0    ? case_muon_at
                                                     : wide_at;

    if (MPI_Init_thread(&argc, &argv, ranks_per_node > 0 ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED, &provided) !=
        MPI_SUCCESS)
        return 1;
    failed = run_all(argc > 1 ? atoll(argv[1]) : 5, ranks_per_node, at);
    MPI_Finalize();
    return failed;
}
