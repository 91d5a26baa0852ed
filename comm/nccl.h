/* SPDX-License-Identifier: MIT
 *
 * The NCCL communicator's own types. How it works:
 *
 *   issuing   A collective is one hook in the stream (device/op.h): the thread that issues to the stream calls NCCL
 * there, in the stream's order, so all ranks call NCCL in one order. The communicator is non-blocking: a call that has
 * to wait for peers says so, and is asked about again, within the limits. keeper    A thread of each communicator. It
 * opens and closes NCCL's communicator, so that no caller is ever inside a call that might not return, and watches
 * between: NCCL's asynchronous errors, the GPU's way from one collective to the next, the peers' processes. Whatever
 * fails is told to the device, to the peers, and to NCCL (abort), which ends its kernels: then the GPU is idle again,
 * and everything can be freed. side      NCCL cannot say who is missing, or why. Where all ranks are on one host there
 * is a direct communicator beside it for that alone: who has issued (arrive) and finished (depart) which collective,
 * who died, who gave up and why. Between hosts there is none: a rank then learns from NCCL's error or from its own
 * limit that a peer is gone, but neither which nor why; its sentence says so.
 *
 * Releases. A window may be overwritten once the collective that read it has ended on the own stream, whatever the
 * peers do: NCCL's operations end only when their source is no longer read, by itself or by a peer. So `released` is
 * nothing on the stream of the collectives, and elsewhere a wait for the event that stands behind the collective.
 * Events are a ring: a wait for an older one waits for a later collective, which had been enqueued before the wait was,
 * so nothing waits for itself.
 */
#ifndef SHERD_COMM_NCCL_H
#define SHERD_COMM_NCCL_H

#include "comm/direct.h"
#include "comm/nccl_api.h"
#include "device/cuda.h"

#define SHERD__NCCL_MARKS 64 /* collectives that the GPU may be behind; also the ring of events */
#define SHERD__NCCL_WORDS 16 /* of an agreement */

/* The GPU's way: a collective is under way between its two events. */
typedef struct sherd__nccl_mark {
    cudaEvent_t begin, end;
    uint32_t number;
    int32_t whole;      /* 1: both are recorded */
    int64_t started_ns; /* when `begin` was seen; 0: not yet */
    sherd__kind kind;
    sherd__tag tag;
} sherd__nccl_mark;

typedef enum sherd__nccl_phase { SHERD__NCCL_OPENING, SHERD__NCCL_SERVING, SHERD__NCCL_ENDED } sherd__nccl_phase;
typedef enum sherd__nccl_order { SHERD__NCCL_STAY, SHERD__NCCL_LEAVE, SHERD__NCCL_ABORT } sherd__nccl_order;
typedef enum sherd__nccl_memory { SHERD__NCCL_PLAIN, SHERD__NCCL_REGISTERED, SHERD__NCCL_SYMMETRIC } sherd__nccl_memory;

typedef struct sherd__nccl {
    sherd_comm base;
    const sherd__nccl_api *api;
    sherd__direct *side; /* NULL: ranks on several hosts, an adopted communicator, or world 1 */
    sherd__wait look;    /* of the keeper; others make their own */
    _Atomic int64_t left_seen_ns; /* when a peer was first seen to have left; 0: never */
    int ordinal;         /* the GPU */
    sherd__nccl_id id;
    sherd__nccl_handle parent; /* adopted: split, never destroyed or aborted */

    pthread_t keeper;
    int32_t keeperless;   /* 1: it could not be started */
    pthread_mutex_t lock; /* of what follows, base.device, and the marks */
    pthread_cond_t changed;
    sherd__nccl_phase phase;
    sherd__nccl_order order;
    int32_t dismissed; /* 1: the owner will not come back */
    sherd_error error; /* the first */
    _Atomic int failed;
    uint32_t head, tail; /* marks [tail, head) modulo their number */
    uint32_t finished;   /* number of the last collective that has ended */
    uint32_t warned;
    sherd__nccl_mark mark[SHERD__NCCL_MARKS];

    pthread_mutex_t calls;   /* held during calls of NCCL's that name `comm` */
    sherd__nccl_handle comm; /* NULL: not yet, or no longer */
    sherd__nccl_handle made; /* where NCCL writes it */

    unsigned char *control; /* on the GPU, SHERD__CONTROL_SIZE bytes */
    uint64_t *words;        /* pinned, SHERD__NCCL_WORDS */
    cudaStream_t stream;    /* of agreements */
    uint64_t runtime_bytes; /* what NCCL took at its creation */

    uint32_t sequence; /* collectives enqueued */
    _Atomic uint32_t issued;
    sherd__stream *user; /* the one stream that they are enqueued on */
    sherd__event *event[SHERD__NCCL_MARKS];
    sherd__window receive;
    const void **sources; /* [world]; the issuing thread's */
    sherd__nccl_memory memory;
    struct nccl_window *abandoned; /* windows whose creation failed */
} sherd__nccl;

