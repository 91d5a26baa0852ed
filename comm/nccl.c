/* SPDX-License-Identifier: MIT
 *
 * Birth and death of an NCCL communicator, and its table. See nccl.h for how it works.
 */
#include "comm/nccl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "sherd/sherd_cuda.h"

#define HELLO_MAGIC 0x534E4343u

/* What every rank tells all others before NCCL is asked anything. Rank 0's has the unique id. */
typedef struct hello {
    uint32_t magic;
    int32_t rank, world, status, version;
    sherd__nccl_id id;
    char text[364];
} hello;

void sherd__nccl_name(sherd__nccl *nccl)
{
    static const char *const memory[] = {"plain windows", "registered windows", "symmetric windows"};
    snprintf(nccl->base.description, sizeof nccl->base.description, "NCCL %s, %" PRId32 " rank%s, GPU %d, %s%s%s",
             nccl->api->name, nccl->base.world, nccl->base.world == 1 ? "" : "s", nccl->ordinal,
             nccl->base.native ? "native sums" : "tree-ordered sums", nccl->base.device ? ", " : "",
             nccl->base.device ? memory[nccl->memory] : "");
}

/* ------------------------------------------------------------------------------------------------------------- binding
 */

static void unbind_device(sherd_comm *comm)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    sherd_device *device = comm->device;
    sherd_error error;
    if (!device)
        return;
    if (sherd__device_error(device, &error) != SHERD_OK)
        sherd__nccl_give_up(nccl,
                            &error); /* there may be operations on the GPU that never end: no leaving in good order */
    sherd__nccl_window_destroy(comm, &nccl->receive);
    for (int i = 0; i < SHERD__NCCL_MARKS; i++) {
        device->ops->event_destroy(nccl->event[i]);
        nccl->event[i] = NULL;
    }
    sherd__ledger_sub(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_RUNTIME, nccl->runtime_bytes, 0);
    sherd__ledger_sub(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, SHERD__CONTROL_SIZE, 0);
    pthread_mutex_lock(&nccl->lock);
    sherd__nccl_advance(nccl); /* what has ended is told to the peers before this rank is seen to leave */
    nccl->tail = nccl->head;
    comm->device = NULL;
    pthread_mutex_unlock(&nccl->lock);
    nccl->user = NULL;
}

static sherd_status check_device(const sherd__nccl *nccl, const sherd_device *device, sherd_error *err)
{
    if (nccl->base.device)
        return sherd__fail(err, SHERD_ESTATE, "the communicator serves an engine already: destroy that one first");
    if (device->kind != SHERD_DEVICE_CUDA)
        return sherd__fail(err, SHERD_EINVAL,
                           "NCCL moves memory of GPUs; the device is '%s': use a CUDA device, or the "
                           "direct communicator",
                           device->description);
    int ordinal = ((const sherd__cuda_device *)device)->ordinal;
    if (ordinal != nccl->ordinal)
        return sherd__fail(err, SHERD_EINVAL,
                           "the communicator was made on GPU %d, the device is GPU %d: make the communicator with the "
                           "device's GPU current",
                           nccl->ordinal, ordinal);
    return SHERD_OK;
}

static sherd_status book(sherd__nccl *nccl, sherd_device *device, sherd_error *err)
{
    sherd_status status =
        sherd__ledger_add(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, SHERD__CONTROL_SIZE, 0, err);
    if (status != SHERD_OK)
        return status;
    status = sherd__ledger_add(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_RUNTIME, nccl->runtime_bytes, 0, err);
    if (status != SHERD_OK)
        sherd__ledger_sub(&device->ledger, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, SHERD__CONTROL_SIZE, 0);
    return status;
}

static sherd_status bind_device(sherd_comm *comm, sherd_device *device, sherd_error *err)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    sherd_status status = sherd__nccl_error(nccl, err);
    if (status == SHERD_OK)
        status = check_device(nccl, device, err);
    if (status == SHERD_OK)
        status = book(nccl, device, err);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&nccl->lock);
    comm->device = device;
    pthread_mutex_unlock(&nccl->lock);
    for (int i = 0; i < SHERD__NCCL_MARKS && status == SHERD_OK; i++)
        status = device->ops->event_create(device, &nccl->event[i], err);
    if (status == SHERD_OK && comm->receive_bytes > 0 && comm->world > 1 && !comm->native)
        status = sherd__nccl_window_create(comm, comm->receive_bytes, SHERD_CAT_COMMUNICATION, &nccl->receive, err);
    if (status != SHERD_OK)
        unbind_device(comm);
    else
        sherd__nccl_name(nccl);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------ lifetime
 */

static void nccl_free(sherd__nccl *nccl)
{
    sherd_allocator allocator = nccl->base.allocator;
    sherd__nccl_windows_free(nccl);
    pthread_cond_destroy(&nccl->changed);
    pthread_mutex_destroy(&nccl->lock);
    pthread_mutex_destroy(&nccl->calls);
    sherd__free(&allocator, nccl->sources, (size_t)nccl->base.world, sizeof *nccl->sources);
    sherd__free(&allocator, nccl, 1, sizeof *nccl);
}

