/* SPDX-License-Identifier: MIT
 *
 * One lock for all. An operation of a rank is a batch (a group of calls); in stream order it waits until every rank of
 * its world has come to its batch of the same number, computes from the others' sources, waits until all have computed,
 * and writes.
 */
#include "tests/support/nccl_stub/stub.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
#define RANKS 64
#define CALLS 256 /* in a group */
#define FUNCTIONS 40

enum { SUCCESS = 0, UNHANDLED = 1, INTERNAL = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, IN_PROGRESS = 7 };
enum { UINT64_TYPE = 5, FLOAT32_TYPE = 7, BFLOAT16_TYPE = 9, MIN_OP = 3 };
typedef enum kind { SEND, RECV, ALL_GATHER, ALL_REDUCE, REDUCE_SCATTER, BROADCAST } kind;

typedef struct call {
    kind kind;
    const char *from;
    char *to;
    size_t count;
    int type, op, peer; /* peer: or root */
} call;

struct ncclComm;

typedef struct batch {
    struct batch *next; /* of all that are launched: one in a context that breaks never runs, and stays known */
    struct ncclComm *comm;
    uint64_t number;
    int n;
    call calls[CALLS];
} batch;

typedef struct world {
    struct world *next;
    char id[128];
    int ranks, joined, finalized, members;
    struct ncclComm *member[RANKS];
    batch *posted[RANKS];
    uint64_t arrived[RANKS], computed[RANKS];
} world;

struct ncclComm {
    world *world;
    int rank, device, blocking;
    int state; /* what GetAsyncError says */
    int opening, finalizing;
    int polls;      /* until what is under way is through */
    batch *waiting; /* to be launched */
    void *stream;
    void **window; /* to be given a handle */
    struct ncclComm *splitting;
    uint64_t batches, splits;
    int running, aborted; /* running: batches given to streams; the last one frees what was aborted */
    struct ncclComm *next;
};
typedef struct ncclComm *comm_t;
typedef struct id_t {
    char internal[128];
} id_t_;
typedef struct config {
    size_t size;
    unsigned magic, version;
    int blocking;
} config;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static nccl_stub_cuda cuda;
static world *worlds;
static batch *batches;
static struct ncclComm *comms; /* all there are: what a broken GPU keeps is not lost to leak checkers */
static struct {
    const char *name;
    uint64_t calls, refuse_at;
    int code;
} functions[FUNCTIONS];
static struct {
    uint64_t operations, hang_at, error_at;
    int code;
} faults[RANKS];
static int version_code = 22809, init_polls, launch_polls, has_symmetric = 1, stuck;
static uint64_t ids, misuses, alive;
static _Thread_local int depth, group_code; /* a refused call makes its whole group fail */
static _Thread_local batch *group;
static _Thread_local void *group_stream;

/* -----------------------------------------------------------------------------------------------------------
 * accounting */

static int function_of(const char *name)
{
    for (int i = 0; i < FUNCTIONS; i++) {
        if (!functions[i].name)
            functions[i].name = name;
        if (strcmp(functions[i].name, name) == 0)
            return i;
    }
    abort();
}

/* With the lock held: counts, and what the call is refused with. */
static int enter(const char *name)
{
    int at = function_of(name);
    functions[at].calls++;
    return functions[at].refuse_at && --functions[at].refuse_at == 0 ? functions[at].code : SUCCESS;
}

static int leave(int code)
{
    pthread_mutex_unlock(&lock);
    return code;
}

/* ------------------------------------------------------------------------------------------------------------
 * operations */

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
        pthread_cond_wait(&changed, &lock);
        r = 0;
    }
    return !mine->comm->aborted;
}

static int faulty(comm_t comm)
{
    int rank = comm->rank;
    uint64_t n = ++faults[rank].operations;
    if (n == faults[rank].error_at)
        comm->state = faults[rank].code;
    while ((n == faults[rank].error_at || n == faults[rank].hang_at) && !comm->aborted)
        pthread_cond_wait(&changed, &lock);
    return comm->aborted;
}

