/* SPDX-License-Identifier: MIT
 *
 * A GPU's thread blocks on one CPU thread, so that tests run CUDA kernels themselves, compiled by a C++ compiler. Test
 * support only: it shows arithmetic, indexing and barriers; it is no GPU, and says nothing about speed or about what
 * nvcc makes of the source.
 *
 * Use. A .cu file needs no change: CMake's sherd_simt_library(NAME x SOURCES a.cu) compiles it as C++ with
 * this header included first. It provides __global__, __device__, __shared__, threadIdx …, barriers, shuffles, votes,
 * integer atomics, vector types, and cudaLaunchKernel and cudaFuncSetAttribute over typed kernel pointers. <<<>>> is
 * not C++: launch by cudaLaunchKernel(kernel, grid, block, pointers_to_arguments, shared_bytes, stream), as real CUDA's
 * template of that name. Dynamic shared memory is declared by SHERD_DYNAMIC_SHARED(type, name), which the kernels'
 * portable header defines as `extern __shared__ …` where this header has not. Inline PTX stands behind functions that
 * simt_ptx.h replaces.
 *
 * Execution. A launch is one item of the stub's stream. Blocks run one after another; a block's threads are fibres that
 * switch at barriers and warp operations only. Seed 0 runs blocks and threads in rising order, 1 in falling order, any
 * other in an order drawn anew all the time: a missing barrier or a dependence on order shows as a different result.
 * cp.async copies as late as its waits allow where the seed is even, at once where it is odd; a GPU may do either.
 * Shared memory begins as 0xFF bytes (a NaN); warp operations wait for all lanes of their mask.
 *
 * Faults end the program with a sentence, or are kept by simt_catch: a barrier or warp operation that not all threads
 * reach, or that they reach in different places; a write beyond dynamic shared memory (a guard behind it; under
 * AddressSanitizer reads too); a misaligned vector or ldmatrix address; __trap. A bad launch returns an error.
 */
#ifndef SHERD_TESTS_SIMT_H
#define SHERD_TESTS_SIMT_H

#define SHERD_SIMT 1

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

extern "C" {
#include "tests/support/cuda_stub/simt_control.h"
#include "tests/support/cuda_stub/stub.h"
}

#include "tests/support/cuda_stub/simt_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
/* Of the CPU thread, that is of the stream: the block that runs there is the only one. */
#define __shared__ static thread_local
#define SHERD_DYNAMIC_SHARED(type, name) type *const name = static_cast<type *>(simt::dynamic_shared())

namespace simt
{

struct place {
    const char *what, *file;
    int line;
};

struct thread {
    uint3 thread_idx, block_idx;
    dim3 block_dim, grid_dim;
    unsigned index, lane, warp; /* within the block */
};

extern __thread thread *now; /* the fibre that runs */

void *dynamic_shared();
int sync_block(place at, int yes); /* how many threads said yes */
/* All lanes of mask meet; then `in` of every lane (32 × bytes, by lane) is at the address returned, until this lane's
 * next but one operation. `finish`, if any, is called once, when the last has come, on these bytes. */
const void *meet(place at, unsigned mask, const void *in, size_t bytes, void (*finish)(void *all));
[[noreturn]] void fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Copies of this thread that have been issued and not waited for. */
void async_copy(void *to, const void *from, size_t bytes, size_t valid_bytes);
void async_commit();
void async_wait(unsigned groups_left);

struct grid {
    dim3 blocks, threads;
    size_t shared_bytes;
    void (*call)(const void *kernel_and_args); /* one thread of the kernel */
    const void *kernel_and_args;
};
void run_grid(const grid &grid);
cudaError_t check_launch(const void *kernel, dim3 blocks, dim3 threads, size_t shared_bytes);
cudaError_t allow_shared(const void *kernel, size_t bytes);

template <typename... Args> struct launch {
    void (*kernel)(Args...);
    dim3 blocks, threads;
    size_t shared_bytes;
    std::tuple<std::remove_cv_t<Args>...> args;
};

template <typename... Args> void call_thread(const void *at)
{
    const launch<Args...> *l = static_cast<const launch<Args...> *>(at);
    std::apply(l->kernel, l->args);
}

template <typename... Args> void run_launch(const void *at)
{
    const launch<Args...> *l = static_cast<const launch<Args...> *>(at);
    run_grid(grid{l->blocks, l->threads, l->shared_bytes, call_thread<Args...>, at});
}

template <typename... Args, size_t... I>
std::tuple<std::remove_cv_t<Args>...> gather(void **args, std::index_sequence<I...>)
{
    return {*static_cast<std::remove_cv_t<Args> *>(args[I])...};
}

/* What lane first + to gave; its own value where that is outside the group. A lane outside the mask is a fault, where
 * CUDA leaves the value open. */
template <typename T> T shuffle_to(place at, unsigned mask, T value, int first, int width, int to)
{
    static_assert(std::is_arithmetic<T>::value, "shuffles take numbers");
    const T *all = static_cast<const T *>(meet(at, mask, &value, sizeof value, nullptr));
    int from = to < 0 || to >= width ? (int)now->lane : first + to;
    if (!(mask >> from & 1))
        fault("%s:%d: %s reads lane %d, which mask 0x%08x leaves out", at.file, at.line, at.what, from, mask);
    return all[from];
}

inline unsigned ballot(place at, unsigned mask, int predicate)
{
    int value = predicate != 0;
    const int *all = static_cast<const int *>(meet(at, mask, &value, sizeof value, nullptr));
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        bits |= (mask >> lane & 1) && all[lane] ? 1u << lane : 0;
    return bits;
}

template <typename T, typename Op> T reduce(place at, unsigned mask, T value, Op op)
{
    const T *all = static_cast<const T *>(meet(at, mask, &value, sizeof value, nullptr));
    bool first = true;
    T sum = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        if (mask >> lane & 1) {
            sum = first ? all[lane] : op(sum, all[lane]);
            first = false;
        }
    }
    return sum;
}

} // namespace simt

