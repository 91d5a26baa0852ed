/* SPDX-License-Identifier: MIT
 *
 * Birth and death of a CUDA device, and its table. See cuda.h for how it works.
 */
#include "device/cuda.h"

#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "sherd/sherd_cuda.h"

int sherd__cuda_enter(sherd_device *device)
{
    int ordinal = ((sherd__cuda_device *)device)->ordinal, former = ordinal;
    (void)cudaGetDevice(&former);
    if (former != ordinal)
        (void)cudaSetDevice(ordinal);
    return former;
}

void sherd__cuda_leave(sherd_device *device, int former)
{
    if (former != ((sherd__cuda_device *)device)->ordinal)
        (void)cudaSetDevice(former);
}

sherd_status sherd__cuda_refused(sherd_error *err, int code, const char *call)
{
    return sherd__fail(err, code == (int)cudaErrorMemoryAllocation ? SHERD_ENOMEM : SHERD_EDEVICE, "%s failed: %s (%s)",
                       call, cudaGetErrorString((cudaError_t)code), cudaGetErrorName((cudaError_t)code));
}

sherd_status sherd__cuda_check(sherd_device *device, int code, const char *call, const char *stream,
                               const sherd__tag *tag)
{
    sherd_error error;
    if (code == (int)cudaSuccess)
        return SHERD_OK;
    const char *text = cudaGetErrorString((cudaError_t)code), *name = cudaGetErrorName((cudaError_t)code);
    if (tag && tag->name)
        sherd__fail(&error, SHERD_EDEVICE,
                    "%s for '%s' (bucket %d, step %lld) on stream '%s' failed: %s (%s); it, or a kernel before it, "
                    "broke the GPU's context: end this process",
                    call, tag->name, tag->bucket, (long long)tag->step, stream ? stream : "", text, name);
    else
        sherd__fail(&error, SHERD_EDEVICE,
                    "%s on stream '%s' failed: %s (%s); a kernel before it broke the GPU's context: end this process",
                    call, stream ? stream : "", text, name);
    return sherd__device_poison(device, &error);
}

static sherd_status touch(sherd_device *device, sherd__tag tag, sherd__access access)
{
    (void)tag;
    (void)access;
    return sherd__device_error(device, NULL);
}

static void destroy(sherd_device *base)
{
    sherd__cuda_device *device = (sherd__cuda_device *)base;
    sherd_allocator memory = base->allocator;
    int former = sherd__cuda_enter(base);
    sherd__cuda_stream_destroy(base->compute);
    sherd__cuda_events_free(device);
    int settled = sherd__cuda_settle(base);
    (void)sherd__cuda_recycle_flush(base);
    if (settled)
        (void)cudaEventDestroy(device->epoch);
    else
        sherd__log(&base->log, SHERD_LOG_WARNING, "the GPU hangs: what it may still use is not freed");
    sherd__ledger_sub(&base->ledger, SHERD_TIER_DEVICE, SHERD_CAT_RUNTIME, device->runtime_bytes, 0);
    sherd__device_base_fini(base);
    sherd__cuda_leave(base, former);
    if (!settled)
        return; /* callbacks may still come */
    pthread_mutex_destroy(&device->stream_lock);
    sherd__free(&memory, device, 1, sizeof *device);
}

static const sherd__device_ops cuda_ops = {
    .destroy = destroy,
    .memory_get = sherd__cuda_memory_get,
    .memory_put = sherd__cuda_memory_put,
    .memory_free = sherd__cuda_memory_free,
    .stream_create = sherd__cuda_stream_create,
    .stream_destroy = sherd__cuda_stream_destroy,
    .event_create = sherd__cuda_event_create,
    .event_destroy = sherd__cuda_event_destroy,
    .event_record = sherd__cuda_event_record,
    .event_wait = sherd__cuda_event_wait,
    .event_sync = sherd__cuda_event_sync,
    .event_time_ns = sherd__cuda_event_time_ns,
    SHERD__OP_ENTRIES,
    .touch = touch,
    .meet = sherd__cuda_meet,
    .announce = sherd__cuda_announce,
    .share = &sherd__cuda_share,
    .recycle_get = sherd__cuda_recycle_get,
    .recycle_put = sherd__cuda_recycle_put,
    .recycle_flush = sherd__cuda_recycle_flush,
};

