/* SPDX-License-Identifier: MIT
 *
 * What happens to operations. They stand in one list; workers take the next block of the first one, so blocks start in
 * the order of submission and a long operation spreads over the whole depth. The first block that fails ends the queue:
 * what has not started is dropped, what is at the kernel is let finish (its buffers are in use), and every operation
 * that lost a part ends with that first error.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "store/aio_core.h"

enum { STALLS_MAX = 100 };
enum { IDLE = 0, QUEUED, HANDED_OUT, CALLBACK, DONE };

/* ------------------------------------------------------------------------------------------------------- completion */

sherd__aio_op *sherd__aio_drop(sherd__aio *aio, sherd_status status)
{
    sherd__aio_op *over = NULL, *op = aio->head;
    aio->head = aio->tail = NULL;
    while (op) {
        sherd__aio_op *next = op->own.next;
        op->status = status;
        op->own.state = HANDED_OUT;
        op->own.next = NULL;
        if (op->own.pending == 0) {
            op->own.state = CALLBACK;
            op->own.next = over;
            over = op;
        }
        op = next;
    }
    return over;
}

void sherd__aio_complete(sherd__aio *aio, sherd__aio_op *over)
{
    while (over) {
        sherd__aio_op *op = over;
        over = op->own.next;
        op->own.next = NULL;
        if (op->done)
            op->done(op->ctx, op);
        pthread_mutex_lock(&aio->lock);
        op->own.state = DONE; /* from here on the record is the caller's */
        op->file->in_flight--;
        aio->in_flight--;
        aio->stats.reads += !op->write;
        aio->stats.writes += op->write != 0;
        pthread_cond_broadcast(&aio->done);
        pthread_mutex_unlock(&aio->lock);
    }
}

static void name_error(sherd__aio *aio, const sherd__aio_block *block, int code)
{
    sherd__fail(&aio->error, SHERD_EIO, "%s %" PRIu64 " bytes at offset %" PRIu64 " of '%.250s' failed: %s; %s",
                block->write ? "writing" : "reading", block->bytes, block->offset, block->stripe->path, strerror(code),
                sherd__io_remedy(code));
}

void sherd__aio_break(sherd__aio *aio, const char *what, int code)
{
    pthread_mutex_lock(&aio->lock);
    if (aio->error.status == SHERD_OK)
        sherd__fail(&aio->error, SHERD_EIO, "%s failed: %s; the disk tier cannot go on", what, strerror(code));
    sherd__aio_op *over = sherd__aio_drop(aio, aio->error.status);
    pthread_mutex_unlock(&aio->lock);
    sherd__aio_complete(aio, over);
}

/* What a call moved counts in whole units where the kernel takes only those: the rest is moved once more. */
static uint64_t progress_of(const sherd__aio_block *block, int64_t result)
{
    uint64_t moved = (uint64_t)result;
    if (block->stripe->direct && moved < block->bytes)
        moved -= moved % SHERD__AIO_ALIGN;
    return moved < block->bytes ? moved : block->bytes;
}

/* 0, 1 to move the rest, or −errno. */
static int advance(sherd__aio_block *block, int64_t result)
{
    if (result == 0)
        return block->write ? -EIO : -ENODATA;
    if (result < 0 && result != -EINTR && result != -EAGAIN)
        return (int)result;
    uint64_t moved = result > 0 ? progress_of(block, result) : 0;
    block->data += moved;
    block->offset += moved;
    block->bytes -= moved;
    block->moved += moved;
    if (block->bytes == 0)
        return 0;
    block->continued += result > 0;
    if (moved > 0)
        return 1;
    if (++block->stalls > STALLS_MAX)
        return result < 0 ? (int)result : -EIO;
    if (result == -EAGAIN)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    return 1;
}

