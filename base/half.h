/* SPDX-License-Identifier: MIT
 *
 * The 16-bit types and their one narrowing rule each, the same bits in gcc, clang and nvcc. bf16: (bits + 0x8000) >> 16,
 * nearest, ties away from zero; a NaN becomes 0x7FC0. fp16: nearest, ties to even, as processors do it; beyond the largest
 * value infinity, subnormals kept, a NaN becomes 0x7E00.
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

/* What bf16 leaves of an fp32 value: bits = (half << 16) + remainder, remainder in [-0x8000, 0x7FFF]. Rounding adds
 * 0x8000 and drops the low 16 bits, so these 16 bits, taken as a signed number, are the difference. Every value comes
 * back with all its bits but a NaN, which is 0x7FC00000 then. (docs/numerics.md) */
static inline SHERD__HD uint16_t sherd__remainder_of_f32(float value)
{
    uint32_t bits = sherd__bits_of_f32(value);
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)0 : (uint16_t)bits;
}

static inline SHERD__HD float sherd__f32_of_halves(uint16_t half, uint16_t remainder)
{
    return sherd__f32_of_bits(((uint32_t)half << 16) + ((uint32_t)remainder ^ 0x8000u) - 0x8000u);
}

/* No branches, so that loops over it become vector code. Exponents move by a multiplication, which is exact and brings
 * subnormals along. */
static inline SHERD__HD float sherd__f32_of_f16(uint16_t value)
{
    uint32_t magnitude = (uint32_t)(value & 0x7FFFu) << 13, sign = (uint32_t)(value & 0x8000u) << 16;
    uint32_t finite = sherd__bits_of_f32(sherd__f32_of_bits(magnitude) * 0x1p112f);
    return sherd__f32_of_bits(sign | ((value & 0x7C00u) == 0x7C00u ? magnitude | 0x7F800000u : finite));
}

/* Normal results: half of the last bit less one, and one more where that bit is odd, carry into what is kept. Subnormal
 * ones: adding 1/2 leaves 2^-24, their unit, as the last bit of fp32, and rounds there. */
static inline SHERD__HD uint16_t sherd__f16_of_f32(float value)
{
    uint32_t bits = sherd__bits_of_f32(value), magnitude = bits & 0x7FFFFFFFu;
    uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + (magnitude >> 13 & 1u)) >> 13;
    uint32_t subnormal = sherd__bits_of_f32(sherd__f32_of_bits(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
    uint32_t half = (bits >> 16 & 0x8000u) | (magnitude >= 0x47800000u ? 0x7C00u : finite);
    return (uint16_t)(magnitude > 0x7F800000u ? 0x7E00u : half);
}

#endif
