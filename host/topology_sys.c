/* SPDX-License-Identifier: MIT
 *
 * The machine as /sys and /proc show it, for builds without hwloc, below any folder, so that tests can lay out a
 * machine of their own. What the process may use is what the kernel says of the calling thread: cgroup and affinity are
 * in it already.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/cpulist.h"
#include "host/topology_raw.h"

typedef struct tree {
    const char *root;
} tree;

static int read_text(const tree *at, char *text, size_t bytes, const char *format, ...) SHERD__PRINTF(4, 5);

/* The file's first bytes, without the newline at their end. 0: it cannot be read. */
static int read_text(const tree *at, char *text, size_t bytes, const char *format, ...)
{
    char path[512];
    va_list args;
    int used = snprintf(path, sizeof path, "%s", at->root);
    va_start(args, format);
    vsnprintf(path + used, sizeof path - (size_t)used, format, args);
    va_end(args);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    size_t got = fread(text, 1, bytes - 1, file);
    fclose(file);
    while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == ' '))
        got--;
    text[got] = '\0';
    return got > 0;
}

/* `fallback` where the file has no number. */
static int32_t read_number(const tree *at, const char *folder, int32_t number, const char *name, int32_t fallback)
{
    char text[64], *end;
    if (!read_text(at, text, sizeof text, "%s%d/%s", folder, number, name))
        return fallback;
    long value = strtol(text, &end, 0);
    return end == text || value < -1 || value > INT32_MAX ? fallback : (int32_t)value;
}

/* Lowest number of a list, or `fallback`. */
static int32_t lowest(const char *list, int32_t fallback)
{
    int32_t first, last;
    return sherd__cpulist_range(&list, &first, &last) ? first : fallback;
}

static int32_t count_listed(const uint8_t *set, int32_t size)
{
    int32_t n = 0;
    for (int32_t i = 0; i < size; i++)
        n += set[i];
    return n;
}

/* ------------------------------------------------------------------------------------------------------------
 * processors */

#define CPU_FOLDER "/sys/devices/system/cpu/cpu"
#define NODE_FOLDER "/sys/devices/system/node/node"

/* One cache is listed by every processor that shares it: the lowest of them counts it. */
static void read_caches(const tree *at, sherd__raw_cpu *cpu, sherd__raw_topology *raw)
{
    char text[4096], folder[64];
    int32_t deepest = 1;
    snprintf(folder, sizeof folder, CPU_FOLDER "%d/cache/index", cpu->os);
    for (int32_t i = 0; i < 16 && read_text(at, text, sizeof text, "%s%d/type", folder, i); i++) {
        int32_t level = read_number(at, folder, i, "level", 0);
        int instructions = strcmp(text, "Instruction") == 0;
        unsigned long kib = read_text(at, text, sizeof text, "%s%d/size", folder, i) ? strtoul(text, NULL, 10) : 0;
        if (instructions || level < 1 || !read_text(at, text, sizeof text, "%s%d/shared_cpu_list", folder, i))
            continue;
        int32_t first = lowest(text, cpu->os);
        if (first == cpu->os)
            sherd__raw_add_cache(raw, level, (uint64_t)kib * 1024);
        if (level >= 3 && level > deepest) {
            deepest = level;
            cpu->l3 = first;
        }
    }
}

static sherd_status read_cpus(const tree *at, sherd__raw_topology *raw, sherd_error *err)
{
    uint8_t online[SHERD__PIN_CPUS] = {0}, allowed[SHERD__PIN_CPUS] = {0};
    char text[8192];
    if (!read_text(at, text, sizeof text, "/sys/devices/system/cpu/online") ||
        !sherd__cpulist_read(text, online, SHERD__PIN_CPUS))
        return sherd__fail(err, SHERD_ESYSTEM, "%s/sys/devices/system/cpu/online cannot be read: is /sys mounted?",
                           at->root);
    memset(allowed, 1, sizeof allowed);
    if (read_text(at, text, sizeof text, "/proc/thread-self/status")) {
        const char *list = strstr(text, "\nCpus_allowed_list:");
        char line[4096];
        if (list && sscanf(list, "\nCpus_allowed_list: %4095s", line) == 1) {
            memset(allowed, 0, sizeof allowed);
            (void)sherd__cpulist_read(line, allowed, SHERD__PIN_CPUS);
        }
    }
    for (int32_t os = 0; os < SHERD__PIN_CPUS; os++) {
        if (!online[os])
            continue;
        sherd__raw_cpu *cpu = &raw->cpus[raw->n_cpus++];
        *cpu = (sherd__raw_cpu){.os = os, .allowed = allowed[os], .node = -1, .l3 = -1, .core = os};
        cpu->package = read_number(at, CPU_FOLDER, os, "topology/physical_package_id", -1);
        if (read_text(at, text, sizeof text, CPU_FOLDER "%d/topology/thread_siblings_list", os))
            cpu->core = lowest(text, os);
        read_caches(at, cpu, raw);
    }
    return SHERD_OK;
}

/* -----------------------------------------------------------------------------------------------------------------
 * nodes */

