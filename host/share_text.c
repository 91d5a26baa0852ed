/* SPDX-License-Identifier: MIT
 *
 * Shares as text, both ways: "0-3@0,4-7@1,@2,!8-9": processors for the team with their nodes, a node whose memory is
 * used without cores of its own, reserved processors. Ranges gather until an @ says their node; those with none after
 * them belong where the topology says.
 */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/text.h"
#include "host/cpulist.h"
#include "host/pin.h"
#include "host/share_parts.h"

/* ------------------------------------------------------------------------------------------------------------------
 * room */

static size_t room_for(int32_t capacity)
{
    return (size_t)capacity + 1;
}

sherd_status sherd__share_room(const sherd__topology *topology, const sherd_allocator *allocator, int32_t seats,
                               int32_t reserved, sherd__share *out, sherd_error *err)
{
    memset(out, 0, sizeof *out);
    out->allocator = sherd__allocator_or_default(allocator);
    out->seat_room = seats;
    out->reserved_room = reserved;
    out->node_room = topology->n_nodes;
    out->seats = sherd__alloc(&out->allocator, room_for(seats), sizeof *out->seats);
    out->reserved = sherd__alloc(&out->allocator, room_for(reserved), sizeof *out->reserved);
    out->nodes = sherd__alloc(&out->allocator, room_for(topology->n_nodes), sizeof *out->nodes);
    if (!out->seats || !out->reserved || !out->nodes)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a rank's share of %d processors", topology->n_cpus);
    return SHERD_OK;
}

void sherd__share_free(sherd__share *share)
{
    if (!share)
        return;
    if (share->allocator.release) {
        sherd__free(&share->allocator, share->seats, room_for(share->seat_room), sizeof *share->seats);
        sherd__free(&share->allocator, share->reserved, room_for(share->reserved_room), sizeof *share->reserved);
        sherd__free(&share->allocator, share->nodes, room_for(share->node_room), sizeof *share->nodes);
    }
    memset(share, 0, sizeof *share);
}

void sherd__share_link(const sherd__topology *topology, sherd__share *out)
{
    for (int32_t i = 0; i < out->n_seats; i++) {
        if (i > 0 && out->seats[i - 1].node == out->seats[i].node) {
            out->nodes[out->n_nodes - 1].seats++;
            continue;
        }
        int32_t index = sherd__topology_node_index(topology, out->seats[i].node);
        const sherd__topology_node *node = &topology->nodes[index];
        out->nodes[out->n_nodes] = (sherd__share_node){.node = node->os,
                                                       .first_seat = i,
                                                       .seats = 1,
                                                       .worked_by = out->n_nodes,
                                                       .sharers = 1,
                                                       .bytes = node->allowed ? node->bytes : 0};
        out->n_nodes++;
    }
    out->n_seated_nodes = out->n_nodes;
    out->home = out->nodes[0].node;
}

void sherd__share_add_memory(const sherd__topology *topology, int32_t node_index, int32_t sharers, sherd__share *out)
{
    int32_t nearest = 0, shortest = INT32_MAX;
    for (int32_t i = 0; i < out->n_seated_nodes; i++) {
        int32_t from = sherd__topology_node_index(topology, out->nodes[i].node);
        int32_t distance = topology->distance[from * topology->n_nodes + node_index];
        if (distance < shortest) {
            shortest = distance;
            nearest = i;
        }
    }
    out->nodes[out->n_nodes++] = (sherd__share_node){.node = topology->nodes[node_index].os,
                                                     .first_seat = out->n_seats,
                                                     .worked_by = nearest,
                                                     .sharers = sharers,
                                                     .bytes = topology->nodes[node_index].bytes / (uint64_t)sharers};
}

/* ---------------------------------------------------------------------------------------------------------------
 * reading */

typedef struct reader {
    const sherd__topology *topology;
    const char *all, *at;
    int32_t rank;                   /* whose part is being read */
    int32_t first_open;             /* seats from here on still wait for their @ */
    uint8_t taken[SHERD__PIN_CPUS]; /* 1: given to a rank */
    uint8_t memory[SHERD__MAX_NODES];
} reader;

static sherd_status refuse(const reader *it, const char *what, sherd_error *err)
{
    return sherd__fail(err, SHERD_EINVAL,
                       "cores \"%.200s\", at \"%.40s\": %s; write cpus@node,… per rank, ranks separated by ';', "
                       "like \"0-3@0,4-7@1,!8\"",
                       it->all, it->at, what);
}

static sherd_status take_cpu(reader *it, int32_t cpu, sherd__seat *seats, int32_t *n, sherd_error *err)
{
    int32_t found = -1;
    for (int32_t i = 0; i < it->topology->n_cpus; i++)
        if (it->topology->cpus[i].os == cpu && it->topology->cpus[i].allowed)
            found = i;
    if (found < 0)
        return sherd__fail(err, SHERD_EINVAL,
                           "cores \"%.200s\": rank %d is to run on processor %d, which does not exist or is not "
                           "allowed to this process",
                           it->all, it->rank, cpu);
    if (it->taken[cpu])
        return sherd__fail(err, SHERD_EINVAL,
                           "cores \"%.200s\": processor %d is given twice, the second time to rank %d", it->all, cpu,
                           it->rank);
    it->taken[cpu] = 1;
    seats[(*n)++] =
        (sherd__seat){.cpu = cpu, .node = it->topology->nodes[sherd__topology_node_of_cpu(it->topology, cpu)].os};
    return SHERD_OK;
}

