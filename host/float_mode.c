/* SPDX-License-Identifier: MIT
 *
 * The floating-point mode is part of the bits: a client that runs with flush-to-zero or another rounding must get the
 * same results from work that the library does on the client's thread. The register is per thread, so entering and
 * leaving are two instructions and no lock.
 */
#include "host/team.h"

#if defined(__x86_64__)
#include <xmmintrin.h>

/* Round to nearest even, subnormals kept, all exceptions masked: the state a process starts with. */
#define MODE_DEFAULT 0x1F80u

uint64_t sherd__float_mode_enter(void)
{
    uint64_t former = _mm_getcsr();
    if (former != MODE_DEFAULT)
        _mm_setcsr(MODE_DEFAULT);
    return former;
}

void sherd__float_mode_leave(uint64_t former)
{
    _mm_setcsr((unsigned int)former);
}

#elif defined(__aarch64__)

uint64_t sherd__float_mode_enter(void)
{
    uint64_t former;
    __asm__ volatile("mrs %0, fpcr" : "=r"(former));
    if (former != 0)
        __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return former;
}

void sherd__float_mode_leave(uint64_t former)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(former));
}

#else
#include <fenv.h>

uint64_t sherd__float_mode_enter(void)
{
    int former = fegetround();
    (void)fesetround(FE_TONEAREST);
    return (uint64_t)former;
}

void sherd__float_mode_leave(uint64_t former)
{
    (void)fesetround((int)former);
}
#endif