static uint64_t memory_of(const tree *at, int32_t os)
{
    char text[4096];
    uint64_t kib = 0;
    const char *line = NULL;
    if (read_text(at, text, sizeof text, NODE_FOLDER "%d/meminfo", os))
        line = strstr(text, "MemTotal:");
    if (line && sscanf(line, "MemTotal: %" SCNu64, &kib) != 1)
        kib = 0;
    return kib * 1024;
}

static void read_node(const tree *at, sherd__raw_topology *raw, sherd__raw_node *node)
{
    uint8_t set[SHERD__PIN_CPUS] = {0};
    char text[8192], *next = text;
    node->bytes = memory_of(at, node->os);
    if (read_text(at, text, sizeof text, NODE_FOLDER "%d/cpulist", node->os))
        (void)sherd__cpulist_read(text, set, SHERD__PIN_CPUS);
    for (int32_t i = 0; i < raw->n_cpus; i++)
        if (set[raw->cpus[i].os])
            raw->cpus[i].node = node->os;
    if (!read_text(at, text, sizeof text, NODE_FOLDER "%d/distance", node->os))
        return;
    for (int32_t i = 0; i < raw->n_nodes; i++) {
        char *end;
        unsigned long distance = strtoul(next, &end, 10);
        node->distance[i] = end == next || distance > UINT16_MAX ? 0 : (uint16_t)distance;
        next = end;
    }
}

static sherd_status read_nodes(const tree *at, sherd__raw_topology *raw, sherd_error *err)
{
    uint8_t online[1024] = {0}, allowed[1024] = {0};
    char text[8192], line[1024];
    if (!read_text(at, text, sizeof text, "/sys/devices/system/node/online") ||
        !sherd__cpulist_read(text, online, 1024))
        return SHERD_OK; /* a kernel without memory nodes */
    if (count_listed(online, 1024) > SHERD__MAX_NODES)
        return sherd__fail(err, SHERD_EUNSUPPORTED, "%d memory nodes: at most %d are supported",
                           count_listed(online, 1024), SHERD__MAX_NODES);
    memset(allowed, 1, sizeof allowed);
    if (read_text(at, text, sizeof text, "/proc/thread-self/status")) {
        const char *list = strstr(text, "\nMems_allowed_list:");
        if (list && sscanf(list, "\nMems_allowed_list: %1023s", line) == 1) {
            memset(allowed, 0, sizeof allowed);
            (void)sherd__cpulist_read(line, allowed, 1024);
        }
    }
    for (int32_t os = 0; os < 1024; os++)
        if (online[os])
            raw->nodes[raw->n_nodes++] = (sherd__raw_node){.os = os, .allowed = allowed[os], .package = -1};
    for (int32_t i = 0; i < raw->n_nodes; i++)
        read_node(at, raw, &raw->nodes[i]);
    return SHERD_OK;
}

/* ------------------------------------------------------------------------------------------------------------------
 * GPUs */

/* PCI classes 0x03 (display) and 0x12 (processing accelerators). */
static void read_device(const tree *at, const char *name, sherd__raw_topology *raw)
{
    char text[64], vendor[16] = "", device[16] = "";
    uint64_t pci;
    if (!sherd__pci_parse(name, &pci) || raw->n_gpus == SHERD__RAW_GPUS ||
        !read_text(at, text, sizeof text, "/sys/bus/pci/devices/%s/class", name))
        return;
    unsigned long kind = strtoul(text, NULL, 16) >> 16;
    if (kind != 0x03 && kind != 0x12)
        return;
    sherd__raw_gpu *gpu = &raw->gpus[raw->n_gpus++];
    sherd__pci_print(pci, gpu->pci);
    if (read_text(at, vendor, sizeof vendor, "/sys/bus/pci/devices/%s/vendor", name) &&
        read_text(at, device, sizeof device, "/sys/bus/pci/devices/%s/device", name))
        snprintf(gpu->model, sizeof gpu->model, "%s:%s", strncmp(vendor, "0x", 2) == 0 ? vendor + 2 : vendor,
                 strncmp(device, "0x", 2) == 0 ? device + 2 : device);
    if (read_text(at, text, sizeof text, "/sys/bus/pci/devices/%s/numa_node", name)) {
        long node = strtol(text, NULL, 10);
        if (node >= 0 && node < 1024)
            gpu->near[gpu->n_near++] = (int32_t)node;
    }
}

static void read_gpus(const tree *at, sherd__raw_topology *raw)
{
    char path[512];
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices", at->root);
    DIR *folder = opendir(path);
    if (!folder)
        return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        read_device(at, entry->d_name, raw);
    closedir(folder);
}

sherd_status sherd__topology_read_sys(const char *root, sherd__raw_topology *raw, sherd_error *err)
{
    tree at = {.root = root};
    if (strlen(root) > 256)
        return sherd__fail(err, SHERD_EINVAL, "the folder that is to be read as a machine has too long a name");
    snprintf(raw->source, sizeof raw->source, "%.120s/sys", root);
    sherd_status status = read_cpus(&at, raw, err);
    if (status == SHERD_OK)
        status = read_nodes(&at, raw, err);
    if (status == SHERD_OK)
        read_gpus(&at, raw);
    return status;
}
