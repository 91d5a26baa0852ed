/* SPDX-License-Identifier: MIT
 *
 * The communicator started from MPI. Run by mpirun (alone it is a world of 1).
 *     test_comm_mpi           all collectives
 *     test_comm_mpi kill      the last rank kills itself in the middle; every survivor says so and ends by itself
 *     test_comm_mpi hosts     ranks pretend to be on different hosts
 */
#include <mpi.h>

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "bodies.h"
#include "sherd/sherd_mpi.h"

static int body_kill(rank_ctx *ctx)
{
    sherd_error error = {0};
    sherd_status status = SHERD_OK;
    double begin = seconds_now();
    for (int32_t number = 0; number < 50 && status == SHERD_OK; number++) {
        if (ctx->rank == ctx->world - 1 && number == 17) {
            kill(getpid(), SIGKILL);
        }
        begin = seconds_now();
        status = ctx->comm->ops->barrier(ctx->comm, ctx->stream, tag_of("step", number));
        if (status == SHERD_OK) {
            status = rank_wait(ctx, &error);
        }
    }
    char expected[64];
    snprintf(expected, sizeof expected, "died during barrier of bucket 17");
    RANK_CHECK(status == SHERD_ERANKDEAD && error.rank == ctx->world - 1 && strstr(error.text, expected) != NULL);
    RANK_CHECK(seconds_now() - begin < 10);
    printf("survived: %s\n", error.text);
    fflush(stdout);
    return 0;
}

static int pretend_hosts(int rank)
{
    char name[32];
    if (unshare(CLONE_NEWUTS) != 0) {
        return 77;
    }
    snprintf(name, sizeof name, "node%d", rank);
    return sethostname(name, strlen(name)) == 0 ? 0 : 77;
}

static int several_hosts(void)
{
    sherd_comm *comm = NULL;
    sherd_error error = {0};
    int rank, world, skip, all;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    skip = pretend_hosts(rank);
    MPI_Allreduce(&skip, &all, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (all != 0) {
        return all;
    }
    sherd_status status = sherd_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm, &error);
    if (status != SHERD_EUNSUPPORTED || strstr(error.text, "node0") == NULL || strstr(error.text, "node1") == NULL) {
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    sherd_comm *comm;
    sherd_error error;
    sherd_comm_options options;
    sherd_comm_options_init(&options, sizeof options);
    options.fail_after_s = 30;
    if (sherd_comm_create_mpi(&options, MPI_COMM_WORLD, &comm, &error) != SHERD_ESTATE) {
        fprintf(stderr, "MPI is not running, and that was not noticed\n");
        return 1;
    }
    MPI_Init(&argc, &argv);
    int kill_one = argc > 1 && strcmp(argv[1], "kill") == 0;
    if (argc > 1 && strcmp(argv[1], "hosts") == 0) {
        int failed = several_hosts();
        MPI_Finalize();
        return failed;
    }
    if (sherd_comm_create_mpi(&options, MPI_COMM_NULL, &comm, &error) != SHERD_EINVAL ||
        sherd_comm_create_mpi(&options, MPI_COMM_WORLD, &comm, &error) != SHERD_OK) {
        fprintf(stderr, "%s\n", error.text);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    int failed = rank_run(comm, NULL, kill_one ? body_kill : body_all, NULL);
    sherd_comm_destroy(comm);
    if (kill_one) {
        _exit(failed); /* MPI_Finalize would wait for the dead */
    }
    MPI_Finalize();
    return failed;
}
