/* SPDX-License-Identifier: MIT
 *
 * An allocator that counts, checks the sizes that frees are told, and fails on demand.
 */
#ifndef SHERD_TESTS_SUPPORT_FAIL_ALLOC_H
#define SHERD_TESTS_SUPPORT_FAIL_ALLOC_H

#include <stdatomic.h>

#include "sherd/sherd.h"

typedef struct sherd_test_alloc {
    _Atomic int64_t calls;      /* allocations asked for so far */
    _Atomic int64_t live_blocks, live_bytes;
    _Atomic int64_t wrong_sizes; /* frees with another size than was allocated */
    int64_t fail_at;            /* this call fails, from 1; 0: none */
} sherd_test_alloc;

/* `state` must outlive all its blocks. */
sherd_allocator sherd_test_allocator(sherd_test_alloc *state);

#endif
