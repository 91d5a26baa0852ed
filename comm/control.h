/* SPDX-License-Identifier: MIT
 *
 * The control block: what one rank tells all others. One per rank, SHERD__CONTROL_SIZE bytes, mapped by every peer (or
 * shared within the process). Every member has a single writer, the rank it belongs to; everything else is reading.
 * Flags that are waited for stand on cache lines of their own.
 *
 * Things that are told anew with each collective (`what`, `vote`, `offer`) have two slots, used in turn. Two suffice: a
 * rank writes slot s for collective n + 2 only after its wait of collective n + 1, which every peer's arrival at n + 1
 * ended, and each peer arrives at n + 1 after it has read slot s for n, since its operations run in order.
 */
#ifndef SHERD_COMM_CONTROL_H
#define SHERD_COMM_CONTROL_H

#include <stdatomic.h>

#include "comm/comm.h"

#define SHERD__CONTROL_SIZE 4096u
#define SHERD__CONTROL_MAGIC 0x53485244u /* "SHRD" */
#define SHERD__CONTROL_VERSION 2u
#define SHERD__CLOSED_WORDS 64
#define SHERD__LINE 64

/* A host-synchronous message to all ranks: what this rank has made, or why it could not. */
typedef struct sherd__offer {
    int32_t status;   /* sherd_status */
    int32_t fd;       /* the memory's file in the offering process; -1: none */
    uint64_t address; /* the memory's object in this process (threads) */
    uint64_t bytes;
    int32_t rank;   /* of the error: who broke */
    int16_t place;  /* sherd__place of a window */
    int16_t number; /* the device's (sherd__share_ops), −1: it has no memory of its own */
    union {
        char text[480];           /* of the error */
        unsigned char handle[64]; /* memory lent to other processes */
    };
} sherd__offer;

typedef struct sherd__abort_record {
    _Atomic uint32_t set; /* after all else */
    int32_t status, rank;
    char text[496];
} sherd__abort_record;

typedef struct sherd__control {
    _Alignas(SHERD__LINE) uint32_t magic;
    uint32_t version;
    int32_t rank, world;
    _Atomic uint32_t left;                           /* 1: the communicator was destroyed */
    _Alignas(SHERD__LINE) _Atomic uint32_t arrive;   /* the last collective this rank has entered, in stream order */
    _Alignas(SHERD__LINE) _Atomic uint32_t depart;   /* the last one whose inputs this rank has read */
    _Alignas(SHERD__LINE) _Atomic uint32_t exchange; /* the last host-synchronous exchange entered */
    /* Which collective was entered: kind and bucket; a digest of its sizes. */
    _Alignas(SHERD__LINE) _Atomic uint32_t what[2][2];
    /* Threads: posts beside arrive and depart, addresses in this process; 0: none. */
    _Alignas(SHERD__LINE) _Atomic uint64_t post[2];
    /* Windows, by their numbers' remainder, that this rank no longer looks into: lent memory goes only then. */
    _Alignas(SHERD__LINE) _Atomic uint32_t closed[SHERD__CLOSED_WORDS];
    _Alignas(SHERD__LINE) uint64_t vote[2][SHERD__VOTE_MAX];
    _Alignas(SHERD__LINE) sherd__offer offer[2];
    _Alignas(SHERD__LINE) sherd__abort_record abort;
    _Alignas(SHERD__LINE) unsigned char reserved[SHERD__CONTROL_SIZE - 6 * SHERD__LINE - 4 * SHERD__CLOSED_WORDS -
                                                 2 * 8 * SHERD__VOTE_MAX - 2 * 512 - 512];
} sherd__control;

_Static_assert(sizeof(sherd__offer) == 512, "the offer is shared between processes");
_Static_assert(sizeof(sherd__abort_record) == 508, "the abort record is shared between processes");
_Static_assert(sizeof(sherd__control) == SHERD__CONTROL_SIZE, "the control block is shared between processes");
_Static_assert(sizeof(_Atomic uint32_t) == 4, "flags are plain words, also for the kernel");

#endif
