/* SPDX-License-Identifier: MIT */
#ifndef SHERD_TESTS_CUDA_STUB_STATE_H
#define SHERD_TESTS_CUDA_STUB_STATE_H

/* What the files of the stub share: the GPU's whole state. */
#include <pthread.h>
#include <stddef.h>

#include "tests/support/cuda_stub/stub.h"

#define STUB_TOTAL_DEFAULT ((uint64_t)64 << 30)
#define STUB_FUNCTIONS 96
#define STUB_BLOCKS 65536
#define STUB_GPUS 8

typedef struct stub_counter {
    const char *name;
    uint64_t calls, fail_at;
    cudaError_t code;
} stub_counter;

typedef struct stub_block {
    char *address;
    size_t bytes;
    cudaMemoryType type;
    int registered; /* the client's memory */
    int hidden;     /* mapped for itself; the CPU's only while the GPU works */
    int shown;      /* hidden no longer */
    int mapped;     /* not malloc's */
    int fd;         /* > 0: what can be lent */
    int borrowed;
} stub_block;

typedef struct stub_state {
    pthread_mutex_t lock; /* one for all: this is not about speed */
    pthread_cond_t changed;
    struct CUstream_st *null_stream;
    cudaEvent_t all_events; /* what a hanging GPU keeps is not lost: leak checkers see it here */
    stub_counter counters[STUB_FUNCTIONS];
    stub_block *blocks;
    size_t n_blocks;
    int device_count, hung, hide, working;
    uint64_t total_bytes, used_bytes, alive, items, queued, break_at, hang_at;
    cudaError_t broken, break_code;
    int apart, unlent, delay_us, careless; /* GPUs that do not reach each other; memory that cannot be lent */
    char reaches[STUB_GPUS][STUB_GPUS];
} stub_state;

extern stub_state cuda_stub_state;
extern _Thread_local int cuda_stub_current;
extern _Thread_local cudaError_t cuda_stub_last_error;

/* Both with the lock held: what a call returns before it does anything; and its end, which lets the lock go. */
cudaError_t cuda_stub_enter(const char *name);
cudaError_t cuda_stub_leave(cudaError_t code);
stub_counter *cuda_stub_counter(const char *name);
cudaMemoryType cuda_stub_type_of(const void *address);

#endif
