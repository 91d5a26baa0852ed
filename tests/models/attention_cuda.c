/* SPDX-License-Identifier: MIT
 *
 * Attention's CUDA kernels, on the emulator of a thread block (tests/support/cuda_stub/simt.h), against sums in double
 * precision over exactly the values they were given. What the emulator cannot show is how nvcc's code behaves on a GPU.
 *
 * Bounds. With u = 2^-24 and, for bf16, h = 2^-8 (half a unit of a rounding), each result is a sum of products, and its
 * error at most the sum of
 *   - (terms + 16) · u of the sum of the terms' absolute values, for adding in fp32 in any order;
 *   - delta of that sum, where delta bounds the relative error of a weight exp(scale · q·k − lse): twice the error of
 * the score in fp32, (dim + 16) · u · scale · Σ|q||k| at most, and of scaling and subtracting it;
 *   - h of that sum where weights or slopes are rounded to bf16 for a tensor core;
 *   - h (u in fp32) of the result itself, for storing it.
 * Backward is checked as a function of what it reads, which includes out and lse as forward left them.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "models/attention_cuda.h"
#include "tests/support/cuda_stub/simt_control.h"
#include "tests/support/cuda_stub/stub.h"

enum { Q, K, V, OUT, LSE, DOUT, DQ, DK, DV, SCRATCH, ARRAYS };
enum { GUARD = 64 };

typedef struct problem {
    sherd_dtype dtype;
    sherd_attention a;
    size_t elems[ARRAYS], bytes[ARRAYS];
    unsigned char *array[ARRAYS];
} problem;

static cudaStream_t stream;

static int setup(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    simt_seed(0);
    return cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return cudaStreamDestroy(stream) == cudaSuccess ? 0 : -1;
}

static void wait(void)
{
    const struct timespec pause = {0, 50000};
    for (int i = 0; cudaStreamQuery(stream) == cudaErrorNotReady; i++) {
        assert_true(i < 1000000);
        nanosleep(&pause, NULL);
    }
}

/* ---------------------------------------------------------------------------------------------------------- problems
 */

static float widened(uint16_t bits)
{
    uint32_t wide = (uint32_t)bits << 16;
    float x;
    memcpy(&x, &wide, sizeof x);
    return x;
}

static double get(const problem *p, int array, int64_t i)
{
    if (array == LSE || p->dtype == SHERD_FP32)
        return ((const float *)p->array[array])[i];
    return widened(((const uint16_t *)p->array[array])[i]);
}

static void draw(problem *p, int array, uint64_t seed, double range)
{
    for (size_t i = 0; i < p->elems[array]; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        float x = (float)(((double)(seed >> 33) / 1073741824.0 - 1.0) * range);
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        if (p->dtype == SHERD_FP32)
            ((float *)p->array[array])[i] = x;
        else
            ((uint16_t *)p->array[array])[i] = (uint16_t)(bits >> 16);
    }
}

static int own_bytes(sherd_dtype dtype, int array)
{
    return dtype == SHERD_FP32 || array == LSE || array == SCRATCH ? 4 : 2;
}

/* Results begin as NaNs, and guards behind each array as 0xFF. */
static void forget(problem *p, int first, int last)
{
    for (int i = first; i <= last; i++)
        memset(p->array[i], 0xFF, p->bytes[i] + GUARD);
}

static void make(problem *p, sherd_dtype dtype, int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads,
                 int64_t dim)
{
    size_t many = (size_t)(batch * seq * heads * dim), few = (size_t)(batch * seq * kv_heads * dim);
    size_t rows = (size_t)(batch * heads * seq);
    *p = (problem){.dtype = dtype, .a = {.batch = batch, .seq = seq, .heads = heads, .kv_heads = kv_heads, .dim = dim}};
    const size_t elems[ARRAYS] = {many, few,  few, many, rows,
                                  many, many, few, few,  (size_t)sherd__attention_cuda_scratch(dtype, &p->a) / 4};
    for (int i = 0; i < ARRAYS; i++) {
        p->elems[i] = elems[i];
        p->bytes[i] = elems[i] * (size_t)own_bytes(dtype, i);
        void *at;
        assert_int_equal(posix_memalign(&at, 64, p->bytes[i] + GUARD), 0);
        p->array[i] = at;
    }
    forget(p, 0, ARRAYS - 1);
    draw(p, Q, 1 + (uint64_t)seq, 2), draw(p, K, 2 + (uint64_t)seq, 2), draw(p, V, 3 + (uint64_t)seq, 2);
    draw(p, DOUT, 4 + (uint64_t)seq, 2);
    p->a.q = p->array[Q], p->a.k = p->array[K], p->a.v = p->array[V], p->a.out = p->array[OUT];
    p->a.lse = (float *)p->array[LSE], p->a.dout = p->array[DOUT];
    p->a.dq = p->array[DQ], p->a.dk = p->array[DK], p->a.dv = p->array[DV];
}

