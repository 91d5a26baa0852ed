/* SPDX-License-Identifier: MIT
 *
 * Scratch files. Piece p of a file lies in stripe p mod n, so one long operation keeps all disks busy. Space is
 * reserved at creation: a disk that is too small says so before training, not in its middle. O_DIRECT where the file
 * system takes it (it is tried with a read, as some accept the flag and refuse the transfers).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/alloc.h"
#include "base/log.h"
#include "base/text.h"
#include "store/aio_core.h"

enum { NAME_MAX_BYTES = 64, NAMES_MAX = 100 };

static sherd_status check_options(const sherd__aio_file_options *options, sherd_error *err)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    if (options->n_folders < 1 || options->n_folders > SHERD__AIO_MAX_FOLDERS)
        return sherd__fail(err, SHERD_EINVAL, "%" PRIu32 " folders for scratch files: from 1 to %u are possible",
                           options->n_folders, SHERD__AIO_MAX_FOLDERS);
    size_t n = options->name ? strlen(options->name) : 0;
    if (n == 0 || n > NAME_MAX_BYTES || strspn(options->name, letters) != n || options->rank < 0)
        return sherd__fail(err, SHERD_EINVAL,
                           "a scratch file's name must be 1 to %d letters, digits, '-' or '_' and its rank "
                           "0 or more",
                           NAME_MAX_BYTES);
    if (options->bytes == 0 || options->bytes > (uint64_t)INT64_MAX / 2)
        return sherd__fail(err, SHERD_EINVAL, "a scratch file of %" PRIu64 " bytes is not possible", options->bytes);
    return SHERD_OK;
}

static sherd_status fail_file(const char *what, const char *path, int code, sherd_error *err)
{
    return sherd__fail(err, code == ENOMEM ? SHERD_ENOMEM : SHERD_EIO, "%s '%.300s' failed: %s; %s", what, path,
                       strerror(code), sherd__io_remedy(code));
}

/* Bytes of stripe `i` of `n`: whole pieces in turn, the last one maybe short. */
static uint64_t stripe_bytes(uint64_t bytes, uint64_t unit, uint32_t i, uint32_t n)
{
    uint64_t whole = bytes / unit, rest = bytes % unit;
    return (whole / n + (i < whole % n)) * unit + (i == whole % n ? rest : 0);
}

/* ------------------------------------------------------------------------------------------------------------- one
 * stripe */

static void name_stripe(const sherd__aio_file_options *options, uint32_t i, sherd__aio_stripe *stripe)
{
    static _Atomic uint32_t serial;
    char owner[48] = "";
    if (!options->keep) /* jobs may share a folder and a rank, and engines a process */
        snprintf(owner, sizeof owner, "-p%ld-%" PRIu32, (long)getpid(), atomic_fetch_add(&serial, 1));
    snprintf(stripe->path, stripe->path_bytes, "%s/sherd-%s-r%05" PRId32 "%s-%" PRIu32 "of%" PRIu32 ".bin",
             options->folders[i], options->name, options->rank, owner, i + 1, options->n_folders);
}

static sherd_status make_path(const sherd_allocator *memory, const sherd__aio_file_options *options, uint32_t i,
                              sherd__aio_stripe *stripe, sherd_error *err)
{
    stripe->path_bytes = strlen(options->folders[i]) + strlen(options->name) + 96;
    stripe->path = sherd__alloc(memory, 1, stripe->path_bytes);
    return stripe->path ? SHERD_OK : sherd__fail(err, SHERD_ENOMEM, "no memory for the name of a scratch file");
}

/* Kept files of another process are not taken over; the lock goes with the descriptor. */
static sherd_status claim_stripe(const sherd__aio_stripe *stripe, sherd_error *err)
{
    if (flock(stripe->fd, LOCK_EX | LOCK_NB) == 0)
        return SHERD_OK;
    if (errno == EWOULDBLOCK)
        return sherd__fail(err, SHERD_EIO, "'%.300s' is in use by another process: end it, or name another folder",
                           stripe->path);
    return fail_file("locking", stripe->path, errno, err);
}

/* The file system does not reserve: then it must at least have the room now. */
static sherd_status reserve_by_hand(const sherd__aio_stripe *stripe, int *reserved, sherd_error *err)
{
    struct statvfs about;
    *reserved = 0;
    if (fstatvfs(stripe->fd, &about) == 0 && (uint64_t)about.f_bavail * about.f_frsize < stripe->bytes)
        return sherd__fail(err, SHERD_EIO,
                           "'%.300s' needs %" PRIu64 " bytes and %" PRIu64 " are free: free space there, or "
                           "name another folder",
                           stripe->path, stripe->bytes, (uint64_t)about.f_bavail * about.f_frsize);
    return ftruncate(stripe->fd, (off_t)stripe->bytes) == 0 ? SHERD_OK : fail_file("sizing", stripe->path, errno, err);
}

