/* SPDX-License-Identifier: MIT
 *
 * Every op of the CUDA table, its kernels run by the emulator, beside the host's op on the same values: odd and even
 * sizes, so that wide and narrow accesses both run, both types. Bounds: both sides compute in fp32 and differ in the
 * order of sums, so fp32 results agree to a few roundings of the largest value; 16-bit results to one unit in the last
 * place of their type, 2^-7 of the value in bf16, 2^-10 in fp16, where that difference crosses a rounding boundary.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "models/ops.h"
#include "tests/models/cuda_copy.h"
#include "tests/models/half.h"
#include "tests/support/cublaslt_stub/cublaslt_stub.h"
#include "tests/support/cuda_stub/simt_control.h"

enum { HOST, GPU, SIDES, MAX_ARRAYS = 16, RAW = -1 };

/* The same array on both sides. */
typedef struct array {
    void *side[SIDES];
    int64_t n;
    int type; /* a sherd_dtype, or RAW: bytes */
} array;

typedef struct pair {
    sherd_dtype dtype;
    sherd_device *device[SIDES];
    sherd_ops *ops[SIDES];
    array arrays[MAX_ARRAYS];
    int n;
    uint64_t random;
} pair;

static void good(sherd_status status, const sherd_error *err)
{
    if (status != SHERD_OK) {
        fail_msg("%s: %s", sherd_status_name(status), err->text);
    }
}

static void open_pair(pair *p, sherd_dtype dtype)
{
    sherd_error err = {0};
    *p = (pair){.dtype = dtype, .random = 1234567};
    for (int s = 0; s < SIDES; s++) {
        sherd_device_options options;
        sherd_device_options_init(&options, sizeof options);
        options.kind = s == GPU ? SHERD_DEVICE_CUDA : SHERD_DEVICE_HOST;
        good(sherd_device_create(&options, &p->device[s], &err), &err);
        sherd_ops_options o = {
            .dtype = dtype, .threads = 1, .kind = options.kind, .device = p->device[s], .fail_after_s = 60};
        o.gemm = s == GPU ? SHERD_MODEL_GEMM_AUTO : SHERD_MODEL_GEMM_PORTABLE;
        o.limits = (sherd_ops_limits){.row_elems = 4096,
                                      .batch = 3,
                                      .seq = 64,
                                      .heads = 4,
                                      .kv_heads = 2,
                                      .dim = 32,
                                      .max_k = 512,
                                      .max_kn = 512 * 512};
        good(sherd__ops_create(&o, &p->ops[s], &err), &err);
    }
}

static void *gpu_alloc(pair *p, size_t bytes)
{
    void *block = NULL;
    sherd_error err = {0};
    good(sherd_device_alloc(p->device[GPU], bytes, SHERD_CAT_WORKSPACE, &block, &err), &err);
    return block;
}

static void forget(pair *p)
{
    for (int i = 0; i < p->n; i++) {
        free(p->arrays[i].side[HOST]);
        sherd_device_free(p->device[GPU], p->arrays[i].side[GPU]);
    }
    p->n = 0;
}

static void close_pair(pair *p)
{
    forget(p);
    for (int s = 0; s < SIDES; s++) {
        p->ops[s]->destroy(p->ops[s]);
        sherd_device_destroy(p->device[s]);
    }
    assert_int_equal(cublaslt_stub_alive(), 0);
    assert_int_equal(cuda_left_alive(), 0);
}

static float uniform(pair *p) /* −1 … 1 */
{
    p->random = p->random * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(p->random >> 33) / (double)(1u << 30) - 1.0);
}

static size_t bytes_of(const array *a)
{
    return (size_t)a->n * (a->type == RAW ? 1 : sherd_dtype_bytes((sherd_dtype)a->type));
}

static array *add_bytes(pair *p, const void *data, size_t bytes)
{
    array *a = &p->arrays[p->n++];
    assert_true(p->n <= MAX_ARRAYS);
    *a = (array){.n = (int64_t)bytes, .type = RAW};
    a->side[HOST] = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memcpy(a->side[HOST], data, bytes);
    a->side[GPU] = gpu_alloc(p, bytes);
    p->ops[GPU]->upload(p->ops[GPU], a->side[GPU], data, bytes);
    return a;
}

