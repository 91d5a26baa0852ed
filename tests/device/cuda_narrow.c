/* SPDX-License-Identifier: MIT
 *
 * Narrowing in place with threads and thread blocks in any order, on the emulator: the head needs its barrier only, the
 * ranges behind it nothing at all. It shows nothing about a GPU's speed or memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/device/cuda_narrow.h"
#include "tests/device/host_math_values.h"
#include "tests/support/cuda_stub/simt_control.h"
#include "tests/support/cuda_stub/stub.h"

static cudaStream_t stream;

static int begin(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    simt_catch(1);
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess;
}

static int end(void **state)
{
    (void)state;
    return cudaStreamDestroy(stream) != cudaSuccess;
}

/* The launches of device/cuda_issue.c; how many elements are right. */
static int64_t narrow(sherd_dtype to, int64_t elems, int64_t shift, int with_head)
{
    char *data = array_new((elems + shift) * 4), *at = data + shift * 4;
    uint16_t *want = array_new(elems * 2);
    int64_t done = elems < SHERD__CUDA_NARROW_HEAD ? elems : SHERD__CUDA_NARROW_HEAD, right = 0;
    sherd__cuda_convert args = {.dst = at, .src = at, .elems = done, .dst_type = (uint8_t)to, .src_type = SHERD_FP32};
    args.vectors = shift % 4 == 0;
    fill_values(at, SHERD_FP32, elems, 29, SPECIAL);
    reference_variant()->convert(NULL, want, to, at, SHERD_FP32, elems, 0);
    assert_int_equal(with_head ? narrow_head(&args, stream) : narrow_range(&args, 3, stream), cudaSuccess);
    for (int64_t n; done < elems; done += n) {
        n = elems - done < done ? elems - done : done;
        args.dst = at + done * 2;
        args.src = at + done * 4;
        args.elems = n;
        assert_int_equal(narrow_range(&args, 5, stream), cudaSuccess);
    }
    for (int i = 0; cudaStreamQuery(stream) == cudaErrorNotReady; i++) {
        assert_true(i < 200000);
        usleep(100);
    }
    for (int64_t i = 0; i < elems; i++) {
        uint16_t got;
        memcpy(&got, at + i * 2, sizeof got);
        right += got == want[i];
    }
    free(data);
    free(want);
    return right;
}

static void any_order_gives_the_bits(void **state)
{
    static const int64_t sizes[] = {1, 8, 2051, 16384, 16385, 40001, 70000};
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed++)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int64_t shift = 0; shift < 2; shift++) {
                simt_seed(seed);
                assert_int_equal(narrow(seed % 2 ? SHERD_FP16 : SHERD_BF16, sizes[s], shift, 1), sizes[s]);
            }
    assert_string_equal(simt_fault(), "");
}

/* The first range, too, by threads that do not wait for each other: what the head is for. */
static void without_the_head_it_is_lost(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 5; seed++) {
        simt_seed(seed);
        assert_true(narrow(SHERD_BF16, SHERD__CUDA_NARROW_HEAD, 0, 0) < SHERD__CUDA_NARROW_HEAD);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_order_gives_the_bits),
        cmocka_unit_test(without_the_head_it_is_lost),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
