/* SPDX-License-Identifier: MIT
 *
 * What every device has: the ledger, the table of allocated tensors, the first error. Blocks hang in a small hash table
 * by address, because a client may hold thousands of activations and free them in any order.
 */
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "device/trace.h"

#define BLOCK_LISTS 256
#define WAIT_LIMIT_NS (INT64_C(660) * 1000000000)

typedef struct sherd__block {
    struct sherd__block *next;
    void *address;
    uint64_t bytes, rounding;
    sherd_tier tier;
    sherd_category category;
    int32_t recycled; /* the device may keep it when it is freed */
} sherd__block;

void *sherd__device_metadata_alloc(sherd_device *device, size_t count, size_t bytes)
{
    void *block = sherd__alloc(&device->allocator, count, bytes);
    if (block &&
        sherd__ledger_add(&device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, count * bytes, 0, NULL) != SHERD_OK) {
        sherd__free(&device->allocator, block, count, bytes);
        return NULL;
    }
    return block;
}

void sherd__device_metadata_free(sherd_device *device, void *block, size_t count, size_t bytes)
{
    if (!block)
        return;
    sherd__ledger_sub(&device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, count * bytes, 0);
    sherd__free(&device->allocator, block, count, bytes);
}

static sherd__block *list_of(sherd_device *device, const void *address)
{
    uint64_t key = (uint64_t)(uintptr_t)address >> 6;
    return &device->blocks[(key ^ key >> 8 ^ key >> 16) % BLOCK_LISTS];
}

sherd_status sherd__device_base_init(sherd_device *device, const sherd__device_ops *ops,
                                     const sherd_device_options *options, sherd_error *err)
{
    memset(device, 0, sizeof *device);
    device->ops = ops;
    device->kind = options->kind;
    device->allocator = sherd__allocator_or_default(&options->allocator);
    device->log = options->log;
    atomic_init(&device->wait_limit_ns, WAIT_LIMIT_NS);
    atomic_init(&device->failed, 0);
    sherd_status status = sherd__ledger_init(&device->ledger, err);
    if (status != SHERD_OK)
        return status;
    device->ledger.limit[SHERD_TIER_DEVICE] = options->memory_limit;
    if (pthread_mutex_init(&device->lock, NULL) != 0) {
        status = sherd__fail(err, SHERD_ESYSTEM, "the device's mutex could not be created");
        goto fini_ledger;
    }
    device->blocks = sherd__device_metadata_alloc(device, BLOCK_LISTS, sizeof *device->blocks);
    if (!device->blocks) {
        status = sherd__fail(err, SHERD_ENOMEM, "no memory for a device's tables");
        goto destroy_lock;
    }
    status = sherd__trace_create(device, options->trace_capacity, &device->trace, err);
    if (status != SHERD_OK)
        goto free_blocks;
    return SHERD_OK;

free_blocks:
    sherd__device_metadata_free(device, device->blocks, BLOCK_LISTS, sizeof *device->blocks);
destroy_lock:
    pthread_mutex_destroy(&device->lock);
fini_ledger:
    sherd__ledger_fini(&device->ledger);
    return status;
}

/* The client should have freed these; memory that outlives its device could never be freed. */
static void free_leftovers(sherd_device *device)
{
    uint64_t count = 0, bytes = 0;
    for (uint32_t i = 0; i < BLOCK_LISTS; i++) {
        while (device->blocks[i].next) {
            sherd__block *block = device->blocks[i].next;
            device->blocks[i].next = block->next;
            count++;
            bytes += block->bytes;
            device->ops->memory_put(device, block->tier, block->address, block->bytes);
            sherd__device_metadata_free(device, block, 1, sizeof *block);
        }
    }
    if (count > 0)
        sherd__log(&device->log, SHERD_LOG_WARNING, "the device was destroyed while %" PRIu64 " allocations (%" PRIu64
                   " bytes) were held; they are freed now", count, bytes);
}

void sherd__device_base_fini(sherd_device *device)
{
    free_leftovers(device);
    sherd__trace_destroy(device, device->trace);
    sherd__device_metadata_free(device, device->blocks, BLOCK_LISTS, sizeof *device->blocks);
    pthread_mutex_destroy(&device->lock);
    sherd__ledger_fini(&device->ledger);
}

sherd_status sherd__device_poison(sherd_device *device, const sherd_error *error)
{
    pthread_mutex_lock(&device->lock);
    if (!atomic_load(&device->failed)) {
        device->first_error = *error;
        atomic_store(&device->failed, 1);
    }
    sherd_status status = device->first_error.status;
    pthread_mutex_unlock(&device->lock);
    return status;
}

