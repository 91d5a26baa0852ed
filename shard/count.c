/* SPDX-License-Identifier: MIT
 *
 * One tree over all micro-batches of a step. sum(l, h) = sum(l, l + p) + sum(l + p, h), p the largest power of two
 * below h − l: so an aligned block of 2^j numbers is always a node, and what a micro-step or a rank sums by itself may
 * be one. Nodes of equal size are joined as soon as there are two, which is how a binary counter carries; what is left
 * at the end joins from the smallest up, as the recursion has it.
 *
 * The second of a pair is added straight to the first (addition commutes), so a counter of K needs a place less than it
 * has digits.
 */
#include <inttypes.h>

#include "shard/build.h"

static uint32_t ones(int64_t k)
{
    return (uint32_t)__builtin_popcountll((unsigned long long)k);
}

sherd__count sherd__plan_count(int64_t k)
{
    int second = (int)(k & 1);
    uint32_t joins = second ? (uint32_t)__builtin_ctzll((unsigned long long)k + 1) - 1 : 0;

    return (sherd__count){.place = ones(k - second), .joins = joins, .assign = !second};
}

/* The highest place is reached at the last micro-step or at an earlier number that has a 0 where the last has a 1, and
 * ones below. */
uint32_t sherd__plan_carries(int64_t accumulation)
{
    int64_t last = accumulation - 1;
    uint32_t most = sherd__plan_count(last).place;

    for (int bit = 1; last >> bit; bit++)
        if (last >> bit & 1) {
            int64_t before = (last >> bit << bit) - 1;
            uint32_t place = sherd__plan_count(before).place;
            most = place > most ? place : most;
        }
    return most;
}

static int power_of_two(int64_t n)
{
    return (n & (n - 1)) == 0;
}

sherd_status sherd__plan_check_reproducible(const sherd_plan *plan, sherd_error *err)
{
    int64_t steps = plan->config.gradient_accumulation_steps;
    int by_rank = plan->full_mode;
    int64_t block = by_rank ? steps : plan->world, blocks = by_rank ? plan->world : steps;

    if (!plan->config.reproducible)
        return SHERD_OK;
    if (plan->config.transport.reduction == SHERD_REDUCTION_NATIVE)
        return sherd__fail(
            err, SHERD_EINVAL,
            "sherd.reproducible needs sherd.reduction 'tree': a native reduction's order is the transport's");
    if (blocks > 1 && !power_of_two(block))
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd.reproducible sums one tree over the step's micro-batches, and at stage %" PRId32
                           " the %" PRId64
                           " of each %s are a part of it only if that is a power of two: change %s, or %s",
                           plan->config.zero.stage, block, by_rank ? "rank" : "micro-step",
                           by_rank ? "gradient_accumulation_steps" : "the number of ranks",
                           by_rank ? "use stage 2" : "use stage 0 or 1, or one micro-step");
    return SHERD_OK;
}