int sherd__aio_end(sherd__aio *aio, sherd__aio_block *block, int64_t result)
{
    int code = advance(block, result);
    sherd__aio_op *op = block->op, *over = NULL;
    pthread_mutex_lock(&aio->lock);
    if (code == 1 && aio->error.status == SHERD_OK) {
        pthread_mutex_unlock(&aio->lock);
        return 1;
    }
    uint64_t *total = block->write ? &aio->stats.written_bytes : &aio->stats.read_bytes;
    *total += block->moved;
    aio->stats.blocks++;
    aio->stats.continued += block->continued;
    if (code < 0 && aio->error.status == SHERD_OK)
        name_error(aio, block, -code);
    if (code != 0)
        op->status = aio->error.status;
    op->own.pending--;
    if (aio->error.status != SHERD_OK)
        over = sherd__aio_drop(aio, aio->error.status); /* `op` may be in it */
    if (op->own.state == HANDED_OUT && op->own.pending == 0) {
        op->own.state = CALLBACK;
        op->own.next = over;
        over = op;
    }
    pthread_mutex_unlock(&aio->lock);
    block->op = NULL;
    sherd__aio_complete(aio, over);
    return 0;
}

/* ----------------------------------------------------------------------------------------------------------- for
 * workers */

int sherd__aio_claim(sherd__aio *aio, sherd__aio_block *block)
{
    pthread_mutex_lock(&aio->lock);
    sherd__aio_op *op = aio->head;
    if (!op) {
        pthread_mutex_unlock(&aio->lock);
        return 0;
    }
    const sherd__aio_file *file = op->file;
    uint64_t at = op->offset + op->own.started, piece = at / file->unit, within = at % file->unit;
    uint64_t left = op->bytes - op->own.started, room = file->unit - within;
    *block = (sherd__aio_block){.op = op,
                                .stripe = &file->stripes[piece % file->n_stripes],
                                .data = (unsigned char *)op->buffer + op->own.started,
                                .offset = piece / file->n_stripes * file->unit + within,
                                .bytes = left < room ? left : room,
                                .write = op->write};
    op->own.started += block->bytes;
    op->own.pending++;
    if (op->own.started == op->bytes) {
        op->own.state = HANDED_OUT;
        aio->head = op->own.next;
        aio->tail = aio->head ? aio->tail : NULL;
        op->own.next = NULL;
    }
    pthread_mutex_unlock(&aio->lock);
    return 1;
}

uint64_t sherd__aio_ask(sherd__aio *aio, const sherd__aio_block *block, int64_t *verdict)
{
    *verdict = sherd__io_ask(aio->options.io, block->write ? SHERD__IO_WRITE : SHERD__IO_READ, block->bytes);
    if (*verdict < 0)
        return 0;
    if (*verdict == 0 || (uint64_t)*verdict >= block->bytes) {
        *verdict = 0;
        return block->bytes;
    }
    uint64_t unit = block->stripe->direct ? SHERD__AIO_ALIGN : 1;
    return ((uint64_t)*verdict + unit - 1) / unit * unit;
}

int64_t sherd__aio_judge(int64_t verdict, int64_t result)
{
    if (verdict < 0)
        return verdict;
    return verdict > 0 && result > verdict ? verdict : result;
}

int sherd__aio_idle(sherd__aio *aio)
{
    pthread_mutex_lock(&aio->lock);
    while (!aio->head && !aio->stop)
        pthread_cond_wait(&aio->work, &aio->lock); /* ended by the next submit or by destroy */
    int work = aio->head != NULL;
    pthread_mutex_unlock(&aio->lock);
    return work;
}

/* ----------------------------------------------------------------------------------------------------------- for
 * callers */

static sherd_status check_op(const sherd__aio_op *op, sherd_error *err)
{
    const sherd__aio_file *file = op->file;
    if (op->bytes == 0 || op->bytes > file->bytes || op->offset > file->bytes - op->bytes)
        return sherd__fail(err, SHERD_EINVAL,
                           "%" PRIu64 " bytes at offset %" PRIu64 " are not inside '%.250s…' of %" PRIu64 " bytes",
                           op->bytes, op->offset, file->stripes[0].path, file->bytes);
    if ((op->offset | op->bytes | (uint64_t)(uintptr_t)op->buffer) % SHERD__AIO_ALIGN != 0)
        return sherd__fail(err, SHERD_EINVAL,
                           "%" PRIu64 " bytes at offset %" PRIu64 " with a buffer at %p: all three must "
                           "be multiples of %u",
                           op->bytes, op->offset, op->buffer, SHERD__AIO_ALIGN);
    return SHERD_OK;
}

static int is_idle(const sherd__aio_op *op)
{
    return op->own.state == IDLE || op->own.state == DONE;
}

