/* SPDX-License-Identifier: MIT
 *
 * One lock for all. An operation of a rank is a batch (a group of calls); in stream order it waits until every rank of
 * its world has come to its batch of the same number, computes from the others' sources, waits until all have computed,
 * and writes.
 */
#include "tests/support/nccl_stub/state.h"

#include <stdlib.h>
#include <string.h>

nccl_state nccl_stub_state = {
    .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER, .version_code = 22809, .has_symmetric = 1};
static nccl_state *const st = &nccl_stub_state;
static _Thread_local int depth, group_code; /* a refused call makes its whole group fail */
static _Thread_local batch *group;
static _Thread_local void *group_stream;

/* ------------------------------------------------------------------------------------------------------- accounting */

int nccl_stub_function(const char *name)
{
    for (int i = 0; i < FUNCTIONS; i++) {
        if (!st->functions[i].name)
            st->functions[i].name = name;
        if (strcmp(st->functions[i].name, name) == 0)
            return i;
    }
    abort();
}

/* With the lock held: counts, and what the call is refused with. */
int nccl_stub_enter(const char *name)
{
    int at = nccl_stub_function(name);
    st->functions[at].calls++;
    return st->functions[at].refuse_at && --st->functions[at].refuse_at == 0 ? st->functions[at].code : SUCCESS;
}

int nccl_stub_leave(int code)
{
    pthread_mutex_unlock(&st->lock);
    return code;
}

/* ------------------------------------------------------------------------------------------------------- operations */

static float widen(uint16_t value)
{
    uint32_t bits = (uint32_t)value << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x8000u) >> 16);
}

static size_t width(int type)
{
    return type == UINT64_TYPE ? 8 : type == FLOAT32_TYPE ? 4 : type == BFLOAT16_TYPE ? 2 : 1;
}

static void fold(char *into, const char *from, size_t n, int type, int op)
{
    for (size_t i = 0; i < n; i++) {
        if (type == UINT64_TYPE) {
            uint64_t a, b;
            memcpy(&a, into + i * 8, 8);
            memcpy(&b, from + i * 8, 8);
            a = op == MIN_OP ? (b < a ? b : a) : a + b;
            memcpy(into + i * 8, &a, 8);
        } else if (type == FLOAT32_TYPE) {
            float a, b;
            memcpy(&a, into + i * 4, 4);
            memcpy(&b, from + i * 4, 4);
            a += b;
            memcpy(into + i * 4, &a, 4);
        } else {
            uint16_t a, b;
            memcpy(&a, into + i * 2, 2);
            memcpy(&b, from + i * 2, 2);
            a = narrow(widen(a) + widen(b));
            memcpy(into + i * 2, &a, 2);
        }
    }
}

/* The peer's send that belongs to this receive: the kth to me for my kth from it. */
static const call *sent(const batch *mine, int index, int rank)
{
    const batch *theirs = mine->comm->world->posted[mine->calls[index].peer];
    int k = 0;
    for (int i = 0; i < index; i++)
        k += mine->calls[i].kind == RECV && mine->calls[i].peer == mine->calls[index].peer;
    for (int i = 0; i < theirs->n; i++)
        if (theirs->calls[i].kind == SEND && theirs->calls[i].peer == rank && k-- == 0)
            return &theirs->calls[i];
    abort(); /* NCCL would wait for ever */
}