/* Random values of the type in centre ± spread. */
static array *add(pair *p, int64_t n, sherd_dtype type, float centre, float spread)
{
    float *values = malloc((size_t)n * sizeof *values);
    uint16_t *half = malloc((size_t)n * sizeof *half);
    for (int64_t i = 0; i < n; i++) {
        values[i] = centre + spread * uniform(p);
        half[i] = half_of(type, values[i]);
    }
    array *a = add_bytes(p, type == SHERD_FP32 ? (void *)values : half, (size_t)n * sherd_dtype_bytes(type));
    a->n = n;
    a->type = type;
    free(half);
    free(values);
    return a;
}

static double value(const array *a, const void *data, int64_t i)
{
    return a->type == SHERD_FP32 ? (double)((const float *)data)[i]
                                 : float_of((sherd_dtype)a->type, ((const uint16_t *)data)[i]);
}

static void *fetch(pair *p, const array *a)
{
    sherd_error err = {0};
    void *data = malloc(bytes_of(a));
    p->ops[GPU]->download(p->ops[GPU], data, a->side[GPU], bytes_of(a));
    good(p->ops[GPU]->settle(p->ops[GPU], &err), &err);
    return data;
}

/* `slack`: of the largest value, beside the 16-bit type's unit in the last place. */
static void assert_close(pair *p, const array *a, double slack, const char *what)
{
    void *data = fetch(p, a);
    double largest = 0, worst = 0;
    int64_t at = -1;
    for (int64_t i = 0; i < a->n; i++) {
        largest = fmax(largest, fabs(value(a, a->side[HOST], i)));
    }
    for (int64_t i = 0; i < a->n; i++) {
        double x = value(a, a->side[HOST], i), y = value(a, data, i);
        double allowed = slack * largest + (a->type == SHERD_FP32   ? 0
                                            : a->type == SHERD_BF16 ? 0x1p-7 * fabs(x)
                                                                    : 0x1p-10 * fabs(x) + 0x1p-24);
        double over = fabs(x - y) / (allowed > 0 ? allowed : 1e-300);
        if (!(over <= 1.0) && !(over < worst)) {
            worst = over;
            at = i;
        }
    }
    if (at >= 0) {
        fail_msg("%s: element %lld of %lld is %.9g, on the host %.9g", what, (long long)at, (long long)a->n,
                 value(a, data, at), value(a, a->side[HOST], at));
    }
    assert_true(largest > 0);
    free(data);
}

static void assert_same(pair *p, const array *a)
{
    void *data = fetch(p, a);
    assert_memory_equal(data, a->side[HOST], bytes_of(a));
    free(data);
}

/* ---------------------------------------------------------------------------------------------------------------- norm
 */

static void check_norm(pair *p, int64_t rows, int64_t cols, int clear, int beta, sherd_dtype dw_type)
{
    array *x = add(p, rows * cols, p->dtype, 0.1f, 1), *w = add(p, cols, p->dtype, 1, 0.5f);
    array *y = add(p, rows * cols, p->dtype, 9, 0), *rstd = add(p, rows, SHERD_FP32, 9, 0);
    array *dy = add(p, rows * cols, SHERD_FP32, 0, 1), *dx = add(p, rows * cols, p->dtype, 0, 1);
    array *partials = add(p, (rows + SHERD_NORM_ROWS - 1) / SHERD_NORM_ROWS * cols, SHERD_FP32, 9, 0);
    array *dw = add(p, cols, dw_type, 0.5f, 1);
    for (int s = 0; s < SIDES; s++) {
        sherd_rmsnorm a = {.rows = rows,
                           .cols = cols,
                           .eps = 1e-5f,
                           .x = x->side[s],
                           .w = w->side[s],
                           .y = y->side[s],
                           .rstd = rstd->side[s],
                           .dy = dy->side[s],
                           .dx = dx->side[s],
                           .partials = partials->side[s],
                           .dw = dw->side[s],
                           .dw_type = dw_type,
                           .dw_beta = beta,
                           .dx_clear = clear};
        p->ops[s]->rmsnorm(p->ops[s], &a);
        p->ops[s]->rmsnorm_backward(p->ops[s], &a);
    }
    assert_close(p, y, 1e-6, "norm");
    assert_close(p, rstd, 1e-6, "norm's statistics");
    assert_close(p, dx, 2e-6, "norm's dx");
    assert_close(p, dw, 4e-6, "norm's dw");
    forget(p);
}

