/* SPDX-License-Identifier: MIT
 *
 * The CUDA device's own types. Who does what:
 *
 *   compute    the client's stream: operations are issued at once by the calling thread, so that they stand in order
 *              with the client's own kernels.
 *   others     a thread and a ring each (op_ring.h). The thread issues operations to its cudaStream in order; what
 *              must not be issued yet (a wait for flags of other ranks, a wait for an event that another thread has not
 *              issued) holds the thread back, never the GPU. So no kernel ever spins, and a peer that dies leaves
 *              nothing on the GPU that cannot end.
 *
 * "Issued" is given to CUDA; "reached" is executed by the GPU. Only issued work depends on issued work, so whatever has
 * been issued ends by itself.
 *
 * No call that cannot time out is made while the GPU has work: events are polled, streams are throttled long before
 * CUDA's own queue would block the launch, and memory is freed only after the device was seen idle. A GPU that does not
 * become idle within the limit is `stuck`: from then on nothing is freed, which leaks, but ends.
 */
#ifndef SHERD_DEVICE_CUDA_H
#define SHERD_DEVICE_CUDA_H

#include <cuda_runtime_api.h>

#include "device/cuda_launch.h"
#include "device/op_ring.h"
#include "device/trace.h"
#include "device/wait.h"

/* A mark every so many CUDA calls, and so many marks: a stream runs ahead of the GPU by about their product, well below
 * the thousand or so pending launches at which CUDA itself would block. */
#define SHERD__CUDA_MARK_EVERY 64
#define SHERD__CUDA_MARKS 8
/* Callbacks that can be pending at once: each is one of those calls. */
#define SHERD__CUDA_CALLBACKS (SHERD__CUDA_MARK_EVERY * (SHERD__CUDA_MARKS + 2))
#define SHERD__CUDA_BOUNCE_ELEMS 16384
#define SHERD__CUDA_VECTOR_BYTES 16 /* of every access, bf16 or fp32 */
#define SHERD__CUDA_KEPT 2048 /* blocks that are kept for the client */

typedef struct sherd__cuda_event {
    sherd_device *device;
    struct sherd__cuda_event *next, *next_free; /* made once, handed out again: as the host device's events */
    cudaEvent_t handle;
    _Atomic uint64_t recorded; /* records enqueued */
    sherd__count issued;       /* records given to CUDA */
    _Atomic uint64_t none;     /* records of former lives: no wait of this life is for them */
} sherd__cuda_event;

typedef struct sherd__cuda_kept {
    void *address;
    uint64_t whole;
} sherd__cuda_kept;

typedef struct sherd__cuda_device {
    sherd_device base;
    int ordinal;
    uint32_t width; /* multiprocessors */
    int32_t adopted; /* 1: the compute stream is the client's */
    _Atomic int stuck;
    cudaEvent_t epoch;     /* reached at about epoch_ns */
    int64_t epoch_ns;
    uint64_t runtime_bytes; /* booked */
    pthread_mutex_t stream_lock;
    struct sherd__cuda_stream *streams;
    sherd__cuda_event *events, *free_events; /* under base.lock */
    uint32_t n_kept;                         /* under base.lock */
    sherd__cuda_kept kept[SHERD__CUDA_KEPT];
} sherd__cuda_device;

typedef enum sherd__cuda_callback_kind {
    SHERD__CUDA_SIGNAL,
    SHERD__CUDA_ARRIVE,
    SHERD__CUDA_CALL,
    SHERD__CUDA_PREPARE,
    SHERD__CUDA_STAMP_BEGIN,
    SHERD__CUDA_STAMP_END
} sherd__cuda_callback_kind;

struct sherd__cuda_stream;

/* What CUDA calls back in stream order, on a thread of its own. Short, and never a CUDA call. */
typedef struct sherd__cuda_callback {
    sherd__cuda_callback_kind kind;
    struct sherd__cuda_stream *stream;
    sherd__tag tag;
    union {
        struct {
            _Atomic uint32_t *flag;
            uint32_t value;
        } signal;
        struct {
            _Atomic uint32_t *word[3]; /* in this order; the last is slept on */
            uint32_t says[3];
        } arrive;
        struct {
            sherd__host_fn fn;
            void *arg;
        } call;
        const sherd__step_rules *rules;
    } u;
} sherd__cuda_callback;

