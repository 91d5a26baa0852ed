/* SPDX-License-Identifier: MIT
 *
 * The communicator started from MPI. Run by mpirun (alone it is a world of 1).
 *     test_comm_mpi           all collectives
 *     test_comm_mpi kill      the last rank kills itself in the middle; every survivor says so and ends by itself
 *     test_comm_mpi stop      the last rank stops itself there (SIGSTOP); the same, at the limit of two seconds
 *     test_comm_mpi hosts     ranks pretend to be on different hosts, without MPI_THREAD_MULTIPLE
 *     test_comm_mpi hosts N   the same with it, on N hosts in turn: all collectives
 */
#include <mpi.h>

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bodies.h"
#include "sherd/sherd_mpi.h"

static int stop_one;

/* mpirun waits for the stopped one too: rank 0 ends it, whose sentence says the pid. */
static int end_stopped(const rank_ctx *ctx, const sherd_error *error)
{
    const char *pid = strstr(error->text, "(pid ");
    RANK_CHECK(pid != NULL && atoi(pid + 5) > 0);
    return ctx->rank == 0 ? kill(atoi(pid + 5), SIGKILL) : 0;
}

static int body_kill(rank_ctx *ctx)
{
    sherd_error error = {0};
    sherd_status status = SHERD_OK;
    double begin = seconds_now();
    for (int32_t number = 0; number < 50 && status == SHERD_OK; number++) {
        if (ctx->rank == ctx->world - 1 && number == 17) {
            kill(getpid(), stop_one ? SIGSTOP : SIGKILL);
        }
        begin = seconds_now();
        status = ctx->comm->ops->barrier(ctx->comm, ctx->stream, tag_of("step", number));
        if (status == SHERD_OK) {
            status = rank_wait(ctx, &error);
        }
    }
    /* Rank 0 ends the one that stands still: a rank that began to wait later may see that first. */
    const char *late = "did not arrive within 2 s at barrier of bucket 17", *dead = "died during barrier of bucket 17";
    int stands = stop_one && strstr(error.text, late) != NULL, died = strstr(error.text, dead) != NULL;
    if (!stands && !died) {
        fprintf(stderr, "rank %d: status %d, rank %d: %s\n", (int)ctx->rank, (int)status, (int)error.rank, error.text);
    }
    RANK_CHECK(status != SHERD_OK && error.rank == ctx->world - 1);
    RANK_CHECK(stands || (died && status == SHERD_ERANKDEAD && !(stop_one && ctx->rank == 0)));
    RANK_CHECK(!stop_one || end_stopped(ctx, &error) == 0);
    RANK_CHECK(seconds_now() - begin < 10);
    printf("survived: %s\n", error.text);
    fflush(stdout);
    return 0;
}

static int pretend_hosts(int number)
{
    char name[32];
    if (unshare(CLONE_NEWUTS) != 0) {
        return 77;
    }
    snprintf(name, sizeof name, "node%d", number);
    return sethostname(name, strlen(name)) == 0 ? 0 : 77;
}

/* Hosts in name only: rank r is on host r mod `hosts`, and messages go between them. */
static int several_hosts(int threads, int hosts)
{
    sherd_comm *comm = NULL;
    sherd_error error = {0};
    int rank, world, skip, all;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world);
    skip = pretend_hosts(rank % hosts);
    MPI_Allreduce(&skip, &all, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    if (all != 0) {
        return all;
    }
    sherd_status status = sherd_comm_create_mpi(NULL, MPI_COMM_WORLD, &comm, &error);
    if (threads == MPI_THREAD_FUNNELED) { /* refused on every rank, with the remedy */
        if (status == SHERD_EUNSUPPORTED && strstr(error.text, "2 nodes") != NULL &&
            strstr(error.text, "MPI_THREAD_MULTIPLE") != NULL) {
            return 0;
        }
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
        return 1;
    }
    if (status != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
        return 1;
    }
    comm->receive_bytes = 1 << 20;
    int failed = sherd_comm_transport(comm) != SHERD_TRANSPORT_MPI || sherd_comm_node(comm, 1) != 1 ||
                 rank_run(comm, NULL, body_all, NULL);
    sherd_comm_destroy(comm);
    return failed;
}

int main(int argc, char **argv)
{
    sherd_comm *comm;
    sherd_error error;
    sherd_comm_options options;
    sherd_comm_options_init(&options, sizeof options);
    stop_one = argc > 1 && strcmp(argv[1], "stop") == 0;
    options.fail_after_s = stop_one ? 2 : 30;
    if (sherd_comm_create_mpi(&options, MPI_COMM_WORLD, &comm, &error) != SHERD_ESTATE) {
        fprintf(stderr, "MPI is not running, and that was not noticed\n");
        return 1;
    }
    int hosts = argc > 1 && strcmp(argv[1], "hosts") == 0, level;
    int threads = hosts && argc > 2 ? MPI_THREAD_MULTIPLE : MPI_THREAD_FUNNELED;
    MPI_Init_thread(&argc, &argv, threads, &level);
    int kill_one = stop_one || (argc > 1 && strcmp(argv[1], "kill") == 0);
    if (hosts) {
        int failed = several_hosts(threads, argc > 2 ? atoi(argv[2]) : 2);
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
