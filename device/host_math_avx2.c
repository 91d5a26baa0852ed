/* SPDX-License-Identifier: MIT */
#define SHERD__SIMD_TABLE sherd__host_math_avx2
#define SHERD__SIMD_NAME "avx2"
#include "device/host_math_simd.h"
