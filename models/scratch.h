/* SPDX-License-Identifier: MIT
 *
 * fp32 scratch of the host ops, taken once, counted as WORKSPACE.
 */
#ifndef SHERD_MODELS_SCRATCH_H
#define SHERD_MODELS_SCRATCH_H

#include "sherd/sherd.h"

static inline sherd_status sherd__scratch(sherd_device *device, uint64_t bytes, float **out, sherd_error *err)
{
    void *block = NULL;
    sherd_status status = sherd_device_alloc(device, bytes, SHERD_CAT_WORKSPACE, &block, err);
    *out = block;
    return status;
}

static inline void sherd__release(sherd_device *device, void *block)
{
    if (block) {
        sherd_device_free(device, block);
    }
}

#endif
