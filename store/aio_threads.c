/* SPDX-License-Identifier: MIT
 *
 * Blocks moved by threads that call pread and pwrite: as many at the kernel as there are threads. Used where io_uring
 * is not built, too old, or forbidden (seccomp in containers). single_submit and overlap_events change nothing here.
 */
#include <errno.h>

#include "store/aio_core.h"

static sherd_status threads_open(sherd__aio_worker *worker, sherd_error *err)
{
    (void)err;
    worker->state = NULL;
    return SHERD_OK;
}

static void threads_close(sherd__aio_worker *worker)
{
    worker->state = NULL;
}

static void threads_wake(sherd__aio_worker *worker)
{
    pthread_cond_signal(&worker->aio->work);
}

static int threads_bind(sherd__aio_worker *worker)
{
    (void)worker;
    return -EOPNOTSUPP;
}

static int64_t move(sherd__aio *aio, const sherd__aio_block *block)
{
    int64_t verdict;
    uint64_t bytes = sherd__aio_ask(aio, block, &verdict);
    if (verdict < 0)
        return verdict;
    int fd = block->stripe->fd;
    return sherd__aio_judge(verdict, block->write
                                         ? sherd__io_pwrite(&sherd__io_none, fd, block->data, bytes, block->offset)
                                         : sherd__io_pread(&sherd__io_none, fd, block->data, bytes, block->offset));
}

static void threads_run(sherd__aio_worker *worker)
{
    sherd__aio *aio = worker->aio;
    sherd__aio_block block;
    while (sherd__aio_idle(aio)) {
        while (sherd__aio_claim(aio, &block)) {
            while (sherd__aio_end(aio, &block, move(aio, &block)))
                ; /* the rest of it */
        }
    }
}

const sherd__aio_backend sherd__aio_threads = {"threads",    threads_open, threads_run,
                                               threads_wake, threads_bind, threads_close};
