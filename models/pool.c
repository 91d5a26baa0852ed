/* SPDX-License-Identifier: MIT
 *
 * A job is published by bumping `epoch`; every worker joins every job, takes tasks from one counter, and reports by
 * lowering `pending`. Both sides spin for some microseconds first, since the next job of a step comes at once, then
 * sleep. The caller's wait has no limit of its own because it is the end of arithmetic that its own process runs.
 */
#include "models/pool.h"

#include "models/internal.h"

#include <errno.h>
#include <fenv.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define SPINS 1000 /* some 50 microseconds */

struct sherd_pool {
    int threads, started;
    pthread_t *ids;
    struct worker *workers;
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    atomic_uint epoch;
    atomic_int pending, stop;
    atomic_llong next;
    int64_t tasks;
    sherd_pool_fn fn;
    void *ctx;
};

struct worker {
    sherd_pool *pool;
    int index;
};

static void breathe(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(sherd_pool *pool, int worker)
{
    for (;;) {
        int64_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks) {
            return;
        }
        pool->fn(pool->ctx, task, worker);
    }
}

static void wait_epoch(sherd_pool *pool, unsigned seen)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->epoch, memory_order_acquire) != seen) {
            return;
        }
        breathe();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->epoch) == seen) {
        pthread_cond_wait(&pool->begin, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

static void *work(void *arg)
{
    struct worker *self = arg;
    sherd_pool *pool = self->pool;
    fesetenv(FE_DFL_ENV);
    for (unsigned seen = 0;; seen++) {
        wait_epoch(pool, seen);
        if (atomic_load(&pool->stop)) {
            return NULL;
        }
        take_tasks(pool, self->index);
        if (atomic_fetch_sub_explicit(&pool->pending, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->end);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void publish(sherd_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add_explicit(&pool->epoch, 1, memory_order_release);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
}

void sherd__pool_run(sherd_pool *pool, int64_t tasks, sherd_pool_fn fn, void *ctx)
{
    if (pool->threads == 1 || tasks <= 1) {
        for (int64_t i = 0; i < tasks; i++) {
            fn(ctx, i, 0);
        }
        return;
    }
    pool->tasks = tasks;
    pool->fn = fn;
    pool->ctx = ctx;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->pending, pool->threads - 1, memory_order_relaxed);
    publish(pool);
    take_tasks(pool, 0);
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->pending, memory_order_acquire) == 0) {
            return;
        }
        breathe();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->pending) != 0) {
        pthread_cond_wait(&pool->end, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
}

/* Workers take no signals: they are the caller's business. */
static int start_workers(sherd_pool *pool)
{
    sigset_t all, old;
    int rc = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int i = 1; i < pool->threads && rc == 0; i++) {
        pool->workers[i] = (struct worker){pool, i};
        rc = pthread_create(&pool->ids[i], NULL, work, &pool->workers[i]);
        pool->started += rc == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

sherd_status sherd__pool_create(int threads, sherd_pool **out, sherd_error *err)
{
    sherd_pool *pool = calloc(1, sizeof *pool);
    if (!pool) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the worker pool");
    }
    pool->threads = threads;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->end, NULL);
    pool->ids = calloc((size_t)threads, sizeof *pool->ids);
    pool->workers = calloc((size_t)threads, sizeof *pool->workers);
    if (!pool->ids || !pool->workers) {
        sherd__pool_destroy(pool);
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for %d worker threads", threads);
    }
    int rc = start_workers(pool);
    if (rc != 0) {
        sherd__pool_destroy(pool);
        return sherd__model_fail(err, SHERD_ESYSTEM, "model: cannot start %d worker threads: %s", threads - 1,
                                 strerror(rc));
    }
    *out = pool;
    return SHERD_OK;
}

void sherd__pool_destroy(sherd_pool *pool)
{
    if (!pool) {
        return;
    }
    atomic_store(&pool->stop, 1);
    publish(pool);
    for (int i = 1; i <= pool->started; i++) {
        pthread_join(pool->ids[i], NULL);
    }
    pthread_cond_destroy(&pool->end);
    pthread_cond_destroy(&pool->begin);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool->ids);
    free(pool);
}

int sherd__pool_threads(const sherd_pool *pool)
{
    return pool->threads;
}
