/* SPDX-License-Identifier: MIT */
#include "tests/support/cuda_stub/stub.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define TOTAL_DEFAULT ((uint64_t)64 << 30)
#define FUNCTIONS 96
#define BLOCKS 65536
#define GPUS 8
#define LENT_FROM_BYTES ((size_t)2 << 20) /* memory of files, which other processes can map */

typedef enum item_kind { ITEM_RUN, ITEM_COPY, ITEM_SET, ITEM_CALLBACK, ITEM_REACH, ITEM_WAIT } item_kind;

typedef struct item {
    struct item *next;
    item_kind kind;
    void (*fn)(const void *args);
    cudaHostFn_t callback;
    void *dst;
    const void *src; /* of a copy; the callback's argument */
    size_t bytes;
    cudaEvent_t event;
    uint64_t number;
    int *done; /* somebody waits for it */
    _Alignas(16) char args[]; /* of a kernel */
} item;

struct CUstream_st {
    pthread_t thread;
    item *first, *last;
    uint64_t pending;
    int stop, detached;
};

struct CUevent_st {
    cudaEvent_t next; /* of all there are */
    uint64_t recorded, reached, users; /* users: items that name it */
    int destroyed;
    int64_t time_ns;
};

typedef struct counter {
    const char *name;
    uint64_t calls, fail_at;
    cudaError_t code;
} counter;

typedef struct block {
    char *address;
    size_t bytes;
    cudaMemoryType type;
    int registered; /* the client's memory */
    int hidden;     /* mapped for itself; the CPU's only while the GPU works */
    int shown;      /* hidden no longer */
    int mapped;     /* not malloc's */
    int fd;         /* > 0: what can be lent */
    int borrowed;
} block;

/* One lock for all: this is not about speed. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct CUstream_st *null_stream;
static cudaEvent_t all_events; /* what a hanging GPU keeps is not lost: leak checkers see it here */
static counter counters[FUNCTIONS];
static block blocks[BLOCKS];
static size_t n_blocks;
static int device_count = 1, hung, hide, working;
static uint64_t total_bytes = TOTAL_DEFAULT, used_bytes, alive, items, queued, break_at, hang_at;
static cudaError_t broken, break_code;
static int apart, unlent, delay_us, careless; /* GPUs that do not reach each other; memory that cannot be lent */
static char reaches[GPUS][GPUS];
static uint32_t chance = 1;
static _Thread_local int current;
static _Thread_local cudaError_t last_error;

static int64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static counter *counter_of(const char *name)
{
    for (int i = 0; i < FUNCTIONS; i++) {
        if (!counters[i].name)
            counters[i].name = name;
        if (strcmp(counters[i].name, name) == 0)
            return &counters[i];
    }
    abort();
}

/* With the lock held. What the call returns before it does anything. */
static cudaError_t enter(const char *name)
{
    counter *at = counter_of(name);
    cudaError_t code = broken;
    at->calls++;
    if (at->fail_at && --at->fail_at == 0)
        code = at->code;
    if (code != cudaSuccess)
        last_error = code;
    return code;
}

static cudaError_t leave(cudaError_t code)
{
    pthread_mutex_unlock(&lock);
    if (code != cudaSuccess && code != cudaErrorNotReady)
        last_error = code;
    return code;
}

/* ----------------------------------------------------------------------------------------------------------- streams */

static void release_event(cudaEvent_t event)
{
    if (!event->destroyed || event->users > 0)
        return;
    for (cudaEvent_t *link = &all_events; *link; link = &(*link)->next) {
        if (*link == event) {
            *link = event->next;
            break;
        }
    }
    free(event);
}

/* With the lock held. The GPU begins (1) or ends (-1) an item: hidden memory is there while any is under way. */
static void work(int change)
{
    int before = working != 0;
    working += change;
    int rights = working ? PROT_READ | PROT_WRITE : PROT_NONE;
    for (size_t i = 0; before != (working != 0) && i < n_blocks; i++)
        if (blocks[i].hidden && !blocks[i].shown && mprotect(blocks[i].address, blocks[i].bytes, rights))
            abort();
}

