/* SPDX-License-Identifier: MIT
 *
 * A queue's life: choosing what moves blocks, starting its threads, registering buffers, and the end, where a thread
 * that the kernel does not give back is left behind and said so. What happens to operations is in aio_queue.c.
 */
#include "store/aio.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/alloc.h"
#include "base/log.h"
#include "store/aio_core.h"

enum { DEPTH_MAX = 4096, THREADS_MAX = 64, THREADS_DEFAULT_MAX = 16 };
#define BLOCK_MAX ((uint64_t)1 << 30)

void sherd__aio_options_init(sherd__aio_options *options)
{
    *options = (sherd__aio_options){.queue_depth = 8, .block_size = 1048576, .overlap_events = 1, .fail_after_s = 60};
}

/* ------------------------------------------------------------------------------------------------------- life and
 * death */

static sherd_status check_options(const sherd__aio_options *options, sherd_error *err)
{
    if (options->queue_depth < 1 || options->queue_depth > DEPTH_MAX)
        return sherd__fail(err, SHERD_EINVAL, "aio.queue_depth is %" PRIu32 ": from 1 to %d are possible",
                           options->queue_depth, DEPTH_MAX);
    if (options->block_size < 1 || options->block_size > BLOCK_MAX)
        return sherd__fail(err, SHERD_EINVAL, "aio.block_size is %" PRIu64 " bytes: from 1 to %" PRIu64 " are possible",
                           options->block_size, BLOCK_MAX);
    if (options->thread_count > THREADS_MAX)
        return sherd__fail(err, SHERD_EINVAL, "aio.thread_count is %" PRIu32 ": at most %d are possible",
                           options->thread_count, THREADS_MAX);
    if (!(options->fail_after_s > 0))
        return sherd__fail(err, SHERD_EINVAL, "the limit of waits for the disk is %g s: it must be above 0",
                           options->fail_after_s);
    return SHERD_OK;
}

static uint32_t thread_count(const sherd__aio_options *options)
{
    if (options->thread_count > 0)
        return options->thread_count;
    return options->queue_depth < THREADS_DEFAULT_MAX ? options->queue_depth : THREADS_DEFAULT_MAX;
}

static void *worker_main(void *arg)
{
    sherd__aio_worker *worker = arg;
    sherd__aio *aio = worker->aio;
    aio->backend->run(worker);
    pthread_mutex_lock(&aio->lock);
    worker->ended = 1;
    pthread_cond_broadcast(&aio->done);
    pthread_mutex_unlock(&aio->lock);
    return NULL;
}

static sherd_status start_workers(sherd__aio *aio, sherd_error *err)
{
    for (uint32_t i = 0; i < aio->n_workers; i++) {
        sherd__aio_worker *worker = &aio->workers[i];
        int64_t verdict = sherd__io_ask(aio->options.io, SHERD__IO_THREAD, 0);
        int code = verdict < 0 ? (int)-verdict : pthread_create(&worker->thread, NULL, worker_main, worker);
        if (code != 0)
            return sherd__fail(err, SHERD_ESYSTEM,
                               "disk thread %" PRIu32 " of %" PRIu32
                               " could not be started: %s; ask for fewer (aio.thread_count)",
                               i + 1, aio->n_workers, strerror(code));
        worker->started = 1;
    }
    return SHERD_OK;
}

static sherd_status open_workers(sherd__aio *aio, const sherd__aio_backend *backend, uint32_t n, sherd_error *err)
{
    aio->backend = backend;
    aio->workers = sherd__alloc(&aio->options.allocator, n, sizeof *aio->workers);
    if (!aio->workers)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for %" PRIu32 " disk threads", n);
    aio->n_workers = n;
    for (uint32_t i = 0; i < n; i++) {
        aio->workers[i].aio = aio;
        sherd_status status = backend->open(&aio->workers[i], err);
        if (status != SHERD_OK)
            return status;
    }
    return SHERD_OK;
}

static void close_workers(sherd__aio *aio)
{
    for (uint32_t i = 0; i < aio->n_workers; i++)
        aio->backend->close(&aio->workers[i]);
    sherd__free(&aio->options.allocator, aio->workers, aio->n_workers, sizeof *aio->workers);
    aio->workers = NULL;
    aio->n_workers = 0;
}

static sherd_status choose_backend(sherd__aio *aio, sherd_error *err)
{
    sherd_error why = {SHERD_EUNSUPPORTED, -1, "built without liburing"};
    if (aio->options.engine != SHERD__AIO_THREADS) {
        sherd_status status = SHERD_EUNSUPPORTED;
#if SHERD_HAVE_URING
        status = open_workers(aio, &sherd__aio_uring, 1, &why);
#endif
        if (status == SHERD_OK)
            return SHERD_OK;
        close_workers(aio);
        if (status == SHERD_ENOMEM || aio->options.engine == SHERD__AIO_URING)
            return sherd__pass(err, &why);
        snprintf(aio->why_threads, sizeof aio->why_threads, "%.90s", why.text);
        sherd__log(&aio->options.log, SHERD_LOG_INFO, "disk tier: no io_uring (%s): threads read and write instead",
                   aio->why_threads);
    }
    return open_workers(aio, &sherd__aio_threads, thread_count(&aio->options), err);
}