static void norms(void **state)
{
    static const int64_t shapes[][2] = {{2, 5}, {3, 7}, {33, 48}, {70, 264}, {5, 2056}, {64, 31}};
    (void)state;
    for (int type = SHERD_FP32; type <= SHERD_FP16; type++) {
        pair p;
        int n = 0;
        open_pair(&p, (sherd_dtype)type);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++, n++) {
            check_norm(&p, shapes[i][0], shapes[i][1], i % 2 == 0, 0, SHERD_FP32);
            check_norm(&p, shapes[i][0], shapes[i][1], i % 2 == 1, 1, p.dtype);
        }
        assert_int_equal(n, 6);
        close_pair(&p);
    }
}

/* --------------------------------------------------------------------------------------------------- element by
 * element
 */

static void fill_table(float *table, int64_t seq, int64_t dim)
{
    for (int64_t t = 0; t < seq; t++) {
        for (int64_t i = 0; i < dim / 2; i++) {
            table[t * dim + i] = (float)cos((double)t / (double)(i + 1));
            table[t * dim + dim / 2 + i] = (float)sin((double)t / (double)(i + 1));
        }
    }
}

static void check_rope(pair *p, int64_t batch, int64_t seq, int64_t heads, int64_t dim, int backward)
{
    float *angles = malloc((size_t)(seq * dim) * sizeof *angles);
    fill_table(angles, seq, dim);
    array *table = add_bytes(p, angles, (size_t)(seq * dim) * sizeof *angles);
    array *x = add(p, batch * seq * heads * dim, p->dtype, 0, 1);
    for (int s = 0; s < SIDES; s++) {
        p->ops[s]->rope(p->ops[s], &(sherd_rope){.batch = batch,
                                                 .seq = seq,
                                                 .heads = heads,
                                                 .dim = dim,
                                                 .table = table->side[s],
                                                 .backward = backward,
                                                 .x = x->side[s]});
    }
    assert_close(p, x, 3e-7, "rope");
    free(angles);
    forget(p);
}

static void check_swiglu(pair *p, int64_t n)
{
    array *gate = add(p, n, p->dtype, 0, 8), *up = add(p, n, p->dtype, 0, 2), *out = add(p, n, p->dtype, 9, 0);
    array *dout = add(p, n, p->dtype, 0, 1);
    for (int s = 0; s < SIDES; s++) {
        p->ops[s]->swiglu(p->ops[s],
                          &(sherd_swiglu){.elems = n, .gate = gate->side[s], .up = up->side[s], .out = out->side[s]});
    }
    assert_close(p, out, 1e-6, "swiglu");
    for (int s = 0; s < SIDES; s++) { /* in place, as the decoder calls it */
        p->ops[s]->swiglu_backward(p->ops[s], &(sherd_swiglu){.elems = n,
                                                              .gate = gate->side[s],
                                                              .up = up->side[s],
                                                              .out = dout->side[s],
                                                              .dout = dout->side[s],
                                                              .dgate = gate->side[s],
                                                              .dup = up->side[s]});
    }
    assert_close(p, dout, 1e-6, "swiglu again");
    assert_close(p, gate, 1e-6, "swiglu's dgate");
    assert_close(p, up, 1e-6, "swiglu's dup");
    forget(p);
}

static void check_narrow(pair *p, int64_t n, sherd_dtype type, int beta)
{
    array *x = add(p, n, SHERD_FP32, 0, 3), *y = add(p, n, type, 0, 3);
    for (int s = 0; s < SIDES; s++) {
        p->ops[s]->narrow(p->ops[s], n, x->side[s], y->side[s], type, beta);
    }
    assert_same(p, y);
    forget(p);
}

