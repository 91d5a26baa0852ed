/* SPDX-License-Identifier: MIT
 *
 * What the files of the direct communicator share. Law among them: direct.c (collectives on streams) and exchange.c
 * (windows) use watch.c (why a wait goes on or ends); threads.c and local.c make peers addressable and say who is
 * alive.
 */
#ifndef SHERD_COMM_DIRECT_H
#define SHERD_COMM_DIRECT_H

#include "comm/control.h"

typedef struct sherd__direct sherd__direct;

typedef enum sherd__kind {
    SHERD__KIND_NONE = 0,
    SHERD__KIND_REDUCE_SCATTER,
    SHERD__KIND_ALL_GATHER,
    SHERD__KIND_ALL_REDUCE,
    SHERD__KIND_BROADCAST,
    SHERD__KIND_BARRIER,
    SHERD__KIND_RELEASE,
    SHERD__KIND_WINDOW,
    SHERD__KINDS
} sherd__kind;

const char *sherd__kind_text(sherd__kind kind); /* "reduce-scatter" */

/* The context of waits. One per kind serves all collectives (their value is the own arrival); releases, which may run
 * on several streams at once, have a ring of them. */
typedef struct sherd__wait {
    sherd__direct *comm;
    sherd__kind kind;
    _Atomic uint32_t value;  /* RELEASE only */
    _Atomic uint32_t warned; /* value for which the warning is out */
} sherd__wait;

#define SHERD__RELEASE_WAITS 1024

/* Where windows are: the same for all ranks. */
typedef enum sherd__place {
    SHERD__PLACE_MAIN = 0, /* main memory; a device with memory of its own has it pinned */
    SHERD__PLACE_DEVICE    /* the devices' own (sherd__share_ops) */
} sherd__place;

/* A window as this rank sees it. */
typedef struct sherd__view {
    void **base;   /* [world] addresses in this process: the table tree sums read through */
    void **object; /* [world] the implementation's */
    uint64_t bytes, mapped;
    sherd_category category;
    sherd__place place;
    uint32_t number; /* attempts at windows, this one included: the same on all ranks */
} sherd__view;

/* How memory becomes addressable by peers: two implementations, threads and shared memory. */
typedef struct sherd__peers_ops {
    /* Zeroed memory of view->mapped bytes at base[own rank], and how peers get at it. */
    sherd_status (*make)(sherd__direct *direct, sherd__view *view, sherd__offer *offer, sherd_error *err);
    sherd_status (*attach)(sherd__direct *direct, sherd__view *view, int32_t peer, const sherd__offer *offer,
                           sherd_error *err);
    /* What only attaching needed goes. `known`: all ranks know whether there is a window; else a late peer may still
     * look at the offer. */
    void (*settle)(sherd__direct *direct, sherd__view *view, sherd__offer *offer, int known);
    void (*release)(sherd__direct *direct, sherd__view *view);
    /* 1: the process of `peer` is gone. */
    int (*dead)(sherd__direct *direct, int32_t peer);
    /* The device reaches the control blocks; unbinding ends that. */
    sherd_status (*bind)(sherd__direct *direct, sherd_device *device, sherd_error *err);
    void (*unbind)(sherd__direct *direct, sherd_device *device);
    /* Ranks of one process only, else NULL: keeps a post for as long as a peer may come across it. 0: it cannot. */
    int (*keep)(sherd__direct *direct, sherd__post *post, void (*destroy)(sherd__post *post));
    void (*fini)(sherd__direct *direct);
} sherd__peers_ops;

typedef struct sherd__compare {
    sherd__direct *comm;
    uint32_t slot;
} sherd__compare;

struct sherd__direct {
    sherd_comm base;
    const sherd__peers_ops *peers;
    void *peers_state;
    int64_t *pid;              /* [world]; 0: not a process of its own */
    int32_t *number;           /* [world] by which name sentences call a rank: its own number, or that in a larger world */
    sherd__control **control;  /* [world] */
    const void **votes;        /* [world] the same, as sources of reduce_u64 */
    _Atomic uint32_t **arrive; /* [world] peers' flags; own entry NULL */
    _Atomic uint32_t **depart; /* [world] everybody's */
    uint32_t sequence;         /* collectives enqueued */
    uint32_t slot;             /* of the last one; apart from `sequence`, which skips 0 when it wraps */
    uint32_t exchanges;
    uint32_t windows;     /* attempts */
    sherd__place place;   /* of the next window */
    int32_t posts_of;     /* number of the device that the posts are of */
    sherd__post *post[2]; /* this rank's, beside arrive and depart; NULL: flags are set when the work is done */
    sherd__post *kept[2]; /* made once per device; `post` while it is in use */
    _Atomic uint64_t **post_at[2]; /* [2][world] everybody's words about them */
    int64_t patience_ns;           /* left for peers that look into lent memory */
    char title[96];                /* the description without what is said of windows */
    _Atomic uint32_t releases;     /* streams of several threads may wait for releases */
    sherd__compare compare[2];
    sherd__wait wait[SHERD__KINDS];
    sherd__wait *release_wait; /* [SHERD__RELEASE_WAITS] */
    _Atomic int64_t looked_ns; /* when peers' processes were last looked at */
    _Atomic int abort_claimed;
};

