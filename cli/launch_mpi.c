/* SPDX-License-Identifier: MIT
 *
 * One rank of mpirun. MPI starts us and nothing more: the data moves through shared memory, so a rank that dies is
 * noticed without MPI. After a failure MPI_Finalize could wait for the dead, so the process ends without it.
 */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/gpu.h"
#include "cli/launch.h"
#include "cli/results.h"
#include "cli/session.h"

#if defined(SHERD_HAVE_MPI)
#include "sherd/sherd_mpi.h"

/* Polls, since a collective whose peer died never completes. */
static int finish(MPI_Request *request, double limit_s)
{
    int64_t end = cli_now_ns() + (int64_t)(limit_s * 1e9);
    struct timespec pause = {.tv_nsec = 200000};
    int done = 0;

    while (MPI_Test(request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && !done) {
        if (cli_now_ns() > end) {
            return 0;
        }
        nanosleep(&pause, NULL);
    }
    return done;
}

/* Cores that the ranks may use together: they may all share one set, or each be bound to its own. */
static int32_t cores_together(double limit_s)
{
    cpu_set_t mine, all;
    MPI_Request request;

    memset(&all, 0, sizeof all);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) {
        memset(&mine, 0xFF, sizeof mine);
    }
    if (MPI_Iallreduce(&mine, &all, (int)sizeof mine, MPI_BYTE, MPI_BOR, MPI_COMM_WORLD, &request) != MPI_SUCCESS ||
        !finish(&request, limit_s)) {
        return 0;
    }
    return CPU_COUNT(&all);
}

/* Rank 0's reading, on every rank. */
static int share_available(double limit_s, uint64_t *out)
{
    MPI_Request request;

    return MPI_Ibcast(out, (int)sizeof *out, MPI_BYTE, 0, MPI_COMM_WORLD, &request) == MPI_SUCCESS &&
           finish(&request, limit_s);
}

static int allgather(void *ctx, const void *mine, void *all, size_t bytes)
{
    MPI_Request request;

    return MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD, &request) !=
               MPI_SUCCESS ||
           !finish(&request, *(const double *)ctx);
}

static sherd_status make_comm(cli_rank *rank, const sherd_comm_options *options, sherd_error *err)
{
    double limit_s = options->fail_after_s;

    return rank->options->transport == CLI_NCCL ? cli_gpu_nccl(rank, options, allgather, &limit_s, &rank->comm, err)
                                                : sherd_comm_create_mpi(options, MPI_COMM_WORLD, &rank->comm, err);
}

static int end_in_failure(int code)
{
    fflush(NULL);
    _exit(code);
}

int cli_launch_mpi(const cli_options *options, const sherd_comm_options *comm_options, cli_body body, void *ctx,
                   const cli_gpus *gpus)
{
    cli_rank rank = {.options = options};
    sherd_comm_options own = *comm_options;
    sherd_error err;
    int provided, number = 0, size = 1, code;
    int32_t cores;

    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
        cli_message(-1, "MPI could not be started");
        return CLI_FAILED;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &number);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    rank.rank = number;
    rank.world = size;
    own.log = cli_log(&rank.rank);
    cores = cores_together(own.fail_after_s);
    cli_rank_memory(&rank, size, gpus);
    if (cores == 0 || !share_available(own.fail_after_s, &rank.available)) {
        cli_message(number, "the ranks did not meet within %g s", own.fail_after_s);
        return end_in_failure(CLI_FAILED);
    }
    if (make_comm(&rank, &own, &err) != SHERD_OK) {
        cli_failure(number, &err);
        return end_in_failure(CLI_FAILED);
    }
    rank.threads = cli_threads(options, cores, size); /* create_mpi has made sure that all are on this host */
    code = body(&rank, ctx);
    sherd_comm_destroy(rank.comm);
    if (code != CLI_OK) {
        return end_in_failure(code);
    }
    MPI_Finalize();
    return CLI_OK;
}

#else

int cli_launch_mpi(const cli_options *options, const sherd_comm_options *comm_options, cli_body body, void *ctx,
                   const cli_gpus *gpus)
{
    (void)options;
    (void)comm_options;
    (void)body;
    (void)ctx;
    (void)gpus;
    return cli_usage("started by mpirun, but built without MPI; start the ranks with --ranks N");
}

#endif
