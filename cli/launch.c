/* SPDX-License-Identifier: MIT
 *
 * How ranks come to be: alone in this process, as threads on GPUs or under the checking device, forked (launch_fork.c), or one
 * of mpirun's (launch_mpi.c). A body sees no difference.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/gpu.h"
#include "cli/launch.h"
#include "cli/results.h"

static int64_t environment_number(const char *const *names, int64_t missing)
{
    for (; *names != NULL; names++) {
        const char *text = getenv(*names);

        if (text != NULL && text[0] >= '0' && text[0] <= '9') {
            return strtoll(text, NULL, 10);
        }
    }
    return missing;
}

/* What Open MPI, and MPICH and its kin, tell the processes they start. */
static int64_t mpi_size(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", NULL};

    return environment_number(names, 0);
}

int cli_under_mpi(void)
{
    return mpi_size() > 0;
}

int cli_is_first(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", NULL};

    return !cli_under_mpi() || environment_number(names, 0) == 0;
}

int32_t cli_world(const cli_options *options)
{
    if (cli_under_mpi()) {
        return mpi_size() < INT32_MAX ? (int32_t)mpi_size() : INT32_MAX;
    }
    return options->ranks > 0 ? options->ranks : 1;
}

int32_t cli_cores(void)
{
    cpu_set_t set;
    long online;

    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        return CPU_COUNT(&set);
    }
    online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 && online < INT32_MAX ? (int32_t)online : 1;
}

int32_t cli_threads(const cli_options *options, int32_t cores, int32_t local_ranks)
{
    if (options->threads > 0) {
        return options->threads;
    }
    return cores / local_ranks > 1 ? cores / local_ranks : 1;
}

void cli_rank_memory(cli_rank *rank, int32_t local_ranks, const cli_gpus *gpus)
{
    if (rank->options->device == CLI_CUDA) {
        rank->gpus = *gpus;
        rank->sharing = (local_ranks + gpus->count - 1) / gpus->count;
        rank->available = gpus->free_bytes;
    } else {
        rank->sharing = local_ranks;
        rank->available = cli_available_bytes();
    }
}

/* Of one rank, which is all that a communicator of its own brings together. */
static int allgather_alone(void *ctx, const void *mine, void *all, size_t bytes)
{
    (void)ctx;
    memcpy(all, mine, bytes);
    return 0;
}

static int launch_alone(const cli_options *options, const sherd_comm_options *comm_options, cli_body body, void *ctx,
                        const cli_gpus *gpus)
{
    cli_rank rank = {.world = 1, .options = options};
    sherd_comm_options own = *comm_options;
    sherd_error err;
    int code;

    sherd_status status;

    own.log = cli_log(&rank.rank);
    rank.threads = cli_threads(options, cli_cores(), 1);
    cli_rank_memory(&rank, 1, gpus);
    status = options->transport == CLI_NCCL ? cli_gpu_nccl(&rank, &own, allgather_alone, NULL, &rank.comm, &err)
                                            : sherd_comm_create_self(&own, &rank.comm, &err);
    if (status != SHERD_OK) {
        return cli_failure(-1, &err);
    }
    code = body(&rank, ctx);
    sherd_comm_destroy(rank.comm);
    return code;
}

typedef struct thread_rank {
    cli_rank rank;
    cli_body body;
    void *ctx;
    int code;
    pthread_t thread;
} thread_rank;

static void *thread_main(void *arg)
{
    thread_rank *t = arg;

    t->code = t->body(&t->rank, t->ctx);
    sherd_comm_destroy(t->rank.comm); /* a rank that failed alone is seen to leave, and its peers need not wait */
    return NULL;
}

/* The first failure among the ranks that were started; the threads that could not be started failed already. */
static int run_threads(thread_rank *ranks, sherd_comm **comms, int32_t world)
{
    int32_t started = 0;
    int code = CLI_OK;

    for (; started < world; started++) {
        if (pthread_create(&ranks[started].thread, NULL, thread_main, &ranks[started]) != 0) {
            cli_message(-1, "no thread for rank %d of %d; give fewer --ranks", (int)started, (int)world);
            code = CLI_FAILED;
            break;
        }
    }
    for (int32_t r = started; r < world; r++) { /* nor for one that never was */
        sherd_comm_destroy(comms[r]);
    }
    for (int32_t r = 0; r < started; r++) {
        pthread_join(ranks[r].thread, NULL);
        code = code == CLI_OK ? ranks[r].code : code;
    }
    return code;
}

static int tell_verdict(sherd_checker *checker, int code)
{
    uint64_t operations = 0;
    sherd_error err;

    if (sherd_checker_verdict(checker, &operations, &err) != SHERD_OK) {
        return cli_failure(-1, &err);
    }
    cli_message(-1, "check: %llu operations, no conflicting accesses without a wait between them",
                (unsigned long long)operations);
    return code;
}

