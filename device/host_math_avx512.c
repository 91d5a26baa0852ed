/* SPDX-License-Identifier: MIT */
#define SHERD__SIMD_TABLE sherd__host_math_avx512
#define SHERD__SIMD_NAME "avx512"
#include "device/host_math_simd.h"
