/* SPDX-License-Identifier: MIT
 *
 * Asynchronous reads and writes of large blocks: the disk tier's way to its scratch files. A queue (sherd__aio) cuts
 * operations into blocks and keeps `queue_depth` of them at the kernel, through io_uring where it is built and allowed,
 * else by threads that call pread and pwrite. It works by itself: nobody has to poll. Files are striped over folders.
 *
 * Everything is allocated at creation; an operation is a record of the caller's. Nothing is durable: these files hold
 * what can be computed again or is in a checkpoint. No order holds between operations that are in flight at the same
 * time.
 */
#ifndef SHERD_STORE_AIO_H
#define SHERD_STORE_AIO_H

#include "base/status.h"
#include "store/io.h"

#define SHERD__AIO_ALIGN 4096u /* offsets, lengths and addresses of all operations are multiples of this */
#define SHERD__AIO_MAX_FOLDERS 16u

typedef enum sherd__aio_engine {
    SHERD__AIO_AUTO = 0, /* io_uring, and threads where that is not built or refused (logged, and said by describe) */
    SHERD__AIO_URING,    /* EUNSUPPORTED where that is not to be had */
    SHERD__AIO_THREADS
} sherd__aio_engine;

typedef struct sherd__aio_options {
    uint32_t queue_depth; /* blocks at the kernel at a time, 1 to 4096; DeepSpeed's aio.queue_depth, 8 */
    uint64_t block_size; /* bytes of the largest single read or write, and the stripe; a multiple of 4096 after rounding
                          * up, at most 1 GiB; aio.block_size, 1048576 */
    int32_t single_submit;  /* 1: a system call for every block; 0: one for all that can start; aio.single_submit, 0 */
    int32_t overlap_events; /* 1: a block that ends makes room for the next; 0: queue_depth blocks start together and
                             * all end before the next start; aio.overlap_events, 1 */
    uint32_t thread_count;  /* threads where io_uring is not used, 1 to 64; 0: as many as queue_depth, at most 16 */
    sherd__aio_engine engine;
    double fail_after_s; /* destroy gives up waiting for the kernel after this; 60 */
    sherd_allocator allocator;
    sherd_log log;
    const sherd__io *io; /* for tests; NULL: none. Must outlive the queue */
} sherd__aio_options;

typedef struct sherd__aio sherd__aio;
typedef struct sherd__aio_file sherd__aio_file;
typedef struct sherd__aio_op sherd__aio_op;

void sherd__aio_options_init(sherd__aio_options *options);
/* Local. Starts one thread (io_uring) or thread_count threads. Errors: EINVAL, ENOMEM, ESYSTEM, EUNSUPPORTED. */
sherd_status sherd__aio_create(const sherd__aio_options *options, sherd__aio **out, sherd_error *err);
/* Files first. Operations that have not started end with ESTATE; those at the kernel are waited for, at most
 * fail_after_s: after that the threads and their memory are left to the process, with a warning. NULL is fine. */
void sherd__aio_destroy(sherd__aio *aio);
/* Tells the kernel about buffers in advance (io_uring's fixed buffers: no page pinning for each operation). Once,
 * before the first submit; else ESTATE. Where it is refused (memlock limit) or pointless (threads), operations work all
 * the same: describe says so. The buffers must stay until the queue is destroyed. At most 64 buffers, addresses and
 * lengths multiples of 4096. */
sherd_status sherd__aio_register(sherd__aio *aio, void *const *buffers, const uint64_t *bytes, uint32_t n,
                                 sherd_error *err);

