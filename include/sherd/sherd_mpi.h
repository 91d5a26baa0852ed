/* SPDX-License-Identifier: MIT
 *
 * sherd_mpi.h: start a communicator from MPI. Include after <mpi.h>; link libsherd built with MPI.
 */
#ifndef SHERD_SHERD_MPI_H
#define SHERD_SHERD_MPI_H

#include <mpi.h>

#include "sherd/sherd.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* COLLECTIVE over `mpi`. Ranks and world are those of `mpi`, which is used during creation only (non-blocking calls, polled
 * up to fail_after_s) and neither duplicated, kept nor freed. All ranks must be processes of one host (EUNSUPPORTED
 * otherwise, with the two host names); data moves through shared memory. A library built without MPI does not have this symbol:
 * `sherd info` says which it is. */
SHERD_API sherd_status sherd_comm_create_mpi(const sherd_comm_options *options, MPI_Comm mpi, sherd_comm **out,
                                             sherd_error *err);

#if defined(__cplusplus)
}
#endif
#endif
