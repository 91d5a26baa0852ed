/* SPDX-License-Identifier: MIT
 *
 * The keeper's life: opens NCCL's communicator, makes every connection that the steps will need (so that no step makes
 * one, and what they take can be measured), serves, and closes it.
 *
 * Leaving is in two parts: ncclCommFinalize is over when every rank has got there, so that nobody's memory goes while a
 * peer still reads it; ncclCommDestroy then only frees. A rank that finds its peers gone, or has failed, aborts
 * instead, which waits for nobody.
 */
#include "comm/nccl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"

#define LEAVE_NS (INT64_C(30) * 1000000000)
#define GRACE_NS (INT64_C(15) * 1000000000)
#define CALLS_NS (INT64_C(2) * 1000000000)
#define WARM_BYTES 64
#define WARM_SOURCE 1024 /* in the control block */
#define WARM_TARGET 2048

static const char creation[] = "creation of the NCCL communicator";

static struct timespec after(int clock, int64_t ns)
{
    struct timespec until;
    (void)clock_gettime(clock, &until);
    int64_t sum = until.tv_nsec + ns % 1000000000;
    until.tv_sec += (time_t)(ns / 1000000000 + sum / 1000000000);
    until.tv_nsec = (long)(sum % 1000000000);
    return until;
}

/* The caller's own limit, between a second and `most`. */
static int64_t within(const sherd__nccl *nccl, int64_t most)
{
    int64_t ns = (int64_t)(nccl->base.fail_after_s * 1e9);
    return ns > most ? most : ns < 1000000000 ? 1000000000 : ns;
}

/* --------------------------------------------------------------------------------------------------------------- open
 */

static sherd__nccl_config config(void)
{
    return (sherd__nccl_config){.size = sizeof(sherd__nccl_config),
                                .magic = SHERD__NCCL_CONFIG_MAGIC,
                                .version = SHERD__NCCL_CONFIG_VERSION,
                                .blocking = 0,
                                .cga_cluster_size = SHERD__NCCL_UNDEFINED,
                                .min_ctas = SHERD__NCCL_UNDEFINED,
                                .max_ctas = SHERD__NCCL_UNDEFINED,
                                .split_share = SHERD__NCCL_UNDEFINED};
}

/* A split belongs to the parent until it is through with it: a parent that does not block is asked. The caller waits
 * for the keeper with a limit, whatever a blocking one does here. */
static int split(sherd__nccl *nccl, sherd__nccl_handle *out)
{
    sherd__nccl_config settings = config();
    int64_t begin = sherd__now_ns();
    uint32_t naps = 0;
    int code = nccl->api->CommSplit(nccl->parent, 0, nccl->base.rank, out, &settings);
    while (code == SHERD__NCCL_IN_PROGRESS && (double)(sherd__now_ns() - begin) * 1e-9 < nccl->base.fail_after_s) {
        sherd__nccl_nap(&naps);
        int asked = nccl->api->CommGetAsyncError(nccl->parent, &code);
        code = asked == SHERD__NCCL_SUCCESS ? code : asked;
    }
    return code;
}

static sherd_status open_nccl(sherd__nccl *nccl, sherd_error *err)
{
    sherd__nccl_config settings = config();
    int code = nccl->parent
                   ? split(nccl, &nccl->made)
                   : nccl->api->CommInitRankConfig(&nccl->made, nccl->base.world, nccl->id, nccl->base.rank, &settings);
    if (code == SHERD__NCCL_SUCCESS && nccl->made)
        code = SHERD__NCCL_IN_PROGRESS; /* a new one may still be under way */
    pthread_mutex_lock(&nccl->calls);
    nccl->comm = nccl->made;
    pthread_mutex_unlock(&nccl->calls);
    if (!nccl->made && (code == SHERD__NCCL_SUCCESS || code == SHERD__NCCL_IN_PROGRESS))
        return sherd__fail(err, SHERD_ETIMEOUT, "NCCL made no communicator within %g s in the %s",
                           nccl->base.fail_after_s, creation);
    return sherd__nccl_settle(nccl, code, 0, creation, err);
}

