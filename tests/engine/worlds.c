/* SPDX-License-Identifier: MIT */
#include "tests/engine/worlds.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct rank_thread {
    pthread_t thread;
    const world_options *options;
    int32_t rank;
    sherd_comm *comm;
    world_fn fn;
    void *ctx;
    int failed;
} rank_thread;

static sherd_device *make_device(const world_options *options, int32_t rank)
{
    sherd_device_options device_options;
    sherd_device *device = NULL;
    sherd_error err;

    if (options->make_device)
        return options->make_device();
    sherd_device_options_init(&device_options, sizeof device_options);
    device_options.kind = options->checker ? SHERD_DEVICE_CHECK : SHERD_DEVICE_HOST;
    device_options.checker = options->checker;
    device_options.rank = rank;
    device_options.threads = options->threads ? options->threads : 1;
    device_options.trace_capacity = options->trace_capacity;
    if (sherd_device_create(&device_options, &device, &err) != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, err.text);
        return NULL;
    }
    return device;
}

static void *rank_main(void *arg)
{
    rank_thread *self = arg;
    sherd_device *device = make_device(self->options, self->rank);

    if (!device) {
        self->failed = 1;
        return NULL;
    }
    self->fn(self->ctx, self->rank, device, self->comm);
    sherd_comm_destroy(self->comm);
    sherd_device_destroy(device);
    return NULL;
}

static sherd_comm_options comm_options(const world_options *options)
{
    sherd_comm_options out;
    sherd_comm_options_init(&out, sizeof out);
    out.fail_after_s = options->fail_after_s > 0 ? options->fail_after_s : 60;
    out.warn_after_s = options->warn_after_s > 0 ? options->warn_after_s : out.warn_after_s;
    out.log = options->log;
    return out;
}

int world_run_threads(const world_options *options, world_fn fn, void *ctx)
{
    rank_thread ranks[WORLD_MAX];
    sherd_comm *comms[WORLD_MAX];
    sherd_comm_options copts = comm_options(options);
    sherd_error err;
    int failed = 0;

    if (sherd_comm_create_threads(&copts, options->world, comms, &err) != SHERD_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    for (int32_t r = 0; r < options->world; r++) {
        ranks[r] = (rank_thread){.options = options, .rank = r, .comm = comms[r], .fn = fn, .ctx = ctx};
        if (pthread_create(&ranks[r].thread, NULL, rank_main, &ranks[r]))
            abort();
    }
    for (int32_t r = 0; r < options->world; r++) {
        pthread_join(ranks[r].thread, NULL);
        failed |= ranks[r].failed;
    }
    return failed;
}

static void child_main(const world_options *options, sherd_rendezvous *rendezvous, int32_t rank, world_fn fn, void *ctx)
{
    sherd_comm_options copts = comm_options(options);
    sherd_comm *comm = NULL;
    sherd_error err;
    sherd_device *device;
    sherd_status status = sherd_rendezvous_join(rendezvous, rank, &err);

    if (status == SHERD_OK)
        status =
            sherd_comm_create_local(&copts, rank, options->world, sherd_rendezvous_allgather, rendezvous, &comm, &err);
    if (status != SHERD_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, err.text);
        _exit(3);
    }
    device = make_device(options, rank);
    if (!device)
        _exit(3);
    fn(ctx, rank, device, comm);
    sherd_comm_destroy(comm);
    sherd_device_destroy(device);
    _exit(0);
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int reap(pid_t *pids, int32_t world, double limit_s)
{
    double end = now_s() + limit_s;
    int32_t left = world;
    int failed = 0;

    while (left > 0) {
        int state;
        for (int32_t r = 0; r < world; r++) {
            if (!pids[r])
                continue;
            if (now_s() > end)
                kill(pids[r], SIGKILL);
            if (waitpid(pids[r], &state, WNOHANG) == pids[r]) {
                failed += !(WIFEXITED(state) && WEXITSTATUS(state) == 0);
                pids[r] = 0;
                left--;
            }
        }
        if (left)
            usleep(2000);
    }
    return failed;
}

int world_run_processes(const world_options *options, double limit_s, world_fn fn, void *ctx)
{
    sherd_rendezvous *rendezvous;
    sherd_error err;
    pid_t pids[WORLD_MAX];
    int failed;

    if (sherd_rendezvous_create(options->world, &rendezvous, &err) != SHERD_OK) {
        fprintf(stderr, "%s\n", err.text);
        return options->world;
    }
    fflush(NULL);
    for (int32_t r = 0; r < options->world; r++) {
        pids[r] = fork();
        if (pids[r] < 0)
            abort();
        if (pids[r] == 0)
            child_main(options, rendezvous, r, fn, ctx);
    }
    failed = reap(pids, options->world, limit_s);
    sherd_rendezvous_destroy(rendezvous);
    return failed;
}

void *world_shared(size_t bytes)
{
    void *block = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return block == MAP_FAILED ? NULL : block;
}
