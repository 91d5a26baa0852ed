/* SPDX-License-Identifier: MIT
 *
 * Before the stub command's main: what the stub of NCCL needs of CUDA's. Without SHERD_NCCL_LIBRARY there is no such
 * stub.
 */
#include <stdlib.h>

#include "tests/comm/nccl_world.h"

__attribute__((constructor)) static void attach(void)
{
    if (getenv("SHERD_NCCL_LIBRARY") != NULL) {
        (void)nccl_stub_open();
        cuda_stub_reset(1, 0);
    }
}
