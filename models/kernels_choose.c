/* SPDX-License-Identifier: MIT
 *
 * Which variant of kernels_body.h this CPU runs.
 */
#include "models/kernels.h"

const sherd_kernels *sherd__kernels_choose(sherd_kernels_half half)
{
#if defined(SHERD_MODELS_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
        return &sherd__kernels_avx512[half];
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return &sherd__kernels_avx2[half];
    }
#endif
    return &sherd__kernels_base[half];
}
