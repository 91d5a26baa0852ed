/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/host/machine_xml.h"

#define MAX_BITS 1024

typedef struct set {
    uint32_t words[MAX_BITS / 32];
} set;

typedef struct writer {
    const machine *it;
    char *text;
    size_t bytes, used;
    int32_t id;
} writer;

static void put(writer *to, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int wanted = vsnprintf(to->text + to->used, to->bytes - to->used, format, args);
    va_end(args);
    if (wanted < 0 || (size_t)wanted >= to->bytes - to->used)
        abort();
    to->used += (size_t)wanted;
}

static void add(set *to, int32_t bit)
{
    to->words[bit / 32] |= 1u << (bit % 32);
}

/* "0x0000000f,0xffffffff": the highest word first. */
static void put_set(writer *to, const char *name, const set *bits)
{
    int top = MAX_BITS / 32 - 1;
    while (top > 0 && bits->words[top] == 0)
        top--;
    put(to, " %s=\"", name);
    for (int i = top; i >= 0; i--)
        put(to, "%s0x%08x", i == top ? "" : ",", bits->words[i]);
    put(to, "\"");
}

int32_t machine_nodes(const machine *it)
{
    return it->packages * it->nodes_per_package + it->memory_nodes;
}
int32_t machine_cores(const machine *it)
{
    return it->packages * it->nodes_per_package * it->cores_per_node;
}

void machine_gpu_pci(int32_t package, int32_t k, char text[16])
{
    snprintf(text, 16, "%04x:%02x:00.0", (unsigned int)package & 0xFFFF, (unsigned int)(0x10 * (k + 1)) & 0xFF);
}

static void core_cpus(const machine *it, int32_t core, set *cpus)
{
    for (int32_t t = 0; t < it->smt; t++)
        add(cpus, t * machine_cores(it) + core);
}

static void node_cpus(const machine *it, int32_t node, set *cpus)
{
    for (int32_t c = 0; c < it->cores_per_node; c++)
        core_cpus(it, node * it->cores_per_node + c, cpus);
}

static void open_object(writer *to, const char *type, int32_t os, const set *cpus, const set *nodes, const char *more)
{
    put(to, "<object type=\"%s\"", type);
    if (os >= 0)
        put(to, " os_index=\"%d\"", os);
    put_set(to, "cpuset", cpus);
    put_set(to, "complete_cpuset", cpus);
    put_set(to, "nodeset", nodes);
    put_set(to, "complete_nodeset", nodes);
    put(to, " gp_index=\"%d\"%s", ++to->id, more);
}

static void put_memory(writer *to, int32_t node, const set *cpus)
{
    set self = {{0}};
    char more[64];
    add(&self, node);
    snprintf(more, sizeof more, " local_memory=\"%llu\"/>\n", (unsigned long long)to->it->node_bytes);
    open_object(to, "NUMANode", node, cpus, &self, more);
}

static void put_core(writer *to, int32_t core, const set *nodes)
{
    set cpus = {{0}};
    core_cpus(to->it, core, &cpus);
    open_object(to, "Core", core, &cpus, nodes, ">\n");
    for (int32_t t = 0; t < to->it->smt; t++) {
        set one = {{0}};
        add(&one, t * machine_cores(to->it) + core);
        open_object(to, "PU", t * machine_cores(to->it) + core, &one, nodes, "/>\n");
    }
    put(to, "</object>\n");
}

static void put_gpu(writer *to, int32_t package, int32_t k)
{
    char pci[16];
    machine_gpu_pci(package, k, pci);
    unsigned int bus = (unsigned int)(0x10 * (k + 1));
    put(to,
        "<object type=\"Bridge\" gp_index=\"%d\" bridge_type=\"0-1\" depth=\"0\" bridge_pci=\"%04x:[%02x-%02x]\">\n",
        ++to->id, (unsigned int)package, bus, bus);
    put(to,
        "<object type=\"PCIDev\" gp_index=\"%d\" pci_busid=\"%s\" pci_type=\"0302 [10de:2330] [10de:16c1] a1\" "
        "pci_link_speed=\"63.0\"/>\n</object>\n",
        ++to->id, pci);
}

