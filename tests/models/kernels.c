/* SPDX-License-Identifier: MIT
 *
 * Every variant of the inner loops that this CPU runs, against the plainest C in double, over odd lengths and offsets
 * and special values; and both matrix products against three loops.
 */
#include "models/kernels.h"
#include "models/gemm.h"

#include "tests/models/half.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define N 77
#define OFFSET 3 /* floats: nothing is aligned */

static const sherd_kernels *variants[3], *fp16_variants[3];
static int n_variants;

static void find_variants(void)
{
    fp16_variants[0] = &sherd__kernels_base[SHERD_KERNELS_FP16];
    variants[n_variants++] = &sherd__kernels_base[SHERD_KERNELS_BF16];
#if defined(SHERD_MODELS_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        fp16_variants[n_variants] = &sherd__kernels_avx2[SHERD_KERNELS_FP16];
        variants[n_variants++] = &sherd__kernels_avx2[SHERD_KERNELS_BF16];
    }
    if (sherd__kernels_choose(SHERD_KERNELS_BF16) == &sherd__kernels_avx512[SHERD_KERNELS_BF16]) {
        fp16_variants[n_variants] = &sherd__kernels_avx512[SHERD_KERNELS_FP16];
        variants[n_variants++] = &sherd__kernels_avx512[SHERD_KERNELS_BF16];
    }
#endif
}

/* Reproducible numbers in (-2, 2). */
static void draw(float *x, int64_t n, uint64_t seed)
{
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(seed >> 11) * 0x1p-51 - 2.0);
    }
}

static void assert_near(double got, double want, double scale)
{
    if (!(fabs(got - want) <= 2e-6 * (scale + fabs(want)))) {
        fail_msg("got %.9g, expected %.9g", got, want);
    }
}

#define FOR_EACH_VARIANT(k)                                                                                            \
    for (int v_ = 0; v_ < n_variants; v_++)                                                                            \
        for (const sherd_kernels *k = variants[v_]; k; k = NULL)

static void halves_follow_the_one_rule(void **state)
{
    (void)state;
    const float special[] = {0.0f,   -0.0f,   INFINITY, -INFINITY, NAN,          -NAN,     1.00390625f,    -1.00390625f,
                             1e-40f, -1e-45f, 3.4e38f,  1.0f,      1.001953125f, 65504.0f, 1.17549435e-38f};
    float x[N + OFFSET], wide[N + OFFSET];
    uint16_t y[N + OFFSET];
    draw(x, N + OFFSET, 1);
    memcpy(x + 20, special, sizeof special);
    FOR_EACH_VARIANT(k)
    {
        for (int64_t n = 0; n <= N; n++) {
            memset(y, 0xAB, sizeof y);
            k->narrow(n, x + OFFSET, y + 1);
            for (int64_t i = 0; i < n; i++) {
                assert_int_equal(y[1 + i], sherd__bf16_of_f32(x[OFFSET + i]));
            }
            assert_int_equal(y[1 + n], 0xABAB);
            wide[n] = 42.0f;
            k->widen(n, y + 1, wide);
            for (int64_t i = 0; i < n; i++) {
                assert_int_equal(sherd__bits_of_f32(wide[i]), (uint32_t)y[1 + i] << 16);
            }
            assert_true(wide[n] == 42.0f);
        }
    }
}

/* Every fp16 is widened, and every fp16, its neighbours in fp32 and the middle between it and the next are narrowed. */
static void fp16_follows_the_one_rule(void **state)
{
    (void)state;
    enum { ALL = 1 << 16, EACH = 6 };
    static uint16_t half[ALL], made[ALL * EACH];
    static float wide[ALL], near[ALL * EACH];
    for (int i = 0; i < ALL; i++) {
        half[i] = (uint16_t)i;
        uint32_t bits = sherd__bits_of_f32(sherd__f32_of_f16((uint16_t)i));
        uint32_t middle = (i & 0x7C00) != 0
                              ? bits + 0x1000u
                              : sherd__bits_of_f32(sherd__f32_of_bits(bits) + (i & 0x8000 ? -0x1p-25f : 0x1p-25f));
        const uint32_t at[EACH] = {bits, bits + 1, bits - 1, middle, middle + 1, middle - 1};
        for (int j = 0; j < EACH; j++) {
            near[i * EACH + j] = sherd__f32_of_bits(at[j]);
        }
    }
    for (int v = 0; v < n_variants; v++) {
        fp16_variants[v]->widen(ALL, half, wide);
        fp16_variants[v]->narrow(ALL * EACH, near, made);
        int wrong = 0;
        for (int i = 0; i < ALL; i++) {
            wrong += sherd__bits_of_f32(wide[i]) != sherd__bits_of_f32(sherd__f32_of_f16((uint16_t)i));
        }
        for (int i = 0; i < ALL * EACH; i++) {
            wrong += made[i] != sherd__f16_of_f32(near[i]);
        }
        assert_int_equal(wrong, 0);
        for (int64_t n = 0; n < 40; n++) { /* odd ends */
            made[n] = 0xABAB;
            fp16_variants[v]->narrow(n, near + OFFSET, made);
            assert_int_equal(made[n], 0xABAB);
            for (int64_t i = 0; i < n; i++) {
                assert_int_equal(made[i], sherd__f16_of_f32(near[OFFSET + i]));
            }
        }
    }
}

