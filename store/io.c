/* SPDX-License-Identifier: MIT */
#include "store/io.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { INTERRUPTIONS_MAX = 1000, PIECE_MAX = 1 << 30 /* Linux moves at most 2 GiB − 4096 in one call */ };

const sherd__io sherd__io_none = {NULL, NULL};
static _Atomic(const sherd__io *) default_io;

void sherd__io_set_default(const sherd__io *io)
{
    atomic_store(&default_io, io);
}

int64_t sherd__io_ask(const sherd__io *io, sherd__io_kind kind, uint64_t bytes)
{
    if (!io)
        io = atomic_load_explicit(&default_io, memory_order_acquire);
    return io && io->hook ? io->hook(io->ctx, kind, bytes) : 0;
}

static int result_of(int code)
{
    return code < 0 ? -errno : code;
}

int sherd__io_open(const sherd__io *io, const char *path, int flags, mode_t mode)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_OPEN, 0);
    return verdict < 0 ? (int)verdict : result_of(open(path, flags | O_CLOEXEC, mode));
}

int sherd__io_close(const sherd__io *io, int fd)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_CLOSE, 0);
    int code = result_of(close(fd));
    return verdict < 0 ? (int)verdict : code;
}

int sherd__io_allocate(const sherd__io *io, int fd, uint64_t bytes)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_ALLOCATE, bytes);
    int code = verdict < 0 ? (int)verdict : 0;
    for (int tries = 0; verdict >= 0 && tries < INTERRUPTIONS_MAX; tries++) {
        /* Not posix_fallocate: where the file system cannot, glibc writes a byte per block, which O_DIRECT refuses. */
        code = result_of(fallocate(fd, 0, 0, (off_t)bytes));
        if (code != -EINTR)
            break;
    }
    return code;
}

int64_t sherd__io_pread(const sherd__io *io, int fd, void *data, uint64_t bytes, uint64_t offset)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_READ, bytes);
    if (verdict < 0)
        return verdict;
    if (verdict > 0 && (uint64_t)verdict < bytes)
        bytes = (uint64_t)verdict;
    ssize_t moved = pread(fd, data, bytes < PIECE_MAX ? bytes : PIECE_MAX, (off_t)offset);
    return moved < 0 ? -errno : moved;
}

int64_t sherd__io_pwrite(const sherd__io *io, int fd, const void *data, uint64_t bytes, uint64_t offset)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_WRITE, bytes);
    if (verdict < 0)
        return verdict;
    if (verdict > 0 && (uint64_t)verdict < bytes)
        bytes = (uint64_t)verdict;
    ssize_t moved = pwrite(fd, data, bytes < PIECE_MAX ? bytes : PIECE_MAX, (off_t)offset);
    return moved < 0 ? -errno : moved;
}

typedef struct range {
    unsigned char *data;
    uint64_t bytes, offset;
    int write;
} range;

static int move_all(const sherd__io *io, int fd, const range *what, uint64_t *done)
{
    uint64_t at = 0;
    int code = 0;
    for (int interruptions = 0; at < what->bytes && code == 0;) {
        int64_t moved = what->write ? sherd__io_pwrite(io, fd, what->data + at, what->bytes - at, what->offset + at)
                                    : sherd__io_pread(io, fd, what->data + at, what->bytes - at, what->offset + at);
        if (moved > 0)
            at += (uint64_t)moved;
        else if (moved == 0)
            code = what->write ? -EIO : -ENODATA;
        else if (moved != -EINTR || ++interruptions > INTERRUPTIONS_MAX)
            code = (int)moved;
    }
    if (done)
        *done = at;
    return code;
}

int sherd__io_pread_all(const sherd__io *io, int fd, void *data, uint64_t bytes, uint64_t offset, uint64_t *done)
{
    return move_all(io, fd, &(range){.data = data, .bytes = bytes, .offset = offset}, done);
}

int sherd__io_pwrite_all(const sherd__io *io, int fd, const void *data, uint64_t bytes, uint64_t offset, uint64_t *done)
{
    union {
        const void *in;
        void *out;
    } constless = {data}; /* only read from: the range is a write */
    return move_all(io, fd, &(range){.data = constless.out, .bytes = bytes, .offset = offset, .write = 1}, done);
}

int sherd__io_sync(const sherd__io *io, int fd)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_SYNC, 0);
    return verdict < 0 ? (int)verdict : result_of(fsync(fd));
}

int sherd__io_rename(const sherd__io *io, const char *from, const char *to)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_RENAME, 0);
    return verdict < 0 ? (int)verdict : result_of(rename(from, to));
}

int sherd__io_unlink(const sherd__io *io, const char *path)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_UNLINK, 0);
    return verdict < 0 ? (int)verdict : result_of(unlink(path));
}

int sherd__io_mkdir(const sherd__io *io, const char *path, mode_t mode)
{
    int64_t verdict = sherd__io_ask(io, SHERD__IO_MKDIR, 0);
    return verdict < 0 ? (int)verdict : result_of(mkdir(path, mode));
}

int sherd__io_size(const sherd__io *io, int fd, uint64_t *bytes)
{
    struct stat about;
    int64_t verdict = sherd__io_ask(io, SHERD__IO_STAT, 0);
    int code = verdict < 0 ? (int)verdict : result_of(fstat(fd, &about));
    if (code == 0 && !S_ISREG(about.st_mode))
        code = -EINVAL;
    if (code == 0)
        *bytes = (uint64_t)about.st_size;
    return code;
}

const char *sherd__io_remedy(int code)
{
    switch (code) {
    case ENOSPC:
    case EDQUOT:
        return "free space there, or name another folder";
    case EIO:
        return "the storage fails: see the kernel's log, and name another folder";
    case EMFILE:
    case ENFILE:
        return "raise the limit of open files (ulimit -n)";
    case EACCES:
    case EPERM:
    case EROFS:
        return "give this user the right to write there, or name another folder";
    case ENOENT:
    case ENOTDIR:
        return "check the path, and create the folder";
    case ENODATA:
        return "the file is shorter than it was: leave it alone while it is in use";
    default:
        return "name another folder";
    }
}
