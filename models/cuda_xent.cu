/* SPDX-License-Identifier: MIT
 *
 * Cross-entropy: a block per row of logits. One pass finds the highest value and the sum of exponentials relative to it
 * (each thread keeps both for what it has seen, then they are combined in a fixed order); a second one, from the cache,
 * writes the gradient.
 */
#include "models/cuda_ops.h"
#include "models/cuda_portable.h"

#define THREADS 512
#define LOWEST (-INFINITY)

namespace
{

/* Σ exp(x − high). */
struct tail {
    float high, sum;
};

/* exp(x − high), also where both are infinite. */
__device__ __forceinline__ float relative(float x, float high)
{
    return x == high ? 1.0f : expf(x - high);
}

__device__ __forceinline__ tail join(tail a, tail b)
{
    /* a NaN must not lose the comparison: it stays in the sums */
    const float high = a.high > b.high ? a.high : b.high;
    return {high, a.sum * relative(a.high, high) + b.sum * relative(b.high, high)};
}

__device__ __forceinline__ tail block_join(tail t, tail *shared)
{
#pragma unroll
    for (int o = 16; o > 0; o /= 2) {
        tail other = {__shfl_xor_sync(0xFFFFFFFFu, t.high, o), __shfl_xor_sync(0xFFFFFFFFu, t.sum, o)};
        /* the lower lane's first, so that both compute the same */
        t = threadIdx.x & (unsigned)o ? join(other, t) : join(t, other);
    }
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = t;
    __syncthreads();
    t = shared[0];
    for (unsigned w = 1; w < blockDim.x / 32; w++)
        t = join(t, shared[w]);
    return t;
}

template <int V> __device__ __forceinline__ tail scan(const float *x, int64_t n)
{
    tail t = {LOWEST, 0.0f};
    float v[V];
    for (int64_t c = (int64_t)threadIdx.x * V; c < n; c += (int64_t)blockDim.x * V) {
        load(x + c, v);
        float high = t.high;
#pragma unroll
        for (int i = 0; i < V; i++)
            high = v[i] > high ? v[i] : high;
        float sum = t.sum * relative(t.high, high);
#pragma unroll
        for (int i = 0; i < V; i++)
            sum += relative(v[i], high);
        t = {high, sum};
    }
    return t;
}

/* dlogits may be the logits: a thread reads what it writes, and the target's logit is read before. */
template <typename T, int V>
__global__ void __launch_bounds__(THREADS)
    xent_rows(int64_t vocab, const float *logits, const int32_t *targets, float scale, T *dlogits, double *losses)
{
    __shared__ tail parts[THREADS / 32];
    const float *x = logits + blockIdx.x * vocab;
    const int64_t target = targets[blockIdx.x];
    const float at_target = x[target];
    const tail t = block_join(scan<V>(x, vocab), parts);
    if (threadIdx.x == 0)
        losses[blockIdx.x] = log((double)t.sum) + (double)t.high - (double)at_target;
    if (!dlogits)
        return;
    T *d = dlogits + blockIdx.x * vocab;
    const float factor = scale / t.sum;
    float v[V];
    for (int64_t c = (int64_t)threadIdx.x * V; c < vocab; c += (int64_t)blockDim.x * V) {
        load(x + c, v);
#pragma unroll
        for (int i = 0; i < V; i++) {
            v[i] = relative(v[i], t.high) * factor;
            if (c + i == target)
                v[i] -= scale;
        }
        store(d + c, v);
    }
}

template <typename T, int V> int run(void *stream, const sherd_xent *a)
{
    return sherd__cuda_launch(stream, a->rows, sherd__cuda_row_threads((a->vocab + V - 1) / V, THREADS), 0,
                              xent_rows<T, V>, a->vocab, a->logits, a->targets, a->scale, (T *)a->dlogits, a->losses);
}

} // namespace

int sherd__cuda_cross_entropy(void *stream, sherd_dtype type, const sherd_xent *a)
{
    int wide = sherd__cuda_wide(a->vocab, type == SHERD_FP32 ? 4 : 8, {a->logits, a->dlogits});
    if (type == SHERD_BF16)
        return wide ? run<bf16, 8>(stream, a) : run<bf16, 1>(stream, a);
    if (type == SHERD_FP16)
        return wide ? run<fp16, 8>(stream, a) : run<fp16, 1>(stream, a);
    return wide ? run<float, 4>(stream, a) : run<float, 1>(stream, a);
}
