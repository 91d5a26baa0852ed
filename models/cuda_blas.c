/* SPDX-License-Identifier: MIT
 *
 * Row-major products on a column-major library: what it sees is Cᵀ = op(B)ᵀ·op(A)ᵀ, so our B is its first operand and
 * our matrices, read by columns, are already transposed. Sums are fp32 and so is the addition of D; where the output is
 * bf16 the library rounds it once, to nearest even (docs/numerics-models.md).
 *
 * Deterministic: the algorithm is asked for once per shape (the heuristic's first answer) and kept; split sums only
 * where the parts are added by a kernel of their own in a fixed order, never in place; the workspace is ours and fixed.
 */
#include "models/cuda_blas.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/cuda_blas_api.h"
#include "models/scratch.h"

#define ENTRIES 64 /* shapes remembered: a step of the decoder has about 20 */
#define CHOICES 8
#define HANDLES 64
#define WORKSPACE_BYTES ((size_t)32 << 20)
#define WORKSPACE_BYTES_SM90 ((size_t)64 << 20)

/* What an algorithm depends on. Compared as bytes: no padding inside, cleared before it is filled. */
typedef struct shape {
    int64_t m, n, k;
    int32_t trans_a, trans_b, out, add;
    uint32_t align[4]; /* of the library's A, B, C, D: the largest power of two up to 256 that divides the address */
} shape;

typedef struct entry {
    shape key;
    int used;
    void *desc, *a, *b, *c; /* D's layout is C's */
    sherd_blas_algo algo;
} entry;

struct sherd_cuda_blas {
    sherd_blas_api api;
    void *handle;
    sherd_device *device;
    sherd_dtype dtype;
    int compute;
    float *workspace;
    size_t workspace_bytes;
    uint32_t next; /* the entry that goes when all are taken */
    entry entries[ENTRIES];
    char text[640];
};

static sherd_status failed(sherd_error *err, const char *call, int code)
{
    return sherd__model_fail(err, SHERD_EDEVICE, "cuBLASLt: %s failed with status %d; is the GPU's memory full?", call,
                             code);
}

/* ------------------------------------------------------------------------------------------------------------ handles
 */

/* Destroying a handle waits for the whole GPU without a limit, so it never happens: a handle that a model has given
 * back serves the next one on its GPU. No two models have one at the same time. */
static pthread_mutex_t handles_lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    void *handle; /* NULL: no more behind it */
    int ordinal, taken;
} handles[HANDLES];

static sherd_status take_handle(const sherd_blas_api *api, void **out, sherd_error *err)
{
    int ordinal = 0, code = 0, i = 0;
    (void)cudaGetDevice(&ordinal);
    pthread_mutex_lock(&handles_lock);
    while (i < HANDLES && handles[i].handle && (handles[i].taken || handles[i].ordinal != ordinal)) {
        i++;
    }
    if (i < HANDLES && !handles[i].handle) {
        code = api->create(&handles[i].handle);
        handles[i].handle = code == 0 ? handles[i].handle : NULL;
        handles[i].ordinal = ordinal;
    }
    if (i < HANDLES && code == 0) {
        handles[i].taken = 1;
        *out = handles[i].handle;
    }
    pthread_mutex_unlock(&handles_lock);
    if (i == HANDLES) {
        return sherd__model_fail(err, SHERD_ENOMEM,
                                 "model: %d models of this process multiply on GPUs already; "
                                 "destroy one first",
                                 HANDLES);
    }
    return code == 0 ? SHERD_OK : failed(err, "cublasLtCreate", code);
}

static void give_handle_back(const void *handle)
{
    pthread_mutex_lock(&handles_lock);
    for (int i = 0; i < HANDLES; i++) {
        if (handle && handles[i].handle == handle) {
            handles[i].taken = 0;
        }
    }
    pthread_mutex_unlock(&handles_lock);
}

/* ----------------------------------------------------------------------------------------------------------- choosing
 */

static uint32_t alignment(const void *address)
{
    uintptr_t bits = (uintptr_t)address | 256u;
    return (uint32_t)(bits & (~bits + 1));
}

static shape shape_of(const sherd_matmul *args)
{
    shape s;
    memset(&s, 0, sizeof s);
    s.m = args->m;
    s.n = args->n;
    s.k = args->k;
    s.trans_a = args->trans_a;
    s.trans_b = args->trans_b;
    s.out = (int32_t)args->out;
    s.add = args->d != NULL;
    s.align[0] = alignment(args->b);
    s.align[1] = alignment(args->a);
    s.align[2] = alignment(args->d ? args->d : args->c);
    s.align[3] = alignment(args->c);
    return s;
}

