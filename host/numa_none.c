/* SPDX-License-Identifier: MIT */
#include "host/numa.h"

#include <errno.h>

const char *sherd__numa_missing(void)
{
    return "built without libnuma";
}

int sherd__numa_prefer(void *base, uint64_t bytes, int32_t node)
{
    (void)base;
    (void)bytes;
    (void)node;
    return ENOSYS;
}

int sherd__numa_where(void **pages, uint32_t n, int32_t *status)
{
    (void)pages;
    (void)n;
    (void)status;
    return ENOSYS;
}

int sherd__numa_move(void **pages, uint32_t n, int32_t node, int32_t *status)
{
    (void)pages;
    (void)n;
    (void)node;
    (void)status;
    return ENOSYS;
}
