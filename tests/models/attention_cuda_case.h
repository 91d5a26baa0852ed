/* SPDX-License-Identifier: MIT
 *
 * What the tests of attention's CUDA kernels share: a problem, its run, and its check against sums in double precision
 * over exactly the values it was given. Where kernels run is behind attention_place_…: the emulator of a thread block
 * (attention_cuda_simt.c) or a GPU (attention_cuda_gpu.c).
 */
#ifndef SHERD_TESTS_ATTENTION_CUDA_CASE_H
#define SHERD_TESTS_ATTENTION_CUDA_CASE_H

#include "models/attention_cuda.h"

/* 0, or 77 where there is no GPU. */
int attention_place_open(void);
void attention_place_close(void);
void *attention_place_stream(void);
/* Memory that kernels and the CPU reach, aligned to 64 bytes. */
void *attention_place_take(size_t bytes);
void attention_place_give(void *at);
/* In which order the emulator runs from now on; a GPU has its own. */
void attention_place_order(uint64_t seed);
/* Until all is done; 0 where it fails or takes more than a minute. */
int attention_place_wait(void);

enum { Q, K, V, OUT, LSE, DOUT, DQ, DK, DV, SCRATCH, ARRAYS };

typedef struct problem {
    sherd_dtype dtype;
    sherd_attention a;
    size_t elems[ARRAYS], bytes[ARRAYS];
    unsigned char *array[ARRAYS];
} problem;

typedef struct tally {
    int64_t compared, missed;
    double worst; /* error over bound */
} tally;

void problem_make(problem *p, sherd_dtype dtype, int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads,
                  int64_t dim);
/* Also asserts that nothing was written behind an array. */
void problem_drop(problem *p);
/* Other values, in ±range. */
void problem_draw(problem *p, int array, uint64_t seed, double range);
/* Forward and backward, over results that begin as NaNs. */
void problem_run(problem *p, uint64_t seed);
/* As if `shift` more keys were visible: 0 is the right mask. */
void problem_check(const problem *p, int64_t shift, tally *forward, tally *backward);

#endif
