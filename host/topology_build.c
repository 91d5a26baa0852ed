/* SPDX-License-Identifier: MIT
 *
 * From a loader's findings to the linked, sorted value. Pure. A machine that tells of no memory nodes has one.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "host/topology_raw.h"

#define FAR 20  /* to a node the firmware says nothing about */
#define NEAR 12 /* the same, but of the same package */
#define SELF 10

void sherd__raw_add_cache(sherd__raw_topology *raw, int32_t level, uint64_t bytes)
{
    for (int32_t i = 0; i < raw->n_caches; i++)
        if (raw->caches[i].level == level && raw->caches[i].bytes == bytes) {
            raw->caches[i].caches++;
            return;
        }
    if (raw->n_caches < SHERD__RAW_CACHES)
        raw->caches[raw->n_caches++] = (sherd__topology_cache){.level = level, .caches = 1, .bytes = bytes};
}

int sherd__pci_parse(const char *text, uint64_t *out)
{
    unsigned int domain = 0, bus, device, function;
    int used = 0;
    if (!text)
        return 0;
    if (sscanf(text, "%8x:%2x:%2x.%1x%n", &domain, &bus, &device, &function, &used) != 4 || text[used] != '\0') {
        domain = 0;
        used = 0;
        if (sscanf(text, "%2x:%2x.%1x%n", &bus, &device, &function, &used) != 3 || text[used] != '\0')
            return 0;
    }
    *out = (uint64_t)domain << 16 | (uint64_t)bus << 8 | (uint64_t)device << 3 | function;
    return 1;
}

void sherd__pci_print(uint64_t pci, char text[16])
{
    snprintf(text, 16, "%04x:%02x:%02x.%x", (unsigned int)(pci >> 16 & 0xFFFFFF), (unsigned int)(pci >> 8 & 0xFF),
             (unsigned int)(pci >> 3 & 31), (unsigned int)(pci & 7));
}

/* --------------------------------------------------------------------------------------------------------------
 * sorting */

static int by_os(const void *a, const void *b)
{
    int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;
    return (left > right) - (left < right);
}