/* Everything but peers and control blocks. options may be NULL. */
sherd_status sherd__direct_new(const sherd_comm_options *options, int32_t rank, int32_t world, sherd__direct **out,
                               sherd_error *err);
/* Once control[] is filled. */
void sherd__direct_connect(sherd__direct *direct);
/* Frees what sherd__direct_new made; peers are gone already. */
void sherd__direct_free(sherd__direct *direct);
sherd_status sherd__direct_options(const sherd_comm_options *options, sherd_comm_options *out, sherd_error *err);
void sherd__control_init(sherd__control *control, int32_t rank, int32_t world);

/* direct.c: the parts of a collective, for transports that are more than this one. The number first, then both ends. */
void sherd__direct_take_number(sherd__direct *direct);
sherd_status sherd__direct_enter(sherd__direct *direct, sherd__stream *stream, sherd__tag tag, sherd__kind kind,
                                 uint32_t sizes);
sherd_status sherd__direct_leave(sherd__direct *direct, sherd__stream *stream, sherd__tag tag, sherd__ticket *ticket);
uint32_t sherd__direct_digest(uint64_t a, uint64_t b, uint64_t c);
uint32_t sherd__direct_call_word(sherd__kind kind, sherd__tag tag);
/* "all-gather of bucket 3" from the first word that ranks compare. */
void sherd__direct_describe_call(uint32_t word, char *text, size_t bytes);

/* watch.c: sherd__await's poll; ctx is a sherd__wait. */
sherd_status sherd__direct_poll(void *ctx, uint32_t which, int64_t waited_ns, const sherd__tag *tag, sherd_error *err);
/* The same without limits: has a peer that `wait` needs died, given up or left? `place` names what is waited for. */
sherd_status sherd__direct_look(const sherd__wait *wait, int64_t waited_ns, const char *place, sherd_error *err);
void sherd__direct_abort(sherd_comm *comm, const sherd_error *why);
/* A device's guard; ctx is the sherd__direct: a peer that gave up. */
sherd_status sherd__direct_guard(void *ctx, sherd_error *err);
/* "all-gather of bucket 3", "all-reduce (vote)"; host-synchronous exchanges are named by their tag alone */
void sherd__direct_place(sherd__kind kind, const sherd__tag *tag, char *text, size_t bytes);
/* 1: the peer neither looks nor ever will: it died or left. */
int sherd__direct_gone(sherd__direct *direct, int32_t peer);
void sherd__flag_wake(_Atomic uint32_t *flag);

/* exchange.c */
/* Gives every rank all offers. Waits within the limits; `what` (static) names the exchange in sentences. */
sherd_status sherd__direct_exchange(sherd__direct *direct, const char *what, const sherd__offer *mine,
                                    sherd__offer *all, sherd_error *err);
sherd_status sherd__direct_window_create(sherd_comm *comm, uint64_t bytes, sherd_category category, sherd__window *out,
                                         sherd_error *err);
void sherd__direct_window_destroy(sherd_comm *comm, sherd__window *window);
/* Once all ranks are known to be of this process and on devices with posts. */
void sherd__direct_post(sherd__direct *direct);
void sherd__direct_unpost(sherd__direct *direct);

/* memory.c */
uint64_t sherd__map_bytes(uint64_t bytes); /* whole pages, at least one; 0: too large */
/* Maps `bytes` (whole pages) of fd, or private memory if fd is −1; large ones start at a huge page's boundary and ask
 * for huge pages. Not inherited by forks. `own`: pages are made present now (an error instead of a signal later, and
 * the owner's node); else the page table is filled from what is there. */
sherd_status sherd__map(int fd, uint64_t bytes, int own, void **out, sherd_error *err);
void sherd__unmap(void *base, uint64_t bytes);
/* A sealed anonymous file. */
sherd_status sherd__memfd(const char *name, uint64_t bytes, int *fd, sherd_error *err);

/* local.c: sherd_comm_create_local; number[world], or NULL, are the ranks' names in sentences. */
sherd_status sherd__local_create(const sherd_comm_options *options, int32_t rank, int32_t world, const int32_t *number,
                                 sherd_allgather_fn allgather, void *ctx, sherd__direct **out, sherd_error *err);

/* process.c: who and where a process is */
typedef struct sherd__identity {
    int64_t pid;
    uint64_t start;     /* in clock ticks since boot: tells a reused pid */
    uint64_t pid_space; /* inode of its pid namespace */
    char host[72];
    char boot[40];
} sherd__identity;
void sherd__identity_self(sherd__identity *out);
/* 1: process `pid` that started at `start` runs. */
int sherd__process_alive(int64_t pid, uint64_t start);
/* A pidfd of exactly that process: ≥ 0; −1: it is gone; −2: the kernel has none. */
int sherd__process_open(int64_t pid, uint64_t start);
/* 1: exited. */
int sherd__pidfd_ended(int pidfd);

/* rendezvous.c */
void sherd__rendezvous_limit(sherd_rendezvous *rendezvous, double seconds);
sherd_status sherd__rendezvous_error(sherd_rendezvous *rendezvous, sherd_error *err);

#endif
