/* SPDX-License-Identifier: MIT
 *
 * What the machine is made of, as a plain value: memory nodes, cores with their processors, caches, GPUs and which
 * nodes they hang on. Loaded once (by hwloc, or from /sys where the build has no hwloc); everything after loading is
 * pure. Tests load synthetic machines and recorded ones, so that a host with two sockets and eight GPUs is placed on
 * any machine.
 *
 * Two kinds of numbers: `os` is the kernel's (what affinity masks and memory policies take); an index points into this
 * value's own arrays. Everything the process may not use (cgroup, affinity) is left in, marked: a node whose cores
 * belong to somebody else must not look like one that has none.
 */
#ifndef SHERD_HOST_TOPOLOGY_H
#define SHERD_HOST_TOPOLOGY_H

#include "base/status.h"

#define SHERD__MAX_NODES 64 /* sets of nodes are 64-bit words */

typedef struct sherd__topology_node {
    int32_t os;
    int32_t package; /* -1: none, or several */
    int32_t cores;   /* that the machine has here; 0: a memory-only node */
    int32_t usable;  /* of them, those with a processor this process may run on */
    int32_t allowed; /* 1: the process may have memory here */
    uint64_t bytes;
} sherd__topology_node;

typedef struct sherd__topology_core {
    int32_t package, node, l3; /* indices; l3 -1: not known */
    int32_t first_cpu, cpus;   /* into `cpus`: the SMT siblings */
    int32_t usable;            /* siblings this process may run on */
} sherd__topology_core;

typedef struct sherd__topology_cpu {
    int32_t os, core;
    int32_t allowed;
} sherd__topology_cpu;

typedef struct sherd__topology_cache {
    int32_t level;
    int32_t caches; /* how many of this level and size */
    uint64_t bytes; /* of each */
} sherd__topology_cache;

typedef struct sherd__topology_gpu {
    char pci[16];   /* "0000:3b:00.0" */
    char model[48]; /* what the loader knows; "" is legal */
    uint64_t near;  /* set of node indices that are equally near: one node, or all of a package; 0: not known */
} sherd__topology_gpu;

typedef struct sherd__topology {
    sherd_allocator allocator;
    sherd__topology_node *nodes; /* by os number */
    sherd__topology_core *cores; /* by node, then package, l3, first processor's os number */
    sherd__topology_cpu *cpus;   /* a core's together */
    sherd__topology_cache *caches;
    sherd__topology_gpu *gpus; /* by PCI id */
    uint16_t *distance;        /* [nodes × nodes], 10 to itself, as the firmware says; 20 where it says nothing */
    int32_t n_nodes, n_cores, n_cpus, n_caches, n_gpus, n_packages;
    char source[160]; /* "hwloc 2.9.0", "/sys (built without hwloc)", "synthetic 'pack:2 …'", … */
} sherd__topology;

typedef enum sherd__topology_from {
    SHERD__TOPOLOGY_MACHINE = 0,   /* hwloc, else /sys */
    SHERD__TOPOLOGY_SYS = 1,       /* /sys and /proc below the folder `text` ("" or NULL: the machine's own) */
    SHERD__TOPOLOGY_SYNTHETIC = 2, /* hwloc's synthetic description */
    SHERD__TOPOLOGY_XML = 3,       /* hwloc's XML, as text */
} sherd__topology_from;

typedef struct sherd__topology_options {
    const sherd_allocator *allocator; /* NULL: malloc */
    sherd__topology_from from;
    const char *text;
    const char *cpus; /* may run on these only ("0-3,7"); NULL: MACHINE and an own /sys take the thread's affinity,
                         others all */
} sherd__topology_options;

/* SHERD_EUNSUPPORTED where only hwloc could, and the build has none. *out is written on success; sherd__topology_free
 * empties it. */
sherd_status sherd__topology_load(const sherd__topology_options *options, sherd__topology *out, sherd_error *err);
void sherd__topology_free(sherd__topology *topology);

/* Index of the node with this os number, or −1. */
int32_t sherd__topology_node_index(const sherd__topology *topology, int32_t os);
/* Index of the node a processor (os number) belongs to, or −1. */
int32_t sherd__topology_node_of_cpu(const sherd__topology *topology, int32_t cpu_os);
/* Cores with at least one processor this process may run on. */
int32_t sherd__topology_usable_cores(const sherd__topology *topology);
/* NULL if there is none. Domain widths and letter case do not matter: "00000000:3B:00.0" is "0000:3b:00.0". */
const sherd__topology_gpu *sherd__topology_find_gpu(const sherd__topology *topology, const char *pci);
/* A digest of what the process may use: ranks of one host whose digests differ were bound by their launcher, which has
 * then shared out the machine already, and each calls sherd__share_make as the only rank. */
uint64_t sherd__topology_digest(const sherd__topology *topology);
/* Lines for people; returns the length it wanted (as snprintf). */
size_t sherd__topology_print(const sherd__topology *topology, char *text, size_t bytes);

#endif
