/* SPDX-License-Identifier: MIT
 *
 * The embedding. Its gradient needs the rows of each token in a fixed order, without floating-point atomics: a row's
 * place in the sorted order is the number of rows with a smaller token, plus that of earlier rows with the same one.
 * Counting compares every row with every other; 8192 rows make 67 million comparisons of integers in shared memory, far
 * less than any product of the step. Then a block per vocabulary entry adds its rows.
 */
#include "models/cuda_ops.h"
#include "models/cuda_portable.h"

#define THREADS 256
#define ABREAST 4 /* sums of one column, so that as many loads are under way */

namespace
{

template <typename T, int V>
__global__ void __launch_bounds__(THREADS) embedding_rows(int64_t cols, const int32_t *tokens, const T *table, T *out)
{
    const T *from = table + tokens[blockIdx.x] * cols;
    T *to = out + blockIdx.x * cols;
    float v[V];
    for (int64_t c = (int64_t)threadIdx.x * V; c < cols; c += (int64_t)blockDim.x * V) {
        load(from + c, v);
        store(to + c, v);
    }
}

__global__ void __launch_bounds__(THREADS) clear_counts(int64_t vocab, int32_t *counts)
{
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < vocab)
        counts[i] = 0;
}

/* counts[v] rows of token v stand in `sorted` from starts[v] on; starts is undefined where there are none. */
__global__ void __launch_bounds__(THREADS)
    sort_rows(int32_t rows, const int32_t *tokens, int32_t *counts, int32_t *starts, int32_t *sorted)
{
    __shared__ int32_t tile[THREADS];
    const int32_t row = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    const int32_t token = row < rows ? tokens[row] : 0;
    int32_t less = 0, before = 0, equal = 0;
    for (int32_t base = 0; base < rows; base += THREADS) {
        const int32_t mine = base + (int32_t)threadIdx.x, n = rows - base < THREADS ? rows - base : THREADS;
        tile[threadIdx.x] = mine < rows ? tokens[mine] : 0;
        __syncthreads();
#pragma unroll 8
        for (int32_t i = 0; i < n; i++) {
            less += tile[i] < token;
            equal += tile[i] == token;
            before += tile[i] == token && base + i < row;
        }
        __syncthreads();
    }
    if (row >= rows)
        return;
    sorted[less + before] = row;
    if (before == 0) {
        counts[token] = equal;
        starts[token] = less;
    }
}

template <int V> __device__ __forceinline__ void add(const float (&x)[V], float (&to)[V])
{
#pragma unroll
    for (int e = 0; e < V; e++)
        to[e] += x[e];
}

/* Row i of a token's goes to sum i mod ABREAST; the sums are added in rising order. */
template <typename T, typename D, int V>
__global__ void __launch_bounds__(THREADS) embedding_sums(int64_t cols, const int32_t *counts, const int32_t *starts,
                                                          const int32_t *sorted, const T *dx, D *dtable, int beta)
{
    const int32_t count = counts[blockIdx.x];
    const int32_t *mine = sorted + (count ? starts[blockIdx.x] : 0);
    D *row = dtable + blockIdx.x * cols;
    if (beta && count == 0)
        return;
    for (int64_t c = (int64_t)threadIdx.x * V; c < cols; c += (int64_t)blockDim.x * V) {
        float sum[ABREAST][V] = {}, v[ABREAST][V];
        int32_t i = 0;
        for (; i + ABREAST <= count; i += ABREAST) {
#pragma unroll
            for (int j = 0; j < ABREAST; j++)
                load(dx + mine[i + j] * cols + c, v[j]);
#pragma unroll
            for (int j = 0; j < ABREAST; j++)
                add(v[j], sum[j]);
        }
#pragma unroll
        for (int j = 0; j < ABREAST; j++) {
            if (i + j < count) {
                load(dx + mine[i + j] * cols + c, v[j]);
                add(v[j], sum[j]);
            }
        }
#pragma unroll
        for (int j = 1; j < ABREAST; j++)
            add(sum[j], sum[0]);
        if (beta) {
            load(row + c, v[0]);
            add(v[0], sum[0]);
        }
        store(row + c, sum[0]);
    }
}

template <typename T, int V> int forward(void *stream, const sherd_embedding *a)
{
    return sherd__cuda_launch(stream, a->rows, sherd__cuda_row_threads((a->cols + V - 1) / V, THREADS), 0,
                              embedding_rows<T, V>, a->cols, a->tokens, (const T *)a->table, (T *)a->out);
}

template <typename T, typename D, int V> int sums(void *stream, const sherd_embedding *a)
{
    return sherd__cuda_launch(stream, a->vocab, sherd__cuda_row_threads((a->cols + V - 1) / V, THREADS), 0,
                              embedding_sums<T, D, V>, a->cols, a->order, a->order + a->vocab, a->order + 2 * a->vocab,
                              (const T *)a->dx, (D *)a->dtable, a->beta);
}

} // namespace

int sherd__cuda_embedding(void *stream, sherd_dtype type, const sherd_embedding *a)
{
    int wide = sherd__cuda_wide(a->cols, type == SHERD_FP32 ? 4 : 8, {a->table, a->out});
    if (type == SHERD_BF16)
        return wide ? forward<bf16, 8>(stream, a) : forward<bf16, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? forward<fp16, 8>(stream, a) : forward<fp16, 1>(stream, a);
    return wide ? forward<float, 4>(stream, a) : forward<float, 1>(stream, a);
}

int sherd__cuda_embedding_backward(void *stream, sherd_dtype type, const sherd_embedding *a)
{
    int wide = sherd__cuda_wide(a->cols, 8, {a->dx, a->dtable}), to_fp32 = a->dtable_type == SHERD_FP32;
    int code =
        sherd__cuda_launch(stream, (a->vocab + THREADS - 1) / THREADS, THREADS, 0, clear_counts, a->vocab, a->order);
    if (code == 0)
        code = sherd__cuda_launch(stream, (a->rows + THREADS - 1) / THREADS, THREADS, 0, sort_rows, (int32_t)a->rows,
                                  a->tokens, a->order, a->order + a->vocab, a->order + 2 * a->vocab);
    if (code != 0)
        return code;
    if (type == SHERD_FP32)
        return wide ? sums<float, float, 4>(stream, a) : sums<float, float, 1>(stream, a);
    if (type == SHERD_FP16 && to_fp32)
        return wide ? sums<fp16, float, 8>(stream, a) : sums<fp16, float, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? sums<fp16, fp16, 8>(stream, a) : sums<fp16, fp16, 1>(stream, a);
    if (to_fp32)
        return wide ? sums<bf16, float, 8>(stream, a) : sums<bf16, float, 1>(stream, a);
    return wide ? sums<bf16, bf16, 8>(stream, a) : sums<bf16, bf16, 1>(stream, a);
}
