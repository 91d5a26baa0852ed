/* SPDX-License-Identifier: MIT
 *
 * Which cores and nodes of a host each of its local ranks gets: a pure function of a topology, the same on every rank.
 *
 * Every usable core goes to exactly one rank (to several only when there are more ranks than cores). Ranks get equal
 * numbers, give or take one, as near their devices as can be: no exchange of cores between two ranks makes the sum of
 * distances smaller. Of its cores a rank leaves some to its own threads (the caller, communication, the update stream);
 * the others become the seats of its team, one per core, sorted by node.
 */
#ifndef SHERD_HOST_SHARE_H
#define SHERD_HOST_SHARE_H

#include "host/topology.h"

/* Where one member of a team sits: os numbers. cpu −1: wherever the kernel puts it; node −1: of no node. */
typedef struct sherd__seat {
    int32_t cpu, node;
} sherd__seat;

/* What a rank uses of one node. Nodes without own seats (memory-only ones) come last and name the node that works on
 * them. */
typedef struct sherd__share_node {
    int32_t node; /* os */
    int32_t first_seat;
    int32_t seats; /* 0: memory only */
    int32_t
        worked_by; /* index into `nodes` of the node whose seats work on this one's memory; itself when it has seats */
    int32_t sharers; /* ranks of the host that use this node */
    uint64_t bytes;  /* the node's memory divided by `sharers` */
} sherd__share_node;

typedef struct sherd__share {
    sherd_allocator allocator;
    sherd__seat *seats;       /* [n_seats ≥ 1], by node in the order of `nodes` */
    sherd__seat *reserved;    /* [n_reserved] left to the rank's own threads, nearest its device; may be none */
    sherd__share_node *nodes; /* [n_nodes ≥ 1]: nearest the device first, memory-only ones last */
    int32_t n_seats, n_reserved, n_nodes;
    int32_t n_seated_nodes;                      /* of `nodes`, the first ones, which have seats */
    int32_t home;                                /* os number of the node nearest the device: where staging belongs */
    int32_t crowded;                             /* 1: more ranks than cores, so seats are shared with other ranks */
    int32_t seat_room, reserved_room, node_room; /* of the arrays */
} sherd__share;

/* A rank's device: by its PCI bus id if the topology knows it, else by its node (os number), else (−1) unknown. */
typedef struct sherd__share_device {
    const char *pci; /* may be NULL */
    int32_t node;
} sherd__share_device;

typedef struct sherd__share_options {
    const sherd_allocator *allocator;   /* NULL: malloc */
    int32_t ranks, rank;                /* of this host */
    const sherd__share_device *devices; /* [ranks], or NULL: no rank has one */
    int32_t reserve;   /* cores a rank leaves to its own threads; never more than a quarter of its cores */
    int32_t max_seats; /* 0: no limit. Cores beyond it are left idle, the farthest first */
    int32_t smt;       /* 1: every processor of a core is a seat; 0: the first one */
    /* NULL, or what to use instead: cpus@node, … for each rank, ranks separated by ';', "!cpus" reserved, "@node"
     * memory only: "0-3@0,4-7@1,!8-9;…". Without @node the topology tells. For one rank alone no ';' is needed. */
    const char *text;
} sherd__share_options;

sherd_status sherd__share_make(const sherd__topology *topology, const sherd__share_options *options, sherd__share *out,
                               sherd_error *err);
void sherd__share_free(sherd__share *share);
/* The share in the syntax of `text`; returns the length it wanted (as snprintf). */
size_t sherd__share_print(const sherd__share *share, char *text, size_t bytes);

/* Elements [*begin, *end) of part `part` of `parts` of `elems`: equal up to one block of 256, borders at multiples of
 * 256, so that neither the norm's blocks nor any result depends on the number of parts. */
void sherd__even_part(int64_t elems, int32_t parts, int32_t part, int64_t *begin, int64_t *end);

#endif
