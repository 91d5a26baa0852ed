/* SPDX-License-Identifier: MIT
 *
 * Blocks moved by io_uring: one thread owns the ring and keeps up to queue_depth blocks in it. While blocks are out it
 * sleeps in the kernel, so a submit wakes it through an eventfd, which the ring itself watches. Each block has a slot;
 * the slot's number travels as the request's user data.
 */
#include <errno.h>
#include <inttypes.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/alloc.h"
#include "store/aio_core.h"

#define PIECE_BYTES ((uint64_t)1 << 30) /* the longest buffer the kernel registers */
#define WAKE_TAG UINT64_MAX

typedef struct uring {
    struct io_uring ring;
    int32_t has_ring;
    int event;     /* −1: none */
    int32_t armed; /* the ring watches the eventfd */
    int32_t bound;
    uint32_t depth;
    uint32_t n_free, in_flight;
    uint32_t *free_slots; /* depth */
    sherd__aio_block *slots;
    int64_t *verdicts;                            /* what a test's hook says of the slot's block */
    uint32_t first_piece[SHERD__AIO_MAX_BUFFERS]; /* of the registered pieces of a buffer */
} uring;

static void uring_close(sherd__aio_worker *worker)
{
    uring *self = worker->state;
    const sherd_allocator *memory = &worker->aio->options.allocator;
    if (!self)
        return;
    if (self->has_ring)
        io_uring_queue_exit(&self->ring);
    if (self->event >= 0)
        close(self->event);
    sherd__free(memory, self->verdicts, self->depth, sizeof *self->verdicts);
    sherd__free(memory, self->slots, self->depth, sizeof *self->slots);
    sherd__free(memory, self->free_slots, self->depth, sizeof *self->free_slots);
    sherd__free(memory, self, 1, sizeof *self);
    worker->state = NULL;
}

/* Reads and writes by offset, and waits with a limit that need no request of their own. */
static sherd_status check_kernel(struct io_uring *ring, sherd_error *err)
{
    static const int needed[] = {IORING_OP_NOP,        IORING_OP_READ,        IORING_OP_WRITE,
                                 IORING_OP_READ_FIXED, IORING_OP_WRITE_FIXED, IORING_OP_POLL_ADD};
    struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
    int good =
        probe != NULL && (ring->features & IORING_FEAT_EXT_ARG) != 0 && (ring->features & IORING_FEAT_NODROP) != 0;
    for (size_t i = 0; good && i < sizeof needed / sizeof needed[0]; i++)
        good = io_uring_opcode_supported(probe, needed[i]);
    if (probe)
        io_uring_free_probe(probe);
    return good ? SHERD_OK : sherd__fail(err, SHERD_EUNSUPPORTED, "the kernel's io_uring is older than Linux 5.11");
}

static sherd_status open_ring(sherd__aio *aio, uring *self, sherd_error *err)
{
    int64_t verdict = sherd__io_ask(aio->options.io, SHERD__IO_RING, 0);
    /* One entry more than blocks: the eventfd's. */
    int code = verdict < 0 ? (int)verdict : io_uring_queue_init(self->depth + 1, &self->ring, 0);
    if (code < 0)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "io_uring is refused: %s", strerror(-code));
    self->has_ring = 1;
    io_uring_ring_dontfork(&self->ring); /* a child has its own life; where it fails, children see unused pages */
    self->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (self->event < 0)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "no eventfd for io_uring: %s", strerror(errno));
    return check_kernel(&self->ring, err);
}

static sherd_status uring_open(sherd__aio_worker *worker, sherd_error *err)
{
    sherd__aio *aio = worker->aio;
    const sherd_allocator *memory = &aio->options.allocator;
    uring *self = sherd__alloc(memory, 1, sizeof *self);
    worker->state = self;
    if (self) {
        self->event = -1;
        self->depth = aio->options.queue_depth;
        self->free_slots = sherd__alloc(memory, self->depth, sizeof *self->free_slots);
        self->slots = sherd__alloc(memory, self->depth, sizeof *self->slots);
        self->verdicts = sherd__alloc(memory, self->depth, sizeof *self->verdicts);
    }
    if (!self || !self->free_slots || !self->slots || !self->verdicts)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a queue of %" PRIu32 " disk blocks",
                           aio->options.queue_depth);
    for (uint32_t i = 0; i < self->depth; i++)
        self->free_slots[self->n_free++] = self->depth - 1 - i;
    return open_ring(aio, self, err);
}

/* ---------------------------------------------------------------------------------------------------- fixed buffers */

static uint32_t pieces_of(uint64_t bytes)
{
    return (uint32_t)((bytes + PIECE_BYTES - 1) / PIECE_BYTES);
}

static int uring_bind(sherd__aio_worker *worker)
{
    sherd__aio *aio = worker->aio;
    uring *self = worker->state;
    uint32_t total = 0, at = 0;
    for (uint32_t i = 0; i < aio->n_buffers; i++) {
        self->first_piece[i] = total;
        total += pieces_of(aio->buffers[i].bytes);
    }
    struct iovec *pieces = sherd__alloc(&aio->options.allocator, total, sizeof *pieces);
    if (!pieces)
        return -ENOMEM;
    for (uint32_t i = 0; i < aio->n_buffers; i++) {
        for (uint64_t from = 0; from < aio->buffers[i].bytes; from += PIECE_BYTES) {
            uint64_t left = aio->buffers[i].bytes - from;
            pieces[at].iov_base = aio->buffers[i].data + from;
            pieces[at++].iov_len = left < PIECE_BYTES ? left : PIECE_BYTES;
        }
    }
    int64_t verdict = sherd__io_ask(aio->options.io, SHERD__IO_REGISTER, 0);
    int code = verdict < 0 ? (int)verdict : io_uring_register_buffers(&self->ring, pieces, total);
    sherd__free(&aio->options.allocator, pieces, total, sizeof *pieces);
    self->bound = code == 0;
    return code;
}