static void drop(problem *p)
{
    for (int i = 0; i < ARRAYS; i++) {
        for (int b = 0; b < GUARD; b++)
            assert_int_equal(p->array[i][p->bytes[i] + (size_t)b], 0xFF);
        free(p->array[i]);
    }
}

static void run(problem *p, uint64_t seed)
{
    sherd_error err = {0};
    simt_seed(seed);
    forget(p, OUT, LSE);
    forget(p, DQ, SCRATCH);
    if (sherd__attention_cuda_prepare(p->dtype, &p->a, &err) != SHERD_OK ||
        sherd__attention_cuda_forward(stream, p->dtype, &p->a, &err) != SHERD_OK ||
        sherd__attention_cuda_backward(stream, p->dtype, &p->a, p->array[SCRATCH], &err) != SHERD_OK)
        fail_msg("%s", err.text);
    wait();
}

/* --------------------------------------------------------------------------------------------------------- reference
 */

static const double unit = 0x1p-24;

/* One head's results, with the sum of absolute values and the bound of each; rows of dim. */
typedef struct reference {
    const problem *p;
    int64_t batch, head, kv_head;
    int64_t shift; /* of the mask: 0 is right */
    double scale, weight_error, rounding, storing;
} reference;

static int64_t at(const reference *r, int array, int64_t position, int64_t d)
{
    const sherd_attention *a = &r->p->a;
    int64_t heads = array == K || array == V || array == DK || array == DV ? a->kv_heads : a->heads;
    int64_t head = heads == a->kv_heads && heads != a->heads ? r->kv_head : r->head;
    return ((r->batch * a->seq + position) * heads + head) * a->dim + d;
}

static double element(const reference *r, int array, int64_t position, int64_t d)
{
    return get(r->p, array, at(r, array, position, d));
}

static int visible(const reference *r, int64_t query, int64_t key)
{
    return key <= query + r->shift;
}

/* Σ x·y of two rows; *sum takes the absolute values. */
static double dot(const reference *r, int x, int64_t i, int y, int64_t j, double *sum)
{
    double value = 0, size = 0;
    for (int64_t d = 0; d < r->p->a.dim; d++) {
        double term = element(r, x, i, d) * element(r, y, j, d);
        value += term;
        size += fabs(term);
    }
    *sum = size;
    return value;
}

static double lse_of(const reference *r, int64_t query)
{
    return get(r->p, LSE, (r->batch * r->p->a.heads + r->head) * r->p->a.seq + query);
}

/* The relative error of a weight whose score's terms sum to `size` in absolute value; |lse| too is at most of that
 * order. */
static double weight_error(const reference *r, double size, double score, double lse)
{
    double dim = (double)r->p->a.dim;
    return 2 * ((dim + 16) * unit * r->scale * size + 4 * unit * (fabs(score) + fabs(lse)) + 16 * unit);
}

typedef struct tally {
    int64_t compared, missed;
    double worst; /* error over bound */
} tally;

static void compare(tally *t, double got, double want, double bound)
{
    double ratio = fabs(got - want) / bound;
    t->compared++;
    t->missed += !(ratio <= 1);
    if (!(ratio <= t->worst))
        t->worst = ratio;
}

static double adding(const reference *r, int64_t terms)
{
    return (double)(terms + 16) * unit + r->rounding;
}

