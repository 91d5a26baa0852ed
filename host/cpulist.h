/* SPDX-License-Identifier: MIT
 *
 * Lists of numbers as the kernel writes them: "0-3,7,9-11".
 */
#ifndef SHERD_HOST_CPULIST_H
#define SHERD_HOST_CPULIST_H

#include <stddef.h>
#include <stdint.h>

/* Reads one "7" or "0-3" at *at and moves *at behind it. 1: read; 0: there is none, or it is not a range of numbers in
 * order, or one is above a million. Leaves commas to the caller. */
int sherd__cpulist_range(const char **at, int32_t *first, int32_t *last);
/* Sets set[n] = 1 for each number below `size` that is listed, others are left as they are. Spaces and a newline at the
 * end are legal, an empty list too. 0: the text is not such a list. */
int sherd__cpulist_read(const char *text, uint8_t *set, int32_t size);

#endif
