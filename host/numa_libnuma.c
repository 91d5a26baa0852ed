/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <numa.h>
#include <numaif.h>

#include "host/numa.h"

#define NODES 1024 /* bits of a node mask; the kernel's own limit */

const char *sherd__numa_missing(void)
{
    if (numa_available() < 0)
        return "this kernel, or the container's seccomp filter, has no memory policies";
    return NULL;
}

int sherd__numa_prefer(void *base, uint64_t bytes, int32_t node)
{
    unsigned long mask[NODES / (8 * sizeof(unsigned long))] = {0};
    int32_t bits = (int32_t)(8 * sizeof mask[0]);
    if (node < 0 || node >= NODES)
        return EINVAL;
    mask[node / bits] |= 1ul << (node % bits);
    /* The kernel reads one bit less than it is told. */
    return mbind(base, bytes, MPOL_PREFERRED, mask, NODES, 0) == 0 ? 0 : errno;
}

/* Negative statuses are errno values of one page: absent, or (never touched) the shared page of zeros. */
static void nodes_only(uint32_t n, int32_t *status)
{
    for (uint32_t i = 0; i < n; i++)
        if (status[i] < 0)
            status[i] = -1;
}

int sherd__numa_where(void **pages, uint32_t n, int32_t *status)
{
    if (move_pages(0, n, pages, NULL, status, 0) < 0)
        return errno;
    nodes_only(n, status);
    return 0;
}

int sherd__numa_move(void **pages, uint32_t n, int32_t node, int32_t *status)
{
    int32_t to[SHERD__NUMA_BATCH];
    if (n > SHERD__NUMA_BATCH)
        return EINVAL;
    for (uint32_t i = 0; i < n; i++)
        to[i] = node;
    /* A positive result counts pages that stayed behind: the second call says where everything is. */
    if (move_pages(0, n, pages, to, status, MPOL_MF_MOVE) < 0)
        return errno;
    return sherd__numa_where(pages, n, status);
}