static sherd_status reserve(const sherd__io *io, const sherd__aio_stripe *stripe, int *reserved, sherd_error *err)
{
    int code = stripe->bytes > 0 ? sherd__io_allocate(io, stripe->fd, stripe->bytes) : 0;
    if (code == -EOPNOTSUPP || code == -ENOSYS)
        return reserve_by_hand(stripe, reserved, err);
    if (code == -ENOSPC || code == -EDQUOT) {
        struct statvfs about = {0};
        (void)fstatvfs(stripe->fd, &about); /* zeros will do for a sentence */
        return sherd__fail(err, SHERD_EIO,
                           "reserving %" PRIu64 " bytes for '%.250s' failed: %s (%" PRIu64 " are free); %s",
                           stripe->bytes, stripe->path, strerror(-code), (uint64_t)about.f_bavail * about.f_frsize,
                           sherd__io_remedy(-code));
    }
    return code < 0 ? fail_file("reserving space for", stripe->path, -code, err) : SHERD_OK;
}

/* Does the file system really take O_DIRECT transfers of our alignment? */
static int try_direct(sherd__aio *aio, const sherd__aio_stripe *stripe)
{
    if (stripe->bytes == 0)
        return 1;
    unsigned char *page = aligned_alloc(SHERD__AIO_ALIGN, SHERD__AIO_ALIGN);
    int64_t moved = page ? sherd__io_pread(aio->options.io, stripe->fd, page, SHERD__AIO_ALIGN, 0) : -ENOMEM;
    free(page);
    return moved != -EINVAL && moved != -ENOMEM;
}

static int drop_direct(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && fcntl(fd, F_SETFL, flags & ~O_DIRECT) == 0;
}

/* Under a name that nobody has (kept: under the one it must have). −errno, or the descriptor. */
static int create_stripe(sherd__aio *aio, const sherd__aio_file_options *options, uint32_t i, sherd__aio_stripe *stripe)
{
    const sherd__io *io = aio->options.io;
    int flags = O_RDWR | O_CREAT | O_NOFOLLOW | (options->keep ? 0 : O_EXCL), fd = -EEXIST;
    stripe->direct = !options->buffered;
    for (int tries = 0; fd == -EEXIST && tries < NAMES_MAX; tries++) {
        name_stripe(options, i, stripe);
        fd = sherd__io_open(io, stripe->path, flags | (stripe->direct ? O_DIRECT : 0), 0600);
        if (fd == -EINVAL && stripe->direct) {
            stripe->direct = 0;
            if (!options->keep)
                (void)unlink(stripe->path); /* Linux makes the file before it refuses the flag */
            fd = sherd__io_open(io, stripe->path, flags, 0600);
        }
    }
    return fd;
}

static sherd_status open_stripe(sherd__aio *aio, const sherd__aio_file_options *options, uint32_t i,
                                sherd__aio_stripe *stripe, int *reserved, sherd_error *err)
{
    const sherd__io *io = aio->options.io;
    stripe->fd = create_stripe(aio, options, i, stripe);
    if (stripe->fd < 0)
        return fail_file("creating", stripe->path, -stripe->fd, err);
    sherd_status status = options->keep ? claim_stripe(stripe, err) : SHERD_OK;
    if (status != SHERD_OK)
        return status;
    stripe->named = 1;
    int code = options->keep ? 0 : sherd__io_unlink(io, stripe->path);
    if (code < 0)
        return fail_file("removing the name", stripe->path, -code, err);
    stripe->named = options->keep;
    if (ftruncate(stripe->fd, 0) != 0)
        return fail_file("emptying", stripe->path, errno, err);
    status = reserve(io, stripe, reserved, err);
    if (status != SHERD_OK)
        return status;
    if (stripe->direct && !try_direct(aio, stripe)) {
        stripe->direct = 0;
        if (!drop_direct(stripe->fd))
            return fail_file("leaving O_DIRECT", stripe->path, errno, err);
    }
    return SHERD_OK;
}

/* --------------------------------------------------------------------------------------------------------- the file */

