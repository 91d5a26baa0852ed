/* SPDX-License-Identifier: MIT */
#include "world.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_S 60
#define MAX_WORLD 16

double seconds_now(void)
{
    return (double)sherd__now_ns() * 1e-9;
}

sherd__tag tag_of(const char *name, int32_t bucket)
{
    return (sherd__tag){.name = name, .bucket = bucket};
}

static sherd_comm_options comm_options(const world_options *options)
{
    sherd_comm_options out;
    sherd_comm_options_init(&out, sizeof out);
    if (options != NULL) {
        out.warn_after_s = options->warn_after_s > 0 ? options->warn_after_s : out.warn_after_s;
        out.fail_after_s = options->fail_after_s > 0 ? options->fail_after_s : out.fail_after_s;
        out.log = options->log;
    }
    return out;
}

sherd_status rank_wait(rank_ctx *ctx, sherd_error *err)
{
    sherd_status status = ctx->device->ops->event_record(ctx->stream, ctx->event);
    if (status == SHERD_OK) {
        status = ctx->device->ops->event_sync(ctx->device, ctx->event, "test: end", err);
    }
    return status == SHERD_OK ? SHERD_OK : sherd__device_error(ctx->device, err);
}

static int with_stream(rank_ctx *ctx, rank_fn body)
{
    sherd_error error;
    if (ctx->comm->ops->bind(ctx->comm, ctx->device, &error) != SHERD_OK ||
        ctx->device->ops->stream_create(ctx->device, "comm", 64, &ctx->stream, &error) != SHERD_OK ||
        ctx->device->ops->event_create(ctx->device, &ctx->event, &error) != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", (int)ctx->rank, error.text);
        body = NULL;
    }
    int failed = body == NULL || body(ctx);
    ctx->device->ops->stream_destroy(ctx->stream);
    ctx->device->ops->event_destroy(ctx->event);
    ctx->comm->ops->unbind(ctx->comm);
    return failed;
}

int rank_run(sherd_comm *comm, const world_options *options, rank_fn body, void *arg)
{
    sherd_error error;
    sherd_device_options settings;
    sherd_device_options_init(&settings, sizeof settings);
    settings.kind = options != NULL ? options->device : SHERD_DEVICE_HOST;
    settings.checker = options != NULL ? options->checker : NULL;
    settings.rank = sherd_comm_rank(comm);
    rank_ctx ctx = {.rank = sherd_comm_rank(comm), .world = sherd_comm_world(comm), .comm = comm, .arg = arg};
    if (sherd_device_create(&settings, &ctx.device, &error) != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", (int)ctx.rank, error.text);
        return 1;
    }
    int failed = with_stream(&ctx, body);
    sherd_memory live;
    sherd_device_memory(ctx.device, &live, NULL);
    if (live.bytes[SHERD_TIER_DEVICE][SHERD_CAT_COMMUNICATION] != 0) {
        fprintf(stderr, "rank %d: communication is still booked\n", (int)ctx.rank);
        failed = 1;
    }
    sherd_device_destroy(ctx.device);
    return failed;
}

/* ---------------------------------------------------------------------------------------------------------- threads */

typedef struct thread_rank {
    sherd_comm *comm;
    const world_options *options;
    rank_fn body;
    void *arg;
    int failed;
} thread_rank;

static void *thread_main(void *arg)
{
    thread_rank *self = arg;
    self->failed = rank_run(self->comm, self->options, self->body, self->arg);
    sherd_comm_destroy(self->comm);
    return NULL;
}

