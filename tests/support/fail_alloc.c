/* SPDX-License-Identifier: MIT */
#include "tests/support/fail_alloc.h"

#include <stdlib.h>

#define HEAD 64 /* keeps the alignment; its first word holds the size */

static void *counted_alloc(void *ctx, size_t bytes)
{
    sherd_test_alloc *state = ctx;
    if (atomic_fetch_add(&state->calls, 1) + 1 == state->fail_at)
        return NULL;
    size_t whole = (bytes + 63) / 64 * 64 + HEAD;
    size_t *block = aligned_alloc(64, whole);
    if (!block)
        return NULL;
    *block = bytes;
    atomic_fetch_add(&state->live_blocks, 1);
    atomic_fetch_add(&state->live_bytes, (int64_t)bytes);
    return (char *)block + HEAD;
}

static void counted_release(void *ctx, void *block, size_t bytes)
{
    sherd_test_alloc *state = ctx;
    size_t *head = (size_t *)(void *)((char *)block - HEAD);
    if (*head != bytes)
        atomic_fetch_add(&state->wrong_sizes, 1);
    atomic_fetch_sub(&state->live_blocks, 1);
    atomic_fetch_sub(&state->live_bytes, (int64_t)*head);
    free(head);
}

sherd_allocator sherd_test_allocator(sherd_test_alloc *state)
{
    return (sherd_allocator){.alloc = counted_alloc, .release = counted_release, .ctx = state};
}
