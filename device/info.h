/* SPDX-License-Identifier: MIT
 *
 * What devices there are, before any exists.
 */
#ifndef SHERD_DEVICE_INFO_H
#define SHERD_DEVICE_INFO_H

#include <stddef.h>

/* What this build and machine have of CUDA: a line that begins with yes or no, and one for each GPU; no last newline. */
void sherd__device_describe_cuda(char *text, size_t capacity);

#endif
