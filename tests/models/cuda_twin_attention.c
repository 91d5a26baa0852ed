/* SPDX-License-Identifier: MIT
 *
 * Attention behind the CUDA kernels' interface, in plain loops on the stub's streams: for tests of what surrounds it,
 * and while a build has no kernels of its own.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "models/attention_cuda.h"
#include "tests/support/cuda_stub/stub.h"

typedef struct twin {
    sherd_dtype dtype;
    sherd_attention a;
} twin;

static float get(const twin *t, const void *base, int64_t i)
{
    return t->dtype == SHERD_FP32 ? ((const float *)base)[i] : sherd__f32_of_bf16(((const uint16_t *)base)[i]);
}

static void put(const twin *t, void *base, int64_t i, float x)
{
    if (t->dtype == SHERD_FP32) {
        ((float *)base)[i] = x;
    } else {
        ((uint16_t *)base)[i] = sherd__bf16_of_f32(x);
    }
}

/* Where row `row` of sequence `b` and head h begins in a matrix of `heads` heads. */
static int64_t at(const twin *t, int64_t b, int64_t row, int64_t h, int64_t heads)
{
    return ((b * t->a.seq + row) * heads + h) * t->a.dim;
}

static float score(const twin *t, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const sherd_attention *a = &t->a;
    int64_t q = at(t, b, i, h, a->heads), k = at(t, b, j, h / (a->heads / a->kv_heads), a->kv_heads);
    float sum = 0;
    for (int64_t d = 0; d < a->dim; d++) {
        sum += get(t, a->q, q + d) * get(t, a->k, k + d);
    }
    return sum / sqrtf((float)a->dim);
}

static void forward_row(const twin *t, int64_t b, int64_t h, int64_t i, float *p)
{
    const sherd_attention *a = &t->a;
    float high = -INFINITY, sum = 0;
    for (int64_t j = 0; j <= i; j++) {
        p[j] = score(t, b, h, i, j);
        high = p[j] > high ? p[j] : high;
    }
    for (int64_t j = 0; j <= i; j++) {
        sum += p[j] = expf(p[j] - high);
    }
    a->lse[(b * a->heads + h) * a->seq + i] = high + logf(sum);
    for (int64_t d = 0; d < a->dim; d++) {
        float o = 0;
        for (int64_t j = 0; j <= i; j++) {
            o += p[j] * get(t, a->v, at(t, b, j, h / (a->heads / a->kv_heads), a->kv_heads) + d);
        }
        put(t, a->out, at(t, b, i, h, a->heads) + d, o / sum);
    }
}

static void run_forward(const void *args)
{
    const twin *t = args;
    float *p = malloc((size_t)t->a.seq * sizeof *p);
    for (int64_t b = 0; b < t->a.batch; b++) {
        for (int64_t h = 0; h < t->a.heads; h++) {
            for (int64_t i = 0; i < t->a.seq; i++) {
                forward_row(t, b, h, i, p);
            }
        }
    }
    free(p);
}

/* One query row's share: dq whole, dk and dv added to. */
static void backward_row(const twin *t, int64_t b, int64_t h, int64_t i, float *dk, float *dv)
{
    const sherd_attention *a = &t->a;
    int64_t q = at(t, b, i, h, a->heads), kvh = h / (a->heads / a->kv_heads);
    float delta = 0, dq[256] = {0};
    for (int64_t d = 0; d < a->dim; d++) {
        delta += get(t, a->dout, q + d) * get(t, a->out, q + d);
    }
    for (int64_t j = 0; j <= i; j++) {
        int64_t kv = at(t, b, j, kvh, a->kv_heads);
        float p = expf(score(t, b, h, i, j) - a->lse[(b * a->heads + h) * a->seq + i]), dp = 0;
        for (int64_t d = 0; d < a->dim; d++) {
            dp += get(t, a->dout, q + d) * get(t, a->v, kv + d);
            dv[kv + d] += p * get(t, a->dout, q + d);
        }
        float ds = p * (dp - delta) / sqrtf((float)a->dim);
        for (int64_t d = 0; d < a->dim; d++) {
            dq[d] += ds * get(t, a->k, kv + d);
            dk[kv + d] += ds * get(t, a->q, q + d);
        }
    }
    for (int64_t d = 0; d < a->dim; d++) {
        put(t, a->dq, q + d, dq[d]);
    }
}

static void run_backward(const void *args)
{
    const twin *t = args;
    int64_t n = t->a.batch * t->a.seq * t->a.kv_heads * t->a.dim;
    float *dk = calloc((size_t)n, sizeof *dk), *dv = calloc((size_t)n, sizeof *dv);
    for (int64_t b = 0; b < t->a.batch; b++) {
        for (int64_t h = 0; h < t->a.heads; h++) {
            for (int64_t i = 0; i < t->a.seq; i++) {
                backward_row(t, b, h, i, dk, dv);
            }
        }
    }
    for (int64_t i = 0; i < n; i++) {
        put(t, t->a.dk, i, dk[i]);
        put(t, t->a.dv, i, dv[i]);
    }
    free(dv);
    free(dk);
}

sherd_status sherd__attention_cuda_prepare(sherd_dtype dtype, const sherd_attention *largest, sherd_error *err)
{
    (void)dtype;
    return largest->dim <= 256 ? SHERD_OK : sherd__model_fail(err, SHERD_EUNSUPPORTED, "heads of more than 256");
}

uint64_t sherd__attention_cuda_scratch(sherd_dtype dtype, const sherd_attention *largest)
{
    (void)dtype;
    return (uint64_t)(largest->batch * largest->heads * largest->seq) * sizeof(float);
}

static sherd_status launch(void *stream, const char *name, void (*fn)(const void *), sherd_dtype dtype,
                           const sherd_attention *args, sherd_error *err)
{
    twin t = {dtype, *args};
    return cuda_stub_launch(stream, name, fn, &t, sizeof t) == cudaSuccess
               ? SHERD_OK
               : sherd__model_fail(err, SHERD_EDEVICE, "model: '%s' failed", name);
}

sherd_status sherd__attention_cuda_forward(void *stream, sherd_dtype dtype, const sherd_attention *args,
                                           sherd_error *err)
{
    return launch(stream, "attention", run_forward, dtype, args, err);
}

sherd_status sherd__attention_cuda_backward(void *stream, sherd_dtype dtype, const sherd_attention *args, void *scratch,
                                            sherd_error *err)
{
    (void)scratch;
    return launch(stream, "attention backward", run_backward, dtype, args, err);
}