/* With the lock held, which is released around what runs. */
static void run_item(item *it)
{
    items++;
    if (break_at && --break_at == 0)
        broken = break_code;
    if (hang_at && --hang_at == 0) {
        hung = 1;
        while (hung)
            pthread_cond_wait(&changed, &lock);
    }
    if (delay_us) {
        chance = chance * 1664525u + 1013904223u;
        unsigned us = chance >> 30 == 3 ? (chance >> 8) % (unsigned)delay_us : 0;
        pthread_mutex_unlock(&lock);
        if (us)
            usleep(us);
        pthread_mutex_lock(&lock);
    }
    if (it->kind == ITEM_REACH && it->number > it->event->reached && broken == cudaSuccess) {
        it->event->reached = it->number;
        it->event->time_ns = now_ns();
    }
    while (it->kind == ITEM_WAIT && !careless && it->event->reached < it->number && broken == cudaSuccess)
        pthread_cond_wait(&changed, &lock);
    if (it->kind == ITEM_REACH || it->kind == ITEM_WAIT) {
        it->event->users--;
        release_event(it->event);
        return;
    }
    if (broken != cudaSuccess)
        return;
    if (it->kind != ITEM_CALLBACK)
        work(1);
    pthread_mutex_unlock(&lock);
    if (it->kind == ITEM_RUN)
        it->fn(it->args);
    else if (it->kind == ITEM_COPY)
        memmove(it->dst, it->src, it->bytes);
    else if (it->kind == ITEM_SET)
        memset(it->dst, (int)it->number, it->bytes);
    else
        it->callback((void *)(uintptr_t)it->src);
    pthread_mutex_lock(&lock);
    if (it->kind != ITEM_CALLBACK)
        work(-1);
}

static void *stream_main(void *arg)
{
    struct CUstream_st *stream = arg;
    pthread_mutex_lock(&lock);
    while (stream->first || !stream->stop) {
        item *it = stream->first;
        if (!it) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        stream->first = it->next;
        if (!stream->first)
            stream->last = NULL;
        run_item(it);
        if (it->done)
            *it->done = 1;
        free(it);
        stream->pending--;
        queued--;
        pthread_cond_broadcast(&changed);
    }
    alive--;
    pthread_mutex_unlock(&lock);
    free(stream); /* destroyed: nobody else knows it */
    return NULL;
}

static struct CUstream_st *new_stream(void)
{
    struct CUstream_st *stream = calloc(1, sizeof *stream);
    alive++;
    if (!stream || pthread_create(&stream->thread, NULL, stream_main, stream))
        abort();
    pthread_detach(stream->thread);
    return stream;
}