static void check_row(const reference *r, int64_t query, tally *t)
{
    const sherd_attention *a = &r->p->a;
    int64_t n = query + r->shift + 1;
    n = n < 1 ? 1 : n > a->seq ? a->seq : n;
    double *score = calloc((size_t)n, sizeof *score), top = -INFINITY, total = 0, error = 0;
    for (int64_t j = 0; j < n; j++) {
        double size;
        score[j] = r->scale * dot(r, Q, query, K, j, &size);
        top = fmax(top, score[j]);
        error = fmax(error, weight_error(r, size, score[j], top));
    }
    for (int64_t j = 0; j < n; j++)
        total += exp(score[j] - top);
    double lse = top + log(total);
    compare(t, lse_of(r, query), lse, error + (double)(n + 16) * unit + 4 * unit * fabs(lse));
    for (int64_t d = 0; d < a->dim; d++) {
        double sum = 0, size = 0;
        for (int64_t j = 0; j < n; j++) {
            double term = exp(score[j] - lse) * element(r, V, j, d);
            sum += term;
            size += fabs(term);
        }
        compare(t, element(r, OUT, query, d), sum, (adding(r, 2 * n) + 2 * error) * size + r->storing * fabs(sum));
    }
    free(score);
}

/* Weights and slopes of one head with their bounds: [query][key]. */
typedef struct slopes {
    double *p, *p_error, *ds, *ds_error;
} slopes;

static void fill_slopes(const reference *r, slopes *s)
{
    const sherd_attention *a = &r->p->a;
    for (int64_t i = 0; i < a->seq; i++) {
        double out_size, delta = dot(r, DOUT, i, OUT, i, &out_size), lse = lse_of(r, i);
        for (int64_t j = 0; j < a->seq; j++) {
            int64_t x = i * a->seq + j;
            double size, dp_size, score = r->scale * dot(r, Q, i, K, j, &size), dp = dot(r, DOUT, i, V, j, &dp_size);
            double error = weight_error(r, size, score, lse), p = visible(r, i, j) ? exp(score - lse) : 0;
            s->p[x] = p;
            s->p_error[x] = p * (error + r->rounding);
            s->ds[x] = p * (dp - delta);
            s->ds_error[x] =
                (error + r->rounding) * fabs(s->ds[x]) + 1.01 * p * (double)(a->dim + 16) * unit * (dp_size + out_size);
        }
    }
}

/* result[row][d] = factor · Σ over columns of weight · array[column][d], over all heads of `heads` slopes. */
static void check_product(const reference *heads, const slopes *s, int n_heads, int by_key, int use_ds, int from,
                          int result, tally *t)
{
    const sherd_attention *a = &heads->p->a;
    double factor = use_ds ? heads->scale : 1;
    for (int64_t row = 0; row < a->seq; row++) {
        for (int64_t d = 0; d < a->dim; d++) {
            double sum = 0, size = 0, error = 0;
            for (int h = 0; h < n_heads; h++) {
                const double *w = use_ds ? s[h].ds : s[h].p, *e = use_ds ? s[h].ds_error : s[h].p_error;
                for (int64_t column = 0; column < a->seq; column++) {
                    int64_t x = by_key ? column * a->seq + row : row * a->seq + column;
                    double y = element(&heads[h], from, column, d);
                    sum += w[x] * y;
                    size += fabs(w[x] * y);
                    error += e[x] * fabs(y);
                }
            }
            double bound = 1.01 * error + (double)(a->seq * n_heads + 16) * unit * size + heads->storing * fabs(sum);
            compare(t, element(heads, result, row, d), factor * sum, factor * bound + 1e-30);
        }
    }
}

static reference reference_of(const problem *p, int64_t batch, int64_t head, int64_t shift)
{
    int half = p->dtype == SHERD_BF16;
    return (reference){.p = p,
                       .batch = batch,
                       .head = head,
                       .kv_head = head / (p->a.heads / p->a.kv_heads),
                       .shift = shift,
                       .scale = 1 / sqrt((double)p->a.dim),
                       .rounding = half ? 0x1.01p-8 : 0,
                       .storing = half ? 0x1.01p-8 : 2 * unit};
}

static void check_group(const problem *p, int64_t batch, int64_t kv_head, int64_t shift, tally *forward,
                        tally *backward)
{
    enum { MOST = 8 };
    reference r[MOST] = {0};
    slopes s[MOST] = {0};
    int group = (int)(p->a.heads / p->a.kv_heads);
    size_t n = (size_t)(p->a.seq * p->a.seq);
    assert_true(group <= MOST);
    for (int h = 0; h < group; h++) {
        r[h] = reference_of(p, batch, kv_head * group + h, shift);
        double *block = calloc(4 * n, sizeof *block);
        assert_non_null(block);
        s[h] = (slopes){block, block + n, block + 2 * n, block + 3 * n};
        for (int64_t query = 0; query < p->a.seq; query++)
            check_row(&r[h], query, forward);
        fill_slopes(&r[h], &s[h]);
        check_product(&r[h], &s[h], 1, 0, 1, K, DQ, backward);
    }
    check_product(r, s, group, 1, 0, DOUT, DV, backward);
    check_product(r, s, group, 1, 1, Q, DK, backward);
    for (int h = 0; h < group; h++)
        free(s[h].p);
}

