/* SPDX-License-Identifier: MIT
 *
 * Worlds of ranks on NCCL for tests: threads of this process on the stubs of CUDA and NCCL, with a bootstrap of their
 * own.
 */
#ifndef SHERD_TESTS_COMM_NCCL_WORLD_H
#define SHERD_TESTS_COMM_NCCL_WORLD_H

#include <pthread.h>

#include "comm/nccl.h"
#include "sherd/sherd_cuda.h"
#include "tests/support/cuda_stub/stub.h"
#include "tests/support/nccl_stub/stub.h"

#define NCCL_RANKS 8

/* Opens the stub at SHERD_NCCL_LIBRARY and gives it the CUDA stub; resets both. */
const nccl_stub *nccl_stub_open(void);

/* An all-gather between threads. A rank that never comes ends it after `limit_s` with code 7 on those that did. */
typedef struct nccl_meeting {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int32_t world, here, leaving;
    unsigned char *all;
    double limit_s;
} nccl_meeting;

typedef struct nccl_rank nccl_rank;
typedef void (*nccl_body)(nccl_rank *rank);

struct nccl_rank {
    int32_t rank, world;
    nccl_meeting *meeting;
    double fail_after_s;
    nccl_body body; /* with comm, where its creation succeeded */
    void *arg;
    int adopt;      /* 1: the communicator is split from one of the test's own */
    int32_t absent; /* 1 + a rank that never comes */
    sherd_log log;
    sherd_comm *comm;
    sherd_status status; /* of creation */
    sherd_error err;
    int failed; /* set by bodies */
};

/* Creates communicators on `world` threads, runs the bodies, destroys. ranks[NCCL_RANKS] is filled in from ranks[0]. */
void nccl_run(int32_t world, nccl_rank *ranks);

/* A rank with a bound device and a stream. */
typedef struct nccl_bench {
    sherd_device *device;
    sherd__stream *stream, *other;
    sherd__event *event;
    sherd__window window;
    sherd_error err;
} nccl_bench;

/* 0 if it could not; err says why. The window has `bytes`; the receive scratch as many. */
int nccl_bench_open(nccl_rank *rank, uint64_t bytes, nccl_bench *bench);
void nccl_bench_close(nccl_rank *rank, nccl_bench *bench);
/* Waits for the stream; the device's error. */
sherd_status nccl_bench_wait(nccl_bench *bench);

/* A device's touch where the test's client is a CPU: what it is about to touch is shown to it, once the compute stream
 * has got there. */
sherd_status nccl_touch_by_cpu(sherd_device *device, sherd__tag tag, sherd__access access);

/* Nothing of either stub is left. */
int nccl_nothing_left(const nccl_stub *stub);

#endif
