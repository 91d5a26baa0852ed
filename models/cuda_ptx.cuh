/* SPDX-License-Identifier: MIT
 *
 * The instructions of sm_80 and later that CUDA C has no name for, one function each. Layouts of fragments are those of
 * the PTX ISA. On the host the emulator of the tests has functions of the same names.
 */
#ifndef SHERD_MODELS_CUDA_PTX_CUH
#define SHERD_MODELS_CUDA_PTX_CUH

#if !defined(SHERD_SIMT)

typedef uint32_t sherd__shared; /* an address in shared memory */

static __device__ __forceinline__ sherd__shared sherd__shared_address(const void *at)
{
    return (uint32_t)__cvta_generic_to_shared(at);
}

/* c += a · b for 16 × 16 times 16 × 8, bf16 in, fp32 out. */
static __device__ __forceinline__ void sherd__mma_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Four 8 × 8 matrices; lane l names row l % 8 of matrix l / 8. */
static __device__ __forceinline__ void sherd__ldmatrix_x4(uint32_t (&r)[4], sherd__shared row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row));
}

static __device__ __forceinline__ void sherd__ldmatrix_x4_trans(uint32_t (&r)[4], sherd__shared row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row));
}

/* 16 bytes to shared memory, of which `valid` are read and the rest are zeros. */
static __device__ __forceinline__ void sherd__copy_async(void *to, const void *from, unsigned valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sherd__shared_address(to)), "l"(from), "r"(valid)
                 : "memory");
}

/* 4 bytes, or a zero. */
static __device__ __forceinline__ void sherd__copy_async_word(void *to, const void *from, unsigned valid)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(sherd__shared_address(to)), "l"(from), "r"(valid)
                 : "memory");
}

static __device__ __forceinline__ void sherd__copy_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most so many of this thread's last groups are under way. */
template <unsigned GROUPS_LEFT> static __device__ __forceinline__ void sherd__copy_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS_LEFT) : "memory");
}

static __device__ __forceinline__ float sherd__exp2_approx(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two floats in one register, `low` in the low half, rounded to nearest even. */
static __device__ __forceinline__ uint32_t sherd__bf16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

#endif
#endif
