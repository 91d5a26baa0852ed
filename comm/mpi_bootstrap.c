/* SPDX-License-Identifier: MIT
 *
 * MPI as a bootstrap: it gives ranks their numbers and carries one all-gather; data never goes through it. MPI does not
 * report a dead rank, so nothing here blocks in it: the all-gather is non-blocking and tested until a deadline. The
 * caller's communicator and its error handler stay as they are.
 */
#include <mpi.h>

#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/direct.h"
#include "sherd/sherd_mpi.h"

typedef struct mpi_bootstrap {
    MPI_Comm mpi;
    int world;
    int64_t limit_ns;
} mpi_bootstrap;

/* 0: done; else MPI's code, or −1 at the deadline. */
static int wait_within(MPI_Request *request, int64_t limit_ns)
{
    int64_t begin = sherd__now_ns();
    for (;;) {
        int done = 0, code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS || done) {
            return code == MPI_SUCCESS ? 0 : code;
        }
        int64_t waited = sherd__now_ns() - begin;
        if (waited > limit_ns) {
            return -1;
        }
        struct timespec pause = {0, waited < 10000000 ? 20000 : 1000000};
        nanosleep(&pause, NULL);
    }
}

/* The buffers are malloc'd and, at the deadline, left behind on purpose: MPI may still write into them. */
static int mpi_allgather(void *ctx, const void *mine, void *all, size_t bytes)
{
    const mpi_bootstrap *bootstrap = ctx;
    MPI_Request request;
    if (bytes > INT_MAX / (size_t)bootstrap->world) {
        return -2;
    }
    char *block = malloc(bytes * ((size_t)bootstrap->world + 1));
    if (block == NULL) {
        return -3;
    }
    memcpy(block, mine, bytes);
    int code =
        MPI_Iallgather(block, (int)bytes, MPI_BYTE, block + bytes, (int)bytes, MPI_BYTE, bootstrap->mpi, &request);
    if (code != MPI_SUCCESS) {
        free(block);
        return code;
    }
    code = wait_within(&request, bootstrap->limit_ns);
    if (code == 0) {
        memcpy(all, block + bytes, bytes * (size_t)bootstrap->world);
        free(block);
    }
    return code;
}

static sherd_status check_mpi(sherd_error *err)
{
    int initialized = 0, finalized = 0;
    MPI_Initialized(&initialized);
    MPI_Finalized(&finalized);
    if (!initialized || finalized) {
        return sherd__fail(err, SHERD_ESTATE,
                           "MPI is not running: call MPI_Init before, and MPI_Finalize after, the communicator's life");
    }
    return SHERD_OK;
}

sherd_status sherd_comm_create_mpi(const sherd_comm_options *options, MPI_Comm mpi, sherd_comm **out, sherd_error *err)
{
    sherd_comm_options settled;
    sherd_status status = check_mpi(err);
    if (status == SHERD_OK) {
        status = sherd__direct_options(options, &settled, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    int rank, world, inter = 0;
    if (mpi == MPI_COMM_NULL || MPI_Comm_test_inter(mpi, &inter) != MPI_SUCCESS || inter) {
        return sherd__fail(err, SHERD_EINVAL, "the MPI communicator is null or an inter-communicator");
    }
    if (MPI_Comm_rank(mpi, &rank) != MPI_SUCCESS || MPI_Comm_size(mpi, &world) != MPI_SUCCESS) {
        return sherd__fail(err, SHERD_EINVAL, "the MPI communicator has neither rank nor size");
    }
    mpi_bootstrap bootstrap = {.mpi = mpi, .world = world, .limit_ns = (int64_t)(settled.fail_after_s * 1e9)};
    return sherd_comm_create_local(options, rank, world, mpi_allgather, &bootstrap, out, err);
}
