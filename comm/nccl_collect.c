/* SPDX-License-Identifier: MIT
 *
 * Collectives on NCCL: what a caller enqueues is one hook with its arguments by value; the thread that issues to the
 * stream then calls NCCL.
 *
 *   reduce-scatter   tree: slices are exchanged as they are (one grouped send and receive for each peer), and the
 * device's tree sum reads them in the order of the ranks: the bits of every other transport. native: NCCL's own, in
 * place in the window, then one pass that assigns or adds it. all-gather       in place all-reduce       the vote's
 * words as integers: sums and minima, whose bits no order can change broadcast        in place barrier          an
 * all-reduce of one word
 */
#include "comm/nccl.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Arguments of one collective; travels in the hook. */
typedef struct nccl_call {
    sherd__nccl *nccl;
    uint32_t number;
    sherd__kind kind;
    char *base;     /* of the window, or the values */
    uint64_t bytes; /* of a slice, or in all */
    int32_t root;
    uint32_t n_sum, n_min;
    sherd__tree_sum sum; /* src_offset: the bucket's place in the window */
} nccl_call;

_Static_assert(sizeof(nccl_call) <= SHERD__OP_HOOK_BYTES, "a collective travels by value");

/* -------------------------------------------------------------------------------------------------------- NCCL's calls
 */

static int exchange_slices(const nccl_call *call, void *stream)
{
    sherd__nccl *nccl = call->nccl;
    const sherd__nccl_api *api = nccl->api;
    const char *from = call->base + call->sum.src_offset;
    char *to = nccl->receive.local;
    int code = api->GroupStart();
    if (code != SHERD__NCCL_SUCCESS)
        return code;
    for (int32_t peer = 0; peer < nccl->base.world && code == SHERD__NCCL_SUCCESS; peer++) {
        if (peer == nccl->base.rank)
            continue;
        code = api->Send(from + (uint64_t)peer * call->bytes, call->bytes, SHERD__NCCL_INT8, peer, nccl->comm, stream);
        if (code == SHERD__NCCL_SUCCESS)
            code = api->Recv(to, call->bytes, SHERD__NCCL_INT8, peer, nccl->comm, stream);
        to += call->bytes;
    }
    int ended = api->GroupEnd();
    return code != SHERD__NCCL_SUCCESS ? code : ended;
}

static int type_of(sherd_dtype dtype)
{
    return dtype == SHERD_BF16 ? SHERD__NCCL_BFLOAT16 : dtype == SHERD_FP16 ? SHERD__NCCL_FLOAT16 : SHERD__NCCL_FLOAT32;
}

static int reduce_native(const nccl_call *call, void *stream)
{
    const sherd__nccl *nccl = call->nccl;
    char *all = call->base + call->sum.src_offset;
    return nccl->api->ReduceScatter(all, all + (uint64_t)nccl->base.rank * call->bytes, (size_t)call->sum.elems,
                                    type_of(call->sum.src_dtype), SHERD__NCCL_SUM, nccl->comm, stream);
}

static int reduce_values(const nccl_call *call, void *stream)
{
    const sherd__nccl *nccl = call->nccl;
    char *minima = call->base + call->n_sum * sizeof(uint64_t);
    int code = nccl->api->GroupStart();
    if (code != SHERD__NCCL_SUCCESS)
        return code;
    if (call->n_sum > 0)
        code = nccl->api->AllReduce(call->base, call->base, call->n_sum, SHERD__NCCL_UINT64, SHERD__NCCL_SUM,
                                    nccl->comm, stream);
    if (code == SHERD__NCCL_SUCCESS && call->n_min > 0)
        code =
            nccl->api->AllReduce(minima, minima, call->n_min, SHERD__NCCL_UINT64, SHERD__NCCL_MIN, nccl->comm, stream);
    int ended = nccl->api->GroupEnd();
    return code != SHERD__NCCL_SUCCESS ? code : ended;
}

