/* SPDX-License-Identifier: MIT
 *
 * The device seam: memory, streams, events, and the few kernels a sharded step needs. Everything above is written once
 * over this table. Implementations: host (a stream is a worker thread), check (a scheduler that draws legal orders and
 * proves that no two conflicting accesses lack a wait), cuda.
 *
 * Streams execute their operations in order. `compute` is the caller's stream: on the host it is the calling thread
 * itself, its operations run at once and its waits block (within the device's limit). All other enqueues return at once
 * and never allocate.
 *
 * Operations are passed by value; what they point to (tables of spans, arrays of source addresses, scalars) must stay
 * valid until they have run. Kernels declare what they read and write by their arguments; host_call and touch say so
 * explicitly.
 *
 * A failed operation poisons the device: the first error is kept, all later operations are skipped, all waits return
 * the error.
 */
#ifndef SHERD_DEVICE_DEVICE_H
#define SHERD_DEVICE_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/alloc.h"
#include "base/interval.h"
#include "base/ledger.h"
#include "optim/muon.h"
#include "optim/optim.h"
#include "optim/trust.h"

typedef struct sherd__stream sherd__stream;
typedef struct sherd__event sherd__event;
/* A device's marks beside one of its rank's flags: what the device had been given when the flag took a value. Ranks of
 * one process wait for them on their own devices, so that a flag may be set before the work is done. */
typedef struct sherd__post sherd__post;

/* Who an operation belongs to: for traces, failure sentences and race reports. `name` is static. */
typedef struct sherd__tag {
    const char *name;
    int32_t bucket; /* -1: none */
    int64_t step;
} sherd__tag;

typedef struct sherd__access {
    const void *address;
    uint64_t bytes;
    int32_t write;
} sherd__access;

/* dst[i] = or += the balanced tree sum of src[0..n)[i], i in [0, elems): leaves widened to fp32, inner nodes fp32
 * (NUMERICS). dst may be one of the sources at the same place. elems is a multiple of 256. */
typedef struct sherd__tree_sum {
    const void *const *src;  /* [n_src] base addresses; stays valid */
    uint32_t n_src;
    uint64_t src_offset;     /* bytes added to every base */
    sherd_dtype src_dtype;
    sherd_dtype dst_dtype;   /* bf16 only with narrow and without add */
    void *dst;
    int64_t elems;
    int32_t add;             /* 0: assign (never 0 + x) */
    int32_t narrow;          /* 1: the result is rounded to bf16 (and kept as fp32 or bf16 by dst_dtype) */
    sherd__norm *norm;       /* not NULL: the results' exact norm and finite check, in the same pass */
    uint64_t first_block;    /* number of the first 256-element block */
} sherd__tree_sum;

/* One pass over spans of a bucket: g = sum·factor, optimizer, master and moments, 16-bit emit. Nothing is written where
 * scalars say skip. */
typedef struct sherd__update {
    sherd_optimizer kind;
    const sherd__step_scalars *scalars; /* read when it runs */
    const void *sum;         /* fp32 or bf16; element 0 is bucket element `origin`, as for all below */
    sherd_dtype sum_dtype;
    float *master;           /* fp32; for fp32 parameters this is the working copy. NULL: see `remainder` */
    void *moment[SHERD__MAX_MOMENTS]; /* of moment_dtype; NULL where the optimizer has fewer */
    /* Where the new values go, each on its own; NULL: in place. Not in place: `master` and `moment` are only read, so a
     * refused speculation can be redone from them. A place may not overlap another array than its own, wholly. */
    float *master_out;
    void *moment_out[SHERD__MAX_MOMENTS];
    sherd_dtype moment_dtype; /* fp32, or bf16: widened, and rounded once when the element is done */
    uint16_t *emit;          /* 16-bit working copy, or NULL */
    sherd_dtype emit_dtype;  /* its type: fp16, else bf16 */
    int64_t origin;
    const sherd__span *spans; /* bucket elements; stays valid */
    uint32_t n_spans;
    const float *ratios;      /* [tensor] what stands in SHERD__TENSOR_SCALAR; NULL: the group's own */
    sherd__trust_sums *trust; /* [tensor] of `trust` below, which adds to them */
    /* Not NULL: stands for the master together with `emit`, which is bf16 and read too (base/half.h); both in place. */
    uint16_t *remainder;
    /* The parts around whole matrices:
     * direct: `master` is where the directions go, which is not read, and `moment` the matrix's; nothing is emitted.
     * apply: `sum` is the matrix of steps, fp32, which no factor multiplies; no moments. */
    sherd__part part;
} sherd__update;

