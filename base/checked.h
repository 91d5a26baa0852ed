/* SPDX-License-Identifier: MIT
 *
 * Arithmetic that refuses to wrap. Each returns 1 and writes *out, or returns 0 on overflow.
 */
#ifndef SHERD_BASE_CHECKED_H
#define SHERD_BASE_CHECKED_H

#include <stdint.h>

static inline int sherd__add_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline int sherd__mul_u64(uint64_t a, uint64_t b, uint64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline int sherd__add_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline int sherd__mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }

/* Smallest multiple of `unit` (> 0) that is at least `value` (≥ 0); the caller has checked that it fits. */
static inline int64_t sherd__round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

#endif