static void check(const problem *p, int64_t shift, tally *forward, tally *backward)
{
    for (int64_t batch = 0; batch < p->a.batch; batch++)
        for (int64_t head = 0; head < p->a.kv_heads; head++)
            check_group(p, batch, head, shift, forward, backward);
}

/* ------------------------------------------------------------------------------------------------------------- tests
 */

static const int64_t head_counts[][2] = {{1, 1}, {4, 2}, {6, 1}};
static const int64_t lengths[] = {1, 7, 63, 64, 65, 130};

static void assert_right(sherd_dtype dtype, int64_t batch, int64_t seq, const int64_t heads[2], int64_t dim)
{
    problem p;
    tally forward = {0}, backward = {0};
    make(&p, dtype, batch, seq, heads[0], heads[1], dim);
    run(&p, 0);
    check(&p, 0, &forward, &backward);
    if (forward.missed || backward.missed)
        fail_msg("type %d, batch %d, seq %d, heads %d/%d, dim %d: %d and %d values beyond their bounds, by %g and %g",
                 (int)dtype, (int)batch, (int)seq, (int)heads[0], (int)heads[1], (int)dim, (int)forward.missed,
                 (int)backward.missed, forward.worst, backward.worst);
    assert_int_equal(forward.compared, batch * heads[0] * seq * (dim + 1));
    assert_int_equal(backward.compared, batch * (heads[0] + 2 * heads[1]) * seq * dim);
    drop(&p);
}

/* Every length with every count of heads where `all`, else with one of them. */
static void over_shapes(sherd_dtype dtype, int64_t dim, int all)
{
    for (size_t h = 0; h < sizeof head_counts / sizeof *head_counts; h++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            if ((all && lengths[l] < 100) || h == (l + (size_t)dim) % 3)
                assert_right(dtype, lengths[l] < 10 ? 3 : 1, lengths[l], head_counts[h], dim);
}

static void tensor_cores_32(void **state)
{
    (void)state;
    over_shapes(SHERD_BF16, 32, 0);
}

static void tensor_cores_64(void **state)
{
    (void)state;
    over_shapes(SHERD_BF16, 64, 1);
}

static void tensor_cores_128(void **state)
{
    (void)state;
    over_shapes(SHERD_BF16, 128, 0);
}

static void tensor_cores_between(void **state)
{
    static const int64_t dims[] = {8, 24, 40, 80, 96, 120};
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        assert_right(SHERD_BF16, 2, 70, head_counts[1], dims[i]);
}

static void plain_fp32(void **state)
{
    static const int64_t dims[] = {1, 5, 32, 64, 128, 256};
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
            if (i == 3 || lengths[l] < 65)
                assert_right(SHERD_FP32, 1, lengths[l], head_counts[(i + l) % 3], dims[i]);
}

static void plain_bf16(void **state)
{
    static const int64_t dims[] = {1, 20, 65, 132, 256};
    (void)state;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++)
        assert_right(SHERD_BF16, 2, 37, head_counts[1], dims[i]);
}

/* A mask one too wide or too narrow is far beyond the bounds. */
static void a_wrong_mask_is_found(void **state)
{
    static const sherd_dtype types[] = {SHERD_BF16, SHERD_FP32};
    (void)state;
    for (int type = 0; type < 2; type++) {
        for (int64_t shift = -1; shift <= 1; shift += 2) {
            problem p;
            tally forward = {0}, backward = {0};
            make(&p, types[type], 1, 40, 2, 1, 64);
            run(&p, 0);
            check(&p, shift, &forward, &backward);
            assert_true(forward.missed > forward.compared / 3);
            assert_true(backward.missed > backward.compared / 3);
            drop(&p);
        }
    }
}