static void exp_is_close_to_libm(void **state)
{
    (void)state;
    FOR_EACH_VARIANT(k)
    {
        for (double x = -87.3; x < 88.7; x += 0.0371) {
            float y = (float)x;
            k->exp_sum(1, 1.0f, 0.0f, &y);
            assert_true(fabs(y / exp((double)(float)x) - 1) < 2.4e-7);
        }
        float s[] = {-INFINITY, -1000.0f, INFINITY, 1000.0f, NAN, 0.0f};
        k->exp_sum(6, 1.0f, 0.0f, s);
        assert_true(s[0] == 0 && s[1] == 0 && isinf(s[2]) && isinf(s[3]) && isnan(s[4]) && s[5] == 1);
    }
}

static void reductions_match(void **state)
{
    (void)state;
    float x[N + OFFSET], y[N + OFFSET], e[N + OFFSET];
    draw(x, N + OFFSET, 2);
    draw(y, N + OFFSET, 3);
    FOR_EACH_VARIANT(k)
    {
        for (int64_t n = 1; n <= N; n++) {
            double dot = 0, sum = 0, best = -INFINITY;
            memcpy(e, x, sizeof e);
            for (int64_t i = OFFSET; i < n + OFFSET; i++) {
                dot += (double)x[i] * y[i];
                sum += exp(0.5 * x[i] - 0.25);
                best = fmax(best, x[i]);
            }
            assert_near(k->dot(n, x + OFFSET, y + OFFSET), dot, 10);
            assert_true(k->maximum(n, x + OFFSET) == (float)best);
            assert_near(k->exp_sum(n, 0.5f, 0.25f, e + OFFSET), sum, 1);
            assert_near(e[OFFSET + n - 1], exp(0.5 * x[OFFSET + n - 1] - 0.25), 0);
        }
    }
}

static void norm_matches(void **state)
{
    (void)state;
    float x[N], w[N], dy[N], y[N], dx[N], dw[N], dx0[N], dw0[N];
    draw(x, N, 4), draw(w, N, 5), draw(dy, N, 6), draw(dx0, N, 7), draw(dw0, N, 8);
    FOR_EACH_VARIANT(k)
    {
        for (int64_t n = 1; n <= N; n++) {
            float r = 0.7f;
            double s = 0;
            memcpy(dx, dx0, sizeof dx);
            memcpy(dw, dw0, sizeof dw);
            k->rms_apply(n, r, x, w, y);
            k->rms_backward(n, r, x, w, dy, dx, dw);
            for (int64_t i = 0; i < n; i++) {
                s += (double)w[i] * dy[i] * x[i] * r / (double)n;
            }
            for (int64_t i = 0; i < n; i++) {
                assert_near(y[i], (double)x[i] * r * w[i], 0);
                assert_near(dx[i], dx0[i] + r * ((double)w[i] * dy[i] - (double)x[i] * r * s), 10);
                assert_near(dw[i], dw0[i] + (double)dy[i] * x[i] * r, 10);
            }
        }
    }
}

