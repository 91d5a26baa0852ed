/* SPDX-License-Identifier: MIT
 *
 * Collectives over nodes. Each has one meeting inside the node, as the direct communicator's have (direct.c), and
 * between nodes at most one message from a rank to another:
 *
 *   reduce-scatter  meeting; a node that is a subtree sums the slice of every rank outside from its windows, each of
 * its ranks a part of those slices, and sends fp32; from other nodes leaves travel as they are. Then the own slice's
 * tree, from the node's windows and what has arrived in the scratch. all-gather      each slice goes once to every
 * other node, in place, to one of its ranks; meeting; the node's ranks read it from there broadcast       the root's
 * bytes likewise all-reduce      inside the node; then one row of words from each node to every rank outside barrier
 * meeting; then a message without bytes on the same ways
 *
 * What a rank's peers read from its window is no longer its own slice alone: before others' bytes arrive there anew,
 * all must have left the collective that last read such bytes (foreign_number).
 */
#include "comm/mpi_comm.h"

#include <inttypes.h>

static sherd_status refuse(sherd_comm *comm, const sherd_error *error)
{
    return comm->device != NULL ? sherd__device_poison(comm->device, error) : error->status;
}

/* Checks what was asked and takes the next number; world × slice bytes do not wrap where a window holds them. */
static sherd_status begin(sherd__mpi *mpi, const sherd__window *window, uint64_t offset, uint64_t bytes,
                          sherd__kind kind)
{
    sherd_error error;
    if (mpi->base.device == NULL) {
        return SHERD_ESTATE;
    }
    if (window != NULL && (window->handle == NULL || offset > window->bytes || bytes > window->bytes - offset)) {
        sherd__fail(&error, SHERD_EINVAL, "%s: bytes %" PRIu64 " to %" PRIu64 " of a window of %" PRIu64,
                    sherd__kind_text(kind), offset, offset + bytes, window->bytes);
        return refuse(&mpi->base, &error);
    }
    sherd__direct_take_number(mpi->inside);
    return SHERD_OK;
}

static char *window_of(const sherd__mpi *mpi, const sherd__window *window, int32_t rank)
{
    return ((const sherd__view *)window->handle)->base[mpi->layout.place[rank]];
}

static int outside(const sherd__mpi *mpi, int32_t rank)
{
    return mpi->layout.node_of[rank] != mpi->layout.node;
}

/* The rank of this node whose window has `rank`'s bytes. */
static int32_t holder(const sherd__mpi *mpi, int32_t rank)
{
    return outside(mpi, rank) ? sherd__mpi_partner(&mpi->layout, mpi->layout.node, rank) : rank;
}

static sherd_status finish(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream, sherd__ticket *ticket)
{
    sherd_status status = sherd__direct_leave(mpi->inside, stream, call->tag, ticket);
    return status == SHERD_OK ? sherd__mpi_call_close(mpi, call, stream) : status;
}

/* --------------------------------------------------------------------------------------------------- reduce-scatter */

typedef struct reduction {
    sherd__mpi *mpi;
    sherd__mpi_call *call;
    sherd__stream *stream;
    const sherd__window *window;
    uint64_t offset, slice_bytes, sum_bytes; /* of a slice as leaves, and as fp32 */
    const sherd__tree_sum *sum;
    char *free; /* scratch not yet given away */
} reduction;

static char *take_scratch(reduction *r, uint64_t bytes)
{
    char *at = r->free;
    r->free += bytes;
    return at;
}

/* Of the slice of `rank`, over this node's ranks. */
static sherd_status sum_node(reduction *r, int32_t rank, void *to)
{
    sherd__mpi *mpi = r->mpi;
    sherd__tree_sum job = {.src = (const void *const *)((const sherd__view *)r->window->handle)->base,
                           .n_src = (uint32_t)sherd__mpi_count(&mpi->layout, mpi->layout.node),
                           .src_offset = r->offset + (uint64_t)rank * r->slice_bytes,
                           .src_dtype = r->sum->src_dtype,
                           .dst_dtype = SHERD_FP32,
                           .dst = to,
                           .elems = r->sum->elems};
    return mpi->base.device->ops->tree_sum(r->stream, r->call->tag, &job);
}