static void forget(sherd_cuda_blas *blas, entry *e)
{
    void *layouts[] = {e->a, e->b, e->c};
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        if (layouts[i]) {
            blas->api.layout_destroy(layouts[i]);
        }
    }
    if (e->desc) {
        blas->api.desc_destroy(e->desc);
    }
    memset(e, 0, sizeof *e);
}

static int type_of(sherd_dtype dtype)
{
    return dtype == SHERD_FP32 ? SHERD_BLAS_R_32F : dtype == SHERD_FP16 ? SHERD_BLAS_R_16F : SHERD_BLAS_R_16BF;
}

/* Descriptors of one product. Returns the library's status. */
static int describe_product(sherd_cuda_blas *blas, entry *e)
{
    const sherd_blas_api *api = &blas->api;
    const shape *s = &e->key;
    uint64_t m = (uint64_t)s->m, n = (uint64_t)s->n, k = (uint64_t)s->k;
    int first = s->trans_b ? SHERD_BLAS_OP_T : SHERD_BLAS_OP_N, second = s->trans_a ? SHERD_BLAS_OP_T : SHERD_BLAS_OP_N;
    int code = api->desc_create(&e->desc, blas->compute, SHERD_BLAS_R_32F);
    if (code == 0) {
        code = api->desc_set(e->desc, SHERD_BLAS_DESC_TRANSA, &first, sizeof first);
    }
    if (code == 0) {
        code = api->desc_set(e->desc, SHERD_BLAS_DESC_TRANSB, &second, sizeof second);
    }
    if (code == 0) {
        code = api->layout_create(&e->a, type_of(blas->dtype), s->trans_b ? k : n, s->trans_b ? n : k,
                                  s->trans_b ? s->k : s->n);
    }
    if (code == 0) {
        code = api->layout_create(&e->b, type_of(blas->dtype), s->trans_a ? m : k, s->trans_a ? k : m,
                                  s->trans_a ? s->m : s->k);
    }
    if (code == 0) {
        code = api->layout_create(&e->c, type_of((sherd_dtype)s->out), n, m, s->n);
    }
    return code;
}

static int prefer(sherd_cuda_blas *blas, const entry *e, void *pref)
{
    uint32_t schemes = SHERD_BLAS_REDUCTION_COMPUTE_TYPE;
    int code =
        blas->api.pref_set(pref, SHERD_BLAS_PREF_WORKSPACE_BYTES, &blas->workspace_bytes, sizeof blas->workspace_bytes);
    if (code == 0) {
        code = blas->api.pref_set(pref, SHERD_BLAS_PREF_REDUCTION_SCHEMES, &schemes, sizeof schemes);
    }
    for (int i = 0; i < 4 && code == 0; i++) {
        code = blas->api.pref_set(pref, SHERD_BLAS_PREF_ALIGNMENT_A + i, &e->key.align[i], sizeof e->key.align[i]);
    }
    return code;
}

/* The first answer that is one; none: EUNSUPPORTED. */
static sherd_status choose(sherd_cuda_blas *blas, entry *e, sherd_error *err)
{
    sherd_blas_choice choices[CHOICES];
    void *pref = NULL;
    int found = 0;
    const char *call = "cublasLtMatmulPreferenceCreate";
    memset(choices, 0, sizeof choices);
    int code = blas->api.pref_create(&pref);
    if (code == 0) {
        call = "cublasLtMatmulPreferenceSetAttribute";
        code = prefer(blas, e, pref);
    }
    if (code == 0) {
        call = "cublasLtMatmulAlgoGetHeuristic";
        code = blas->api.heuristic(blas->handle, e->desc, e->a, e->b, e->c, e->c, pref, CHOICES, choices, &found);
    }
    if (pref) {
        blas->api.pref_destroy(pref);
    }
    if (code != 0 && code != SHERD_BLAS_NOT_SUPPORTED) {
        return failed(err, call, code);
    }
    for (int i = 0; code == 0 && i < found; i++) {
        if (choices[i].state == 0 && choices[i].workspace_bytes <= blas->workspace_bytes) {
            e->algo = choices[i].algo;
            return SHERD_OK;
        }
    }
    return sherd__model_fail(err, SHERD_EUNSUPPORTED,
                             "cuBLASLt has no algorithm for a product of %lld × %lld × %lld in %s with results in %s "
                             "on this GPU",
                             (long long)e->key.m, (long long)e->key.n, (long long)e->key.k,
                             sherd_dtype_name(blas->dtype), sherd_dtype_name((sherd_dtype)e->key.out));
}

