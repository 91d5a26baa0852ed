/* SPDX-License-Identifier: MIT
 *
 * The byte report: what one rank will hold, by category. The engine allocates these very sizes. Every rank holds the
 * same, since slices are equal.
 */
#include <inttypes.h>
#include <string.h>

#include "optim/trust.h"
#include "shard/build.h"

uint64_t sherd__plan_comm_bytes(int32_t world)
{
    return SHERD__CONTROL_BYTES + SHERD__STEP_BYTES + (uint64_t)SHERD__SCRATCH_BYTES_PER_RANK * (uint64_t)world;
}

/* Slices begin at lines of the cache, so that nobody's words share one with another rank's. */
void sherd__plan_place_trust(sherd_plan *plan)
{
    const uint64_t line = 64;
    if (!plan->trust)
        return;
    for (uint32_t b = 0; b < plan->n_buckets; b++)
        plan->n_tensors += plan->buckets[b].count;
    plan->trust = plan->n_tensors > 0;
    if (!plan->trust)
        return;
    plan->trust_slices = plan->whole_state ? 1 : (uint32_t)plan->world;
    plan->trust_slice_bytes = (plan->n_tensors * sizeof(sherd__trust_sums) + line - 1) / line * line;
    plan->ratio_bytes = (plan->n_tensors * sizeof(float) + line - 1) / line * line;
    plan->comm_bytes += sherd__plan_trust_device_bytes(plan);
}

sherd_status sherd_plan_memory(const sherd_plan *plan, int32_t rank, sherd_memory *out)
{
    if (!plan || !out || rank < 0 || rank >= plan->world)
        return SHERD_EINVAL;
    const uint64_t moment = sherd_dtype_bytes(plan->moment_dtype);
    const uint64_t shadow = sizeof(float) + moment * plan->n_moments; /* Muon's matrices have none */
    memset(out, 0, sizeof *out);
    uint64_t *bytes = out->bytes[SHERD_TIER_DEVICE];
    bytes[SHERD_CAT_PARAMETERS] = plan->param_bytes;
    bytes[SHERD_CAT_GRADIENTS] = plan->ring_bytes;
    bytes[SHERD_CAT_GRADIENTS_SHARED] = plan->shared_bytes;
    bytes[SHERD_CAT_GRAD_SUMS] = plan->sum_bytes * (1 + (uint64_t)plan->carries);
    bytes[SHERD_CAT_MASTER] = plan->master_elems * sizeof(float) + plan->remainder_elems * sizeof(uint16_t);
    bytes[SHERD_CAT_MOMENTS] = (plan->moment_elems + plan->second_elems) * moment;
    bytes[SHERD_CAT_COMMUNICATION] = plan->comm_bytes;
    const sherd__placement *placement = &plan->placement;
    bytes[SHERD_CAT_STAGING] = placement->sum_slots * placement->sum_slot_bytes;
    bytes = out->bytes[SHERD_TIER_HOST];
    bytes[SHERD_CAT_COMMUNICATION] = SHERD__HOST_COMM_BYTES + plan->trust_slice_bytes + plan->ratio_bytes;
    bytes[SHERD_CAT_GRAD_SUMS] = placement->host_sum_bytes;
    bytes[SHERD_CAT_MASTER] = placement->host_master_elems * sizeof(float);
    bytes[SHERD_CAT_MOMENTS] = placement->host_moment_elems * moment;
    bytes[SHERD_CAT_STAGING] = placement->emit_slots * placement->emit_slot_elems * sizeof(uint16_t) +
                               placement->disk_slots * placement->disk_slot_bytes;
    bytes[SHERD_CAT_SPECULATION] = placement->shadow_elems * shadow + placement->shadow_emit_elems * sizeof(uint16_t);
    bytes = out->bytes[SHERD_TIER_DISK];
    bytes[SHERD_CAT_MASTER] = placement->disk_elems * sizeof(float);
    bytes[SHERD_CAT_MOMENTS] = placement->disk_moment_elems * moment;
    return SHERD_OK;
}