static void push(cudaStream_t stream, const item *what, const void *args, size_t bytes)
{
    if (!stream) {
        if (!null_stream)
            null_stream = new_stream();
        stream = null_stream;
    }
    item *it = malloc(sizeof *it + bytes);
    if (!it)
        abort();
    *it = *what;
    if (bytes)
        memcpy(it->args, args, bytes);
    it->next = NULL;
    if (stream->last)
        stream->last->next = it;
    else
        stream->first = it;
    stream->last = it;
    stream->pending++;
    queued++;
    pthread_cond_broadcast(&changed);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaStreamCreateWithFlags");
    if (code == cudaSuccess)
        *out = new_stream();
    return leave(code);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    cudaError_t code = enter(priority < 0 ? "cudaStreamCreateWithPriority" : "cudaStreamCreateWithFlags");
    if (code == cudaSuccess)
        *out = new_stream();
    return leave(code);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaDeviceGetStreamPriorityRange");
    *least = 0;
    *greatest = -5;
    return leave(code);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaStreamDestroy");
    stream->stop = 1;
    pthread_cond_broadcast(&changed);
    return leave(code);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaStreamQuery");
    stream = stream ? stream : null_stream;
    return leave(code != cudaSuccess ? code : stream && stream->pending ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cuda_stub_launch(cudaStream_t stream, const char *function, void (*fn)(const void *args), const void *args,
                             size_t bytes)
{
    item it = {.kind = ITEM_RUN, .fn = fn};
    pthread_mutex_lock(&lock);
    cudaError_t code = enter(function);
    if (code == cudaSuccess)
        push(stream, &it, args, bytes);
    return leave(code);
}

static cudaMemoryType type_of(const void *address)
{
    for (size_t i = 0; i < n_blocks; i++)
        if ((const char *)address >= blocks[i].address && (const char *)address < blocks[i].address + blocks[i].bytes)
            return blocks[i].type;
    return cudaMemoryTypeUnregistered;
}

/* As CUDA's: copies of pageable memory have left or reached it when the call returns. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    int done = 0;
    item it = {.kind = ITEM_COPY, .dst = dst, .src = src, .bytes = bytes};
    (void)kind;
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaMemcpyAsync");
    if (code == cudaSuccess &&
        (type_of(dst) == cudaMemoryTypeUnregistered || type_of(src) == cudaMemoryTypeUnregistered))
        it.done = &done;
    if (code == cudaSuccess)
        push(stream, &it, NULL, 0);
    while (it.done && !done)
        pthread_cond_wait(&changed, &lock);
    return leave(code);
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    item it = {.kind = ITEM_SET, .dst = dst, .number = (uint64_t)value, .bytes = bytes};
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaMemsetAsync");
    if (code == cudaSuccess)
        push(stream, &it, NULL, 0);
    return leave(code);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    item it = {.kind = ITEM_CALLBACK, .callback = fn, .src = arg};
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaLaunchHostFunc");
    if (code == cudaSuccess)
        push(stream, &it, NULL, 0);
    return leave(code);
}

/* ------------------------------------------------------------------------------------------------------------ events */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaEventCreateWithFlags");
    if (code == cudaSuccess) {
        *out = calloc(1, sizeof **out);
        if (!*out)
            abort();
        (*out)->next = all_events;
        all_events = *out;
        alive++;
    }
    return leave(code);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaEventDestroy");
    event->destroyed = 1;
    alive--;
    release_event(event);
    return leave(code);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    item it = {.kind = ITEM_REACH, .event = event};
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaEventRecord");
    if (code == cudaSuccess) {
        it.number = ++event->recorded;
        event->users++;
        push(stream, &it, NULL, 0);
    }
    return leave(code);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    item it = {.kind = ITEM_WAIT, .event = event};
    (void)flags;
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaStreamWaitEvent");
    if (code == cudaSuccess) {
        it.number = event->recorded;
        event->users++;
        push(stream, &it, NULL, 0);
    }
    return leave(code);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaEventQuery");
    return leave(code != cudaSuccess ? code : event->reached < event->recorded ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaEventElapsedTime");
    if (code == cudaSuccess && (begin->reached < begin->recorded || end->reached < end->recorded))
        code = cudaErrorNotReady;
    if (code == cudaSuccess)
        *ms = (float)((double)(end->time_ns - begin->time_ns) * 1e-6);
    return leave(code);
}

/* ------------------------------------------------------------------------------------------------------------ memory */

static int memory_file(size_t bytes)
{
    int fd = memfd_create("cuda-stub", MFD_CLOEXEC);
    if (fd <= 0 || ftruncate(fd, (off_t)bytes))
        abort();
    return fd;
}

static cudaError_t get_block(const char *function, void **out, size_t bytes, cudaMemoryType type)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter(function);
    if (code == cudaSuccess && type == cudaMemoryTypeDevice && used_bytes + bytes > total_bytes)
        code = cudaErrorMemoryAllocation;
    if (code == cudaSuccess) {
        int hidden = hide && type == cudaMemoryTypeDevice;
        int fd = type == cudaMemoryTypeDevice && bytes >= LENT_FROM_BYTES ? memory_file(bytes) : 0;
        void *address = fd       ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                        : hidden ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                                 : aligned_alloc(512, (bytes + 511) / 512 * 512);
        if (!address || address == MAP_FAILED || n_blocks == BLOCKS)
            abort();
        memset(address, 0xA5, bytes); /* contents are undefined: nobody may rely on zeros */
        if (hidden && !working && mprotect(address, bytes, PROT_NONE))
            abort();
        blocks[n_blocks++] = (block){.address = address, .bytes = bytes, .type = type, .hidden = hidden,
                                     .mapped = hidden || fd, .fd = fd};
        used_bytes += type == cudaMemoryTypeDevice ? bytes : 0;
        alive++;
        *out = address;
    }
    return leave(code);
}

static cudaError_t put_block(const char *function, void *address, cudaMemoryType type, int registered, int borrowed)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter(function);
    size_t i = 0;
    /* A broken context runs nothing more; what this stub had begun by then is waited for, or it would touch freed memory. */
    while (broken != cudaSuccess && working > 0)
        pthread_cond_wait(&changed, &lock);
    while (i < n_blocks && (blocks[i].address != address || blocks[i].type != type ||
                            blocks[i].registered != registered || blocks[i].borrowed != borrowed))
        i++;
    if (i == n_blocks)
        return leave(code == cudaSuccess && address ? cudaErrorInvalidValue : code);
    used_bytes -= type == cudaMemoryTypeDevice && !borrowed ? blocks[i].bytes : 0;
    int mapped = blocks[i].mapped;
    if (blocks[i].fd > 0)
        close(blocks[i].fd);
    size_t bytes = blocks[i].bytes;
    blocks[i] = blocks[--n_blocks];
    alive--;
    if (mapped)
        munmap(address, bytes);
    else if (!registered)
        free(address);
    return leave(code);
}

