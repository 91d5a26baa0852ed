/* SPDX-License-Identifier: MIT
 *
 * The op table on CUDA. Every op is enqueued on the device's compute stream and returns; the host waits only in settle,
 * for downloads, and where it has run far ahead of the GPU. Kernels are in cuda_*.cu, products behind cuda_blas.h,
 * attention behind attention_cuda.h.
 *
 * Copies go through pinned memory that is handed out in one direction and reused once everything in it has arrived:
 * settle waits for the last download, which stands behind every upload before it.
 *
 * No call that could block on a GPU that hangs: events are polled, with a limit; a mark after every so many ops is
 * waited for before the stream's queue could be full; and what a hanging GPU may still use is not freed.
 *
 * Ops have no status of their own. The first failure is kept, later ops do nothing, and the next matmul or settle,
 * which every pass ends with, returns it.
 */
#include <cuda_runtime_api.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "models/attention_cuda.h"
#include "models/cuda_blas.h"
#include "models/cuda_ops.h"
#include "models/scratch.h"
#include "sherd/sherd_cuda.h"

#define STAGING_BYTES ((size_t)1 << 20)
#define DOWNLOADS 4
#define MARK_EVERY 48 /* ops; each is up to four launches */
#define MARKS 3
#define FIRST_NAP_NS 2000
#define LONGEST_NAP_NS 200000

typedef struct download_request {
    void *to;
    const char *from; /* in the staging memory */
    size_t bytes;
} download_request;

typedef struct cuda_ops {
    sherd_ops base;
    sherd_device *device;
    cudaStream_t stream;
    int ordinal;
    int64_t wait_limit_ns;
    sherd_cuda_blas *blas;
    float *scratch; /* of attention's backward */
    char *staging;
    size_t staging_bytes, staged;
    cudaEvent_t copied; /* recorded after the last copy */
    download_request downloads[DOWNLOADS];
    int n_downloads;
    cudaEvent_t marks[MARKS];
    uint32_t issued, mark; /* ops since the last mark; marks recorded */
    sherd_error error;     /* the first failure */
    char text[900];
} cuda_ops;

/* ------------------------------------------------------------------------------------------------------------- failing
 */

static int check(cuda_ops *c, int code, const char *what)
{
    if (code != (int)cudaSuccess && c->error.status == SHERD_OK) {
        sherd__model_fail(&c->error, SHERD_EDEVICE,
                          "model: '%s' on GPU %d failed: %s (%s); it, or a kernel before it, broke the GPU's context: "
                          "end this process",
                          what, c->ordinal, cudaGetErrorString((cudaError_t)code), cudaGetErrorName((cudaError_t)code));
    }
    return c->error.status == SHERD_OK;
}

static sherd_status first_error(const cuda_ops *c, sherd_error *err)
{
    if (err && c->error.status != SHERD_OK) {
        *err = c->error;
    }
    return c->error.status;
}

/* The device is the calling thread's current one between these. */
static int enter(const cuda_ops *c)
{
    int former = c->ordinal;
    (void)cudaGetDevice(&former);
    if (former != c->ordinal) {
        (void)cudaSetDevice(c->ordinal);
    }
    return former;
}

static void leave(const cuda_ops *c, int former)
{
    if (former != c->ordinal) {
        (void)cudaSetDevice(former);
    }
}

/* ------------------------------------------------------------------------------------------------------------- waiting
 */

static int64_t now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* cudaSuccess, an error, or cudaErrorNotReady where the limit is over. event NULL: the whole stream. */
static int poll(const cuda_ops *c, cudaEvent_t event)
{
    int64_t begin = now_ns(), nap = FIRST_NAP_NS;
    int code;
    while ((code = (int)(event ? cudaEventQuery(event) : cudaStreamQuery(c->stream))) == (int)cudaErrorNotReady &&
           now_ns() - begin < c->wait_limit_ns) {
        struct timespec pause = {.tv_sec = 0, .tv_nsec = (long)nap};
        (void)nanosleep(&pause, NULL);
        nap = nap * 2 < LONGEST_NAP_NS ? nap * 2 : LONGEST_NAP_NS;
    }
    return code;
}

