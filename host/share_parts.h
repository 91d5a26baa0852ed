/* SPDX-License-Identifier: MIT */
#ifndef SHERD_HOST_SHARE_PARTS_H
#define SHERD_HOST_SHARE_PARTS_H

#include "host/share.h"

/* Room for `seats` seats, `reserved` reserved ones and a record per node of the topology; numbers stay 0. */
sherd_status sherd__share_room(const sherd__topology *topology, const sherd_allocator *allocator, int32_t seats,
                               int32_t reserved, sherd__share *out, sherd_error *err);
/* Fills *out (with room made) from options->text. */
sherd_status sherd__share_read(const sherd__topology *topology, const sherd__share_options *options, sherd__share *out,
                               sherd_error *err);
/* Once the seats are set: `nodes` from them, in the order in which they come. */
void sherd__share_link(const sherd__topology *topology, sherd__share *out);
/* A node without seats at the end of `nodes`, worked on from the nearest that has some. */
void sherd__share_add_memory(const sherd__topology *topology, int32_t node_index, int32_t sharers, sherd__share *out);

#endif