/* ---------------------------------------------------------------------------------------------------------- creation */

static sherd_status choose_gpu(int32_t wanted, int *out, sherd_error *err)
{
    int32_t count = 0;
    int ordinal = wanted, code;
    sherd_status status = sherd_cuda_count(&count, err);

    if (status != SHERD_OK)
        return status;
    if (wanted < 0) {
        code = (int)cudaGetDevice(&ordinal);
        if (code != (int)cudaSuccess)
            return sherd__cuda_refused(err, code, "cudaGetDevice");
    }
    if (ordinal >= count)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "device 'cuda': there is no GPU %d, the driver lists %d (from 0)",
                           ordinal, (int)count);
    *out = ordinal;
    return SHERD_OK;
}

/* Ties the GPU's clock to the host's, on a stream of its own: the client's may be busy. */
static sherd_status make_epoch(sherd__cuda_device *device, sherd_error *err)
{
    cudaStream_t stream;
    const char *call = "cudaEventCreateWithFlags";
    int code = (int)cudaEventCreateWithFlags(&device->epoch, cudaEventDefault);
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, call);
    call = "cudaStreamCreateWithFlags";
    code = (int)cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (code == (int)cudaSuccess) {
        call = "cudaEventRecord";
        code = (int)cudaEventRecord(device->epoch, stream);
        sherd_status status = SHERD_OK;
        if (code == (int)cudaSuccess)
            status = sherd__cuda_await_reached(&device->base, device->epoch, "epoch", "creation");
        device->epoch_ns = sherd__now_ns();
        (void)cudaStreamDestroy(stream);
        if (status != SHERD_OK) {
            (void)cudaEventDestroy(device->epoch);
            return sherd__device_error(&device->base, err);
        }
    }
    if (code == (int)cudaSuccess)
        return SHERD_OK;
    (void)cudaEventDestroy(device->epoch);
    return sherd__cuda_refused(err, code, call);
}

static sherd_status describe(sherd__cuda_device *device, sherd_error *err)
{
    struct cudaDeviceProp properties;
    int code = (int)cudaGetDeviceProperties(&properties, device->ordinal);
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, "cudaGetDeviceProperties");
    device->width = (uint32_t)properties.multiProcessorCount;
    snprintf(device->base.description, sizeof device->base.description, "cuda %d, %.64s, sm_%d%d, %d multiprocessors",
             device->ordinal, properties.name, properties.major, properties.minor, properties.multiProcessorCount);
    return SHERD_OK;
}

static sherd_status free_memory(uint64_t *out, sherd_error *err)
{
    size_t free_bytes = 0, total_bytes = 0;
    int code = (int)cudaMemGetInfo(&free_bytes, &total_bytes);
    *out = free_bytes;
    return code == (int)cudaSuccess ? SHERD_OK : sherd__cuda_refused(err, code, "cudaMemGetInfo");
}

/* What the kernels' code and the first streams took. (The context itself exists before anything can be measured.) */
static sherd_status book_runtime(sherd__cuda_device *device, uint64_t before, sherd_error *err)
{
    uint64_t after = 0;
    sherd_status status = free_memory(&after, err);
    uint64_t taken = before > after ? before - after : 0;
    if (status == SHERD_OK)
        status = sherd__ledger_add(&device->base.ledger, SHERD_TIER_DEVICE, SHERD_CAT_RUNTIME, taken, 0, err);
    if (status == SHERD_OK)
        device->runtime_bytes = taken;
    return status;
}

