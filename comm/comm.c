/* SPDX-License-Identifier: MIT
 *
 * The public face of a communicator.
 */
#include "comm/comm.h"

#include <stdio.h>
#include <string.h>

#if defined(SHERD_HAVE_CUDA)
#include "comm/nccl_api.h"
#endif

void sherd_comm_options_init(sherd_comm_options *options, size_t size)
{
    sherd_comm_options defaults = {.size = sizeof defaults, .warn_after_s = 60, .fail_after_s = 600, .silent_after_s = 30};
    if (options == NULL || size < sizeof options->size) {
        return;
    }
    memset(options, 0, size);
    memcpy(options, &defaults, size < sizeof defaults ? size : sizeof defaults);
    options->size = size;
}

void sherd__comm_describe_nccl(char *text, size_t capacity)
{
#if defined(SHERD_HAVE_CUDA)
    sherd__nccl_describe(text, capacity);
#else
    snprintf(text, capacity, "no: built without CUDA");
#endif
}

void sherd_comm_destroy(sherd_comm *comm)
{
    if (comm != NULL) {
        comm->ops->destroy(comm);
    }
}

int32_t sherd_comm_rank(const sherd_comm *comm)
{
    return comm->rank;
}

int32_t sherd_comm_world(const sherd_comm *comm)
{
    return comm->world;
}

sherd_transport sherd_comm_transport(const sherd_comm *comm)
{
    return comm->transport;
}

int32_t sherd_comm_node(const sherd_comm *comm, int32_t rank)
{
    if (rank < 0 || rank >= comm->world) {
        return -1;
    }
    return comm->node_of != NULL ? comm->node_of[rank] : 0;
}

void sherd_comm_traffic(const sherd_comm *comm, sherd_traffic *out)
{
    sherd_traffic full = {.size = sizeof full,
                          .bytes_sent = atomic_load(&comm->sent_bytes),
                          .bytes_received = atomic_load(&comm->received_bytes),
                          .messages_sent = atomic_load(&comm->sent_messages)};
    size_t size = out->size > 0 && out->size < sizeof full ? out->size : sizeof full;
    full.size = size;
    memcpy(out, &full, size);
}

const char *sherd_comm_describe(const sherd_comm *comm)
{
    return comm->description;
}
