/* SPDX-License-Identifier: MIT
 *
 * What stands for inline PTX of models/cuda_ptx.cuh: the same names. The fragments' layouts are those of the PTX ISA
 * (mma.m16n8k16 with bf16, mma.m16n8k8 with tf32, ldmatrix): with g = lane / 4 and t = lane % 4,
 *   A 16 × 16: register r holds row g + 8·(r & 1), columns 2t + 8·(r >> 1) and the next (low half first)
 *   B 16 × 8 : register r holds column g, rows 2t + 8·r and the next
 *   C 16 × 8 : element e holds row g + 8·(e >> 1), column 2t + (e & 1).
 * Products are exact in fp32 and summed in fp32 in rising k: a tensor core sums in an order of its own, with an error
 * of the same size, so results agree within bounds only.
 */
#ifndef SHERD_TESTS_SIMT_PTX_H
#define SHERD_TESTS_SIMT_PTX_H

namespace simt
{

struct mma_lane {
    uint32_t a[4], b[2];
    float c[4];
};

inline float widen(uint32_t pair, unsigned half)
{
    return simt__bits<float>(half ? pair & 0xFFFF0000u : pair << 16);
}

inline void mma_finish(void *data)
{
    mma_lane *lanes = static_cast<mma_lane *>(data);
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned r = 0; r < 4; r++)
            for (unsigned half = 0; half < 2; half++)
                a[g + 8 * (r & 1)][2 * t + 8 * (r >> 1) + half] = widen(lanes[lane].a[r], half);
        for (unsigned r = 0; r < 2; r++)
            for (unsigned half = 0; half < 2; half++)
                b[2 * t + 8 * r + half][g] = widen(lanes[lane].b[r], half);
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        for (unsigned e = 0; e < 4; e++) {
            unsigned row = lane / 4 + 8 * (e >> 1), col = 2 * (lane % 4) + (e & 1);
            float sum = lanes[lane].c[e];
            for (unsigned k = 0; k < 16; k++)
                sum += a[row][k] * b[k][col];
            lanes[lane].c[e] = sum;
        }
    }
}

struct ldmatrix_lane {
    const void *row; /* lane l: row l % 8 of matrix l / 8 */
    uint32_t r[4];
};

/* Reads after the meeting, by each lane for itself: the rows' addresses are what lanes exchange. */
inline void load_matrices(place at, uint32_t *r, unsigned matrices, const void *row, bool transposed)
{
    const void *const *rows = static_cast<const void *const *>(meet(at, 0xFFFFFFFFu, &row, sizeof row, nullptr));
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0)
        fault("%s:%d: %s: lane %u's row is not aligned to 16 bytes", at.file, at.line, at.what, now->lane);
    unsigned g = now->lane / 4, t = now->lane % 4;
    for (unsigned m = 0; m < matrices; m++) {
        uint16_t half[2];
        for (unsigned h = 0; h < 2; h++) {
            unsigned from = transposed ? 2 * t + h : g, col = transposed ? g : 2 * t + h;
            half[h] = static_cast<const uint16_t *>(rows[8 * m + from])[col];
        }
        r[m] = half[0] | (uint32_t)half[1] << 16;
    }
}

} // namespace simt

typedef uintptr_t sherd__shared; /* an address in shared memory */

static inline sherd__shared sherd__shared_address(const void *at)
{
    return reinterpret_cast<uintptr_t>(at);
}

/* c += a · b */
static inline void sherd__mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT__CALLER)
{
    simt::mma_lane lane = {{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
    const void *all = simt::meet(SIMT__AT("mma"), 0xFFFFFFFFu, &lane, sizeof lane, simt::mma_finish);
    memcpy(c, static_cast<const simt::mma_lane *>(all)[simt::now->lane].c, sizeof c);
}

static inline void sherd__ldmatrix_x4(uint32_t (&r)[4], sherd__shared row, SIMT__CALLER)
{
    simt::load_matrices(SIMT__AT("ldmatrix"), r, 4, reinterpret_cast<const void *>(row), false);
}

static inline void sherd__ldmatrix_x4_trans(uint32_t (&r)[4], sherd__shared row, SIMT__CALLER)
{
    simt::load_matrices(SIMT__AT("ldmatrix.trans"), r, 4, reinterpret_cast<const void *>(row), true);
}

/* 16 bytes, of which `valid` are read and the rest are zeros. */
static inline void sherd__copy_async(void *to, const void *from, unsigned valid, SIMT__CALLER)
{
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0 || valid > 16)
        simt::fault("%s:%d: cp.async: addresses are aligned to 16 bytes, and at most 16 are read", file, line);
    simt::async_copy(to, from, 16, valid);
}

static inline void sherd__copy_async_word(void *to, const void *from, unsigned valid, SIMT__CALLER)
{
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 4 != 0 || valid > 4)
        simt::fault("%s:%d: cp.async: addresses of a word are aligned to 4 bytes", file, line);
    simt::async_copy(to, from, 4, valid);
}

static inline void sherd__copy_async_commit()
{
    simt::async_commit();
}

template <unsigned GROUPS_LEFT> static inline void sherd__copy_async_wait()
{
    simt::async_wait(GROUPS_LEFT);
}

/* 2^x, the GPU's approximation. */
static inline float sherd__exp2_approx(float x)
{
    return std::exp2(x);
}

/* Two floats in one register, `low` in the low half, rounded to nearest even. */
static inline uint32_t sherd__bf16_pair(float low, float high)
{
    uint32_t bits[2] = {simt__bits<uint32_t>(low), simt__bits<uint32_t>(high)};
    for (uint32_t &b : bits)
        b = (b & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FFFu : (b + 0x7FFFu + (b >> 16 & 1)) >> 16;
    return bits[0] | bits[1] << 16;
}

#endif
