/* SPDX-License-Identifier: MIT
 *
 * The part of cuBLASLt's binary interface that products need: declarations of our own, so that a build needs neither
 * its header nor its library, and one program runs with and without it. The numbers are the interface's (cuBLASLt 11 to
 * 13); tests/models/cuda_blas_header.c compares them with the header where there is one.
 */
#ifndef SHERD_MODELS_CUDA_BLAS_API_H
#define SHERD_MODELS_CUDA_BLAS_API_H

#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime_api.h>

#include "models/internal.h"

/* Every status but 0 is a failure; NOT_SUPPORTED is the heuristic's "no algorithm". */
enum { SHERD_BLAS_SUCCESS = 0, SHERD_BLAS_NOT_SUPPORTED = 15 };
enum { SHERD_BLAS_R_32F = 0, SHERD_BLAS_R_16F = 2, SHERD_BLAS_R_16BF = 14 };
enum { SHERD_BLAS_COMPUTE_32F = 68, SHERD_BLAS_COMPUTE_32F_FAST_TF32 = 77 };
enum { SHERD_BLAS_OP_N = 0, SHERD_BLAS_OP_T = 1 };
enum { SHERD_BLAS_DESC_TRANSA = 3, SHERD_BLAS_DESC_TRANSB = 4 };
enum {
    SHERD_BLAS_PREF_WORKSPACE_BYTES = 1,   /* size_t */
    SHERD_BLAS_PREF_REDUCTION_SCHEMES = 3, /* uint32_t, a mask */
    SHERD_BLAS_PREF_ALIGNMENT_A = 5,       /* uint32_t; B, C and D follow */
    SHERD_BLAS_PREF_ALIGNMENT_D = 8
};
/* Partial sums in the compute type, added by a second kernel in a fixed order; NONE needs no bit of the mask. */
enum { SHERD_BLAS_REDUCTION_COMPUTE_TYPE = 2 };

typedef struct sherd_blas_algo {
    uint64_t data[8];
} sherd_blas_algo;

typedef struct sherd_blas_choice {
    sherd_blas_algo algo;
    size_t workspace_bytes;
    int state;
    float waves;
    int reserved[4];
} sherd_blas_choice;

typedef struct sherd_blas_api {
    int (*create)(void **handle);
    size_t (*version)(void);
    int (*desc_create)(void **desc, int compute_type, int scale_type);
    int (*desc_destroy)(void *desc);
    int (*desc_set)(void *desc, int attribute, const void *value, size_t bytes);
    int (*layout_create)(void **layout, int type, uint64_t rows, uint64_t cols, int64_t ld); /* column-major */
    int (*layout_destroy)(void *layout);
    int (*pref_create)(void **pref);
    int (*pref_destroy)(void *pref);
    int (*pref_set)(void *pref, int attribute, const void *value, size_t bytes);
    int (*heuristic)(void *handle, void *desc, void *a, void *b, void *c, void *d, void *pref, int wanted,
                     sherd_blas_choice *out, int *found);
    int (*matmul)(void *handle, void *desc, const void *alpha, const void *a, void *a_layout, const void *b,
                  void *b_layout, const void *beta, const void *c, void *c_layout, void *d, void *d_layout,
                  const sherd_blas_algo *algo, void *workspace, size_t workspace_bytes, cudaStream_t stream);
    size_t workspace_bytes; /* 0: what the GPU's generation needs */
    char path[512];         /* where it was found */
} sherd_blas_api;

/* Finds and opens the library: SHERD_CUBLASLT names the file, else the loader's own places, the toolkit's, and the
 * folders of NVIDIA's Python wheels. EUNSUPPORTED where there is none. It stays open until the process ends. */
sherd_status sherd__cuda_blas_open(sherd_blas_api *out, sherd_error *err);

#endif
