/* SPDX-License-Identifier: MIT
 *
 * The communicator seam. Collectives are enqueued on a device stream and take the ranks' windows: memory that was
 * registered with the communicator, at the same offsets on every rank. All ranks enqueue the same collectives in the
 * same order.
 *
 * Two ends of a collective are told apart: in stream order the local result is there; `released` waits until every rank
 * has read this rank's input, so that it may be overwritten.
 *
 * direct.c is one algorithm over addressable peers (self, threads, shared memory): announce (arrive = n), wait for the
 * peers' arrival, read each peer's part exactly once, in the tree's order, announce that (depart = n).
 */
#ifndef SHERD_COMM_COMM_H
#define SHERD_COMM_COMM_H

#include "device/device.h"

typedef struct sherd__window {
    void *local;    /* this rank's memory */
    uint64_t bytes; /* the same on all ranks */
    void *handle;   /* the implementation's */
} sherd__window;

/* Number of a collective on this communicator, from 1; 0: nothing to wait for. Wraps. */
typedef uint32_t sherd__ticket;

typedef struct sherd__comm_ops {
    void (*destroy)(sherd_comm *comm);
    /* Engine creation, COLLECTIVE: control block and receive scratch booked in the device's ledger; unbind before the
     * device goes. */
    sherd_status (*bind)(sherd_comm *comm, sherd_device *device, sherd_error *err);
    void (*unbind)(sherd_comm *comm);
    /* COLLECTIVE, host-synchronous. Zeroed memory that peers can read, booked in the device's ledger. */
    sherd_status (*window_create)(sherd_comm *comm, uint64_t bytes, sherd_category category, sherd__window *out,
                                  sherd_error *err);
    void (*window_destroy)(sherd_comm *comm, sherd__window *window); /* local; zeroed struct is legal */
    /* sum->src* are filled in here: this rank's slice, at offset + rank × slice bytes of every rank's window; the rest
     * is the caller's. */
    sherd_status (*reduce_scatter)(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                   uint64_t offset, const sherd__tree_sum *sum, sherd__ticket *ticket);
    /* In place: slice r at offset + r × slice_bytes is rank r's. */
    sherd_status (*all_gather)(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                               uint64_t offset, uint64_t slice_bytes, sherd__ticket *ticket);
    /* values[n_sum + n_min], in place, on the device; at most SHERD__VOTE_MAX words. */
    sherd_status (*all_reduce)(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, uint64_t *values,
                               uint32_t n_sum, uint32_t n_min);
    /* Every rank gets root's bytes at window + offset. */
    sherd_status (*broadcast)(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                              uint64_t offset, uint64_t bytes, int32_t root, sherd__ticket *ticket);
    sherd_status (*barrier)(sherd_comm *comm, sherd__stream *stream, sherd__tag tag);
    /* The stream waits until every rank has read this rank's input of collective `ticket`. */
    sherd_status (*released)(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, sherd__ticket ticket,
                             const char *site);
    /* Tells the peers why this rank gives up; any thread; first call counts. Their waits end with EABORTED and the
     * sentence. */
    void (*abort)(sherd_comm *comm, const sherd_error *why);
} sherd__comm_ops;

#define SHERD__VOTE_MAX 64

/* "yes, 2.28.9 (/usr/lib/libnccl.so.2)" or "no: …": looks for NCCL now. */
void sherd__comm_describe_nccl(char *text, size_t capacity);

/* Implementations put this first. */
struct sherd_comm {
    const sherd__comm_ops *ops;
    int32_t rank, world;
    sherd_allocator allocator;
    sherd_log log;
    double warn_after_s, fail_after_s;
    sherd_device *device; /* while bound */
    sherd_transport transport;
    /* What the plan grants, set before bind: the scratch that others' slices arrive in (0 where the transport reads them
     * in place), booked under COMMUNICATION; 1: the transport's own reduction instead of the tree. */
    uint64_t receive_bytes;
    int32_t native;
    char description[128];
    const int32_t *node_of; /* [world], or NULL: all ranks are of one node, as far as this transport knows */
    /* Between nodes, collectives only: what this rank has sent and received, in how many messages. */
    _Atomic uint64_t sent_bytes, received_bytes, sent_messages;
};

#endif