static sherd_status open_gpu(sherd__cuda_device *device, const sherd_cuda_options *options, sherd_error *err)
{
    uint64_t before = 0;
    sherd_status status = describe(device, err);
    if (status == SHERD_OK)
        status = free_memory(&before, err); /* makes the context */
    if (status != SHERD_OK)
        return status;
    int code = sherd__cuda_load_kernels();
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, "loading the kernels");
    status = make_epoch(device, err);
    if (status != SHERD_OK)
        return status;
    status = sherd__cuda_compute_create(&device->base, options->stream, options->adopt_stream != 0,
                                        &device->base.compute, err);
    if (status != SHERD_OK)
        goto destroy_epoch;
    status = book_runtime(device, before, err);
    if (status != SHERD_OK)
        goto destroy_compute;
    return SHERD_OK;

destroy_compute:
    sherd__cuda_stream_destroy(device->base.compute);
destroy_epoch:
    (void)cudaEventDestroy(device->epoch);
    return status;
}

static sherd_status create(const sherd_cuda_options *options, sherd_device **out, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(&options->device.allocator);
    int ordinal = 0, former;
    sherd_status status = choose_gpu(options->ordinal, &ordinal, err);
    if (status != SHERD_OK)
        return status;
    sherd__cuda_device *device = sherd__alloc(&memory, 1, sizeof *device);
    if (!device)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a CUDA device");
    status = sherd__device_base_init(&device->base, &cuda_ops, &options->device, err);
    if (status != SHERD_OK)
        goto free_device;
    device->base.kind = SHERD_DEVICE_CUDA;
    device->ordinal = ordinal;
    device->adopted = options->adopt_stream != 0;
    pthread_mutex_init(&device->stream_lock, NULL);
    former = sherd__cuda_enter(&device->base);
    status = open_gpu(device, options, err);
    sherd__cuda_leave(&device->base, former);
    if (status != SHERD_OK)
        goto fini_base;
    *out = &device->base;
    return SHERD_OK;

fini_base:
    pthread_mutex_destroy(&device->stream_lock);
    sherd__device_base_fini(&device->base);
free_device:
    sherd__free(&memory, device, 1, sizeof *device);
    return status;
}

void sherd_cuda_options_init(sherd_cuda_options *options, size_t size)
{
    sherd_cuda_options defaults = {.size = size, .ordinal = -1};
    sherd_device_options_init(&defaults.device, sizeof defaults.device);
    defaults.device.kind = SHERD_DEVICE_CUDA;
    memset(options, 0, size);
    memcpy(options, &defaults, size < sizeof defaults ? size : sizeof defaults);
}

sherd_status sherd_device_create_cuda(const sherd_cuda_options *options, sherd_device **out, sherd_error *err)
{
    sherd_cuda_options known;
    sherd_cuda_options_init(&known, sizeof known);
    if (!out || (options && options->size < offsetof(sherd_cuda_options, ordinal)))
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_device_create_cuda: options of %zu bytes; fill them with sherd_cuda_options_init",
                           options ? options->size : 0);
    if (options)
        memcpy(&known, options, options->size < sizeof known ? options->size : sizeof known);
    return create(&known, out, err);
}

sherd_status sherd__device_create_cuda(const sherd_device_options *options, sherd_device **out, sherd_error *err)
{
    sherd_cuda_options known;
    sherd_cuda_options_init(&known, sizeof known);
    known.device = *options;
    return create(&known, out, err);
}

void *sherd_device_cuda_stream(sherd_device *device)
{
    return device->kind == SHERD_DEVICE_CUDA ? (void *)((sherd__cuda_stream *)device->compute)->handle : NULL;
}

int32_t sherd_device_cuda_ordinal(const sherd_device *device)
{
    return device->kind == SHERD_DEVICE_CUDA ? ((const sherd__cuda_device *)device)->ordinal : -1;
}
