/* SPDX-License-Identifier: MIT
 *
 * Causal attention backward on tensor cores, bf16, after FlashAttention-2, but in two passes, so that every sum has one
 * owner and one order and nothing is added atomically: `keys` makes dk and dv, one block for a tile of keys; `queries`
 * makes dq, one block for a tile of queries. Both compute the weights anew from lse: seven products where a pass with
 * atomics has five.
 *
 *   p = exp(scale · q·kᵀ − lse)   ds = p · (dout·vᵀ − delta)   dv = pᵀ·dout   dk = scale · dsᵀ·q   dq = scale · ds·k
 *
 * A warp owns rows of its block's tile (keys or queries) and has the tile's other side as columns: transposed weights
 * in `keys` come out of the first product as the second one's left operand, so weights never leave the registers. What
 * streams by (two arrays of N rows) is loaded one round ahead. In `keys` the rounds go over the query heads that share
 * the key head, and over their tiles of queries, both rising. Rows behind the sequence are zeros and add nothing.
 */
#include "models/attention_cuda_tile.cuh"

namespace
{

/* Two own tiles, two stages of two streamed tiles, two stages of two columns of lse and delta. */
template <int D, int M, int N> struct backward_shape {
    enum {
        ROWS = ATTENTION_WARPS * 16 * M,
        STAGE = 2 * N * D, /* elements */
        SHARED = (2 * ROWS * D + 2 * STAGE) * (int)sizeof(bf16) + 4 * N * (int)sizeof(float)
    };
};

template <int M, int N> __device__ __forceinline__ void scale_all(float (&y)[M][N][4], float factor)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                y[m][n][e] *= factor;
}

/* -------------------------------------------------------------------------------------------------------- dk and dv */

/* The streamed side of `keys`: a tile of queries of one head, and then the next. */
template <int D, int N> struct query_stream {
    const sherd__attention_args &a;
    int batch, first_row, row, head;

    __device__ __forceinline__ void load(bf16 *tiles, float *columns) const
    {
        int lane = (int)threadIdx.x;
        load_tile<D, N>(tiles, head_rows<const bf16>((const bf16 *)a.q, a, a.heads, batch, head), row);
        load_tile<D, N>(tiles + N * D, head_rows<const bf16>((const bf16 *)a.dout, a, a.heads, batch, head), row);
        if (lane < 2 * N) {
            const float *from = (lane < N ? a.lse : a.delta) + ((int64_t)batch * a.heads + head) * a.seq;
            bool there = row + lane % N < a.seq;
            sherd__copy_async_word(columns + lane, from + (there ? row + lane % N : 0), there ? 4 : 0);
        }
    }

    __device__ __forceinline__ void advance()
    {
        row += N;
        if (row >= a.seq) {
            row = first_row;
            head++;
        }
    }
};

/* Scores (keys × queries) to weights. */
template <int M, int N>
__device__ __forceinline__ void weigh_keys(float (&s)[M][N][4], const float *lse, float scale_log2)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
        float2 l = *reinterpret_cast<const float2 *>(lse + 8 * n + lane % 4 * 2);
        l.x *= ATTENTION_LOG2E;
        l.y *= ATTENTION_LOG2E;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[m][n][e] = sherd__exp2_approx(fmaf(s[m][n][e], scale_log2, -(e % 2 ? l.y : l.x)));
    }
}

/* ds in place of dp. */
template <int M, int N>
__device__ __forceinline__ void slope_keys(float (&dp)[M][N][4], const float (&p)[M][N][4], const float *delta)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N; n++) {
        float2 d = *reinterpret_cast<const float2 *>(delta + 8 * n + lane % 4 * 2);
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                dp[m][n][e] = p[m][n][e] * (dp[m][n][e] - (e % 2 ? d.y : d.x));
    }
}