static char *compute(const batch *mine, int index, size_t *bytes)
{
    const call *call = &mine->calls[index];
    const world *world = mine->comm->world;
    size_t size = call->count * width(call->type);
    char *out = NULL;
    *bytes = call->kind == SEND ? 0 : call->kind == ALL_GATHER ? size * (size_t)world->ranks : size;
    out = malloc(*bytes + 1);
    for (int r = 0; r < world->ranks && call->kind >= ALL_GATHER; r++) {
        const struct call *theirs = &world->posted[r]->calls[index];
        if (theirs->kind != call->kind || theirs->count != call->count || theirs->type != call->type)
            abort(); /* ranks called different things */
        if (call->kind == ALL_GATHER)
            memcpy(out + (size_t)r * size, theirs->from, size);
        else if (call->kind == BROADCAST && r == call->peer)
            memcpy(out, theirs->from, size);
        else if (call->kind == ALL_REDUCE || call->kind == REDUCE_SCATTER) {
            const char *from = theirs->from + (call->kind == REDUCE_SCATTER ? (size_t)mine->comm->rank * size : 0);
            if (r == 0)
                memcpy(out, from, size);
            else
                fold(out, from, call->count, call->type, call->op);
        }
    }
    if (call->kind == RECV)
        memcpy(out, sent(mine, index, mine->comm->rank)->from, size);
    return out;
}

/* With the lock held: until all ranks' counters are there at one time: an aborted rank takes its own back. 0: aborted.
 */
static int meet(const batch *mine, const uint64_t *counters)
{
    for (int r = 0; r < mine->comm->world->ranks && !mine->comm->aborted;) {
        if (counters[r] >= mine->number) {
            r++;
            continue;
        }
        pthread_cond_wait(&st->changed, &st->lock);
        r = 0;
    }
    return !mine->comm->aborted;
}

static int faulty(comm_t comm)
{
    int rank = comm->rank;
    uint64_t n = ++st->faults[rank].operations;
    if (n == st->faults[rank].error_at)
        comm->state = st->faults[rank].code;
    while ((n == st->faults[rank].error_at || n == st->faults[rank].hang_at) && !comm->aborted)
        pthread_cond_wait(&st->changed, &st->lock);
    return comm->aborted;
}

static void leave_world(world *world)
{
    if (--world->members > 0)
        return;
    for (struct world **link = &st->worlds; *link; link = &(*link)->next) {
        if (*link == world) {
            *link = world->next;
            break;
        }
    }
    free(world);
}

/* Its operations have ended. */
void nccl_stub_comm_free(comm_t comm)
{
    for (comm_t *link = &st->comms; *link; link = &(*link)->next) {
        if (*link == comm) {
            *link = comm->next;
            break;
        }
    }
    free(comm->waiting);
    comm->world->member[comm->rank] = NULL;
    leave_world(comm->world);
    free(comm);
}

static void forget(batch *work)
{
    batch **link = &st->batches;
    while (*link != work)
        link = &(*link)->next;
    *link = work->next;
    free(work);
}

/* On the stream's thread. */
static void run_batch(const void *args)
{
    batch *mine;
    char *result[CALLS] = {NULL};
    size_t bytes[CALLS] = {0};
    memcpy(&mine, args, sizeof mine);
    comm_t comm = mine->comm;
    world *world = comm->world;
    pthread_mutex_lock(&st->lock);
    int ok = !faulty(comm);
    if (ok) {
        world->posted[comm->rank] = mine;
        world->arrived[comm->rank] = mine->number;
        pthread_cond_broadcast(&st->changed);
        ok = meet(mine, world->arrived);
    }
    for (int i = 0; ok && i < mine->n; i++)
        result[i] = compute(mine, i, &bytes[i]);
    if (ok) {
        world->computed[comm->rank] = mine->number;
        pthread_cond_broadcast(&st->changed);
        ok = meet(mine, world->computed);
    }
    for (int i = 0; i < mine->n; i++) {
        if (ok && bytes[i])
            memcpy(mine->calls[i].to, result[i], bytes[i]);
        free(result[i]);
    }
    if (!ok)
        world->arrived[comm->rank] = 0; /* aborted: a slower peer finds nobody, its operation hangs */
    world->posted[comm->rank] = NULL;
    if (--comm->running == 0 && comm->aborted)
        nccl_stub_comm_free(comm);
    forget(mine);
    pthread_cond_broadcast(&st->changed);
    pthread_mutex_unlock(&st->lock);
}

