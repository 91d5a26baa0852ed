/* SPDX-License-Identifier: MIT */
#include "host/topology.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "base/text.h"
#include "host/cpulist.h"
#include "host/topology_raw.h"

static sherd_status read_machine(const sherd__topology_options *options, sherd__raw_topology *raw, sherd_error *err)
{
    const char *missing = sherd__topology_hwloc_missing();
    if (!missing)
        return sherd__topology_read_hwloc(options, raw, err);
    sherd_status status = sherd__topology_read_sys("", raw, err);
    snprintf(raw->source, sizeof raw->source, "/sys (%s)", missing);
    return status;
}

static sherd_status read_from(const sherd__topology_options *options, sherd__raw_topology *raw, sherd_error *err)
{
    switch (options->from) {
    case SHERD__TOPOLOGY_MACHINE:
        return read_machine(options, raw, err);
    case SHERD__TOPOLOGY_SYS:
        return sherd__topology_read_sys(options->text ? options->text : "", raw, err);
    default:
        return sherd__topology_read_hwloc(options, raw, err);
    }
}

static sherd_status restrict_to(sherd__raw_topology *raw, const char *cpus, sherd_error *err)
{
    uint8_t set[SHERD__PIN_CPUS] = {0};
    if (!cpus)
        return SHERD_OK;
    if (!sherd__cpulist_read(cpus, set, SHERD__PIN_CPUS))
        return sherd__fail(err, SHERD_EINVAL, "'%s' is no list of processors: write it like \"0-3,7\"", cpus);
    for (int32_t i = 0; i < raw->n_cpus; i++)
        raw->cpus[i].allowed = raw->cpus[i].allowed && set[raw->cpus[i].os];
    return SHERD_OK;
}

sherd_status sherd__topology_load(const sherd__topology_options *options, sherd__topology *out, sherd_error *err)
{
    sherd_allocator memory = sherd__allocator_or_default(options->allocator);
    sherd__raw_topology *raw = sherd__alloc(&memory, 1, sizeof *raw);
    if (!raw)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to read the machine's topology");
    sherd_status status = read_from(options, raw, err);
    if (status == SHERD_OK)
        status = restrict_to(raw, options->cpus, err);
    if (status == SHERD_OK)
        status = sherd__topology_build(&memory, raw, out, err);
    sherd__free(&memory, raw, 1, sizeof *raw);
    return status;
}

void sherd__topology_free(sherd__topology *topology)
{
    if (!topology)
        return;
    const sherd_allocator memory = topology->allocator;
    size_t nodes = (size_t)topology->n_nodes, cpus = (size_t)topology->n_cpus;
    if (memory.release) {
        sherd__free(&memory, topology->nodes, nodes, sizeof *topology->nodes);
        sherd__free(&memory, topology->cores, cpus, sizeof *topology->cores); /* room for one per processor */
        sherd__free(&memory, topology->cpus, cpus, sizeof *topology->cpus);
        sherd__free(&memory, topology->caches, (size_t)topology->n_caches, sizeof *topology->caches);
        sherd__free(&memory, topology->gpus, (size_t)topology->n_gpus, sizeof *topology->gpus);
        sherd__free(&memory, topology->distance, nodes * nodes, sizeof *topology->distance);
    }
    memset(topology, 0, sizeof *topology);
}

/* ------------------------------------------------------------------------------------------------------------
 * questions */

int32_t sherd__topology_node_index(const sherd__topology *topology, int32_t os)
{
    for (int32_t i = 0; i < topology->n_nodes; i++)
        if (topology->nodes[i].os == os)
            return i;
    return -1;
}

int32_t sherd__topology_node_of_cpu(const sherd__topology *topology, int32_t cpu_os)
{
    for (int32_t i = 0; i < topology->n_cpus; i++)
        if (topology->cpus[i].os == cpu_os)
            return topology->cores[topology->cpus[i].core].node;
    return -1;
}

int32_t sherd__topology_usable_cores(const sherd__topology *topology)
{
    int32_t usable = 0;
    for (int32_t i = 0; i < topology->n_nodes; i++)
        usable += topology->nodes[i].usable;
    return usable;
}

