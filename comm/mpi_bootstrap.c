/* SPDX-License-Identifier: MIT
 *
 * MPI as a bootstrap: it gives ranks their numbers and carries a few all-gathers. Where all ranks are of one node, that
 * is all it does; else a duplicate of the caller's communicator carries what goes between nodes (mpi.c). MPI does not
 * report a dead rank, so nothing here blocks in it: what is begun is non-blocking and tested until a deadline. The
 * caller's communicator and its error handler stay as they are.
 */
#include <mpi.h>

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "comm/mpi_comm.h"
#include "sherd/sherd_mpi.h"

typedef struct mpi_bootstrap {
    MPI_Comm mpi;
    int world;
    int64_t limit_ns;
} mpi_bootstrap;

int sherd__mpi_settle(MPI_Request *request, int64_t limit_ns)
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
    code = sherd__mpi_settle(&request, bootstrap->limit_ns);
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

/* ------------------------------------------------------------------------------------------------------------ nodes */

/* What each rank tells all others first. */
typedef struct introduction {
    sherd__identity identity;
    int32_t ranks_per_node, threads; /* MPI's level of thread support */
} introduction;

typedef struct meeting {
    mpi_bootstrap bootstrap;
    sherd_comm_options options;
    sherd__mpi_layout layout;
    introduction *all; /* [world] */
    int32_t *nodes;    /* [world] the lowest rank of each rank's node */
    int32_t rank;
} meeting;

static int same_host(const sherd__identity *a, const sherd__identity *b)
{
    return a->pid_space == b->pid_space && strncmp(a->host, b->host, sizeof a->host) == 0 &&
           strncmp(a->boot, b->boot, sizeof a->boot) == 0;
}

/* Ranks that can share memory are of one node; the caller may split it further, never join two hosts. */
static void find_nodes(meeting *meeting)
{
    int32_t per_node = meeting->all[0].ranks_per_node;
    for (int32_t rank = 0; rank < meeting->bootstrap.world; rank++) {
        int32_t first = 0;
        while (!same_host(&meeting->all[first].identity, &meeting->all[rank].identity) ||
               (per_node > 0 && first / per_node != rank / per_node)) {
            first++;
        }
        meeting->nodes[rank] = first;
    }
}

static sherd_status judge_introductions(const meeting *meeting, sherd_error *err)
{
    const introduction *all = meeting->all;
    for (int32_t rank = 0; rank < meeting->bootstrap.world; rank++) {
        if (all[rank].ranks_per_node != all[0].ranks_per_node) {
            return sherd__fail_rank(err, SHERD_EMISMATCH, rank,
                                    "rank %" PRId32 " was given ranks_per_node %" PRId32 " and rank 0 %" PRId32, rank,
                                    all[rank].ranks_per_node, all[0].ranks_per_node);
        }
    }
    for (int32_t rank = 0; rank < meeting->bootstrap.world && meeting->layout.nodes > 1; rank++) {
        if (all[rank].threads < MPI_THREAD_MULTIPLE) {
            return sherd__fail_rank(
                err, SHERD_EUNSUPPORTED, rank,
                "the ranks are on %" PRId32 " nodes, and MPI on rank %" PRId32
                " runs without MPI_THREAD_MULTIPLE, which messages between nodes need: start it with "
                "MPI_Init_thread(…, MPI_THREAD_MULTIPLE, …) and an MPI that grants it",
                meeting->layout.nodes, rank);
        }
    }
    return SHERD_OK;
}

static sherd_status introduce(meeting *meeting, sherd_error *err)
{
    introduction mine = {.ranks_per_node = meeting->options.ranks_per_node};
    int level = MPI_THREAD_SINGLE;
    sherd__identity_self(&mine.identity);
    MPI_Query_thread(&level);
    mine.threads = level;
    int code = mpi_allgather(&meeting->bootstrap, &mine, meeting->all, sizeof mine);
    if (code != 0) {
        return sherd__fail(err, SHERD_ESYSTEM, "the bootstrap's all-gather failed with code %d: not all ranks came",
                           code);
    }
    find_nodes(meeting);
    if (!sherd__mpi_layout_init(&meeting->layout, &meeting->options.allocator, meeting->nodes, meeting->rank,
                                meeting->bootstrap.world)) {
        return sherd__fail(err, SHERD_ENOMEM, "no memory to meet %d ranks", meeting->bootstrap.world);
    }
    return judge_introductions(meeting, err);
}

