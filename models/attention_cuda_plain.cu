/* SPDX-License-Identifier: MIT
 *
 * Causal attention in fp32 arithmetic for every type and every head dimension up to 256: what fp32 models use, and bf16
 * ones whose dimension tensor cores do not take. Tiles of 16 rows, one thread for each of a tile's 256 scores; sums of
 * output and gradients lie in shared memory, each with one owner and one order. No tensor cores, no overlap of loads:
 * plain, not fast. Also the delta that both kinds of backward need.
 */
#include "models/attention_cuda_launch.h"
#include "models/cuda_portable.h"

namespace
{

enum { TILE = 16, THREADS = TILE * TILE, DELTA_LANES = 16 };

struct shape {
    int seq, heads, dim, pitch; /* pitch: of a tile's rows; odd, so that a column's elements lie in different banks */
    int64_t first;              /* of the head, in elements */

    __device__ __forceinline__ shape(const sherd__attention_args &a, int n_heads, int batch, int head)
        : seq(a.seq), heads(n_heads), dim(a.dim), pitch(a.dim | 1),
          first(((int64_t)batch * a.seq * n_heads + head) * a.dim)
    {
    }
};

__device__ __forceinline__ float read(const float *x, int64_t i)
{
    return x[i];
}
__device__ __forceinline__ float read(const bf16 *x, int64_t i)
{
    return widen(x[i]);
}
__device__ __forceinline__ float read(const fp16 *x, int64_t i)
{
    return widen(x[i]);
}
__device__ __forceinline__ void write(float *x, int64_t i, float value)
{
    x[i] = value;
}
__device__ __forceinline__ void write(bf16 *x, int64_t i, float value)
{
    x[i] = narrow(value);
}
__device__ __forceinline__ void write(fp16 *x, int64_t i, float value)
{
    x[i].bits = narrow_fp16(value);
}

/* 16 rows from `row`, zeros behind the sequence. */
template <typename T> __device__ void load_rows(float *tile, const void *from, const shape &s, int row)
{
    for (int i = (int)threadIdx.x; i < TILE * s.dim; i += THREADS) {
        int r = i / s.dim, d = i % s.dim;
        int64_t at = s.first + (int64_t)(row + r) * s.heads * s.dim + d;
        tile[r * s.pitch + d] = row + r < s.seq ? read((const T *)from, at) : 0.0f;
    }
}

template <typename T> __device__ void store_rows(void *to, const float *tile, const shape &s, int row, float factor)
{
    for (int i = (int)threadIdx.x; i < TILE * s.dim; i += THREADS) {
        int r = i / s.dim, d = i % s.dim;
        if (row + r < s.seq)
            write((T *)to, s.first + (int64_t)(row + r) * s.heads * s.dim + d, tile[r * s.pitch + d] * factor);
    }
}

__device__ void clear_rows(float *tile, const shape &s)
{
    for (int i = (int)threadIdx.x; i < TILE * s.pitch; i += THREADS)
        tile[i] = 0.0f;
}

__device__ __forceinline__ float dot(const float *a, const float *b, int dim)
{
    float sum = 0.0f;
    for (int d = 0; d < dim; d++)
        sum = fmaf(a[d], b[d], sum);
    return sum;
}

/* y[r][·] += Σ over j of weights[j · stride] · rows[j][·], for this thread's part of its row. */
__device__ __forceinline__ void add_rows(float *y, const float *weights, int stride, const float *rows, const shape &s)
{
    for (int d = (int)threadIdx.x % TILE; d < s.dim; d += TILE) {
        float sum = y[d];
        for (int j = 0; j < TILE; j++)
            sum = fmaf(weights[j * stride], rows[j * s.pitch + d], sum);
        y[d] = sum;
    }
}

template <typename T>
__global__ void __launch_bounds__(THREADS) forward(const __grid_constant__ sherd__attention_args a)
{
    SHERD_DYNAMIC_SHARED(float, q);
    int heads = a.batch * a.heads, first = (int)(gridDim.x / heads - 1 - blockIdx.x / heads) * TILE;
    int batch = (int)blockIdx.x % heads / a.heads, head = (int)blockIdx.x % a.heads;
    shape s(a, a.heads, batch, head), kv(a, a.kv_heads, batch, head / (a.heads / a.kv_heads));
    float *o = q + TILE * s.pitch, *k = o + TILE * s.pitch, *v = k + TILE * s.pitch, *p = v + TILE * s.pitch;
    int r = (int)threadIdx.x / TILE, c = (int)threadIdx.x % TILE;
    float highest = -INFINITY, sum = 0.0f;
    load_rows<T>(q, a.q, s, first);
    clear_rows(o, s);
    for (int key = 0; key < min(first + TILE, a.seq); key += TILE) {
        __syncthreads(); /* the last keys are read */
        load_rows<T>(k, a.k, kv, key);
        load_rows<T>(v, a.v, kv, key);
        __syncthreads();
        float score = key + c > first + r ? -INFINITY : dot(q + r * s.pitch, k + c * s.pitch, s.dim) * a.scale;
        float top = fmaxf(highest, score);
        for (int bit = TILE / 2; bit > 0; bit /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xFFFFFFFFu, top, bit));
        float weight = expf(score - top), shrink = expf(highest - top), all = weight;
        for (int bit = TILE / 2; bit > 0; bit /= 2)
            all += __shfl_xor_sync(0xFFFFFFFFu, all, bit);
        highest = top;
        sum = sum * shrink + all;
        p[r * TILE + c] = weight;
        for (int d = c; d < s.dim; d += TILE)
            o[r * s.pitch + d] *= shrink;
        __syncwarp(); /* a row's threads are of one warp */
        add_rows(o + r * s.pitch, p + r * TILE, 1, v, s);
    }
    for (int d = c; d < s.dim; d += TILE)
        o[r * s.pitch + d] /= sum;
    if (c == 0 && first + r < a.seq)
        a.lse[((int64_t)batch * a.heads + head) * a.seq + first + r] = highest + logf(sum);
    __syncthreads();
    store_rows<T>(a.out, o, s, first, 1.0f);
}

