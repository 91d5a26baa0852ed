/* SPDX-License-Identifier: MIT
 *
 * Between the queue (aio.c), its files (aio_file.c) and what moves blocks (aio_threads.c, aio_uring.c). Workers take
 * blocks with sherd__aio_claim and give each back with sherd__aio_end: all that is decided about order, errors and
 * completion is in aio.c, under one lock that is never held during a system call.
 */
#ifndef SHERD_STORE_AIO_CORE_H
#define SHERD_STORE_AIO_CORE_H

#include <pthread.h>

#include "store/aio.h"

#define SHERD__AIO_MAX_BUFFERS 64u

typedef struct sherd__aio_stripe {
    char *path; /* for sentences: the name may be gone */
    size_t path_bytes;
    int fd;
    int32_t direct;
    int32_t named; /* the file has its name, and it is ours */
    uint64_t bytes;
} sherd__aio_stripe;

struct sherd__aio_file {
    sherd__aio *aio;
    uint64_t bytes;
    uint64_t unit; /* bytes of a stripe's piece: the queue's block size */
    uint32_t n_stripes;
    int32_t reserved; /* 0: the file system cannot reserve space */
    int32_t keep;
    uint64_t in_flight; /* operations; under the queue's lock */
    sherd__aio_stripe stripes[SHERD__AIO_MAX_FOLDERS];
};

/* One read or write of one stripe, on its way. */
typedef struct sherd__aio_block {
    sherd__aio_op *op; /* NULL: an empty slot */
    const sherd__aio_stripe *stripe;
    unsigned char *data; /* what is still to do */
    uint64_t offset, bytes;
    uint64_t moved;
    uint32_t stalls; /* interruptions and transfers that moved nothing */
    uint32_t continued;
    int32_t write;
} sherd__aio_block;

typedef struct sherd__aio_worker sherd__aio_worker;

/* What moves blocks. `open` makes the worker's own things, `run` works until sherd__aio_idle says stop, `close` undoes
 * open. */
typedef struct sherd__aio_backend {
    const char *name;
    sherd_status (*open)(sherd__aio_worker *worker, sherd_error *err);
    void (*run)(sherd__aio_worker *worker);
    void (*wake)(sherd__aio_worker *worker); /* under the lock; run waits in the kernel, there is a new operation */
    int (*bind)(sherd__aio_worker *worker);  /* registers aio->buffers; 0 or −errno */
    void (*close)(sherd__aio_worker *worker);
} sherd__aio_backend;

extern const sherd__aio_backend sherd__aio_threads;
extern const sherd__aio_backend sherd__aio_uring;

struct sherd__aio_worker {
    sherd__aio *aio;
    pthread_t thread;
    int32_t started, ended; /* ended: under the lock */
    void *state;            /* the backend's */
};

struct sherd__aio {
    sherd__aio_options options;
    const sherd__aio_backend *backend;
    char why_threads[96]; /* why it is not io_uring; "" */
    char why_unbound[96]; /* why the buffers are not registered; "" */
    sherd__aio_worker *workers;
    uint32_t n_workers;
    uint32_t n_buffers;
    int32_t bound;
    struct {
        unsigned char *data;
        uint64_t bytes;
    } buffers[SHERD__AIO_MAX_BUFFERS];

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t work, done;
    sherd__aio_op *head, *tail; /* operations with blocks to hand out */
    uint64_t in_flight;         /* operations submitted and not done */
    uint64_t submitted;
    int32_t stop;
    sherd_error error;
    sherd__aio_stats stats;
};

/* Fills `block` with the next one to move; 0 if there is none. */
int sherd__aio_claim(sherd__aio *aio, sherd__aio_block *block);
/* Sleeps until there may be a block to claim; 0: the queue ends. */
int sherd__aio_idle(sherd__aio *aio);
/* Asks the test's hook about a block. Returns how many bytes to ask the system for; *verdict is 0, the −errno to
 * pretend (0 bytes), or the most that may be said to have been moved: O_DIRECT is never asked for part of a page, but
 * may say so. */
uint64_t sherd__aio_ask(sherd__aio *aio, const sherd__aio_block *block, int64_t *verdict);
/* What the verdict makes of the system's result. */
int64_t sherd__aio_judge(int64_t verdict, int64_t result);
/* Takes what the system said of a block (bytes, or −errno). 1: the block has changed and is to be moved again. 0: it is
 * over; the operation may now be done, and the slot is empty. */
int sherd__aio_end(sherd__aio *aio, sherd__aio_block *block, int64_t result);
/* The queue is broken for a reason that has no block. */
void sherd__aio_break(sherd__aio *aio, const char *what, int code);
/* Under the lock. Takes every operation that still has blocks to hand out from the queue: it ends with `status`.
 * Returns those that have no block at the kernel, as a list for sherd__aio_complete. */
sherd__aio_op *sherd__aio_drop(sherd__aio *aio, sherd_status status);
/* Without the lock: callbacks, then done. */
void sherd__aio_complete(sherd__aio *aio, sherd__aio_op *over);
void sherd__aio_deadline(double seconds, struct timespec *out);

#endif
