/* SPDX-License-Identifier: MIT
 *
 * One loop at a time is shared out: `owner` is held by the stream whose loop runs, and whoever finds it taken works alone, so
 * that no stream ever waits for another's loop. Inside a loop, chunks are claimed by one counter. A worker that wakes late finds
 * the loop closed and goes back to sleep, so a short loop never waits for a slow wake-up: the caller waits only for workers that
 * are in the middle of a chunk.
 */
#include "host/team.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/alloc.h"

typedef struct team_worker {
    sherd__team *team;
    pthread_t thread;
    int32_t number;
} team_worker;

struct sherd__team {
    sherd_allocator allocator;
    int32_t threads; /* with the caller */
    int32_t started; /* workers that exist: threads − 1 once created */
    team_worker *workers;
    pthread_mutex_t owner;
    pthread_mutex_t lock; /* of everything below but `next` */
    pthread_cond_t work, done;
    sherd__team_fn fn;
    void *arg;
    int64_t chunks;
    uint64_t loop;   /* number of the latest loop */
    int32_t open;    /* 1: workers may join the loop */
    int32_t inside;  /* workers that have joined and not left */
    int32_t stop;
    _Atomic int64_t next;
};

static void claim_chunks(sherd__team *team, sherd__team_fn fn, void *arg, int64_t chunks, int32_t worker)
{
    for (;;) {
        int64_t chunk = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
        if (chunk >= chunks)
            return;
        fn(arg, chunk, worker);
    }
}

static void *worker_main(void *arg)
{
    team_worker *self = arg;
    sherd__team *team = self->team;
    uint64_t seen = 0;
    (void)sherd__float_mode_enter();
    pthread_mutex_lock(&team->lock);
    while (!team->stop) {
        if (!team->open || team->loop == seen) {
            pthread_cond_wait(&team->work, &team->lock); /* idle: ended by the next loop or by destroy */
            continue;
        }
        seen = team->loop;
        sherd__team_fn fn = team->fn;
        void *fn_arg = team->arg;
        int64_t chunks = team->chunks;
        team->inside++;
        pthread_mutex_unlock(&team->lock);
        claim_chunks(team, fn, fn_arg, chunks, self->number);
        pthread_mutex_lock(&team->lock);
        if (--team->inside == 0 && !team->open)
            pthread_cond_signal(&team->done);
    }
    pthread_mutex_unlock(&team->lock);
    return NULL;
}

static sherd_status start_workers(sherd__team *team, sherd_error *err)
{
    for (int32_t i = 0; i + 1 < team->threads; i++) {
        team_worker *worker = &team->workers[i];
        worker->team = team;
        worker->number = i + 1;
        int code = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (code != 0)
            return sherd__fail(err, SHERD_ESYSTEM, "worker thread %d of %d could not be started: %s; ask for fewer threads",
                               i + 1, team->threads, strerror(code));
        team->started++;
    }
    return SHERD_OK;
}

static size_t worker_count(const sherd__team *team) { return (size_t)team->threads; }

sherd_status sherd__team_create(const sherd_allocator *allocator, int32_t threads, sherd__team **out, sherd_error *err)
{
    if (threads < 1 || threads > 4096)
        return sherd__fail(err, SHERD_EINVAL, "a team of %d threads: from 1 to 4096 are possible", threads);
    sherd_allocator memory = sherd__allocator_or_default(allocator);
    sherd__team *team = sherd__alloc(&memory, 1, sizeof *team);
    if (!team)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a team of %d threads", threads);
    team->allocator = memory;
    team->threads = threads;
    pthread_mutex_init(&team->owner, NULL);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->work, NULL);
    pthread_cond_init(&team->done, NULL);
    team->workers = sherd__alloc(&memory, worker_count(team), sizeof *team->workers);
    sherd_status status = team->workers ? start_workers(team, err)
                                        : sherd__fail(err, SHERD_ENOMEM, "no memory for a team of %d threads", threads);
    if (status != SHERD_OK) {
        sherd__team_destroy(team);
        return status;
    }
    *out = team;
    return SHERD_OK;
}

void sherd__team_destroy(sherd__team *team)
{
    if (!team)
        return;
    pthread_mutex_lock(&team->lock);
    team->stop = 1;
    pthread_cond_broadcast(&team->work);
    pthread_mutex_unlock(&team->lock);
    for (int32_t i = 0; i < team->started; i++)
        pthread_join(team->workers[i].thread, NULL);
    pthread_cond_destroy(&team->done);
    pthread_cond_destroy(&team->work);
    pthread_mutex_destroy(&team->lock);
    pthread_mutex_destroy(&team->owner);
    sherd_allocator memory = team->allocator;
    sherd__free(&memory, team->workers, worker_count(team), sizeof *team->workers);
    sherd__free(&memory, team, 1, sizeof *team);
}

int32_t sherd__team_threads(const sherd__team *team) { return team ? team->threads : 1; }

static void run_shared(sherd__team *team, int64_t chunks, sherd__team_fn fn, void *arg)
{
    pthread_mutex_lock(&team->lock);
    team->fn = fn;
    team->arg = arg;
    team->chunks = chunks;
    team->loop++;
    team->open = 1;
    atomic_store_explicit(&team->next, 0, memory_order_relaxed);
    if (chunks > 2)
        pthread_cond_broadcast(&team->work);
    else
        pthread_cond_signal(&team->work);
    pthread_mutex_unlock(&team->lock);
    claim_chunks(team, fn, arg, chunks, 0);
    pthread_mutex_lock(&team->lock);
    team->open = 0;
    while (team->inside > 0)
        pthread_cond_wait(&team->done, &team->lock); /* each is finishing one chunk: no limit is needed */
    pthread_mutex_unlock(&team->lock);
}

void sherd__team_run(sherd__team *team, int64_t chunks, sherd__team_fn fn, void *arg)
{
    if (team && team->threads > 1 && chunks > 1 && pthread_mutex_trylock(&team->owner) == 0) {
        run_shared(team, chunks, fn, arg);
        pthread_mutex_unlock(&team->owner);
        return;
    }
    for (int64_t chunk = 0; chunk < chunks; chunk++)
        fn(arg, chunk, 0);
}