/* nccl->calls is held. */
static int call_nccl(const nccl_call *call, void *stream)
{
    const sherd__nccl *nccl = call->nccl;
    switch (call->kind) {
    case SHERD__KIND_REDUCE_SCATTER:
        return nccl->base.native ? reduce_native(call, stream) : exchange_slices(call, stream);
    case SHERD__KIND_ALL_GATHER:
        return nccl->api->AllGather(call->base + (uint64_t)nccl->base.rank * call->bytes, call->base, call->bytes,
                                    SHERD__NCCL_INT8, nccl->comm, stream);
    case SHERD__KIND_BROADCAST:
        return nccl->api->Broadcast(call->base, call->base, call->bytes, SHERD__NCCL_INT8, call->root, nccl->comm,
                                    stream);
    default:
        return reduce_values(call, stream);
    }
}

/* --------------------------------------------------------------------------------------------------------------
 * issuing */

/* A place among the marks: the GPU may be behind by so many collectives, not more. */
static sherd_status take_mark(const nccl_call *call, const sherd__tag *tag, const char *place, sherd__nccl_mark **out,
                              sherd_error *err)
{
    sherd__nccl *nccl = call->nccl;
    int64_t begin = sherd__now_ns();
    uint32_t naps = 0;
    for (;;) {
        pthread_mutex_lock(&nccl->lock);
        sherd__nccl_advance(nccl);
        if (nccl->head - nccl->tail < SHERD__NCCL_MARKS)
            break;
        pthread_mutex_unlock(&nccl->lock);
        sherd_status status = sherd__nccl_error(nccl, err);
        if (status == SHERD_OK && (double)(sherd__now_ns() - begin) * 1e-9 > nccl->base.fail_after_s + 60)
            status = sherd__fail(err, SHERD_ETIMEOUT, "the GPU stayed %d collectives behind at %s", SHERD__NCCL_MARKS,
                                 place);
        if (status != SHERD_OK)
            return status;
        sherd__nccl_nap(&naps);
    }
    sherd__nccl_mark *mark = &nccl->mark[nccl->head % SHERD__NCCL_MARKS];
    mark->number = call->number;
    mark->kind = call->kind;
    mark->tag = *tag;
    mark->whole = 0;
    mark->started_ns = 0;
    nccl->head++;
    pthread_mutex_unlock(&nccl->lock);
    *out = mark;
    return SHERD_OK;
}

static sherd_status record(cudaEvent_t event, cudaStream_t stream, sherd_error *err)
{
    int code = (int)cudaEventRecord(event, stream);
    return code == (int)cudaSuccess ? SHERD_OK : sherd__cuda_refused(err, code, "cudaEventRecord");
}

static sherd_status enter_nccl(const nccl_call *call, cudaStream_t stream, const char *place, sherd_error *err)
{
    sherd__nccl *nccl = call->nccl;
    if (nccl->side)
        atomic_store_explicit(&nccl->side->control[nccl->base.rank]->arrive, call->number, memory_order_release);
    pthread_mutex_lock(&nccl->calls);
    int gone = nccl->comm == NULL, code = gone ? SHERD__NCCL_SUCCESS : call_nccl(call, stream);
    pthread_mutex_unlock(&nccl->calls);
    if (!gone)
        return sherd__nccl_settle(nccl, code, call->number, place, err);
    sherd_status status = sherd__nccl_error(nccl, err);
    return status != SHERD_OK ? status : sherd__fail(err, SHERD_ESTATE, "NCCL's communicator is gone at %s", place);
}

static sherd_status issue_nccl(const nccl_call *call, cudaStream_t stream, const sherd__tag *tag, sherd_error *err)
{
    sherd__nccl *nccl = call->nccl;
    sherd__nccl_mark *mark;
    char place[96];
    sherd__nccl_place(call->kind, tag, place, sizeof place);
    sherd_status status = take_mark(call, tag, place, &mark, err);
    if (status == SHERD_OK)
        status = record(mark->begin, stream, err);
    if (status == SHERD_OK)
        status = enter_nccl(call, stream, place, err);
    if (status == SHERD_OK)
        status = record(mark->end, stream, err);
    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&nccl->lock);
    mark->whole = 1;
    pthread_cond_broadcast(&nccl->changed); /* the keeper looks more often while something is under way */
    pthread_mutex_unlock(&nccl->lock);
    return SHERD_OK;
}