#define threadIdx (simt::now->thread_idx)
#define blockIdx (simt::now->block_idx)
#define blockDim (simt::now->block_dim)
#define gridDim (simt::now->grid_dim)
#define warpSize 32

/* Where a barrier or warp operation was called: the default arguments are evaluated there. */
#define SIMT__CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()
#define SIMT__AT(what)                                                                                                 \
    simt::place                                                                                                        \
    {                                                                                                                  \
        what, file, line                                                                                               \
    }
static inline void __syncthreads(SIMT__CALLER)
{
    simt::sync_block(SIMT__AT("__syncthreads"), 0);
}
static inline int __syncthreads_count(int yes, SIMT__CALLER)
{
    return simt::sync_block(SIMT__AT("__syncthreads_count"), yes);
}
static inline int __syncthreads_or(int yes, SIMT__CALLER)
{
    return simt::sync_block(SIMT__AT("__syncthreads_or"), yes) > 0;
}
static inline int __syncthreads_and(int yes, SIMT__CALLER)
{
    return simt::sync_block(SIMT__AT("__syncthreads_and"), !yes) == 0;
}
static inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, SIMT__CALLER)
{
    simt::meet(SIMT__AT("__syncwarp"), mask, "", 1, nullptr);
}
static inline unsigned __ballot_sync(unsigned mask, int yes, SIMT__CALLER)
{
    return simt::ballot(SIMT__AT("__ballot_sync"), mask, yes);
}
static inline int __any_sync(unsigned mask, int yes, SIMT__CALLER)
{
    return simt::ballot(SIMT__AT("__any_sync"), mask, yes) != 0;
}
static inline int __all_sync(unsigned mask, int yes, SIMT__CALLER)
{
    return simt::ballot(SIMT__AT("__all_sync"), mask, !yes) == 0;
}

/* `to`: the lane's number within its group of `width`. */
#define SIMT__SHUFFLE(name, argument, to)                                                                              \
    template <typename T> static inline T name(unsigned mask, T value, argument, int width = warpSize, SIMT__CALLER)   \
    {                                                                                                                  \
        int lane = (int)simt::now->lane, first = lane / width * width;                                                 \
        return simt::shuffle_to(SIMT__AT(#name), mask, value, first, width, (to));                                     \
    }
SIMT__SHUFFLE(__shfl_sync, int from, from &(width - 1))
SIMT__SHUFFLE(__shfl_xor_sync, int bits, (lane ^ bits) - first)
SIMT__SHUFFLE(__shfl_up_sync, unsigned by, lane - first - (int)by)
SIMT__SHUFFLE(__shfl_down_sync, unsigned by, lane - first + (int)by)

#define SIMT__REDUCE(name, expression)                                                                                 \
    template <typename T> static inline T name(unsigned mask, T value, SIMT__CALLER)                                   \
    {                                                                                                                  \
        return simt::reduce(SIMT__AT(#name), mask, value, [](T a, T b) { return (T)(expression); });                   \
    }
SIMT__REDUCE(__reduce_add_sync, a + b)
SIMT__REDUCE(__reduce_min_sync, a < b ? a : b)
SIMT__REDUCE(__reduce_max_sync, a > b ? a : b)

static inline void __trap(SIMT__CALLER)
{
    simt::fault("%s:%d: __trap", file, line);
}

template <typename... Args>
cudaError_t cudaLaunchKernel(void (*kernel)(Args...), dim3 blocks, dim3 threads, void **args, size_t shared_bytes,
                             cudaStream_t stream)
{
    static_assert((std::is_trivially_copyable<std::remove_cv_t<Args>>::value && ...), "kernels take plain values");
    cudaError_t code = simt::check_launch(reinterpret_cast<const void *>(kernel), blocks, threads, shared_bytes);
    if (code != cudaSuccess)
        return code;
    simt::launch<Args...> l = {kernel, blocks, threads, shared_bytes,
                               simt::gather<Args...>(args, std::index_sequence_for<Args...>())};
    return cuda_stub_launch(stream, "cudaLaunchKernel", simt::run_launch<Args...>, &l, sizeof l);
}

template <typename... Args>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Args...), cudaFuncAttribute attribute, int value)
{
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess; /* a hint */
    return value < 0 ? cudaErrorInvalidValue
                     : simt::allow_shared(reinterpret_cast<const void *>(kernel), (size_t)value);
}

#include "tests/support/cuda_stub/simt_ptx.h"

#endif