static sherd_status open_memory(sherd__nccl *nccl, sherd_error *err)
{
    const char *call = "cudaMalloc";
    void *block = NULL;
    int code = (int)cudaMalloc(&block, SHERD__CONTROL_SIZE);
    nccl->control = block;
    if (code == (int)cudaSuccess) {
        call = "cudaHostAlloc";
        block = NULL;
        code = (int)cudaHostAlloc(&block, SHERD__NCCL_WORDS * sizeof *nccl->words, cudaHostAllocPortable);
        nccl->words = block;
    }
    if (code == (int)cudaSuccess) {
        call = "cudaStreamCreateWithFlags";
        code = (int)cudaStreamCreateWithFlags(&nccl->stream, cudaStreamNonBlocking);
    }
    for (int i = 0; code == (int)cudaSuccess && i < SHERD__NCCL_MARKS; i++) {
        call = "cudaEventCreateWithFlags";
        code = (int)cudaEventCreateWithFlags(&nccl->mark[i].begin, cudaEventDisableTiming);
        if (code == (int)cudaSuccess)
            code = (int)cudaEventCreateWithFlags(&nccl->mark[i].end, cudaEventDisableTiming);
    }
    return code == (int)cudaSuccess ? SHERD_OK : sherd__cuda_refused(err, code, call);
}

static sherd_status clear(sherd__nccl *nccl, sherd_error *err)
{
    sherd__cuda_zero args = {.base = nccl->control, .n_ranges = 1};
    args.n_tiles = (SHERD__CONTROL_SIZE + SHERD__CUDA_ZERO_TILE - 1) / SHERD__CUDA_ZERO_TILE;
    args.range[0] = (sherd__cuda_zero_range){0, SHERD__CONTROL_SIZE, 0};
    int code = sherd__cuda_launch_zero(&args, nccl->stream);
    return code == (int)cudaSuccess ? SHERD_OK : sherd__cuda_refused(err, code, "zero kernel");
}

/* One message to and from every peer: NCCL connects ranks when they first talk. */
static int greet(sherd__nccl *nccl)
{
    const sherd__nccl_api *api = nccl->api;
    int code = api->GroupStart();
    if (code != SHERD__NCCL_SUCCESS)
        return code;
    for (int32_t peer = 0; peer < nccl->base.world && code == SHERD__NCCL_SUCCESS; peer++) {
        if (peer == nccl->base.rank)
            continue;
        code = api->Send(nccl->control + WARM_SOURCE, WARM_BYTES, SHERD__NCCL_INT8, peer, nccl->comm, nccl->stream);
        if (code == SHERD__NCCL_SUCCESS)
            code = api->Recv(nccl->control + WARM_TARGET, WARM_BYTES, SHERD__NCCL_INT8, peer, nccl->comm, nccl->stream);
    }
    int ended = api->GroupEnd();
    return code != SHERD__NCCL_SUCCESS ? code : ended;
}

static sherd_status connect_peers(sherd__nccl *nccl, sherd_error *err)
{
    uint64_t word = 1;
    pthread_mutex_lock(&nccl->calls);
    int code = greet(nccl);
    pthread_mutex_unlock(&nccl->calls);
    sherd_status status = sherd__nccl_settle(nccl, code, 0, creation, err);
    if (status == SHERD_OK)
        status = sherd__nccl_idle(nccl, creation, err);
    return status == SHERD_OK ? sherd__nccl_agree(nccl, creation, &word, 1, err) : status;
}

