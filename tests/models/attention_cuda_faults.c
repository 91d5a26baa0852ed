/* SPDX-License-Identifier: MIT
 *
 * What attention on CUDA refuses, and how its failures end; on the stub.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/models/attention_cuda_case.h"
#include "tests/support/cuda_stub/simt_control.h"
#include "tests/support/cuda_stub/stub.h"

static void refusals_say_why(void **state)
{
    sherd_error err = {0};
    sherd_attention a = {.batch = 1, .seq = 8, .heads = 4, .kv_heads = 2, .dim = 257};
    (void)state;
    assert_int_equal(sherd__attention_cuda_prepare(SHERD_BF16, &a, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "1 to 256 dimensions, not of 257"));
    a.dim = 64;
    assert_int_equal(sherd__attention_cuda_prepare((sherd_dtype)3, &a, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "fp32, bf16 or fp16 only"));
    a.kv_heads = 3;
    assert_int_equal(sherd__attention_cuda_forward(attention_place_stream(), SHERD_BF16, &a, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "key-value heads, 3, must divide heads"));
    a.kv_heads = 2, a.seq = (int64_t)1 << 29, a.batch = 64;
    assert_int_equal(sherd__attention_cuda_backward(attention_place_stream(), SHERD_BF16, &a, NULL, &err),
                     SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "smaller micro-batch"));
    simt_shared_limit(32 * 1024);
    a.seq = 8, a.dim = 128;
    assert_int_equal(sherd__attention_cuda_prepare(SHERD_BF16, &a, &err), SHERD_EDEVICE);
    assert_non_null(strstr(err.text, "loading the kernels (heads of 128 dimensions)"));
    simt_shared_limit(0);
}

static void each_launch_may_fail(void **state)
{
    problem p;
    sherd_error err = {0};
    (void)state;
    problem_make(&p, SHERD_BF16, 1, 8, 1, 1, 64);
    assert_int_equal(sherd__attention_cuda_prepare(p.dtype, &p.a, &err), SHERD_OK);
    for (uint64_t nth = 1; nth <= 3; nth++) {
        cuda_stub_fail_call("cudaLaunchKernel", nth, cudaErrorLaunchFailure);
        assert_int_equal(
            sherd__attention_cuda_backward(attention_place_stream(), p.dtype, &p.a, p.array[SCRATCH], &err),
            SHERD_EDEVICE);
        assert_non_null(strstr(err.text, "attention on CUDA, backward (heads of 64 dimensions): "));
    }
    cuda_stub_fail_call("cudaLaunchKernel", 1, cudaErrorLaunchFailure);
    assert_int_equal(sherd__attention_cuda_forward(attention_place_stream(), p.dtype, &p.a, &err), SHERD_EDEVICE);
    assert_true(attention_place_wait());
    problem_drop(&p);
}

/* What every GPU from sm_80 on can give a block. */
static void fits_the_smallest_gpu(void **state)
{
    static const int64_t dims[] = {8, 32, 33, 64, 72, 128, 256};
    (void)state;
    simt_shared_limit(99 * 1024);
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
        sherd_attention a = {.batch = 1, .seq = 8, .heads = 1, .kv_heads = 1, .dim = dims[i]};
        assert_int_equal(sherd__attention_cuda_prepare(SHERD_BF16, &a, NULL), SHERD_OK);
        assert_int_equal(sherd__attention_cuda_prepare(SHERD_FP32, &a, NULL), SHERD_OK);
    }
    simt_shared_limit(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals_say_why),
        cmocka_unit_test(each_launch_may_fail),
        cmocka_unit_test(fits_the_smallest_gpu),
    };
    int code = attention_place_open();
    if (code != 0)
        return code;
    code = cmocka_run_group_tests(tests, NULL, NULL);
    attention_place_close();
    return code;
}
