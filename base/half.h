/* SPDX-License-Identifier: MIT
 *
 * bf16 and its one narrowing rule, the same bits in gcc, clang and nvcc: (bits + 0x8000) >> 16, nearest, ties away from
 * zero; a NaN becomes 0x7FC0.
 */
#ifndef SHERD_BASE_HALF_H
#define SHERD_BASE_HALF_H

#include <stdint.h>

#if defined(__CUDACC__)
#define SHERD__HD __host__ __device__
#else
#define SHERD__HD
#endif

/* a b + c with one rounding. A source for processors without the instruction may bring its own (optim/fma.h). */
#if !defined(SHERD__FMAF)
#define SHERD__FMAF(a, b, c) fmaf(a, b, c)
#endif

static inline SHERD__HD uint32_t sherd__bits_of_f32(float value)
{
    union { float f; uint32_t u; } pun;
    pun.f = value;
    return pun.u;
}

static inline SHERD__HD float sherd__f32_of_bits(uint32_t bits)
{
    union { uint32_t u; float f; } pun;
    pun.u = bits;
    return pun.f;
}

static inline SHERD__HD float sherd__f32_of_bf16(uint16_t value) { return sherd__f32_of_bits((uint32_t)value << 16); }

static inline SHERD__HD uint16_t sherd__bf16_of_f32(float value)
{
    uint32_t bits = sherd__bits_of_f32(value);
    uint16_t rounded = (uint16_t)((bits + 0x8000u) >> 16);
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)0x7FC0u : rounded;
}

#endif
