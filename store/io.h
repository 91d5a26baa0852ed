/* SPDX-License-Identifier: MIT
 *
 * The system calls of store/, each with one place where a test can make it fail. A hook is asked before every call; it
 * can let it pass, fail it with an errno, or cut a read or write short. Calls return what the system returns, or
 * −errno.
 */
#ifndef SHERD_STORE_IO_H
#define SHERD_STORE_IO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef enum sherd__io_kind {
    SHERD__IO_OPEN,
    SHERD__IO_CLOSE,
    SHERD__IO_ALLOCATE,
    SHERD__IO_READ,
    SHERD__IO_WRITE,
    SHERD__IO_SYNC,
    SHERD__IO_RENAME,
    SHERD__IO_UNLINK,
    SHERD__IO_MKDIR,
    SHERD__IO_STAT,
    SHERD__IO_RING /* creating an io_uring */,
    SHERD__IO_REGISTER /* its buffers */,
    SHERD__IO_THREAD /* starting a thread */,
    SHERD__IO_KINDS
} sherd__io_kind;

/* Returns 0: go on. < 0: do nothing, fail with this −errno. > 0 (READ and WRITE): do at most so many bytes. A failed
 * CLOSE still closes. Called from any thread. */
typedef int64_t (*sherd__io_hook_fn)(void *ctx, sherd__io_kind kind, uint64_t bytes);

typedef struct sherd__io {
    sherd__io_hook_fn hook; /* NULL: none */
    void *ctx;
} sherd__io;

/* What `io` NULL means, here and everywhere in store/: no hook, unless a test of a higher layer has set one for the
 * whole process. It must stay until it is set back to NULL, and be set while nothing is under way. */
void sherd__io_set_default(const sherd__io *io);
/* No hook, whatever the default. */
extern const sherd__io sherd__io_none;
/* `io` may be NULL. */
int64_t sherd__io_ask(const sherd__io *io, sherd__io_kind kind, uint64_t bytes);
int sherd__io_open(const sherd__io *io, const char *path, int flags, mode_t mode); /* O_CLOEXEC is added */
int sherd__io_close(const sherd__io *io, int fd);
/* Reserves [0, bytes) so that later writes cannot run out of space; −EOPNOTSUPP where the file system cannot. */
int sherd__io_allocate(const sherd__io *io, int fd, uint64_t bytes);
int64_t sherd__io_pread(const sherd__io *io, int fd, void *data, uint64_t bytes, uint64_t offset);
int64_t sherd__io_pwrite(const sherd__io *io, int fd, const void *data, uint64_t bytes, uint64_t offset);
/* Whole ranges: short transfers are continued, EINTR is retried. 0, or −errno; a file that ends early is −ENODATA,
 * *done bytes were moved (may be NULL). */
int sherd__io_pread_all(const sherd__io *io, int fd, void *data, uint64_t bytes, uint64_t offset, uint64_t *done);
int sherd__io_pwrite_all(const sherd__io *io, int fd, const void *data, uint64_t bytes, uint64_t offset,
                         uint64_t *done);
int sherd__io_sync(const sherd__io *io, int fd); /* fsync */
int sherd__io_rename(const sherd__io *io, const char *from, const char *to);
int sherd__io_unlink(const sherd__io *io, const char *path);
int sherd__io_mkdir(const sherd__io *io, const char *path, mode_t mode);
int sherd__io_size(const sherd__io *io, int fd, uint64_t *bytes); /* of a regular file; −EINVAL for others */

/* What to do about an errno: "free space there, or name another folder". Static. */
const char *sherd__io_remedy(int code);

#endif