static void free_file(sherd__aio_file *file, int remove_names)
{
    sherd__aio *aio = file->aio;
    sherd_allocator memory = aio->options.allocator;
    for (uint32_t i = 0; i < file->n_stripes; i++) {
        if (file->stripes[i].named && remove_names)
            (void)unlink(file->stripes[i].path); /* the first error is told already */
        if (file->stripes[i].fd >= 0)
            (void)sherd__io_close(aio->options.io, file->stripes[i].fd); /* scratch: nothing is lost */
        sherd__free(&memory, file->stripes[i].path, 1, file->stripes[i].path_bytes);
    }
    sherd__free(&memory, file, 1, sizeof *file);
}

sherd_status sherd__aio_file_create(sherd__aio *aio, const sherd__aio_file_options *options, sherd__aio_file **out,
                                    sherd_error *err)
{
    sherd_status status = check_options(options, err);
    if (status != SHERD_OK)
        return status;
    sherd__aio_file *file = sherd__alloc(&aio->options.allocator, 1, sizeof *file);
    if (!file)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a scratch file");
    file->aio = aio;
    file->bytes = (options->bytes + SHERD__AIO_ALIGN - 1) / SHERD__AIO_ALIGN * SHERD__AIO_ALIGN;
    file->unit = aio->options.block_size;
    file->reserved = 1;
    file->keep = options->keep;
    for (uint32_t i = 0; i < options->n_folders && status == SHERD_OK; i++) {
        sherd__aio_stripe *stripe = &file->stripes[file->n_stripes++];
        stripe->fd = -1;
        stripe->bytes = stripe_bytes(file->bytes, file->unit, i, options->n_folders);
        status = make_path(&aio->options.allocator, options, i, stripe, err);
        if (status == SHERD_OK)
            status = open_stripe(aio, options, i, stripe, &file->reserved, err);
    }
    if (status != SHERD_OK) {
        free_file(file, 1);
        return status;
    }
    *out = file;
    return SHERD_OK;
}

void sherd__aio_file_destroy(sherd__aio_file *file)
{
    if (!file)
        return;
    sherd__aio *aio = file->aio;
    struct timespec deadline;
    int code = 0;
    sherd__aio_deadline(aio->options.fail_after_s, &deadline);
    pthread_mutex_lock(&aio->lock);
    while (file->in_flight > 0 && code == 0)
        code = pthread_cond_timedwait(&aio->done, &aio->lock, &deadline);
    int busy = file->in_flight > 0;
    pthread_mutex_unlock(&aio->lock);
    if (busy)
        sherd__log(&aio->options.log, SHERD_LOG_WARNING,
                   "disk tier: '%.250s' did not answer within %g s: its file is left open", file->stripes[0].path,
                   aio->options.fail_after_s);
    else
        free_file(file, 0);
}

uint64_t sherd__aio_file_bytes(const sherd__aio_file *file)
{
    return file->bytes;
}

/* --------------------------------------------------------------------------------------------------------- in words */

static void add_engine(sherd__text *to, const sherd__aio *aio)
{
    const sherd__aio_options *options = &aio->options;
    if (aio->backend == &sherd__aio_threads)
        sherd__text_put(to, "threads (%" PRIu32 ")", aio->n_workers);
    else
        sherd__text_put(to, "%s, %" PRIu32 " deep", aio->backend->name, options->queue_depth);
    sherd__text_put(to, ", blocks of %" PRIu64 " bytes", options->block_size);
    if (aio->why_threads[0] != '\0')
        sherd__text_put(to, ", no io_uring: %s", aio->why_threads);
    if (aio->bound)
        sherd__text_put(to, ", registered buffers");
    else if (aio->why_unbound[0] != '\0')
        sherd__text_put(to, ", buffers not registered: %s", aio->why_unbound);
}

size_t sherd__aio_describe(sherd__aio *aio, const sherd__aio_file *file, char *buffer, size_t capacity)
{
    sherd__text to = sherd__text_in(buffer, capacity);
    pthread_mutex_lock(&aio->lock);
    add_engine(&to, aio);
    pthread_mutex_unlock(&aio->lock);
    for (uint32_t i = 0; file && i < file->n_stripes; i++) {
        const sherd__aio_stripe *stripe = &file->stripes[i];
        if (i == 0)
            sherd__text_put(&to, "; %" PRIu64 " bytes %s in %" PRIu32 " file%s", file->bytes,
                            file->reserved ? "reserved" : "(the file system cannot reserve them)", file->n_stripes,
                            file->n_stripes == 1 ? "" : "s");
        sherd__text_put(&to, "%s %s (%s)", i == 0 ? ":" : ",", stripe->path, stripe->direct ? "O_DIRECT" : "buffered");
    }
    return to.length;
}