/* Index of the registered piece that holds all of it; −1: none. */
static int piece_of(const sherd__aio *aio, const uring *self, const sherd__aio_block *block)
{
    for (uint32_t i = 0; self->bound && i < aio->n_buffers; i++) {
        uintptr_t from = (uintptr_t)aio->buffers[i].data, at = (uintptr_t)block->data;
        if (at < from || at - from >= aio->buffers[i].bytes || block->bytes > aio->buffers[i].bytes - (at - from))
            continue;
        uint64_t piece = (at - from) / PIECE_BYTES, last = (at - from + block->bytes - 1) / PIECE_BYTES;
        return piece == last ? (int)(self->first_piece[i] + piece) : -1;
    }
    return -1;
}

/* --------------------------------------------------------------------------------------------------------- the loop */

static void prepare(struct io_uring_sqe *sqe, const sherd__aio_block *block, uint64_t bytes, int piece)
{
    int fd = block->stripe->fd;
    unsigned length = (unsigned)bytes;
    if (block->write && piece >= 0)
        io_uring_prep_write_fixed(sqe, fd, block->data, length, block->offset, piece);
    else if (block->write)
        io_uring_prep_write(sqe, fd, block->data, length, block->offset);
    else if (piece >= 0)
        io_uring_prep_read_fixed(sqe, fd, block->data, length, block->offset, piece);
    else
        io_uring_prep_read(sqe, fd, block->data, length, block->offset);
}

/* There is always an entry: each slot has at most one, and the ring holds depth + 1. */
static void push(sherd__aio *aio, uring *self, uint32_t slot)
{
    sherd__aio_block *block = &self->slots[slot];
    struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
    uint64_t bytes = sherd__aio_ask(aio, block, &self->verdicts[slot]);
    if (bytes == 0)
        io_uring_prep_nop(sqe);
    else
        prepare(sqe, block, bytes, piece_of(aio, self, block));
    sqe->user_data = slot;
    if (aio->options.single_submit)
        io_uring_submit(&self->ring);
}

static void fill(sherd__aio *aio, uring *self)
{
    if (!aio->options.overlap_events && self->in_flight > 0)
        return;
    while (self->n_free > 0) {
        uint32_t slot = self->free_slots[self->n_free - 1];
        if (!sherd__aio_claim(aio, &self->slots[slot]))
            return;
        self->n_free--;
        self->in_flight++;
        push(aio, self, slot);
    }
}

static void arm(uring *self)
{
    if (self->armed)
        return;
    struct io_uring_sqe *sqe = io_uring_get_sqe(&self->ring);
    io_uring_prep_poll_add(sqe, self->event, POLLIN);
    sqe->user_data = WAKE_TAG;
    self->armed = 1;
}

static void reap(sherd__aio *aio, uring *self)
{
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&self->ring, &cqe) == 0 && cqe) {
        uint64_t tag = cqe->user_data;
        int64_t result = cqe->res;
        io_uring_cqe_seen(&self->ring, cqe);
        if (tag == WAKE_TAG) {
            eventfd_t count;
            self->armed = 0;
            (void)eventfd_read(self->event, &count); /* does not block; empty is fine */
            continue;
        }
        uint32_t slot = (uint32_t)tag;
        if (sherd__aio_end(aio, &self->slots[slot], sherd__aio_judge(self->verdicts[slot], result))) {
            push(aio, self, slot);
        } else {
            self->free_slots[self->n_free++] = slot;
            self->in_flight--;
        }
    }
}

/* Submits, and sleeps until something ends, at most a second. */
static void enter(sherd__aio *aio, uring *self)
{
    struct __kernel_timespec second = {.tv_sec = 1};
    struct io_uring_cqe *cqe;
    int code = io_uring_submit_and_wait_timeout(&self->ring, &cqe, 1, &second, NULL);
    if (code >= 0 || code == -ETIME || code == -EINTR)
        return;
    if (code != -EAGAIN && code != -EBUSY && code != -ENOMEM)
        sherd__aio_break(aio, "io_uring_enter", -code);
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void uring_run(sherd__aio_worker *worker)
{
    sherd__aio *aio = worker->aio;
    uring *self = worker->state;
    for (;;) {
        if (self->in_flight == 0 && !sherd__aio_idle(aio))
            return;
        fill(aio, self);
        if (self->in_flight > 0) {
            arm(self);
            enter(aio, self);
            reap(aio, self);
        }
    }
}

static void uring_wake(sherd__aio_worker *worker)
{
    uring *self = worker->state;
    pthread_cond_signal(&worker->aio->work);
    (void)eventfd_write(self->event, 1); /* cannot fill up: the thread empties it */
}

const sherd__aio_backend sherd__aio_uring = {"io_uring", uring_open, uring_run, uring_wake, uring_bind, uring_close};