/* Runs and orders of execution give the same bits. */
static void assert_same_bits(sherd_dtype dtype, int64_t seq, const int64_t heads[2], int64_t dim)
{
    problem first, again;
    make(&first, dtype, 2, seq, heads[0], heads[1], dim);
    make(&again, dtype, 2, seq, heads[0], heads[1], dim);
    run(&first, 0);
    for (uint64_t seed = 0; seed < 4; seed++) {
        run(&again, seed);
        for (int i = OUT; i < ARRAYS; i++)
            assert_memory_equal(first.array[i], again.array[i], first.bytes[i]);
    }
    drop(&first);
    drop(&again);
}

static void every_order_gives_the_same_bits(void **state)
{
    (void)state;
    assert_same_bits(SHERD_BF16, 65, head_counts[1], 32);
    assert_same_bits(SHERD_BF16, 130, head_counts[0], 64);
    assert_same_bits(SHERD_BF16, 50, head_counts[0], 128);
    assert_same_bits(SHERD_BF16, 20, head_counts[1], 20);
    assert_same_bits(SHERD_FP32, 40, head_counts[1], 16);
}

/* Scores so large that only the running maximum keeps them finite, and rows that see one key only with weight. */
static void large_scores_stay_finite(void **state)
{
    (void)state;
    for (int type = 0; type < 2; type++) {
        problem p;
        tally forward = {0}, backward = {0};
        make(&p, type ? SHERD_FP32 : SHERD_BF16, 1, 70, 1, 1, 64);
        draw(&p, Q, 11, 40);
        draw(&p, K, 12, 40);
        run(&p, 0);
        check(&p, 0, &forward, &backward);
        assert_int_equal(forward.missed + backward.missed, 0);
        drop(&p);
    }
}

static void refusals_say_why(void **state)
{
    sherd_error err = {0};
    sherd_attention a = {.batch = 1, .seq = 8, .heads = 4, .kv_heads = 2, .dim = 257};
    (void)state;
    assert_int_equal(sherd__attention_cuda_prepare(SHERD_BF16, &a, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "1 to 256 dimensions, not of 257"));
    a.dim = 64;
    assert_int_equal(sherd__attention_cuda_prepare(SHERD_FP16, &a, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "fp32 or bf16 only"));
    a.kv_heads = 3;
    assert_int_equal(sherd__attention_cuda_forward(stream, SHERD_BF16, &a, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "key-value heads, 3, must divide heads"));
    a.kv_heads = 2, a.seq = (int64_t)1 << 29, a.batch = 64;
    assert_int_equal(sherd__attention_cuda_backward(stream, SHERD_BF16, &a, NULL, &err), SHERD_EUNSUPPORTED);
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
    make(&p, SHERD_BF16, 1, 8, 1, 1, 64);
    assert_int_equal(sherd__attention_cuda_prepare(p.dtype, &p.a, &err), SHERD_OK);
    for (uint64_t nth = 1; nth <= 3; nth++) {
        cuda_stub_fail_call("cudaLaunchKernel", nth, cudaErrorLaunchFailure);
        assert_int_equal(sherd__attention_cuda_backward(stream, p.dtype, &p.a, p.array[SCRATCH], &err), SHERD_EDEVICE);
        assert_non_null(strstr(err.text, "attention on CUDA, backward (heads of 64 dimensions): "));
    }
    cuda_stub_fail_call("cudaLaunchKernel", 1, cudaErrorLaunchFailure);
    assert_int_equal(sherd__attention_cuda_forward(stream, p.dtype, &p.a, &err), SHERD_EDEVICE);
    wait();
    drop(&p);
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
        cmocka_unit_test_setup_teardown(tensor_cores_32, setup, teardown),
        cmocka_unit_test_setup_teardown(tensor_cores_64, setup, teardown),
        cmocka_unit_test_setup_teardown(tensor_cores_128, setup, teardown),
        cmocka_unit_test_setup_teardown(tensor_cores_between, setup, teardown),
        cmocka_unit_test_setup_teardown(plain_fp32, setup, teardown),
        cmocka_unit_test_setup_teardown(plain_bf16, setup, teardown),
        cmocka_unit_test_setup_teardown(a_wrong_mask_is_found, setup, teardown),
        cmocka_unit_test_setup_teardown(every_order_gives_the_same_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(large_scores_stay_finite, setup, teardown),
        cmocka_unit_test_setup_teardown(refusals_say_why, setup, teardown),
        cmocka_unit_test_setup_teardown(each_launch_may_fail, setup, teardown),
        cmocka_unit_test_setup_teardown(fits_the_smallest_gpu, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