static sherd_status open_all(sherd__nccl *nccl, sherd_error *err)
{
    size_t before = 0, later = 0, total = 0;
    int code = (int)cudaSetDevice(nccl->ordinal);
    if (code == (int)cudaSuccess)
        code = (int)cudaMemGetInfo(&before, &total);
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, "cudaSetDevice");
    sherd_status status = open_nccl(nccl, err);
    if (status == SHERD_OK)
        status = open_memory(nccl, err);
    if (status == SHERD_OK)
        status = clear(nccl, err);
    if (status == SHERD_OK)
        status = sherd__nccl_idle(nccl, creation, err);
    if (status == SHERD_OK)
        status = connect_peers(nccl, err);
    if (status == SHERD_OK && cudaMemGetInfo(&later, &total) == cudaSuccess && before > later + SHERD__CONTROL_SIZE)
        nccl->runtime_bytes = before - later - SHERD__CONTROL_SIZE;
    return status;
}

/* -------------------------------------------------------------------------------------------------------------- close
 */

/* A call that somebody is stuck in is what an abort ends: it is not waited for for ever. */
static int lock_calls(sherd__nccl *nccl)
{
    struct timespec until = after(CLOCK_REALTIME, CALLS_NS);
    return pthread_mutex_timedlock(&nccl->calls, &until) == 0;
}

/* A peer that left in good order has finalized too; one that died or gave up never will. */
static int peers_are_well(sherd__nccl *nccl)
{
    sherd_error error;
    if (!nccl->side)
        return 1;
    sherd__wait wait = {.comm = nccl->side, .kind = SHERD__KIND_RELEASE};
    atomic_init(&wait.value, nccl->finished);
    return sherd__direct_look(&wait, INT64_MAX, "leaving", &error) == SHERD_OK;
}

static int finalize(sherd__nccl *nccl, sherd__nccl_handle comm)
{
    int64_t begin = sherd__now_ns(), limit = within(nccl, LEAVE_NS);
    uint32_t naps = 0;
    int code = nccl->api->CommFinalize(comm);
    while (code == SHERD__NCCL_IN_PROGRESS) {
        if (sherd__now_ns() - begin > limit || atomic_load(&nccl->failed) || !peers_are_well(nccl))
            return 0;
        sherd__nccl_nap(&naps);
        if (nccl->api->CommGetAsyncError(comm, &code) != SHERD__NCCL_SUCCESS)
            return 0;
    }
    return code == SHERD__NCCL_SUCCESS;
}

/* Taken from the others first: none of them waits for what happens here. */
static void close_nccl(sherd__nccl *nccl)
{
    int locked = lock_calls(nccl);
    sherd__nccl_handle comm = nccl->comm;
    nccl->comm = NULL;
    if (locked)
        pthread_mutex_unlock(&nccl->calls);
    if (comm && !atomic_load(&nccl->failed) && finalize(nccl, comm))
        (void)nccl->api->CommDestroy(comm);
    else if (comm)
        (void)nccl->api->CommAbort(comm);
}

/* cudaFree waits for the GPU: only when there is nothing to wait for. */
static void close_memory(sherd__nccl *nccl)
{
    int64_t begin = sherd__now_ns();
    uint32_t naps = 0;
    while (nccl->stream && cudaStreamQuery(nccl->stream) == cudaErrorNotReady) {
        if (sherd__now_ns() - begin > CALLS_NS)
            return;
        sherd__nccl_nap(&naps);
    }
    for (int i = 0; i < SHERD__NCCL_MARKS; i++) {
        if (nccl->mark[i].begin)
            (void)cudaEventDestroy(nccl->mark[i].begin);
        if (nccl->mark[i].end)
            (void)cudaEventDestroy(nccl->mark[i].end);
    }
    if (nccl->stream)
        (void)cudaStreamDestroy(nccl->stream);
    if (nccl->words)
        (void)cudaFreeHost(nccl->words);
    if (nccl->control)
        (void)cudaFree(nccl->control);
}

/* ------------------------------------------------------------------------------------------------------------- thread
 */

