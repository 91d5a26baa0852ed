/* SPDX-License-Identifier: MIT
 *
 * Streams and events of the stub.
 */
#include "tests/support/cuda_stub/state.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

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
    int *done;                /* somebody waits for it */
    _Alignas(16) char args[]; /* of a kernel */
} item;

struct CUstream_st {
    pthread_t thread;
    item *first, *last;
    uint64_t pending;
    int stop, detached;
};

struct CUevent_st {
    cudaEvent_t next;                  /* of all there are */
    uint64_t recorded, reached, users; /* users: items that name it */
    int destroyed;
    int64_t time_ns;
};

static stub_block all_blocks[STUB_BLOCKS];
stub_state cuda_stub_state = {.blocks = all_blocks,
                              .lock = PTHREAD_MUTEX_INITIALIZER,
                              .changed = PTHREAD_COND_INITIALIZER,
                              .device_count = 1,
                              .total_bytes = STUB_TOTAL_DEFAULT};
_Thread_local int cuda_stub_current;
_Thread_local cudaError_t cuda_stub_last_error;
static stub_state *const gpu = &cuda_stub_state;
static uint32_t chance = 1;

static int64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

stub_counter *cuda_stub_counter(const char *name)
{
    for (int i = 0; i < STUB_FUNCTIONS; i++) {
        if (!gpu->counters[i].name)
            gpu->counters[i].name = name;
        if (strcmp(gpu->counters[i].name, name) == 0)
            return &gpu->counters[i];
    }
    abort();
}

/* With the lock held. What the call returns before it does anything. */
cudaError_t cuda_stub_enter(const char *name)
{
    stub_counter *at = cuda_stub_counter(name);
    cudaError_t code = gpu->broken;
    at->calls++;
    if (at->fail_at && --at->fail_at == 0)
        code = at->code;
    if (code != cudaSuccess)
        cuda_stub_last_error = code;
    return code;
}

cudaError_t cuda_stub_leave(cudaError_t code)
{
    pthread_mutex_unlock(&gpu->lock);
    if (code != cudaSuccess && code != cudaErrorNotReady)
        cuda_stub_last_error = code;
    return code;
}

/* ----------------------------------------------------------------------------------------------------------- streams
 */