static void destroy(sherd_comm *comm)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    unbind_device(comm);
    if (nccl->side) /* before NCCL's own leaving, which waits for the peers: they may be waiting for this rank */
        atomic_store(&nccl->side->control[comm->rank]->left, 1);
    if (!sherd__nccl_close(nccl))
        return;
    if (nccl->side)
        sherd_comm_destroy(&nccl->side->base);
    nccl_free(nccl);
}

static void abort_comm(sherd_comm *comm, const sherd_error *why)
{
    sherd__nccl_give_up((sherd__nccl *)comm, why);
}

static const sherd__comm_ops nccl_ops = {
    .destroy = destroy,
    .bind = bind_device,
    .unbind = unbind_device,
    .window_create = sherd__nccl_window_create,
    .window_destroy = sherd__nccl_window_destroy,
    .reduce_scatter = sherd__nccl_reduce_scatter,
    .all_gather = sherd__nccl_all_gather,
    .all_reduce = sherd__nccl_all_reduce,
    .broadcast = sherd__nccl_broadcast,
    .barrier = sherd__nccl_barrier,
    .released = sherd__nccl_released,
    .abort = abort_comm,
};

static void init_sync(sherd__nccl *nccl)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&nccl->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&nccl->lock, NULL);
    pthread_mutex_init(&nccl->calls, NULL);
}

static sherd_status nccl_new(const sherd_comm_options *options, const sherd__nccl_api *api, int32_t rank, int32_t world,
                             sherd__nccl **out, sherd_error *err)
{
    sherd__nccl *nccl = sherd__alloc(&options->allocator, 1, sizeof *nccl);
    const void **sources = sherd__alloc(&options->allocator, (size_t)world, sizeof *sources);
    if (!nccl || !sources) {
        sherd__free(&options->allocator, sources, (size_t)world, sizeof *sources);
        sherd__free(&options->allocator, nccl, 1, sizeof *nccl);
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a communicator of %" PRId32 " ranks", world);
    }
    nccl->base = (sherd_comm){.ops = &nccl_ops,
                              .transport = SHERD_TRANSPORT_NCCL,
                              .rank = rank,
                              .world = world,
                              .allocator = options->allocator,
                              .log = options->log,
                              .warn_after_s = options->warn_after_s,
                              .fail_after_s = options->fail_after_s};
    nccl->api = api;
    nccl->sources = sources;
    init_sync(nccl);
    *out = nccl;
    return SHERD_OK;
}

/* Opens and hands out, or cleans up. */
static sherd_status start(sherd__nccl *nccl, sherd_comm **out, sherd_error *err)
{
    sherd_error error = {0};
    sherd_status status = sherd__nccl_open(nccl, &error);
    if (status != SHERD_OK) {
        sherd__nccl_give_up(nccl, &error); /* peers on this host learn why */
        destroy(&nccl->base);
        return sherd__pass(err, &error);
    }
    sherd__nccl_name(nccl);
    *out = &nccl->base;
    return SHERD_OK;
}

/* ---------------------------------------------------------------------------------------------------------- from an id
 */

static sherd_status current_gpu(int *out, sherd_error *err)
{
    int count = 0, code = (int)cudaGetDeviceCount(&count);
    if (code == (int)cudaSuccess && count > 0)
        code = (int)cudaGetDevice(out);
    if (code == (int)cudaSuccess && count > 0)
        return SHERD_OK;
    (void)cudaGetLastError();
    return sherd__fail(err, SHERD_EUNSUPPORTED, "NCCL needs a GPU: %s; use the direct communicator",
                       code != (int)cudaSuccess ? cudaGetErrorString((cudaError_t)code) : "the driver lists none");
}

/* Whatever this rank lacks travels to the others, so that all fail alike. */
static const sherd__nccl_api *say_hello(int32_t rank, int32_t world, hello *mine, int *ordinal)
{
    const sherd__nccl_api *api = NULL;
    sherd_error error = {0};
    memset(mine, 0, sizeof *mine);
    mine->magic = HELLO_MAGIC;
    mine->rank = rank;
    mine->world = world;
    sherd_status status = sherd__nccl_load(&api, &error);
    if (status == SHERD_OK)
        status = current_gpu(ordinal, &error);
    if (status == SHERD_OK && rank == 0) {
        int code = api->GetUniqueId(&mine->id);
        if (code != SHERD__NCCL_SUCCESS)
            status = sherd__fail(&error, SHERD_ESYSTEM, "ncclGetUniqueId failed: %s", api->GetErrorString(code));
    }
    mine->status = (int32_t)status;
    mine->version = api ? api->version : 0;
    snprintf(mine->text, sizeof mine->text, "%.*s", (int)sizeof mine->text - 1, error.text);
    return api;
}

