/* SPDX-License-Identifier: MIT
 *
 * cuBLASLt on main memory: column-major products in plain loops, fp32 sums in rising k, alpha and beta, one rounding to
 * the output's type (16-bit ones to nearest even, as the library). It takes layouts and attributes as the interface defines
 * them and checks what the library leaves undefined. Runs in order of the CUDA stub's streams. Test support only: never
 * a GPU's result.
 */
#include "tests/support/cublaslt_stub/cublaslt_stub.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "models/cuda_blas_api.h"
#include "tests/support/cuda_stub/stub.h"

#define MAGIC UINT64_C(0x5354554242)

typedef struct layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
} layout;

typedef struct desc {
    int compute, scale, trans_a, trans_b;
} desc;

typedef struct preference {
    size_t workspace;
    uint32_t schemes, align[4];
} preference;

typedef struct product {
    desc what;
    layout a, b, c;
    float alpha, beta;
    const void *A, *B, *C;
    void *D;
} product;

static atomic_int refuse, dishonest;
static _Atomic uint64_t fail_at, products, heuristics;
static _Atomic int64_t alive;

void cublaslt_stub_refuse(int on)
{
    refuse = on;
}
void cublaslt_stub_fail_at(uint64_t nth)
{
    fail_at = nth;
}
uint64_t cublaslt_stub_products(void)
{
    return products;
}
uint64_t cublaslt_stub_heuristics(void)
{
    return heuristics;
}
int64_t cublaslt_stub_alive(void)
{
    return alive;
}
int cublaslt_stub_honest(void)
{
    return !dishonest;
}

static void *made(size_t bytes)
{
    void *block = calloc(1, bytes);
    if (!block) {
        abort();
    }
    alive++;
    return block;
}

static int gone(void *block)
{
    free(block);
    alive--;
    return 0;
}

/* ----------------------------------------------------------------------------------------------------------- interface
 */

static int create(void **handle)
{
    static char handles[64]; /* the models keep theirs for good */
    static atomic_int next;
    *handle = &handles[next++ % 64];
    return 0;
}

static size_t version(void)
{
    return 130000;
}

static int desc_create(void **out, int compute, int scale)
{
    desc *d = made(sizeof *d);
    *d = (desc){.compute = compute, .scale = scale};
    *out = d;
    return 0;
}

static int desc_set(void *at, int attribute, const void *value, size_t bytes)
{
    desc *d = at;
    if (bytes != sizeof(int) || (attribute != SHERD_BLAS_DESC_TRANSA && attribute != SHERD_BLAS_DESC_TRANSB)) {
        return 7;
    }
    memcpy(attribute == SHERD_BLAS_DESC_TRANSA ? &d->trans_a : &d->trans_b, value, sizeof(int));
    return 0;
}

static int layout_create(void **out, int type, uint64_t rows, uint64_t cols, int64_t ld)
{
    if (rows == 0 || cols == 0 || ld < (int64_t)rows ||
        (type != SHERD_BLAS_R_32F && type != SHERD_BLAS_R_16BF && type != SHERD_BLAS_R_16F)) {
        return 7;
    }
    layout *l = made(sizeof *l);
    *l = (layout){type, rows, cols, ld};
    *out = l;
    return 0;
}

static int pref_create(void **out)
{
    preference *p = made(sizeof *p);
    p->schemes = 7;
    *out = p;
    return 0;
}

static int pref_set(void *at, int attribute, const void *value, size_t bytes)
{
    preference *p = at;
    if (attribute == SHERD_BLAS_PREF_WORKSPACE_BYTES && bytes == sizeof p->workspace) {
        memcpy(&p->workspace, value, bytes);
    } else if (attribute == SHERD_BLAS_PREF_REDUCTION_SCHEMES && bytes == sizeof p->schemes) {
        memcpy(&p->schemes, value, bytes);
    } else if (attribute >= SHERD_BLAS_PREF_ALIGNMENT_A && attribute <= SHERD_BLAS_PREF_ALIGNMENT_D &&
               bytes == sizeof *p->align) {
        memcpy(&p->align[attribute - SHERD_BLAS_PREF_ALIGNMENT_A], value, bytes);
    } else {
        return 7;
    }
    return 0;
}

/* 1: op(A) is m × k, op(B) k × n, C m × n, of types that go together. */
static int fits(const desc *d, const layout *a, const layout *b, const layout *c)
{
    uint64_t m = d->trans_a ? a->cols : a->rows, k = d->trans_a ? a->rows : a->cols;
    uint64_t k2 = d->trans_b ? b->cols : b->rows, n = d->trans_b ? b->rows : b->cols;
    int tf32 = d->compute == SHERD_BLAS_COMPUTE_32F_FAST_TF32;
    return m == c->rows && n == c->cols && k == k2 && a->type == b->type && d->scale == SHERD_BLAS_R_32F &&
           (tf32 ? a->type == SHERD_BLAS_R_32F : d->compute == SHERD_BLAS_COMPUTE_32F) &&
           (c->type == a->type || c->type == SHERD_BLAS_R_32F);
}