static void set_phase(sherd__nccl *nccl, sherd__nccl_phase phase)
{
    pthread_mutex_lock(&nccl->lock);
    nccl->phase = phase;
    pthread_cond_broadcast(&nccl->changed);
    pthread_mutex_unlock(&nccl->lock);
}

/* Whoever issues collectives may still use the marks, and finds that NCCL is gone. */
static void await_dismissal(sherd__nccl *nccl)
{
    pthread_mutex_lock(&nccl->lock);
    while (!nccl->dismissed)
        pthread_cond_wait(&nccl->changed, &nccl->lock); /* ended by sherd__nccl_close, which every owner comes to */
    pthread_mutex_unlock(&nccl->lock);
}

static void *keeper_main(void *arg)
{
    sherd__nccl *nccl = arg;
    sherd_error error = {0};
    int served = open_all(nccl, &error) == SHERD_OK;
    if (served) {
        set_phase(nccl, SHERD__NCCL_SERVING);
        sherd__nccl_watch(nccl);
    } else {
        sherd__nccl_give_up(nccl, &error);
    }
    close_nccl(nccl);
    if (served)
        await_dismissal(nccl);
    close_memory(nccl);
    set_phase(nccl, SHERD__NCCL_ENDED);
    return NULL;
}

/* The phase reached, or the last one seen at the limit. */
static sherd__nccl_phase wait_beyond(sherd__nccl *nccl, sherd__nccl_phase phase, int64_t limit_ns)
{
    struct timespec until = after(CLOCK_MONOTONIC, limit_ns);
    int code = 0;
    pthread_mutex_lock(&nccl->lock);
    while (nccl->phase <= phase && code == 0)
        code = pthread_cond_timedwait(&nccl->changed, &nccl->lock, &until);
    sherd__nccl_phase found = nccl->phase;
    pthread_mutex_unlock(&nccl->lock);
    return found;
}

sherd_status sherd__nccl_open(sherd__nccl *nccl, sherd_error *err)
{
    int code = pthread_create(&nccl->keeper, NULL, keeper_main, nccl);
    if (code != 0) {
        nccl->phase = SHERD__NCCL_ENDED;
        nccl->keeperless = 1;
        return sherd__fail(err, SHERD_ESYSTEM, "the thread that keeps NCCL could not be started: %s", strerror(code));
    }
    sherd__nccl_phase phase =
        wait_beyond(nccl, SHERD__NCCL_OPENING, (int64_t)(nccl->base.fail_after_s * 1e9) + within(nccl, GRACE_NS));
    if (phase == SHERD__NCCL_SERVING)
        return SHERD_OK;
    if (phase == SHERD__NCCL_ENDED)
        return sherd__nccl_error(nccl, err);
    return sherd__fail(err, SHERD_ETIMEOUT, "NCCL did not come back from the %s within %g s: is a rank missing?",
                       creation, nccl->base.fail_after_s);
}

int sherd__nccl_close(sherd__nccl *nccl)
{
    pthread_mutex_lock(&nccl->lock);
    int64_t limit = nccl->phase == SHERD__NCCL_OPENING ? CALLS_NS : within(nccl, LEAVE_NS) + within(nccl, GRACE_NS);
    if (nccl->order == SHERD__NCCL_STAY)
        nccl->order = SHERD__NCCL_LEAVE;
    nccl->dismissed = 1;
    pthread_cond_broadcast(&nccl->changed);
    pthread_mutex_unlock(&nccl->lock);
    if (wait_beyond(nccl, SHERD__NCCL_SERVING, limit) == SHERD__NCCL_ENDED) {
        if (!nccl->keeperless)
            pthread_join(nccl->keeper, NULL); /* it has nothing left to do */
        return 1;
    }
    pthread_detach(nccl->keeper);
    sherd__log(&nccl->base.log, SHERD_LOG_WARNING,
               "NCCL does not let go of its communicator: what it may use is not freed");
    return 0;
}
