/* SPDX-License-Identifier: MIT
 *
 * The communicator over several nodes, which one machine pretends to be (ranks_per_node). Run by mpirun.
 *     test_comm_mpi_nodes all R         all collectives, bits against those computed here; nodes of R ranks
 *     test_comm_mpi_nodes trees R       the tree over every bucket size and type, with leaves of spread exponents
 *     test_comm_mpi_nodes kill R        the last rank but one kills itself
 *     test_comm_mpi_nodes stop R        it stops itself (SIGSTOP)
 *     test_comm_mpi_nodes leave R       it destroys its communicator early
 *     test_comm_mpi_nodes give-up R     it aborts with a sentence
 *     test_comm_mpi_nodes mismatch R    it calls another collective
 *     test_comm_mpi_nodes absent R      it never makes a window
 *     test_comm_mpi_nodes silent R      all ranks of its node stop themselves, and the node is silent
 * In the last seven every survivor prints "survived: " and its sentence, and ends by itself.
 *     test_comm_mpi_nodes busy R        it computes for twice as long as a node may be silent
 *     test_comm_mpi_nodes doze R        it stands still so long, but not the other one of its node
 *     test_comm_mpi_nodes sleep R       all ranks of all nodes stand still so long
 * In the last three all ranks go on, and print it.
 */
#include <mpi.h>

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bodies.h"
#include "sherd/sherd_mpi.h"

#define LIMIT_S 1.5
#define SILENT_S 2.5 /* where all go on: longer than a loaded machine keeps a thread waiting */

static const char *mode;
static int waker = -1; /* a pipe to the process that wakes this one */

static int32_t victim(const rank_ctx *ctx)
{
    return ctx->world > 2 ? ctx->world - 2 : 1;
}

static sherd_status one_step(rank_ctx *ctx, const sherd__window *window, int32_t number, float *sum, sherd_error *err)
{
    sherd__tree_sum job = {.src_dtype = SHERD_FP32, .dst_dtype = SHERD_FP32, .dst = sum, .elems = 256};
    sherd_status status =
        ctx->comm->ops->reduce_scatter(ctx->comm, ctx->stream, tag_of("reduce", number), window, 0, &job, NULL);
    if (status == SHERD_OK) {
        status = ctx->comm->ops->all_gather(ctx->comm, ctx->stream, tag_of("gather", number), window, 0, 1024, NULL);
    }
    return status == SHERD_OK ? rank_wait(ctx, err) : sherd__device_error(ctx->device, err);
}

static void break_here(rank_ctx *ctx)
{
    sherd_error why;
    if (strcmp(mode, "kill") == 0) {
        kill(getpid(), SIGKILL);
    } else if (strcmp(mode, "stop") == 0 || strcmp(mode, "silent") == 0) {
        kill(getpid(), SIGSTOP);
    } else if (strcmp(mode, "give-up") == 0) {
        sherd__fail(&why, SHERD_ENOMEM, "the cat ate it");
        ctx->comm->ops->abort(ctx->comm, &why);
    } else if (strcmp(mode, "mismatch") == 0) {
        (void)ctx->comm->ops->barrier(ctx->comm, ctx->stream, tag_of("odd", 99));
        (void)rank_wait(ctx, &why);
        ctx->comm->ops->abort(ctx->comm, &why);
    }
}

/* 1: what survivors of this mode must have been told. */
static int right_sentence(const rank_ctx *ctx, const sherd_error *error)
{
    char name[32];
    int alone = 1; /* nobody of its node is left to see it die: then only its silence is noticed */
    for (int32_t rank = 0; rank < ctx->world; rank++) {
        alone = alone &&
                (rank == victim(ctx) || sherd_comm_node(ctx->comm, rank) != sherd_comm_node(ctx->comm, victim(ctx)));
    }
    if (strcmp(mode, "silent") == 0) { /* whoever of the node is waited for is named: 2, or 3 beside it */
        const char *missing = strstr(error->text, " is missing in ");
        return missing != NULL && strstr(missing, ", and nothing of its node was heard for 1.5 s: ") != NULL &&
               (strstr(error->text, "rank 2 (pid ") != NULL ||
                (sherd_comm_node(ctx->comm, 3) == sherd_comm_node(ctx->comm, 2) && strstr(error->text, "rank 3 (pid ")));
    }
    const char *words = strcmp(mode, "kill") == 0       ? (alone ? "did not arrive within 1.5 s at " : "died during ")
                        : strcmp(mode, "stop") == 0     ? "did not arrive within 1.5 s at "
                        : strcmp(mode, "leave") == 0    ? "has left (its communicator was destroyed) and is missing in "
                        : strcmp(mode, "give-up") == 0  ? "the cat ate it"
                        : strcmp(mode, "mismatch") == 0 ? "barrier of bucket 99"
                                                        : "did not arrive within 1.5 s at creation of a window";
    snprintf(name, sizeof name, "rank %d ", (int)victim(ctx));
    return strstr(error->text, words) != NULL && strstr(error->text, name) != NULL;
}

