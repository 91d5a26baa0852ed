/* SPDX-License-Identifier: MIT
 *
 * Communicators and memory of the stub.
 */
#include "tests/support/nccl_stub/state.h"

#include <stdlib.h>
#include <string.h>

static nccl_state *const st = &nccl_stub_state;

static world *world_of(const char *id, int ranks)
{
    for (world *at = st->worlds; at; at = at->next)
        if (memcmp(at->id, id, 128) == 0)
            return at;
    world *made = calloc(1, sizeof *made);
    if (!made)
        abort();
    memcpy(made->id, id, 128);
    made->ranks = ranks;
    made->next = st->worlds;
    st->worlds = made;
    return made;
}

/* With the lock held. A blocking one waits for its peers here. */
static int join(const char *id, int ranks, int rank, int blocking, comm_t *out)
{
    comm_t comm = calloc(1, sizeof *comm);
    if (!comm || ranks > RANKS)
        abort();
    comm->world = world_of(id, ranks);
    comm->rank = rank;
    comm->blocking = blocking;
    (void)st->cuda.device(&comm->device);
    comm->world->member[rank] = comm;
    comm->world->joined++;
    comm->world->members++;
    comm->next = st->comms;
    st->comms = comm;
    st->alive++;
    *out = comm;
    pthread_cond_broadcast(&st->changed);
    while (blocking && comm->world->joined < ranks)
        pthread_cond_wait(&st->changed, &st->lock);
    comm->opening = !blocking;
    comm->polls = st->init_polls;
    comm->state = blocking ? SUCCESS : IN_PROGRESS;
    return comm->state;
}

EXPORT int ncclGetVersion(int *version)
{
    *version = st->version_code;
    return SUCCESS;
}

EXPORT const char *ncclGetErrorString(int code)
{
    return code == 2   ? "unhandled system error"
           : code == 6 ? "remote process exited or there was a network error"
                       : "an error";
}

EXPORT const char *ncclGetLastError(comm_t comm)
{
    (void)comm;
    return "injected by a test";
}

EXPORT int ncclGetUniqueId(id_t_ *id)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("GetUniqueId");
    uint64_t number = ++st->ids;
    memset(id, 0, sizeof *id);
    memcpy(id->internal, &number, sizeof number);
    return nccl_stub_leave(code);
}

EXPORT int ncclCommInitRankConfig(comm_t *out, int ranks, id_t_ id, int rank, config *settings)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommInitRankConfig");
    if (code == SUCCESS && (settings->magic != 0xcafebeef || settings->size < sizeof *settings))
        code = INVALID_ARGUMENT;
    return nccl_stub_leave(code == SUCCESS ? join(id.internal, ranks, rank, settings->blocking, out) : code);
}

EXPORT int ncclCommSplit(comm_t parent, int color, int key, comm_t *out, config *settings)
{
    char id[128] = {0};
    (void)color, (void)key;
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommSplit");
    if (code != SUCCESS)
        return nccl_stub_leave(code);
    uint64_t number = ++parent->splits;
    memcpy(id, parent->world->id, 64);
    memcpy(id + 64, "split", 5);
    memcpy(id + 72, &number, sizeof number);
    code = join(id, parent->world->ranks, parent->rank, settings->blocking, out);
    while (parent->blocking && parent->world->joined && (*out)->world->joined < parent->world->ranks)
        pthread_cond_wait(&st->changed, &st->lock);
    if (parent->blocking)
        return nccl_stub_leave(SUCCESS);
    parent->state = IN_PROGRESS;
    parent->splitting = *out;
    return nccl_stub_leave(IN_PROGRESS);
}

static void progress_opening(comm_t comm)
{
    if (comm->world->joined < comm->world->ranks || st->init_polls < 0 || comm->polls-- > 0)
        return;
    comm->opening = 0;
    comm->state = SUCCESS;
}

