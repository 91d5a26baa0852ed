/* SPDX-License-Identifier: MIT
 *
 * Which ranks are of which node, and who of a node serves whom. Pure: values in, values out.
 *
 * A node whose ranks are consecutive, 2^j > 1 of them, and begin at a multiple of 2^j, is a subtree of the balanced
 * tree over the ranks: for the tree splits [l, h) at l + p with p the largest power of two below h − l, and with l a
 * multiple of every power it is split by, no split cuts such a block. Only then may its ranks be summed before anything
 * travels.
 */
#include <string.h>

#include "comm/mpi_comm.h"

static void number_nodes(sherd__mpi_layout *layout, const int32_t *nodes)
{
    for (int32_t rank = 0; rank < layout->world; rank++) {
        int32_t same = 0;
        while (nodes[same] != nodes[rank]) {
            same++;
        }
        layout->node_of[rank] = same < rank ? layout->node_of[same] : layout->nodes++;
    }
}

static int is_block(const sherd__mpi_layout *layout, int32_t node)
{
    int32_t count = sherd__mpi_count(layout, node), low = layout->member[layout->first[node]];
    int32_t high = layout->member[layout->first[node + 1] - 1];
    return count > 1 && (count & (count - 1)) == 0 && low % count == 0 && high - low == count - 1;
}

static void list_members(sherd__mpi_layout *layout)
{
    int32_t at = 0;
    for (int32_t node = 0; node < layout->nodes; node++) {
        layout->first[node] = at;
        for (int32_t rank = 0; rank < layout->world; rank++) {
            if (layout->node_of[rank] == node) {
                layout->place[rank] = at - layout->first[node];
                layout->member[at++] = rank;
            }
        }
        layout->first[node + 1] = at;
        layout->block[node] = is_block(layout, node);
    }
}

int sherd__mpi_layout_init(sherd__mpi_layout *layout, const sherd_allocator *allocator, const int32_t *nodes,
                           int32_t rank, int32_t world)
{
    size_t n = (size_t)world;
    memset(layout, 0, sizeof *layout);
    layout->world = world;
    layout->rank = rank;
    layout->node_of = sherd__alloc(allocator, n, sizeof *layout->node_of);
    layout->place = sherd__alloc(allocator, n, sizeof *layout->place);
    layout->member = sherd__alloc(allocator, n, sizeof *layout->member);
    layout->first = sherd__alloc(allocator, n + 1, sizeof *layout->first);
    layout->block = sherd__alloc(allocator, n, sizeof *layout->block);
    if (layout->node_of == NULL || layout->place == NULL || layout->member == NULL || layout->first == NULL ||
        layout->block == NULL) {
        sherd__mpi_layout_fini(layout, allocator);
        return 0;
    }
    number_nodes(layout, nodes);
    list_members(layout);
    layout->node = layout->node_of[rank];
    return 1;
}

void sherd__mpi_layout_fini(sherd__mpi_layout *layout, const sherd_allocator *allocator)
{
    size_t n = (size_t)layout->world;
    sherd__free(allocator, layout->block, n, sizeof *layout->block);
    sherd__free(allocator, layout->first, n + 1, sizeof *layout->first);
    sherd__free(allocator, layout->member, n, sizeof *layout->member);
    sherd__free(allocator, layout->place, n, sizeof *layout->place);
    sherd__free(allocator, layout->node_of, n, sizeof *layout->node_of);
    memset(layout, 0, sizeof *layout);
}

int32_t sherd__mpi_count(const sherd__mpi_layout *layout, int32_t node)
{
    return layout->first[node + 1] - layout->first[node];
}

/* Ranks of other nodes are dealt out in turn to the node's own. */
int32_t sherd__mpi_partner(const sherd__mpi_layout *layout, int32_t node, int32_t outsider)
{
    const int32_t *members = layout->member + layout->first[node];
    int32_t count = sherd__mpi_count(layout, node), below = 0;
    while (below < count && members[below] < outsider) {
        below++;
    }
    return members[(outsider - below) % count];
}