static sherd_status send_slices(reduction *r)
{
    sherd__mpi *mpi = r->mpi;
    int block = mpi->layout.block[mpi->layout.node];
    sherd_status status = SHERD_OK;
    for (int32_t peer = 0; peer < mpi->base.world && status == SHERD_OK; peer++) {
        if (!outside(mpi, peer)) {
            continue;
        }
        if (!block) {
            sherd__mpi_call_send(r->call, peer, (char *)r->window->local + r->offset + (uint64_t)peer * r->slice_bytes,
                                 r->slice_bytes);
        } else if (sherd__mpi_partner(&mpi->layout, mpi->layout.node, peer) == mpi->base.rank) {
            char *at = take_scratch(r, r->sum_bytes);
            status = sum_node(r, peer, at);
            sherd__mpi_call_send(r->call, peer, at, r->sum_bytes);
        }
    }
    return status;
}

/* What stands for `rank` in the own slice's tree, and comes by a message; the own node's are where they are. */
static sherd__mpi_source source_of(reduction *r, int32_t rank)
{
    sherd__mpi *mpi = r->mpi;
    int32_t node = mpi->layout.node_of[rank];
    sherd__mpi_source leaf = {.low = rank, .high = rank + 1, .dtype = r->sum->src_dtype};
    sherd__mpi_source whole = {.low = rank, .high = rank + sherd__mpi_count(&mpi->layout, node), .dtype = SHERD_FP32};
    if (node == mpi->layout.node) {
        leaf.at = window_of(mpi, r->window, rank) + r->offset + (uint64_t)mpi->base.rank * r->slice_bytes;
        return leaf;
    }
    char *at = take_scratch(r, mpi->layout.block[node] ? r->sum_bytes : r->slice_bytes);
    leaf.at = whole.at = at;
    if (mpi->layout.block[node]) {
        sherd__mpi_call_recv(r->call, sherd__mpi_partner(&mpi->layout, node, mpi->base.rank), at, r->sum_bytes);
        return whole;
    }
    sherd__mpi_call_recv(r->call, rank, at, r->slice_bytes);
    return leaf;
}

static int32_t list_sources(reduction *r)
{
    int32_t n = 0;
    for (int32_t rank = 0; rank < r->mpi->base.world; rank = r->mpi->sources[n++].high) {
        r->mpi->sources[n] = source_of(r, rank);
    }
    return n;
}

/* The own node's leaves become one source, so that what has arrived is of their kind. */
static sherd_status join_own(reduction *r, int32_t *n)
{
    sherd__mpi *mpi = r->mpi;
    const sherd__mpi_layout *layout = &mpi->layout;
    int32_t low = layout->member[layout->first[layout->node]], count = sherd__mpi_count(layout, layout->node), at = 0;
    if (!layout->block[layout->node]) {
        return SHERD_OK;
    }
    while (mpi->sources[at].low < low) {
        at++;
    }
    mpi->sources[at] =
        (sherd__mpi_source){.low = low, .high = low + count, .at = take_scratch(r, r->sum_bytes), .dtype = SHERD_FP32};
    for (int32_t i = at + count; i < *n; i++) {
        mpi->sources[i - count + 1] = mpi->sources[i];
    }
    *n -= count - 1;
    void *to = r->free - r->sum_bytes;
    return sum_node(r, mpi->base.rank, to);
}

static uint32_t levels(int32_t world)
{
    uint32_t bits = 1;
    while ((int64_t)1 << (bits - 1) < world) {
        bits++;
    }
    return bits;
}