static void elements(void **state)
{
    (void)state;
    for (int type = SHERD_FP32; type <= SHERD_FP16; type++) {
        pair p;
        sherd_dtype half = type == SHERD_FP16 ? SHERD_FP16 : SHERD_BF16; /* a model knows one 16-bit type */
        open_pair(&p, (sherd_dtype)type);
        for (int backward = 0; backward < 2; backward++) {
            check_rope(&p, 2, 5, 3, 64, backward);
            check_rope(&p, 1, 9, 2, 6, backward);
            check_rope(&p, 3, 1, 1, 32, backward);
        }
        check_swiglu(&p, 1);
        check_swiglu(&p, 777);
        check_swiglu(&p, 4096);
        for (int beta = 0; beta < 2; beta++) {
            check_narrow(&p, 1, half, beta);
            check_narrow(&p, 2048, half, beta);
            check_narrow(&p, 1001, SHERD_FP32, beta);
            check_narrow(&p, 512, SHERD_FP32, beta);
        }
        close_pair(&p);
    }
}

/* ----------------------------------------------------------------------------------------------------------- embedding
 */

static void check_embedding(pair *p, int64_t rows, int64_t cols, int64_t vocab, int beta, sherd_dtype grad_type)
{
    int32_t *ids = malloc((size_t)rows * sizeof *ids), *zeros = calloc((size_t)(rows + 2 * vocab + 1), sizeof *zeros);
    for (int64_t i = 0; i < rows; i++) { /* most rows share few tokens; some tokens have none */
        ids[i] = (int32_t)((int64_t)((uniform(p) + 1) * 0.49f * (float)vocab) / (i % 3 + 1));
    }
    array *tokens = add_bytes(p, ids, (size_t)rows * sizeof *ids);
    array *order = add_bytes(p, zeros, (size_t)(rows + 2 * vocab + 1) * sizeof *zeros);
    array *weights = add(p, vocab * cols, p->dtype, 0, 1), *out = add(p, rows * cols, p->dtype, 9, 0);
    array *dx = add(p, rows * cols, p->dtype, 0, 1), *dtable = add(p, vocab * cols, grad_type, 0.5f, 1);
    for (int s = 0; s < SIDES; s++) {
        sherd_embedding a = {.rows = rows,
                             .cols = cols,
                             .vocab = vocab,
                             .tokens = tokens->side[s],
                             .table = weights->side[s],
                             .out = out->side[s],
                             .dx = dx->side[s],
                             .order = order->side[s],
                             .dtable = dtable->side[s],
                             .dtable_type = grad_type,
                             .beta = beta};
        p->ops[s]->embedding(p->ops[s], &a);
        p->ops[s]->embedding_backward(p->ops[s], &a);
    }
    assert_same(p, out);
    assert_close(p, dtable, 2e-6, "embedding's gradient");
    free(zeros);
    free(ids);
    forget(p);
}

static void embeddings(void **state)
{
    (void)state;
    for (int type = SHERD_FP32; type <= SHERD_FP16; type++) {
        pair p;
        open_pair(&p, (sherd_dtype)type);
        for (int beta = 0; beta < 2; beta++) {
            check_embedding(&p, 1, 5, 3, beta, SHERD_FP32);
            check_embedding(&p, 300, 24, 40, beta, p.dtype);
            check_embedding(&p, 77, 9, 300, beta, p.dtype);
            check_embedding(&p, 513, 16, 2, beta, SHERD_FP32);
        }
        close_pair(&p);
    }
}

/* ------------------------------------------------------------------------------------------------------- cross-entropy
 */

