/* SPDX-License-Identifier: MIT
 *
 * RMSNorm. A block per row forward and for the gradient of x; the row is read twice, the second time from the cache.
 * The gradient of the weight is summed in two steps of fixed order: runs of SHERD_NORM_ROWS rows, then the runs.
 */
#include "models/cuda_ops.h"
#include "models/cuda_portable.h"

#define ROW_THREADS 256
#define RUN_THREADS 128
#define SUM_THREADS 256 /* 32 columns, 8 parts of the runs */
#define SUM_PARTS (SUM_THREADS / 32)

namespace
{

template <typename T, int V>
__global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_rows(int64_t cols, float eps, const T *x, const T *w, T *y, float *rstd)
{
    __shared__ float parts[ROW_THREADS / 32];
    const T *row = x + blockIdx.x * cols;
    T *out = y + blockIdx.x * cols;
    float v[V], g[V], square = 0.0f;
    for (int64_t c = (int64_t)threadIdx.x * V; c < cols; c += (int64_t)blockDim.x * V) {
        load(row + c, v);
#pragma unroll
        for (int i = 0; i < V; i++)
            square += v[i] * v[i];
    }
    square = block_sum(square, parts);
    float r = 1.0f / sqrtf(square / (float)cols + eps);
    if (threadIdx.x == 0)
        rstd[blockIdx.x] = r;
    for (int64_t c = (int64_t)threadIdx.x * V; c < cols; c += (int64_t)blockDim.x * V) {
        load(row + c, v);
        load(w + c, g);
#pragma unroll
        for (int i = 0; i < V; i++)
            v[i] = v[i] * r * g[i];
        store(out + c, v);
    }
}

/* dx (+)= (w·dy − x·s)·r with s = r²·Σ(x·w·dy)/cols. */
template <typename T, int V>
__global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_dx(int64_t cols, const T *x, const T *w, const float *rstd, const float *dy, T *dx, int clear)
{
    __shared__ float parts[ROW_THREADS / 32];
    const int64_t at = blockIdx.x * cols;
    const float r = rstd[blockIdx.x];
    float xv[V], wv[V], dv[V], out[V], dot = 0.0f;
    for (int64_t c = (int64_t)threadIdx.x * V; c < cols; c += (int64_t)blockDim.x * V) {
        load(x + at + c, xv);
        load(w + c, wv);
        load(dy + at + c, dv);
#pragma unroll
        for (int i = 0; i < V; i++)
            dot += xv[i] * wv[i] * dv[i];
    }
    float s = r * r * block_sum(dot, parts) / (float)cols;
    for (int64_t c = (int64_t)threadIdx.x * V; c < cols; c += (int64_t)blockDim.x * V) {
        load(x + at + c, xv);
        load(w + c, wv);
        load(dy + at + c, dv);
        if (!clear)
            load(dx + at + c, out);
#pragma unroll
        for (int i = 0; i < V; i++) {
            float term = (wv[i] * dv[i] - xv[i] * s) * r;
            out[i] = clear ? term : out[i] + term;
        }
        store(dx + at + c, out);
    }
}

/* blockIdx.x is run · tiles + tile of columns. */
template <typename T, int V>
__global__ void __launch_bounds__(RUN_THREADS) rmsnorm_runs(int64_t rows, int64_t cols, int64_t tiles, const T *x,
                                                            const float *rstd, const float *dy, float *partials)
{
    const int64_t run = blockIdx.x / tiles, c = (blockIdx.x % tiles * RUN_THREADS + threadIdx.x) * V;
    const int64_t begin = run * SHERD_NORM_ROWS;
    const int64_t end = begin + SHERD_NORM_ROWS < rows ? begin + SHERD_NORM_ROWS : rows;
    float xv[V], dv[V], sum[V] = {};
    if (c >= cols)
        return;
#pragma unroll 4
    for (int64_t row = begin; row < end; row++) {
        const float r = rstd[row];
        load(x + row * cols + c, xv);
        load(dy + row * cols + c, dv);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum[i] += dv[i] * xv[i] * r;
    }
    store(partials + run * cols + c, sum);
}

/* A warp reads 32 neighbouring columns; part p takes the runs p, p + 8, …; the parts are added in rising order. */
template <typename D>
__global__ void __launch_bounds__(SUM_THREADS)
    rmsnorm_dw(int64_t runs, int64_t cols, const float *partials, D *dw, int beta)
{
    __shared__ float parts[SUM_PARTS][33];
    const int lane = (int)threadIdx.x % 32, part = (int)threadIdx.x / 32;
    const int64_t c = (int64_t)blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (c < cols) {
#pragma unroll 4
        for (int64_t run = part; run < runs; run += SUM_PARTS)
            sum += partials[run * cols + c];
    }
    parts[part][lane] = sum;
    __syncthreads();
    if (part != 0 || c >= cols)
        return;
    float value[1] = {0.0f};
    if (beta)
        load(dw + c, value);
    for (int p = 1; p < SUM_PARTS; p++)
        sum += parts[p][lane];
    value[0] = beta ? value[0] + sum : sum;
    store(dw + c, value);
}

template <typename T, int V> int forward(void *stream, const sherd_rmsnorm *a)
{
    return sherd__cuda_launch(stream, a->rows, sherd__cuda_row_threads((a->cols + V - 1) / V, ROW_THREADS), 0,
                              rmsnorm_rows<T, V>, a->cols, a->eps, (const T *)a->x, (const T *)a->w, (T *)a->y,
                              a->rstd);
}

template <typename T, int V> int backward(void *stream, const sherd_rmsnorm *a)
{
    const int64_t runs = (a->rows + SHERD_NORM_ROWS - 1) / SHERD_NORM_ROWS;
    const int64_t tiles = (a->cols + RUN_THREADS * V - 1) / (RUN_THREADS * V), blocks = (a->cols + 31) / 32;
    const T *x = (const T *)a->x;
    int code = sherd__cuda_launch(stream, runs * tiles, RUN_THREADS, 0, rmsnorm_runs<T, V>, a->rows, a->cols, tiles, x,
                                  a->rstd, a->dy, a->partials);
    if (code == 0)
        code =
            sherd__cuda_launch(stream, a->rows, sherd__cuda_row_threads((a->cols + V - 1) / V, ROW_THREADS), 0,
                               rmsnorm_dx<T, V>, a->cols, x, (const T *)a->w, a->rstd, a->dy, (T *)a->dx, a->dx_clear);
    if (code != 0)
        return code;
    if (a->dw_type == SHERD_FP32)
        return sherd__cuda_launch(stream, blocks, SUM_THREADS, 0, rmsnorm_dw<float>, runs, a->cols, a->partials,
                                  (float *)a->dw, a->dw_beta);
    if (a->dw_type == SHERD_FP16)
        return sherd__cuda_launch(stream, blocks, SUM_THREADS, 0, rmsnorm_dw<fp16>, runs, a->cols, a->partials,
                                  (fp16 *)a->dw, a->dw_beta);
    return sherd__cuda_launch(stream, blocks, SUM_THREADS, 0, rmsnorm_dw<bf16>, runs, a->cols, a->partials,
                              (bf16 *)a->dw, a->dw_beta);
}

} // namespace

int sherd__cuda_rmsnorm(void *stream, sherd_dtype type, const sherd_rmsnorm *a)
{
    int wide = sherd__cuda_wide(a->cols, type == SHERD_FP32 ? 4 : 8, {a->x, a->w, a->y});
    if (type == SHERD_BF16)
        return wide ? forward<bf16, 8>(stream, a) : forward<bf16, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? forward<fp16, 8>(stream, a) : forward<fp16, 1>(stream, a);
    return wide ? forward<float, 4>(stream, a) : forward<float, 1>(stream, a);
}

int sherd__cuda_rmsnorm_backward(void *stream, sherd_dtype type, const sherd_rmsnorm *a)
{
    int wide = sherd__cuda_wide(a->cols, type == SHERD_FP32 ? 4 : 8, {a->x, a->w, a->dx, a->dy, a->partials});
    if (type == SHERD_BF16)
        return wide ? backward<bf16, 8>(stream, a) : backward<bf16, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? backward<fp16, 8>(stream, a) : backward<fp16, 1>(stream, a);
    return wide ? backward<float, 4>(stream, a) : backward<float, 1>(stream, a);
}
