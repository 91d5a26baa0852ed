/* SPDX-License-Identifier: MIT
 *
 * A hook for store/'s system calls that counts them and makes them fail, fall short, or hang on demand. Any thread.
 */
#ifndef SHERD_TESTS_SUPPORT_FAIL_IO_H
#define SHERD_TESTS_SUPPORT_FAIL_IO_H

#include <stdatomic.h>

#include "store/io.h"

typedef struct sherd_test_io {
    _Atomic int64_t calls[SHERD__IO_KINDS];
    _Atomic int64_t counted; /* calls of the kinds in `kinds` */
    _Atomic int64_t struck;  /* of them, failed or shortened */
    uint32_t kinds;          /* bits 1 << kind; 0: all */
    int64_t fail_at;         /* the call of those kinds that fails, from 1; 0: none */
    int64_t fail_for;        /* so many calls in a row fail; 0: one */
    int code;                /* with this errno; 0: READ and WRITE are cut to `most` bytes instead */
    uint64_t most;           /* every READ and WRITE does at most so many bytes; 0: all (unless `code` is 0: then 1) */
    _Atomic int32_t hold_ms; /* so long at most, if above 0 */
    _Atomic int32_t hold;    /* 1: READ and WRITE wait here until it is 0 */
} sherd_test_io;

/* `state` must outlive its users. */
sherd__io sherd_test_io_hook(sherd_test_io *state);
/* Files of this process that are open now. */
int sherd_test_open_files(void);

#endif