int nccl_stub_launch(comm_t comm, batch *work, void *stream)
{
    comm->running++;
    work->next = st->batches;
    st->batches = work;
    pthread_mutex_unlock(&st->lock);
    int code = st->cuda.launch(stream, "nccl", run_batch, &work, sizeof work);
    pthread_mutex_lock(&st->lock);
    if (code == 0)
        return SUCCESS;
    comm->running--;
    forget(work);
    return UNHANDLED;
}

/* With the lock held. */
static int submit(batch *work, void *stream)
{
    comm_t comm = work->comm;
    if (comm->state != SUCCESS || comm->aborted) {
        st->misuses += comm->state == IN_PROGRESS || comm->aborted;
        free(work);
        return comm->state ? comm->state : INVALID_USAGE;
    }
    work->number = ++comm->batches;
    if (comm->blocking || st->launch_polls == 0)
        return nccl_stub_launch(comm, work, stream);
    comm->waiting = work;
    comm->stream = stream;
    comm->polls = st->launch_polls;
    comm->state = IN_PROGRESS;
    return IN_PROGRESS;
}

static int add(const char *name, comm_t comm, void *stream, const call *what)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter(name);
    if (code != SUCCESS) {
        group_code = depth ? code : SUCCESS;
        return nccl_stub_leave(code);
    }
    batch *work = depth ? group : NULL;
    if (!work && !(work = calloc(1, sizeof *work)))
        abort();
    work->comm = comm;
    if (work->n == CALLS)
        abort();
    work->calls[work->n++] = *what;
    if (depth) {
        group = work;
        group_stream = stream;
        return nccl_stub_leave(SUCCESS);
    }
    return nccl_stub_leave(submit(work, stream));
}

EXPORT int ncclSend(const void *from, size_t count, int type, int peer, comm_t comm, void *stream)
{
    return add("Send", comm, stream, &(call){.kind = SEND, .from = from, .count = count, .type = type, .peer = peer});
}

EXPORT int ncclRecv(void *to, size_t count, int type, int peer, comm_t comm, void *stream)
{
    return add("Recv", comm, stream, &(call){.kind = RECV, .to = to, .count = count, .type = type, .peer = peer});
}

EXPORT int ncclAllGather(const void *from, void *to, size_t count, int type, comm_t comm, void *stream)
{
    return add("AllGather", comm, stream,
               &(call){.kind = ALL_GATHER, .from = from, .to = to, .count = count, .type = type});
}

EXPORT int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, comm_t comm, void *stream)
{
    return add("AllReduce", comm, stream,
               &(call){.kind = ALL_REDUCE, .from = from, .to = to, .count = count, .type = type, .op = op});
}

EXPORT int ncclReduceScatter(const void *from, void *to, size_t count, int type, int op, comm_t comm, void *stream)
{
    return add("ReduceScatter", comm, stream,
               &(call){.kind = REDUCE_SCATTER, .from = from, .to = to, .count = count, .type = type, .op = op});
}

EXPORT int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, comm_t comm, void *stream)
{
    return add("Broadcast", comm, stream,
               &(call){.kind = BROADCAST, .from = from, .to = to, .count = count, .type = type, .peer = root});
}

EXPORT int ncclGroupStart(void)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("GroupStart");
    depth += code == SUCCESS;
    return nccl_stub_leave(code);
}

EXPORT int ncclGroupEnd(void)
{
    pthread_mutex_lock(&st->lock);
    int code = nccl_stub_enter("GroupEnd");
    batch *work = group;
    if (depth == 0)
        st->misuses++;
    depth--;
    group = NULL;
    code = code == SUCCESS ? group_code : code;
    group_code = SUCCESS;
    if (code != SUCCESS) {
        free(work);
        return nccl_stub_leave(code);
    }
    return nccl_stub_leave(work ? submit(work, group_stream) : SUCCESS);
}