/* A matrix of directions becomes one of steps (optim/muon.h). */
typedef struct sherd__orthogonal {
    const sherd__step_scalars *scalars; /* read when it runs: nothing is done where they say skip. NULL: never skipped */
    float *matrix;                      /* rows × cols, a row after the other; in: directions, out: steps, never −0 */
    float *scratch;                     /* sherd__muon_scratch_elems(rows, cols); begins at 64 bytes; overwritten */
    int64_t rows, cols;                 /* ≥ 1 */
    int32_t steps;                      /* ≥ 0 */
} sherd__orthogonal;

/* Waiting for words that other ranks write. Satisfied when every flag f has (int32_t)(*f − value) ≥ 0. */
typedef struct sherd__await {
    _Atomic uint32_t *const *flags; /* [count]; stays valid; NULL entries are satisfied */
    uint32_t count;
    uint32_t value;
    const char *site;        /* static: names this wait in race reports and removal tests */
    /* Called from time to time while waiting (at least every 20 ms) with the index not yet satisfied; not SHERD_OK ends
     * the wait. May be NULL. */
    sherd_status (*poll)(void *ctx, uint32_t which, int64_t waited_ns, const sherd__tag *tag, sherd_error *err);
    void *ctx;
    /* [count] or NULL: where the owner of a flag says (before the flag) that it has a post beside it: a sherd__post's
     * address in this process, 0: none. Only devices that make posts look here. */
    _Atomic uint64_t *const *posts;
} sherd__await;

typedef void (*sherd__host_fn)(void *arg);
/* May take long and may fail: an error poisons the device. */
typedef sherd_status (*sherd__work_fn)(void *arg, sherd_error *err);

/* Meeting the other ranks, as one operation: say two words, arrive, wait for the others' arrival, look at theirs. */
typedef struct sherd__meet {
    _Atomic uint32_t *word[2]; /* stored before the flag */
    uint32_t says[2];
    _Atomic uint32_t *flag;
    uint32_t value;
    sherd__post *post;   /* beside `flag`, or NULL */
    sherd__await await;  /* the others */
    /* When all have arrived, before anything enqueued later moves; it must not call the device, but may poison it. The
     * own words may not be there yet, so they are passed. */
    void (*look)(void *arg, const uint32_t says[2]);
    void *arg;
} sherd__meet;

/* Memory that the devices of several ranks reach. For devices with a memory of their own; elsewhere the communicator
 * makes windows itself, of main memory, and sherd__device_watch brings those within a device's reach. EUNSUPPORTED from
 * `reach`, `lend` and `borrow` means: another way must be taken; the device is as good as before. */
typedef struct sherd__share_ops {
    int32_t (*number)(const sherd_device *device); /* of its memory, within this process */
    uint64_t (*whole)(uint64_t bytes, int32_t lent); /* what `bytes` take; 0: too many. lent: to other processes */
    sherd_status (*get)(sherd_device *device, uint64_t whole, void **out, sherd_error *err); /* zeroed */
    /* Never blocks on a device that hangs: then the memory stays. device NULL: it is gone. */
    void (*put)(sherd_device *device, int32_t number, void *block);
    /* This device's kernels can read the memory of that number from now on. */
    sherd_status (*reach)(sherd_device *device, int32_t number, sherd_error *err);
    /* To and from other processes. `block` is put only when nobody borrows it. */
    sherd_status (*lend)(sherd_device *device, void *block, unsigned char handle[64], sherd_error *err);
    sherd_status (*borrow)(sherd_device *device, const unsigned char handle[64], void **out, sherd_error *err);
    void (*give_back)(sherd_device *device, void *block);
    /* 1: nothing that this device was given is under way; 0: it hangs. Within the device's limit. */
    int (*quiet)(sherd_device *device);
    sherd_status (*post_create)(sherd_device *device, sherd__post **out, sherd_error *err);
    void (*post_destroy)(sherd__post *post); /* also after its device */
} sherd__share_ops;

