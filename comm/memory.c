/* SPDX-License-Identifier: MIT
 *
 * Memory of windows: pages, alignment to huge pages, presence. A memfd's pages are made present when the window is
 * made: a machine that is out of memory then says so with a sentence, instead of a SIGBUS in the middle of a step.
 */
#include "comm/direct.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE ((uint64_t)2 << 20)

uint64_t sherd__map_bytes(uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (bytes > (uint64_t)INT64_MAX - HUGE) {
        return 0;
    }
    return bytes == 0 ? page : (bytes + page - 1) / page * page;
}

static sherd_status fail_errno(sherd_error *err, const char *what, uint64_t bytes)
{
    int code = errno;
    return sherd__fail(err, code == ENOMEM || code == ENOSPC ? SHERD_ENOMEM : SHERD_ESYSTEM,
                       "%s of %" PRIu64 " bytes failed: %s", what, bytes, strerror(code));
}

/* A range of addresses of `bytes` that starts at a multiple of HUGE. */
static void *reserve_aligned(uint64_t bytes)
{
    char *raw = mmap(NULL, bytes + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) {
        return NULL;
    }
    uint64_t head = (HUGE - (uint64_t)(uintptr_t)raw % HUGE) % HUGE;
    if (head > 0) {
        munmap(raw, head);
    }
    munmap(raw + head + bytes, HUGE - head);
    return raw + head;
}

static int populate(void *base, uint64_t bytes, int own)
{
#if defined(MADV_POPULATE_WRITE) && defined(MADV_POPULATE_READ)
    if (madvise(base, bytes, own ? MADV_POPULATE_WRITE : MADV_POPULATE_READ) == 0) {
        return 0;
    }
    if (errno == EFAULT) {
        errno = ENOMEM;
    }
    return errno == EINVAL ? 0 : -1; /* a kernel that does not know it: pages come when touched */
#else
    (void)base, (void)bytes, (void)own;
    return 0;
#endif
}

sherd_status sherd__map(int fd, uint64_t bytes, int own, void **out, sherd_error *err)
{
    void *at = bytes >= HUGE ? reserve_aligned(bytes) : NULL;
    int flags = (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | (at != NULL ? MAP_FIXED : 0);
    void *base = mmap(at, bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (base == MAP_FAILED) {
        sherd_status status = fail_errno(err, "mapping a window", bytes);
        if (at != NULL) {
            munmap(at, bytes);
        }
        return status;
    }
    if (at != NULL) {
        madvise(base, bytes / HUGE * HUGE, MADV_HUGEPAGE); /* where it is refused, small pages do */
    }
    madvise(base, bytes, MADV_DONTFORK);
    if (populate(base, bytes, own) != 0) {
        sherd_status status = fail_errno(err, "bringing in the pages of a window", bytes);
        munmap(base, bytes);
        return status;
    }
    *out = base;
    return SHERD_OK;
}

void sherd__unmap(void *base, uint64_t bytes)
{
    if (base != NULL) {
        munmap(base, bytes);
    }
}

sherd_status sherd__memfd(const char *name, uint64_t bytes, int *out, sherd_error *err)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return fail_errno(err, "making shared memory", bytes);
    }
    /* Sealed: no peer can shrink it under the others' feet. */
    if (ftruncate(fd, (off_t)bytes) != 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        sherd_status status = fail_errno(err, "sizing shared memory", bytes);
        close(fd);
        return status;
    }
    *out = fd;
    return SHERD_OK;
}
