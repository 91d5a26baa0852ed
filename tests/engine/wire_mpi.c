/* SPDX-License-Identifier: MIT
 *
 * Bytes between nodes: what the transport counts in steps equals what the plan predicts, rank by rank. Run by mpirun:
 *     test_engine_wire_mpi R     nodes of R ranks
 */
#include <stdio.h>
#include <stdlib.h>

#include <mpi.h>

#include "sherd/sherd_mpi.h"
#include "tests/engine/case.h"

enum { STEPS = 3 };

static int take_steps(sherd_engine *engine, int64_t micro_steps, sherd_error *err)
{
    for (int64_t k = 0; k < STEPS * micro_steps; k++)
        if (sherd_micro_begin(engine, NULL) != SHERD_OK || sherd_engine_step(engine, NULL, err) != SHERD_OK)
            return 0; /* no gradient comes: they are zeros, and are reduced like any */
    return sherd_engine_wait(engine, err) == SHERD_OK;
}

/* Sent and received, in STEPS steps; -1: an error. */
static int measure(const sherd_plan *plan, sherd_device *device, sherd_comm *comm, sherd_traffic *out, sherd_error *err)
{
    sherd_engine *engine = NULL;
    sherd_traffic before = {.size = sizeof before};
    int good = 0;

    if (sherd_engine_create(plan, device, comm, &engine, err) != SHERD_OK)
        return 0;
    out->size = sizeof *out;
    if (sherd_engine_wait(engine, err) == SHERD_OK) {
        sherd_comm_traffic(comm, &before);
        good = take_steps(engine, sherd_plan_config(plan)->gradient_accumulation_steps, err);
    }
    sherd_comm_traffic(comm, out);
    out->bytes_sent -= before.bytes_sent;
    out->bytes_received -= before.bytes_received;
    sherd_engine_destroy(engine);
    return good;
}

static int check_plan(const engine_case *c, sherd_device *device, sherd_comm *comm, const int32_t *nodes)
{
    int32_t rank = sherd_comm_rank(comm);
    uint64_t sent = 0, received = 0;
    sherd_param params[16];
    sherd_plan *plan = NULL;
    sherd_traffic traffic;
    sherd_config config;
    sherd_error err = {SHERD_OK, -1, ""};
    uint32_t n = 0;
    int good;

    case_params(c, params, &n);
    if (case_config(c, &config, &err) != SHERD_OK ||
        sherd_plan_create(&config, params, n, c->world, &plan, &err) != SHERD_OK ||
        sherd_plan_wire_bytes(plan, nodes, rank, &sent, &received) != SHERD_OK) {
        fprintf(stderr, "%s: rank %d: %s\n", case_name(c), rank, err.text);
        return 0;
    }
    good = measure(plan, device, comm, &traffic, &err);
    sherd_plan_destroy(plan);
    if (good && traffic.bytes_sent == STEPS * sent && traffic.bytes_received == STEPS * received)
        return 1;
    fprintf(stderr, "%s: rank %d: sent %llu, received %llu; the plan says %llu and %llu; %s\n", case_name(c), rank,
            (unsigned long long)traffic.bytes_sent, (unsigned long long)traffic.bytes_received,
            (unsigned long long)(STEPS * sent), (unsigned long long)(STEPS * received), err.text);
    return 0;
}

static int run_all(sherd_device *device, sherd_comm *comm)
{
    int32_t world = sherd_comm_world(comm), nodes[64];
    engine_case c;
    uint32_t i;

    for (int32_t rank = 0; rank < world; rank++)
        nodes[rank] = sherd_comm_node(comm, rank);
    for (i = 0; case_at(i, world, STEPS, 1, &c); i += 7) {
        c.transport = SHERD_TRANSPORT_MPI;
        c.wire = (sherd_wire)(i / 7 % 4);
        if (!check_plan(&c, device, comm, nodes))
            return 0;
        c.optimizer = SHERD_LAMB; /* gathers norms too */
        if (!check_plan(&c, device, comm, nodes))
            return 0;
        c.optimizer = SHERD_MUON; /* directions, and results */
        if (!check_plan(&c, device, comm, nodes))
            return 0;
    }
    if (sherd_comm_rank(comm) == 0)
        printf("%s: the bytes of every rank are the plan's in %u plans\n", sherd_comm_describe(comm), 3 * ((i + 6) / 7));
    return i > 0;
}

int main(int argc, char **argv)
{
    sherd_comm_options options;
    sherd_comm *comm = NULL;
    sherd_device *device = NULL;
    sherd_error err;
    int provided, good;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided);
    sherd_comm_options_init(&options, sizeof options);
    options.ranks_per_node = argc > 1 ? atoi(argv[1]) : 1;
    options.fail_after_s = 60;
    if (sherd_comm_create_mpi(&options, MPI_COMM_WORLD, &comm, &err) != SHERD_OK ||
        sherd_device_create(NULL, &device, &err) != SHERD_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    good = run_all(device, comm);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    MPI_Finalize();
    return !good;
}
