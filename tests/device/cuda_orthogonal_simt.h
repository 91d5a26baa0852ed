/* SPDX-License-Identifier: MIT
 *
 * Muon's kernels on the emulator of a GPU's thread blocks: their GPU code, launched by the test's own launchers.
 */
#ifndef SHERD_TESTS_DEVICE_CUDA_ORTHOGONAL_SIMT_H
#define SHERD_TESTS_DEVICE_CUDA_ORTHOGONAL_SIMT_H

#include "device/cuda_launch.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* Each a cudaError_t. per: 4 or 8 elements of a thread along a side. loose: the same without its barriers. */
int simt_product(const sherd__cuda_product *args, int per, void *stream);
int simt_product_loose(const sherd__cuda_product *args, int per, void *stream);
int simt_part(const sherd__cuda_orthogonal *args, sherd__cuda_part part, void *stream);
int simt_part_loose(const sherd__cuda_orthogonal *args, sherd__cuda_part part, void *stream);

#if defined(__cplusplus)
}
#endif
#endif