/* The sum of what has been received and the own slice, by ranks; natively, of what NCCL has made of the own slice. The
 * table is read as the sum is issued: one serves all. */
static sherd_status issue_sum(const nccl_call *call, sherd__stream *stream, const sherd__tag *tag)
{
    sherd__nccl *nccl = call->nccl;
    sherd__op op = {.kind = SHERD__OP_TREE_SUM, .tag = *tag, .u.tree_sum = call->sum};
    const char *received = nccl->receive.local;
    const char *own = call->base + call->sum.src_offset + (uint64_t)nccl->base.rank * call->bytes;
    uint32_t n = 0;
    for (int32_t peer = 0; peer < nccl->base.world && !nccl->base.native; peer++) {
        nccl->sources[n++] = peer == nccl->base.rank ? own : received;
        received += peer == nccl->base.rank ? 0 : call->bytes;
    }
    if (nccl->base.native)
        nccl->sources[n++] = own;
    op.u.tree_sum.src = nccl->sources;
    op.u.tree_sum.n_src = n;
    op.u.tree_sum.src_offset = 0;
    return sherd__cuda_issue(stream, &op);
}

static sherd_status issue(const void *args, sherd__stream *stream, const sherd__tag *tag)
{
    const nccl_call *call = args;
    sherd__nccl *nccl = call->nccl;
    sherd_error error = {0};
    sherd_status status = SHERD_OK;
    if (nccl->base.world > 1)
        status = issue_nccl(call, ((sherd__cuda_stream *)stream)->handle, tag, &error);
    atomic_store(&nccl->issued, call->number);
    if (status != SHERD_OK) {
        sherd__nccl_give_up(nccl, &error);
        return sherd__device_error(stream->device, NULL);
    }
    return call->kind == SHERD__KIND_REDUCE_SCATTER ? issue_sum(call, stream, tag) : SHERD_OK;
}

/* ------------------------------------------------------------------------------------------------------------
 * enqueueing */

static sherd_status refuse(sherd_comm *comm, const sherd_error *error)
{
    return comm->device ? sherd__device_poison(comm->device, error) : error->status;
}

static sherd_status check(sherd_comm *comm, sherd__stream *stream, const sherd__window *window, uint64_t offset,
                          uint64_t bytes, sherd__kind kind)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    sherd_error error;
    if (!comm->device)
        return SHERD_ESTATE;
    if (window && (!window->handle || offset > window->bytes || bytes > window->bytes - offset)) {
        sherd__fail(&error, SHERD_EINVAL, "%s: bytes %" PRIu64 " to %" PRIu64 " of a window of %" PRIu64,
                    sherd__kind_text(kind), offset, offset + bytes, window->bytes);
        return refuse(comm, &error);
    }
    if (nccl->user && nccl->user != stream) {
        sherd__fail(&error, SHERD_EINVAL, "%s on stream '%s': NCCL's collectives go on one stream, here '%s'",
                    sherd__kind_text(kind), stream->name, nccl->user->name);
        return refuse(comm, &error);
    }
    nccl->user = stream;
    return SHERD_OK;
}

/* Takes the next number, enqueues, and records the event that releases wait for. */
static sherd_status enqueue(nccl_call *call, sherd__stream *stream, sherd__tag tag, sherd__ticket *ticket)
{
    sherd__nccl *nccl = call->nccl;
    nccl->sequence += nccl->sequence == UINT32_MAX ? 2 : 1;
    call->number = nccl->sequence;
    sherd_status status = sherd__op_hook(stream, tag, issue, call, sizeof *call);
    if (status != SHERD_OK || !ticket)
        return status;
    *ticket = call->number;
    return nccl->base.device->ops->event_record(stream, nccl->event[call->number % SHERD__NCCL_MARKS]);
}

