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
 * up to fail_after_s) and neither kept nor freed.
 *
 * Ranks of one host, pid namespace and boot are a node; options->ranks_per_node splits nodes further. One node, and
 * ranks_per_node 0: data moves through shared memory, transport DIRECT, and MPI may be initialised at any thread level. Else
 * transport MPI (sherd_comm_transport says which; plans must be made for it): shared memory inside nodes, point-to-point
 * messages between them, over a duplicate of `mpi`, moved by a thread of the communicator's own. Then MPI must have been
 * initialised with MPI_THREAD_MULTIPLE (EUNSUPPORTED on every rank otherwise), MPI_Finalize must come after
 * sherd_comm_destroy, devices must be the host's (EUNSUPPORTED when an engine is created on another), and a rank that
 * failed should end without MPI_Finalize, which would wait for the dead.
 *
 * A library built without MPI does not have this symbol: `sherd info` says which it is. */
SHERD_API sherd_status sherd_comm_create_mpi(const sherd_comm_options *options, MPI_Comm mpi, sherd_comm **out,
                                             sherd_error *err);

#if defined(__cplusplus)
}
#endif
#endif