/* nccl_watch.c */
/* "reduce-scatter of bucket 3" */
void sherd__nccl_place(sherd__kind kind, const sherd__tag *tag, char *text, size_t capacity);
/* Keeps the first error, tells device, peers and keeper. Any thread; NULL: no reason is known. */
void sherd__nccl_give_up(sherd__nccl *nccl, const sherd_error *why);
/* The first error, or SHERD_OK. */
sherd_status sherd__nccl_error(sherd__nccl *nccl, sherd_error *err);
/* A result of NCCL's as a sentence; nccl->calls is not held. */
sherd_status sherd__nccl_refused(sherd__nccl *nccl, int code, const char *what, sherd_error *err);
/* One look while something is waited for that began `waited_ns` ago: has this rank or a peer failed, has the limit been
 * reached? `number` is the collective's; 0: every peer is needed. */
sherd_status sherd__nccl_look(sherd__nccl *nccl, uint32_t number, int64_t waited_ns, const char *place,
                              sherd_error *err);
/* Until NCCL has done what it answered with `code` (SHERD__NCCL_IN_PROGRESS: asks again). */
sherd_status sherd__nccl_settle(sherd__nccl *nccl, int code, uint32_t number, const char *place, sherd_error *err);
/* Until the agreements' stream is idle. */
sherd_status sherd__nccl_idle(sherd__nccl *nccl, const char *place, sherd_error *err);
/* Sees which collectives have ended; nccl->lock is held. */
void sherd__nccl_advance(sherd__nccl *nccl);
/* The keeper's loop: until the order to leave or to abort. */
void sherd__nccl_watch(sherd__nccl *nccl);
/* Backs off: 1 µs to 0.5 ms. */
void sherd__nccl_nap(uint32_t *naps);

/* nccl_keeper.c */
/* Starts the keeper and waits until it serves. */
sherd_status sherd__nccl_open(sherd__nccl *nccl, sherd_error *err);
/* Ends it; 0: it did not end within its limit and is left behind, with all that it may still touch. */
int sherd__nccl_close(sherd__nccl *nccl);

/* nccl_window.c */
/* COLLECTIVE, host-synchronous: words[i] becomes the minimum over the ranks, i < n <= SHERD__NCCL_WORDS. */
sherd_status sherd__nccl_agree(sherd__nccl *nccl, const char *place, uint64_t *words, uint32_t n, sherd_error *err);
sherd_status sherd__nccl_window_create(sherd_comm *comm, uint64_t bytes, sherd_category category, sherd__window *out,
                                       sherd_error *err);
/* Those whose creation failed, once NCCL's communicator is gone. */
void sherd__nccl_windows_free(sherd__nccl *nccl);
void sherd__nccl_window_destroy(sherd_comm *comm, sherd__window *window);

/* nccl_collect.c */
sherd_status sherd__nccl_reduce_scatter(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                        const sherd__window *window, uint64_t offset, const sherd__tree_sum *sum,
                                        sherd__ticket *ticket);
sherd_status sherd__nccl_all_gather(sherd_comm *comm, sherd__stream *stream, sherd__tag tag,
                                    const sherd__window *window, uint64_t offset, uint64_t slice_bytes,
                                    sherd__ticket *ticket);
sherd_status sherd__nccl_all_reduce(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, uint64_t *values,
                                    uint32_t n_sum, uint32_t n_min);
sherd_status sherd__nccl_broadcast(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, const sherd__window *window,
                                   uint64_t offset, uint64_t bytes, int32_t root, sherd__ticket *ticket);
sherd_status sherd__nccl_barrier(sherd_comm *comm, sherd__stream *stream, sherd__tag tag);
sherd_status sherd__nccl_released(sherd_comm *comm, sherd__stream *stream, sherd__tag tag, sherd__ticket ticket,
                                  const char *site);

/* nccl.c */
void sherd__nccl_name(sherd__nccl *nccl);

#endif