static void swiglu_and_rope_match(void **state)
{
    (void)state;
    float g[N], u[N], dy[N], y[N], dg[N], du[N], again[N], c[N], s[N], x[2 * N], x0[2 * N];
    draw(g, N, 9), draw(u, N, 10), draw(dy, N, 11), draw(c, N, 12), draw(s, N, 13), draw(x0, 2 * N, 14);
    FOR_EACH_VARIANT(k)
    {
        for (int64_t n = 1; n <= N; n++) {
            k->swiglu(n, g, u, y);
            k->swiglu_backward(n, g, u, dy, dg, du, again);
            memcpy(x, x0, sizeof x);
            k->rope(n, c, s, -1.0f, x);
            for (int64_t i = 0; i < n; i++) {
                double sigmoid = 1 / (1 + exp(-(double)g[i])), silu = g[i] * sigmoid;
                assert_near(y[i], silu * u[i], 1);
                assert_true(y[i] == again[i]);
                assert_near(du[i], dy[i] * silu, 1);
                assert_near(dg[i], (double)dy[i] * u[i] * sigmoid * (1 + g[i] * (1 - sigmoid)), 1);
                assert_near(x[i], (double)x0[i] * c[i] + (double)x0[n + i] * s[i], 4);
                assert_near(x[n + i], (double)x0[n + i] * c[i] - (double)x0[i] * s[i], 4);
            }
        }
    }
}

static void blocks_are_moved_and_turned(void **state)
{
    (void)state;
    static float x[N * N], y[N * N];
    static uint16_t h[N * N];
    draw(x, N * N, 15);
    for (int i = 0; i < N * N; i++) {
        h[i] = sherd__bf16_of_f32(x[i]);
    }
    FOR_EACH_VARIANT(k)
    {
        for (int64_t rows = 1; rows <= N; rows += 5) {
            for (int64_t cols = 1; cols <= N; cols += 3) {
                k->transpose(rows, cols, x, N, y, rows);
                for (int64_t i = 0; i < rows * cols; i++) {
                    assert_true(y[i % cols * rows + i / cols] == x[i / cols * N + i % cols]);
                }
                k->copy_rows(rows, cols, x, N, y, cols);
                for (int64_t i = 0; i < rows * cols; i++) {
                    assert_true(y[i] == x[i / cols * N + i % cols]);
                }
                k->widen_rows(rows, cols, h, N, y, cols);
                for (int64_t i = 0; i < rows * cols; i++) {
                    assert_true(y[i] == sherd__f32_of_bf16(h[i / cols * N + i % cols]));
                }
            }
        }
    }
}

static void tile_gemm_matches(void **state)
{
    (void)state;
    enum { M = 15, K = 33, C = 2 * SHERD_KERNEL_PAD };
    static float a[M * K], b[K * C], c[M * C], c0[M * C];
    draw(a, M * K, 16), draw(b, K * C, 17), draw(c0, M * C, 18);
    FOR_EACH_VARIANT(k)
    {
        for (int turned = 0; turned < 2; turned++) {
            for (int64_t m = 1; m <= M; m++) {
                memcpy(c, c0, sizeof c);
                sherd_tile_gemm g = {.m = m,
                                     .n = C,
                                     .k = K,
                                     .a = a,
                                     .a_row = turned ? 1 : K,
                                     .a_col = turned ? M : 1,
                                     .b = b,
                                     .ldb = C,
                                     .c = c,
                                     .ldc = C,
                                     .beta = m % 2};
                k->gemm(&g);
                for (int64_t i = 0; i < M * C; i++) {
                    double sum = i / C >= m || m % 2 ? c0[i] : 0;
                    for (int64_t l = 0; l < K && i / C < m; l++) {
                        sum += (double)a[i / C * g.a_row + l * g.a_col] * b[l * C + i % C];
                    }
                    assert_near(c[i], sum, 20);
                }
            }
        }
    }
}

typedef struct product_case {
    sherd_matmul mm;
    sherd_dtype in;
    const float *a, *b, *d; /* as the provider sees them */
} product_case;

/* Rounding of a sum of k products in (-4, 4) grows with k at most; a missing product is of the order of 1. */
static void compare_product(const product_case *p)
{
    double scale = 20 + 0.25 * (double)p->mm.k;
    for (int64_t i = 0; i < p->mm.m * p->mm.n; i++) {
        int64_t row = i / p->mm.n, col = i % p->mm.n;
        double sum = p->mm.d ? p->d[i] : 0;
        for (int64_t l = 0; l < p->mm.k; l++) {
            sum += (double)p->a[p->mm.trans_a ? l * p->mm.m + row : row * p->mm.k + l] *
                   (double)p->b[p->mm.trans_b ? col * p->mm.k + l : l * p->mm.n + col];
        }
        if (p->mm.out == SHERD_FP32) {
            assert_near(((const float *)p->mm.c)[i], sum, scale);
        } else {
            double got = float_of(p->in, ((const uint16_t *)p->mm.c)[i]);
            double unit = p->in == SHERD_FP16 ? 0x1.01p-11 : 0x1.01p-8;
            assert_true(fabs(got - sum) <= unit * fabs(sum) + 2e-6 * scale);
        }
    }
}