/* p and ds of this thread's query and key. */
__device__ __forceinline__ void slope(const sherd__attention_args &a, const shape &s, int64_t statistics, int query,
                                      int key, const float *q, const float *k, const float *dout, const float *v,
                                      float *p, float *ds)
{
    *p = *ds = 0.0f;
    if (query < a.seq && key <= query) {
        *p = expf(dot(q, k, s.dim) * a.scale - a.lse[statistics + query]);
        *ds = *p * (dot(dout, v, s.dim) - a.delta[statistics + query]);
    }
}

template <typename T> __global__ void __launch_bounds__(THREADS) keys(const __grid_constant__ sherd__attention_args a)
{
    SHERD_DYNAMIC_SHARED(float, k);
    int heads = a.batch * a.kv_heads, first = (int)blockIdx.x / heads * TILE, group = a.heads / a.kv_heads;
    int batch = (int)blockIdx.x % heads / a.kv_heads, kv_head = (int)blockIdx.x % a.kv_heads;
    shape kv(a, a.kv_heads, batch, kv_head);
    int size = TILE * kv.pitch, r = (int)threadIdx.x / TILE, c = (int)threadIdx.x % TILE;
    float *v = k + size, *dk = v + size, *dv = dk + size, *q = dv + size, *dout = q + size, *p = dout + size;
    float *ds = p + TILE * TILE;
    load_rows<T>(k, a.k, kv, first);
    load_rows<T>(v, a.v, kv, first);
    clear_rows(dk, kv);
    clear_rows(dv, kv);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        shape s(a, a.heads, batch, head);
        for (int query = first; query < a.seq; query += TILE) {
            __syncthreads(); /* the last queries are read */
            load_rows<T>(q, a.q, s, query);
            load_rows<T>(dout, a.dout, s, query);
            __syncthreads();
            slope(a, s, ((int64_t)batch * a.heads + head) * a.seq, query + r, first + c, q + r * s.pitch,
                  k + c * s.pitch, dout + r * s.pitch, v + c * s.pitch, p + r * TILE + c, ds + r * TILE + c);
            __syncthreads();
            add_rows(dk + r * s.pitch, ds + r, TILE, q, s);
            add_rows(dv + r * s.pitch, p + r, TILE, dout, s);
        }
    }
    __syncthreads();
    store_rows<T>(a.dk, dk, kv, first, a.scale);
    store_rows<T>(a.dv, dv, kv, first, 1.0f);
}

template <typename T>
__global__ void __launch_bounds__(THREADS) queries(const __grid_constant__ sherd__attention_args a)
{
    SHERD_DYNAMIC_SHARED(float, q);
    int heads = a.batch * a.heads, first = (int)(gridDim.x / heads - 1 - blockIdx.x / heads) * TILE;
    int batch = (int)blockIdx.x % heads / a.heads, head = (int)blockIdx.x % a.heads;
    shape s(a, a.heads, batch, head), kv(a, a.kv_heads, batch, head / (a.heads / a.kv_heads));
    int size = TILE * s.pitch, r = (int)threadIdx.x / TILE, c = (int)threadIdx.x % TILE;
    float *dout = q + size, *dq = dout + size, *k = dq + size, *v = k + size, *ds = v + size, p;
    load_rows<T>(q, a.q, s, first);
    load_rows<T>(dout, a.dout, s, first);
    clear_rows(dq, s);
    for (int key = 0; key < min(first + TILE, a.seq); key += TILE) {
        __syncthreads(); /* the last keys are read */
        load_rows<T>(k, a.k, kv, key);
        load_rows<T>(v, a.v, kv, key);
        __syncthreads();
        slope(a, s, ((int64_t)batch * a.heads + head) * a.seq, first + r, key + c, q + r * s.pitch, k + c * s.pitch,
              dout + r * s.pitch, v + c * s.pitch, &p, ds + r * TILE + c);
        __syncwarp(); /* a row's threads are of one warp */
        add_rows(dq + r * s.pitch, ds + r * TILE, 1, k, s);
    }
    __syncthreads();
    store_rows<T>(a.dq, dq, s, first, a.scale);
}

