/* SPDX-License-Identifier: MIT
 *
 * The kernels for AVX2 with FMA: vectors of 8.
 */
#define SHERD_KERNELS_TABLE sherd__kernels_avx2
#define SHERD_KERNELS_NAME "avx2"
#define SHERD_KERNELS_WIDTH 8

#include "models/kernels_body.h"
