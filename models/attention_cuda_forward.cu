/* SPDX-License-Identifier: MIT
 *
 * Causal attention forward on tensor cores, bf16: the recurrence is Milakov and Gimelshein's online softmax, the
 * division of work FlashAttention-2's. A block has 128 threads and one tile of queries of one head, 16 or 32 rows to a
 * warp; it goes over the keys in tiles of K, in rising order, so a row's first tile holds a key it sees and its maximum
 * is finite ever after. Loads and products take turns: V arrives while q · kᵀ is computed, the next K during softmax
 * and p · v. Scores and sums are fp32; p is rounded to bf16 for its product, its sum is not.
 *
 * Tiles beyond the diagonal are never loaded, and a warp skips what lies beyond its own rows. Blocks with most keys
 * come first. Each row's order of additions depends on seq alone.
 */
#include "models/attention_cuda_tile.cuh"

namespace
{

template <int D, int M, int K> struct forward_shape {
    enum { ROWS = ATTENTION_WARPS * 16 * M, SHARED = (ROWS + 2 * K) * D * (int)sizeof(bf16) };
};

/* Scores to weights; what was summed before shrinks to the new maximum. `sum` is this thread's part of its rows. */
template <int D, int M, int N>
__device__ __forceinline__ void soften(float (&s)[M][N][4], float (&o)[M][D / 8][4], float (&highest)[M][2],
                                       float (&sum)[M][2], float scale_log2)
{
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = highest[m][half];
#pragma unroll
            for (int n = 0; n < N; n++)
                top = fmaxf(top, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            top = fmaxf(top, __shfl_xor_sync(ATTENTION_FULL, top, 1));
            top = fmaxf(top, __shfl_xor_sync(ATTENTION_FULL, top, 2));
            float shrink = sherd__exp2_approx((highest[m][half] - top) * scale_log2), base = top * scale_log2;
            highest[m][half] = top;
            sum[m][half] *= shrink;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[m][n][2 * half] *= shrink;
                o[m][n][2 * half + 1] *= shrink;
            }
#pragma unroll
            for (int n = 0; n < N; n++) {
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    s[m][n][e] = sherd__exp2_approx(fmaf(s[m][n][e], scale_log2, -base));
                    sum[m][half] += s[m][n][e];
                }
            }
        }
    }
}

/* Row sums over the four threads that share a row; divides by them and writes lse. */
template <int D, int M>
__device__ __forceinline__ void finish(float (&o)[M][D / 8][4], const float (&highest)[M][2], const float (&sum)[M][2],
                                       float scale, float *lse, int row, int seq)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float all = sum[m][half];
            all += __shfl_xor_sync(ATTENTION_FULL, all, 1);
            all += __shfl_xor_sync(ATTENTION_FULL, all, 2);
            float factor = 1.0f / all;
            int at = row + 16 * m + 8 * half + lane / 4;
            if (lane % 4 == 0 && at < seq)
                lse[at] = fmaf(highest[m][half], scale, logf(all));
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                o[m][n][2 * half] *= factor;
                o[m][n][2 * half + 1] *= factor;
            }
        }
    }
}

template <int D, int M, int K>
__global__ void __launch_bounds__(ATTENTION_THREADS) forward(const __grid_constant__ sherd__attention_args a)
{
    typedef forward_shape<D, M, K> shape;
    SHERD_DYNAMIC_SHARED(bf16, q_tile);
    bf16 *k_tile = q_tile + shape::ROWS * D, *v_tile = k_tile + K * D;
    int heads = a.batch * a.heads, tiles = (int)gridDim.x / heads, tile = tiles - 1 - (int)blockIdx.x / heads;
    int batch = (int)blockIdx.x % heads / a.heads, head = (int)blockIdx.x % a.heads;
    int kv_head = head / (a.heads / a.kv_heads), first = tile * shape::ROWS;
    head_rows<const bf16> q((const bf16 *)a.q, a, a.heads, batch, head);
    head_rows<const bf16> k((const bf16 *)a.k, a, a.kv_heads, batch, kv_head);
    head_rows<const bf16> v((const bf16 *)a.v, a, a.kv_heads, batch, kv_head);
    int warp_row = (int)threadIdx.x / 32 * 16 * M, row = first + warp_row;
    int end = min(first + shape::ROWS, a.seq);

    float o[M][D / 8][4], highest[M][2], sum[M][2];
    clear(o);
#pragma unroll
    for (int m = 0; m < M; m++) {
        highest[m][0] = highest[m][1] = -INFINITY;
        sum[m][0] = sum[m][1] = 0.0f;
    }
    load_tile<D, shape::ROWS>(q_tile, q, first);
    load_tile<D, K>(k_tile, k, 0);
    sherd__copy_async_commit();
    for (int key = 0; key < end; key += K) {
        bool seen = key < row + 16 * M;
        float s[M][K / 8][4];
        sherd__copy_async_wait<0>();
        __syncthreads(); /* K is here, and V of the last round read */
        load_tile<D, K>(v_tile, v, key);
        sherd__copy_async_commit();
        if (seen)
            multiply_turned<D>(s, q_tile, warp_row, k_tile);
        sherd__copy_async_wait<0>();
        __syncthreads(); /* V is here, and K read */
        if (key + K < end)
            load_tile<D, K>(k_tile, k, key + K);
        sherd__copy_async_commit();
        if (seen) {
            if (key + K > row)
                hide<true>(s, row, key);
            soften<D>(s, o, highest, sum, a.scale_log2);
            multiply_added<D>(o, s, v_tile);
        }
    }
    finish<D>(o, highest, sum, a.scale, a.lse + ((int64_t)batch * a.heads + head) * a.seq, row, a.seq);
    store_rows<D>(o, q_tile, warp_row, head_rows<bf16>((bf16 *)a.out, a, a.heads, batch, head), row);
}

template <int D, int M, int K> static int launch(const sherd__attention_args *args, void *stream)
{
    typedef forward_shape<D, M, K> shape;
    int64_t tiles = (args->seq + shape::ROWS - 1) / shape::ROWS;
    return sherd__cuda_launch(stream, tiles * args->batch * args->heads, ATTENTION_THREADS, shape::SHARED,
                              forward<D, M, K>, *args);
}

} // namespace

#define MAP(X, dim)                                                                                                    \
    X(dim, 32, 2, 64)                                                                                                  \
    X(dim, 64, 2, 64)                                                                                                  \
    X(dim, 128, 2, 48)

extern "C" int sherd__attention_mma_prepare_forward(int32_t dim)
{
#define X(dim, D, M, K)                                                                                                \
    if (dim <= D)                                                                                                      \
        return allow_shared(forward<D, M, K>, forward_shape<D, M, K>::SHARED);
    MAP(X, dim)
#undef X
    return (int)cudaErrorInvalidValue;
}

extern "C" int sherd__attention_mma_forward(const sherd__attention_args *args, void *stream)
{
#define X(dim, D, M, K)                                                                                                \
    if (dim <= D)                                                                                                      \
        return launch<D, M, K>(args, stream);
    MAP(X, args->dim)
#undef X
    return (int)cudaErrorInvalidValue;
}
