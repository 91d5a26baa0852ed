/* SPDX-License-Identifier: MIT
 *
 * The kernels for any machine: vectors of 4.
 */
#define SHERD_KERNELS_TABLE sherd__kernels_base
#define SHERD_KERNELS_NAME "generic"
#define SHERD_KERNELS_WIDTH 4

#include "models/kernels_body.h"
