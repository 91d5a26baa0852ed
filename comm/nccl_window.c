/* SPDX-License-Identifier: MIT
 *
 * Windows on NCCL: memory of its own making, which it can register so that peers' GPUs reach it without copies in
 * between: as symmetric windows (2.27) where the machine allows that, else as plain registered buffers, else not at
 * all. That changes speed only.
 *
 * Making one is agreed on by an all-reduce of a few words before the registration, which is itself collective: so
 * either all ranks come to it or none, also where there is no side channel.
 */
#include "comm/nccl.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"

#define PAGE_BYTES (UINT64_C(2) << 20) /* what NCCL's memory is made of */
#define WORDS_AT 512u                  /* the agreement's place in the control block */

static const char making[] = "creation of a window";

typedef struct nccl_window nccl_window;
struct nccl_window {
    void *base;
    uint64_t bytes, rounding;
    sherd_category category;
    void *handle; /* of the registration */
    sherd__nccl_memory memory;
    int32_t of_nccl;   /* 1: ncclMemAlloc's */
    nccl_window *next; /* among the abandoned */
};

/* ---------------------------------------------------------------------------------------------------------- agreement
 */

/* The thread that issues to the stream may not have come to all that was enqueued before. */
static sherd_status await_issued(sherd__nccl *nccl, const char *place, sherd_error *err)
{
    int64_t begin = sherd__now_ns();
    uint32_t naps = 0;
    sherd_status status = SHERD_OK;
    while (status == SHERD_OK && atomic_load(&nccl->issued) != nccl->sequence) {
        status = sherd__nccl_look(nccl, 0, sherd__now_ns() - begin, place, err);
        sherd__nccl_nap(&naps);
    }
    return status;
}

static int reduce_words(sherd__nccl *nccl, uint32_t n)
{
    void *at = nccl->control + WORDS_AT;
    size_t bytes = n * sizeof *nccl->words;
    if (!nccl->comm)
        return SHERD__NCCL_INVALID_USAGE;
    if (cudaMemcpyAsync(at, nccl->words, bytes, cudaMemcpyDefault, nccl->stream) != cudaSuccess)
        return 1; /* ncclUnhandledCudaError */
    return nccl->api->AllReduce(at, at, n, SHERD__NCCL_UINT64, SHERD__NCCL_MIN, nccl->comm, nccl->stream);
}

