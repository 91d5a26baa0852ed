/* SPDX-License-Identifier: MIT
 *
 * Sharing out is counting: how many cores of node n rank r gets (`count`), first greedily by distance, the nearest
 * pairs first, then by exchanges between two ranks as long as one makes the sum of distances smaller. Which cores these
 * are follows from their order alone: the ranks of a node take consecutive ones, so that neighbours in a cache stay
 * together.
 *
 * With more ranks than cores each node offers its cores several times over.
 */
#include "host/share.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "host/share_parts.h"

typedef struct deal {
    const sherd__topology *topology;
    const sherd__share_options *options;
    int32_t ranks, nodes;
    int32_t times;  /* how often a node offers each core */
    int32_t *cost;  /* [ranks × nodes] distance from the rank's device */
    int32_t *count; /* [ranks × nodes] cores (slots) of the node that the rank gets */
} deal;

static int32_t distance(const sherd__topology *topology, int32_t a, int32_t b)
{
    return topology->distance[a * topology->n_nodes + b];
}

/* ------------------------------------------------------------------------------------------------------------
 * distances */

/* Ranks without a device spread evenly: each is at home where its share of all cores would begin. */
static uint64_t home_without_device(const deal *it, int32_t rank)
{
    int64_t usable = sherd__topology_usable_cores(it->topology), begin = usable * rank / it->ranks;
    for (int32_t n = 0; n < it->nodes; n++) {
        if (begin < it->topology->nodes[n].usable)
            return UINT64_C(1) << n;
        begin -= it->topology->nodes[n].usable;
    }
    return 1;
}

/* The set of nodes nearest the rank's device. */
static uint64_t home_of(const deal *it, int32_t rank)
{
    const sherd__share_device *device = it->options->devices ? &it->options->devices[rank] : NULL;
    const sherd__topology_gpu *gpu = device ? sherd__topology_find_gpu(it->topology, device->pci) : NULL;
    int32_t node = device && device->node >= 0 ? sherd__topology_node_index(it->topology, device->node) : -1;
    if (gpu && gpu->near != 0)
        return gpu->near;
    return node >= 0 ? UINT64_C(1) << node : home_without_device(it, rank);
}

static void set_costs(deal *it)
{
    for (int32_t r = 0; r < it->ranks; r++) {
        uint64_t home = home_of(it, r);
        for (int32_t n = 0; n < it->nodes; n++) {
            int32_t nearest = UINT16_MAX;
            for (int32_t h = 0; h < it->nodes; h++)
                if (home >> h & 1 && distance(it->topology, h, n) < nearest)
                    nearest = distance(it->topology, h, n);
            it->cost[r * it->nodes + n] = nearest;
        }
    }
}

/* -------------------------------------------------------------------------------------------------------------
 * counting */

static int32_t quota_of(const deal *it, int32_t rank)
{
    int32_t usable = sherd__topology_usable_cores(it->topology);
    return it->times > 1 ? 1 : usable / it->ranks + (rank < usable % it->ranks);
}

static int32_t next_level(const deal *it, int32_t level)
{
    int32_t next = INT32_MAX;
    for (int32_t i = 0; i < it->ranks * it->nodes; i++)
        if (it->cost[i] > level && it->cost[i] < next)
            next = it->cost[i];
    return next;
}

static int32_t smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static void deal_greedily(deal *it)
{
    int32_t free_slots[SHERD__MAX_NODES];
    for (int32_t n = 0; n < it->nodes; n++)
        free_slots[n] = it->topology->nodes[n].usable * it->times;
    for (int32_t level = next_level(it, -1); level < INT32_MAX; level = next_level(it, level))
        for (int32_t r = 0; r < it->ranks; r++) {
            int32_t wanted = quota_of(it, r), *count = &it->count[r * it->nodes];
            for (int32_t n = 0; n < it->nodes; n++)
                wanted -= count[n];
            for (int32_t n = 0; n < it->nodes; n++) {
                int32_t got = it->cost[r * it->nodes + n] == level ? smaller(wanted, free_slots[n]) : 0;
                count[n] += got;
                free_slots[n] -= got;
                wanted -= got;
            }
        }
}

/* Ranks a and b exchange cores of nodes n and m, as many as both have, if that brings them nearer together. */
static int exchange(deal *it, int32_t a, int32_t n, int32_t b, int32_t m)
{
    int32_t *of_a = &it->count[a * it->nodes], *of_b = &it->count[b * it->nodes];
    const int32_t *from_a = &it->cost[a * it->nodes], *from_b = &it->cost[b * it->nodes];
    int32_t many = smaller(of_a[n], of_b[m]);
    if (many == 0 || from_a[n] + from_b[m] <= from_a[m] + from_b[n])
        return 0;
    of_a[n] -= many;
    of_b[n] += many;
    of_b[m] -= many;
    of_a[m] += many;
    return 1;
}