static void init_locks(sherd__aio *aio)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&aio->lock, NULL);
    pthread_cond_init(&aio->work, NULL);
    pthread_cond_init(&aio->done, &attributes);
    pthread_condattr_destroy(&attributes);
}

sherd_status sherd__aio_create(const sherd__aio_options *options, sherd__aio **out, sherd_error *err)
{
    sherd_status status = check_options(options, err);
    if (status != SHERD_OK)
        return status;
    sherd_allocator memory = sherd__allocator_or_default(&options->allocator);
    sherd__aio *aio = sherd__alloc(&memory, 1, sizeof *aio);
    if (!aio)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a queue of disk operations");
    aio->options = *options;
    aio->options.allocator = memory;
    aio->options.block_size = (options->block_size + SHERD__AIO_ALIGN - 1) / SHERD__AIO_ALIGN * SHERD__AIO_ALIGN;
    init_locks(aio);
    status = choose_backend(aio, err);
    if (status == SHERD_OK)
        status = start_workers(aio, err);
    if (status != SHERD_OK) {
        sherd__aio_destroy(aio);
        return status;
    }
    *out = aio;
    return SHERD_OK;
}

/* Under the lock. Waits until the threads have ended; 0: the limit came first. */
static int wait_for_workers(sherd__aio *aio)
{
    struct timespec deadline;
    sherd__aio_deadline(aio->options.fail_after_s, &deadline);
    for (uint32_t i = 0; i < aio->n_workers; i++) {
        const sherd__aio_worker *worker = &aio->workers[i];
        while (worker->started && !worker->ended)
            if (pthread_cond_timedwait(&aio->done, &aio->lock, &deadline) != 0)
                return !worker->started || worker->ended;
    }
    return 1;
}

void sherd__aio_destroy(sherd__aio *aio)
{
    if (!aio)
        return;
    pthread_mutex_lock(&aio->lock);
    aio->stop = 1;
    sherd__aio_op *over = sherd__aio_drop(aio, SHERD_ESTATE);
    pthread_cond_broadcast(&aio->work);
    pthread_mutex_unlock(&aio->lock);
    sherd__aio_complete(aio, over);
    pthread_mutex_lock(&aio->lock);
    int ended = wait_for_workers(aio);
    pthread_mutex_unlock(&aio->lock);
    if (!ended) {
        /* A thread inside the kernel cannot be ended, and it will touch the queue when it comes back. */
        sherd__log(&aio->options.log, SHERD_LOG_WARNING,
                   "disk tier: the storage did not answer within %g s: its threads "
                   "and their memory are left behind",
                   aio->options.fail_after_s);
        for (uint32_t i = 0; i < aio->n_workers; i++)
            pthread_detach(aio->workers[i].thread);
        return;
    }
    for (uint32_t i = 0; i < aio->n_workers; i++)
        if (aio->workers[i].started)
            pthread_join(aio->workers[i].thread, NULL);
    close_workers(aio);
    pthread_cond_destroy(&aio->done);
    pthread_cond_destroy(&aio->work);
    pthread_mutex_destroy(&aio->lock);
    sherd_allocator memory = aio->options.allocator;
    sherd__free(&memory, aio, 1, sizeof *aio);
}

/* ---------------------------------------------------------------------------------------------------- fixed buffers */

static sherd_status add_buffer(sherd__aio *aio, void *buffer, uint64_t bytes, sherd_error *err)
{
    if (bytes == 0 || (bytes | (uint64_t)(uintptr_t)buffer) % SHERD__AIO_ALIGN != 0)
        return sherd__fail(err, SHERD_EINVAL, "a buffer of %" PRIu64 " bytes at %p: both must be multiples of %u",
                           bytes, buffer, SHERD__AIO_ALIGN);
    aio->buffers[aio->n_buffers].data = buffer;
    aio->buffers[aio->n_buffers++].bytes = bytes;
    return SHERD_OK;
}

sherd_status sherd__aio_register(sherd__aio *aio, void *const *buffers, const uint64_t *bytes, uint32_t n,
                                 sherd_error *err)
{
    sherd_status status = SHERD_OK;
    if (n == 0 || n > SHERD__AIO_MAX_BUFFERS)
        return sherd__fail(err, SHERD_EINVAL, "%" PRIu32 " buffers: from 1 to %u are possible", n,
                           SHERD__AIO_MAX_BUFFERS);
    pthread_mutex_lock(&aio->lock);
    if (aio->submitted > 0 || aio->n_buffers > 0)
        status = sherd__fail(err, SHERD_ESTATE, "buffers are registered once, before the first operation is submitted");
    for (uint32_t i = 0; i < n && status == SHERD_OK; i++)
        status = add_buffer(aio, buffers[i], bytes[i], err);
    if (status == SHERD_OK) {
        /* Under the lock: the worker has nothing to do yet, and so does not touch its ring. */
        int code = aio->backend->bind(&aio->workers[0]);
        aio->bound = code == 0;
        if (code != 0)
            snprintf(aio->why_unbound, sizeof aio->why_unbound, "%.90s", strerror(-code));
    } else if (status == SHERD_EINVAL) {
        aio->n_buffers = 0;
    }
    pthread_mutex_unlock(&aio->lock);
    return status;
}