cudaError_t cudaMalloc(void **out, size_t bytes) { return get_block("cudaMalloc", out, bytes, cudaMemoryTypeDevice); }
cudaError_t cudaFree(void *address) { return put_block("cudaFree", address, cudaMemoryTypeDevice, 0, 0); }
cudaError_t cudaFreeHost(void *address) { return put_block("cudaFreeHost", address, cudaMemoryTypeHost, 0, 0); }
cudaError_t cudaHostUnregister(void *address)
{
    return put_block("cudaHostUnregister", address, cudaMemoryTypeHost, 1, 0);
}

cudaError_t cudaHostRegister(void *address, size_t bytes, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaHostRegister");
    if (code == cudaSuccess) {
        blocks[n_blocks++] = (block){.address = address, .bytes = bytes, .type = cudaMemoryTypeHost, .registered = 1};
        alive++;
    }
    return leave(code);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned flags)
{
    (void)flags;
    return get_block("cudaHostAlloc", out, bytes, cudaMemoryTypeHost);
}

/* ---------------------------------------------------------------------------------------------------- other processes */

typedef struct lent {
    int pid, fd;
    size_t bytes;
} lent;

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t *out, void *address)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaIpcGetMemHandle");
    size_t i = 0;
    while (i < n_blocks && (blocks[i].address != address || blocks[i].fd <= 0))
        i++;
    if (code == cudaSuccess && (i == n_blocks || unlent))
        code = cudaErrorInvalidValue;
    if (code == cudaSuccess) {
        lent handle = {(int)getpid(), blocks[i].fd, blocks[i].bytes};
        memset(out, 0, sizeof *out);
        memcpy(out, &handle, sizeof handle);
    }
    return leave(code);
}

cudaError_t cudaIpcOpenMemHandle(void **out, cudaIpcMemHandle_t from, unsigned flags)
{
    lent handle;
    char path[64];
    (void)flags;
    memcpy(&handle, &from, sizeof handle);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.pid, handle.fd);
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaIpcOpenMemHandle");
    int fd = code == cudaSuccess ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *address = fd >= 0 ? mmap(NULL, handle.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (code == cudaSuccess && address == MAP_FAILED)
        code = cudaErrorMapBufferObjectFailed;
    if (code == cudaSuccess) {
        int hidden = hide;
        if (hidden && !working && mprotect(address, handle.bytes, PROT_NONE))
            abort();
        blocks[n_blocks++] = (block){.address = address, .bytes = handle.bytes, .type = cudaMemoryTypeDevice,
                                     .hidden = hidden, .mapped = 1, .borrowed = 1};
        alive++;
        *out = address;
    }
    return leave(code);
}

cudaError_t cudaIpcCloseMemHandle(void *address)
{
    return put_block("cudaIpcCloseMemHandle", address, cudaMemoryTypeDevice, 0, 1);
}

cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaDeviceCanAccessPeer");
    *can = device != peer && !apart;
    return leave(code);
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaDeviceEnablePeerAccess");
    if (code == cudaSuccess && (apart || peer < 0 || peer >= device_count || peer == current))
        code = cudaErrorPeerAccessUnsupported;
    else if (code == cudaSuccess && reaches[current][peer]++)
        code = cudaErrorPeerAccessAlreadyEnabled;
    return leave(code);
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *out, const void *address)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaPointerGetAttributes");
    out->type = type_of(address);
    return leave(code);
}

cudaError_t cudaMemGetInfo(size_t *free_out, size_t *total_out)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaMemGetInfo");
    *total_out = total_bytes;
    *free_out = total_bytes - used_bytes;
    return leave(code);
}

/* ------------------------------------------------------------------------------------------------------------ device */

