/* SPDX-License-Identifier: MIT
 *
 * What a loader of topologies finds, unsorted and unlinked; sherd__topology_build makes the value of it.
 */
#ifndef SHERD_HOST_TOPOLOGY_RAW_H
#define SHERD_HOST_TOPOLOGY_RAW_H

#include "host/pin.h"
#include "host/topology.h"

#define SHERD__RAW_GPUS 256
#define SHERD__RAW_CACHES 16

typedef struct sherd__raw_cpu {
    int32_t os;
    int32_t allowed;
    int32_t package; /* any number that is the package's own; -1: not known */
    int32_t node;    /* os; -1: not known */
    int32_t core;    /* lowest os number among its siblings, itself included */
    int32_t l3;      /* lowest os number among those that share its last-level cache; -1: not known */
} sherd__raw_cpu;

typedef struct sherd__raw_node {
    int32_t os, allowed;
    int32_t package; /* as of processors; for nodes that have none of their own */
    uint64_t bytes;
    uint16_t distance[SHERD__MAX_NODES]; /* to nodes[i] of this list; 0: not said */
} sherd__raw_node;

typedef struct sherd__raw_gpu {
    char pci[16], model[48];
    int32_t n_near;
    int32_t near[SHERD__MAX_NODES]; /* os */
} sherd__raw_gpu;

typedef struct sherd__raw_topology {
    sherd__raw_cpu cpus[SHERD__PIN_CPUS];
    sherd__raw_node nodes[SHERD__MAX_NODES];
    sherd__raw_gpu gpus[SHERD__RAW_GPUS];
    sherd__topology_cache caches[SHERD__RAW_CACHES]; /* counted by the loader */
    int32_t n_cpus, n_nodes, n_gpus, n_caches;
    char source[160];
} sherd__raw_topology;

/* A cache more of this level and size. Kinds beyond the sixteenth are left out. */
void sherd__raw_add_cache(sherd__raw_topology *raw, int32_t level, uint64_t bytes);
/* 0 if the text is no PCI id; else domain, bus, device and function as one number, by which ids compare. */
int sherd__pci_parse(const char *text, uint64_t *out);
/* "0000:3b:00.0" */
void sherd__pci_print(uint64_t pci, char text[16]);

/* Loaders: fill a zeroed `raw`. `options->cpus` is applied afterwards. */
sherd_status sherd__topology_read_sys(const char *root, sherd__raw_topology *raw, sherd_error *err);
/* SHERD_EUNSUPPORTED in a build without hwloc. */
sherd_status sherd__topology_read_hwloc(const sherd__topology_options *options, sherd__raw_topology *raw,
                                        sherd_error *err);
/* NULL: built in; else a static sentence. */
const char *sherd__topology_hwloc_missing(void);

sherd_status sherd__topology_build(const sherd_allocator *allocator, sherd__raw_topology *raw, sherd__topology *out,
                                   sherd_error *err);

#endif