static void check_xent(pair *p, int64_t rows, int64_t vocab, float spread, int train)
{
    int32_t *ids = malloc((size_t)rows * sizeof *ids);
    for (int64_t i = 0; i < rows; i++) {
        ids[i] = (int32_t)((uniform(p) + 1) * 0.49f * (float)vocab);
    }
    array *targets = add_bytes(p, ids, (size_t)rows * sizeof *ids),
          *logits = add(p, rows * vocab, SHERD_FP32, 3, spread);
    array *dlogits = p->dtype == SHERD_FP32 ? logits : add(p, rows * vocab, p->dtype, 9, 0);
    array *losses = add(p, rows * 2, SHERD_FP32, 0, 0); /* room for doubles */
    for (int s = 0; s < SIDES; s++) {
        p->ops[s]->cross_entropy(p->ops[s], &(sherd_xent){.rows = rows,
                                                          .vocab = vocab,
                                                          .logits = logits->side[s],
                                                          .targets = targets->side[s],
                                                          .scale = 1.0f / (float)rows,
                                                          .dlogits = train ? dlogits->side[s] : NULL,
                                                          .losses = losses->side[s]});
    }
    double *there = fetch(p, losses), *here = losses->side[HOST];
    for (int64_t i = 0; i < rows; i++) {
        assert_true(fabs(there[i] - here[i]) <= 3e-6 * fmax(1, fabs(here[i])));
    }
    if (train) {
        assert_close(p, dlogits, 1e-6, "dlogits");
    }
    free(there);
    free(ids);
    forget(p);
}

static void cross_entropies(void **state)
{
    (void)state;
    for (int type = SHERD_FP32; type <= SHERD_FP16; type++) {
        pair p;
        open_pair(&p, (sherd_dtype)type);
        check_xent(&p, 1, 2, 1, 1);
        check_xent(&p, 5, 90, 4, 1);
        check_xent(&p, 3, 91, 60, 1);
        check_xent(&p, 4, 5000, 10, 1);
        check_xent(&p, 2, 4099, 10, 0);
        close_pair(&p);
    }
}

/* ------------------------------------------------------------------------------------------------------------ products
 */

static void check_matmul(pair *p, int64_t m, int64_t n, int64_t k, int bits, sherd_dtype out)
{
    int trans_a = bits & 1, trans_b = bits >> 1 & 1, add_to = bits >> 2; /* 0: nothing, 1: C itself, 2: another */
    array *a = add(p, m * k, p->dtype, 0, 1), *b = add(p, k * n, p->dtype, 0, 1), *c = add(p, m * n, out, 0, 1);
    array *d = add(p, m * n, out, 0, 1);
    for (int s = 0; s < SIDES; s++) {
        sherd_error err = {0};
        sherd_matmul mm = {.m = m, .n = n, .k = k, .trans_a = trans_a, .trans_b = trans_b, .out = out};
        mm.a = a->side[s];
        mm.b = b->side[s];
        mm.c = c->side[s];
        mm.d = add_to == 0 ? NULL : add_to == 1 ? c->side[s] : d->side[s];
        good(p->ops[s]->matmul(p->ops[s], &mm, &err), &err);
    }
    assert_close(p, c, 4e-6, "product");
    forget(p);
}

static void products(void **state)
{
    (void)state;
    int checked = 0;
    for (int type = SHERD_FP32; type <= SHERD_FP16; type++) {
        pair p;
        open_pair(&p, (sherd_dtype)type);
        for (int bits = 0; bits < 12; bits++, checked++) {
            check_matmul(&p, 7, 5, 3, bits, p.dtype);
            check_matmul(&p, 33, 17, 65, bits, SHERD_FP32);
            check_matmul(&p, 1, 64, 40, bits, p.dtype);
        }
        uint64_t asked = cublaslt_stub_heuristics();
        check_matmul(&p, 33, 17, 65, 0, SHERD_FP32);
        check_matmul(&p, 33, 17, 65, 0, SHERD_FP32);
        assert_int_equal(cublaslt_stub_heuristics(), asked); /* known shapes: the same algorithm */
        for (int64_t n = 100; n < 200; n++) {                /* more shapes than are remembered */
            check_matmul(&p, 3, n, 2, 0, SHERD_FP32);
        }
        assert_int_equal(cublaslt_stub_heuristics(), asked + 100);
        close_pair(&p);
    }
    assert_int_equal(checked, 36);
    assert_true(cublaslt_stub_honest());
}

