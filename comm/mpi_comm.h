/* SPDX-License-Identifier: MIT
 *
 * The MPI communicator's own types: ranks of several nodes. Inside a node it is the direct communicator (`inside`,
 * whose ranks are the node's); between nodes, messages. How it works:
 *
 *   numbers    Each collective has one meeting inside the node, and that communicator's number is the collective's own.
 *   calls      What a collective has to send and to receive is written into a call of a ring, when it is enqueued. In
 *              stream order `requested` is set to the call's count; the stream then awaits `done` (all has been
 * received). `sent` says when the sources may be overwritten. Both take collectives' numbers. progress   A thread of
 * each communicator is the only one that calls MPI after creation: non-blocking calls, tested in turn. It never waits
 * inside MPI, so that it always ends when it is told to. messages   Before the bytes comes a line that says which
 * collective they belong to; the receiver compares it with its own call before it lets the bytes in. Between two ranks
 * messages arrive in the order of the calls. failure    MPI reports no death. The own abort record (control.h) is where
 * every failure ends up: an abort of a rank of this node is read there, one of another node arrives as a message and is
 * written there by the progress thread. So every wait, inside and between, looks at one place. See mpi_watch.c.
 *
 * Who talks to whom. Of a node's ranks, `partner(node, rank)` is the one that serves `rank`, which is of another node:
 * such ranks are dealt out in turn.
 */
#ifndef SHERD_COMM_MPI_COMM_H
#define SHERD_COMM_MPI_COMM_H

#include <mpi.h>
#include <pthread.h>

#include "comm/direct.h"

#define SHERD__MPI_PIECE   (UINT64_C(1) << 24) /* bytes of a message at most; each that comes is a sign of life */
#define SHERD__MPI_NOTES   3                   /* kinds of notes */
#define SHERD__MPI_HEARERS 4                   /* ranks of a node that a rank of another one hears signs of life of, at most */

/* Pure: which ranks are of which node. */
typedef struct sherd__mpi_layout {
    int32_t world, nodes, rank, node; /* the last two: the own */
    int32_t *node_of;                 /* [world] */
    int32_t *place;                   /* [world] among its node's ranks */
    int32_t *member;                  /* [world] ranks by node, rising */
    int32_t *first;                   /* [world + 1] of a node, in member; [nodes] is the end */
    int32_t *block;                   /* [world] by node: 1: its ranks are 2^j > 1 and a subtree, and send one sum */
} sherd__mpi_layout;

/* nodes[world]: any number for each rank; equal ones are one node. 0: no memory. */
int sherd__mpi_layout_init(sherd__mpi_layout *layout, const sherd_allocator *allocator, const int32_t *nodes,
                           int32_t rank, int32_t world);
void sherd__mpi_layout_fini(sherd__mpi_layout *layout, const sherd_allocator *allocator);
int32_t sherd__mpi_count(const sherd__mpi_layout *layout, int32_t node);
int32_t sherd__mpi_partner(const sherd__mpi_layout *layout, int32_t node, int32_t outsider);

/* Before each message. */
typedef struct sherd__mpi_line {
    uint32_t magic, number;
    uint32_t what[2]; /* control.h */
    uint64_t bytes;
    int32_t rank;
    uint32_t reserved;
} sherd__mpi_line;
_Static_assert(sizeof(sherd__mpi_line) == 32, "the line goes over the wire and is counted by the plan");

/* One message of a call. */
typedef struct sherd__mpi_part {
    int32_t peer;
    int32_t settled; /* 1: all of it is through */
    void *at;
    uint64_t bytes, moved;
    sherd__mpi_line line;
    MPI_Request line_request, request;
} sherd__mpi_part;

typedef struct sherd__mpi_call {
    uint32_t number;
    uint32_t what[2];
    sherd__kind kind;
    sherd__tag tag;
    int32_t data_tag; /* of its messages; lines have the next */
    int32_t n_send, n_recv;
    sherd__mpi_part *send, *recv; /* [world] each */
    const void **table;           /* sources of tree sums: 3 × world */
    uint32_t table_used;
    int32_t sent, received; /* 1: all of them */
} sherd__mpi_call;

/* A note to all ranks of other nodes. */
typedef enum sherd__mpi_note_kind {
    SHERD__MPI_ABORT = 0,
    SHERD__MPI_LEFT = 1,
    SHERD__MPI_DEAD = 2
} sherd__mpi_note_kind;
typedef struct sherd__mpi_note {
    uint32_t magic;
    int32_t kind, status, rank; /* rank: who broke, left or died */
    int32_t from;
    char text[492];
} sherd__mpi_note;
_Static_assert(sizeof(sherd__mpi_note) == 512, "the note goes over the wire");

