/* SPDX-License-Identifier: MIT
 *
 * Placement: which buckets' master and moments live on the device, in host memory, on disk. A pure search over three
 * numbers: buckets [0, n_disk) on disk, [n_disk, n_off) in host memory, and of these the first n_speculated are updated
 * before the vote. What is reduced last stays on the device: its update can start at once, and the next forward needs
 * it first.
 *
 * Each candidate is laid out and its bytes are counted by the same functions that the report and the engine use, so a
 * budget is met to the byte. Staging makes the first offloaded bucket cost more than it may free: the search takes the
 * first candidate that fits, in rising order, and the last as the least that is possible.
 */
#include <inttypes.h>

#include "shard/build.h"

uint64_t sherd__plan_state_bytes_per_elem(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return sizeof(float) + sherd_dtype_bytes(plan->moment_dtype) * sherd__bucket_moments(plan, bucket);
}

static uint64_t bytes_of(sherd_plan *plan, sherd_tier tier, uint32_t n_disk, uint32_t n_off, uint32_t n_speculated)
{
    sherd_memory memory;
    plan->placement.n_disk = n_disk;
    plan->placement.n_off = n_off;
    plan->placement.n_speculated = n_speculated;
    sherd__plan_place_arenas(plan);
    return sherd_plan_memory(plan, 0, &memory) == SHERD_OK ? sherd_memory_total(&memory, tier) : UINT64_MAX;
}

static sherd_status check_offload(const sherd_plan *plan, sherd_error *err)
{
    const sherd_config *config = &plan->config;
    if (config->offload.device_memory_budget == SHERD_BUDGET_AUTO ||
        config->offload.host_memory_budget == SHERD_BUDGET_AUTO)
        return sherd__fail(
            err, SHERD_EINVAL,
            "a memory budget is \"auto\"; call sherd_config_resolve_memory before sherd_plan_create, or give "
            "bytes");
    if (config->offload.device_memory_budget < SHERD_BUDGET_NONE ||
        config->offload.host_memory_budget < SHERD_BUDGET_NONE)
        return sherd__fail(err, SHERD_EINVAL, "a memory budget of %" PRId64 " bytes; give 0 or more",
                           config->offload.device_memory_budget < SHERD_BUDGET_NONE
                               ? config->offload.device_memory_budget
                               : config->offload.host_memory_budget);
    if (!(config->offload.ratio >= 0 && config->offload.ratio <= 1))
        return sherd__fail(err, SHERD_EINVAL, "offload_optimizer.ratio is %g; give 0 to 1", config->offload.ratio);
    if (config->offload.buffer_count < 1 || config->offload.buffer_count > (int32_t)SHERD__MAX_SLOTS)
        return sherd__fail(err, SHERD_EINVAL, "offload_optimizer.buffer_count is %" PRId32 "; give 1 to %u",
                           config->offload.buffer_count, SHERD__MAX_SLOTS);
    if (plan->trust && config->offload.speculate)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd.speculate is on, but optimizer Lamb steps by the norms of whole parameters, which are known only "
                           "after the vote; set it to false");
    return SHERD_OK;
}

/* Without a budget: the fewest buckets that hold `ratio` of the state. */
static uint32_t count_by_ratio(const sherd_plan *plan)
{
    double all = 0, held = 0;
    uint32_t n = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++)
        all += (double)plan->buckets[b].elems;
    while (n < plan->n_buckets && held < all * plan->config.offload.ratio)
        held += (double)plan->buckets[n++].elems;
    return n;
}

static sherd_status count_by_budget(sherd_plan *plan, uint32_t *out, sherd_error *err)
{
    uint64_t budget = (uint64_t)plan->config.offload.device_memory_budget, least = UINT64_MAX;
    for (uint32_t n = 0; n <= plan->n_buckets; n++) {
        uint64_t bytes = bytes_of(plan, SHERD_TIER_DEVICE, 0, n, 0);
        least = bytes < least ? bytes : least;
        if (bytes <= budget) {
            *out = n;
            return SHERD_OK;
        }
    }
    return sherd__fail(err, SHERD_EINVAL,
                       "device_memory_budget is %" PRIu64 " bytes, but %" PRIu64
                       " are needed with all optimizer state offloaded; raise it, use more ranks, a higher stage or a "
                       "smaller reduce_bucket_size",
                       budget, least);
}