/* Ends: each exchange makes a sum of whole numbers smaller. */
static void improve(deal *it)
{
    for (int changed = 1; changed;) {
        changed = 0;
        for (int32_t a = 0; a < it->ranks; a++)
            for (int32_t n = 0; n < it->nodes; n++)
                for (int32_t b = 0; it->count[a * it->nodes + n] > 0 && b < it->ranks; b++)
                    for (int32_t m = 0; m < it->nodes; m++)
                        changed |= exchange(it, a, n, b, m);
    }
}

/* --------------------------------------------------------------------------------------------------------- the rank's
 * own */

/* Nodes by the rank's distance, then number. */
static int32_t sort_nodes(const deal *it, int32_t order[SHERD__MAX_NODES])
{
    const int32_t *cost = &it->cost[it->options->rank * it->nodes], *count = &it->count[it->options->rank * it->nodes];
    int32_t n = 0;
    for (int32_t i = 0; i < it->nodes; i++) {
        if (count[i] == 0)
            continue;
        int32_t at = n++;
        for (; at > 0 && cost[order[at - 1]] > cost[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    return n;
}

/* Index of the slot-th usable core of the node; slots beyond the last begin again. */
static int32_t core_at(const sherd__topology *topology, int32_t node, int32_t slot)
{
    slot %= topology->nodes[node].usable;
    for (int32_t i = 0; i < topology->n_cores; i++)
        if (topology->cores[i].node == node && topology->cores[i].usable > 0 && slot-- == 0)
            return i;
    return -1;
}

static void add_core(const sherd__topology *topology, int32_t core, int32_t all, sherd__seat *seats, int32_t *n)
{
    const sherd__topology_core *it = &topology->cores[core];
    for (int32_t i = it->first_cpu; i < it->first_cpu + it->cpus; i++) {
        if (!topology->cpus[i].allowed)
            continue;
        seats[(*n)++] = (sherd__seat){.cpu = topology->cpus[i].os, .node = topology->nodes[it->node].os};
        if (!all)
            return;
    }
}

static int32_t first_slot(const deal *it, int32_t node)
{
    int32_t slot = 0;
    for (int32_t r = 0; r < it->options->rank; r++)
        slot += it->count[r * it->nodes + node];
    return slot;
}

/* Cores to reserve, the nearest first, but never a node's last one: its memory needs somebody to work on it. */
static void take_seats(const deal *it, const int32_t *order, int32_t n_nodes, sherd__share *out)
{
    int32_t reserve = smaller(it->options->reserve, quota_of(it, it->options->rank) / 4);
    for (int32_t i = 0; i < n_nodes; i++) {
        int32_t node = order[i], slots = it->count[it->options->rank * it->nodes + node], begin = first_slot(it, node);
        int32_t kept = smaller(reserve, slots - 1);
        reserve -= kept;
        for (int32_t slot = 0; slot < slots; slot++) {
            int32_t core = core_at(it->topology, node, begin + slot);
            if (slot < slots - kept)
                add_core(it->topology, core, it->options->smt, out->seats, &out->n_seats);
            else
                add_core(it->topology, core, 0, out->reserved, &out->n_reserved);
        }
    }
    if (it->options->max_seats > 0)
        out->n_seats = smaller(out->n_seats, it->options->max_seats);
}

static int32_t ranks_at(const deal *it, int32_t node)
{
    int32_t ranks = 0;
    for (int32_t r = 0; r < it->ranks; r++)
        ranks += it->count[r * it->nodes + node] > 0;
    return ranks;
}

static int32_t reach(const deal *it, int32_t rank, int32_t node)
{
    int32_t nearest = INT32_MAX;
    for (int32_t n = 0; n < it->nodes; n++)
        if (it->count[rank * it->nodes + n] > 0)
            nearest = smaller(nearest, distance(it->topology, n, node));
    return nearest;
}

/* How far the nearest cores of the machine are, whoever may use them. */
static int32_t nearest_cores(const sherd__topology *topology, int32_t node)
{
    int32_t nearest = INT32_MAX;
    for (int32_t n = 0; n < topology->n_nodes; n++)
        if (topology->nodes[n].cores > 0)
            nearest = smaller(nearest, distance(topology, n, node));
    return nearest;
}

/* A node without cores belongs to the ranks that use the cores nearest to it; to nobody here if these are not ours. */
static void add_memory_nodes(const deal *it, sherd__share *out)
{
    for (int32_t node = 0; node < it->nodes; node++) {
        if (it->topology->nodes[node].cores > 0 || !it->topology->nodes[node].allowed)
            continue;
        int32_t nearest = nearest_cores(it->topology, node), sharers = 0;
        for (int32_t r = 0; r < it->ranks; r++)
            sharers += reach(it, r, node) == nearest;
        if (reach(it, it->options->rank, node) == nearest)
            sherd__share_add_memory(it->topology, node, sharers, out);
    }
}

/* ----------------------------------------------------------------------------------------------------------------
 * making */

static sherd_status make_deal(const sherd__topology *topology, const sherd__share_options *options, deal *out,
                              sherd_error *err)
{
    int32_t usable = sherd__topology_usable_cores(topology);
    if (usable == 0)
        return sherd__fail(err, SHERD_EINVAL, "%s: this process may run on none of the processors", topology->source);
    *out = (deal){.topology = topology, .options = options, .ranks = options->ranks, .nodes = topology->n_nodes};
    out->times = (options->ranks + usable - 1) / usable;
    size_t cells = (size_t)options->ranks * (size_t)topology->n_nodes;
    sherd_allocator memory = sherd__allocator_or_default(options->allocator);
    out->cost = sherd__alloc(&memory, 2 * cells, sizeof *out->cost);
    if (!out->cost)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to share %d cores among %d ranks", usable, options->ranks);
    out->count = out->cost + cells;
    set_costs(out);
    deal_greedily(out);
    improve(out);
    return SHERD_OK;
}

static void set_home(const deal *it, sherd__share *out)
{
    const int32_t *cost = &it->cost[it->options->rank * it->nodes];
    int32_t home = sherd__topology_node_index(it->topology, out->nodes[0].node);
    for (int32_t n = 0; n < it->nodes; n++)
        if (it->topology->nodes[n].allowed && cost[n] < cost[home])
            home = n;
    out->home = it->topology->nodes[home].os;
}

static sherd_status deal_out(const sherd__topology *topology, const sherd__share_options *options, sherd__share *out,
                             sherd_error *err)
{
    int32_t order[SHERD__MAX_NODES];
    deal it = {0};
    sherd_status status = make_deal(topology, options, &it, err);
    if (status != SHERD_OK)
        return status;
    take_seats(&it, order, sort_nodes(&it, order), out);
    sherd__share_link(topology, out);
    for (int32_t i = 0; i < out->n_nodes; i++) {
        sherd__share_node *node = &out->nodes[i];
        node->sharers = ranks_at(&it, sherd__topology_node_index(topology, node->node));
        node->bytes /= (uint64_t)node->sharers;
    }
    add_memory_nodes(&it, out);
    set_home(&it, out);
    out->crowded = it.times > 1;
    sherd_allocator memory = sherd__allocator_or_default(options->allocator);
    sherd__free(&memory, it.cost, 2 * (size_t)it.ranks * (size_t)it.nodes, sizeof *it.cost);
    return SHERD_OK;
}

sherd_status sherd__share_make(const sherd__topology *topology, const sherd__share_options *options, sherd__share *out,
                               sherd_error *err)
{
    sherd__share made;
    if (options->ranks < 1 || options->ranks > 65536 || options->rank < 0 || options->rank >= options->ranks)
        return sherd__fail(err, SHERD_EINVAL, "rank %d of %d on this host", options->rank, options->ranks);
    if (options->reserve < 0 || options->max_seats < 0)
        return sherd__fail(err, SHERD_EINVAL, "%d cores reserved, %d seats at most: neither can be negative",
                           options->reserve, options->max_seats);
    sherd_status status =
        sherd__share_room(topology, options->allocator, topology->n_cpus, topology->n_cpus, &made, err);
    if (status == SHERD_OK)
        status =
            options->text ? sherd__share_read(topology, options, &made, err) : deal_out(topology, options, &made, err);
    if (status != SHERD_OK) {
        sherd__share_free(&made);
        return status;
    }
    *out = made;
    return SHERD_OK;
}

void sherd__even_part(int64_t elems, int32_t parts, int32_t part, int64_t *begin, int64_t *end)
{
    int64_t blocks = elems / SHERD__BLOCK_ELEMS, each = blocks / parts, more = blocks % parts;
    *begin = (each * part + (part < more ? part : more)) * SHERD__BLOCK_ELEMS;
    *end = part + 1 == parts ? elems : (each * (part + 1) + (part + 1 < more ? part + 1 : more)) * SHERD__BLOCK_ELEMS;
}
