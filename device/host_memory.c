/* SPDX-License-Identifier: MIT
 *
 * Main memory as a device's memory. Large blocks are mappings of their own: they go back to the system when freed, are
 * aligned to pages, and are not inherited by forks. What a page or an alignment adds is reported, so that the ledger
 * stays exact.
 */
#include "device/op.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "host/meminfo.h"

#define MAPPED_FROM_BYTES (UINT64_C(64) << 10)
#define HUGE_FROM_BYTES (UINT64_C(4) << 20)
#define SMALL_ALIGNMENT 64

static uint64_t page_bytes(void)
{
    long page = sysconf(_SC_PAGESIZE);
    return page > 0 ? (uint64_t)page : 4096;
}

/* 0 if it cannot be rounded. */
static uint64_t rounded(uint64_t bytes)
{
    uint64_t unit = bytes >= MAPPED_FROM_BYTES ? page_bytes() : SMALL_ALIGNMENT, sum;
    if (!sherd__add_u64(bytes ? bytes : 1, unit - 1, &sum) || sum > INT64_MAX)
        return 0;
    return sum / unit * unit;
}

static void *map_block(uint64_t bytes)
{
    void *block = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED)
        return NULL;
    (void)madvise(block, (size_t)bytes, MADV_DONTFORK);
    if (bytes >= HUGE_FROM_BYTES)
        (void)madvise(block, (size_t)bytes, MADV_HUGEPAGE); /* fewer faults and TLB misses; fine if refused */
    return block;
}

sherd_status sherd__host_memory_get(sherd_device *device, sherd_tier tier, uint64_t bytes, void **out,
                                    uint64_t *rounding, sherd_error *err)
{
    (void)device;
    if (tier != SHERD_TIER_DEVICE && tier != SHERD_TIER_HOST)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "memory on tier '%s' is not built yet", sherd_tier_name(tier));
    uint64_t whole = rounded(bytes);
    void *block = NULL;
    if (whole > 0)
        block = bytes >= MAPPED_FROM_BYTES ? map_block(whole) : aligned_alloc(SMALL_ALIGNMENT, (size_t)whole);
    if (!block)
        return sherd__fail(err, SHERD_ENOMEM, "the system has no %llu bytes of main memory", (unsigned long long)bytes);
    *rounding = whole - bytes;
    *out = block;
    return SHERD_OK;
}

void sherd__host_memory_put(sherd_device *device, sherd_tier tier, void *block, uint64_t bytes)
{
    (void)device;
    (void)tier;
    if (bytes >= MAPPED_FROM_BYTES)
        (void)munmap(block, (size_t)rounded(bytes));
    else
        free(block);
}

sherd_status sherd__host_memory_free(sherd_device *device, uint64_t *out, sherd_error *err)
{
    uint64_t limit = device->ledger.limit[SHERD_TIER_DEVICE], available = sherd__meminfo_available(-1), held;
    sherd_memory live;

    sherd__ledger_read(&device->ledger, &live, NULL, NULL);
    held = sherd_memory_total(&live, SHERD_TIER_DEVICE);
    if (limit == 0 && available == UINT64_MAX)
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "the kernel does not say how much memory is available; give a budget in bytes");
    *out = limit > 0 ? (limit > held ? limit - held : 0) : available;
    return SHERD_OK;
}
