/* SPDX-License-Identifier: MIT
 *
 * The part of NCCL's binary interface that comm/nccl uses, declared here, so that neither its header nor its library is
 * needed to build, and one program runs with and without it. Types are those of NCCL 2.19; later versions keep them (a
 * configuration says its own size and version). tests/comm/nccl_abi.c compares all this with nccl.h where there is one.
 *
 * libnccl.so.2 is opened at the first use: SHERD_NCCL_LIBRARY alone where that is set; else what the process has loaded
 * already (a training framework's), the loader's path, and the folders of NVIDIA's Python wheels and toolkits. It is
 * never closed.
 */
#ifndef SHERD_COMM_NCCL_API_H
#define SHERD_COMM_NCCL_API_H

#include <stddef.h>

#include "base/status.h"

typedef struct ncclComm *sherd__nccl_handle;

typedef struct sherd__nccl_id {
    char internal[128];
} sherd__nccl_id;

enum { /* ncclResult_t */
       SHERD__NCCL_SUCCESS = 0,
       SHERD__NCCL_INVALID_USAGE = 5,
       SHERD__NCCL_REMOTE_ERROR = 6,
       SHERD__NCCL_IN_PROGRESS = 7
};
enum { /* ncclDataType_t */
       SHERD__NCCL_INT8 = 0,
       SHERD__NCCL_UINT64 = 5,
       SHERD__NCCL_FLOAT16 = 6,
       SHERD__NCCL_FLOAT32 = 7,
       SHERD__NCCL_BFLOAT16 = 9
};
enum { SHERD__NCCL_SUM = 0, SHERD__NCCL_MIN = 3 }; /* ncclRedOp_t */
enum { SHERD__NCCL_WINDOW_SYMMETRIC = 1 };
#define SHERD__NCCL_UNDEFINED (-2147483647 - 1)
#define SHERD__NCCL_CONFIG_MAGIC 0xcafebeefu
#define SHERD__NCCL_CONFIG_VERSION 21800u /* whose configuration this is */
#define SHERD__NCCL_OLDEST 21903

typedef struct sherd__nccl_config {
    size_t size;
    unsigned int magic, version;
    int blocking, cga_cluster_size, min_ctas, max_ctas;
    const char *net_name;
    int split_share;
} sherd__nccl_config;

/* X(name, arguments). Streams are cudaStream_t. All return an ncclResult_t. */
#define SHERD__NCCL_MAP(X)                                                                                             \
    X(GetVersion, (int *version))                                                                                      \
    X(GetUniqueId, (sherd__nccl_id * id))                                                                              \
    X(CommInitRankConfig,                                                                                              \
      (sherd__nccl_handle * out, int world, sherd__nccl_id id, int rank, sherd__nccl_config *config))                  \
    X(CommSplit, (sherd__nccl_handle comm, int color, int key, sherd__nccl_handle *out, sherd__nccl_config *config))   \
    X(CommFinalize, (sherd__nccl_handle comm))                                                                         \
    X(CommDestroy, (sherd__nccl_handle comm))                                                                          \
    X(CommAbort, (sherd__nccl_handle comm))                                                                            \
    X(CommGetAsyncError, (sherd__nccl_handle comm, int *error))                                                        \
    X(CommCount, (sherd__nccl_handle comm, int *count))                                                                \
    X(CommUserRank, (sherd__nccl_handle comm, int *rank))                                                              \
    X(CommCuDevice, (sherd__nccl_handle comm, int *device))                                                            \
    X(MemAlloc, (void **out, size_t bytes))                                                                            \
    X(MemFree, (void *block))                                                                                          \
    X(CommRegister, (sherd__nccl_handle comm, void *block, size_t bytes, void **handle))                               \
    X(CommDeregister, (sherd__nccl_handle comm, void *handle))                                                         \
    X(GroupStart, (void))                                                                                              \
    X(GroupEnd, (void))                                                                                                \
    X(Send, (const void *from, size_t count, int type, int peer, sherd__nccl_handle comm, void *stream))               \
    X(Recv, (void *to, size_t count, int type, int peer, sherd__nccl_handle comm, void *stream))                       \
    X(AllGather, (const void *from, void *to, size_t count, int type, sherd__nccl_handle comm, void *stream))          \
    X(AllReduce, (const void *from, void *to, size_t count, int type, int op, sherd__nccl_handle comm, void *stream))  \
    X(ReduceScatter,                                                                                                   \
      (const void *from, void *to, size_t count, int type, int op, sherd__nccl_handle comm, void *stream))             \
    X(Broadcast, (const void *from, void *to, size_t count, int type, int root, sherd__nccl_handle comm, void *stream))

/* The same, where the version has them (2.27): NULL otherwise. */
#define SHERD__NCCL_LATER_MAP(X)                                                                                       \
    X(CommWindowRegister, (sherd__nccl_handle comm, void *block, size_t bytes, void **window, int flags))              \
    X(CommWindowDeregister, (sherd__nccl_handle comm, void *window))

typedef struct sherd__nccl_api {
#define X(name, arguments) int(*name) arguments;
    SHERD__NCCL_MAP(X)
    SHERD__NCCL_LATER_MAP(X)
#undef X
    const char *(*GetErrorString)(int result);
    const char *(*GetLastError)(sherd__nccl_handle comm);
    int version;   /* 22809 */
    char name[24]; /* "2.28.9" */
    char path[256];
} sherd__nccl_api;

/* Opens the library, once for the process; what failed is tried anew. EUNSUPPORTED with what was looked for, or with
 * the version that is too old. */
sherd_status sherd__nccl_load(const sherd__nccl_api **out, sherd_error *err);
/* "yes, 2.28.9 (/usr/lib/libnccl.so.2)" or "no: …", for sherd info. */
void sherd__nccl_describe(char *text, size_t capacity);

#endif