static int run_threads(int32_t world, const world_options *options, rank_fn body, void *arg)
{
    sherd_comm *comms[MAX_WORLD];
    pthread_t threads[MAX_WORLD];
    thread_rank ranks[MAX_WORLD];
    sherd_error error;
    sherd_comm_options settings = comm_options(options);
    if (sherd_comm_create_threads(&settings, world, comms, &error) != SHERD_OK) {
        fprintf(stderr, "%s\n", error.text);
        return world;
    }
    int failed = 0;
    for (int32_t rank = 0; rank < world; rank++) {
        ranks[rank] = (thread_rank){comms[rank], options, body, arg, 1};
        pthread_create(&threads[rank], NULL, thread_main, &ranks[rank]);
    }
    for (int32_t rank = 0; rank < world; rank++) {
        pthread_join(threads[rank], NULL);
        failed += ranks[rank].failed != 0;
    }
    return failed;
}

/* -------------------------------------------------------------------------------------------------------- processes */

static void start_timer(long us)
{
    struct itimerval timer = {.it_value = {.tv_sec = us / 1000000, .tv_usec = us % 1000000}};
    setitimer(ITIMER_REAL, &timer, NULL); /* SIGALRM ends the process */
}

/* Creation may fail only because of the rank that is meant to die. */
static int judge_creation(int32_t rank, const world_options *options, const sherd_error *error)
{
    if (options != NULL && options->mortal > 0 && error->status == SHERD_ERANKDEAD &&
        error->rank == options->mortal - 1) {
        return 0;
    }
    fprintf(stderr, "rank %d: %s\n", (int)rank, error->text);
    return 1;
}

static int child_main(sherd_rendezvous *rendezvous, int32_t rank, int32_t world, const world_options *options,
                      rank_fn body, void *arg)
{
    sherd_error error;
    sherd_comm *comm;
    sherd_comm_options settings = comm_options(options);
    alarm(LIMIT_S);
    if (sherd_rendezvous_join(rendezvous, rank, &error) != SHERD_OK) {
        return judge_creation(rank, NULL, &error);
    }
    if (options != NULL && options->mortal == rank + 1) {
        start_timer(options->mortal_us);
    }
    if (sherd_comm_create_local(&settings, rank, world, sherd_rendezvous_allgather, rendezvous, &comm, &error) !=
        SHERD_OK) {
        return judge_creation(rank, options, &error);
    }
    int failed = rank_run(comm, options, body, arg);
    sherd_comm_destroy(comm);
    sherd_rendezvous_destroy(rendezvous);
    return failed;
}

static void collect(int32_t world, pid_t *pids, int *status)
{
    double begin = seconds_now();
    int32_t left = world;
    while (left > 0) {
        for (int32_t rank = 0; rank < world; rank++) {
            if (pids[rank] > 0 && waitpid(pids[rank], &status[rank], WNOHANG) == pids[rank]) {
                pids[rank] = 0;
                left--;
            } else if (pids[rank] > 0 && seconds_now() - begin > LIMIT_S) {
                kill(pids[rank], SIGKILL);
            }
        }
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, NULL);
    }
}

void world_run_status(int32_t world, const world_options *options, rank_fn body, void *arg, int *status)
{
    sherd_error error;
    sherd_rendezvous *rendezvous;
    pid_t pids[MAX_WORLD];
    if (sherd_rendezvous_create(world, &rendezvous, &error) != SHERD_OK) {
        fprintf(stderr, "%s\n", error.text);
        abort();
    }
    fflush(NULL);
    for (int32_t rank = 0; rank < world; rank++) {
        pids[rank] = fork();
        if (pids[rank] == 0) {
            int failed = child_main(rendezvous, rank, world, options, body, arg);
            fflush(NULL);
            _exit(failed);
        }
    }
    collect(world, pids, status);
    sherd_rendezvous_destroy(rendezvous);
}

int world_run(world_kind kind, int32_t world, const world_options *options, rank_fn body, void *arg)
{
    if (kind == WORLD_THREADS) {
        return run_threads(world, options, body, arg);
    }
    int status[MAX_WORLD], failed = 0;
    world_run_status(world, options, body, arg, status);
    for (int32_t rank = 0; rank < world; rank++) {
        failed += status[rank] != 0;
    }
    return failed;
}
