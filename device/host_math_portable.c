/* SPDX-License-Identifier: MIT */
#define SHERD__SIMD_TABLE sherd__host_math_portable
#define SHERD__SIMD_NAME "portable"

/* Must come before the optimizers' arithmetic. */
#include <math.h>
#if !defined(FP_FAST_FMAF)
#include "optim/fma.h"
#define SHERD__FMAF(a, b, c) sherd__fma_in_double(a, b, c)
#endif

#include "device/host_math_simd.h"
