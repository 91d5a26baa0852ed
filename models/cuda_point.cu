/* SPDX-License-Identifier: MIT
 *
 * Element by element: rotary embedding, SwiGLU, and narrowing of sums. A thread makes V neighbouring values, in place
 * where outputs are inputs.
 */
#include "models/cuda_ops.h"
#include "models/cuda_portable.h"

#define THREADS 256

namespace
{

/* ---------------------------------------------------------------------------------------------------------------- rope
 */

/* A block per row: (lo, hi) of each head turn by the row's position. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    rope_rows(int64_t seq, int heads, int half, const float *table, float sign, T *x)
{
    const float *cosine = table + blockIdx.x % seq * 2 * half, *sine = cosine + half;
    T *row = x + (int64_t)blockIdx.x * heads * 2 * half;
    const int pieces = half / V;
    for (int p = (int)threadIdx.x; p < heads * pieces; p += (int)blockDim.x) {
        const int head = p / pieces, i = p % pieces * V;
        T *at = row + (int64_t)head * 2 * half + i;
        float c[V], s[V], lo[V], hi[V];
        load(cosine + i, c);
        load(sine + i, s);
        load(at, lo);
        load(at + half, hi);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float turn = s[j] * sign, low = lo[j], high = hi[j];
            lo[j] = low * c[j] - high * turn;
            hi[j] = high * c[j] + low * turn;
        }
        store(at, lo);
        store(at + half, hi);
    }
}

template <typename T, int V> int rope(void *stream, const sherd_rope *a)
{
    int64_t pieces = a->heads * (a->dim / 2 / V);
    return sherd__cuda_launch(stream, a->batch * a->seq, sherd__cuda_row_threads(pieces, THREADS), 0, rope_rows<T, V>,
                              a->seq, (int)a->heads, (int)(a->dim / 2), a->table, a->backward ? -1.0f : 1.0f,
                              (T *)a->x);
}

/* -------------------------------------------------------------------------------------------------------------- swiglu
 */

__device__ __forceinline__ float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS) swiglu_run(int64_t elems, const T *gate, const T *up, T *out)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float g[V], u[V];
    if (i >= elems)
        return;
    load(gate + i, g);
    load(up + i, u);
#pragma unroll
    for (int j = 0; j < V; j++)
        g[j] = g[j] * sigmoid(g[j]) * u[j];
    store(out + i, g);
}

template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    swiglu_backward_run(int64_t elems, const T *gate, const T *up, const T *dout, T *dgate, T *dup, T *out)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float g[V], u[V], d[V];
    if (i >= elems)
        return;
    load(gate + i, g);
    load(up + i, u);
    load(dout + i, d);
#pragma unroll
    for (int j = 0; j < V; j++) {
        const float s = sigmoid(g[j]), silu = g[j] * s, dy = d[j];
        d[j] = silu * u[j];
        g[j] = dy * u[j] * (s + silu * (1.0f - s));
        u[j] = dy * silu;
    }
    store(dgate + i, g);
    store(dup + i, u);
    store(out + i, d);
}

template <typename T, int V> int64_t runs(int64_t elems)
{
    return (elems + THREADS * V - 1) / (THREADS * V);
}

template <typename T, int V> int swiglu(void *stream, const sherd_swiglu *a)
{
    return sherd__cuda_launch(stream, runs<T, V>(a->elems), THREADS, 0, swiglu_run<T, V>, a->elems, (const T *)a->gate,
                              (const T *)a->up, (T *)a->out);
}

template <typename T, int V> int swiglu_backward(void *stream, const sherd_swiglu *a)
{
    return sherd__cuda_launch(stream, runs<T, V>(a->elems), THREADS, 0, swiglu_backward_run<T, V>, a->elems,
                              (const T *)a->gate, (const T *)a->up, (const T *)a->dout, (T *)a->dgate, (T *)a->dup,
                              (T *)a->out);
}

/* -------------------------------------------------------------------------------------------------------------- narrow
 */

template <typename D, int V>
__global__ void __launch_bounds__(THREADS) narrow_run(int64_t elems, const float *x, D *y, int beta)
{
    const int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * V;
    float sum[V], old[V];
    if (i >= elems)
        return;
    load(x + i, sum);
    if (beta) {
        load(y + i, old);
#pragma unroll
        for (int j = 0; j < V; j++)
            sum[j] = old[j] + sum[j];
    }
    store(y + i, sum);
}

template <typename D, int V> int narrow_all(void *stream, const sherd_cuda_narrow *a)
{
    return sherd__cuda_launch(stream, runs<D, V>(a->elems), THREADS, 0, narrow_run<D, V>, a->elems, a->x, (D *)a->y,
                              a->beta);
}

} // namespace

int sherd__cuda_rope(void *stream, sherd_dtype type, const sherd_rope *a)
{
    int wide = sherd__cuda_wide(a->dim / 2, type == SHERD_FP32 ? 4 : 8, {a->x, a->table});
    if (type == SHERD_BF16)
        return wide ? rope<bf16, 8>(stream, a) : rope<bf16, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? rope<fp16, 8>(stream, a) : rope<fp16, 1>(stream, a);
    return wide ? rope<float, 4>(stream, a) : rope<float, 1>(stream, a);
}

int sherd__cuda_swiglu(void *stream, sherd_dtype type, const sherd_swiglu *a)
{
    int wide = sherd__cuda_wide(a->elems, type == SHERD_FP32 ? 4 : 8, {a->gate, a->up, a->out});
    if (type == SHERD_BF16)
        return wide ? swiglu<bf16, 8>(stream, a) : swiglu<bf16, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? swiglu<fp16, 8>(stream, a) : swiglu<fp16, 1>(stream, a);
    return wide ? swiglu<float, 4>(stream, a) : swiglu<float, 1>(stream, a);
}

int sherd__cuda_swiglu_backward(void *stream, sherd_dtype type, const sherd_swiglu *a)
{
    int wide = sherd__cuda_wide(a->elems, type == SHERD_FP32 ? 4 : 8, {a->gate, a->up, a->dout, a->dgate, a->dup, a->out});
    if (type == SHERD_BF16)
        return wide ? swiglu_backward<bf16, 8>(stream, a) : swiglu_backward<bf16, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? swiglu_backward<fp16, 8>(stream, a) : swiglu_backward<fp16, 1>(stream, a);
    return wide ? swiglu_backward<float, 4>(stream, a) : swiglu_backward<float, 1>(stream, a);
}

int sherd__cuda_narrow(void *stream, const sherd_cuda_narrow *a)
{
    int wide = sherd__cuda_wide(a->elems, a->type == SHERD_FP32 ? 4 : 8, {a->x, a->y});
    if (a->type == SHERD_FP32)
        return wide ? narrow_all<float, 4>(stream, a) : narrow_all<float, 1>(stream, a);
    if (a->type == SHERD_FP16)
        return wide ? narrow_all<fp16, 8>(stream, a) : narrow_all<fp16, 1>(stream, a);
    return wide ? narrow_all<bf16, 8>(stream, a) : narrow_all<bf16, 1>(stream, a);
}