/* As much as the worst layout takes; the plan's formula (shard/transport.c). */
static uint64_t scratch_needed(int32_t world, uint64_t leaf, uint64_t sum)
{
    uint64_t others = (uint64_t)world - 1;
    return world > 2 ? others * leaf + (others / 2 + 1 + levels(world)) * sum : others * leaf;
}

static sherd_status exchange_slices(reduction *r)
{
    sherd__mpi *mpi = r->mpi;
    sherd_status status = sherd__mpi_await_sent(mpi, r->stream, r->call->tag, mpi->sum_number, "scratch sent");
    mpi->sum_number = r->call->number;
    int32_t n = list_sources(r);
    if (status == SHERD_OK) {
        status = send_slices(r);
    }
    if (status == SHERD_OK) {
        status = sherd__mpi_call_exchange(mpi, r->call, r->stream);
    }
    if (status == SHERD_OK) {
        status = join_own(r, &n);
    }
    return status == SHERD_OK ? sherd__mpi_tree(mpi, r->call, r->stream, mpi->sources, n, r->free, r->sum) : status;
}

sherd_status sherd__mpi_reduce_scatter(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                       const sherd__window *window, uint64_t offset, const sherd__tree_sum *sum,
                                       sherd__ticket *ticket)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    uint64_t elems = (uint64_t)sum->elems;
    if (mpi->layout.nodes == 1) {
        return inside->ops->reduce_scatter(inside, stream, tag, window, offset, sum, ticket);
    }
    reduction r = {.mpi = mpi, .stream = stream, .window = window, .offset = offset, .sum = sum, .free = mpi->scratch};
    r.slice_bytes = elems * sherd_dtype_bytes(sum->src_dtype);
    r.sum_bytes = elems * sizeof(float);
    sherd_error error;
    sherd_status status = begin(mpi, window, offset, r.slice_bytes * (uint64_t)comm->world, SHERD__KIND_REDUCE_SCATTER);
    if (status != SHERD_OK) {
        return status;
    }
    uint64_t needed = scratch_needed(comm->world, r.slice_bytes, r.sum_bytes);
    if (needed > mpi->scratch_bytes) {
        sherd__fail(&error, SHERD_EINVAL,
                    "reduce-scatter of slices of %" PRIu64 " bytes needs a scratch of %" PRIu64 ", it has %" PRIu64,
                    r.slice_bytes, needed, mpi->scratch_bytes);
        return refuse(comm, &error);
    }
    uint32_t sizes = sherd__direct_digest(offset, r.slice_bytes, sum->src_dtype);
    r.call = sherd__mpi_call_open(mpi, SHERD__KIND_REDUCE_SCATTER, tag, sizes, &status);
    if (r.call != NULL) {
        status = sherd__direct_enter(mpi->inside, stream, tag, SHERD__KIND_REDUCE_SCATTER, sizes);
    }
    if (status == SHERD_OK && elems > 0) {
        status = exchange_slices(&r);
    } else if (status == SHERD_OK) {
        status = sherd__mpi_call_exchange(mpi, r.call, stream);
    }
    return status == SHERD_OK ? finish(mpi, r.call, stream, ticket) : status;
}

/* -------------------------------------------------------------------------------------------- all-gather, broadcast */

/* Others' bytes may arrive in this rank's window: nobody still reads the last ones there. */
static sherd_status await_foreign(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream)
{
    sherd_comm *inside = &mpi->inside->base;
    uint32_t former = mpi->foreign_number;
    mpi->foreign_number = call->number;
    return inside->ops->released(inside, stream, call->tag, former, "bytes of other nodes read");
}

/* `bytes` at `at` of rank `from`'s window, to one rank of every other node. */
static void spread(sherd__mpi *mpi, sherd__mpi_call *call, const sherd__window *window, int32_t from, uint64_t at,
                   uint64_t bytes)
{
    if (from == mpi->base.rank) {
        for (int32_t node = 0; node < mpi->layout.nodes; node++) {
            if (node != mpi->layout.node) {
                sherd__mpi_call_send(call, sherd__mpi_partner(&mpi->layout, node, from), (char *)window->local + at,
                                     bytes);
            }
        }
    } else if (outside(mpi, from) && holder(mpi, from) == mpi->base.rank) {
        sherd__mpi_call_recv(call, from, (char *)window->local + at, bytes);
    }
}

