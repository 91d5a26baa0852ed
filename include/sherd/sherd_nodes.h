/* SPDX-License-Identifier: MIT
 *
 * sherd_nodes.h: which ranks share a node, and the bytes that go between nodes. Included by sherd.h, whose conventions hold.
 */
#ifndef SHERD_SHERD_NODES_H
#define SHERD_SHERD_NODES_H

#include "sherd/sherd.h"

#if defined(__cplusplus)
extern "C" {
#endif

/* What the configuration's transport must be for plans that run on it: config.transport.kind. */
SHERD_API sherd_transport sherd_comm_transport(const sherd_comm *comm);
/* Number of the node that a rank is of, from 0 by their lowest ranks; −1: there is no such rank. Always 0 where all ranks reach
 * each other's memory, and over NCCL, which does not say. */
SHERD_API int32_t sherd_comm_node(const sherd_comm *comm, int32_t rank);
/* What this rank's collectives have sent to ranks of other nodes so far, a line of 32 bytes before each message included; set
 * out->size. Zeros where there is one node, and over NCCL. sherd_plan_wire_bytes predicts it. Any thread. */
typedef struct sherd_traffic {
    size_t size;
    uint64_t bytes_sent, bytes_received, messages_sent;
} sherd_traffic;
SHERD_API void sherd_comm_traffic(const sherd_comm *comm, sherd_traffic *out);

/* Bytes that `rank` sends to and receives from ranks of other nodes in one step (all micro-steps, the vote, the gathers),
 * with the transport "mpi". nodes[world] says which node each rank is of. The lines of 32 bytes before messages are counted.
 * Either result may be NULL. Pure and local. EINVAL: rank, or a plan for another transport. */
SHERD_API sherd_status sherd_plan_wire_bytes(const sherd_plan *plan, const int32_t *nodes, int32_t rank, uint64_t *sent,
                                             uint64_t *received);

#if defined(__cplusplus)
}
#endif
#endif
