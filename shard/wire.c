/* SPDX-License-Identifier: MIT
 *
 * What a step sends between nodes, predicted from the plan and from which ranks share a node. Written from what the
 * transport promises (docs/communication.md), not from its code: a test compares the two.
 *
 *   reduction   to every rank of another node: from a node whose ranks are a subtree (2^j > 1 consecutive ranks from a
 * multiple of 2^j on) one fp32 slice, else a leaf of each of its ranks gather      each slice once to every other node
 *   vote        to every rank of another node, the node's sum
 *   ratios      Lamb: each rank's part of the norms, as a slice that is gathered
 *   join, share Muon: directions as fp32 slices that are gathered, results as fp32 slices that are reduced; at stage 0 only
 *               each matrix, once from its owner to every other node
 *
 * Ranks of another node are dealt out in turn to the node's own, so a node's messages are shared by its ranks.
 */
#include "optim/optim.h"
#include "shard/build.h"

#define LINE_BYTES 32 /* before each message */
#define VOTE_BYTES ((SHERD__VOTE_SUMS + SHERD__VOTE_MINS) * sizeof(uint64_t))

typedef struct wire {
    const int32_t *nodes;
    int32_t world, rank;
    uint64_t sent, received;
} wire;

/* Members of `member`'s node below `rank`. */
static int32_t below(const wire *wire, int32_t member, int32_t rank)
{
    int32_t n = 0;
    for (int32_t r = 0; r < rank; r++)
        n += wire->nodes[r] == wire->nodes[member];
    return n;
}

/* Does `rank` serve `outsider` in its node? */
static int serves(const wire *wire, int32_t rank, int32_t outsider)
{
    int32_t count = below(wire, rank, wire->world), place = below(wire, rank, rank);
    return (outsider - below(wire, rank, outsider)) % count == place;
}

/* Is `rank` of a node that is a subtree? */
static int in_subtree(const wire *wire, int32_t rank)
{
    int32_t count = below(wire, rank, wire->world), low = 0;
    while (wire->nodes[low] != wire->nodes[rank])
        low++;
    return count > 1 && (count & (count - 1)) == 0 && low % count == 0 && low + count <= wire->world &&
           below(wire, rank, low + count) == count;
}

static void message(wire *wire, int32_t from, int32_t to, uint64_t bytes)
{
    wire->sent += from == wire->rank ? bytes + LINE_BYTES : 0;
    wire->received += to == wire->rank ? bytes + LINE_BYTES : 0;
}

/* One reduction, gather and row of `self`'s, as the sending and the receiving end see it. */
static void add_pair(wire *wire, int32_t from, int32_t to, uint64_t leaf, uint64_t sum)
{
    if (wire->nodes[from] == wire->nodes[to])
        return;
    if (!in_subtree(wire, from))
        message(wire, from, to, leaf);
    else if (serves(wire, from, to))
        message(wire, from, to, sum);
}

static void add_reduction(wire *wire, uint64_t leaf, uint64_t sum)
{
    for (int32_t peer = 0; peer < wire->world; peer++) {
        add_pair(wire, wire->rank, peer, leaf, sum);
        add_pair(wire, peer, wire->rank, leaf, sum);
    }
}

/* `from`'s slice goes to whoever serves it in each other node. */
static void add_gather(wire *wire, uint64_t slice)
{
    for (int32_t peer = 0; peer < wire->world; peer++) {
        if (wire->nodes[peer] == wire->nodes[wire->rank])
            continue;
        if (serves(wire, peer, wire->rank))
            message(wire, wire->rank, peer, slice);
        if (serves(wire, wire->rank, peer))
            message(wire, peer, wire->rank, slice);
    }
}

/* `from`'s bytes go to whoever serves it in each other node. */
static void add_broadcast(wire *wire, int32_t from, uint64_t bytes)
{
    for (int32_t peer = 0; peer < wire->world; peer++)
        if (wire->nodes[peer] != wire->nodes[from] && serves(wire, peer, from))
            message(wire, from, peer, bytes);
}

static void add_matrices(wire *wire, const sherd_plan *plan, const sherd__bucket *bucket)
{
    uint64_t slice = (uint64_t)bucket->slice_elems * sizeof(float);
    if (sherd__plan_joins(plan)) {
        add_gather(wire, slice);
        add_reduction(wire, slice, slice);
        return;
    }
    for (uint32_t i = 0; i < bucket->count && sherd__plan_shares(plan); i++) {
        const sherd__plan_param *param = &plan->params[plan->order[bucket->first + i]];
        add_broadcast(wire, param->owner, (uint64_t)param->elems * sizeof(float));
    }
}

static void add_vote(wire *wire, uint64_t bytes)
{
    for (int32_t peer = 0; peer < wire->world; peer++) {
        if (wire->nodes[peer] == wire->nodes[wire->rank])
            continue;
        if (serves(wire, wire->rank, peer))
            message(wire, wire->rank, peer, bytes);
        if (serves(wire, peer, wire->rank))
            message(wire, peer, wire->rank, bytes);
    }
}

static void add_bucket(wire *wire, const sherd_plan *plan, const sherd__bucket *bucket)
{
    uint64_t elems = (uint64_t)bucket->slice_elems, sum = elems * sizeof(float);
    if (plan->full_mode)
        add_reduction(wire, sum, sum);
    for (int64_t k = 0; !plan->full_mode && k < plan->config.gradient_accumulation_steps; k++)
        add_reduction(wire, elems * sherd_dtype_bytes(bucket->wire_dtype), sum);
    add_gather(wire,
               elems * sherd_dtype_bytes(plan->whole_state ? sherd__plan_sum_dtype(plan, bucket) : bucket->dtype));
}

sherd_status sherd_plan_wire_bytes(const sherd_plan *plan, const int32_t *nodes, int32_t rank, uint64_t *sent,
                                   uint64_t *received)
{
    if (!plan || !nodes || rank < 0 || rank >= plan->world ||
        sherd__plan_transport(&plan->config) != SHERD_TRANSPORT_MPI)
        return SHERD_EINVAL;
    wire wire = {.nodes = nodes, .world = plan->world, .rank = rank};
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        add_bucket(&wire, plan, &plan->buckets[b]);
        if (plan->buckets[b].muon)
            add_matrices(&wire, plan, &plan->buckets[b]);
    }
    add_vote(&wire, VOTE_BYTES);
    if (plan->trust && plan->trust_slices > 1)
        add_gather(&wire, plan->trust_slice_bytes);
    if (sent)
        *sent = wire.sent;
    if (received)
        *received = wire.received;
    return SHERD_OK;
}