static int await(cuda_ops *c, cudaEvent_t event, const char *what)
{
    int code = poll(c, event);
    if (code == (int)cudaErrorNotReady && c->error.status == SHERD_OK) {
        sherd__model_fail(&c->error, SHERD_ETIMEOUT,
                          "model: waited %.1f s for GPU %d at '%s': a kernel hangs, or the GPU is lost; see the "
                          "driver's log (dmesg, Xid)",
                          (double)c->wait_limit_ns * 1e-9, c->ordinal, what);
        return 0;
    }
    return check(c, code, what);
}

/* Before an op: 0 after a failure. Keeps the stream's queue short of what would block a launch. */
static int may_issue(cuda_ops *c)
{
    if (c->error.status != SHERD_OK) {
        return 0;
    }
    if (++c->issued < MARK_EVERY) {
        return 1;
    }
    c->issued = 0;
    cudaEvent_t oldest = c->marks[c->mark % MARKS];
    if (c->mark >= MARKS && !await(c, oldest, "pacing")) {
        return 0;
    }
    c->mark++;
    return check(c, (int)cudaEventRecord(oldest, c->stream), "cudaEventRecord");
}

/* -------------------------------------------------------------------------------------------------------------- copies
 */

/* Everything staged has arrived: hands the downloads out and begins anew. */
static int empty_staging(cuda_ops *c)
{
    if (c->staged > 0 && !await(c, c->copied, "copies")) {
        return 0;
    }
    for (int i = 0; i < c->n_downloads; i++) {
        memcpy(c->downloads[i].to, c->downloads[i].from, c->downloads[i].bytes);
    }
    c->n_downloads = 0;
    c->staged = 0;
    return 1;
}

/* Room for at most `wanted` bytes, NULL after a failure. */
static char *stage(cuda_ops *c, size_t wanted, size_t *got)
{
    if (c->staged == c->staging_bytes && !empty_staging(c)) {
        return NULL;
    }
    char *here = c->staging + c->staged;
    size_t left = c->staging_bytes - c->staged;
    *got = wanted < left ? wanted : left;
    size_t taken = (*got + 15) / 16 * 16;
    c->staged += taken < left ? taken : left;
    return here;
}

static int copy(cuda_ops *c, void *to, const void *from, size_t bytes)
{
    return check(c, (int)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, c->stream), "cudaMemcpyAsync") &&
           check(c, (int)cudaEventRecord(c->copied, c->stream), "cudaEventRecord");
}

static void upload(sherd_ops *ops, void *to, const void *from, size_t bytes)
{
    cuda_ops *c = (cuda_ops *)ops;
    int former = enter(c);
    for (size_t at = 0, n = 0; at < bytes && may_issue(c); at += n) {
        char *here = stage(c, bytes - at, &n);
        if (!here) {
            break;
        }
        memcpy(here, (const char *)from + at, n);
        if (!copy(c, (char *)to + at, here, n)) {
            break;
        }
    }
    leave(c, former);
}

static void download(sherd_ops *ops, void *to, const void *from, size_t bytes)
{
    cuda_ops *c = (cuda_ops *)ops;
    int former = enter(c);
    for (size_t at = 0, n = 0; at < bytes && may_issue(c); at += n) {
        if (c->n_downloads == DOWNLOADS && !empty_staging(c)) {
            break;
        }
        char *here = stage(c, bytes - at, &n);
        if (!here || !copy(c, here, (const char *)from + at, n)) {
            break;
        }
        c->downloads[c->n_downloads++] = (download_request){(char *)to + at, here, n};
    }
    leave(c, former);
}

