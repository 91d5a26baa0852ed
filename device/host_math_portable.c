/* SPDX-License-Identifier: MIT */
#define SHERD__SIMD_TABLE sherd__host_math_portable
#define SHERD__SIMD_NAME "portable"
#include "device/host_math_simd.h"
