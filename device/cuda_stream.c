/* SPDX-License-Identifier: MIT
 *
 * Birth and death of streams. The marks that pace a stream, its callbacks and its pinned memory are made with it: no
 * enqueue allocates.
 */
#include "device/cuda.h"

#include <string.h>
#include <unistd.h>

#define NAP_US 200
#define ORPHAN_LIMIT_NS (INT64_C(10) * 1000000000) /* for memory whose device is gone */

static sherd__cuda_stream *stream_new(sherd_device *device, const char *name)
{
    sherd__cuda_stream *stream = sherd__device_metadata_alloc(device, 1, sizeof *stream);
    if (!stream)
        return NULL;
    stream->base.device = device;
    stream->base.name = name;
    return stream;
}

static void destroy_marks(sherd__cuda_stream *stream)
{
    for (int i = 0; i < SHERD__CUDA_MARKS; i++)
        if (stream->marks[i])
            (void)cudaEventDestroy(stream->marks[i]);
    if (stream->probe)
        (void)cudaEventDestroy(stream->probe);
}

static sherd_status make_marks(sherd__cuda_stream *stream, sherd_error *err)
{
    for (int i = 0; i <= SHERD__CUDA_MARKS; i++) {
        cudaEvent_t *mark = i < SHERD__CUDA_MARKS ? &stream->marks[i] : &stream->probe;
        int code = (int)cudaEventCreateWithFlags(mark, cudaEventDisableTiming);
        if (code != (int)cudaSuccess) {
            *mark = NULL;
            destroy_marks(stream);
            return sherd__cuda_refused(err, code, "cudaEventCreateWithFlags");
        }
    }
    return SHERD_OK;
}

/* All streams of this process, for sherd__cuda_gpu_runs. */
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static sherd__cuda_stream *all;
static _Atomic uint64_t hung_gpus; /* a bit each; those past 63 share the last */

/* Everything but the cudaStream and the ring. */
static sherd_status make_parts(sherd__cuda_stream *stream, sherd_error *err)
{
    sherd_device *device = stream->base.device;
    void *pinned = NULL;
    sherd_status status;
    stream->callbacks = sherd__device_metadata_alloc(device, SHERD__CUDA_CALLBACKS, sizeof *stream->callbacks);
    if (!stream->callbacks)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the callbacks of stream '%s'", stream->base.name);
    status = sherd__device_alloc(device, SHERD_TIER_HOST, SHERD_CAT_METADATA, sizeof *stream->pinned, &pinned, err);
    if (status != SHERD_OK)
        goto free_callbacks;
    stream->pinned = pinned;
    status = make_marks(stream, err);
    if (status != SHERD_OK)
        goto free_pinned;
    pthread_mutex_init(&stream->lock, NULL);
    return SHERD_OK;

free_pinned:
    sherd_device_free(device, stream->pinned);
free_callbacks:
    sherd__device_metadata_free(device, stream->callbacks, SHERD__CUDA_CALLBACKS, sizeof *stream->callbacks);
    return status;
}

static void free_parts(sherd__cuda_stream *stream)
{
    sherd_device *device = stream->base.device;
    pthread_mutex_destroy(&stream->lock);
    destroy_marks(stream);
    sherd_device_free(device, stream->pinned);
    sherd__device_metadata_free(device, stream->callbacks, SHERD__CUDA_CALLBACKS, sizeof *stream->callbacks);
}

static void enlist(sherd__cuda_stream *stream)
{
    sherd__cuda_device *device = (sherd__cuda_device *)stream->base.device;
    pthread_mutex_lock(&device->stream_lock);
    stream->next = device->streams;
    device->streams = stream;
    pthread_mutex_unlock(&device->stream_lock);
    pthread_mutex_lock(&all_lock);
    stream->next_of_all = all;
    all = stream;
    pthread_mutex_unlock(&all_lock);
}

static void delist(sherd__cuda_stream *stream)
{
    sherd__cuda_device *device = (sherd__cuda_device *)stream->base.device;
    pthread_mutex_lock(&device->stream_lock);
    for (sherd__cuda_stream **link = &device->streams; *link; link = &(*link)->next) {
        if (*link == stream) {
            *link = stream->next;
            break;
        }
    }
    pthread_mutex_unlock(&device->stream_lock);
    pthread_mutex_lock(&all_lock);
    for (sherd__cuda_stream **link = &all; *link; link = &(*link)->next_of_all) {
        if (*link == stream) {
            *link = stream->next_of_all;
            break;
        }
    }
    pthread_mutex_unlock(&all_lock);
}

static int is_other(const sherd__cuda_stream *stream, int ordinal, const sherd_device *except)
{
    const sherd_device *device = stream->base.device;
    return device != except && ((const sherd__cuda_device *)device)->ordinal == ordinal;
}

/* Where the others are now. */
static void probe_others(int ordinal, const sherd_device *except)
{
    pthread_mutex_lock(&all_lock);
    for (sherd__cuda_stream *stream = all; stream; stream = stream->next_of_all)
        if (is_other(stream, ordinal, except) && cudaStreamQuery(stream->handle) == cudaErrorNotReady)
            stream->probing = cudaEventRecord(stream->probe, stream->handle) == cudaSuccess;
    pthread_mutex_unlock(&all_lock);
}