sherd_status sherd__device_error(sherd_device *device, sherd_error *err)
{
    if (!atomic_load_explicit(&device->failed, memory_order_acquire))
        return SHERD_OK;
    pthread_mutex_lock(&device->lock);
    sherd_status status = sherd__pass(err, &device->first_error);
    pthread_mutex_unlock(&device->lock);
    return status;
}

static sherd_status get_memory(sherd_device *device, sherd__block *block, sherd_error *err)
{
    if (block->recycled && device->ops->recycle_get(device, block->bytes, &block->address, &block->rounding))
        return SHERD_OK;
    return device->ops->memory_get(device, block->tier, block->bytes, &block->address, &block->rounding, err);
}

/* What the device keeps counts against the limit: it goes first. */
static sherd_status book(sherd_device *device, const sherd__block *block, sherd_error *err)
{
    sherd_status status =
        sherd__ledger_add(&device->ledger, block->tier, block->category, block->bytes, block->rounding, err);
    if (status == SHERD_ENOMEM && device->ops->recycle_flush && device->ops->recycle_flush(device))
        status = sherd__ledger_add(&device->ledger, block->tier, block->category, block->bytes, block->rounding, err);
    return status;
}

static sherd_status alloc(sherd_device *device, sherd_tier tier, sherd_category category, uint64_t bytes,
                          int32_t recycled, void **out, sherd_error *err)
{
    if ((unsigned)tier >= SHERD_TIERS || (unsigned)category >= SHERD_CATEGORIES || category == SHERD_CAT_ROUNDING)
        return sherd__fail(err, SHERD_EINVAL,
                           "an allocation of %" PRIu64 " bytes names tier %d and category %d, which do not exist "
                           "or cannot be asked for",
                           bytes, (int)tier, (int)category);
    sherd__block *block = sherd__device_metadata_alloc(device, 1, sizeof *block);
    if (!block)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to note an allocation of %" PRIu64 " bytes", bytes);
    block->tier = tier;
    block->category = category;
    block->bytes = bytes;
    block->recycled = recycled;
    sherd_status status = get_memory(device, block, err);
    if (status != SHERD_OK)
        goto free_block;
    status = book(device, block, err);
    if (status != SHERD_OK)
        goto put_memory;
    void *address = block->address; /* from here on another thread could free it */
    pthread_mutex_lock(&device->lock);
    sherd__block *list = list_of(device, address);
    block->next = list->next;
    list->next = block;
    pthread_mutex_unlock(&device->lock);
    *out = address;
    return SHERD_OK;

put_memory:
    device->ops->memory_put(device, tier, block->address, bytes);
free_block:
    sherd__device_metadata_free(device, block, 1, sizeof *block);
    return status;
}

sherd_status sherd__device_alloc(sherd_device *device, sherd_tier tier, sherd_category category, uint64_t bytes,
                                 void **out, sherd_error *err)
{
    return alloc(device, tier, category, bytes, 0, out, err);
}

sherd_status sherd__device_alloc_client(sherd_device *device, sherd_category category, uint64_t bytes, void **out,
                                        sherd_error *err)
{
    int transient = category == SHERD_CAT_ACTIVATIONS || category == SHERD_CAT_WORKSPACE;
    return alloc(device, SHERD_TIER_DEVICE, category, bytes, transient && device->ops->recycle_get, out, err);
}

static sherd__block *unlink_block(sherd_device *device, const void *address)
{
    sherd__block *found = NULL;
    pthread_mutex_lock(&device->lock);
    for (sherd__block *at = list_of(device, address); at->next; at = at->next) {
        if (at->next->address == address) {
            found = at->next;
            at->next = found->next;
            break;
        }
    }
    pthread_mutex_unlock(&device->lock);
    return found;
}

void sherd_device_free(sherd_device *device, void *address)
{
    if (!address)
        return;
    sherd__block *block = unlink_block(device, address);
    if (!block) {
        sherd__log(&device->log, SHERD_LOG_WARNING,
                   "sherd_device_free: %p is not an allocation of this device; ignored", address);
        return;
    }
    if (!block->recycled)
        device->ops->memory_put(device, block->tier, address, block->bytes);
    sherd__ledger_sub(&device->ledger, block->tier, block->category, block->bytes, block->rounding);
    if (block->recycled && !device->ops->recycle_put(device, address, block->bytes))
        device->ops->memory_put(device, block->tier, address, block->bytes);
    sherd__device_metadata_free(device, block, 1, sizeof *block);
}