sherd_status sherd__aio_submit(sherd__aio *aio, sherd__aio_op *op, sherd_error *err)
{
    sherd_status status = check_op(op, err);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&aio->lock);
    if (aio->error.status != SHERD_OK) {
        status = sherd__pass(err, &aio->error);
    } else if (!is_idle(op) || aio->stop) {
        status = sherd__fail(err, SHERD_ESTATE, "an operation on '%.250s' was submitted %s", op->file->stripes[0].path,
                             aio->stop ? "to a queue that ends" : "that is in flight: wait for it first");
    } else {
        op->status = SHERD_OK;
        op->own.state = QUEUED;
        op->own.started = op->own.pending = 0;
        op->own.next = NULL;
        *(aio->tail ? &aio->tail->own.next : &aio->head) = op;
        aio->tail = op;
        op->file->in_flight++;
        aio->in_flight++;
        aio->submitted++;
        for (uint32_t i = 0; i < aio->n_workers; i++)
            aio->backend->wake(&aio->workers[i]);
    }
    pthread_mutex_unlock(&aio->lock);
    return status;
}

int sherd__aio_is_done(sherd__aio *aio, const sherd__aio_op *op)
{
    pthread_mutex_lock(&aio->lock);
    int done = is_idle(op);
    pthread_mutex_unlock(&aio->lock);
    return done;
}

void sherd__aio_deadline(double seconds, struct timespec *out)
{
    double most = 1e9, whole;
    clock_gettime(CLOCK_MONOTONIC, out);
    double part = modf(seconds < most ? (seconds > 0 ? seconds : 0) : most, &whole);
    out->tv_sec += (time_t)whole;
    out->tv_nsec += (long)(part * 1e9);
    if (out->tv_nsec >= 1000000000L) {
        out->tv_nsec -= 1000000000L;
        out->tv_sec++;
    }
}

/* Under the lock. Waits until `op` is done, or with NULL until nothing is in flight; 0: the limit came first. */
static int wait_for(sherd__aio *aio, const sherd__aio_op *op, double limit_s)
{
    struct timespec deadline;
    sherd__aio_deadline(limit_s, &deadline);
    int code = 0;
    while (code == 0 && !(op ? is_idle(op) : aio->in_flight == 0))
        code = pthread_cond_timedwait(&aio->done, &aio->lock, &deadline);
    return op ? is_idle(op) : aio->in_flight == 0;
}

sherd_status sherd__aio_wait(sherd__aio *aio, sherd__aio_op *op, double limit_s, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    pthread_mutex_lock(&aio->lock);
    if (!wait_for(aio, op, limit_s))
        status =
            sherd__fail(err, SHERD_ETIMEOUT,
                        "%s %" PRIu64 " bytes at offset %" PRIu64 " of '%.250s' did not end "
                        "within %g s: the storage does not answer",
                        op->write ? "writing" : "reading", op->bytes, op->offset, op->file->stripes[0].path, limit_s);
    else if (op->own.state == DONE && op->status != SHERD_OK)
        status = aio->error.status != SHERD_OK
                     ? sherd__pass(err, &aio->error)
                     : sherd__fail(err, op->status, "the queue of disk operations ended before this one started");
    pthread_mutex_unlock(&aio->lock);
    return status;
}

sherd_status sherd__aio_drain(sherd__aio *aio, double limit_s, sherd_error *err)
{
    sherd_status status;
    pthread_mutex_lock(&aio->lock);
    if (!wait_for(aio, NULL, limit_s))
        status = sherd__fail(err, SHERD_ETIMEOUT,
                             "%" PRIu64 " disk operations did not end within %g s: the storage does "
                             "not answer",
                             aio->in_flight, limit_s);
    else
        status = aio->error.status == SHERD_OK ? SHERD_OK : sherd__pass(err, &aio->error);
    pthread_mutex_unlock(&aio->lock);
    return status;
}

sherd_status sherd__aio_error(sherd__aio *aio, sherd_error *err)
{
    pthread_mutex_lock(&aio->lock);
    sherd_status status = aio->error.status == SHERD_OK ? SHERD_OK : sherd__pass(err, &aio->error);
    pthread_mutex_unlock(&aio->lock);
    return status;
}

void sherd__aio_stats_read(sherd__aio *aio, sherd__aio_stats *out)
{
    pthread_mutex_lock(&aio->lock);
    *out = aio->stats;
    pthread_mutex_unlock(&aio->lock);
}