/* The algorithm remembers what it was chosen for. */
static int heuristic(void *handle, void *d, void *a, void *b, void *c, void *out_layout, void *pref, int wanted,
                     sherd_blas_choice *out, int *found)
{
    const preference *p = pref;
    heuristics++;
    *found = 0;
    if (!handle || out_layout != c || wanted < 1 || !fits(d, a, b, c)) {
        return 7;
    }
    if (p->schemes != SHERD_BLAS_REDUCTION_COMPUTE_TYPE) {
        dishonest = 1;
    }
    if (refuse) {
        return SHERD_BLAS_NOT_SUPPORTED;
    }
    memset(out, 0, sizeof *out);
    if (wanted > 1) { /* a first answer that cannot be used */
        out->state = SHERD_BLAS_NOT_SUPPORTED;
        out++;
        *found = 1;
        memset(out, 0, sizeof *out);
    }
    out->algo.data[0] = MAGIC;
    out->algo.data[1] = (uintptr_t)d;
    memcpy(&out->algo.data[2], p->align, sizeof p->align);
    out->workspace_bytes = p->workspace;
    ++*found;
    return 0;
}

/* ---------------------------------------------------------------------------------------------------------- arithmetic
 */

static float get(const layout *l, const void *base, uint64_t row, uint64_t col)
{
    uint64_t at = col * (uint64_t)l->ld + row;
    uint32_t bits;
    float value;
    if (l->type == SHERD_BLAS_R_32F) {
        return ((const float *)base)[at];
    }
    if (l->type == SHERD_BLAS_R_16F) {
        return sherd__f32_of_f16(((const uint16_t *)base)[at]);
    }
    bits = (uint32_t)((const uint16_t *)base)[at] << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void put(const layout *l, void *base, uint64_t row, uint64_t col, float value)
{
    uint64_t at = col * (uint64_t)l->ld + row;
    uint32_t bits;
    if (l->type == SHERD_BLAS_R_32F) {
        ((float *)base)[at] = value;
        return;
    }
    if (l->type == SHERD_BLAS_R_16F) {
        ((uint16_t *)base)[at] = sherd__f16_of_f32(value);
        return;
    }
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)base)[at] =
        value != value ? 0x7FFF : (uint16_t)((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16); /* nearest, ties to even */
}

/* 10 bits of mantissa, as the hardware takes its factors. */
static float tf32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits = (bits + 0x1000) & 0xFFFFE000u;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* op(M) as rows of its own, so that the inner loop runs over neighbours. */
static float *gathered(const layout *l, const void *base, int by_rows, int round)
{
    uint64_t outer = by_rows ? l->rows : l->cols, inner = by_rows ? l->cols : l->rows;
    float *out = malloc(outer * inner * sizeof *out);
    if (!out) {
        abort();
    }
    for (uint64_t o = 0; o < outer; o++) {
        for (uint64_t i = 0; i < inner; i++) {
            float v = by_rows ? get(l, base, o, i) : get(l, base, i, o);
            out[o * inner + i] = round ? tf32(v) : v;
        }
    }
    return out;
}

static void run(const void *args)
{
    const product *p = args;
    int round = p->what.compute == SHERD_BLAS_COMPUTE_32F_FAST_TF32;
    uint64_t k = p->what.trans_a ? p->a.rows : p->a.cols;
    float *a = gathered(&p->a, p->A, !p->what.trans_a, round), *b = gathered(&p->b, p->B, p->what.trans_b, round);
    for (uint64_t col = 0; col < p->c.cols; col++) {
        for (uint64_t row = 0; row < p->c.rows; row++) {
            const float *x = a + row * k, *y = b + col * k;
            float sum = 0.0f;
            for (uint64_t i = 0; i < k; i++) {
                sum += x[i] * y[i];
            }
            sum *= p->alpha;
            if (p->beta != 0.0f) { /* else C is not read */
                sum += p->beta * get(&p->c, p->C, row, col);
            }
            put(&p->c, p->D, row, col, sum);
        }
    }
    free(b);
    free(a);
}

static int aligned(const void *address, uint32_t to)
{
    return to > 0 && (uintptr_t)address % to == 0;
}

static int matmul(void *handle, void *d, const void *alpha, const void *A, void *a, const void *B, void *b,
                  const void *beta, const void *C, void *c, void *D, void *d_layout, const sherd_blas_algo *algo,
                  void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    product p = {.what = *(desc *)d, .a = *(layout *)a, .b = *(layout *)b, .c = *(layout *)c, .A = A, .B = B};
    uint32_t align[4];
    products++;
    if (fail_at && --fail_at == 0) {
        return 13;
    }
    memcpy(align, &algo->data[2], sizeof align);
    if (!handle || d_layout != c || algo->data[0] != MAGIC || algo->data[1] != (uintptr_t)d || !workspace ||
        workspace_bytes == 0 || !fits(d, a, b, c)) {
        return 7;
    }
    if (!aligned(A, align[0]) || !aligned(B, align[1]) || !aligned(C, align[2]) || !aligned(D, align[3])) {
        dishonest = 1;
    }
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    p.C = C;
    p.D = D;
    return cuda_stub_launch(stream, "cublasLtMatmul", run, &p, sizeof p) == cudaSuccess ? 0 : 13;
}

sherd_status sherd__cuda_blas_open(sherd_blas_api *out, sherd_error *err)
{
    (void)err;
    *out = (sherd_blas_api){
        .create = create,
        .version = version,
        .desc_create = desc_create,
        .desc_destroy = gone,
        .desc_set = desc_set,
        .layout_create = layout_create,
        .layout_destroy = gone,
        .pref_create = pref_create,
        .pref_destroy = gone,
        .pref_set = pref_set,
        .heuristic = heuristic,
        .matmul = matmul,
        .workspace_bytes = 4096, /* hidden memory costs the tests time */
        .path = "the tests' stub, not a GPU's",
    };
    return SHERD_OK;
}
