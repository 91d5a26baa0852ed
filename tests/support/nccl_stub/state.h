/* SPDX-License-Identifier: MIT */
#ifndef SHERD_TESTS_NCCL_STUB_STATE_H
#define SHERD_TESTS_NCCL_STUB_STATE_H

/* What the files of the stub share. */
#include <pthread.h>

#include "tests/support/nccl_stub/stub.h"

#define EXPORT __attribute__((visibility("default")))
#define RANKS 64
#define CALLS 256 /* in a group */
#define FUNCTIONS 40

enum { SUCCESS = 0, UNHANDLED = 1, INTERNAL = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, IN_PROGRESS = 7 };
enum { UINT64_TYPE = 5, FLOAT32_TYPE = 7, BFLOAT16_TYPE = 9, MIN_OP = 3 };
typedef enum kind { SEND, RECV, ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, BROADCAST } kind;

typedef struct call {
    kind kind;
    const char *from;
    char *to;
    size_t count;
    int type, op, peer; /* peer: or root */
} call;

struct ncclComm;

typedef struct batch {
    struct batch *next; /* of all that are launched: one in a context that breaks never runs, and stays known */
    struct ncclComm *comm;
    uint64_t number;
    int n;
    call calls[CALLS];
} batch;

typedef struct world {
    struct world *next;
    char id[128];
    int ranks, joined, finalized, members;
    struct ncclComm *member[RANKS];
    batch *posted[RANKS];
    uint64_t arrived[RANKS], computed[RANKS];
} world;

struct ncclComm {
    world *world;
    int rank, device, blocking;
    int state; /* what GetAsyncError says */
    int opening, finalizing;
    int polls;      /* until what is under way is through */
    batch *waiting; /* to be launched */
    void *stream;
    void **window; /* to be given a handle */
    struct ncclComm *splitting;
    uint64_t batches, splits;
    int running, aborted; /* running: batches given to streams; the last one frees what was aborted */
    struct ncclComm *next;
};
typedef struct ncclComm *comm_t;
typedef struct id_t {
    char internal[128];
} id_t_;
typedef struct config {
    size_t size;
    unsigned magic, version;
    int blocking;
} config;

typedef struct nccl_state {
    pthread_mutex_t lock; /* one for all */
    pthread_cond_t changed;
    nccl_stub_cuda cuda;
    world *worlds;
    batch *batches;
    struct ncclComm *comms; /* all there are: what a broken GPU keeps is not lost to leak checkers */
    struct {
        const char *name;
        uint64_t calls, refuse_at;
        int code;
    } functions[FUNCTIONS];
    struct {
        uint64_t operations, hang_at, error_at;
        int code;
    } faults[RANKS];
    int version_code, init_polls, launch_polls, has_symmetric, stuck;
    uint64_t ids, misuses, alive;
} nccl_state;

extern nccl_state nccl_stub_state;

/* All with the lock held. Counts a call: what it is refused with. And its end, which lets the lock go. */
int nccl_stub_enter(const char *name);
int nccl_stub_leave(int code);
int nccl_stub_function(const char *name);
int nccl_stub_launch(comm_t comm, batch *work, void *stream);
/* Its operations have ended. */
void nccl_stub_comm_free(comm_t comm);

#endif