static void leave_world(world *world)
{
    if (--world->members > 0)
        return;
    for (struct world **link = &worlds; *link; link = &(*link)->next) {
        if (*link == world) {
            *link = world->next;
            break;
        }
    }
    free(world);
}

/* Its operations have ended. */
static void comm_free(comm_t comm)
{
    for (comm_t *link = &comms; *link; link = &(*link)->next) {
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
    batch **link = &batches;
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
    pthread_mutex_lock(&lock);
    int ok = !faulty(comm);
    if (ok) {
        world->posted[comm->rank] = mine;
        world->arrived[comm->rank] = mine->number;
        pthread_cond_broadcast(&changed);
        ok = meet(mine, world->arrived);
    }
    for (int i = 0; ok && i < mine->n; i++)
        result[i] = compute(mine, i, &bytes[i]);
    if (ok) {
        world->computed[comm->rank] = mine->number;
        pthread_cond_broadcast(&changed);
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
        comm_free(comm);
    forget(mine);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static int launch(comm_t comm, batch *work, void *stream)
{
    comm->running++;
    work->next = batches;
    batches = work;
    pthread_mutex_unlock(&lock);
    int code = cuda.launch(stream, "nccl", run_batch, &work, sizeof work);
    pthread_mutex_lock(&lock);
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
        misuses += comm->state == IN_PROGRESS || comm->aborted;
        free(work);
        return comm->state ? comm->state : INVALID_USAGE;
    }
    work->number = ++comm->batches;
    if (comm->blocking || launch_polls == 0)
        return launch(comm, work, stream);
    comm->waiting = work;
    comm->stream = stream;
    comm->polls = launch_polls;
    comm->state = IN_PROGRESS;
    return IN_PROGRESS;
}

static int add(const char *name, comm_t comm, void *stream, const call *what)
{
    pthread_mutex_lock(&lock);
    int code = enter(name);
    if (code != SUCCESS) {
        group_code = depth ? code : SUCCESS;
        return leave(code);
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
        return leave(SUCCESS);
    }
    return leave(submit(work, stream));
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
    pthread_mutex_lock(&lock);
    int code = enter("GroupStart");
    depth += code == SUCCESS;
    return leave(code);
}

EXPORT int ncclGroupEnd(void)
{
    pthread_mutex_lock(&lock);
    int code = enter("GroupEnd");
    batch *work = group;
    if (depth == 0)
        misuses++;
    depth--;
    group = NULL;
    code = code == SUCCESS ? group_code : code;
    group_code = SUCCESS;
    if (code != SUCCESS) {
        free(work);
        return leave(code);
    }
    return leave(work ? submit(work, group_stream) : SUCCESS);
}

/* --------------------------------------------------------------------------------------------------------
 * communicators */

static world *world_of(const char *id, int ranks)
{
    for (world *at = worlds; at; at = at->next)
        if (memcmp(at->id, id, 128) == 0)
            return at;
    world *made = calloc(1, sizeof *made);
    if (!made)
        abort();
    memcpy(made->id, id, 128);
    made->ranks = ranks;
    made->next = worlds;
    worlds = made;
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
    (void)cuda.device(&comm->device);
    comm->world->member[rank] = comm;
    comm->world->joined++;
    comm->world->members++;
    comm->next = comms;
    comms = comm;
    alive++;
    *out = comm;
    pthread_cond_broadcast(&changed);
    while (blocking && comm->world->joined < ranks)
        pthread_cond_wait(&changed, &lock);
    comm->opening = !blocking;
    comm->polls = init_polls;
    comm->state = blocking ? SUCCESS : IN_PROGRESS;
    return comm->state;
}

EXPORT int ncclGetVersion(int *version)
{
    *version = version_code;
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
    pthread_mutex_lock(&lock);
    int code = enter("GetUniqueId");
    uint64_t number = ++ids;
    memset(id, 0, sizeof *id);
    memcpy(id->internal, &number, sizeof number);
    return leave(code);
}

EXPORT int ncclCommInitRankConfig(comm_t *out, int ranks, id_t_ id, int rank, config *settings)
{
    pthread_mutex_lock(&lock);
    int code = enter("CommInitRankConfig");
    if (code == SUCCESS && (settings->magic != 0xcafebeef || settings->size < sizeof *settings))
        code = INVALID_ARGUMENT;
    return leave(code == SUCCESS ? join(id.internal, ranks, rank, settings->blocking, out) : code);
}

EXPORT int ncclCommSplit(comm_t parent, int color, int key, comm_t *out, config *settings)
{
    char id[128] = {0};
    (void)color, (void)key;
    pthread_mutex_lock(&lock);
    int code = enter("CommSplit");
    if (code != SUCCESS)
        return leave(code);
    uint64_t number = ++parent->splits;
    memcpy(id, parent->world->id, 64);
    memcpy(id + 64, "split", 5);
    memcpy(id + 72, &number, sizeof number);
    code = join(id, parent->world->ranks, parent->rank, settings->blocking, out);
    while (parent->blocking && parent->world->joined && (*out)->world->joined < parent->world->ranks)
        pthread_cond_wait(&changed, &lock);
    if (parent->blocking)
        return leave(SUCCESS);
    parent->state = IN_PROGRESS;
    parent->splitting = *out;
    return leave(IN_PROGRESS);
}

static void progress_opening(comm_t comm)
{
    if (comm->world->joined < comm->world->ranks || init_polls < 0 || comm->polls-- > 0)
        return;
    comm->opening = 0;
    comm->state = SUCCESS;
}

EXPORT int ncclCommGetAsyncError(comm_t comm, int *state)
{
    pthread_mutex_lock(&lock);
    int code = enter("CommGetAsyncError");
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
        int launched = launch(comm, work, comm->stream);
        comm->state = comm->state == SUCCESS ? launched : comm->state;
    } else if (comm->window && --comm->polls <= 0) {
        *comm->window = has_symmetric ? malloc(1) : NULL;
        alive += has_symmetric != 0;
        comm->window = NULL;
        comm->state = SUCCESS;
    }
    *state = comm->state;
    return leave(code);
}

EXPORT int ncclCommFinalize(comm_t comm)
{
    pthread_mutex_lock(&lock);
    int code = enter("CommFinalize");
    comm->finalizing = 1;
    comm->world->finalized++;
    comm->state = IN_PROGRESS;
    while (comm->blocking && comm->world->finalized < comm->world->ranks)
        pthread_cond_wait(&changed, &lock);
    pthread_cond_broadcast(&changed);
    return leave(code != SUCCESS ? code : IN_PROGRESS);
}

EXPORT int ncclCommDestroy(comm_t comm)
{
    pthread_mutex_lock(&lock);
    int code = enter("CommDestroy");
    misuses += comm->running > 0 || comm->finalizing || comm->state == IN_PROGRESS;
    alive--;
    comm_free(comm);
    return leave(code);
}

EXPORT int ncclCommAbort(comm_t comm)
{
    pthread_mutex_lock(&lock);
    int code = enter("CommAbort");
    while (stuck)
        pthread_cond_wait(&changed, &lock);
    comm->aborted = 1;
    alive--;
    pthread_cond_broadcast(&changed);
    if (comm->running == 0)
        comm_free(comm);
    return leave(code);
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

/* ---------------------------------------------------------------------------------------------------------------
 * memory */

EXPORT int ncclMemAlloc(void **out, size_t bytes)
{
    pthread_mutex_lock(&lock);
    int code = enter("MemAlloc");
    pthread_mutex_unlock(&lock);
    if (code != SUCCESS || cuda.get(out, bytes) != 0)
        return code != SUCCESS ? code : UNHANDLED;
    pthread_mutex_lock(&lock);
    alive++;
    return leave(SUCCESS);
}

EXPORT int ncclMemFree(void *block)
{
    pthread_mutex_lock(&lock);
    int code = enter("MemFree");
    alive--;
    pthread_mutex_unlock(&lock);
    return cuda.put(block) == 0 ? code : UNHANDLED;
}

EXPORT int ncclCommRegister(comm_t comm, void *block, size_t bytes, void **handle)
{
    (void)block, (void)bytes;
    pthread_mutex_lock(&lock);
    int code = enter("CommRegister");
    misuses += comm->state == IN_PROGRESS;
    *handle = code == SUCCESS ? malloc(1) : NULL;
    alive += code == SUCCESS;
    return leave(code);
}

static int drop(const char *name, void *handle)
{
    pthread_mutex_lock(&lock);
    int code = enter(name);
    free(handle);
    alive--;
    return leave(code);
}

EXPORT int ncclCommDeregister(comm_t comm, void *handle)
{
    (void)comm;
    return drop("CommDeregister", handle);
}

EXPORT int ncclCommWindowRegister(comm_t comm, void *block, size_t bytes, void **window, int flags)
{
    (void)block, (void)bytes, (void)flags;
    pthread_mutex_lock(&lock);
    int code = enter("CommWindowRegister");
    misuses += comm->state == IN_PROGRESS;
    if (code != SUCCESS)
        return leave(code);
    comm->window = window;
    comm->polls = launch_polls;
    comm->state = IN_PROGRESS;
    return leave(IN_PROGRESS);
}

EXPORT int ncclCommWindowDeregister(comm_t comm, void *window)
{
    (void)comm;
    return drop("CommWindowDeregister", window);
}

/* ----------------------------------------------------------------------------------------------------------------
 * tests */

EXPORT void nccl_stub_attach(const nccl_stub_cuda *table)
{
    cuda = *table;
}

EXPORT void nccl_stub_reset(void)
{
    pthread_mutex_lock(&lock);
    memset(functions, 0, sizeof functions);
    memset(faults, 0, sizeof faults);
    version_code = 22809;
    init_polls = launch_polls = stuck = 0;
    has_symmetric = 1;
    misuses = 0;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

EXPORT void nccl_stub_version(int code)
{
    version_code = code;
}

EXPORT void nccl_stub_hang(int rank, uint64_t nth)
{
    pthread_mutex_lock(&lock);
    faults[rank].hang_at = faults[rank].operations + nth;
    pthread_mutex_unlock(&lock);
}

EXPORT void nccl_stub_error(int rank, uint64_t nth, int code)
{
    pthread_mutex_lock(&lock);
    faults[rank].error_at = faults[rank].operations + nth;
    faults[rank].code = code;
    pthread_mutex_unlock(&lock);
}

EXPORT void nccl_stub_refuse(const char *function, uint64_t nth, int code)
{
    pthread_mutex_lock(&lock);
    int at = function_of(function);
    functions[at].refuse_at = nth;
    functions[at].code = code;
    pthread_mutex_unlock(&lock);
}

EXPORT void nccl_stub_slow_init(int polls)
{
    pthread_mutex_lock(&lock);
    init_polls = polls;
    pthread_mutex_unlock(&lock);
}

EXPORT void nccl_stub_slow_launch(int polls)
{
    pthread_mutex_lock(&lock);
    launch_polls = polls;
    pthread_mutex_unlock(&lock);
}

EXPORT void nccl_stub_symmetric(int on)
{
    has_symmetric = on;
}

EXPORT void nccl_stub_stuck_abort(int on)
{
    pthread_mutex_lock(&lock);
    stuck = on;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

EXPORT uint64_t nccl_stub_calls(const char *function)
{
    pthread_mutex_lock(&lock);
    uint64_t calls = functions[function_of(function)].calls;
    pthread_mutex_unlock(&lock);
    return calls;
}

EXPORT uint64_t nccl_stub_operations(int rank)
{
    pthread_mutex_lock(&lock);
    uint64_t operations = faults[rank].operations;
    pthread_mutex_unlock(&lock);
    return operations;
}

EXPORT uint64_t nccl_stub_misuses(void)
{
    pthread_mutex_lock(&lock);
    uint64_t n = misuses;
    pthread_mutex_unlock(&lock);
    return n;
}

EXPORT uint64_t nccl_stub_alive(void)
{
    pthread_mutex_lock(&lock);
    uint64_t n = alive;
    pthread_mutex_unlock(&lock);
    return n;
}