/* Pinned memory of a stream; one is enough, for a stream's operations follow each other. */
typedef struct sherd__cuda_pinned {
    uint64_t vote[SHERD__VOTE_SUMS + SHERD__VOTE_MINS]; /* what sherd__step_prepare works on */
    sherd__step_state state;
    sherd__step_scalars scalars;
    const void *sources[SHERD__CUDA_TABLE]; /* of a sum of more than fit into a kernel's parameters */
    float bounce[SHERD__CUDA_BOUNCE_ELEMS]; /* conversions from and to memory that no kernel can reach */
} sherd__cuda_pinned;

typedef struct sherd__cuda_stream {
    sherd__stream base;
    cudaStream_t handle;
    int32_t has_ring;
    sherd__op_ring ring;
    pthread_mutex_t lock; /* of what follows: the compute stream may be used by several threads */
    uint32_t since_mark, mark;
    cudaEvent_t marks[SHERD__CUDA_MARKS];
    cudaEvent_t probe; /* of sherd__cuda_gpu_runs */
    int32_t probing;
    uint8_t marked[SHERD__CUDA_MARKS];
    uint32_t callback;
    sherd__cuda_callback *callbacks;
    int64_t stamp_ns;
    sherd__cuda_pinned *pinned;
    struct sherd__cuda_stream *next; /* of the device's, under its stream_lock */
    struct sherd__cuda_stream *next_of_all;
} sherd__cuda_stream;

/* cuda_stream.c */
sherd_status sherd__cuda_stream_create(sherd_device *device, const char *name, uint32_t capacity, sherd__stream **out,
                                       sherd_error *err);
/* The compute stream: no ring, no thread. `adopt` NULL: a stream of its own. */
sherd_status sherd__cuda_compute_create(sherd_device *device, void *adopt, int32_t adopted, sherd__stream **out,
                                        sherd_error *err);
void sherd__cuda_stream_destroy(sherd__stream *stream);

/* 1: every stream of this process on that GPU, but those of `except`, has come at least to where it was at the call, so
 * that a call which waits for the whole GPU ends. Where a device was found stuck, or this one is not through within its
 * limit: 0, from then on for good. */
int sherd__cuda_gpu_runs(int ordinal, const sherd_device *except);
void sherd__cuda_gpu_hangs(int ordinal); /* no call that waits for this GPU is made in this process any more */

/* cuda_issue.c: one operation to CUDA. */
sherd_status sherd__cuda_issue(sherd__stream *stream, const sherd__op *op);
/* Before every call that puts something into the stream; under its lock. */
sherd_status sherd__cuda_pace(sherd__cuda_stream *stream);
uint32_t sherd__cuda_width(const sherd__cuda_stream *stream); /* multiprocessors */

/* cuda_sum.c; under the stream's lock */
sherd_status sherd__cuda_issue_tree_sum(sherd__cuda_stream *stream, const sherd__op *op);
sherd_status sherd__cuda_issue_reduce(sherd__cuda_stream *stream, const sherd__op *op);
sherd_status sherd__cuda_issue_orthogonal(sherd__cuda_stream *stream, const sherd__op *op); /* cuda_orthogonal.c */
/* Poisons the device: the operation cannot be done. */
sherd_status sherd__cuda_refuse(sherd__cuda_stream *stream, const sherd__op *op, const char *why);

/* cuda_event.c */
sherd_status sherd__cuda_event_create(sherd_device *device, sherd__event **out, sherd_error *err);
void sherd__cuda_event_destroy(sherd__event *event);
void sherd__cuda_events_free(sherd__cuda_device *device);
sherd_status sherd__cuda_event_record(sherd__stream *stream, sherd__event *event);
sherd_status sherd__cuda_event_wait(sherd__stream *stream, sherd__event *event, const char *site);
sherd_status sherd__cuda_event_sync(sherd_device *device, sherd__event *event, const char *site, sherd_error *err);
int64_t sherd__cuda_event_time_ns(sherd__event *event);
void sherd__cuda_event_issued(sherd__cuda_event *event, uint64_t number);