int cli_launch_threads(const cli_options *options, const sherd_comm_options *comm_options, cli_body body, void *ctx,
                       const cli_gpus *gpus)
{
    int32_t world = cli_world(options);
    thread_rank *ranks = calloc((size_t)world, sizeof *ranks);
    sherd_comm **comms = calloc((size_t)world, sizeof(sherd_comm *));
    sherd_checker *checker = NULL;
    int checking = options->device == CLI_CHECK;
    sherd_error err = {.text = "no memory for the ranks"};
    int code = CLI_FAILED;

    if (ranks == NULL || comms == NULL ||
        (checking && sherd_checker_create(world, options->seed, &checker, &err) != SHERD_OK) ||
        sherd_comm_create_threads(comm_options, world, comms, &err) != SHERD_OK) {
        cli_failure(-1, &err);
        goto free_ranks;
    }
    for (int32_t r = 0; r < world; r++) {
        ranks[r].rank = (cli_rank){.rank = r, .world = world, .threads = cli_threads(options, cli_cores(), world),
                                   .one_process = 1, .comm = comms[r], .checker = checker, .options = options};
        cli_rank_memory(&ranks[r].rank, world, gpus);
        ranks[r].body = body;
        ranks[r].ctx = ctx;
    }
    code = run_threads(ranks, comms, world);
    code = checking ? tell_verdict(checker, code) : code;
free_ranks:
    sherd_checker_destroy(checker);
    free(comms);
    free(ranks);
    return code;
}

/* What no rank has to exist for to be wrong; CLI_OK, or the code after the sentence was said. */
static int check_ways(const cli_options *options)
{
    if (cli_under_mpi() && (options->ranks > 0 || options->device == CLI_CHECK)) {
        return cli_usage("%s under mpirun: leave it out, mpirun starts the ranks",
                         options->ranks > 0 ? "--ranks" : "--device check");
    }
    if (options->ranks_per_node > 0 && (!cli_under_mpi() || options->transport == CLI_NCCL)) {
        return cli_usage("--ranks-per-node is for MPI's messages between nodes: start the ranks with mpirun%s",
                         options->transport == CLI_NCCL ? ", without NCCL" : "");
    }
    if (options->transport == CLI_NCCL && options->device != CLI_CUDA) {
        return cli_usage("NCCL is for GPUs; add --device cuda, or leave out --comm nccl");
    }
    return CLI_OK;
}

static int look_at_gpus(const cli_options *options, cli_gpus *gpus)
{
    int32_t world = cli_world(options);
    int forks = options->transport == CLI_NCCL && world > 1 && !cli_under_mpi();
    sherd_error err;
    sherd_status status = forks ? cli_gpus_look_aside(world, gpus, &err) : cli_gpus_look(world, gpus, &err);

    if (status == SHERD_OK && options->transport == CLI_NCCL && world > gpus->count) {
        status = cli_fail(&err, SHERD_EINVAL, "--comm nccl: NCCL wants a GPU for each rank, but %d ranks have %d; use --comm "
                          "direct, or %d ranks", (int)world, (int)gpus->count, (int)gpus->count);
    }
    if (status == SHERD_OK) {
        return CLI_OK;
    }
    return cli_is_first() ? cli_failure(-1, &err) : CLI_FAILED;
}

int cli_launch(const cli_options *given, const sherd_config *config, cli_body body, void *ctx)
{
    static const int32_t nobody = -1;
    cli_gpus gpus = {0};
    cli_options known = *given;
    const cli_options *options = &known;
    sherd_comm_options comm;
    int code, threads;

    if (config->transport.kind == SHERD_TRANSPORT_NCCL) { /* sherd.transport says what --comm would */
        known.transport = CLI_NCCL;
    }
    code = check_ways(options);
    if (code == CLI_OK && options->device == CLI_CUDA) {
        code = look_at_gpus(options, &gpus);
    }
    if (code != CLI_OK) {
        return code;
    }
    sherd_comm_options_init(&comm, sizeof comm);
    comm.warn_after_s = config->sherd.warn_after_s;
    comm.fail_after_s = config->sherd.fail_after_s;
    comm.silent_after_s = config->silent_after_s;
    comm.log = cli_log(&nobody);
    if (cli_under_mpi()) {
        return cli_launch_mpi(options, &comm, body, ctx, &gpus);
    }
    threads = options->device == CLI_CHECK || (options->device == CLI_CUDA && options->transport != CLI_NCCL);
    if (cli_world(options) == 1 && options->device != CLI_CHECK) {
        return launch_alone(options, &comm, body, ctx, &gpus);
    }
    return threads ? cli_launch_threads(options, &comm, body, ctx, &gpus)
                   : cli_launch_forked(options, &comm, body, ctx, &gpus);
}