EXPORT int ncclCommGetAsyncError(comm_t comm, int *state)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommGetAsyncError");
    if (comm->opening) {
        progress_opening(comm);
    } else if (comm->splitting && comm->splitting->world->joined == comm->world->ranks) {
        comm->splitting = NULL;
        comm->state = SUCCESS;
    } else if (comm->finalizing && comm->world->finalized == comm->world->ranks) {
        comm->finalizing = 0;
        comm->state = SUCCESS;
    } else if (comm->waiting && --comm->polls <= 0) {
        batch *work = comm->waiting;
        comm->waiting = NULL;
        comm->state = SUCCESS;
        int launched = nccl_stub_launch(comm, work, comm->stream);
        comm->state = comm->state == SUCCESS ? launched : comm->state;
    } else if (comm->window && --comm->polls <= 0) {
        *comm->window = st->has_symmetric ? malloc(1) : NULL;
        st->alive += st->has_symmetric != 0;
        comm->window = NULL;
        comm->state = SUCCESS;
    }
    *state = comm->state;
    return nccl_stub_leave(code);
}

EXPORT int ncclCommFinalize(comm_t comm)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommFinalize");
    comm->finalizing = 1;
    comm->world->finalized++;
    comm->state = IN_PROGRESS;
    while (comm->blocking && comm->world->finalized < comm->world->ranks)
        pthread_cond_wait(&st->changed, &st->lock);
    pthread_cond_broadcast(&st->changed);
    return nccl_stub_leave(code != SUCCESS ? code : IN_PROGRESS);
}

EXPORT int ncclCommDestroy(comm_t comm)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommDestroy");
    st->misuses += comm->running > 0 || comm->finalizing || comm->state == IN_PROGRESS;
    st->alive--;
    nccl_stub_comm_free(comm);
    return nccl_stub_leave(code);
}

EXPORT int ncclCommAbort(comm_t comm)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommAbort");
    while (st->stuck)
        pthread_cond_wait(&st->changed, &st->lock);
    comm->aborted = 1;
    st->alive--;
    pthread_cond_broadcast(&st->changed);
    if (comm->running == 0)
        nccl_stub_comm_free(comm);
    return nccl_stub_leave(code);
}

EXPORT int ncclCommCount(comm_t comm, int *count)
{
    *count = comm->world->ranks;
    return SUCCESS;
}

EXPORT int ncclCommUserRank(comm_t comm, int *rank)
{
    *rank = comm->rank;
    return SUCCESS;
}

EXPORT int ncclCommCuDevice(comm_t comm, int *device)
{
    *device = comm->device;
    return SUCCESS;
}

EXPORT int ncclMemAlloc(void **out, size_t bytes)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("MemAlloc");
    pthread_mutex_unlock(&st->lock);
    if (code != SUCCESS || st->cuda.get(out, bytes) != 0)
        return code != SUCCESS ? code : UNHANDLED;
    pthread_mutex_lock(&st->lock);
    st->alive++;
    return nccl_stub_leave(SUCCESS);
}

EXPORT int ncclMemFree(void *block)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("MemFree");
    st->alive--;
    pthread_mutex_unlock(&st->lock);
    return st->cuda.put(block) == 0 ? code : UNHANDLED;
}

EXPORT int ncclCommRegister(comm_t comm, void *block, size_t bytes, void **handle)
{
    (void)block, (void)bytes;
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommRegister");
    st->misuses += comm->state == IN_PROGRESS;
    *handle = code == SUCCESS ? malloc(1) : NULL;
    st->alive += code == SUCCESS;
    return nccl_stub_leave(code);
}

static int drop(const char *name, void *handle)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter(name);
    free(handle);
    st->alive--;
    return nccl_stub_leave(code);
}

EXPORT int ncclCommDeregister(comm_t comm, void *handle)
{
    (void)comm;
    return drop("CommDeregister", handle);
}

EXPORT int ncclCommWindowRegister(comm_t comm, void *block, size_t bytes, void **window, int flags)
{
    (void)block, (void)bytes, (void)flags;
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("CommWindowRegister");
    st->misuses += comm->state == IN_PROGRESS;
    if (code != SUCCESS)
        return nccl_stub_leave(code);
    comm->window = window;
    comm->polls = st->launch_polls;
    comm->state = IN_PROGRESS;
    return nccl_stub_leave(IN_PROGRESS);
}

EXPORT int ncclCommWindowDeregister(comm_t comm, void *window)
{
    (void)comm;
    return drop("CommWindowDeregister", window);
}
