/* SPDX-License-Identifier: MIT
 *
 * The one place that knows which devices this build has, and the public calls that are the same for all of them.
 */
#include <stdio.h>
#include <string.h>

#include "device/check.h"
#include "device/info.h"

#if defined(SHERD_HAVE_CUDA)
sherd_status sherd__device_create_cuda(const sherd_device_options *options, sherd_device **out, sherd_error *err);
sherd_status sherd__cuda_watch(sherd_device *device, const void *address, uint64_t bytes, sherd_error *err);
void sherd__cuda_unwatch(sherd_device *device, const void *address, uint64_t bytes);
void sherd__cuda_describe(char *text, size_t capacity);
#endif

void sherd__device_describe_cuda(char *text, size_t capacity)
{
#if defined(SHERD_HAVE_CUDA)
    sherd__cuda_describe(text, capacity);
#else
    snprintf(text, capacity, "no: built without CUDA");
#endif
}

void sherd_device_options_init(sherd_device_options *options, size_t size)
{
    sherd_device_options defaults = {.size = size, .kind = SHERD_DEVICE_HOST};
    size_t known = size < sizeof defaults ? size : sizeof defaults;
    memset(options, 0, size);
    memcpy(options, &defaults, known);
}

sherd_status sherd_device_create(const sherd_device_options *options, sherd_device **out, sherd_error *err)
{
    sherd_device_options known;
    sherd_device_options_init(&known, sizeof known);
    if (!out || (options && options->size < offsetof(sherd_device_options, threads)))
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_device_create: options of %zu bytes; fill them with sherd_device_options_init",
                           options ? options->size : 0);
    if (options)
        memcpy(&known, options, options->size < sizeof known ? options->size : sizeof known);
    known.size = sizeof known;
    if (known.threads < 0)
        return sherd__fail(err, SHERD_EINVAL, "sherd_device_create: %d threads; give 1 or more, or 0 for 1",
                           known.threads);
    switch (known.kind) {
    case SHERD_DEVICE_HOST:
        return sherd__device_create_host(&known, out, err);
    case SHERD_DEVICE_CHECK:
        return sherd__device_create_check(&known, out, err);
    case SHERD_DEVICE_CUDA:
#if defined(SHERD_HAVE_CUDA)
        return sherd__device_create_cuda(&known, out, err);
#else
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "device 'cuda': unsupported, this library was built without CUDA; use the host device");
#endif
    }
    return sherd__fail(err, SHERD_EINVAL, "sherd_device_create: there is no device of kind %d", (int)known.kind);
}

void sherd_device_destroy(sherd_device *device)
{
    if (device)
        device->ops->destroy(device);
}

sherd_status sherd_device_alloc(sherd_device *device, uint64_t bytes, sherd_category category, void **out,
                                sherd_error *err)
{
    return sherd__device_alloc_client(device, category, bytes, out, err);
}

void sherd_device_memory(sherd_device *device, sherd_memory *live, sherd_memory *peak)
{
    sherd__ledger_read(&device->ledger, live, peak, NULL);
}

uint64_t sherd_device_peak_total(sherd_device *device, sherd_tier tier)
{
    uint64_t peak[SHERD_TIERS];
    if ((unsigned)tier >= SHERD_TIERS)
        return 0;
    sherd__ledger_read(&device->ledger, NULL, NULL, peak);
    return peak[tier];
}

const char *sherd_device_describe(const sherd_device *device) { return device->description; }

sherd_device_kind sherd_device_kind_of(const sherd_device *device) { return device->kind; }

void sherd__device_outside_begin(sherd_device *device)
{
    if (device && device->kind == SHERD_DEVICE_CHECK)
        sherd__check_outside_begin(device);
}

void sherd__device_outside_end(sherd_device *device)
{
    if (device && device->kind == SHERD_DEVICE_CHECK)
        sherd__check_outside_end(device);
}

sherd_status sherd__device_watch(sherd_device *device, const void *address, uint64_t bytes, sherd_error *err)
{
#if defined(SHERD_HAVE_CUDA)
    if (device->kind == SHERD_DEVICE_CUDA)
        return sherd__cuda_watch(device, address, bytes, err);
#endif
    return device->kind == SHERD_DEVICE_CHECK ? sherd__check_device_watch(device, address, bytes, err) : SHERD_OK;
}

void sherd__device_unwatch(sherd_device *device, const void *address, uint64_t bytes)
{
#if defined(SHERD_HAVE_CUDA)
    if (device->kind == SHERD_DEVICE_CUDA)
        sherd__cuda_unwatch(device, address, bytes);
#endif
    if (device->kind == SHERD_DEVICE_CHECK)
        sherd__check_device_unwatch(device, address, bytes);
}
