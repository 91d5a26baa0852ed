/* SPDX-License-Identifier: MIT
 *
 * Pure streaming with the loads and stores of the host step and next to no arithmetic: what the step is measured
 * against. Which way of streaming is best depends on the processor, so there are many, and the benchmark takes the best
 * it finds: vectors of 256 and 512 bits, stores through and past the caches, how far ahead is asked for, all arrays
 * together or one after the other.
 */
#ifndef SHERD_BENCH_OFFLOAD_PATTERNS_H
#define SHERD_BENCH_OFFLOAD_PATTERNS_H

#include <stdint.h>

#define PATTERN_UNIT 1024 /* begin and end are multiples of it, but for the last end: of 32 */
#define PATTERN_ARRAYS 3

/* Everything starts at 64 bytes. in[a] and out[a] are one array where a step updates in place. */
typedef struct pattern_streams {
    const char *sum;
    int sum_bytes; /* per element: 2 or 4 */
    int arrays;    /* 2 or 3: master and moments */
    const char *in[PATTERN_ARRAYS];
    char *out[PATTERN_ARRAYS];
    char *emit; /* 2 bytes per element */
} pattern_streams;

typedef struct pattern {
    const char *name;
    void (*run)(const pattern_streams *streams, int64_t begin, int64_t end); /* elements; values stay as they are */
} pattern;

/* Those this processor runs; returns how many. */
int patterns_all(const pattern **out, int capacity);

#endif