static void release_event(cudaEvent_t event)
{
    if (!event->destroyed || event->users > 0)
        return;
    for (cudaEvent_t *link = &gpu->all_events; *link; link = &(*link)->next) {
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
    int before = gpu->working != 0;
    gpu->working += change;
    int rights = gpu->working ? PROT_READ | PROT_WRITE : PROT_NONE;
    for (size_t i = 0; before != (gpu->working != 0) && i < gpu->n_blocks; i++)
        if (gpu->blocks[i].hidden && !gpu->blocks[i].shown &&
            mprotect(gpu->blocks[i].address, gpu->blocks[i].bytes, rights))
            abort();
}

/* With the lock held, which is released around what runs. */
static void run_item(item *it)
{
    gpu->items++;
    if (gpu->break_at && --gpu->break_at == 0)
        gpu->broken = gpu->break_code;
    if (gpu->hang_at && --gpu->hang_at == 0) {
        gpu->hung = 1;
        while (gpu->hung)
            pthread_cond_wait(&gpu->changed, &gpu->lock);
    }
    if (gpu->delay_us) {
        chance = chance * 1664525u + 1013904223u;
        unsigned us = chance >> 30 == 3 ? (chance >> 8) % (unsigned)gpu->delay_us : 0;
        pthread_mutex_unlock(&gpu->lock);
        if (us)
            usleep(us);
        pthread_mutex_lock(&gpu->lock);
    }
    if (it->kind == ITEM_REACH && it->number > it->event->reached && gpu->broken == cudaSuccess) {
        it->event->reached = it->number;
        it->event->time_ns = now_ns();
    }
    while (it->kind == ITEM_WAIT && !gpu->careless && it->event->reached < it->number && gpu->broken == cudaSuccess)
        pthread_cond_wait(&gpu->changed, &gpu->lock);
    if (it->kind == ITEM_REACH || it->kind == ITEM_WAIT) {
        it->event->users--;
        release_event(it->event);
        return;
    }
    if (gpu->broken != cudaSuccess)
        return;
    if (it->kind != ITEM_CALLBACK)
        work(1);
    pthread_mutex_unlock(&gpu->lock);
    if (it->kind == ITEM_RUN)
        it->fn(it->args);
    else if (it->kind == ITEM_COPY)
        memmove(it->dst, it->src, it->bytes);
    else if (it->kind == ITEM_SET)
        memset(it->dst, (int)it->number, it->bytes);
    else
        it->callback((void *)(uintptr_t)it->src);
    pthread_mutex_lock(&gpu->lock);
    if (it->kind != ITEM_CALLBACK)
        work(-1);
}

static void *stream_main(void *arg)
{
    struct CUstream_st *stream = arg;
    pthread_mutex_lock(&gpu->lock);
    while (stream->first || !stream->stop) {
        item *it = stream->first;
        if (!it) {
            pthread_cond_wait(&gpu->changed, &gpu->lock);
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
        gpu->queued--;
        pthread_cond_broadcast(&gpu->changed);
    }
    gpu->alive--;
    pthread_mutex_unlock(&gpu->lock);
    free(stream); /* destroyed: nobody else knows it */
    return NULL;
}

static struct CUstream_st *new_stream(void)
{
    struct CUstream_st *stream = calloc(1, sizeof *stream);
    gpu->alive++;
    if (!stream || pthread_create(&stream->thread, NULL, stream_main, stream))
        abort();
    pthread_detach(stream->thread);
    return stream;
}

static void push(cudaStream_t stream, const item *what, const void *args, size_t bytes)
{
    if (!stream) {
        if (!gpu->null_stream)
            gpu->null_stream = new_stream();
        stream = gpu->null_stream;
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
    gpu->queued++;
    pthread_cond_broadcast(&gpu->changed);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaStreamCreateWithFlags");
    if (code == cudaSuccess)
        *out = new_stream();
    return cuda_stub_leave(code);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority)
{
    (void)flags;
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter(priority < 0 ? "cudaStreamCreateWithPriority" : "cudaStreamCreateWithFlags");
    if (code == cudaSuccess)
        *out = new_stream();
    return cuda_stub_leave(code);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaDeviceGetStreamPriorityRange");
    *least = 0;
    *greatest = -5;
    return cuda_stub_leave(code);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaStreamDestroy");
    stream->stop = 1;
    pthread_cond_broadcast(&gpu->changed);
    return cuda_stub_leave(code);
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaStreamQuery");
    stream = stream ? stream : gpu->null_stream;
    return cuda_stub_leave(code != cudaSuccess ? code : stream && stream->pending ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cuda_stub_launch(cudaStream_t stream, const char *function, void (*fn)(const void *args), const void *args,
                             size_t bytes)
{
    item it = {.kind = ITEM_RUN, .fn = fn};
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter(function);
    if (code == cudaSuccess)
        push(stream, &it, args, bytes);
    return cuda_stub_leave(code);
}

/* As CUDA's: copies of pageable memory have left or reached it when the call returns. */
cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    int done = 0;
    item it = {.kind = ITEM_COPY, .dst = dst, .src = src, .bytes = bytes};
    (void)kind;
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaMemcpyAsync");
    if (code == cudaSuccess &&
        (cuda_stub_type_of(dst) == cudaMemoryTypeUnregistered || cuda_stub_type_of(src) == cudaMemoryTypeUnregistered))
        it.done = &done;
    if (code == cudaSuccess)
        push(stream, &it, NULL, 0);
    while (it.done && !done)
        pthread_cond_wait(&gpu->changed, &gpu->lock);
    return cuda_stub_leave(code);
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t bytes, cudaStream_t stream)
{
    item it = {.kind = ITEM_SET, .dst = dst, .number = (uint64_t)value, .bytes = bytes};
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaMemsetAsync");
    if (code == cudaSuccess)
        push(stream, &it, NULL, 0);
    return cuda_stub_leave(code);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t fn, void *arg)
{
    item it = {.kind = ITEM_CALLBACK, .callback = fn, .src = arg};
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaLaunchHostFunc");
    if (code == cudaSuccess)
        push(stream, &it, NULL, 0);
    return cuda_stub_leave(code);
}

/* ------------------------------------------------------------------------------------------------------------ events
 */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaEventCreateWithFlags");
    if (code == cudaSuccess) {
        *out = calloc(1, sizeof **out);
        if (!*out)
            abort();
        (*out)->next = gpu->all_events;
        gpu->all_events = *out;
        gpu->alive++;
    }
    return cuda_stub_leave(code);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaEventDestroy");
    event->destroyed = 1;
    gpu->alive--;
    release_event(event);
    return cuda_stub_leave(code);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    item it = {.kind = ITEM_REACH, .event = event};
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaEventRecord");
    if (code == cudaSuccess) {
        it.number = ++event->recorded;
        event->users++;
        push(stream, &it, NULL, 0);
    }
    return cuda_stub_leave(code);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    item it = {.kind = ITEM_WAIT, .event = event};
    (void)flags;
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaStreamWaitEvent");
    if (code == cudaSuccess) {
        it.number = event->recorded;
        event->users++;
        push(stream, &it, NULL, 0);
    }
    return cuda_stub_leave(code);
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaEventQuery");
    return cuda_stub_leave(code != cudaSuccess                ? code
                           : event->reached < event->recorded ? cudaErrorNotReady
                                                              : cudaSuccess);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t begin, cudaEvent_t end)
{
    pthread_mutex_lock(&gpu->lock);
    cudaError_t code = cuda_stub_enter("cudaEventElapsedTime");
    if (code == cudaSuccess && (begin->reached < begin->recorded || end->reached < end->recorded))
        code = cudaErrorNotReady;
    if (code == cudaSuccess)
        *ms = (float)((double)(end->time_ns - begin->time_ns) * 1e-6);
    return cuda_stub_leave(code);
}