sherd_status sherd__nccl_reduce_scatter(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                        const sherd__window *window, uint64_t offset, const sherd__tree_sum *sum,
                                        sherd__ticket *ticket)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    uint64_t bytes = (uint64_t)sum->elems * sherd_dtype_bytes(sum->src_dtype);
    sherd_status status =
        check(comm, stream, window, offset, bytes * (uint64_t)comm->world, SHERD__KIND_REDUCE_SCATTER);
    if (status != SHERD_OK)
        return status;
    if (!comm->native && bytes * (uint64_t)(comm->world - 1) > nccl->receive.bytes) {
        sherd_error error;
        sherd__fail(&error, SHERD_EINVAL,
                    "reduce-scatter of slices of %" PRIu64 " bytes: the receive scratch holds %" PRIu64, bytes,
                    nccl->receive.bytes);
        return refuse(comm, &error);
    }
    nccl_call call = {
        .nccl = nccl, .kind = SHERD__KIND_REDUCE_SCATTER, .base = window->local, .bytes = bytes, .sum = *sum};
    call.sum.src_offset = offset;
    return enqueue(&call, stream, tag, ticket);
}

sherd_status sherd__nccl_all_gather(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                    const sherd__window *window, uint64_t offset, uint64_t slice_bytes,
                                    sherd__ticket *ticket)
{
    sherd_status status =
        check(comm, stream, window, offset, slice_bytes * (uint64_t)comm->world, SHERD__KIND_ALL_GATHER);
    nccl_call call = {.nccl = (sherd__nccl *)comm, .kind = SHERD__KIND_ALL_GATHER, .bytes = slice_bytes};
    if (status != SHERD_OK)
        return status;
    call.base = (char *)window->local + offset;
    return enqueue(&call, stream, tag, ticket);
}

sherd_status sherd__nccl_all_reduce(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, uint64_t *values,
                                    uint32_t n_sum, uint32_t n_min)
{
    sherd_error error;
    if (n_sum > SHERD__VOTE_MAX || n_min > SHERD__VOTE_MAX - n_sum) {
        sherd__fail(&error, SHERD_EINVAL, "all-reduce of %" PRIu32 " sums and %" PRIu32 " minima: at most %d values",
                    n_sum, n_min, SHERD__VOTE_MAX);
        return refuse(comm, &error);
    }
    sherd_status status = check(comm, stream, NULL, 0, 0, SHERD__KIND_ALL_REDUCE);
    nccl_call call = {.nccl = (sherd__nccl *)comm, .kind = SHERD__KIND_ALL_REDUCE, .base = (char *)values};
    call.n_sum = n_sum;
    call.n_min = n_min;
    return status == SHERD_OK ? enqueue(&call, stream, tag, NULL) : status;
}

sherd_status sherd__nccl_broadcast(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                   uint64_t offset, uint64_t bytes, int32_t root, sherd__ticket *ticket)
{
    sherd_error error;
    if (root < 0 || root >= comm->world) {
        sherd__fail(&error, SHERD_EINVAL, "broadcast from rank %" PRId32 " in a world of %" PRId32, root, comm->world);
        return refuse(comm, &error);
    }
    sherd_status status = check(comm, stream, window, offset, bytes, SHERD__KIND_BROADCAST);
    nccl_call call = {.nccl = (sherd__nccl *)comm, .kind = SHERD__KIND_BROADCAST, .bytes = bytes, .root = root};
    if (status != SHERD_OK)
        return status;
    call.base = (char *)window->local + offset;
    return enqueue(&call, stream, tag, ticket);
}

/* The first word of the control block, which stays 0. */
sherd_status sherd__nccl_barrier(sherd_comm *comm, sherd__stream *stream, sherd__tag tag)
{
    sherd_status status = check(comm, stream, NULL, 0, 0, SHERD__KIND_BARRIER);
    nccl_call call = {.nccl = (sherd__nccl *)comm, .kind = SHERD__KIND_BARRIER, .n_sum = 1};
    call.base = (char *)call.nccl->control;
    return status == SHERD_OK ? enqueue(&call, stream, tag, NULL) : status;
}

sherd_status sherd__nccl_released(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, sherd__ticket ticket,
                                  const char *site)
{
    sherd__nccl *nccl = (sherd__nccl *)comm;
    (void)tag;
    if (!comm->device)
        return SHERD_ESTATE;
    if (ticket == 0 || stream == nccl->user)
        return sherd__device_error(comm->device, NULL);
    return comm->device->ops->event_wait(stream, nccl->event[ticket % SHERD__NCCL_MARKS], site);
}
