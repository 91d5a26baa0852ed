/* SPDX-License-Identifier: MIT
 *
 * Our declarations of cuBLASLt's interface beside the library's own header, where a build has it: checked by compiling.
 * And the library itself, where it is installed: found, and complete.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <cublasLt.h>

#include "models/cuda_blas_api.h"

#define SAME(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)

SAME(SHERD_BLAS_SUCCESS, CUBLAS_STATUS_SUCCESS);
SAME(SHERD_BLAS_NOT_SUPPORTED, CUBLAS_STATUS_NOT_SUPPORTED);
SAME(SHERD_BLAS_R_32F, CUDA_R_32F);
SAME(SHERD_BLAS_R_16BF, CUDA_R_16BF);
SAME(SHERD_BLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F);
SAME(SHERD_BLAS_COMPUTE_32F_FAST_TF32, CUBLAS_COMPUTE_32F_FAST_TF32);
SAME(SHERD_BLAS_OP_N, CUBLAS_OP_N);
SAME(SHERD_BLAS_OP_T, CUBLAS_OP_T);
SAME(SHERD_BLAS_DESC_TRANSA, CUBLASLT_MATMUL_DESC_TRANSA);
SAME(SHERD_BLAS_DESC_TRANSB, CUBLASLT_MATMUL_DESC_TRANSB);
SAME(SHERD_BLAS_PREF_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
SAME(SHERD_BLAS_PREF_REDUCTION_SCHEMES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK);
SAME(SHERD_BLAS_PREF_ALIGNMENT_A, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
SAME(SHERD_BLAS_PREF_ALIGNMENT_A + 1, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
SAME(SHERD_BLAS_PREF_ALIGNMENT_A + 2, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
SAME(SHERD_BLAS_PREF_ALIGNMENT_D, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);
SAME(SHERD_BLAS_REDUCTION_COMPUTE_TYPE, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
SAME(sizeof(sherd_blas_algo), sizeof(cublasLtMatmulAlgo_t));
SAME(sizeof(sherd_blas_choice), sizeof(cublasLtMatmulHeuristicResult_t));
SAME(offsetof(sherd_blas_choice, workspace_bytes), offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
SAME(offsetof(sherd_blas_choice, state), offsetof(cublasLtMatmulHeuristicResult_t, state));
SAME(offsetof(sherd_blas_choice, waves), offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

static void the_library_is_found_whole(void **state)
{
    sherd_blas_api api;
    sherd_error err = {0};
    (void)state;
    unsetenv("SHERD_CUBLASLT");
    if (sherd__cuda_blas_open(&api, &err) != SHERD_OK) {
        assert_non_null(strstr(err.text, "cuBLASLt was not found"));
        assert_non_null(strstr(err.text, "SHERD_CUBLASLT"));
        printf("no library here: %s\n", err.text);
        skip();
    }
    assert_true(api.version() >= 120000);
    assert_non_null(strstr(api.path, "libcublasLt.so"));
}

static void a_wrong_file_is_refused(void **state)
{
    sherd_blas_api api = {.path = "untouched"};
    sherd_error err = {0};
    (void)state;
    setenv("SHERD_CUBLASLT", "/nowhere/libcublasLt.so.13", 1);
    assert_int_equal(sherd__cuda_blas_open(&api, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "/nowhere/libcublasLt.so.13"));
    setenv("SHERD_CUBLASLT", "libm.so.6", 1);
    assert_int_equal(sherd__cuda_blas_open(&api, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "has no 'cublasLtCreate'"));
    assert_string_equal(api.path, "untouched");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_library_is_found_whole),
        cmocka_unit_test(a_wrong_file_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
