/* SPDX-License-Identifier: MIT */
#ifndef SHERD_HOST_ARENA_PAGES_H
#define SHERD_HOST_ARENA_PAGES_H

#include "host/arena.h"

/* Where the pages of a range lie. */
typedef struct sherd__pages_count {
    uint64_t there, elsewhere, absent; /* bytes; node −1: every page in memory is there */
    uint64_t on_node[SHERD__MAX_NODES];
    int32_t error; /* errno value if the kernel would not say; the rest is 0 then */
} sherd__pages_count;

typedef struct sherd__pages {
    char *base;
    uint64_t bytes, page_bytes; /* bytes: a multiple of page_bytes */
    int32_t node;
    int32_t gather; /* 1: move pages that came to lie elsewhere to `node` */
} sherd__pages;

/* Asks about every page. */
void sherd__pages_count_all(const sherd__pages *pages, sherd__pages_count *out);
/* Brings every page into memory by the members of the team that sit on the node (all of them for node −1, each its
 * part), and gathers and counts as it goes. Returns 0 or the first errno value. */
int sherd__pages_populate(const sherd__pages *pages, sherd__team *team, sherd__pages_count *out);

#endif