static sherd_status read_node(reader *it, sherd__share *out, sherd_error *err)
{
    int32_t node, last;
    it->at++;
    if (!sherd__cpulist_range(&it->at, &node, &last) || node != last)
        return refuse(it, "@ wants a node's number", err);
    int32_t index = sherd__topology_node_index(it->topology, node);
    if (index < 0)
        return refuse(it, "there is no such node", err);
    if (it->first_open == out->n_seats)
        it->memory[index] = 1;
    for (; it->first_open < out->n_seats; it->first_open++)
        out->seats[it->first_open].node = node;
    return SHERD_OK;
}

static sherd_status read_item(reader *it, sherd__share *out, sherd_error *err)
{
    int reserved = *it->at == '!';
    int32_t first, last;
    it->at += reserved;
    if (*it->at != '@' || reserved) {
        if (!sherd__cpulist_range(&it->at, &first, &last))
            return refuse(it, "a processor's number is missing", err);
        for (int32_t cpu = first; cpu <= last; cpu++) {
            sherd_status status = reserved ? take_cpu(it, cpu, out->reserved, &out->n_reserved, err)
                                           : take_cpu(it, cpu, out->seats, &out->n_seats, err);
            if (status != SHERD_OK)
                return status;
        }
    }
    return *it->at == '@' && !reserved ? read_node(it, out, err) : SHERD_OK;
}

/* One rank's part, up to ';' or the end. */
static sherd_status read_part(reader *it, sherd__share *out, sherd_error *err)
{
    out->n_seats = out->n_reserved = it->first_open = 0;
    memset(it->memory, 0, sizeof it->memory);
    for (;;) {
        sherd_status status = read_item(it, out, err);
        if (status != SHERD_OK)
            return status;
        if (*it->at == '\0' || *it->at == ';')
            break;
        if (*it->at != ',')
            return refuse(it, "a comma is missing", err);
        it->at++;
    }
    return out->n_seats > 0 ? SHERD_OK : refuse(it, "a rank needs at least one processor", err);
}

/* Seats of one node together, nodes in the order in which they first come. */
static void group_seats(sherd__share *out)
{
    for (int32_t i = 1; i < out->n_seats; i++) {
        sherd__seat seat = out->seats[i];
        int32_t to = i;
        for (int32_t k = 0; k < i; k++)
            if (out->seats[k].node == seat.node)
                to = k + 1;
        memmove(&out->seats[to + 1], &out->seats[to], (size_t)(i - to) * sizeof seat);
        out->seats[to] = seat;
    }
}

static void finish_part(const reader *it, sherd__share *out)
{
    group_seats(out);
    sherd__share_link(it->topology, out);
    for (int32_t i = 0; i < it->topology->n_nodes; i++) {
        int seated = 0;
        for (int32_t k = 0; k < out->n_seated_nodes; k++)
            seated |= out->nodes[k].node == it->topology->nodes[i].os;
        if (it->memory[i] && !seated)
            sherd__share_add_memory(it->topology, i, 1, out);
    }
}

/* Every rank reads all parts, so that a mistake in one is seen by all. */
sherd_status sherd__share_read(const sherd__topology *topology, const sherd__share_options *options, sherd__share *out,
                               sherd_error *err)
{
    reader it = {.topology = topology, .all = options->text, .at = options->text};
    sherd__share part;
    sherd_status status =
        sherd__share_room(topology, options->allocator, topology->n_cpus, topology->n_cpus, &part, err);
    for (it.rank = 0; status == SHERD_OK && it.rank < options->ranks; it.rank++) {
        sherd__share *to = it.rank == options->rank ? out : &part;
        status = read_part(&it, to, err);
        if (status != SHERD_OK)
            break;
        if (to == out)
            finish_part(&it, out);
        int more = it.rank + 1 < options->ranks;
        if ((*it.at == ';') != more)
            status = sherd__fail(err, SHERD_EINVAL, "cores \"%.200s\" are for %s ranks than the %d of this host",
                                 it.all, more ? "fewer" : "more", options->ranks);
        it.at += *it.at == ';';
    }
    sherd__share_free(&part);
    return status;
}

/* ---------------------------------------------------------------------------------------------------------------
 * printing */

static void put_seats(sherd__text *to, const sherd__seat *seats, int32_t n, const char *mark)
{
    for (int32_t i = 0; i < n; i++) {
        int32_t first = i;
        while (i + 1 < n && seats[i + 1].cpu == seats[i].cpu + 1)
            i++;
        sherd__text_put(to, first == i ? "%s%s%d" : "%s%s%d-%d", to->length ? "," : "", mark, seats[first].cpu,
                        seats[i].cpu);
    }
}

size_t sherd__share_print(const sherd__share *share, char *text, size_t bytes)
{
    sherd__text to = sherd__text_in(text, bytes);
    if (bytes > 0)
        text[0] = '\0';
    for (int32_t i = 0; i < share->n_nodes; i++) {
        const sherd__share_node *node = &share->nodes[i];
        put_seats(&to, share->seats + node->first_seat, node->seats, "");
        sherd__text_put(&to, node->seats == 0 ? ",@%d" : "@%d", node->node);
    }
    put_seats(&to, share->reserved, share->n_reserved, "!");
    return to.length;
}