static int body_break(rank_ctx *ctx)
{
    sherd_error error = {0};
    sherd_status status = SHERD_OK;
    sherd__window window = {0};
    float sum[256];
    double begin = seconds_now();
    int out = ctx->rank == victim(ctx), absent = strcmp(mode, "absent") == 0;
    if (strcmp(mode, "silent") == 0) {
        out = sherd_comm_node(ctx->comm, ctx->rank) == sherd_comm_node(ctx->comm, victim(ctx));
    }
    status =
        ctx->comm->ops->window_create(ctx->comm, (uint64_t)ctx->world * 1024, SHERD_CAT_GRADIENTS, &window, &error);
    RANK_CHECK(status == SHERD_OK);
    for (int32_t number = 0; number < 30 && status == SHERD_OK; number++) {
        if (out && number == 17) {
            break_here(ctx);
            if (absent) {
                sleep(3);
            }
            ctx->comm->ops->window_destroy(ctx->comm, &window);
            return 0;
        }
        begin = seconds_now();
        if (absent && number == 17) {
            sherd__window other = {0};
            status = ctx->comm->ops->window_create(ctx->comm, 4096, SHERD_CAT_GRADIENTS, &other, &error);
        } else {
            status = one_step(ctx, &window, number, sum, &error);
        }
    }
    double waited = seconds_now() - begin;
    ctx->comm->ops->abort(ctx->comm, &error);
    RANK_CHECK(status != SHERD_OK);
    printf("%s: rank %d after %.1f s: %s\n", right_sentence(ctx, &error) ? "survived" : "WRONG", (int)ctx->rank, waited,
           error.text);
    fflush(stdout);
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    return 0;
}

/* A process that wakes this one after a time that it is told; made before MPI is. */
static void make_waker(void)
{
    int ends[2];
    double s;
    pid_t parent = getpid();
    if (pipe(ends) != 0) {
        abort();
    }
    waker = ends[1];
    if (fork() == 0) {
        close(ends[1]);
        if (read(ends[0], &s, sizeof s) == sizeof s) {
            usleep((useconds_t)(s * 1e6));
            kill(parent, SIGCONT);
        }
        _exit(0);
    }
    close(ends[0]);
}

static void stand_still(double s)
{
    if (write(waker, &s, sizeof s) != sizeof s) {
        abort();
    }
    raise(SIGSTOP);
}

static int body_go_on(rank_ctx *ctx)
{
    int all = strcmp(mode, "sleep") == 0, one = ctx->rank == victim(ctx);
    sherd__window window = {0};
    sherd_error error = {0};
    float sum[256];
    sherd_status status =
        ctx->comm->ops->window_create(ctx->comm, (uint64_t)ctx->world * 1024, SHERD_CAT_GRADIENTS, &window, &error);
    for (int32_t number = 0; number < 30 && status == SHERD_OK; number++) {
        if (number == 17 && one && strcmp(mode, "busy") == 0) {
            usleep((useconds_t)(2e6 * SILENT_S));
        } else if (number == 17 && (all || (one && strcmp(mode, "doze") == 0))) {
            stand_still(2 * SILENT_S);
        }
        status = one_step(ctx, &window, number, sum, &error);
    }
    printf("%s: rank %d %s\n", status == SHERD_OK ? "went on" : "WRONG", (int)ctx->rank, error.text);
    fflush(stdout);
    ctx->comm->ops->window_destroy(ctx->comm, &window);
    return status != SHERD_OK;
}

/* Every number of sources at once would hide an order; so many rounds with new leaves. */
static int body_trees(rank_ctx *ctx)
{
    for (int round = 0; round < 8; round++) {
        if (body_reduce_scatter(ctx) != 0 || body_all_gather(ctx) != 0) {
            return 1;
        }
    }
    return 0;
}

static int survive(sherd_comm *comm)
{
    int failed = rank_run(comm, NULL, body_break, NULL), last = sherd_comm_rank(comm) == sherd_comm_world(comm) - 2;
    sherd_comm_destroy(comm);
    fflush(NULL);
    sleep(last ? 5 : 1); /* mpirun ends the others when the first ends without MPI_Finalize: let them speak */
    _exit(failed);       /* MPI_Finalize would wait for the dead */
}

int main(int argc, char **argv)
{
    sherd_comm *comm = NULL;
    sherd_comm_options options;
    sherd_error error;
    int level, failed;
    mode = argc > 1 ? argv[1] : "all";
    int goes_on = strcmp(mode, "busy") == 0 || strcmp(mode, "doze") == 0 || strcmp(mode, "sleep") == 0;
    if (goes_on) {
        make_waker();
    }
    sherd_comm_options_init(&options, sizeof options);
    options.ranks_per_node = argc > 2 ? atoi(argv[2]) : 1;
    int whole = strcmp(mode, "all") == 0 || strcmp(mode, "trees") == 0;
    int listens = goes_on || strcmp(mode, "silent") == 0;
    options.fail_after_s = whole || listens ? 60 : LIMIT_S;
    options.silent_after_s = goes_on ? SILENT_S : listens ? LIMIT_S : options.silent_after_s;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    if (sherd_comm_create_mpi(&options, MPI_COMM_WORLD, &comm, &error) != SHERD_OK) {
        fprintf(stderr, "%s\n", error.text);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    comm->receive_bytes = 4u << 20;
    comm->warn_after_s = 1e9;
    if (!whole && !goes_on) {
        return survive(comm);
    }
    failed = rank_run(comm, NULL, goes_on ? body_go_on : strcmp(mode, "all") == 0 ? body_all : body_trees, NULL);
    if (sherd_comm_rank(comm) == 0 && !failed) {
        printf("%s\n", sherd_comm_describe(comm));
    }
    sherd_comm_destroy(comm);
    MPI_Finalize();
    return failed;
}