/* What a node's ranks tell the other nodes' at the end of window_create. */
typedef struct sherd__mpi_verdict {
    int32_t status, rank;
    uint64_t bytes;
    char text[496];
} sherd__mpi_verdict;
_Static_assert(sizeof(sherd__mpi_verdict) == 512, "the verdict goes over the wire");

/* Of a tree sum: what stands for a range of ranks. */
typedef struct sherd__mpi_source {
    int32_t low, high; /* ranks whose sum, or leaf, it is */
    const void *at;
    sherd_dtype dtype;
} sherd__mpi_source;

typedef enum sherd__mpi_order { SHERD__MPI_SERVE = 0, SHERD__MPI_LEAVE = 1 } sherd__mpi_order;
typedef enum sherd__mpi_rest { SHERD__MPI_BUSY = 0, SHERD__MPI_QUIET = 1, SHERD__MPI_STUCK = 2 } sherd__mpi_rest;

typedef struct sherd__mpi sherd__mpi;
typedef struct sherd__mpi_wait {
    sherd__mpi *mpi;
    sherd__kind kind;
    _Atomic uint32_t warned;
} sherd__mpi_wait;

struct sherd__mpi {
    sherd_comm base;
    sherd__direct *inside;
    sherd__mpi_layout layout;
    MPI_Comm comm;        /* our own duplicate */
    sherd__identity *who; /* [world] */

    sherd__mpi_call *ring; /* [capacity], by count */
    uint32_t capacity;
    uint32_t counted; /* calls enqueued */
    uint32_t sum_number, vote_number,
        foreign_number;         /* collectives that last used scratch, rows, others' slices; 0: none */
    uint64_t *rows;             /* [nodes][SHERD__VOTE_MAX] */
    const void **row;           /* [nodes] */
    sherd__mpi_source *sources; /* [world] of the sum being enqueued */
    char *scratch;
    uint64_t scratch_bytes, scratch_mapped;
    sherd__mpi_wait wait[SHERD__KINDS];
    _Atomic uint32_t *done_flag[1], *sent_flag[1];

    /* written by streams */
    _Alignas(SHERD__LINE) _Atomic uint32_t requested; /* count of the last call that may begin */
    _Alignas(SHERD__LINE) _Atomic uint32_t ended;     /* count of the last collective whose operations have run */
    /* written by the progress thread */
    _Alignas(SHERD__LINE) _Atomic uint32_t done;    /* number */
    _Alignas(SHERD__LINE) _Atomic uint32_t sent;    /* number */
    _Alignas(SHERD__LINE) _Atomic uint32_t retired; /* count */
    _Atomic int32_t missing;                        /* whose message the oldest call lacks; -1: none */
    _Atomic uint32_t agreed;                        /* agreements that are through */
    _Atomic int32_t rest;                           /* sherd__mpi_rest, once failed */
    _Atomic int64_t *gone_ns;                       /* [world] when a rank was first known to be gone; 0: it is not */
    _Atomic int32_t *gone_how;                      /* [world] a sherd__mpi_note_kind */

    /* told to the progress thread */
    _Atomic int32_t order; /* sherd__mpi_order */
    _Atomic int32_t failed;
    _Atomic uint32_t agreement; /* count of agreements wanted */
    sherd__mpi_call agree;
    sherd__mpi_verdict my_verdict, *verdict; /* [nodes] */
    _Atomic int32_t told;                    /* 1: the others know of the failure already, from another rank */

    /* the progress thread's own */
    pthread_t thread;
    int32_t running;
    uint32_t started; /* count of calls begun */
    uint32_t agreements;
    sherd__mpi_note heard;
    MPI_Request hearing;
    struct {
        sherd__mpi_note note;
        int32_t begun;
        MPI_Request *request; /* [world] */
    } note[SHERD__MPI_NOTES];
    _Atomic int32_t note_wanted[SHERD__MPI_NOTES];
    int64_t looked_ns;

    /* signs of life (mpi_beat.c) */
    int64_t silent_ns;            /* 0: none are sent, and nobody is listened for */
    _Atomic int64_t *heard_ns;    /* [world] by node: when anything of it was heard last */
    _Atomic int64_t listened_ns;  /* when this rank listened last */
    int64_t beat_ns;
    MPI_Request *beat, listening; /* [world], to whom */
    char sign;                    /* what is heard, always the same */
};