static sherd_status fetch(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream, const sherd__window *window,
                          int32_t rank, uint64_t at, uint64_t bytes)
{
    int32_t from = holder(mpi, rank);
    if (from == mpi->base.rank || bytes == 0) {
        return SHERD_OK;
    }
    return mpi->base.device->ops->copy(stream, call->tag, (char *)window->local + at, window_of(mpi, window, from) + at,
                                       bytes);
}

/* The messages, then the meeting. */
static sherd_status exchange_in_place(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream)
{
    sherd_status status = await_foreign(mpi, call, stream);
    if (status == SHERD_OK) {
        status = sherd__mpi_call_exchange(mpi, call, stream);
    }
    return status == SHERD_OK ? sherd__direct_enter(mpi->inside, stream, call->tag, call->kind, call->what[1]) : status;
}

sherd_status sherd__mpi_all_gather(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                   uint64_t offset, uint64_t slice_bytes, sherd__ticket *ticket)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    if (mpi->layout.nodes == 1) {
        return inside->ops->all_gather(inside, stream, tag, window, offset, slice_bytes, ticket);
    }
    sherd_status status = begin(mpi, window, offset, slice_bytes * (uint64_t)comm->world, SHERD__KIND_ALL_GATHER);
    sherd__mpi_call *call = status == SHERD_OK
                                ? sherd__mpi_call_open(mpi, SHERD__KIND_ALL_GATHER, tag,
                                                       sherd__direct_digest(offset, slice_bytes, 0), &status)
                                : NULL;
    if (call == NULL) {
        return status;
    }
    for (int32_t rank = 0; rank < comm->world; rank++) {
        spread(mpi, call, window, rank, offset + (uint64_t)rank * slice_bytes, slice_bytes);
    }
    status = exchange_in_place(mpi, call, stream);
    for (int32_t step = 1; step < comm->world && status == SHERD_OK; step++) {
        int32_t rank = (comm->rank + step) % comm->world;
        status = fetch(mpi, call, stream, window, rank, offset + (uint64_t)rank * slice_bytes, slice_bytes);
    }
    return status == SHERD_OK ? finish(mpi, call, stream, ticket) : status;
}

sherd_status sherd__mpi_broadcast(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                  uint64_t offset, uint64_t bytes, int32_t root, sherd__ticket *ticket)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    sherd_error error;
    if (mpi->layout.nodes == 1) {
        return inside->ops->broadcast(inside, stream, tag, window, offset, bytes, root, ticket);
    }
    if (root < 0 || root >= comm->world) {
        sherd__fail(&error, SHERD_EINVAL, "broadcast from rank %" PRId32 " in a world of %" PRId32, root, comm->world);
        return refuse(comm, &error);
    }
    sherd_status status = begin(mpi, window, offset, bytes, SHERD__KIND_BROADCAST);
    sherd__mpi_call *call = status == SHERD_OK
                                ? sherd__mpi_call_open(mpi, SHERD__KIND_BROADCAST, tag,
                                                       sherd__direct_digest(offset, bytes, (uint64_t)root + 1), &status)
                                : NULL;
    if (call == NULL) {
        return status;
    }
    spread(mpi, call, window, root, offset, bytes);
    status = exchange_in_place(mpi, call, stream);
    if (status == SHERD_OK) {
        status = fetch(mpi, call, stream, window, root, offset, bytes);
    }
    return status == SHERD_OK ? finish(mpi, call, stream, ticket) : status;
}

/* ---------------------------------------------------------------------------------------------- all-reduce, barrier */