sherd_status sherd__nccl_agree(sherd__nccl *nccl, const char *place, uint64_t *words, uint32_t n, sherd_error *err)
{
    sherd_status status = await_issued(nccl, place, err);
    if (status != SHERD_OK)
        return status;
    memcpy(nccl->words, words, n * sizeof *words);
    pthread_mutex_lock(&nccl->calls);
    int code = reduce_words(nccl, n);
    pthread_mutex_unlock(&nccl->calls);
    status = sherd__nccl_settle(nccl, code, 0, place, err);
    if (status != SHERD_OK)
        return status;
    code =
        (int)cudaMemcpyAsync(nccl->words, nccl->control + WORDS_AT, n * sizeof *words, cudaMemcpyDefault, nccl->stream);
    if (code != (int)cudaSuccess)
        return sherd__cuda_refused(err, code, "cudaMemcpyAsync");
    status = sherd__nccl_idle(nccl, place, err);
    if (status == SHERD_OK) /* else the stream may be writing them still */
        memcpy(words, nccl->words, n * sizeof *words);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------- memory
 */

static sherd_status get_memory(sherd__nccl *nccl, nccl_window *window, sherd_error *err)
{
    sherd_device *device = nccl->base.device;
    uint64_t sum;
    window->of_nccl = window->bytes >= PAGE_BYTES / 2 && sherd__add_u64(window->bytes, PAGE_BYTES - 1, &sum);
    if (!window->of_nccl)
        return device->ops->memory_get(device, SHERD_TIER_DEVICE, window->bytes, &window->base, &window->rounding, err);
    window->rounding = sum / PAGE_BYTES * PAGE_BYTES - window->bytes;
    int code = nccl->api->MemAlloc(&window->base, (size_t)window->bytes);
    if (code == SHERD__NCCL_SUCCESS)
        return SHERD_OK;
    window->base = NULL;
    (void)cudaGetLastError();
    return sherd__fail(err, SHERD_ENOMEM, "NCCL could not allocate a window of %" PRIu64 " bytes: %s", window->bytes,
                       nccl->api->GetErrorString(code));
}

static void put_memory(sherd__nccl *nccl, const nccl_window *window)
{
    sherd_device *device = nccl->base.device;
    if (!window->base)
        return;
    if (!window->of_nccl)
        device->ops->memory_put(device, SHERD_TIER_DEVICE, window->base, window->bytes);
    else if (sherd__cuda_settle(device)) /* it would wait for the GPU without a limit */
        (void)nccl->api->MemFree(window->base);
}

static sherd_status clear(sherd__nccl *nccl, const nccl_window *window, sherd_error *err)
{
    sherd__cuda_zero args = {.base = window->base, .n_ranges = 1};
    args.n_tiles = (window->bytes + SHERD__CUDA_ZERO_TILE - 1) / SHERD__CUDA_ZERO_TILE;
    args.range[0] = (sherd__cuda_zero_range){0, window->bytes, 0};
    int code = args.n_tiles ? sherd__cuda_launch_zero(&args, nccl->stream) : (int)cudaSuccess;
    return code == (int)cudaSuccess ? sherd__nccl_idle(nccl, making, err)
                                    : sherd__cuda_refused(err, code, "zero kernel");
}

/* Memory, zeroed; booked in the ledger first, which may have a limit. */
static sherd_status make(sherd__nccl *nccl, nccl_window *window, sherd_error *err)
{
    sherd_status status = get_memory(nccl, window, err);
    if (status != SHERD_OK)
        return status;
    status = sherd__ledger_add(&nccl->base.device->ledger, SHERD_TIER_DEVICE, window->category, window->bytes,
                               window->rounding, err);
    if (status != SHERD_OK) {
        put_memory(nccl, window);
        window->base = NULL;
        return status;
    }
    return clear(nccl, window, err);
}

static void unmake(sherd__nccl *nccl, nccl_window *window)
{
    if (!window->base)
        return;
    put_memory(nccl, window);
    sherd__ledger_sub(&nccl->base.device->ledger, SHERD_TIER_DEVICE, window->category, window->bytes, window->rounding);
    window->base = NULL;
}

/* ------------------------------------------------------------------------------------------------------- registration
 */

static int call_register(sherd__nccl *nccl, nccl_window *window, int symmetric)
{
    int code = SHERD__NCCL_INVALID_USAGE;
    pthread_mutex_lock(&nccl->calls);
    if (nccl->comm)
        code = symmetric ? nccl->api->CommWindowRegister(nccl->comm, window->base, (size_t)window->bytes,
                                                         &window->handle, SHERD__NCCL_WINDOW_SYMMETRIC)
                         : nccl->api->CommRegister(nccl->comm, window->base, (size_t)window->bytes, &window->handle);
    pthread_mutex_unlock(&nccl->calls);
    return code;
}

/* A refusal at the call itself is no fault: what is slower still works. One that comes later is NCCL's end. */
static sherd_status try_register(sherd__nccl *nccl, nccl_window *window, sherd__nccl_memory as, sherd_error *err)
{
    int code = call_register(nccl, window, as == SHERD__NCCL_SYMMETRIC);
    if (code != SHERD__NCCL_SUCCESS && code != SHERD__NCCL_IN_PROGRESS) {
        window->handle = NULL;
        return SHERD_OK;
    }
    sherd_status status = sherd__nccl_settle(nccl, code, 0, "registration of a window", err);
    if (status == SHERD_OK && window->handle)
        window->memory = as;
    return status;
}

static sherd_status register_window(sherd__nccl *nccl, nccl_window *window, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    if (!window->of_nccl || nccl->base.world == 1)
        return SHERD_OK;
    if (nccl->api->CommWindowRegister && nccl->api->CommWindowDeregister)
        status = try_register(nccl, window, SHERD__NCCL_SYMMETRIC, err);
    if (status == SHERD_OK && !window->handle)
        status = try_register(nccl, window, SHERD__NCCL_REGISTERED, err);
    nccl->memory = window->memory > nccl->memory ? window->memory : nccl->memory;
    return status;
}

static void unregister(sherd__nccl *nccl, nccl_window *window)
{
    pthread_mutex_lock(&nccl->calls);
    if (window->handle && nccl->comm && window->memory == SHERD__NCCL_SYMMETRIC)
        (void)nccl->api->CommWindowDeregister(nccl->comm, window->handle);
    else if (window->handle && nccl->comm)
        (void)nccl->api->CommDeregister(nccl->comm, window->handle);
    window->handle = NULL;
    pthread_mutex_unlock(&nccl->calls);
}

/* ----------------------------------------------------------------------------------------------------------- both ends
 */

/* The lowest rank that could not, and whether all want the same. */
static sherd_status agree(sherd__nccl *nccl, const nccl_window *window, sherd_status made, sherd_error *own,
                          sherd_error *err)
{
    uint64_t words[3] = {made == SHERD_OK ? UINT64_MAX : (uint64_t)nccl->base.rank, window->bytes, ~window->bytes};
    sherd_status status = sherd__nccl_agree(nccl, making, words, 3, err);
    if (made != SHERD_OK)
        return sherd__pass(err, own);
    if (status == SHERD_OK && words[0] != UINT64_MAX)
        return sherd__fail_rank(err, SHERD_EABORTED, (int32_t)words[0],
                                "rank %" PRIu64 " could not make a window of %" PRIu64 " bytes; its own error says why",
                                words[0], window->bytes);
    if (status == SHERD_OK && words[1] != ~words[2])
        return sherd__fail(err, SHERD_EMISMATCH,
                           "ranks make windows of %" PRIu64 " to %" PRIu64 " bytes where rank %" PRId32
                           " makes one of %" PRIu64,
                           words[1], ~words[2], nccl->base.rank, window->bytes);
    return status;
}

static sherd_status create(sherd__nccl *nccl, nccl_window *window, sherd_error *err)
{
    sherd_error own = {0};
    sherd_status status = make(nccl, window, &own);
    status = agree(nccl, window, status, &own, err);
    if (status == SHERD_OK)
        status = register_window(nccl, window, err);
    return status;
}

sherd_status sherd__nccl_window_create(sherd_comm *comm, uint64_t bytes, sherd_category category, sherd__window *out,
                                       sherd_error *err)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    if (!comm->device)
        return sherd__fail(err, SHERD_ESTATE, "a window needs the communicator bound to a device");
    nccl_window *window = sherd__alloc(&comm->allocator, 1, sizeof *window);
    if (!window)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a window of %" PRIu64 " bytes", bytes);
    window->bytes = bytes;
    window->category = category;
    int former = sherd__cuda_enter(comm->device);
    sherd_status status = create(nccl, window, err);
    if (status != SHERD_OK)
        unmake(nccl, window);
    sherd__cuda_leave(comm->device, former);
    if (status != SHERD_OK) {
        window->next = nccl->abandoned; /* NCCL may still be about to write the handle */
        nccl->abandoned = window;
        return status;
    }
    sherd__nccl_name(nccl);
    *out = (sherd__window){.local = window->base, .bytes = bytes, .handle = window};
    return SHERD_OK;
}

void sherd__nccl_window_destroy(sherd_comm *comm, sherd__window *out)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    nccl_window *window = out->handle;
    if (!window || !comm->device)
        return;
    int former = sherd__cuda_enter(comm->device);
    unregister(nccl, window);
    unmake(nccl, window);
    sherd__cuda_leave(comm->device, former);
    sherd__free(&comm->allocator, window, 1, sizeof *window);
    memset(out, 0, sizeof *out);
}

void sherd__nccl_windows_free(sherd__nccl *nccl)
{
    while (nccl->abandoned) {
        nccl_window *window = nccl->abandoned;
        nccl->abandoned = window->next;
        sherd__free(&nccl->base.allocator, window, 1, sizeof *window);
    }
}
