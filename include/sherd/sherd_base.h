/* SPDX-License-Identifier: MIT
 *
 * sherd_base.h: status and error, log and allocator, element types, memory by tier and category. Part of sherd.h, whose conventions
 * hold.
 */
#ifndef SHERD_SHERD_BASE_H
#define SHERD_SHERD_BASE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

#if defined(__GNUC__)
#define SHERD_API __attribute__((visibility("default")))
#else
#define SHERD_API
#endif

/* ---------------------------------------------------------------------------------------------------- status, error */

/* X(name, value, broken, text). `broken` says what must be rebuilt before going on: the CALL (correct it and call again),
 * the ENGINE (destroy engine and communicator on this rank and its peers), or the RANK (a process is gone). */
#define SHERD_STATUS_MAP(X)                                                                                            \
    X(OK, 0, CALL, "success")                                                                                          \
    X(EINVAL, 1, CALL, "invalid argument or configuration")                                                            \
    X(ENOMEM, 2, CALL, "out of memory")                                                                                \
    X(EIO, 3, CALL, "input or output failed")                                                                          \
    X(EUNSUPPORTED, 4, CALL, "unsupported: not built or not possible here")                                            \
    X(ESTATE, 5, CALL, "call made in the wrong order")                                                                 \
    X(ESYSTEM, 6, CALL, "the operating system refused a request")                                                      \
    X(EMISMATCH, 20, ENGINE, "ranks disagree")                                                                         \
    X(ETIMEOUT, 21, ENGINE, "a wait reached its limit")                                                                \
    X(EABORTED, 22, ENGINE, "another rank gave up")                                                                    \
    X(ERACE, 23, ENGINE, "the checking device found conflicting accesses")                                             \
    X(ERANKDEAD, 40, RANK, "a rank died")                                                                              \
    X(EDEVICE, 41, RANK, "the device failed")

typedef enum sherd_status {
#define X(name, value, broken, text) SHERD_##name = value,
    SHERD_STATUS_MAP(X)
#undef X
} sherd_status;

/* One fault. Owned by the caller, plain data. `text` is one sentence: what, where, what to do. `rank` is the rank that
 * broke, -1 where that is not known or not meant. */
typedef struct sherd_error {
    sherd_status status;
    int32_t rank;
    char text[496];
} sherd_error;

/* Static strings: "EINVAL", and "invalid argument or configuration". Never NULL. */
SHERD_API const char *sherd_status_name(sherd_status status);
SHERD_API const char *sherd_status_text(sherd_status status);

#define SHERD_VERSION_STRING_MAX 32
SHERD_API const char *sherd_version(void); /* "0.1.0": static */

/* ------------------------------------------------------------------------------------------------- log and allocator */

typedef enum sherd_log_level { SHERD_LOG_WARNING = 0, SHERD_LOG_INFO = 1, SHERD_LOG_DEBUG = 2 } sherd_log_level;

/* `text` is one line without a newline, valid during the call only. May be called from any thread of the library. */
typedef void (*sherd_log_fn)(void *ctx, sherd_log_level level, const char *text);

typedef struct sherd_log {
    sherd_log_fn fn; /* NULL: silence */
    void *ctx;
} sherd_log;

/* Metadata only (handles, tables, queues); tensors come from the device. Frees are told the size. NULL members mean
 * malloc and free. `alloc` returns memory aligned to 64 bytes or NULL. */
typedef struct sherd_allocator {
    void *(*alloc)(void *ctx, size_t bytes);
    void (*release)(void *ctx, void *block, size_t bytes);
    void *ctx;
} sherd_allocator;

/* ----------------------------------------------------------------------------------------------------- element types */

typedef enum sherd_dtype { SHERD_FP32 = 0, SHERD_BF16 = 1, SHERD_FP16 = 2 } sherd_dtype;
SHERD_API const char *sherd_dtype_name(sherd_dtype dtype); /* "fp32" */
SHERD_API uint64_t sherd_dtype_bytes(sherd_dtype dtype);

/* ------------------------------------------------------------------------------------------------------------- memory */

typedef enum sherd_tier { SHERD_TIER_DEVICE = 0, SHERD_TIER_HOST = 1, SHERD_TIER_DISK = 2, SHERD_TIERS = 3 } sherd_tier;

/* X(name, text, planned). planned = 1: the engine's own categories, equal to the plan to the byte. */
#define SHERD_CATEGORY_MAP(X)                                                                                          \
    X(PARAMETERS, "parameters", 1)              /* working copies, as forward and backward read them */                \
    X(GRADIENTS, "gradients", 1)                /* the gradient ring */                                                \
    X(GRADIENTS_SHARED, "gradients/shared", 1)  /* gradients of parameters that are used several times */              \
    X(GRAD_SUMS, "grad_sums", 1)                /* summed gradients of the owned slices (or full size) */              \
    X(MASTER, "master", 1)                      /* fp32 masters or their remainders, where the copy is not the master */ \
    X(MOMENTS, "moments", 1)                    /* the optimizer's state */                                            \
    X(STAGING, "staging", 1)                    /* what passes between device, host and disk on its way */             \
    X(SPECULATION, "speculation", 1)            /* second buffers of updates made before the vote */                   \
    X(COMMUNICATION, "communication", 1)        /* control blocks, receive scratch, the vote */                        \
    X(GRADIENTS_PARKED, "gradients/parked", 0)  /* gradients that came while their ring slot was taken */              \
    X(ACTIVATIONS, "activations", 0)            /* the client's */                                                     \
    X(WORKSPACE, "workspace", 0)                /* the client's, and libraries' scratch */                             \
    X(METADATA, "metadata", 0)                  /* handles, tables, queues */                                          \
    X(RUNTIME, "runtime", 0)                    /* taken by CUDA, cuBLAS, NCCL at their creation */                    \
    X(ROUNDING, "rounding", 0)                  /* what pages and alignment add to all of the above */

typedef enum sherd_category {
#define X(name, text, planned) SHERD_CAT_##name,
    SHERD_CATEGORY_MAP(X)
#undef X
    SHERD_CATEGORIES
} sherd_category;

SHERD_API const char *sherd_category_name(sherd_category category); /* "gradients/shared" */
SHERD_API int sherd_category_planned(sherd_category category);
SHERD_API const char *sherd_tier_name(sherd_tier tier); /* "device" */

/* Bytes by tier and category. On the host device the device tier is main memory. */
typedef struct sherd_memory {
    uint64_t bytes[SHERD_TIERS][SHERD_CATEGORIES];
} sherd_memory;

SHERD_API uint64_t sherd_memory_total(const sherd_memory *memory, sherd_tier tier);

#if defined(__cplusplus)
}
#endif

#endif