/* mpi_bootstrap.c: done within `limit_ns`: 0; else MPI's code, or −1. */
int sherd__mpi_settle(MPI_Request *request, int64_t limit_ns);

/* mpi.c */
sherd_status sherd__mpi_create(const sherd_comm_options *options, sherd__direct *inside, sherd__mpi_layout *layout,
                               MPI_Comm comm, sherd__identity *who, sherd_comm **out, sherd_error *err);

/* mpi_collect.c */
sherd_status sherd__mpi_reduce_scatter(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                       const sherd__window *window, uint64_t offset, const sherd__tree_sum *sum,
                                       sherd__ticket *ticket);
sherd_status sherd__mpi_all_gather(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                   uint64_t offset, uint64_t slice_bytes, sherd__ticket *ticket);
sherd_status sherd__mpi_all_reduce(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, uint64_t *values,
                                   uint32_t n_sum, uint32_t n_min);
sherd_status sherd__mpi_broadcast(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                  uint64_t offset, uint64_t bytes, int32_t root, sherd__ticket *ticket);
sherd_status sherd__mpi_barrier(sherd_comm *comm, sherd__stream *stream, sherd__tag tag);
sherd_status sherd__mpi_released(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, sherd__ticket ticket,
                                 const char *site);

/* mpi_call.c: one collective on its way to the progress thread */
/* The next call of the ring, empty; waits, within the limits, where it is still in use. NULL: *status says why. */
sherd__mpi_call *sherd__mpi_call_open(sherd__mpi *mpi, sherd__kind kind, sherd__tag tag, uint32_t sizes,
                                      sherd_status *status);
void sherd__mpi_call_send(sherd__mpi_call *call, int32_t peer, const void *at, uint64_t bytes);
void sherd__mpi_call_recv(sherd__mpi_call *call, int32_t peer, void *at, uint64_t bytes);
/* In stream order: the messages may go; and all have come. */
sherd_status sherd__mpi_call_exchange(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream);
/* In stream order: the collective's operations have run. */
sherd_status sherd__mpi_call_close(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream);
/* In stream order: what collective `number` and those before it sent may be overwritten. */
sherd_status sherd__mpi_await_sent(sherd__mpi *mpi, sherd__stream *stream, sherd__tag tag, uint32_t number,
                                   const char *site);

/* mpi_tree.c: the sum over all ranks of this rank's slice, from what lies in this node's windows and what has arrived
 */
/* sources[n] by rank, without gaps; `scratch` has room for (1 + ceil log2 world) fp32 slices. */
sherd_status sherd__mpi_tree(sherd__mpi *mpi, sherd__mpi_call *call, sherd__stream *stream,
                             const sherd__mpi_source *sources, int32_t n, char *scratch, const sherd__tree_sum *sum);

/* mpi_progress.c */
void *sherd__mpi_progress(void *mpi);

/* mpi_beat.c; the first four are the progress thread's */
void sherd__mpi_heard(sherd__mpi *mpi, int32_t rank); /* something of it has come */
void sherd__mpi_beat_begin(sherd__mpi *mpi);
void sherd__mpi_beat(sherd__mpi *mpi);
void sherd__mpi_beat_end(sherd__mpi *mpi);
/* Pure. 1: `sender` sends signs of life to `hearer`. */
int sherd__mpi_beats(const sherd__mpi_layout *layout, int32_t sender, int32_t hearer);
/* 1: nothing was heard of the node of `rank`, another one, for longer than it may be. Any thread. */
int sherd__mpi_silent(const sherd__mpi *mpi, int32_t rank);

/* mpi_watch.c */
/* sherd__await's poll; ctx is a sherd__mpi_wait. */
sherd_status sherd__mpi_poll(void *ctx, uint32_t which, int64_t waited_ns, const sherd__tag *tag, sherd_error *err);
/* "rank 3 (pid 77 on node1)" */
void sherd__mpi_describe(const sherd__mpi *mpi, int32_t rank, char *text, size_t bytes);
/* This rank gives up: `why` goes to its node, and by notes to the others. Any thread; the first call counts. */
void sherd__mpi_abort(sherd_comm *comm, const sherd_error *why);
/* The same for what another rank has told everybody already. */
void sherd__mpi_adopt(sherd__mpi *mpi, const sherd_error *why);

#endif