static sherd_status judge(const hello *all, int32_t world, sherd_error *err)
{
    for (int32_t peer = 0; peer < world; peer++) {
        if (all[peer].magic != HELLO_MAGIC || all[peer].rank != peer || all[peer].world != world)
            return sherd__fail_rank(err, SHERD_EMISMATCH, peer,
                                    "the bootstrap's place %" PRId32 " of %" PRId32 " says it is rank %" PRId32
                                    " of %" PRId32,
                                    peer, world, all[peer].rank, all[peer].world);
        if (all[peer].status != SHERD_OK)
            return sherd__fail_rank(err, (sherd_status)all[peer].status, peer, "rank %" PRId32 ": %.363s", peer,
                                    all[peer].text);
        if (all[peer].version != all[0].version)
            return sherd__fail_rank(err, SHERD_EMISMATCH, peer,
                                    "rank 0 has NCCL %d and rank %" PRId32 " has %d: give every rank the same library",
                                    (int)all[0].version, peer, (int)all[peer].version);
    }
    return SHERD_OK;
}

/* NULL is no fault: the ranks are on several hosts. */
static sherd_status open_side(const sherd_comm_options *options, int32_t rank, int32_t world,
                              sherd_allgather_fn allgather, void *ctx, sherd__direct **out, sherd_error *err)
{
    sherd_comm *side = NULL;
    *out = NULL;
    if (world == 1)
        return SHERD_OK;
    sherd_status status = sherd_comm_create_local(options, rank, world, allgather, ctx, &side, err);
    if (status == SHERD_OK)
        *out = (sherd__direct *)side;
    return status == SHERD_EUNSUPPORTED ? SHERD_OK : status;
}

static sherd_status meet(const sherd_comm_options *options, const hello *mine, hello *all, sherd_allgather_fn allgather,
                         void *ctx, sherd__direct **side, sherd_error *err)
{
    int code = allgather(ctx, mine, all, sizeof *mine);
    if (code != 0 && allgather == sherd_rendezvous_allgather)
        return sherd__rendezvous_error(ctx, err);
    if (code != 0)
        return sherd__fail(err, SHERD_ESYSTEM, "the bootstrap's all-gather failed with code %d: not all ranks came",
                           code);
    sherd_status status = judge(all, mine->world, err);
    return status == SHERD_OK ? open_side(options, mine->rank, mine->world, allgather, ctx, side, err) : status;
}

sherd_status sherd_comm_create_nccl(const sherd_comm_options *options, int32_t rank, int32_t world,
                                    sherd_allgather_fn allgather, void *ctx, sherd_comm **out, sherd_error *err)
{
    sherd_comm_options settled;
    sherd__direct *side = NULL;
    sherd__nccl *nccl = NULL;
    hello mine;
    int ordinal = 0;
    if (world < 1 || rank < 0 || rank >= world || !out || (!allgather && world > 1))
        return sherd__fail(err, SHERD_EINVAL, "rank %" PRId32 " of %" PRId32 " ranks is not possible", rank, world);
    sherd_status status = sherd__direct_options(options, &settled, err);
    if (status != SHERD_OK)
        return status;
    hello *all = sherd__alloc(&settled.allocator, (size_t)world, sizeof *all);
    if (!all)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to meet %" PRId32 " ranks", world);
    const sherd__nccl_api *api = say_hello(rank, world, &mine, &ordinal);
    all[0] = mine;
    status = world > 1 ? meet(&settled, &mine, all, allgather, ctx, &side, err) : judge(all, 1, err);
    if (status != SHERD_OK)
        goto free_hellos;
    status = nccl_new(&settled, api, rank, world, &nccl, err);
    if (status != SHERD_OK) {
        sherd_comm_destroy(side ? &side->base : NULL); /* peers see this rank leave */
        goto free_hellos;
    }
    nccl->side = side;
    nccl->id = all[0].id;
    nccl->ordinal = ordinal;
    status = start(nccl, out, err);

free_hellos:
    sherd__free(&settled.allocator, all, (size_t)world, sizeof *all);
    return status;
}

/* ------------------------------------------------------------------------------------------------------------- adopted
 */

sherd_status sherd_comm_adopt_nccl(const sherd_comm_options *options, void *parent, sherd_comm **out, sherd_error *err)
{
    sherd_comm_options settled;
    const sherd__nccl_api *api;
    sherd__nccl *nccl;
    int rank = 0, world = 0, ordinal = 0, code;
    if (!parent || !out)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_comm_adopt_nccl needs an ncclComm_t and a place for the communicator");
    sherd_status status = sherd__direct_options(options, &settled, err);
    if (status == SHERD_OK)
        status = sherd__nccl_load(&api, err);
    if (status != SHERD_OK)
        return status;
    code = api->CommUserRank(parent, &rank);
    if (code == SHERD__NCCL_SUCCESS)
        code = api->CommCount(parent, &world);
    if (code == SHERD__NCCL_SUCCESS)
        code = api->CommCuDevice(parent, &ordinal);
    if (code != SHERD__NCCL_SUCCESS)
        return sherd__fail(err, SHERD_EINVAL, "this is not an ncclComm_t of NCCL %s (%s): %s", api->name, api->path,
                           api->GetErrorString(code));
    status = nccl_new(&settled, api, rank, world, &nccl, err);
    if (status != SHERD_OK)
        return status;
    nccl->parent = parent;
    nccl->ordinal = ordinal;
    return start(nccl, out, err);
}
