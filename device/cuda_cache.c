/* SPDX-License-Identifier: MIT
 *
 * Blocks that the client gave back, kept for its next request of the same size: activations come and go in every
 * micro-step, and neither cudaMalloc nor cudaFree, which waits for the GPU, may stand in a step.
 *
 * A block may be handed out again while the GPU still uses it. That is right as long as the client uses its memory on
 * the compute stream, whose order then keeps the two apart (sherd_cuda.h says so).
 *
 * What is kept is booked as `rounding` of the device tier. It goes when memory is short: before an allocation fails,
 * for want of memory or for the ledger's limit.
 */
#include "device/cuda.h"

int sherd__cuda_recycle_get(sherd_device *base, uint64_t bytes, void **out, uint64_t *rounding)
{
    sherd__cuda_device *device = (sherd__cuda_device *)base;
    uint64_t whole = sherd__cuda_rounded(SHERD_TIER_DEVICE, bytes);
    uint32_t i = 0;
    pthread_mutex_lock(&base->lock);
    while (i < device->n_kept && device->kept[i].whole != whole)
        i++;
    int found = i < device->n_kept;
    if (found) {
        *out = device->kept[i].address;
        device->kept[i] = device->kept[--device->n_kept];
    }
    pthread_mutex_unlock(&base->lock);
    if (!found)
        return 0;
    sherd__ledger_sub(&base->ledger, SHERD_TIER_DEVICE, SHERD_CAT_WORKSPACE, 0, whole);
    *rounding = whole - bytes;
    return 1;
}

int sherd__cuda_recycle_put(sherd_device *base, void *block, uint64_t bytes)
{
    sherd__cuda_device *device = (sherd__cuda_device *)base;
    uint64_t whole = sherd__cuda_rounded(SHERD_TIER_DEVICE, bytes);
    if (sherd__ledger_add(&base->ledger, SHERD_TIER_DEVICE, SHERD_CAT_WORKSPACE, 0, whole, NULL) != SHERD_OK)
        return 0;
    pthread_mutex_lock(&base->lock);
    int room = device->n_kept < SHERD__CUDA_KEPT;
    if (room)
        device->kept[device->n_kept++] = (sherd__cuda_kept){block, whole};
    pthread_mutex_unlock(&base->lock);
    if (!room)
        sherd__ledger_sub(&base->ledger, SHERD_TIER_DEVICE, SHERD_CAT_WORKSPACE, 0, whole);
    return room;
}

static int take_any(sherd_device *base, sherd__cuda_kept *out)
{
    sherd__cuda_device *device = (sherd__cuda_device *)base;
    pthread_mutex_lock(&base->lock);
    int found = device->n_kept > 0;
    if (found)
        *out = device->kept[--device->n_kept];
    pthread_mutex_unlock(&base->lock);
    return found;
}

int sherd__cuda_recycle_flush(sherd_device *base)
{
    sherd__cuda_kept block;
    int freed = 0;
    while (take_any(base, &block)) {
        sherd__cuda_memory_put(base, SHERD_TIER_DEVICE, block.address, block.whole);
        sherd__ledger_sub(&base->ledger, SHERD_TIER_DEVICE, SHERD_CAT_WORKSPACE, 0, block.whole);
        freed++;
    }
    return freed > 0;
}