static int by_place(const void *a, const void *b)
{
    const sherd__raw_cpu *left = a, *right = b;
    const int32_t x[] = {left->node, left->package, left->l3, left->core, left->os};
    const int32_t y[] = {right->node, right->package, right->l3, right->core, right->os};
    for (size_t i = 0; i < sizeof x / sizeof x[0]; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

static int by_pci(const void *a, const void *b)
{
    return strcmp(((const sherd__raw_gpu *)a)->pci, ((const sherd__raw_gpu *)b)->pci);
}

static int by_level(const void *a, const void *b)
{
    const sherd__topology_cache *left = a, *right = b;
    return left->level != right->level ? left->level - right->level
                                       : (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

static int32_t node_at(const sherd__topology_node *nodes, int32_t n, int32_t os)
{
    for (int32_t i = 0; i < n; i++)
        if (nodes[i].os == os)
            return i;
    return -1;
}

/* -----------------------------------------------------------------------------------------------------------------
 * parts */

static sherd_status get_room(const sherd__raw_topology *raw, sherd__topology *out, sherd_error *err)
{
    const sherd_allocator *memory = &out->allocator;
    size_t nodes = (size_t)out->n_nodes;
    out->nodes = sherd__alloc(memory, nodes, sizeof *out->nodes);
    out->cores = sherd__alloc(memory, (size_t)raw->n_cpus, sizeof *out->cores);
    out->cpus = sherd__alloc(memory, (size_t)raw->n_cpus, sizeof *out->cpus);
    out->caches = sherd__alloc(memory, (size_t)raw->n_caches, sizeof *out->caches);
    out->gpus = sherd__alloc(memory, (size_t)raw->n_gpus, sizeof *out->gpus);
    out->distance = sherd__alloc(memory, nodes * nodes, sizeof *out->distance);
    if (!out->nodes || !out->cores || !out->cpus || !out->caches || !out->gpus || !out->distance)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the topology of %d processors", raw->n_cpus);
    return SHERD_OK;
}

static void set_nodes(const sherd__raw_topology *raw, sherd__topology *out)
{
    int32_t order[SHERD__MAX_NODES];
    for (int32_t i = 0; i < raw->n_nodes; i++)
        order[i] = raw->nodes[i].os;
    qsort(order, (size_t)raw->n_nodes, sizeof order[0], by_os);
    for (int32_t i = 0; i < raw->n_nodes; i++)
        for (int32_t k = 0; k < raw->n_nodes; k++)
            if (raw->nodes[k].os == order[i])
                out->nodes[i] = (sherd__topology_node){.os = order[i],
                                                       .package = raw->nodes[k].package,
                                                       .allowed = raw->nodes[k].allowed,
                                                       .bytes = raw->nodes[k].bytes};
}

static int32_t find_number(const int32_t *list, int32_t n, int32_t number)
{
    for (int32_t i = 0; i < n; i++)
        if (list[i] == number)
            return i;
    return n;
}

/* Indices for the loader's own numbers, in the order in which they come. Processors are sorted, so the lists are short
 * to search. */
static void number_packages(sherd__raw_topology *raw, sherd__topology *out)
{
    int32_t seen[1024], n = 0;
    for (int32_t i = 0; i < raw->n_cpus; i++) {
        int32_t at = find_number(seen, n, raw->cpus[i].package);
        if (at == n && n < 1024)
            seen[n++] = raw->cpus[i].package;
    }
    qsort(seen, (size_t)n, sizeof seen[0], by_os);
    for (int32_t i = 0; i < raw->n_cpus; i++)
        raw->cpus[i].package = find_number(seen, n, raw->cpus[i].package);
    for (int32_t i = 0; i < out->n_nodes; i++) {
        int32_t package = out->nodes[i].package, at = find_number(seen, n, package);
        out->nodes[i].package = package >= 0 && at < n ? at : -1;
    }
    out->n_packages = n;
}

static void set_cores(const sherd__raw_topology *raw, sherd__topology *out)
{
    int32_t l3 = -1;
    for (int32_t i = 0; i < raw->n_cpus; i++) {
        const sherd__raw_cpu *cpu = &raw->cpus[i], *former = i > 0 ? cpu - 1 : NULL;
        if (cpu->l3 >= 0 && (!former || former->l3 != cpu->l3))
            l3++;
        if (!former || former->core != cpu->core || former->node != cpu->node)
            out->cores[out->n_cores++] = (sherd__topology_core){
                .package = cpu->package, .node = cpu->node, .l3 = cpu->l3 >= 0 ? l3 : -1, .first_cpu = i};
        sherd__topology_core *core = &out->cores[out->n_cores - 1];
        core->cpus++;
        core->usable += cpu->allowed != 0;
        out->cpus[i] = (sherd__topology_cpu){.os = cpu->os, .core = out->n_cores - 1, .allowed = cpu->allowed != 0};
    }
    out->n_cpus = raw->n_cpus;
    for (int32_t i = 0; i < out->n_cores; i++) {
        sherd__topology_node *node = &out->nodes[out->cores[i].node];
        node->package = node->cores == 0 || node->package == out->cores[i].package ? out->cores[i].package : -1;
        node->cores++;
        node->usable += out->cores[i].usable > 0;
    }
}

static void set_distances(const sherd__raw_topology *raw, sherd__topology *out)
{
    int32_t n = out->n_nodes;
    for (int32_t i = 0; i < n; i++)
        for (int32_t k = 0; k < n; k++) {
            int32_t same = out->nodes[i].package >= 0 && out->nodes[i].package == out->nodes[k].package;
            out->distance[i * n + k] = i == k ? SELF : same ? NEAR : FAR;
        }
    for (int32_t i = 0; i < raw->n_nodes; i++)
        for (int32_t k = 0; k < raw->n_nodes; k++) {
            int32_t a = node_at(out->nodes, n, raw->nodes[i].os), b = node_at(out->nodes, n, raw->nodes[k].os);
            if (raw->nodes[i].distance[k] > 0)
                out->distance[a * n + b] = raw->nodes[i].distance[k];
        }
}

static void set_gpus(sherd__raw_topology *raw, sherd__topology *out)
{
    qsort(raw->gpus, (size_t)raw->n_gpus, sizeof raw->gpus[0], by_pci);
    for (int32_t i = 0; i < raw->n_gpus; i++) {
        sherd__topology_gpu *gpu = &out->gpus[out->n_gpus++];
        memcpy(gpu->pci, raw->gpus[i].pci, sizeof gpu->pci);
        memcpy(gpu->model, raw->gpus[i].model, sizeof gpu->model);
        for (int32_t k = 0; k < raw->gpus[i].n_near; k++) {
            int32_t node = node_at(out->nodes, out->n_nodes, raw->gpus[i].near[k]);
            if (node >= 0)
                gpu->near |= UINT64_C(1) << node;
        }
    }
}

/* Processors of no known node belong to the first: on a machine without nodes that is the one it gets. */
static sherd_status link_nodes(sherd__raw_topology *raw, sherd_error *err)
{
    if (raw->n_cpus == 0)
        return sherd__fail(err, SHERD_ESYSTEM, "%s tells of no processors", raw->source);
    if (raw->n_nodes == 0) {
        memset(&raw->nodes[0], 0, sizeof raw->nodes[0]);
        raw->nodes[0].package = -1;
        raw->nodes[0].allowed = 1;
        raw->n_nodes = 1;
    }
    return SHERD_OK;
}

sherd_status sherd__topology_build(const sherd_allocator *allocator, sherd__raw_topology *raw, sherd__topology *out,
                                   sherd_error *err)
{
    sherd__topology made;
    memset(&made, 0, sizeof made);
    made.allocator = sherd__allocator_or_default(allocator);
    sherd_status status = link_nodes(raw, err);
    if (status != SHERD_OK)
        return status;
    made.n_nodes = raw->n_nodes;
    made.n_caches = raw->n_caches;
    memcpy(made.source, raw->source, sizeof made.source);
    status = get_room(raw, &made, err);
    if (status != SHERD_OK)
        goto free_made;
    set_nodes(raw, &made);
    for (int32_t i = 0; i < raw->n_cpus; i++) {
        int32_t node = node_at(made.nodes, made.n_nodes, raw->cpus[i].node);
        raw->cpus[i].node = node < 0 ? 0 : node;
    }
    number_packages(raw, &made);
    qsort(raw->cpus, (size_t)raw->n_cpus, sizeof raw->cpus[0], by_place);
    set_cores(raw, &made);
    set_distances(raw, &made);
    set_gpus(raw, &made);
    qsort(raw->caches, (size_t)raw->n_caches, sizeof raw->caches[0], by_level);
    memcpy(made.caches, raw->caches, (size_t)raw->n_caches * sizeof raw->caches[0]);
    *out = made;
    return SHERD_OK;
free_made:
    made.n_cores = made.n_cpus = raw->n_cpus;
    made.n_gpus = raw->n_gpus;
    sherd__topology_free(&made);
    return status;
}