typedef struct sherd__device_ops {
    void (*destroy)(sherd_device *device);
    /* Raw memory of a tier; *rounding is what the device adds to `bytes`. Booked by sherd__device_alloc, not here. */
    sherd_status (*memory_get)(sherd_device *device, sherd_tier tier, uint64_t bytes, void **out, uint64_t *rounding,
                               sherd_error *err);
    void (*memory_put)(sherd_device *device, sherd_tier tier, void *block, uint64_t bytes);
    /* Bytes of the device tier that could still be had, within the ledger's limit. */
    sherd_status (*memory_free)(sherd_device *device, uint64_t *out, sherd_error *err);
    /* `capacity`: operations that may be pending at once; enqueueing into a full stream waits within the limit. */
    sherd_status (*stream_create)(sherd_device *device, const char *name, uint32_t capacity, sherd__stream **out,
                                  sherd_error *err);
    void (*stream_destroy)(sherd__stream *stream); /* waits for what is enqueued; NULL is legal */
    sherd_status (*event_create)(sherd_device *device, sherd__event **out, sherd_error *err);
    void (*event_destroy)(sherd__event *event);
    /* record … wait: the wait is for the latest record enqueued before the wait was; none yet: nothing to wait for.
     * Each may be re-recorded, on another stream only once the former record has been reached. */
    sherd_status (*event_record)(sherd__stream *stream, sherd__event *event);
    sherd_status (*event_wait)(sherd__stream *stream, sherd__event *event, const char *site);
    /* The calling thread waits for the latest record, whatever the compute stream does. */
    sherd_status (*event_sync)(sherd_device *device, sherd__event *event, const char *site, sherd_error *err);
    /* When the latest completed record was reached, CLOCK_MONOTONIC; 0: never. */
    int64_t (*event_time_ns)(sherd__event *event);

    sherd_status (*copy)(sherd__stream *stream, sherd__tag tag, void *dst, const void *src, uint64_t bytes);
    /* Byte ranges relative to base; ranges stay valid. */
    sherd_status (*zero)(sherd__stream *stream, sherd__tag tag, void *base, const sherd__byte_range *ranges,
                         uint32_t n);
    /* dst = or += src, narrowed or widened; add is done in fp32 and narrowed once. */
    sherd_status (*convert)(sherd__stream *stream, sherd__tag tag, void *dst, sherd_dtype dst_dtype, const void *src,
                            sherd_dtype src_dtype, int64_t elems, int32_t add);
    /* elems values of `from` at data become values of `to`, a 16-bit type other than `from`, from data on. What lies
     * behind them, up to where the former ones ended, is undefined then. Memory of the device, aligned to 16 bytes. */
    sherd_status (*narrow)(sherd__stream *stream, sherd__tag tag, void *data, sherd_dtype to, sherd_dtype from,
                           int64_t elems);
    /* fp32 into bf16 and what that leaves (base/half.h), and back. */
    sherd_status (*split)(sherd__stream *stream, sherd__tag tag, uint16_t *half, uint16_t *remainder,
                          const float *values, int64_t elems);
    sherd_status (*join)(sherd__stream *stream, sherd__tag tag, float *values, const uint16_t *half,
                         const uint16_t *remainder, int64_t elems);
    sherd_status (*tree_sum)(sherd__stream *stream, sherd__tag tag, const sherd__tree_sum *sum);
    /* dst[0..n_sum) = sums, dst[n_sum..n_sum+n_min) = minima over n_src arrays at src[i] + offset (bytes). dst may not
     * be a source. */
    sherd_status (*reduce_u64)(sherd__stream *stream, sherd__tag tag, uint64_t *dst, const void *const *src,
                               uint32_t n_src, uint64_t offset, uint32_t n_sum, uint32_t n_min);
    /* sherd__step_prepare on the device's memory; rules stay valid. */
    sherd_status (*prepare)(sherd__stream *stream, sherd__tag tag, const sherd__step_rules *rules, const uint64_t *vote,
                            sherd__step_state *state, sherd__step_scalars *out);
    sherd_status (*update)(sherd__stream *stream, sherd__tag tag, const sherd__update *update);
    /* The norms of an update's master and of its directions are added to update->trust; nothing else is written. Not where
     * scalars say skip. Only for optimizers with a direction. */
    sherd_status (*trust)(sherd__stream *stream, sherd__tag tag, const sherd__update *update);
    sherd_status (*orthogonalise)(sherd__stream *stream, sherd__tag tag, const sherd__orthogonal *orthogonal);
    /* Words in memory that other ranks watch: release semantics / acquire semantics. */
    sherd_status (*signal)(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value);
    sherd_status (*await)(sherd__stream *stream, sherd__tag tag, const sherd__await *await);
    /* fn(arg) in stream order; it must not call the device. accesses are copied (at most 4). */
    sherd_status (*host_call)(sherd__stream *stream, sherd__tag tag, sherd__host_fn fn, void *arg,
                              const sherd__access *accesses, uint32_t n);
    /* The CPU's own work in stream order: fn(arg) on the stream's thread once everything before it has been carried out.
     * Unlike host_call it may block (with a limit) and fail. It must not call the device. Not on the compute stream. `accesses`
     * (any number) stay valid. */
    sherd_status (*host_work)(sherd__stream *stream, sherd__tag tag, sherd__work_fn fn, void *arg,
                              const sherd__access *accesses, uint32_t n);
    /* The client reads or writes this range now, on the compute stream. Only the checking device does anything here. */
    sherd_status (*touch)(sherd_device *device, sherd__tag tag, sherd__access access);
    /* One operation for what stands at both ends of a collective. Where `post` is not NULL the flag may take its value
     * before the work enqueued so far is done: who waits for it waits for the post too. */
    sherd_status (*meet)(sherd__stream *stream, sherd__tag tag, const sherd__meet *meet);
    sherd_status (*announce)(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value,
                             sherd__post *post);
    const sherd__share_ops *share; /* NULL: memory is main memory */
    /* NULL, or: keeps the client's freed blocks for later requests. get and put: 1 if it had, or keeps, the block; flush: 1
     * if something was given up. What is kept is booked as rounding. */
    int (*recycle_get)(sherd_device *device, uint64_t bytes, void **out, uint64_t *rounding);
    int (*recycle_put)(sherd_device *device, void *block, uint64_t bytes);
    int (*recycle_flush)(sherd_device *device);
} sherd__device_ops;