template <int D, int M, int N>
__global__ void __launch_bounds__(ATTENTION_THREADS) keys(const __grid_constant__ sherd__attention_args a)
{
    typedef backward_shape<D, M, N> shape;
    static_assert(shape::ROWS % N == 0, "a tile of keys begins where a tile of queries does");
    SHERD_DYNAMIC_SHARED(bf16, k_tile);
    bf16 *v_tile = k_tile + shape::ROWS * D, *stages = v_tile + shape::ROWS * D;
    float *columns = reinterpret_cast<float *>(stages + 2 * shape::STAGE);
    int heads = a.batch * a.kv_heads, first = (int)blockIdx.x / heads * shape::ROWS;
    int batch = (int)blockIdx.x % heads / a.kv_heads, kv_head = (int)blockIdx.x % a.kv_heads;
    int group = a.heads / a.kv_heads, end = (kv_head + 1) * group;
    int warp_row = (int)threadIdx.x / 32 * 16 * M, row = first + warp_row, stage = 0;
    query_stream<D, N> stream = {a, batch, first, first, kv_head * group};

    float dk[M][D / 8][4], dv[M][D / 8][4];
    clear(dk);
    clear(dv);
    load_tile<D, shape::ROWS>(k_tile, head_rows<const bf16>((const bf16 *)a.k, a, a.kv_heads, batch, kv_head), first);
    load_tile<D, shape::ROWS>(v_tile, head_rows<const bf16>((const bf16 *)a.v, a, a.kv_heads, batch, kv_head), first);
    stream.load(stages, columns);
    sherd__copy_async_commit();
    while (stream.head < end) {
        const bf16 *q_tile = stages + stage * shape::STAGE, *dout_tile = q_tile + N * D;
        const float *lse = columns + stage * 2 * N;
        int query = stream.row;
        sherd__copy_async_wait<0>();
        __syncthreads(); /* this round's tiles are here, the last round's read */
        stream.advance();
        stage ^= 1;
        if (stream.head < end)
            stream.load(stages + stage * shape::STAGE, columns + stage * 2 * N);
        sherd__copy_async_commit();
        if (query + N <= row)
            continue; /* nobody here sees the warp's keys */
        float p[M][N / 8][4], ds[M][N / 8][4];
        multiply_turned<D>(p, k_tile, warp_row, q_tile);
        multiply_turned<D>(ds, v_tile, warp_row, dout_tile);
        if (query < row + 16 * M)
            hide<false>(p, row, query);
        weigh_keys(p, lse, a.scale_log2);
        multiply_added<D>(dv, p, dout_tile);
        slope_keys(ds, p, lse + N);
        multiply_added<D>(dk, ds, q_tile);
    }
    scale_all(dk, a.scale);
    store_rows<D>(dk, k_tile, warp_row, head_rows<bf16>((bf16 *)a.dk, a, a.kv_heads, batch, kv_head), row);
    store_rows<D>(dv, v_tile, warp_row, head_rows<bf16>((bf16 *)a.dv, a, a.kv_heads, batch, kv_head), row);
}

/* --------------------------------------------------------------------------------------------------------------- dq */

/* Of this thread's rows; behind the sequence 0, whose weights are finite and never stored. */
template <int M>
__device__ __forceinline__ void read_rows(float (&to)[M][2], const float *from, int row, int seq, float factor)
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int at = row + 16 * m + 8 * half + lane / 4;
            to[m][half] = at < seq ? from[at] * factor : 0.0f;
        }
}

/* ds in place of dp, from the scores (queries × keys). */
template <int M, int N>
__device__ __forceinline__ void slope_queries(float (&dp)[M][N][4], const float (&s)[M][N][4],
                                              const float (&lse_log2)[M][2], const float (&delta)[M][2],
                                              float scale_log2)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                dp[m][n][e] = sherd__exp2_approx(fmaf(s[m][n][e], scale_log2, -lse_log2[m][e / 2])) *
                              (dp[m][n][e] - delta[m][e / 2]);
}