static int others_behind(int ordinal, const sherd_device *except)
{
    int behind = 0;
    pthread_mutex_lock(&all_lock);
    for (sherd__cuda_stream *stream = all; stream; stream = stream->next_of_all) {
        if (stream->probing && is_other(stream, ordinal, except)) {
            stream->probing = cudaEventQuery(stream->probe) == cudaErrorNotReady;
            behind |= stream->probing;
        }
    }
    pthread_mutex_unlock(&all_lock);
    return behind;
}

static uint64_t bit_of(int ordinal)
{
    return UINT64_C(1) << (ordinal < 63 ? ordinal : 63);
}

void sherd__cuda_gpu_hangs(int ordinal)
{
    atomic_fetch_or(&hung_gpus, bit_of(ordinal));
}

static int hangs(int ordinal)
{
    return (atomic_load(&hung_gpus) & bit_of(ordinal)) != 0;
}

int sherd__cuda_gpu_runs(int ordinal, const sherd_device *except)
{
    int64_t begin = sherd__now_ns(), limit = except ? atomic_load(&except->wait_limit_ns) : ORPHAN_LIMIT_NS;
    int former = ordinal;
    (void)cudaGetDevice(&former);
    if (former != ordinal)
        (void)cudaSetDevice(ordinal);
    if (!hangs(ordinal))
        probe_others(ordinal, except);
    while (!hangs(ordinal) && others_behind(ordinal, except)) {
        if (sherd__now_ns() - begin > limit)
            sherd__cuda_gpu_hangs(ordinal);
        else
            usleep(NAP_US);
    }
    if (former != ordinal)
        (void)cudaSetDevice(former);
    return !hangs(ordinal);
}

static sherd_status ring_submit(sherd__stream *stream, const sherd__op *op)
{
    return sherd__op_ring_put(&((sherd__cuda_stream *)stream)->ring, op);
}

/* What others wait for goes first: reductions beside backward, gathers beside updates. */
static int create_handle(const char *name, cudaStream_t *out)
{
    int least = 0, greatest = 0;
    if (strcmp(name, "comm") != 0 || cudaDeviceGetStreamPriorityRange(&least, &greatest) != cudaSuccess)
        return (int)cudaStreamCreateWithFlags(out, cudaStreamNonBlocking);
    return (int)cudaStreamCreateWithPriority(out, cudaStreamNonBlocking, greatest);
}

/* The cudaStream (its own, or `adopt`) and the parts. */
static sherd_status open_stream(sherd_device *device, const char *name, void *adopt, int32_t adopted,
                                sherd__cuda_stream **out, sherd_error *err)
{
    sherd__cuda_stream *stream = stream_new(device, name);
    sherd_status status = SHERD_OK;
    int code = (int)cudaSuccess, former;
    if (!stream)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for stream '%s'", name);
    former = sherd__cuda_enter(device);
    if (adopted)
        stream->handle = (cudaStream_t)adopt;
    else
        code = create_handle(name, &stream->handle);
    status = code == (int)cudaSuccess ? make_parts(stream, err)
                                      : sherd__cuda_refused(err, code, "cudaStreamCreateWithFlags");
    if (status != SHERD_OK && code == (int)cudaSuccess && !adopted)
        (void)cudaStreamDestroy(stream->handle);
    sherd__cuda_leave(device, former);
    if (status != SHERD_OK) {
        sherd__device_metadata_free(device, stream, 1, sizeof *stream);
        return status;
    }
    enlist(stream);
    *out = stream;
    return SHERD_OK;
}

/* A stuck GPU may still come to the callbacks: then all of the stream stays where it is. */
static void close_stream(sherd__cuda_stream *stream, int32_t adopted)
{
    sherd_device *device = stream->base.device;
    int former = sherd__cuda_enter(device);
    if (sherd__cuda_settle(device)) {
        delist(stream);
        free_parts(stream);
        if (!adopted)
            (void)cudaStreamDestroy(stream->handle);
        sherd__device_metadata_free(device, stream, 1, sizeof *stream);
    }
    sherd__cuda_leave(device, former);
}

sherd_status sherd__cuda_compute_create(sherd_device *device, void *adopt, int32_t adopted, sherd__stream **out,
                                        sherd_error *err)
{
    sherd__cuda_stream *stream = NULL;
    sherd_status status = open_stream(device, "compute", adopt, adopted, &stream, err);
    if (status != SHERD_OK)
        return status;
    stream->base.submit = sherd__cuda_issue;
    *out = &stream->base;
    return SHERD_OK;
}

sherd_status sherd__cuda_stream_create(sherd_device *device, const char *name, uint32_t capacity, sherd__stream **out,
                                       sherd_error *err)
{
    sherd__cuda_stream *stream = NULL;
    sherd_status status = open_stream(device, name, NULL, 0, &stream, err);
    if (status != SHERD_OK)
        return status;
    stream->base.submit = ring_submit;
    status = sherd__op_ring_start(&stream->ring, &stream->base, capacity, sherd__cuda_issue, err);
    if (status != SHERD_OK) {
        close_stream(stream, 0);
        return status;
    }
    stream->has_ring = 1;
    *out = &stream->base;
    return SHERD_OK;
}

void sherd__cuda_stream_destroy(sherd__stream *base)
{
    sherd__cuda_stream *stream = (sherd__cuda_stream *)base;
    if (!stream)
        return;
    if (stream->has_ring)
        sherd__op_ring_stop(&stream->ring);
    close_stream(stream, base == base->device->compute && ((sherd__cuda_device *)base->device)->adopted);
}
