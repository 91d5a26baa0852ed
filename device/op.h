/* SPDX-License-Identifier: MIT
 *
 * Operations by value: what the host and the checking device have in common. Both put an operation into a queue and run
 * it later on a CPU thread; they differ in who decides when. The enqueueing half of their ops tables is therefore
 * written once, in op.c, over the stream's `submit`.
 */
#ifndef SHERD_DEVICE_OP_H
#define SHERD_DEVICE_OP_H

#include "device/device.h"
#include "device/host_math.h"

#define SHERD__OP_ACCESSES 4
#define SHERD__OP_HOOK_BYTES 128

typedef enum sherd__op_kind {
    SHERD__OP_HOOK, /* the CUDA device only */
    SHERD__OP_RECORD,
    SHERD__OP_WAIT,
    SHERD__OP_SIGNAL,
    SHERD__OP_AWAIT,
    SHERD__OP_COPY,
    SHERD__OP_ZERO,
    SHERD__OP_CONVERT,
    SHERD__OP_NARROW, /* u.convert, dst is src */
    SHERD__OP_TREE_SUM,
    SHERD__OP_REDUCE_U64,
    SHERD__OP_PREPARE,
    SHERD__OP_UPDATE,
    SHERD__OP_TRUST, /* u.update */
    SHERD__OP_ORTHOGONAL,
    SHERD__OP_HOST_CALL,
    SHERD__OP_HOST_WORK,
    SHERD__OP_TOUCH,
    SHERD__OP_MEET /* where a device takes it as one; else its last part */
} sherd__op_kind;

typedef struct sherd__op {
    sherd__op_kind kind;
    sherd__tag tag;
    union {
        struct {
            sherd_status (*fn)(const void *args, sherd__stream *stream, const sherd__tag *tag);
            _Alignas(8) unsigned char args[SHERD__OP_HOOK_BYTES];
        } hook;
        struct {
            sherd__event *event;
            uint64_t number; /* which record of the event */
            const char *site;
        } event;
        struct {
            _Atomic uint32_t *flag;
            uint32_t value;
            sherd__post *post;
        } signal;
        sherd__await await;
        sherd__meet meet;
        struct {
            void *dst;
            const void *src;
            uint64_t bytes;
        } copy;
        struct {
            void *base;
            const sherd__byte_range *ranges;
            uint32_t n;
        } zero;
        struct {
            void *dst;
            const void *src;
            int64_t elems;
            sherd_dtype dst_dtype, src_dtype;
            int32_t add;
            uint16_t *remainder; /* not NULL: fp32 is split into bf16 and this, or joined from them */
        } convert;
        sherd__tree_sum tree_sum;
        struct {
            uint64_t *dst;
            const void *const *src;
            uint64_t offset;
            uint32_t n_src, n_sum, n_min;
        } reduce;
        struct {
            const sherd__step_rules *rules;
            const uint64_t *vote;
            sherd__step_state *state;
            sherd__step_scalars *out;
        } prepare;
        sherd__update update;
        sherd__orthogonal orthogonal;
        struct {
            sherd__host_fn fn;
            void *arg;
            sherd__access access[SHERD__OP_ACCESSES]; /* touch: access[0] */
            uint32_t n;
        } call;
        struct {
            sherd__work_fn fn;
            void *arg;
            const sherd__access *access;
            uint32_t n;
        } work;
    } u;
} sherd__op;

/* The head of every stream of the host and the checking device. */
struct sherd__stream {
    sherd_device *device;
    const char *name;
    sherd_status (*submit)(sherd__stream *stream, const sherd__op *op);
};

/* Runs a kernel or a host call (not events, flags or touch) on the calling thread and the team. */
void sherd__op_run(const sherd__op *op, const sherd__host_math *math, sherd__team *team);
/* Every await flag at or past its value? Writes the first that is not to *which. Acquire. */
int sherd__await_satisfied(const sherd__await *await, uint32_t *which);

/* Entries of an ops table: build the operation and submit it. */
sherd_status sherd__op_copy(sherd__stream *stream, sherd__tag tag, void *dst, const void *src, uint64_t bytes);
sherd_status sherd__op_zero(sherd__stream *stream, sherd__tag tag, void *base, const sherd__byte_range *ranges,
                            uint32_t n);
