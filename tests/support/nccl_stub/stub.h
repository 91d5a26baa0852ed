/* SPDX-License-Identifier: MIT
 *
 * A stub of NCCL for tests without GPUs: a shared object with the functions that comm/nccl uses, opened by the library
 * as NCCL is (SHERD_NCCL_LIBRARY). Ranks are threads of one process; operations run in the stream order of the CUDA
 * stub, with a real rendezvous. Test support: never installed, never a GPU's result.
 *
 * Faults are those that NCCL has: a call that is refused, an operation that never ends, an error that comes later, a
 * creation that takes long or for ever. Misuse is counted: a call while the communicator is busy, from two threads at
 * once, or after its end.
 */
#ifndef SHERD_TESTS_NCCL_STUB_H
#define SHERD_TESTS_NCCL_STUB_H

#include <stddef.h>
#include <stdint.h>

/* What the stub needs of the CUDA stub, which is in the program. */
typedef struct nccl_stub_cuda {
    int (*launch)(void *stream, const char *function, void (*fn)(const void *args), const void *args, size_t bytes);
    int (*get)(void **out, size_t bytes);
    int (*put)(void *block);
    int (*device)(int *out);
} nccl_stub_cuda;

#define NCCL_STUB_MAP(X)                                                                                               \
    X(void, attach, (const nccl_stub_cuda *cuda))                                                                      \
    /* Forgets faults and counters. Nothing may be under way. */                                                       \
    X(void, reset, (void))                                                                                             \
    X(void, version, (int code))                                                                                       \
    /* The nth operation (from 1, counted from now, the creation's included) of this rank never ends. */               \
    X(void, hang, (int rank, uint64_t nth))                                                                            \
    /* The same, and from then on the communicator reports `code`. */                                                  \
    X(void, error, (int rank, uint64_t nth, int code))                                                                 \
    /* The nth call of a function ("AllGather") returns `code`. */                                                     \
    X(void, refuse, (const char *function, uint64_t nth, int code))                                                    \
    /* How often a creation is asked for before it is through; -1: it never is. */                                     \
    X(void, slow_init, (int polls))                                                                                    \
    /* How often an operation is asked for before it is launched. */                                                   \
    X(void, slow_launch, (int polls))                                                                                  \
    /* Windows can be registered as symmetric ones (the default). */                                                   \
    X(void, symmetric, (int on))                                                                                       \
    /* Aborts do not come back until it is off again. */                                                               \
    X(void, stuck_abort, (int on))                                                                                     \
    X(uint64_t, calls, (const char *function))                                                                         \
    X(uint64_t, operations, (int rank))                                                                                \
    X(uint64_t, misuses, (void))                                                                                       \
    /* Communicators, blocks of memory and registrations that exist. */                                                \
    X(uint64_t, alive, (void))

typedef struct nccl_stub {
#define X(type, name, arguments) type(*name) arguments;
    NCCL_STUB_MAP(X)
#undef X
} nccl_stub;

#endif