enum { LARGE = 320 * 700 };

/* Rounds x to the 16-bit type where `type` says so, keeps what the provider will see in x, and returns the storage to
 * hand over.
 */
static const void *stored(float *x, sherd_dtype type, uint16_t *half)
{
    if (type == SHERD_FP32) {
        return x;
    }
    for (int i = 0; i < LARGE; i++) {
        half[i] = half_of(type, x[i]);
        x[i] = float_of(type, half[i]);
    }
    return half;
}

static void compare_provider(sherd_gemm *gemm, sherd_dtype in)
{
    static float a[LARGE], b[LARGE], d[LARGE], c[LARGE];
    static uint16_t ha[LARGE], hb[LARGE], hd[LARGE];
    static const int64_t sizes[][3] = {{1, 1, 1},     {5, 70, 3},     {50, 64, 300},
                                       {97, 530, 65}, {48, 128, 700}, {130, 30, 1}};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int bits = 0; bits < 16; bits++) {
            product_case p = {.in = in, .a = a, .b = b, .d = d};
            sherd_dtype out = bits & 8 ? in : SHERD_FP32;
            draw(a, LARGE, 20 + s), draw(b, LARGE, 21 + s), draw(d, LARGE, 22 + s);
            p.mm = (sherd_matmul){.m = sizes[s][0],
                                  .n = sizes[s][1],
                                  .k = sizes[s][2],
                                  .trans_a = bits & 1,
                                  .trans_b = (bits >> 1) & 1,
                                  .out = out,
                                  .a = stored(a, in, ha),
                                  .b = stored(b, in, hb),
                                  .c = c};
            const void *added = stored(d, out, hd);
            p.mm.d = bits & 4 ? added : NULL;
            assert_int_equal(gemm->matmul(gemm, &p.mm, NULL), SHERD_OK);
            compare_product(&p);
            if (bits & 4) { /* in place: C is D */
                memcpy(c, added, (size_t)(p.mm.m * p.mm.n) * (out == SHERD_FP32 ? 4 : 2));
                p.mm.d = c;
                assert_int_equal(gemm->matmul(gemm, &p.mm, NULL), SHERD_OK);
                compare_product(&p);
            }
        }
    }
}

static void providers_match_three_loops(void **state)
{
    (void)state;
    sherd_device *device;
    sherd_pool *pool;
    sherd_device_options o;
    int compared = 0;
    sherd_device_options_init(&o, sizeof o);
    assert_int_equal(sherd_device_create(&o, &device, NULL), SHERD_OK);
    assert_int_equal(sherd__pool_create(2, &pool, NULL), SHERD_OK);
    for (int which = SHERD_MODEL_GEMM_PORTABLE; which <= SHERD_MODEL_GEMM_ONEDNN; which++) {
        for (int type = SHERD_FP32; type <= SHERD_FP16; type++) {
            sherd_gemm *gemm;
            /* max_kn is small: most products take several blocks */
            sherd_ops_options options = {.dtype = (sherd_dtype)type,
                                         .threads = 2,
                                         .gemm = (sherd_model_gemm)which,
                                         .device = device,
                                         .limits = {.max_k = 700, .max_kn = 700}};
            sherd_status status = sherd__gemm_create(
                &options, sherd__kernels_choose(type == SHERD_FP16 ? SHERD_KERNELS_FP16 : SHERD_KERNELS_BF16), pool,
                &gemm, NULL);
            if (status == SHERD_EUNSUPPORTED && which == SHERD_MODEL_GEMM_ONEDNN) {
                continue;
            }
            assert_int_equal(status, SHERD_OK);
            compare_provider(gemm, (sherd_dtype)type);
            gemm->destroy(gemm);
            compared++;
        }
    }
    assert_true(compared >= 3);
    sherd__pool_destroy(pool);
    sherd_device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_follow_the_one_rule),
        cmocka_unit_test(fp16_follows_the_one_rule),
        cmocka_unit_test(exp_is_close_to_libm),
        cmocka_unit_test(reductions_match),
        cmocka_unit_test(norm_matches),
        cmocka_unit_test(swiglu_and_rope_match),
        cmocka_unit_test(blocks_are_moved_and_turned),
        cmocka_unit_test(tile_gemm_matches),
        cmocka_unit_test(providers_match_three_loops),
    };
    find_variants();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