/* How much of what left the device must go on to disk. */
static sherd_status count_on_disk(sherd_plan *plan, uint32_t n_off, uint32_t *out, sherd_error *err)
{
    const sherd_config *config = &plan->config;
    int has_disk = config->offload.nvme_path[0] != '\0';
    if (config->offload.host_memory_budget == SHERD_BUDGET_NONE) {
        *out = config->offload.tier == SHERD_TIER_DISK ? n_off : 0;
        return SHERD_OK;
    }
    uint64_t budget = (uint64_t)config->offload.host_memory_budget, least = UINT64_MAX;
    for (uint32_t n = 0; n <= n_off; n++) {
        uint64_t bytes = bytes_of(plan, SHERD_TIER_HOST, n, n_off, 0);
        least = bytes < least ? bytes : least;
        if (bytes > budget)
            continue;
        *out = n;
        if (n > 0 && !has_disk)
            return sherd__fail(err, SHERD_EINVAL,
                               "host_memory_budget is %" PRIu64 " bytes, but %" PRIu64
                               " are needed; raise it, or give offload_optimizer.nvme_path for the rest",
                               budget, bytes_of(plan, SHERD_TIER_HOST, 0, n_off, 0));
        return SHERD_OK;
    }
    return sherd__fail(
        err, SHERD_EINVAL,
        "host_memory_budget is %" PRIu64 " bytes, but %" PRIu64
        " are needed with all offloaded state on disk; raise it, or lower offload_optimizer.buffer_count",
        budget, least);
}

/* Second buffers for as many host buckets, first reduced first, as the host's budget allows. */
static uint32_t count_speculated(sherd_plan *plan, uint32_t n_disk, uint32_t n_off)
{
    uint32_t n = n_off - n_disk;
    if (!plan->config.offload.speculate)
        return 0;
    if (plan->config.offload.host_memory_budget == SHERD_BUDGET_NONE)
        return n;
    while (n > 0 &&
           bytes_of(plan, SHERD_TIER_HOST, n_disk, n_off, n) > (uint64_t)plan->config.offload.host_memory_budget)
        n--;
    return n;
}

static sherd_status check_matrices(const sherd_plan *plan, uint32_t n_off, sherd_error *err)
{
    for (uint32_t b = 0; b < n_off && plan->config.offload.speculate; b++)
        if (plan->buckets[b].muon)
            return sherd__fail(err, SHERD_EINVAL,
                               "sherd.speculate is on, but '%s' is offloaded, which Muon steps only after the vote; set it to false",
                               plan->params[plan->order[plan->buckets[b].first]].name);
    return SHERD_OK;
}

sherd_status sherd__plan_place_state(sherd_plan *plan, sherd_error *err)
{
    uint32_t n_off = 0, n_disk = 0;
    sherd_status status = check_offload(plan, err);
    if (status == SHERD_OK && plan->config.offload.device_memory_budget != SHERD_BUDGET_NONE)
        status = count_by_budget(plan, &n_off, err);
    else if (plan->config.offload.tier != SHERD_TIER_DEVICE)
        n_off = count_by_ratio(plan);
    if (status == SHERD_OK)
        status = check_matrices(plan, n_off, err);
    if (status == SHERD_OK)
        status = count_on_disk(plan, n_off, &n_disk, err);
    if (status != SHERD_OK)
        return status;
    if (n_disk > 0 && plan->config.offload.nvme_path[0] == '\0')
        return sherd__fail(err, SHERD_EINVAL, "offload_optimizer.nvme_path is missing; give the disk tier's folder");
    bytes_of(plan, SHERD_TIER_HOST, n_disk, n_off, count_speculated(plan, n_disk, n_off));
    return SHERD_OK;
}