/* Implementations put this first in their own struct and fill it with sherd__device_base_init. */
struct sherd_device {
    const sherd__device_ops *ops;
    sherd_device_kind kind;
    sherd_allocator allocator;
    sherd_log log;
    sherd__ledger ledger;
    sherd__stream *compute;   /* the caller's stream; made by the implementation */
    _Atomic int64_t wait_limit_ns; /* of waits for events; 660 s until the engine sets it from the configuration */
    _Atomic int failed;       /* 1 once poisoned */
    pthread_mutex_t lock;     /* of `first_error` and `blocks` */
    sherd_error first_error;
    struct sherd__block *blocks; /* allocated tensors, so that free finds size, tier and category */
    struct sherd__trace *trace;  /* NULL: off */
    /* Work that waits for other ranks' devices (posts) does not end when they break: where that may be, whoever binds a
     * communicator sets this, and it is asked from time to time while a thread waits for the device. */
    sherd_status (*_Atomic guard)(void *ctx, sherd_error *err);
    void *guard_ctx;
    char description[128];
    const struct sherd__io *io; /* for tests: a hook of the disk tier's system calls; NULL: none */
    char pci[16]; /* bus id of a GPU, "0000:3b:00.0"; "" where there is none */
};

sherd_status sherd__device_base_init(sherd_device *device, const sherd__device_ops *ops,
                                     const sherd_device_options *options, sherd_error *err);
void sherd__device_base_fini(sherd_device *device);
/* Keeps the first error; wakes nobody by itself (implementations poll `failed` at least every 20 ms). Returns its
 * status. */
sherd_status sherd__device_poison(sherd_device *device, const sherd_error *error);
/* SHERD_OK, or the first error copied into *err. */
sherd_status sherd__device_error(sherd_device *device, sherd_error *err);
/* Tensor memory by tier and category, booked in the ledger; 64-byte aligned at least; freed by sherd_device_free. */
sherd_status sherd__device_alloc(sherd_device *device, sherd_tier tier, sherd_category category, uint64_t bytes,
                                 void **out, sherd_error *err);
/* The same for sherd_device_alloc: the device may keep the block when it is freed. */
sherd_status sherd__device_alloc_client(sherd_device *device, sherd_category category, uint64_t bytes, void **out,
                                        sherd_error *err);
/* Trace: no-op where tracing is off; any thread; never allocates. */
void sherd__trace_add(sherd_device *device, const char *stream, sherd__tag tag, int64_t begin_ns, int64_t end_ns);
int64_t sherd__now_ns(void); /* CLOCK_MONOTONIC */

sherd_status sherd__device_create_host(const sherd_device_options *options, sherd_device **out, sherd_error *err);
sherd_status sherd__device_create_check(const sherd_device_options *options, sherd_device **out, sherd_error *err);
/* device/registry.c: sherd_device_create picks by kind; "unsupported: built without CUDA" for what is not there. */

/* The checking device's removal test: waits whose site equals `site` are ignored (NULL: none). */
void sherd__checker_drop(sherd_checker *checker, const char *site);
/* Sites of waits seen so far, in order of first sight; returns how many. */
uint32_t sherd__checker_sites(sherd_checker *checker, const char **out, uint32_t capacity);

/* Metadata (queues, tables) through the device's allocator, booked under METADATA on the host tier. As sherd__alloc and
 * sherd__free. */
void *sherd__device_metadata_alloc(sherd_device *device, size_t count, size_t bytes);
void sherd__device_metadata_free(sherd_device *device, void *block, size_t count, size_t bytes);

/* A rank's thread that blocks on other ranks by any means but this device's waits (a condition variable, a join) says
 * so around it: under the checking device it hands over its turn, or its peers could not move until it returns. Nothing
 * on other devices. The thread must not call the device in between. */
void sherd__device_outside_begin(sherd_device *device);
void sherd__device_outside_end(sherd_device *device);

/* Memory that ranks share but that is not sherd__device_alloc's (windows, control blocks): said to the checking device
 * from its making to its end, or it would not compare ranks' accesses there. Nothing on other devices. */
sherd_status sherd__device_watch(sherd_device *device, const void *address, uint64_t bytes, sherd_error *err);
void sherd__device_unwatch(sherd_device *device, const void *address, uint64_t bytes);

#endif