template <int D, int M, int N>
__global__ void __launch_bounds__(ATTENTION_THREADS) queries(const __grid_constant__ sherd__attention_args a)
{
    typedef backward_shape<D, M, N> shape;
    SHERD_DYNAMIC_SHARED(bf16, q_tile);
    bf16 *dout_tile = q_tile + shape::ROWS * D, *stages = dout_tile + shape::ROWS * D;
    int heads = a.batch * a.heads, tiles = (int)gridDim.x / heads;
    int first = (tiles - 1 - (int)blockIdx.x / heads) * shape::ROWS;
    int batch = (int)blockIdx.x % heads / a.heads, head = (int)blockIdx.x % a.heads;
    int kv_head = head / (a.heads / a.kv_heads), warp_row = (int)threadIdx.x / 32 * 16 * M, row = first + warp_row;
    int rounds = (min(first + shape::ROWS, a.seq) + N - 1) / N;
    int64_t statistics = ((int64_t)batch * a.heads + head) * a.seq;
    head_rows<const bf16> k((const bf16 *)a.k, a, a.kv_heads, batch, kv_head);
    head_rows<const bf16> v((const bf16 *)a.v, a, a.kv_heads, batch, kv_head);

    float dq[M][D / 8][4], lse_log2[M][2], delta[M][2];
    clear(dq);
    load_tile<D, shape::ROWS>(q_tile, head_rows<const bf16>((const bf16 *)a.q, a, a.heads, batch, head), first);
    load_tile<D, shape::ROWS>(dout_tile, head_rows<const bf16>((const bf16 *)a.dout, a, a.heads, batch, head), first);
    load_tile<D, N>(stages, k, 0);
    load_tile<D, N>(stages + N * D, v, 0);
    sherd__copy_async_commit();
    read_rows(lse_log2, a.lse + statistics, row, a.seq, ATTENTION_LOG2E);
    read_rows(delta, a.delta + statistics, row, a.seq, 1.0f);
    for (int round = 0; round < rounds; round++) {
        const bf16 *k_tile = stages + round % 2 * shape::STAGE, *v_tile = k_tile + N * D;
        sherd__copy_async_wait<0>();
        __syncthreads(); /* this round's tiles are here, the last round's read */
        if (round + 1 < rounds) {
            bf16 *next = stages + (round + 1) % 2 * shape::STAGE;
            load_tile<D, N>(next, k, (round + 1) * N);
            load_tile<D, N>(next + N * D, v, (round + 1) * N);
        }
        sherd__copy_async_commit();
        if (round * N >= row + 16 * M)
            continue; /* the warp's queries see none of these keys */
        float s[M][N / 8][4], ds[M][N / 8][4];
        multiply_turned<D>(s, q_tile, warp_row, k_tile);
        multiply_turned<D>(ds, dout_tile, warp_row, v_tile);
        if ((round + 1) * N > row)
            hide<true>(s, row, round * N);
        slope_queries(ds, s, lse_log2, delta, a.scale_log2);
        multiply_added<D>(dq, ds, k_tile);
    }
    scale_all(dq, a.scale);
    store_rows<D>(dq, q_tile, warp_row, head_rows<bf16>((bf16 *)a.dq, a, a.heads, batch, head), row);
}

/* -------------------------------------------------------------------------------------------------------- launchers */

template <int D, int KM, int KN, int QM, int QN> static int prepare(void)
{
    int code = allow_shared(keys<D, KM, KN>, backward_shape<D, KM, KN>::SHARED);
    return code != (int)cudaSuccess ? code : allow_shared(queries<D, QM, QN>, backward_shape<D, QM, QN>::SHARED);
}

template <int D, int KM, int KN, int QM, int QN> static int launch(const sherd__attention_args *args, void *stream)
{
    typedef backward_shape<D, KM, KN> keys_shape;
    typedef backward_shape<D, QM, QN> queries_shape;
    int64_t tiles = (args->seq + keys_shape::ROWS - 1) / keys_shape::ROWS;
    int code = sherd__cuda_launch(stream, tiles * args->batch * args->kv_heads, ATTENTION_THREADS, keys_shape::SHARED,
                                  keys<D, KM, KN>, *args);
    if (code != (int)cudaSuccess)
        return code;
    tiles = (args->seq + queries_shape::ROWS - 1) / queries_shape::ROWS;
    return sherd__cuda_launch(stream, tiles * args->batch * args->heads, ATTENTION_THREADS, queries_shape::SHARED,
                              queries<D, QM, QN>, *args);
}

} // namespace

/* Largest dimension; then for `keys` and for `queries`: 16-row tiles a warp owns, rows of a streamed tile. */
#define MAP(X)                                                                                                         \
    X(32, 2, 32, 2, 64)                                                                                                \
    X(64, 2, 32, 2, 32)                                                                                                \
    X(128, 1, 32, 2, 32)

extern "C" int sherd__attention_mma_prepare_backward(int32_t dim)
{
#define X(D, KM, KN, QM, QN)                                                                                           \
    if (dim <= D)                                                                                                      \
        return prepare<D, KM, KN, QM, QN>();
    MAP(X)
#undef X
    return (int)cudaErrorInvalidValue;
}

extern "C" int sherd__attention_mma_backward(const sherd__attention_args *args, void *stream)
{
#define X(D, KM, KN, QM, QN)                                                                                           \
    if (args->dim <= D)                                                                                                \
        return launch<D, KM, KN, QM, QN>(args, stream);
    MAP(X)
#undef X
    return (int)cudaErrorInvalidValue;
}
