/* SPDX-License-Identifier: MIT
 *
 * CUDA's vector types, arithmetic and memory functions for simt.h. Atomics are those of integers: kernels that added
 * floating-point numbers atomically would not be deterministic, so they do not compile here.
 */
#ifndef SHERD_TESTS_SIMT_TYPES_H
#define SHERD_TESTS_SIMT_TYPES_H

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define SIMT__VECTORS(type, name, align)                                                                               \
    struct alignas(2 * sizeof(type)) name##2                                                                           \
    {                                                                                                                  \
        type x, y;                                                                                                     \
    };                                                                                                                 \
    struct alignas(align) name##4                                                                                      \
    {                                                                                                                  \
        type x, y, z, w;                                                                                               \
    };                                                                                                                 \
    static inline name##2 make_##name##2(type x, type y)                                                               \
    {                                                                                                                  \
        return {x, y};                                                                                                 \
    }                                                                                                                  \
    static inline name##4 make_##name##4(type x, type y, type z, type w)                                               \
    {                                                                                                                  \
        return {x, y, z, w};                                                                                           \
    }
SIMT__VECTORS(float, float, 16)
SIMT__VECTORS(int, int, 16)
SIMT__VECTORS(unsigned, uint, 16)
SIMT__VECTORS(unsigned short, ushort, 8)
SIMT__VECTORS(double, double, 16)
SIMT__VECTORS(long long, longlong, 16)
SIMT__VECTORS(unsigned long long, ulonglong, 16)

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9
};

/* ---------------------------------------------------------------------------------------------------------- numbers */

template <typename To, typename From> static inline To simt__bits(From value)
{
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &value, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x)
{
    return simt__bits<unsigned>(x);
}
static inline int __float_as_int(float x)
{
    return simt__bits<int>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return simt__bits<float>(x);
}
static inline float __int_as_float(int x)
{
    return simt__bits<float>(x);
}
static inline long long __double_as_longlong(double x)
{
    return simt__bits<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return simt__bits<double>(x);
}

template <typename A, typename B> static inline std::common_type_t<A, B> min(A a, B b)
{
    using C = std::common_type_t<A, B>;
    return (C)b < (C)a ? (C)b : (C)a;
}
template <typename A, typename B> static inline std::common_type_t<A, B> max(A a, B b)
{
    using C = std::common_type_t<A, B>;
    return (C)a < (C)b ? (C)b : (C)a;
}

/* Macros: glibc has functions of these names. */
#define __expf(x) std::exp((float)(x))
#define __logf(x) std::log((float)(x))
#define __log2f(x) std::log2((float)(x))
#define __sinf(x) std::sin((float)(x))
#define __cosf(x) std::cos((float)(x))

#define SIMT__MATH(name, args, ...)                                                                                    \
    static inline float name args                                                                                      \
    {                                                                                                                  \
        return __VA_ARGS__;                                                                                            \
    }
SIMT__MATH(rsqrtf, (float x), 1.0f / std::sqrt(x))
SIMT__MATH(__fdividef, (float a, float b), a / b)
SIMT__MATH(__frcp_rn, (float x), 1.0f / x)
SIMT__MATH(__fsqrt_rn, (float x), std::sqrt(x))
SIMT__MATH(__fdiv_rn, (float a, float b), a / b)
SIMT__MATH(__fmul_rn, (float a, float b), a *b)
SIMT__MATH(__fadd_rn, (float a, float b), a + b)
SIMT__MATH(__fsub_rn, (float a, float b), a - b)
SIMT__MATH(__fmaf_rn, (float a, float b, float c), std::fma(a, b, c))

static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}

/* ----------------------------------------------------------------------------------------------------------- memory */

#define SIMT__LOAD(name)                                                                                               \
    template <typename T> static inline T name(const T *at)                                                            \
    {                                                                                                                  \
        return *at;                                                                                                    \
    }
SIMT__LOAD(__ldg)
SIMT__LOAD(__ldcs)
SIMT__LOAD(__ldcg)
SIMT__LOAD(__ldca)
SIMT__LOAD(__ldlu)
SIMT__LOAD(__ldcv)

#define SIMT__STORE(name)                                                                                              \
    template <typename T> static inline void name(T *at, T value)                                                      \
    {                                                                                                                  \
        *at = value;                                                                                                   \
    }
SIMT__STORE(__stcs)
SIMT__STORE(__stcg)
SIMT__STORE(__stwb)
SIMT__STORE(__stwt)

static inline void __threadfence()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
static inline void __threadfence_block() {}
static inline void __threadfence_system()
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* Other streams' kernels may run at the same time, so these are real ones. */
#define SIMT__ATOMIC(name, expression)                                                                                 \
    template <typename T, typename V> static inline T name(T *at, V given)                                             \
    {                                                                                                                  \
        static_assert(std::is_integral<T>::value, "atomics of integers only: those of floats have no order");          \
        T value = (T)given, old = __atomic_load_n(at, __ATOMIC_RELAXED);                                               \
        while (!__atomic_compare_exchange_n(at, &old, (T)(expression), 0, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {       \
        }                                                                                                              \
        return old;                                                                                                    \
    }
SIMT__ATOMIC(atomicAdd, old + value)
SIMT__ATOMIC(atomicSub, old - value)
SIMT__ATOMIC(atomicMin, value < old ? value : old)
SIMT__ATOMIC(atomicMax, old < value ? value : old)
SIMT__ATOMIC(atomicAnd, old &value)
SIMT__ATOMIC(atomicOr, old | value)
SIMT__ATOMIC(atomicXor, old ^ value)
SIMT__ATOMIC(atomicExch, value)

template <typename T> static inline T atomicCAS(T *at, T expected, T value)
{
    static_assert(std::is_integral<T>::value, "atomics of integers only");
    __atomic_compare_exchange_n(at, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

#endif