/* cuda_wait.c: the calling thread waits, within the device's limit; what fails has poisoned the device. */
sherd_status sherd__cuda_await_issued(sherd__cuda_event *event, uint64_t number, const char *stream, const char *site);
sherd_status sherd__cuda_await_reached(sherd_device *device, cudaEvent_t event, const char *stream, const char *site);
sherd_status sherd__cuda_await_handle(sherd_device *device, cudaStream_t handle, const char *stream, const char *site);
sherd_status sherd__cuda_await_idle(sherd__cuda_stream *stream, const char *site);
sherd_status sherd__cuda_await_flags(sherd_device *device, const char *stream, sherd__tag tag,
                                     const sherd__await *await);

/* cuda_memory.c */
sherd_status sherd__cuda_memory_get(sherd_device *device, sherd_tier tier, uint64_t bytes, void **out,
                                    uint64_t *rounding, sherd_error *err);
sherd_status sherd__cuda_memory_free(sherd_device *device, uint64_t *out, sherd_error *err);
void sherd__cuda_memory_put(sherd_device *device, sherd_tier tier, void *block, uint64_t bytes);
uint64_t sherd__cuda_rounded(sherd_tier tier, uint64_t bytes); /* what the driver takes; 0: too many */
/* 1: memory that CUDA does not know. Kernels cannot reach it, and copies of it may wait for the stream. Returns a
 * cudaError_t. */
int sherd__cuda_pageable(const void *address, int *pageable);
/* sherd__device_watch of this device: memory that ranks share is pinned, so that kernels reach it (over the bus). */
sherd_status sherd__cuda_watch(sherd_device *device, const void *address, uint64_t bytes, sherd_error *err);
void sherd__cuda_unwatch(sherd_device *device, const void *address, uint64_t bytes);
/* 1 when the device's streams are idle (or broken: then they run nothing); 0 where they did not become so within the
 * limit and the device is `stuck` from now on. */
int sherd__cuda_settle(sherd_device *device);

/* cuda_cache.c: of the table */
int sherd__cuda_recycle_get(sherd_device *device, uint64_t bytes, void **out, uint64_t *rounding);
int sherd__cuda_recycle_put(sherd_device *device, void *block, uint64_t bytes);
int sherd__cuda_recycle_flush(sherd_device *device);

/* cuda_share.c: windows */
extern const sherd__share_ops sherd__cuda_share;

/* cuda_post.c; record and wait return a cudaError_t. `reached` is a value that the post's flag was seen to have, at or
 * past `value`. */
sherd_status sherd__cuda_post_create(sherd_device *device, sherd__post **out, sherd_error *err);
void sherd__cuda_post_destroy(sherd__post *post);
int sherd__cuda_post_record(sherd__post *post, uint32_t value, cudaStream_t stream);
int sherd__cuda_post_wait(const sherd__post *post, uint32_t value, uint32_t reached, cudaStream_t stream);
sherd_status sherd__cuda_meet(sherd__stream *stream, sherd__tag tag, const sherd__meet *meet);
sherd_status sherd__cuda_announce(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value,
                                  sherd__post *post);

/* cuda.c: SHERD_OK for cudaSuccess; else the device is poisoned with a sentence that names the call, the stream and the
 * operation. stream and tag may be NULL. */
sherd_status sherd__cuda_check(sherd_device *device, int code, const char *call, const char *stream,
                               const sherd__tag *tag);
/* The same where nothing runs yet: fills *err, poisons nothing. */
sherd_status sherd__cuda_refused(sherd_error *err, int code, const char *call);
/* Around CUDA calls on threads that belong to the client: this device is current between them. */
int sherd__cuda_enter(sherd_device *device);
void sherd__cuda_leave(sherd_device *device, int former);

/* What device/registry.c calls: the calling thread's current GPU, and a compute stream of its own. */
sherd_status sherd__device_create_cuda(const sherd_device_options *options, sherd_device **out, sherd_error *err);

#endif