/* `bytes` at `own` to every rank outside that this one serves, and a row from each other node. */
static void list_rows(sherd__mpi *mpi, sherd__mpi_call *call, const void *own, uint64_t bytes)
{
    const sherd__mpi_layout *layout = &mpi->layout;
    for (int32_t peer = 0; peer < layout->world; peer++) {
        if (outside(mpi, peer) && sherd__mpi_partner(layout, layout->node, peer) == layout->rank) {
            sherd__mpi_call_send(call, peer, own, bytes);
        }
    }
    for (int32_t node = 0; node < layout->nodes; node++) {
        if (node != layout->node) {
            sherd__mpi_call_recv(call, sherd__mpi_partner(layout, node, layout->rank),
                                 mpi->rows + (size_t)node * SHERD__VOTE_MAX, bytes);
        }
    }
}

static sherd_status reduce_rows(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream, uint64_t *values,
                                uint32_t n_sum, uint32_t n_min)
{
    const sherd__device_ops *ops = mpi->base.device->ops;
    uint64_t bytes = ((uint64_t)n_sum + n_min) * sizeof *values;
    uint64_t *own = mpi->rows + (size_t)mpi->layout.node * SHERD__VOTE_MAX;
    sherd_status status = sherd__mpi_await_sent(mpi, stream, call->tag, mpi->vote_number, "values sent");
    mpi->vote_number = call->number;
    list_rows(mpi, call, own, bytes);
    if (status == SHERD_OK) {
        status = ops->copy(stream, call->tag, own, values, bytes);
    }
    if (status == SHERD_OK) {
        status = sherd__mpi_call_exchange(mpi, call, stream);
    }
    return status == SHERD_OK
               ? ops->reduce_u64(stream, call->tag, values, mpi->row, (uint32_t)mpi->layout.nodes, 0, n_sum, n_min)
               : status;
}

sherd_status sherd__mpi_all_reduce(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, uint64_t *values,
                                   uint32_t n_sum, uint32_t n_min)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    if (comm->device == NULL) {
        return SHERD_ESTATE;
    }
    sherd_status status = inside->ops->all_reduce(inside, stream, tag, values, n_sum, n_min);
    if (status != SHERD_OK || mpi->layout.nodes == 1) {
        return status;
    }
    sherd__mpi_call *call =
        sherd__mpi_call_open(mpi, SHERD__KIND_ALL_REDUCE, tag, sherd__direct_digest(n_sum, n_min, 0), &status);
    if (call != NULL) {
        status = reduce_rows(mpi, call, stream, values, n_sum, n_min);
    }
    return status == SHERD_OK ? sherd__mpi_call_close(mpi, call, stream) : status;
}

sherd_status sherd__mpi_barrier(sherd_comm *comm, sherd__stream *stream, sherd__tag tag)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    if (comm->device == NULL) {
        return SHERD_ESTATE;
    }
    sherd_status status = inside->ops->barrier(inside, stream, tag);
    if (status != SHERD_OK || mpi->layout.nodes == 1) {
        return status;
    }
    sherd__mpi_call *call = sherd__mpi_call_open(mpi, SHERD__KIND_BARRIER, tag, 0, &status);
    if (call != NULL) {
        list_rows(mpi, call, NULL, 0);
        status = sherd__mpi_call_exchange(mpi, call, stream);
    }
    return status == SHERD_OK ? sherd__mpi_call_close(mpi, call, stream) : status;
}

sherd_status sherd__mpi_released(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, sherd__ticket ticket,
                                 const char *site)
{
    sherd__mpi *mpi = (sherd__mpi *)comm;
    sherd_comm *inside = &mpi->inside->base;
    sherd_status status = inside->ops->released(inside, stream, tag, ticket, site);
    if (status != SHERD_OK || mpi->layout.nodes == 1) {
        return status;
    }
    return sherd__mpi_await_sent(mpi, stream, tag, ticket, site);
}