static sherd_status settle(sherd_ops *ops, sherd_error *err)
{
    cuda_ops *c = (cuda_ops *)ops;
    int former = enter(c);
    if (c->error.status == SHERD_OK) {
        (void)empty_staging(c);
    }
    leave(c, former);
    return first_error(c, err);
}

/* ----------------------------------------------------------------------------------------------------------------- ops
 */

/* An op that is one launcher. */
#define OP(name, type)                                                                                                 \
    static void name(sherd_ops *ops, const type *args)                                                                 \
    {                                                                                                                  \
        cuda_ops *c = (cuda_ops *)ops;                                                                                 \
        int former = enter(c);                                                                                         \
        if (may_issue(c)) {                                                                                            \
            (void)check(c, sherd__cuda_##name(c->stream, c->base.dtype, args), #name);                                 \
        }                                                                                                              \
        leave(c, former);                                                                                              \
    }
OP(rmsnorm, sherd_rmsnorm)
OP(rmsnorm_backward, sherd_rmsnorm)
OP(rope, sherd_rope)
OP(swiglu, sherd_swiglu)
OP(swiglu_backward, sherd_swiglu)
OP(embedding, sherd_embedding)
OP(embedding_backward, sherd_embedding)
OP(cross_entropy, sherd_xent)
#undef OP

static void narrow(sherd_ops *ops, int64_t elems, const float *x, void *y, sherd_dtype type, int beta)
{
    cuda_ops *c = (cuda_ops *)ops;
    sherd_cuda_narrow args = {elems, x, y, type, beta};
    int former = enter(c);
    if (may_issue(c)) {
        (void)check(c, sherd__cuda_narrow(c->stream, &args), "narrow");
    }
    leave(c, former);
}

/* What attention reports is kept like any other failure. */
static void attention(sherd_ops *ops, const sherd_attention *args)
{
    cuda_ops *c = (cuda_ops *)ops;
    int former = enter(c);
    if (may_issue(c)) {
        c->error.status = sherd__attention_cuda_forward(c->stream, c->base.dtype, args, &c->error);
    }
    leave(c, former);
}

static void attention_backward(sherd_ops *ops, const sherd_attention *args)
{
    cuda_ops *c = (cuda_ops *)ops;
    int former = enter(c);
    if (may_issue(c)) {
        c->error.status = sherd__attention_cuda_backward(c->stream, c->base.dtype, args, c->scratch, &c->error);
    }
    leave(c, former);
}

static sherd_status matmul(sherd_ops *ops, const sherd_matmul *args, sherd_error *err)
{
    cuda_ops *c = (cuda_ops *)ops;
    sherd_status status;
    int former = enter(c);
    if (may_issue(c)) {
        status = sherd__cuda_blas_matmul(c->blas, c->stream, args, err);
    } else {
        status = first_error(c, err);
    }
    leave(c, former);
    return status;
}

/* ----------------------------------------------------------------------------------------------------------- lifecycle
 */

static const char *describe(const sherd_ops *ops)
{
    return ((const cuda_ops *)ops)->text;
}

static void destroy(sherd_ops *ops)
{
    cuda_ops *c = (cuda_ops *)ops;
    int former = enter(c);
    int idle = poll(c, NULL) != (int)cudaErrorNotReady;
    if (idle) { /* else cudaFreeHost would wait without a limit */
        if (c->staging) {
            (void)cudaFreeHost(c->staging);
        }
        if (c->copied) {
            (void)cudaEventDestroy(c->copied);
        }
        for (int i = 0; i < MARKS; i++) {
            if (c->marks[i]) {
                (void)cudaEventDestroy(c->marks[i]);
            }
        }
    }
    sherd__cuda_blas_destroy(c->blas);
    sherd__release(c->device, c->scratch);
    leave(c, former);
    free(c);
}

static sherd_attention largest_attention(const sherd_ops_options *o)
{
    return (sherd_attention){.batch = o->limits.batch,
                             .seq = o->limits.seq,
                             .heads = o->limits.heads,
                             .kv_heads = o->limits.kv_heads,
                             .dim = o->limits.dim};
}

uint64_t sherd__ops_cuda_bytes(const sherd_ops_options *o)
{
    sherd_attention largest = largest_attention(o);
    return o->limits.forward_only ? 0 : sherd__attention_cuda_scratch(o->dtype, &largest);
}

static sherd_status refused(sherd_error *err, int code, const char *call)
{
    return sherd__model_fail(err, code == (int)cudaErrorMemoryAllocation ? SHERD_ENOMEM : SHERD_EDEVICE,
                             "model: %s failed: %s (%s)", call, cudaGetErrorString((cudaError_t)code),
                             cudaGetErrorName((cudaError_t)code));
}

static sherd_status make_staging(cuda_ops *c, sherd_error *err)
{
    c->staging_bytes = STAGING_BYTES;
    int code = (int)cudaHostAlloc((void **)&c->staging, c->staging_bytes, cudaHostAllocPortable);
    if (code != (int)cudaSuccess) {
        c->staging = NULL;
        return refused(err, code, "cudaHostAlloc");
    }
    code = (int)cudaEventCreateWithFlags(&c->copied, cudaEventDisableTiming);
    for (int i = 0; i < MARKS && code == (int)cudaSuccess; i++) {
        code = (int)cudaEventCreateWithFlags(&c->marks[i], cudaEventDisableTiming);
    }
    return code == (int)cudaSuccess ? SHERD_OK : refused(err, code, "cudaEventCreateWithFlags");
}

static sherd_status fill(cuda_ops *c, const sherd_ops_options *o, sherd_error *err)
{
    struct cudaDeviceProp properties;
    sherd_attention largest = largest_attention(o);
    uint64_t scratch = sherd__ops_cuda_bytes(o);
    int code = (int)cudaGetDeviceProperties(&properties, c->ordinal);
    if (code != (int)cudaSuccess) {
        return refused(err, code, "cudaGetDeviceProperties");
    }
    sherd_status status = make_staging(c, err);
    if (status == SHERD_OK) {
        status = sherd__attention_cuda_prepare(o->dtype, &largest, err);
    }
    if (status == SHERD_OK && scratch > 0) {
        status = sherd__scratch(o->device, scratch, &c->scratch, err);
    }
    if (status == SHERD_OK) {
        status = sherd__cuda_blas_create(o, properties.major, &c->blas, err);
    }
    return status;
}

static const sherd_ops table = {
    .destroy = destroy,
    .describe = describe,
    .matmul = matmul,
    .rmsnorm = rmsnorm,
    .rmsnorm_backward = rmsnorm_backward,
    .rope = rope,
    .attention = attention,
    .attention_backward = attention_backward,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .embedding = embedding,
    .embedding_backward = embedding_backward,
    .cross_entropy = cross_entropy,
    .narrow = narrow,
    .upload = upload,
    .download = download,
    .settle = settle,
};

sherd_status sherd__ops_cuda_create(const sherd_ops_options *o, sherd_ops **out, sherd_error *err)
{
    cuda_ops *c = calloc(1, sizeof *c);
    if (!c) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the CUDA ops' handle");
    }
    c->base = table;
    c->base.dtype = o->dtype;
    c->device = o->device;
    c->wait_limit_ns = (int64_t)(o->fail_after_s * 1e9);
    c->stream = (cudaStream_t)sherd_device_cuda_stream(o->device);
    c->ordinal = sherd_device_cuda_ordinal(o->device);
    int former = enter(c);
    sherd_status status = fill(c, o, err);
    leave(c, former);
    if (status != SHERD_OK) {
        destroy(&c->base);
        return status;
    }
    snprintf(c->text, sizeof c->text, "CUDA ops on GPU %d, products: %s", c->ordinal,
             sherd__cuda_blas_describe(c->blas));
    *out = &c->base;
    return SHERD_OK;
}
