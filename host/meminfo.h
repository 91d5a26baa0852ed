/* SPDX-License-Identifier: MIT */
#ifndef SHERD_HOST_MEMINFO_H
#define SHERD_HOST_MEMINFO_H

#include <stdint.h>

/* Bytes that could be had on a node (os number; −1: on the machine) without killing anybody: free, and what files only
 * cache. UINT64_MAX where the kernel does not tell. */
uint64_t sherd__meminfo_available(int32_t node);
/* The size of the huge pages a mapping gets when it does not choose; 0: none. */
uint64_t sherd__meminfo_huge_page(void);
/* Reserved huge pages of that size, in bytes, that are free on a node (−1: on the machine). */
uint64_t sherd__meminfo_huge_free(int32_t node);
/* Bytes of the process that are page-locked now. */
uint64_t sherd__meminfo_locked(void);

/* Of the mapping of this process that contains `base`. Returns 0 if it was not found. */
typedef struct sherd__meminfo_mapping {
    uint64_t anon_huge_bytes, page_bytes, locked_bytes;
} sherd__meminfo_mapping;
int sherd__meminfo_mapping_of(const void *base, sherd__meminfo_mapping *out);

#endif
