/* SPDX-License-Identifier: MIT
 *
 * Narrowing on the emulator of a GPU's thread blocks: the kernels' GPU code, launched by the test's own launchers.
 */
#ifndef SHERD_TESTS_DEVICE_CUDA_NARROW_H
#define SHERD_TESTS_DEVICE_CUDA_NARROW_H

#include "device/cuda_launch.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* A cudaError_t. */
int narrow_head(const sherd__cuda_convert *args, void *stream);
int narrow_range(const sherd__cuda_convert *args, unsigned blocks, void *stream);

#if defined(__cplusplus)
}
#endif
#endif
