/* SPDX-License-Identifier: MIT
 *
 * What the tests of asynchronous I/O share: folders that come and go, a queue and a file made from a few knobs, and the
 * check that nothing stays behind.
 */
#ifndef SHERD_TESTS_STORE_AIO_RIG_H
#define SHERD_TESTS_STORE_AIO_RIG_H

#include "store/aio.h"
#include "tests/support/fail_alloc.h"
#include "tests/support/fail_io.h"

#define RIG_FOLDERS 3
#define RIG_LIMIT_S 30.0

typedef struct rig {
    char parent[64];
    char folders[RIG_FOLDERS][80];
    const char *folder_list[RIG_FOLDERS];
    sherd_test_alloc memory;
    sherd_test_io faults;
    sherd__io io;
    int open_before;
    sherd__aio_options options;
    sherd__aio_file_options file_options;
    sherd__aio *aio;
    sherd__aio_file *file;
    sherd_error err;
    _Atomic int warnings;
} rig;

/* 0: folders of rig_init are in memory where there is /dev/shm (quick whatever else the disk does). 1: in /var/tmp. */
extern int rig_on_disk;
/* Makes the folders and the options; nothing else yet. */
void rig_init(rig *self, sherd__aio_engine engine);
/* Creates queue and file; the first status that is not OK. */
sherd_status rig_open(rig *self, uint32_t folders, uint64_t bytes);
void rig_close(rig *self);
/* Folders empty and removed, no block, no descriptor left. */
void rig_fini(rig *self);
/* Runs the tests (of struct CMUnitTest) once with threads, once with io_uring: their initial state is the engine. */
struct CMUnitTest;
int rig_run(const struct CMUnitTest *tests, size_t n);
/* Is io_uring to be had here? */
int rig_has_uring(void);
/* Does the folders' file system take O_DIRECT? Before the first rig_open. */
int rig_has_direct(rig *self);
/* 4096-aligned; free() */
void *rig_buffer(uint64_t bytes);
sherd__aio_op rig_op(rig *self, int write, uint64_t offset, uint64_t bytes, void *buffer);
/* submit and wait */
sherd_status rig_do(rig *self, int write, uint64_t offset, uint64_t bytes, void *buffer);

#endif