/* Of the node's ranks, carried by an all-gather of all. */
static int node_allgather(void *ctx, const void *mine, void *all, size_t bytes)
{
    meeting *meeting = ctx;
    const sherd__mpi_layout *layout = &meeting->layout;
    int32_t count = sherd__mpi_count(layout, layout->node);
    char *everybody = malloc(bytes * (size_t)layout->world);
    int code = everybody != NULL ? mpi_allgather(&meeting->bootstrap, mine, everybody, bytes) : -3;
    for (int32_t i = 0; i < count && code == 0; i++) {
        int32_t rank = layout->member[layout->first[layout->node] + i];
        memcpy((char *)all + (size_t)i * bytes, everybody + (size_t)rank * bytes, bytes);
    }
    free(everybody);
    return code;
}

/* ------------------------------------------------------------------------------------------------------- several nodes
 */

static sherd_status duplicate(const meeting *meeting, MPI_Comm *out, sherd_error *err)
{
    MPI_Request request;
    int code = MPI_Comm_idup(meeting->bootstrap.mpi, out, &request);
    code = code == MPI_SUCCESS ? sherd__mpi_settle(&request, meeting->bootstrap.limit_ns) : code;
    if (code != 0) {
        return sherd__fail(err, SHERD_ESYSTEM,
                           "MPI did not duplicate the communicator (code %d, −1: not all ranks came within the limit)",
                           code);
    }
    MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN);
    return SHERD_OK;
}

static sherd_status build(meeting *meeting, MPI_Comm mpi, sherd_comm **out, sherd_error *err)
{
    const sherd__mpi_layout *layout = &meeting->layout;
    const sherd_allocator *allocator = &meeting->options.allocator;
    sherd__direct *inside = NULL;
    sherd_status status =
        sherd__local_create(&meeting->options, layout->place[layout->rank], sherd__mpi_count(layout, layout->node),
                            layout->member + layout->first[layout->node], node_allgather, meeting, &inside, err);
    if (status != SHERD_OK) {
        return status;
    }
    sherd__identity *who = sherd__alloc(allocator, (size_t)layout->world, sizeof *who);
    if (who == NULL) {
        status = sherd__fail(err, SHERD_ENOMEM, "no memory to meet %" PRId32 " ranks", layout->world);
        goto destroy_inside;
    }
    for (int32_t rank = 0; rank < layout->world; rank++) {
        who[rank] = meeting->all[rank].identity;
    }
    status = sherd__mpi_create(&meeting->options, inside, &meeting->layout, mpi, who, out, err);
    if (status == SHERD_OK) {
        memset(&meeting->layout, 0, sizeof meeting->layout); /* the communicator's now */
        return SHERD_OK;
    }
    sherd__free(allocator, who, (size_t)layout->world, sizeof *who);
destroy_inside:
    inside->base.ops->destroy(&inside->base);
    return status;
}

/* All ranks have a communicator or none. `mine` is what this rank came to. */
static sherd_status compare(meeting *meeting, int32_t world, const sherd_error *mine, sherd_error *err)
{
    sherd__mpi_verdict verdict = {.status = (int32_t)mine->status, .rank = mine->rank};
    sherd__mpi_verdict *all = sherd__alloc(&meeting->options.allocator, (size_t)world, sizeof *all);
    sherd_status status = mine->status;
    snprintf(verdict.text, sizeof verdict.text, "%.495s", mine->text);
    int code = all != NULL ? mpi_allgather(&meeting->bootstrap, &verdict, all, sizeof verdict) : -3;
    if (status != SHERD_OK) {
        sherd__pass(err, mine);
    } else if (code != 0) {
        status = sherd__fail(err, SHERD_ESYSTEM,
                             "the last all-gather of creation failed with code %d: not all ranks came", code);
    }
    for (int32_t rank = 0; rank < world && status == SHERD_OK; rank++) {
        if (all[rank].status != SHERD_OK) {
            status = sherd__fail_rank(err, (sherd_status)all[rank].status, all[rank].rank, "%.495s", all[rank].text);
        }
    }
    sherd__free(&meeting->options.allocator, all, (size_t)world, sizeof *all);
    return status;
}

