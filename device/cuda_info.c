/* SPDX-License-Identifier: MIT
 *
 * What there is of CUDA before any device exists: the driver, the runtime, the GPUs and what they hold.
 */
#include "device/cuda.h"

#include <stdio.h>
#include <string.h>

#include "sherd/sherd_cuda.h"

/* Which GPUs the kernels were compiled for; the build says it. */
#ifndef SHERD_CUDA_TARGETS
#define SHERD_CUDA_TARGETS "this test's stub"
#endif

static sherd_status count_gpus(int *count, sherd_error *err)
{
    int driver = 0, code = (int)cudaGetDeviceCount(count);

    if (code == (int)cudaSuccess && *count > 0)
        return SHERD_OK;
    (void)cudaGetLastError();
    (void)cudaDriverGetVersion(&driver);
    if (driver == 0)
        return sherd__fail(err, SHERD_EUNSUPPORTED,
                           "device 'cuda': no usable GPU, for there is no NVIDIA driver (%s); install it, or use the "
                           "host device",
                           cudaGetErrorString((cudaError_t)code));
    return sherd__fail(err, SHERD_EUNSUPPORTED,
                       "device 'cuda': no usable GPU: the driver, for CUDA %d.%d, says: %s; look at nvidia-smi and "
                       "CUDA_VISIBLE_DEVICES, or use the host device",
                       driver / 1000, driver % 1000 / 10,
                       code != (int)cudaSuccess ? cudaGetErrorString((cudaError_t)code) : "there is none");
}

sherd_status sherd_cuda_count(int32_t *gpus, sherd_error *err)
{
    int count = 0;
    sherd_status status = gpus ? count_gpus(&count, err) : sherd__fail(err, SHERD_EINVAL, "sherd_cuda_count: no place");

    if (status == SHERD_OK)
        *gpus = count;
    return status;
}

sherd_status sherd_cuda_use(int32_t ordinal, sherd_error *err)
{
    int code = (int)cudaSetDevice(ordinal);

    return code == (int)cudaSuccess ? SHERD_OK : sherd__cuda_refused(err, code, "cudaSetDevice");
}

static sherd_status read_gpu(int ordinal, sherd_cuda_gpu *out, sherd_error *err)
{
    struct cudaDeviceProp properties;
    size_t free_bytes = 0, total_bytes = 0;
    const char *call = "cudaGetDeviceProperties";
    int code = (int)cudaGetDeviceProperties(&properties, ordinal);

    if (code == (int)cudaSuccess) {
        call = "cudaMemGetInfo";
        code = (int)cudaMemGetInfo(&free_bytes, &total_bytes);
    }
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, call);
    snprintf(out->name, sizeof out->name, "%.120s", properties.name);
    out->major = properties.major;
    out->minor = properties.minor;
    out->multiprocessors = properties.multiProcessorCount;
    out->free_bytes = free_bytes;
    out->total_bytes = total_bytes;
    return SHERD_OK;
}

sherd_status sherd_cuda_gpu_read(int32_t ordinal, sherd_cuda_gpu *out, sherd_error *err)
{
    sherd_cuda_gpu gpu = {.size = sizeof gpu};
    int count = 0, former = 0;
    sherd_status status = count_gpus(&count, err);

    if (status != SHERD_OK)
        return status;
    if (!out || out->size < offsetof(sherd_cuda_gpu, major) || ordinal < 0 || ordinal >= count)
        return sherd__fail(err, SHERD_EINVAL, "sherd_cuda_gpu_read: GPU %d of %d, and a record whose size is set",
                           ordinal, count);
    (void)cudaGetDevice(&former);
    (void)cudaSetDevice(ordinal);
    status = read_gpu(ordinal, &gpu, err);
    (void)cudaSetDevice(former);
    if (status == SHERD_OK) {
        gpu.size = out->size;
        memcpy(out, &gpu, gpu.size < sizeof gpu ? gpu.size : sizeof gpu);
    }
    return status;
}

static size_t describe_driver(char *text, size_t capacity)
{
    int driver = 0;
    char runtime[32] = "of the tests' stub";

#ifdef CUDART_VERSION
    snprintf(runtime, sizeof runtime, "%d.%d", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
#endif
    (void)cudaDriverGetVersion(&driver);
    if (driver == 0)
        return (size_t)snprintf(text, capacity, "yes: kernels for %s; runtime %s; no driver", SHERD_CUDA_TARGETS,
                                runtime);
    return (size_t)snprintf(text, capacity, "yes: kernels for %s; runtime %s; driver for CUDA %d.%d",
                            SHERD_CUDA_TARGETS, runtime, driver / 1000, driver % 1000 / 10);
}

void sherd__cuda_describe(char *text, size_t capacity)
{
    size_t used = describe_driver(text, capacity);
    int count = 0;
    sherd_error err = {0};

    if (count_gpus(&count, &err) != SHERD_OK)
        snprintf(text + used, capacity - used, "\ngpu: %s", err.text);
    for (int i = 0; i < count && used + 256 < capacity; i++) {
        sherd_cuda_gpu gpu = {.size = sizeof gpu};

        if (sherd_cuda_gpu_read(i, &gpu, &err) != SHERD_OK)
            used += (size_t)snprintf(text + used, capacity - used, "\ngpu %d: %.180s", i, err.text);
        else
            used += (size_t)snprintf(text + used, capacity - used,
                                     "\ngpu %d: %.100s, sm_%d%d, %d multiprocessors, %.1f GiB, %.1f GiB free", i,
                                     gpu.name, gpu.major, gpu.minor, gpu.multiprocessors,
                                     (double)gpu.total_bytes / 1073741824.0, (double)gpu.free_bytes / 1073741824.0);
    }
}