cudaError_t cudaGetDeviceCount(int *count)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaGetDeviceCount");
    *count = device_count;
    return leave(code != cudaSuccess ? code : device_count ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = device_count ? 13000 : 0;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    if (device < 0 || device >= device_count)
        return cudaErrorInvalidDevice;
    current = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device)
{
    pthread_mutex_lock(&lock);
    cudaError_t code = enter("cudaGetDeviceProperties");
    memset(out, 0, sizeof *out);
    strcpy(out->name, "stub on main memory");
    out->major = 9 + device * 0;
    out->multiProcessorCount = 2;
    return leave(code);
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t code = last_error;
    pthread_mutex_lock(&lock);
    last_error = broken; /* a broken context stays so */
    pthread_mutex_unlock(&lock);
    return code;
}

const char *cudaGetErrorName(cudaError_t code)
{
    switch (code) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorPeerAccessUnsupported: return "cudaErrorPeerAccessUnsupported";
    case cudaErrorMapBufferObjectFailed: return "cudaErrorMapBufferObjectFailed";
    case cudaErrorPeerAccessAlreadyEnabled: return "cudaErrorPeerAccessAlreadyEnabled";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorIllegalAddress: return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    }
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t code)
{
    return code == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "an error injected by a test";
}

/* ------------------------------------------------------------------------------------------------------------- tests */

void cuda_stub_reset(int devices, uint64_t total)
{
    pthread_mutex_lock(&lock);
    hung = 0;
    pthread_cond_broadcast(&changed);
    /* What a broken context still has queued would run once it is whole again, on memory freed since: it is dropped first. */
    while (broken != cudaSuccess && queued > 0)
        pthread_cond_wait(&changed, &lock);
    memset(counters, 0, sizeof counters);
    device_count = devices;
    total_bytes = total ? total : TOTAL_DEFAULT;
    items = break_at = hang_at = 0;
    apart = unlent = delay_us = careless = 0;
    memset(reaches, 0, sizeof reaches);
    broken = break_code = last_error = cudaSuccess;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_hide_memory(int on)
{
    pthread_mutex_lock(&lock);
    hide = on;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_show_memory(const void *address)
{
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < n_blocks; i++) {
        block *at = &blocks[i];
        if (at->hidden && (const char *)address >= at->address && (const char *)address < at->address + at->bytes)
            at->shown = 1;
        if (at->shown && mprotect(at->address, at->bytes, PROT_READ | PROT_WRITE))
            abort();
    }
    pthread_mutex_unlock(&lock);
}

void cuda_stub_part_gpus(int on)
{
    pthread_mutex_lock(&lock);
    apart = on;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_refuse_lending(int on)
{
    pthread_mutex_lock(&lock);
    unlent = on;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_ignore_waits(int on)
{
    pthread_mutex_lock(&lock);
    careless = on;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_delay(int us)
{
    pthread_mutex_lock(&lock);
    delay_us = us;
    pthread_mutex_unlock(&lock);
}

int cuda_stub_reaches(int gpu, int other)
{
    pthread_mutex_lock(&lock);
    int on = reaches[gpu][other];
    pthread_mutex_unlock(&lock);
    return on;
}

void cuda_stub_fail_call(const char *function, uint64_t nth, cudaError_t code)
{
    pthread_mutex_lock(&lock);
    counter *at = counter_of(function);
    at->fail_at = nth;
    at->code = code;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_break_at(uint64_t nth, cudaError_t code)
{
    pthread_mutex_lock(&lock);
    break_at = nth;
    break_code = code;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_hang_at(uint64_t nth)
{
    pthread_mutex_lock(&lock);
    hang_at = nth;
    pthread_mutex_unlock(&lock);
}

void cuda_stub_unhang(void)
{
    pthread_mutex_lock(&lock);
    hung = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

uint64_t cuda_stub_calls(const char *function)
{
    pthread_mutex_lock(&lock);
    uint64_t calls = counter_of(function)->calls;
    pthread_mutex_unlock(&lock);
    return calls;
}

uint64_t cuda_stub_items(void)
{
    pthread_mutex_lock(&lock);
    uint64_t n = items;
    pthread_mutex_unlock(&lock);
    return n;
}

uint64_t cuda_stub_alive(void)
{
    pthread_mutex_lock(&lock);
    uint64_t n = alive - (null_stream != NULL);
    pthread_mutex_unlock(&lock);
    return n;
}