/* 16 threads a row, V values at once. Every thread takes part in the shuffles. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS) row_delta(const __grid_constant__ sherd__attention_args a)
{
    int64_t rows = (int64_t)a.batch * a.seq * a.heads;
    int64_t row = (int64_t)blockIdx.x * (THREADS / DELTA_LANES) + threadIdx.x / DELTA_LANES;
    int lane = (int)threadIdx.x % DELTA_LANES;
    float sum = 0.0f;
    for (int d = lane * V; d < a.dim && row < rows; d += DELTA_LANES * V) {
        float x[V], y[V];
        load<V>((const T *)a.out + row * a.dim + d, x);
        load<V>((const T *)a.dout + row * a.dim + d, y);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum = fmaf(x[i], y[i], sum);
    }
    for (int bit = DELTA_LANES / 2; bit > 0; bit /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, bit);
    if (lane == 0 && row < rows) {
        int64_t head = row % a.heads, position = row / a.heads % a.seq, batch = row / a.heads / a.seq;
        a.delta[(batch * a.heads + head) * a.seq + position] = sum;
    }
}

/* -------------------------------------------------------------------------------------------------------- launchers */

/* So many tiles of rows, and of scores. */
size_t shared_bytes(int32_t dim, int rows, int scores)
{
    return (size_t)(rows * TILE * (dim | 1) + scores * TILE * TILE) * sizeof(float);
}

template <typename T> int prepare(int32_t dim)
{
    int code = (int)cudaFuncSetAttribute(forward<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)shared_bytes(dim, 4, 1));
    if (code == (int)cudaSuccess)
        code = (int)cudaFuncSetAttribute(keys<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)shared_bytes(dim, 6, 2));
    if (code == (int)cudaSuccess)
        code = (int)cudaFuncSetAttribute(queries<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)shared_bytes(dim, 5, 1));
    return code;
}

int64_t blocks(const sherd__attention_args *args, int32_t heads)
{
    return (int64_t)((args->seq + TILE - 1) / TILE) * args->batch * heads;
}

template <typename T> int run_forward(const sherd__attention_args *args, void *stream)
{
    return sherd__cuda_launch(stream, blocks(args, args->heads), THREADS, shared_bytes(args->dim, 4, 1), forward<T>,
                              *args);
}

template <typename T> int run_backward(const sherd__attention_args *args, void *stream)
{
    int code = sherd__cuda_launch(stream, blocks(args, args->kv_heads), THREADS, shared_bytes(args->dim, 6, 2), keys<T>,
                                  *args);
    if (code != (int)cudaSuccess)
        return code;
    return sherd__cuda_launch(stream, blocks(args, args->heads), THREADS, shared_bytes(args->dim, 5, 1), queries<T>,
                              *args);
}

template <typename T, int V> int run_delta(const sherd__attention_args *args, void *stream)
{
    int64_t rows = (int64_t)args->batch * args->seq * args->heads, each = THREADS / DELTA_LANES;
    bool wide = sherd__cuda_wide(args->dim, V, {args->out, args->dout});
    return sherd__cuda_launch(stream, (rows + each - 1) / each, THREADS, 0, wide ? row_delta<T, V> : row_delta<T, 1>,
                              *args);
}

} // namespace

extern "C" int sherd__attention_plain_prepare(sherd_dtype type, int32_t dim)
{
    return type == SHERD_BF16   ? prepare<bf16>(dim)
           : type == SHERD_FP16 ? prepare<fp16>(dim)
                                : prepare<float>(dim);
}

extern "C" int sherd__attention_plain_forward(const sherd__attention_args *args, sherd_dtype type, void *stream)
{
    return type == SHERD_BF16   ? run_forward<bf16>(args, stream)
           : type == SHERD_FP16 ? run_forward<fp16>(args, stream)
                                : run_forward<float>(args, stream);
}

extern "C" int sherd__attention_plain_backward(const sherd__attention_args *args, sherd_dtype type, void *stream)
{
    return type == SHERD_BF16   ? run_backward<bf16>(args, stream)
           : type == SHERD_FP16 ? run_backward<fp16>(args, stream)
                                : run_backward<float>(args, stream);
}

extern "C" int sherd__attention_delta(const sherd__attention_args *args, sherd_dtype type, void *stream)
{
    return type == SHERD_BF16   ? run_delta<bf16, 8>(args, stream)
           : type == SHERD_FP16 ? run_delta<fp16, 8>(args, stream)
                                : run_delta<float, 4>(args, stream);
}