static sherd_status find(sherd_cuda_blas *blas, const sherd_matmul *args, entry **out, sherd_error *err)
{
    shape key = shape_of(args);
    entry *e = NULL;
    for (int i = 0; i < ENTRIES && blas->entries[i].used; i++) {
        if (memcmp(&blas->entries[i].key, &key, sizeof key) == 0) {
            *out = &blas->entries[i];
            return SHERD_OK;
        }
    }
    e = &blas->entries[blas->next];
    forget(blas, e); /* nothing enqueued refers to descriptors */
    e->key = key;
    int code = describe_product(blas, e);
    sherd_status status = code == 0 ? choose(blas, e, err) : failed(err, "describing a product", code);
    if (status != SHERD_OK) {
        forget(blas, e);
        return status;
    }
    e->used = 1;
    blas->next = (blas->next + 1) % ENTRIES;
    *out = e;
    return SHERD_OK;
}

sherd_status sherd__cuda_blas_matmul(sherd_cuda_blas *blas, cudaStream_t stream, const sherd_matmul *args,
                                     sherd_error *err)
{
    const float alpha = 1.0f, beta = args->d ? 1.0f : 0.0f;
    const void *add = args->d ? args->d : args->c;
    entry *e = NULL;
    sherd_status status = find(blas, args, &e, err);
    if (status != SHERD_OK) {
        return status;
    }
    int code = blas->api.matmul(blas->handle, e->desc, &alpha, args->b, e->a, args->a, e->b, &beta, add, e->c, args->c,
                                e->c, &e->algo, blas->workspace, blas->workspace_bytes, stream);
    return code == 0 ? SHERD_OK : failed(err, "cublasLtMatmul", code);
}

/* ----------------------------------------------------------------------------------------------------------- lifecycle
 */

const char *sherd__cuda_blas_describe(const sherd_cuda_blas *blas)
{
    return blas->text;
}

void sherd__cuda_blas_destroy(sherd_cuda_blas *blas)
{
    if (!blas) {
        return;
    }
    for (int i = 0; i < ENTRIES; i++) {
        if (blas->entries[i].used) {
            forget(blas, &blas->entries[i]);
        }
    }
    give_handle_back(blas->handle);
    sherd__release(blas->device, blas->workspace);
    free(blas);
}

/* Versions are major · 10000 + minor · 100 + patch. */
static void write_text(const sherd_blas_api *api, const char *note, char *text, size_t capacity)
{
    size_t v = api->version();
    snprintf(text, capacity, "cuBLASLt %zu.%zu.%zu%s, %s", v / 10000, v % 10000 / 100, v % 100, note, api->path);
}

void sherd__ops_cuda_text(char *text, size_t capacity)
{
    sherd_blas_api api;
    sherd_error err = {.status = SHERD_OK};
    if (sherd__cuda_blas_open(&api, &err) == SHERD_OK) {
        write_text(&api, "", text, capacity);
    } else {
        snprintf(text, capacity, "no: %s", err.text);
    }
}

sherd_status sherd__cuda_blas_create(const sherd_ops_options *options, int compute_major, sherd_cuda_blas **out,
                                     sherd_error *err)
{
    sherd_cuda_blas *blas = calloc(1, sizeof *blas);
    if (!blas) {
        return sherd__model_fail(err, SHERD_ENOMEM, "model: no memory for the table of products");
    }
    blas->device = options->device;
    blas->dtype = options->dtype;
    blas->compute = options->gemm == SHERD_MODEL_GEMM_CUBLASLT_TF32 && options->dtype == SHERD_FP32
                        ? SHERD_BLAS_COMPUTE_32F_FAST_TF32
                        : SHERD_BLAS_COMPUTE_32F;
    sherd_status status = sherd__cuda_blas_open(&blas->api, err);
    blas->workspace_bytes = blas->api.workspace_bytes ? blas->api.workspace_bytes
                            : compute_major >= 9      ? WORKSPACE_BYTES_SM90
                                                      : WORKSPACE_BYTES;
    if (status == SHERD_OK) {
        status = take_handle(&blas->api, &blas->handle, err);
    }
    if (status == SHERD_OK) {
        status = sherd__scratch(options->device, blas->workspace_bytes, &blas->workspace, err);
    }
    if (status != SHERD_OK) {
        sherd__cuda_blas_destroy(blas);
        return status;
    }
    write_text(&blas->api, blas->compute == SHERD_BLAS_COMPUTE_32F_FAST_TF32 ? " (tf32)" : "", blas->text,
               sizeof blas->text);
    *out = blas;
    return SHERD_OK;
}