static sherd_status create_over_nodes(meeting *meeting, sherd_comm **out, sherd_error *err)
{
    MPI_Comm mpi = MPI_COMM_NULL;
    sherd_comm *comm = NULL;
    sherd_error mine = {SHERD_OK, -1, ""};
    sherd_status status = duplicate(meeting, &mpi, err);
    if (status != SHERD_OK) {
        return status;
    }
    if (build(meeting, mpi, &comm, &mine) == SHERD_OK) {
        mine.status = SHERD_OK;
    }
    status = compare(meeting, meeting->bootstrap.world, &mine, err);
    if (status == SHERD_OK) {
        *out = comm;
    } else if (comm != NULL) {
        comm->ops->destroy(comm);
    } else {
        MPI_Comm_free(&mpi);
    }
    return status;
}

static sherd_status create(meeting *meeting, sherd_comm **out, sherd_error *err)
{
    sherd_status status = introduce(meeting, err);
    if (status != SHERD_OK) {
        return status;
    }
    if (meeting->layout.nodes > 1 || meeting->options.ranks_per_node > 0) {
        return create_over_nodes(meeting, out, err);
    }
    return sherd_comm_create_local(&meeting->options, meeting->rank, meeting->bootstrap.world, mpi_allgather,
                                   &meeting->bootstrap, out, err);
}

sherd_status sherd_comm_create_mpi(const sherd_comm_options *options, MPI_Comm mpi, sherd_comm **out, sherd_error *err)
{
    meeting meeting = {0};
    int rank, world, inter = 0;
    sherd_status status = check_mpi(err);
    if (status == SHERD_OK) {
        status = sherd__direct_options(options, &meeting.options, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    if (mpi == MPI_COMM_NULL || MPI_Comm_test_inter(mpi, &inter) != MPI_SUCCESS || inter) {
        return sherd__fail(err, SHERD_EINVAL, "the MPI communicator is null or an inter-communicator");
    }
    if (MPI_Comm_rank(mpi, &rank) != MPI_SUCCESS || MPI_Comm_size(mpi, &world) != MPI_SUCCESS) {
        return sherd__fail(err, SHERD_EINVAL, "the MPI communicator has neither rank nor size");
    }
    if (meeting.options.ranks_per_node < 0) {
        return sherd__fail(err, SHERD_EINVAL,
                           "ranks_per_node is %" PRId32 "; give 0, or how many ranks count as a node",
                           meeting.options.ranks_per_node);
    }
    const sherd_allocator *allocator = &meeting.options.allocator;
    meeting.bootstrap =
        (mpi_bootstrap){.mpi = mpi, .world = world, .limit_ns = (int64_t)(meeting.options.fail_after_s * 1e9)};
    meeting.rank = rank;
    meeting.all = sherd__alloc(allocator, (size_t)world, sizeof *meeting.all);
    meeting.nodes = sherd__alloc(allocator, (size_t)world, sizeof *meeting.nodes);
    if (meeting.all == NULL || meeting.nodes == NULL) {
        status = sherd__fail(err, SHERD_ENOMEM, "no memory to meet %d ranks", world);
    } else {
        status = create(&meeting, out, err);
    }
    sherd__mpi_layout_fini(&meeting.layout, allocator);
    sherd__free(allocator, meeting.nodes, (size_t)world, sizeof *meeting.nodes);
    sherd__free(allocator, meeting.all, (size_t)world, sizeof *meeting.all);
    return status;
}
