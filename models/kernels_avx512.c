/* SPDX-License-Identifier: MIT
 *
 * The kernels for AVX-512 (F, BW, DQ, VL): vectors of 16.
 */
#define SHERD_KERNELS_TABLE sherd__kernels_avx512
#define SHERD_KERNELS_NAME "avx512"
#define SHERD_KERNELS_WIDTH 16

#include "models/kernels_body.h"
