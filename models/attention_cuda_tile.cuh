/* SPDX-License-Identifier: MIT
 *
 * Tiles of attention on tensor cores: rows of D bf16 values in shared memory, loaded asynchronously, multiplied warp by
 * warp. A warp owns M tiles of 16 rows of its block's tile. What lies beyond the sequence or the head's dimension is
 * zero in shared memory.
 *
 * Bytes are moved in chunks of 16. A row's chunks are permuted (swizzle) so that the eight rows an ldmatrix reads at
 * the same column lie in different banks.
 */
#ifndef SHERD_MODELS_ATTENTION_CUDA_TILE_CUH
#define SHERD_MODELS_ATTENTION_CUDA_TILE_CUH

#include "models/attention_cuda_launch.h"
#include "models/cuda_portable.h"
#include "models/cuda_ptx.cuh"

namespace
{

enum { ATTENTION_THREADS = 128, ATTENTION_WARPS = ATTENTION_THREADS / 32 };

#define ATTENTION_FULL 0xFFFFFFFFu
#define ATTENTION_LOG2E 1.4426950408889634f

/* One head of one sequence in an array [batch · seq][heads · dim]. */
template <typename T> struct head_rows {
    T *first;
    int64_t stride;
    int rows, dim;

    __device__ __forceinline__ head_rows(T *array, const sherd__attention_args &a, int heads, int batch, int head)
        : first(array + ((int64_t)batch * a.seq * heads + head) * a.dim), stride((int64_t)heads * a.dim), rows(a.seq),
          dim(a.dim)
    {
    }
};

template <int D> __device__ __forceinline__ int chunk_at(int row, int chunk)
{
    int turned = D % 64 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3);
    return (row * (D / 8) + turned) * 8;
}

/* Rows [row, row + ROWS) of the head; a group for sherd__copy_async_wait once it is committed. */
template <int D, int ROWS>
__device__ __forceinline__ void load_tile(bf16 *tile, const head_rows<const bf16> &from, int row)
{
    enum { STEP = ATTENTION_THREADS / (D / 8) }; /* rows that all threads load at once */
    int r = (int)threadIdx.x / (D / 8), chunk = (int)threadIdx.x % (D / 8);
    const bf16 *at = from.first + (row + r) * from.stride + chunk * 8;
    int left = chunk * 8 < from.dim ? from.rows - row - r : 0;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++) {
        bool there = i * STEP < left;
        sherd__copy_async(tile + chunk_at<D>(r + i * STEP, chunk), there ? at : from.first, there ? 16 : 0);
        at += STEP * from.stride;
    }
}

/* Where this lane's row begins for ldmatrix, with rows counted from a multiple of 8; see step. By rows first: matrices
 * 0 and 1 are below each other, 2 and 3 to their right; else 0 and 1 are side by side, 2 and 3 below. */
template <int D> __device__ __forceinline__ sherd__shared lane_at(const bf16 *tile, int row, bool rows_first)
{
    int lane = (int)threadIdx.x % 32;
    return sherd__shared_address(tile + (rows_first ? chunk_at<D>(row + lane % 16, lane / 16)
                                                    : chunk_at<D>(row + lane % 8 + lane / 16 * 8, lane / 8 % 2)));
}

/* 16 columns times `columns` to the right and `rows` down: what the swizzle makes of it needs one operation. */
template <int D> __device__ __forceinline__ sherd__shared step(sherd__shared at, int columns, int rows)
{
    return (at ^ (sherd__shared)(columns % 4 * 32)) + (sherd__shared)(columns / 4 * 128 + rows * D * 2);
}

/* s[M · 16][N · 8] = a[rows from a_row][D] · b[rows from b_row][D]ᵀ */
template <int D, int M, int N>
__device__ __forceinline__ void multiply_turned(float (&s)[M][N][4], const bf16 *a, int a_row, const bf16 *b)
{
    sherd__shared a_at = lane_at<D>(a, a_row, true), b_at = lane_at<D>(b, 0, false);
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
            s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0.0f;
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
            sherd__ldmatrix_x4(left[m], step<D>(a_at, k, 16 * m));
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t right[4];
            sherd__ldmatrix_x4(right, step<D>(b_at, k, 8 * n));
#pragma unroll
            for (int m = 0; m < M; m++) {
                sherd__mma_bf16(s[m][n], left[m], right[0], right[1]);
                sherd__mma_bf16(s[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/* y[M · 16][D] += p[M · 16][N · 8] · b[N · 8][D]; p comes as it left multiply_turned, and is rounded to bf16. */
template <int D, int M, int N>
__device__ __forceinline__ void multiply_added(float (&y)[M][D / 8][4], const float (&p)[M][N][4], const bf16 *b)
{
    sherd__shared b_at = lane_at<D>(b, 0, true);
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) {
            left[m][0] = sherd__bf16_pair(p[m][2 * k][0], p[m][2 * k][1]);
            left[m][1] = sherd__bf16_pair(p[m][2 * k][2], p[m][2 * k][3]);
            left[m][2] = sherd__bf16_pair(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
            left[m][3] = sherd__bf16_pair(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            uint32_t right[4];
            sherd__ldmatrix_x4_trans(right, step<D>(b_at, n / 2, 16 * k));
#pragma unroll
            for (int m = 0; m < M; m++) {
                sherd__mma_bf16(y[m][n], left[m], right[0], right[1]);
                sherd__mma_bf16(y[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

template <int M, int N> __device__ __forceinline__ void clear(float (&y)[M][N][4])
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
            y[m][n][0] = y[m][n][1] = y[m][n][2] = y[m][n][3] = 0.0f;
}

/* Where a key comes after a query, the score is -inf. Rows of s are queries and columns are keys, or the other way. */
template <bool QUERIES_FIRST, int M, int N>
__device__ __forceinline__ void hide(float (&s)[M][N][4], int row, int column)
{
    int lane = (int)threadIdx.x % 32;
    int ahead = column + lane % 4 * 2 - row - lane / 4; /* of this lane's first element */
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int beyond = 16 * m + 8 * (e / 2) - 8 * n - e % 2;
                if (QUERIES_FIRST ? ahead > beyond : ahead < beyond)
                    s[m][n][e] = -INFINITY;
            }
}

/* The warp's rows to bf16 and to global memory by way of `tile`, whose rows from tile_row nobody but this warp uses. */
template <int D, int M>
__device__ __forceinline__ void store_rows(const float (&y)[M][D / 8][4], bf16 *tile, int tile_row,
                                           const head_rows<bf16> &to, int row)
{
    int lane = (int)threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                int at = chunk_at<D>(tile_row + 16 * m + 8 * half + lane / 4, n) + lane % 4 * 2;
                *reinterpret_cast<uint32_t *>(tile + at) = narrow_pair(y[m][n][2 * half], y[m][n][2 * half + 1]);
            }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < M * 16 * (D / 8) / 32; i++) {
        int index = i * 32 + lane, r = index / (D / 8), chunk = index % (D / 8);
        if (row + r < to.rows && chunk * 8 < to.dim)
            *reinterpret_cast<uint4 *>(to.first + (row + r) * to.stride + chunk * 8) =
                *reinterpret_cast<const uint4 *>(tile + chunk_at<D>(tile_row + r, chunk));
    }
}

/* Raises a kernel's limit of dynamic shared memory; below 99 KiB, which every GPU from sm_80 on has. */
template <typename Kernel> static int allow_shared(Kernel *kernel, int bytes)
{
    return (int)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

} // namespace

#endif