static void a_product_that_cannot_be_is_refused(void **state)
{
    pair p;
    sherd_error err = {0};
    (void)state;
    open_pair(&p, SHERD_FP32);
    array *a = add(&p, 64, SHERD_FP32, 0, 1);
    sherd_matmul mm = {.m = 8, .n = 8, .k = 8, .out = SHERD_FP32, .a = a->side[GPU], .b = a->side[GPU]};
    mm.c = add(&p, 64, SHERD_FP32, 0, 1)->side[GPU];
    cublaslt_stub_refuse(1);
    assert_int_equal(p.ops[GPU]->matmul(p.ops[GPU], &mm, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "8 × 8 × 8"));
    cublaslt_stub_refuse(0);
    cublaslt_stub_fail_at(1);
    assert_int_equal(p.ops[GPU]->matmul(p.ops[GPU], &mm, &err), SHERD_EDEVICE);
    assert_non_null(strstr(err.text, "cublasLtMatmul"));
    good(p.ops[GPU]->matmul(p.ops[GPU], &mm, &err), &err);
    close_pair(&p);
}

/* ------------------------------------------------------------------------------------------------------------- control
 */

static void copies_of_any_size_arrive(void **state)
{
    pair p;
    (void)state;
    open_pair(&p, SHERD_FP32);
    for (int64_t n = 1; n < 1000000; n = n * 11 + 3) { /* up to several times the staging memory */
        array *a = add(&p, n, SHERD_FP32, 0, 1), *b = add(&p, 7, SHERD_FP32, 0, 1);
        assert_same(&p, b);
        assert_same(&p, a);
        forget(&p);
    }
    close_pair(&p);
}

/* Hundreds of ops without a settle: the stream is paced, and nothing waits for ever. */
static void many_ops_are_paced(void **state)
{
    pair p;
    (void)state;
    open_pair(&p, SHERD_FP32);
    array *x = add(&p, 8, SHERD_FP32, 1, 0), *y = add(&p, 8, SHERD_FP32, 0, 0);
    for (int i = 0; i < 1000; i++) {
        for (int s = 0; s < SIDES; s++) {
            p.ops[s]->narrow(p.ops[s], 8, x->side[s], y->side[s], SHERD_FP32, 1);
        }
    }
    assert_same(&p, y);
    assert_true(((float *)y->side[HOST])[7] == 1000.0f);
    close_pair(&p);
}

/* The first failure stays, and is told by whatever returns a status next. */
static void a_failed_launch_is_told(void **state)
{
    pair p;
    sherd_error err = {0};
    (void)state;
    open_pair(&p, SHERD_FP32);
    array *x = add(&p, 8, SHERD_FP32, 1, 0), *y = add(&p, 8, SHERD_FP32, 0, 0);
    cuda_stub_fail_call("cudaLaunchKernel", 1, cudaErrorLaunchFailure);
    p.ops[GPU]->narrow(p.ops[GPU], 8, x->side[GPU], y->side[GPU], SHERD_FP32, 1);
    uint64_t launched = cuda_stub_calls("cudaLaunchKernel");
    p.ops[GPU]->narrow(p.ops[GPU], 8, x->side[GPU], y->side[GPU], SHERD_FP32, 1);
    assert_int_equal(cuda_stub_calls("cudaLaunchKernel"), launched);
    assert_int_equal(p.ops[GPU]->settle(p.ops[GPU], &err), SHERD_EDEVICE);
    assert_non_null(strstr(err.text, "'narrow' on GPU 0"));
    sherd_matmul mm = {.m = 1, .n = 1, .k = 1};
    assert_int_equal(p.ops[GPU]->matmul(p.ops[GPU], &mm, &err), SHERD_EDEVICE);
    close_pair(&p);
}

static int hide(void **state)
{
    (void)state;
    cuda_stub_reset(1, 0);
    cuda_stub_hide_memory(1);
    simt_seed(12345);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norms),
        cmocka_unit_test(elements),
        cmocka_unit_test(embeddings),
        cmocka_unit_test(cross_entropies),
        cmocka_unit_test(products),
        cmocka_unit_test(a_product_that_cannot_be_is_refused),
        cmocka_unit_test(copies_of_any_size_arrive),
        cmocka_unit_test(many_ops_are_paced),
        cmocka_unit_test(a_failed_launch_is_told),
    };
    return cmocka_run_group_tests(tests, hide, NULL);
}
