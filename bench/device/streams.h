/* SPDX-License-Identifier: MIT
 *
 * Memory patterns with the loads and stores of the host's kernels and next to no arithmetic: the ceiling they are
 * measured against. What the kernels only write goes past the caches here too.
 */
#ifndef SHERD_BENCH_DEVICE_STREAMS_H
#define SHERD_BENCH_DEVICE_STREAMS_H

#include <stdint.h>

/* dst (4 bytes per element) is written, n_src sources of src_bytes (2 or 4) per element are read; add: dst is read as
 * well. */
void stream_sum(void *dst, const void *const *src, uint32_t n_src, int src_bytes, int add, int64_t begin, int64_t end);
/* sum is read (2 or 4 bytes), three arrays of 4 bytes are read and written, emit (2 bytes, may be NULL) is written. */
void stream_update(const void *sum, int sum_bytes, void *a, void *b, void *c, void *emit, int64_t begin, int64_t end);
const char *stream_name(void);

#endif
