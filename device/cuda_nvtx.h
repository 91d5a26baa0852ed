/* SPDX-License-Identifier: MIT
 *
 * Ranges for NVIDIA's profilers: what is put into a stream, named as in the trace, with the bucket as payload. They show
 * when an operation was issued; the profiler ties the kernels to them. NVTX is headers only and does nothing unless a
 * profiler is there; without its headers (and on the tests' stub) neither do these.
 */
#ifndef SHERD_DEVICE_CUDA_NVTX_H
#define SHERD_DEVICE_CUDA_NVTX_H

#include "device/device.h"

#if defined(__has_include)
#if __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define SHERD__HAVE_NVTX 1
#endif
#endif

static inline void sherd__cuda_range_begin(const sherd__tag *tag)
{
#if defined(SHERD__HAVE_NVTX)
    nvtxEventAttributes_t attributes = {.version = NVTX_VERSION, .size = NVTX_EVENT_ATTRIB_STRUCT_SIZE};
    attributes.messageType = NVTX_MESSAGE_TYPE_ASCII;
    attributes.message.ascii = tag->name ? tag->name : "";
    attributes.payloadType = NVTX_PAYLOAD_TYPE_INT32;
    attributes.payload.iValue = tag->bucket;
    (void)nvtxRangePushEx(&attributes);
#else
    (void)tag;
#endif
}

static inline void sherd__cuda_range_end(void)
{
#if defined(SHERD__HAVE_NVTX)
    (void)nvtxRangePop();
#endif
}

#endif