const sherd__topology_gpu *sherd__topology_find_gpu(const sherd__topology *topology, const char *pci)
{
    uint64_t wanted, got;
    if (!sherd__pci_parse(pci, &wanted))
        return NULL;
    for (int32_t i = 0; i < topology->n_gpus; i++)
        if (sherd__pci_parse(topology->gpus[i].pci, &got) && got == wanted)
            return &topology->gpus[i];
    return NULL;
}

uint64_t sherd__topology_digest(const sherd__topology *topology)
{
    uint8_t allowed[SHERD__PIN_CPUS / 8] = {0}, hash[16];
    uint64_t digest = 0;
    for (int32_t i = 0; i < topology->n_cpus; i++)
        if (topology->cpus[i].allowed)
            allowed[topology->cpus[i].os / 8] |= (uint8_t)(1u << (topology->cpus[i].os % 8));
    sherd__hash_plain(allowed, sizeof allowed, hash);
    for (int i = 0; i < 8; i++)
        digest = digest << 8 | hash[i];
    return digest;
}

/* ----------------------------------------------------------------------------------------------------------- for
 * people */

/* The allowed processors of a node as a list of ranges. */
static void put_cpus(sherd__text *to, const sherd__topology *topology, int32_t node)
{
    uint8_t set[SHERD__PIN_CPUS] = {0};
    const char *comma = "";
    for (int32_t i = 0; i < topology->n_cpus; i++)
        if (topology->cpus[i].allowed && topology->cores[topology->cpus[i].core].node == node)
            set[topology->cpus[i].os] = 1;
    for (int32_t i = 0; i < SHERD__PIN_CPUS; i++) {
        if (!set[i])
            continue;
        int32_t first = i;
        while (i + 1 < SHERD__PIN_CPUS && set[i + 1])
            i++;
        sherd__text_put(to, first == i ? "%s%d" : "%s%d-%d", comma, first, i);
        comma = ",";
    }
}

static void put_node(sherd__text *to, const sherd__topology *topology, int32_t i)
{
    const sherd__topology_node *node = &topology->nodes[i];
    sherd__text_put(to, "node %d: %.1f GiB%s", node->os, (double)node->bytes / (1 << 30),
                    node->allowed ? "" : " (not allowed)");
    if (node->package >= 0)
        sherd__text_put(to, ", package %d", node->package);
    if (node->cores == 0)
        sherd__text_put(to, ", memory only");
    else
        sherd__text_put(to, ", %d of %d cores usable", node->usable, node->cores);
    if (node->usable > 0) {
        sherd__text_put(to, ", processors ");
        put_cpus(to, topology, i);
    }
    sherd__text_put(to, ", distances");
    for (int32_t k = 0; k < topology->n_nodes; k++)
        sherd__text_put(to, " %d", topology->distance[i * topology->n_nodes + k]);
    sherd__text_put(to, "\n");
}

static void put_gpu(sherd__text *to, const sherd__topology *topology, const sherd__topology_gpu *gpu)
{
    const char *comma = "";
    sherd__text_put(to, "GPU %s%s%s, near node ", gpu->pci, gpu->model[0] ? " " : "", gpu->model);
    for (int32_t i = 0; i < topology->n_nodes; i++)
        if (gpu->near >> i & 1) {
            sherd__text_put(to, "%s%d", comma, topology->nodes[i].os);
            comma = ",";
        }
    sherd__text_put(to, gpu->near ? "\n" : "unknown\n");
}

size_t sherd__topology_print(const sherd__topology *topology, char *text, size_t bytes)
{
    sherd__text to = sherd__text_in(text, bytes);
    if (bytes > 0)
        text[0] = '\0';
    sherd__text_put(&to, "%s: %d package%s, %d cores, %d processors", topology->source, topology->n_packages,
                    topology->n_packages == 1 ? "" : "s", topology->n_cores, topology->n_cpus);
    for (int32_t i = 0; i < topology->n_caches; i++)
        sherd__text_put(&to, ", %d × %" PRIu64 " KiB L%d", topology->caches[i].caches, topology->caches[i].bytes / 1024,
                        topology->caches[i].level);
    sherd__text_put(&to, "\n");
    for (int32_t i = 0; i < topology->n_nodes; i++)
        put_node(&to, topology, i);
    for (int32_t i = 0; i < topology->n_gpus; i++)
        put_gpu(&to, topology, &topology->gpus[i]);
    return to.length;
}
