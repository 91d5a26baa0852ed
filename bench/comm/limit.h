/* SPDX-License-Identifier: MIT
 *
 * The plainest loops that do a collective's arithmetic, for the yardstick of the benchmark. Compiled for the machine at
 * hand. `past`: stores that go past the caches where the processor has them.
 */
#ifndef SHERD_BENCH_COMM_LIMIT_H
#define SHERD_BENCH_COMM_LIMIT_H

#include <stdint.h>

void limit_sum_f32(float *dst, const void *a, const void *b, uint64_t elems);
void limit_sum_f32_past(float *dst, const void *a, const void *b, uint64_t elems);
void limit_sum_bf16(float *dst, const void *a, const void *b, uint64_t elems); /* to fp32 */
void limit_sum_bf16_past(float *dst, const void *a, const void *b, uint64_t elems);
void limit_copy(void *dst, const void *src, uint64_t bytes);
void limit_copy_past(void *dst, const void *src, uint64_t bytes);
void limit_add_bf16(void *inout, const void *in, uint64_t elems); /* to bf16, in place */
const char *limit_name(void);

#endif