/* A group of its own around each node where a package has several. */
static void put_node(writer *to, int32_t package, int32_t of_package, const set *nodes)
{
    const machine *it = to->it;
    int32_t node = package * it->nodes_per_package + of_package, grouped = it->nodes_per_package > 1;
    set cpus = {{0}};
    node_cpus(it, node, &cpus);
    if (grouped)
        open_object(to, "Group", -1, &cpus, nodes, " kind=\"0\" subkind=\"0\">\n");
    put_memory(to, node, &cpus);
    open_object(
        to, "L3Cache", -1, &cpus, nodes,
        " cache_size=\"33554432\" depth=\"3\" cache_linesize=\"64\" cache_associativity=\"16\" cache_type=\"0\">\n");
    for (int32_t c = 0; c < it->cores_per_node; c++)
        put_core(to, node * it->cores_per_node + c, nodes);
    put(to, "</object>\n");
    for (int32_t k = 0; grouped && it->gpus_at_nodes && k < it->gpus_per_package; k++)
        if (k % it->nodes_per_package == of_package)
            put_gpu(to, package, k);
    if (grouped)
        put(to, "</object>\n");
}

static void put_package(writer *to, int32_t package)
{
    const machine *it = to->it;
    set cpus = {{0}}, nodes = {{0}};
    int32_t memory = it->packages * it->nodes_per_package + package;
    for (int32_t n = 0; n < it->nodes_per_package; n++) {
        node_cpus(it, package * it->nodes_per_package + n, &cpus);
        add(&nodes, package * it->nodes_per_package + n);
    }
    if (package < it->memory_nodes)
        add(&nodes, memory);
    open_object(to, "Package", package, &cpus, &nodes, ">\n");
    if (package < it->memory_nodes)
        put_memory(to, memory, &cpus);
    for (int32_t n = 0; n < it->nodes_per_package; n++) {
        set below = {{0}};
        add(&below, package * it->nodes_per_package + n);
        if (package < it->memory_nodes)
            add(&below, memory);
        put_node(to, package, n, &below);
    }
    for (int32_t k = 0; k < it->gpus_per_package; k++)
        if (!it->gpus_at_nodes || it->nodes_per_package == 1)
            put_gpu(to, package, k);
    put(to, "</object>\n");
}

static int32_t package_of(const machine *it, int32_t node)
{
    int32_t own = it->packages * it->nodes_per_package;
    return node < own ? node / it->nodes_per_package : node - own;
}

static void put_distances(writer *to)
{
    const machine *it = to->it;
    int32_t n = machine_nodes(it), own = it->packages * it->nodes_per_package;
    char list[32768] = "";
    size_t used = 0;
    put(to, "<distances2 type=\"NUMANode\" nbobjs=\"%d\" kind=\"5\" name=\"NUMALatency\" indexing=\"os\">\n", n);
    for (int32_t i = 0; i < n; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%d ", i);
    put(to, "<indexes length=\"%zu\">%s</indexes>\n", used, list);
    used = 0;
    for (int32_t i = 0; i < n * n; i++) {
        int32_t a = i / n, b = i % n, same = package_of(it, a) == package_of(it, b);
        int32_t value = a == b ? 10 : !same ? 32 : a >= own || b >= own ? 17 : 12;
        used += (size_t)snprintf(list + used, sizeof list - used, "%d ", value);
    }
    put(to, "<u64values length=\"%zu\">%s</u64values>\n</distances2>\n", used, list);
}

char *machine_xml(const machine *it)
{
    size_t bytes = (size_t)1 << 20;
    writer to = {.it = it, .text = malloc(bytes), .bytes = bytes};
    set cpus = {{0}}, nodes = {{0}};
    if (!to.text)
        abort();
    for (int32_t i = 0; i < machine_cores(it); i++)
        core_cpus(it, i, &cpus);
    for (int32_t i = 0; i < machine_nodes(it); i++)
        add(&nodes, i);
    put(&to, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n<topology "
             "version=\"2.0\">\n");
    open_object(&to, "Machine", 0, &cpus, &nodes, "");
    put_set(&to, "allowed_cpuset", &cpus);
    put_set(&to, "allowed_nodeset", &nodes);
    put(&to, ">\n");
    for (int32_t p = 0; p < it->packages; p++)
        put_package(&to, p);
    put(&to, "</object>\n");
    if (machine_nodes(it) > 1)
        put_distances(&to);
    put(&to, "</topology>\n");
    return to.text;
}
