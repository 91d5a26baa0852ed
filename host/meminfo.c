/* SPDX-License-Identifier: MIT
 *
 * What /proc and /sys say about memory, in bytes. Their lines are "Key: 123 kB", a node's with "Node 0 " before.
 */
#include "host/meminfo.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Value of a line "[Node n ]key: value kB" in bytes; 0: another line. */
static int read_kib(const char *line, const char *key, uint64_t *bytes)
{
    int skip = 0;
    if (sscanf(line, "Node %*d %n", &skip) < 0)
        return 0;
    const char *at = line + skip;
    size_t length = strlen(key);
    uint64_t kib;
    if (strncmp(at, key, length) != 0 || at[length] != ':' || sscanf(at + length + 1, " %" SCNu64, &kib) != 1)
        return 0;
    *bytes = kib * 1024;
    return 1;
}

/* Sum of the keys (ended by NULL) in a file; UINT64_MAX if none was found. */
static uint64_t sum_keys(const char *path, const char *const *keys)
{
    FILE *file = fopen(path, "re");
    char line[256];
    uint64_t sum = 0, bytes;
    int found = 0;
    if (!file)
        return UINT64_MAX;
    while (fgets(line, sizeof line, file))
        for (const char *const *key = keys; *key; key++)
            if (read_kib(line, *key, &bytes)) {
                sum += bytes;
                found = 1;
            }
    fclose(file);
    return found ? sum : UINT64_MAX;
}

uint64_t sherd__meminfo_available(int32_t node)
{
    static const char *const of_machine[] = {"MemAvailable", NULL};
    static const char *const of_node[] = {"MemFree", "Active(file)", "Inactive(file)", "SReclaimable", NULL};
    char path[96];
    if (node < 0)
        return sum_keys("/proc/meminfo", of_machine);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", node);
    return sum_keys(path, of_node);
}

uint64_t sherd__meminfo_huge_page(void)
{
    static const char *const keys[] = {"Hugepagesize", NULL};
    uint64_t bytes = sum_keys("/proc/meminfo", keys);
    return bytes == UINT64_MAX ? 0 : bytes;
}

uint64_t sherd__meminfo_huge_free(int32_t node)
{
    uint64_t page = sherd__meminfo_huge_page(), pages = 0;
    char path[128];
    if (node < 0)
        snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/free_hugepages", page / 1024);
    else
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/hugepages/hugepages-%" PRIu64 "kB/free_hugepages",
                 node, page / 1024);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%" SCNu64, &pages) != 1)
        pages = 0;
    fclose(file);
    return pages * page;
}

uint64_t sherd__meminfo_locked(void)
{
    static const char *const keys[] = {"VmLck", NULL};
    uint64_t bytes = sum_keys("/proc/self/status", keys);
    return bytes == UINT64_MAX ? 0 : bytes;
}

int sherd__meminfo_mapping_of(const void *base, sherd__meminfo_mapping *out)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    int inside = 0, found = 0;
    if (!file)
        return 0;
    memset(out, 0, sizeof *out);
    while (fgets(line, sizeof line, file)) {
        uint64_t begin, end, bytes;
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &begin, &end) == 2) {
            if (inside)
                break;
            inside = begin <= (uint64_t)(uintptr_t)base && (uint64_t)(uintptr_t)base < end;
            found |= inside;
        } else if (inside && read_kib(line, "AnonHugePages", &bytes)) {
            out->anon_huge_bytes = bytes;
        } else if (inside && read_kib(line, "KernelPageSize", &bytes)) {
            out->page_bytes = bytes;
        } else if (inside && read_kib(line, "Locked", &bytes)) {
            out->locked_bytes = bytes;
        }
    }
    fclose(file);
    return found;
}
