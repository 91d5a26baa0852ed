/* SPDX-License-Identifier: MIT
 *
 * One block of host memory that lies on one memory node, is there from the start and stays: bound to its node, first
 * touched by the team that will work on it, in huge pages where they are to be had, page-locked, registered with the
 * device, not inherited by forks (a child that touches it gets a segmentation fault) and not dumped.
 *
 * Nothing here is silently left out: what could not be had (huge pages, the lock, the node) is either an error with its
 * remedy or, where the options allow it, a fallback that the report names.
 */
#ifndef SHERD_HOST_ARENA_H
#define SHERD_HOST_ARENA_H

#include "host/team.h"

typedef enum sherd__arena_want {
    SHERD__ARENA_NEVER = 0, /* do not try */
    SHERD__ARENA_TRY = 1,   /* try; the report says what came of it */
    SHERD__ARENA_MUST = 2,  /* an error where it cannot be had */
} sherd__arena_want;

/* Page-locking as the device wants it (cudaHostRegister). Called after the pages are in place; unpin before they go. */
typedef struct sherd__arena_hook {
    sherd_status (*pin)(void *ctx, void *base, uint64_t bytes, sherd_error *err);
    void (*unpin)(void *ctx, void *base, uint64_t bytes);
    void *ctx;
} sherd__arena_hook;

typedef struct sherd__arena_options {
    const sherd_allocator *allocator; /* NULL: malloc; of the record, not of the block */
    const char *name;                 /* in sentences and reports; copied */
    uint64_t bytes;                   /* > 0 */
    int32_t node;                     /* os number; −1: each part where its first toucher sits */
    sherd__arena_want
        bind; /* all pages on `node`: MUST refuses strays, TRY counts them, NEVER leaves it to first touch */
    sherd__arena_want lock;        /* mlock */
    sherd__arena_want huge;        /* reserved huge pages, else transparent ones; MUST wants reserved ones */
    sherd__team *team;             /* first touches it; NULL: the caller */
    const sherd__arena_hook *hook; /* copied; NULL: none */
} sherd__arena_options;

typedef struct sherd__arena sherd__arena;

/* What is, not what was asked for. */
typedef struct sherd__arena_report {
    const char *name;      /* the arena's */
    int32_t node;          /* asked for; −1: any */
    uint64_t bytes;        /* asked for: exactly what the user may use */
    uint64_t mapped_bytes; /* a multiple of page_bytes; mapped − bytes is rounding */
    uint64_t page_bytes;   /* of the mapping: 4 KiB …, or the reserved huge page's size */
    uint64_t
        there_bytes; /* in pages that lie on `node` now; all of mapped_bytes where node is −1 and they are present */
    uint64_t elsewhere_bytes;
    uint64_t absent_bytes;              /* in pages not in memory (swapped out) */
    uint64_t huge_bytes;                /* in huge pages, transparent or reserved */
    uint64_t locked_bytes;              /* by mlock */
    uint64_t pinned_bytes;              /* by the hook */
    uint64_t on_node[SHERD__MAX_NODES]; /* bytes by os number of the node, the first 64 */
    int32_t counted;    /* 0: the pages could not be asked (built without libnuma): there, elsewhere and absent are 0 */
    char fallback[512]; /* sentences on what could not be had; "" if nothing */
} sherd__arena_report;

/* Not in a step. SHERD_ENOMEM, SHERD_ESYSTEM with the remedy; nothing is left behind on failure. The memory is zeros.
 */
sherd_status sherd__arena_create(const sherd__arena_options *options, sherd__arena **out, sherd_error *err);
void sherd__arena_destroy(sherd__arena *arena);     /* NULL is legal */
void *sherd__arena_base(const sherd__arena *arena); /* aligned to its pages */
uint64_t sherd__arena_bytes(const sherd__arena *arena);
/* With what pages add. */
uint64_t sherd__arena_mapped_bytes(const sherd__arena *arena);
/* Sentences on what could not be had when it was made; "" if nothing. Valid as long as the arena. */
const char *sherd__arena_fallback(const sherd__arena *arena);
/* Asks the kernel about every page: for set-up, reports and tests. */
sherd_status sherd__arena_inspect(const sherd__arena *arena, sherd__arena_report *report, sherd_error *err);
/* One line for people per arena; returns the length it wanted (as snprintf). */
size_t sherd__arena_print(const sherd__arena_report *report, char *text, size_t bytes);

#endif
