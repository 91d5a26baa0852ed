/* SPDX-License-Identifier: MIT
 *
 * One rank of mpirun. On one host MPI starts us and nothing more: the data moves through shared memory, so a rank that dies
 * is noticed without MPI. Between hosts, or where --ranks-per-node says so, it carries messages. After a failure MPI_Finalize
 * could wait for the dead, so the process ends without it.
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

/* What each rank tells the others of where it is. */
typedef struct card {
    cpu_set_t cores;
    char host[64];
    uint64_t available;
} card;

static int swap_cards(const card *mine, card *all, double limit_s)
{
    MPI_Request request;

    return MPI_Iallgather(mine, (int)sizeof *mine, MPI_BYTE, all, (int)sizeof *mine, MPI_BYTE, MPI_COMM_WORLD, &request) ==
               MPI_SUCCESS &&
           finish(&request, limit_s);
}

static int32_t ranks_of_host(const card *all, int32_t world, const char *host)
{
    int32_t n = 0;

    for (int32_t r = 0; r < world; r++) {
        n += strncmp(all[r].host, host, sizeof all[r].host) == 0;
    }
    return n;
}

/* Cores that the ranks of this host may use together (they may all share one set, or each be bound to its own), and what all
 * ranks must decide alike: the least memory of any, shared by as many as are on the fullest host. */
static void read_cards(const card *all, cli_rank *rank, int32_t *cores, int32_t *here)
{
    const card *mine = &all[rank->rank];
    cpu_set_t together = mine->cores;
    int32_t fullest = 0;

    for (int32_t r = 0; r < rank->world; r++) {
        int32_t n = ranks_of_host(all, rank->world, all[r].host);

        fullest = n > fullest ? n : fullest;
        rank->available = all[r].available < rank->available ? all[r].available : rank->available;
        if (strncmp(all[r].host, mine->host, sizeof mine->host) == 0) {
            CPU_OR(&together, &together, &all[r].cores);
        }
    }
    *cores = CPU_COUNT(&together);
    *here = ranks_of_host(all, rank->world, mine->host);
    if (rank->options->device != CLI_CUDA) {
        rank->sharing = fullest;
    }
}

static int meet(cli_rank *rank, double limit_s, int32_t *cores, int32_t *here)
{
    card mine, *all = calloc((size_t)rank->world, sizeof *all);
    int met;

    memset(&mine, 0, sizeof mine);
    mine.available = rank->available;
    gethostname(mine.host, sizeof mine.host - 1);
    if (sched_getaffinity(0, sizeof mine.cores, &mine.cores) != 0) {
        memset(&mine.cores, 0xFF, sizeof mine.cores);
    }
    met = all != NULL && swap_cards(&mine, all, limit_s);
    if (met) {
        read_cards(all, rank, cores, here);
        free(all);
    } /* else MPI may still write there: the process is about to end */
    return met;
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
    int32_t cores, here;

    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
        cli_message(-1, "MPI could not be started");
        return CLI_FAILED;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &number);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    rank.rank = number;
    rank.world = size;
    own.log = cli_log(&rank.rank);
    own.ranks_per_node = options->ranks_per_node;
    cli_rank_memory(&rank, size, gpus);
    if (!meet(&rank, own.fail_after_s, &cores, &here)) {
        cli_message(number, "the ranks did not meet within %g s", own.fail_after_s);
        return end_in_failure(CLI_FAILED);
    }
    if (make_comm(&rank, &own, &err) != SHERD_OK) {
        cli_failure(number, &err);
        return end_in_failure(CLI_FAILED);
    }
    rank.threads = cli_threads(options, cores, here);
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
