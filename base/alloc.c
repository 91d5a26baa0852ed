/* SPDX-License-Identifier: MIT */
#include "base/alloc.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { ALIGNMENT = 64 };

static void *default_alloc(void *ctx, size_t bytes)
{
    (void)ctx;
    return aligned_alloc(ALIGNMENT, bytes);
}

static void default_release(void *ctx, void *block, size_t bytes)
{
    (void)ctx;
    (void)bytes;
    free(block);
}

const sherd_allocator sherd__default_allocator = {default_alloc, default_release, NULL};

sherd_allocator sherd__allocator_or_default(const sherd_allocator *allocator)
{
    return allocator && allocator->alloc && allocator->release ? *allocator : sherd__default_allocator;
}

/* Whole multiples of the alignment, as aligned_alloc wants them; 0 where that wraps. */
static size_t block_bytes(size_t count, size_t bytes)
{
    uint64_t total;
    if (!sherd__mul_u64(count, bytes, &total) || total > SIZE_MAX - ALIGNMENT)
        return 0;
    if (total == 0)
        total = 1;
    return ((size_t)total + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

void *sherd__alloc(const sherd_allocator *allocator, size_t count, size_t bytes)
{
    size_t total = block_bytes(count, bytes);
    void *block = total ? allocator->alloc(allocator->ctx, total) : NULL;
    if (block)
        memset(block, 0, total);
    return block;
}

void sherd__free(const sherd_allocator *allocator, void *block, size_t count, size_t bytes)
{
    if (block)
        allocator->release(allocator->ctx, block, block_bytes(count, bytes));
}
