/* SPDX-License-Identifier: MIT
 *
 * Memory of the stub, here and lent to other processes.
 */
#include "tests/support/cuda_stub/state.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LENT_FROM_BYTES ((size_t)2 << 20) /* memory of files, which other processes can map */

static stub_state *const gpu = &cuda_stub_state;

cudaMemoryType cuda_stub_type_of(const void *address)
{
    for (size_t i = 0; i < gpu->n_blocks; i++)
        if ((const char *)address >= gpu->blocks[i].address &&
            (const char *)address < gpu->blocks[i].address + gpu->blocks[i].bytes)
            return gpu->blocks[i].type;
    return cudaMemoryTypeUnregistered;
}

static int memory_file(size_t bytes)
{
    int fd = memfd_create("cuda-stub", MFD_CLOEXEC);
    if (fd <= 0 || ftruncate(fd, (off_t)bytes))
        abort();
    return fd;
}

static cudaError_t get_block(const char *function, void **out, size_t bytes, cudaMemoryType type)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter(function);
    if (code == cudaSuccess && type == cudaMemoryTypeDevice && gpu->used_bytes + bytes > gpu->total_bytes)
        code = cudaErrorMemoryAllocation;
    if (code == cudaSuccess) {
        int hidden = gpu->hide && type == cudaMemoryTypeDevice;
        int fd = type == cudaMemoryTypeDevice && bytes >= LENT_FROM_BYTES ? memory_file(bytes) : 0;
        void *address = fd       ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                        : hidden ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                                 : aligned_alloc(512, (bytes + 511) / 512 * 512);
        if (!address || address == MAP_FAILED || gpu->n_blocks == STUB_BLOCKS)
            abort();
        memset(address, 0xA5, bytes); /* contents are undefined: nobody may rely on zeros */
        if (hidden && !gpu->working && mprotect(address, bytes, PROT_NONE))
            abort();
        gpu->blocks[gpu->n_blocks++] = (stub_block){
            .address = address, .bytes = bytes, .type = type, .hidden = hidden, .mapped = hidden || fd, .fd = fd};
        gpu->used_bytes += type == cudaMemoryTypeDevice ? bytes : 0;
        gpu->alive++;
        *out = address;
    }
    return cuda_stub_leave(code);
}

static cudaError_t put_block(const char *function, void *address, cudaMemoryType type, int registered, int borrowed)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter(function);
    size_t i = 0;
    /* A broken context runs nothing more; what this stub had begun by then is waited for, or it would touch freed
     * memory. */
    while (gpu->broken != cudaSuccess && gpu->working > 0)
        pthread_cond_wait(&gpu->changed, &gpu->lock);
    while (i < gpu->n_blocks && (gpu->blocks[i].address != address || gpu->blocks[i].type != type ||
                                 gpu->blocks[i].registered != registered || gpu->blocks[i].borrowed != borrowed))
        i++;
    if (i == gpu->n_blocks)
        return cuda_stub_leave(code == cudaSuccess && address ? cudaErrorInvalidValue : code);
    gpu->used_bytes -= type == cudaMemoryTypeDevice && !borrowed ? gpu->blocks[i].bytes : 0;
    int mapped = gpu->blocks[i].mapped;
    if (gpu->blocks[i].fd > 0)
        close(gpu->blocks[i].fd);
    size_t bytes = gpu->blocks[i].bytes;
    gpu->blocks[i] = gpu->blocks[--gpu->n_blocks];
    gpu->alive--;
    if (mapped)
        munmap(address, bytes);
    else if (!registered)
        free(address);
    return cuda_stub_leave(code);
}

cudaError_t cudaMalloc(void **out, size_t bytes)
{
    return get_block("cudaMalloc", out, bytes, cudaMemoryTypeDevice);
}
cudaError_t cudaFree(void *address)
{
    return put_block("cudaFree", address, cudaMemoryTypeDevice, 0, 0);
}
cudaError_t cudaFreeHost(void *address)
{
    return put_block("cudaFreeHost", address, cudaMemoryTypeHost, 0, 0);
}
cudaError_t cudaHostUnregister(void *address)
{
    return put_block("cudaHostUnregister", address, cudaMemoryTypeHost, 1, 0);
}

cudaError_t cudaHostRegister(void *address, size_t bytes, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaHostRegister");
    if (code == cudaSuccess) {
        gpu->blocks[gpu->n_blocks++] =
            (stub_block){.address = address, .bytes = bytes, .type = cudaMemoryTypeHost, .registered = 1};
        gpu->alive++;
    }
    return cuda_stub_leave(code);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags)
{
    (void)flags;
    return get_block("cudaHostAlloc", out, bytes, cudaMemoryTypeHost);
}

/* ---------------------------------------------------------------------------------------------------- other processes
 */

typedef struct lent {
    int pid, fd;
    size_t bytes;
} lent;

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *out, void *address)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaIpcGetMemHandle");
    size_t i = 0;
    while (i < gpu->n_blocks && (gpu->blocks[i].address != address || gpu->blocks[i].fd <= 0))
        i++;
    if (code == cudaSuccess && (i == gpu->n_blocks || gpu->unlent))
        code = cudaErrorInvalidValue;
    if (code == cudaSuccess) {
        lent handle = {(int)getpid(), gpu->blocks[i].fd, gpu->blocks[i].bytes};
        memset(out, 0, sizeof *out);
        memcpy(out, &handle, sizeof handle);
    }
    return cuda_stub_leave(code);
}

cudaError_t cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t from, unsigned flags)
{
    lent handle;
    char path[64];
    (void)flags;
    memcpy(&handle, &from, sizeof handle);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.pid, handle.fd);
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaIpcOpenMemHandle");
    int fd = code == cudaSuccess ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *address = fd >= 0 ? mmap(NULL, handle.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (code == cudaSuccess && address == MAP_FAILED)
        code = cudaErrorMapBufferObjectFailed;
    if (code == cudaSuccess) {
        int hidden = gpu->hide;
        if (hidden && !gpu->working && mprotect(address, handle.bytes, PROT_NONE))
            abort();
        gpu->blocks[gpu->n_blocks++] = (stub_block){.address = address,
                                                    .bytes = handle.bytes,
                                                    .type = cudaMemoryTypeDevice,
                                                    .hidden = hidden,
                                                    .mapped = 1,
                                                    .borrowed = 1};
        gpu->alive++;
        *out = address;
    }
    return cuda_stub_leave(code);
}

cudaError_t cudaIpcCloseMemHandle(void *address)
{
    return put_block("cudaIpcCloseMemHandle", address, cudaMemoryTypeDevice, 0, 1);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaDeviceCanAccessPeer");
    *can = device != peer && !gpu->apart;
    return cuda_stub_leave(code);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaDeviceEnablePeerAccess");
    if (code == cudaSuccess && (gpu->apart || peer < 0 || peer >= gpu->device_count || peer == cuda_stub_current))
        code = cudaErrorPeerAccessUnsupported;
    else if (code == cudaSuccess && gpu->reaches[cuda_stub_current][peer]++)
        code = cudaErrorPeerAccessAlreadyEnabled;
    return cuda_stub_leave(code);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *address)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaPointerGetAttributes");
    out->type = cuda_stub_type_of(address);
    return cuda_stub_leave(code);
}

cudaError_t cudaMemGetInfo(size_t *free_out, size_t *total_out)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaMemGetInfo");
    *total_out = gpu->total_bytes;
    *free_out = gpu->total_bytes - gpu->used_bytes;
    return cuda_stub_leave(code);
}