sherd_status sherd__op_convert(sherd__stream *stream, sherd__tag tag, void *dst, sherd_dtype dst_dtype, const void *src,
                               sherd_dtype src_dtype, int64_t elems, int32_t add);
sherd_status sherd__op_narrow(sherd__stream *stream, sherd__tag tag, void *data, sherd_dtype to, sherd_dtype from,
                              int64_t elems);
sherd_status sherd__op_split(sherd__stream *stream, sherd__tag tag, uint16_t *half, uint16_t *remainder,
                             const float *values, int64_t elems);
sherd_status sherd__op_join(sherd__stream *stream, sherd__tag tag, float *values, const uint16_t *half,
                            const uint16_t *remainder, int64_t elems);
sherd_status sherd__op_tree_sum(sherd__stream *stream, sherd__tag tag, const sherd__tree_sum *sum);
sherd_status sherd__op_reduce_u64(sherd__stream *stream, sherd__tag tag, uint64_t *dst, const void *const *src,
                                  uint32_t n_src, uint64_t offset, uint32_t n_sum, uint32_t n_min);
sherd_status sherd__op_prepare(sherd__stream *stream, sherd__tag tag, const sherd__step_rules *rules,
                               const uint64_t *vote, sherd__step_state *state, sherd__step_scalars *out);
sherd_status sherd__op_update(sherd__stream *stream, sherd__tag tag, const sherd__update *update);
sherd_status sherd__op_trust(sherd__stream *stream, sherd__tag tag, const sherd__update *update);
sherd_status sherd__op_orthogonalise(sherd__stream *stream, sherd__tag tag, const sherd__orthogonal *orthogonal);
sherd_status sherd__op_signal(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value);
sherd_status sherd__op_await(sherd__stream *stream, sherd__tag tag, const sherd__await *await);
/* As a signal; the post goes unused: for devices whose signals are set when their work is done. */
sherd_status sherd__op_announce(sherd__stream *stream, sherd__tag tag, _Atomic uint32_t *flag, uint32_t value,
                                sherd__post *post);
/* As signals, await and host call, one after the other. */
sherd_status sherd__op_meet(sherd__stream *stream, sherd__tag tag, const sherd__meet *meet);
sherd_status sherd__op_host_call(sherd__stream *stream, sherd__tag tag, sherd__host_fn fn, void *arg,
                                 const sherd__access *accesses, uint32_t n);
/* The CUDA device only: fn gets a copy of `args` (at most SHERD__OP_HOOK_BYTES) on the thread that issues to the stream, in
 * the stream's order, with the stream's GPU current, and may give the stream work of its own. It waits within limits only;
 * where it fails it has poisoned the device. */
sherd_status sherd__op_hook(sherd__stream *stream, sherd__tag tag,
                            sherd_status (*fn)(const void *args, sherd__stream *stream, const sherd__tag *tag),
                            const void *args, size_t bytes);

sherd_status sherd__op_host_work(sherd__stream *stream, sherd__tag tag, sherd__work_fn fn, void *arg,
                                 const sherd__access *accesses, uint32_t n);
/* Calls it on this thread; its error poisons the device. */
sherd_status sherd__op_do_work(sherd_device *device, const sherd__op *op);

/* Those that every device has from here, in the initialiser of its table. */
#define SHERD__OP_ENTRIES                                                                                             \
    .copy = sherd__op_copy, .zero = sherd__op_zero, .convert = sherd__op_convert,                                     \
    .narrow = sherd__op_narrow, .split = sherd__op_split, .join = sherd__op_join,                                     \
    .tree_sum = sherd__op_tree_sum, .reduce_u64 = sherd__op_reduce_u64, .prepare = sherd__op_prepare,                 \
    .update = sherd__op_update, .trust = sherd__op_trust, .orthogonalise = sherd__op_orthogonalise,                   \
    .signal = sherd__op_signal, .await = sherd__op_await, .host_call = sherd__op_host_call,                           \
    .host_work = sherd__op_host_work

/* Memory of the device and host tiers: main memory (device/host_memory.c). */
sherd_status sherd__host_memory_get(sherd_device *device, sherd_tier tier, uint64_t bytes, void **out,
                                    uint64_t *rounding, sherd_error *err);
sherd_status sherd__host_memory_free(sherd_device *device, uint64_t *out, sherd_error *err);
void sherd__host_memory_put(sherd_device *device, sherd_tier tier, void *block, uint64_t bytes);

#endif
