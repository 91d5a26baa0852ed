/* SPDX-License-Identifier: MIT
 *
 * Where pages shall lie and where they do: libnuma's calls behind six functions, so that a build without it says so in
 * one place. All return 0 or an errno value; ENOSYS where the build or the kernel has no memory policies.
 */
#ifndef SHERD_HOST_NUMA_H
#define SHERD_HOST_NUMA_H

#include <stdint.h>

/* NULL: policies can be set and pages asked for; else a static sentence on why not. */
const char *sherd__numa_missing(void);
/* New pages of the range come from `node` while it has any, then from others: never the out-of-memory killer, which a
 * strict binding calls when its node is full. */
int sherd__numa_prefer(void *base, uint64_t bytes, int32_t node);
/* status[i]: the node (os number) pages[i] lies on, or −1 if it is not in memory. */
int sherd__numa_where(void **pages, uint32_t n, int32_t *status);
/* Moves pages[] to `node`, reclaiming there if need be; status[i]: where each lies afterwards, or −1. */
int sherd__numa_move(void **pages, uint32_t n, int32_t node, int32_t *status);

#define SHERD__NUMA_BATCH 512 /* pages in one call, at most */

#endif