typedef struct sherd__aio_file_options {
    const char *const *folders; /* existing folders, one stripe each; 1 to SHERD__AIO_MAX_FOLDERS */
    uint32_t n_folders;
    const char *name; /* letters, digits, '-', '_': part of the files' names: "sherd-NAME-rRRRRR-…" */
    int32_t rank;     /* likewise */
    uint64_t bytes;   /* > 0; rounded up to a multiple of 4096; reserved on the disk at once */
    int32_t keep; /* 0: the names are removed at once, so nothing stays however the process ends. 1: the files stay; a
                   * second process that opens the same name meanwhile is refused */
    int32_t buffered; /* 1: do not even try O_DIRECT */
} sherd__aio_file_options;

/* Creates the files, empty (zeros). A full disk shows here: EIO with the folder, the bytes asked for and those free. */
sherd_status sherd__aio_file_create(sherd__aio *aio, const sherd__aio_file_options *options, sherd__aio_file **out,
                                    sherd_error *err);
/* Waits for the file's operations as sherd__aio_destroy does. NULL is fine. */
void sherd__aio_file_destroy(sherd__aio_file *file);
uint64_t sherd__aio_file_bytes(const sherd__aio_file *file); /* what its stripes hold together, to the byte */

typedef void (*sherd__aio_done_fn)(void *ctx, sherd__aio_op *op);

/* One operation. The caller fills the first part, zeroes the rest, and leaves all of it (and the buffer) alone from
 * submit until it is done. Reusable afterwards. */
struct sherd__aio_op {
    sherd__aio_file *file;
    uint64_t offset, bytes; /* in the file; bytes > 0 */
    void *buffer;           /* read into, written from */
    int32_t write;
    uint64_t tag;            /* the caller's */
    sherd__aio_done_fn done; /* may be NULL. Called by a thread of the queue (or of its destroyer), before the operation
                              * counts as done, with no lock held: may submit other operations, must not wait for any */
    void *ctx;
    sherd_status status; /* SHERD_OK once done, or the queue's first error */
    struct {             /* the queue's */
        sherd__aio_op *next;
        uint64_t started; /* bytes whose blocks were handed out */
        uint64_t pending; /* blocks handed out and not ended */
        int32_t state;    /* 0 idle, 1 queued, 2 all handed out, 3 callback, 4 done */
    } own;
};

/* Any thread; never blocks for the disk, never allocates. EINVAL for what is outside the file or not aligned, ESTATE
 * for an operation that is in flight; after a failed operation the queue's first error, whatever is asked. */
sherd_status sherd__aio_submit(sherd__aio *aio, sherd__aio_op *op, sherd_error *err);
/* 1 when the operation is done (or was never submitted). Any thread. */
int sherd__aio_is_done(sherd__aio *aio, const sherd__aio_op *op);
/* Waits until it is done, at most limit_s > 0. Its outcome (the queue's first error), or ETIMEOUT: then it is still in
 * flight and its buffer still in use. Any thread. */
sherd_status sherd__aio_wait(sherd__aio *aio, sherd__aio_op *op, double limit_s, sherd_error *err);
/* The same until nothing is in flight. */
sherd_status sherd__aio_drain(sherd__aio *aio, double limit_s, sherd_error *err);
/* First failed read or write: file, offset, reason, remedy. It sticks: later operations are refused with it. */
sherd_status sherd__aio_error(sherd__aio *aio, sherd_error *err);

typedef struct sherd__aio_stats {
    uint64_t reads, writes;             /* operations done */
    uint64_t read_bytes, written_bytes; /* bytes moved, to the byte, failed operations' parts included */
    uint64_t blocks;                    /* system-level reads and writes ended */
    uint64_t continued;                 /* of them, such that came back short and were continued */
} sherd__aio_stats;
void sherd__aio_stats_read(sherd__aio *aio, sherd__aio_stats *out);
/* "io_uring, 8 blocks of 1048576 bytes, registered buffers" and, with `file`, "; 2 stripes: /a (O_DIRECT), /b
 * (buffered)". Writes at most `capacity` bytes with a final NUL; returns the whole length. */
size_t sherd__aio_describe(sherd__aio *aio, const sherd__aio_file *file, char *buffer, size_t capacity);

#endif
