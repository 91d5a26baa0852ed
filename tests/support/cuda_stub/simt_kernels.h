/* SPDX-License-Identifier: MIT
 *
 * The kernels that simt_test/simt.c runs: right ones, and one for each fault the emulator knows.
 */
#ifndef SHERD_TESTS_SIMT_KERNELS_H
#define SHERD_TESTS_SIMT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__cplusplus)
extern "C" {
#endif

typedef enum simt_kernel {
    SIMT_SUM,            /* block sums by shuffles and shared memory: out[block] */
    SIMT_SUM_NO_BARRIER, /* the same without the barrier */
    SIMT_VOTES,          /* ballots and shuffles of all kinds: out[thread] */
    SIMT_COPIES,         /* cp.async, two groups in flight: out[thread] */
    SIMT_COPIES_NO_WAIT, /* the same without the wait */
    SIMT_MMA,            /* one warp: out[16][8] = in[16][16] · in[16][8], bf16 through ldmatrix */
    SIMT_ATOMICS,        /* out[0]: sum of thread numbers, out[1]: greatest */
    SIMT_LEFT_EARLY,     /* half the block ends before a barrier */
    SIMT_TWO_PLACES,     /* halves of the block are at different barriers */
    SIMT_HALF_A_WARP,    /* half a warp does not come to a full shuffle */
    SIMT_BEYOND_SHARED,  /* writes behind its shared memory */
    SIMT_ODD_ROW,        /* ldmatrix of a row at an odd address */
    SIMT_TRAP
} simt_kernel;

/* Of `threads` threads a block; a cudaError_t. */
int simt_run(simt_kernel which, unsigned blocks, unsigned threads, size_t shared_bytes, const int32_t *in, int32_t *out,
             void *stream);
int simt_allow_shared(simt_kernel which, int bytes);

#if defined(__cplusplus)
}
#endif
#endif
