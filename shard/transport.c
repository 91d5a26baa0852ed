/* SPDX-License-Identifier: MIT
 *
 * What a transport costs. Where a rank cannot read its peers' memory, the slices that it reduces come to it as
 * messages: they arrive in a scratch with room for every other rank's largest slice, and the tree is summed from there
 * and from the own slice, which stays where it is. A native reduction works in place and needs none.
 *
 * Over MPI a node sums before it sends, and the tree may have to be summed in parts: then the scratch also holds the sums
 * that a rank makes for others, and fp32 partials of its own. How much depends on which ranks share a node, which no plan
 * knows: it is the most that any grouping takes.
 */
#include "shard/build.h"

const char *sherd__transport_name(sherd_transport transport)
{
    static const char *const names[] = {"auto", "direct", "nccl", "mpi"};
    return (unsigned)transport < sizeof names / sizeof *names ? names[transport] : "unknown";
}

sherd_status sherd__plan_check_transport(const sherd_config *config, sherd_error *err)
{
    if ((unsigned)config->transport.kind > SHERD_TRANSPORT_MPI ||
        (unsigned)config->transport.reduction > SHERD_REDUCTION_NATIVE)
        return sherd__fail(err, SHERD_EINVAL,
                           "transport %d or reduction %d is unknown; use values of sherd_transport and sherd_reduction",
                           (int)config->transport.kind, (int)config->transport.reduction);
    if (config->transport.reduction == SHERD_REDUCTION_NATIVE && config->transport.kind != SHERD_TRANSPORT_NCCL)
        return sherd__fail(
            err, SHERD_EUNSUPPORTED,
            "sherd.reduction 'native' is NCCL's own: transport '%s' has none; use 'tree', or sherd.transport "
            "'nccl'",
            sherd__transport_name(config->transport.kind));
    return SHERD_OK;
}

sherd_dtype sherd__plan_wire_dtype(const sherd_config *config, sherd_dtype grad_dtype)
{
    switch (config->wire) {
    case SHERD_WIRE_BF16:
        return SHERD_BF16;
    case SHERD_WIRE_FP16:
        return SHERD_FP16;
    case SHERD_WIRE_FP32: /* inner nodes are fp32 whatever the leaves are: widening them first would add bytes only */
    case SHERD_WIRE_GRADIENT:
        break;
    }
    return grad_dtype;
}

sherd_status sherd__plan_choose_wire(sherd_plan *plan, sherd_error *err)
{
    const sherd_config *config = &plan->config;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__bucket *bucket = &plan->buckets[b];
        bucket->wire_dtype = sherd__plan_wire_dtype(config, bucket->grad_dtype);
        if (config->transport.reduction == SHERD_REDUCTION_NATIVE && config->wire == SHERD_WIRE_FP32 &&
            bucket->grad_dtype != SHERD_FP32 && !plan->full_mode)
            return sherd__fail(
                err, SHERD_EUNSUPPORTED,
                "communication_data_type 'fp32' with gradients in %s: sherd.reduction 'native' sums them in "
                "their own type; use 'tree', which sums in fp32, or leave the key out",
                sherd_dtype_name(bucket->grad_dtype));
    }
    return SHERD_OK;
}

/* fp32 slices beside what is received: sums for half of the other ranks, one of the own node, and one for each level of
 * the tree and its root. */
static uint64_t partial_slices(int32_t world)
{
    uint64_t levels = 1;
    while ((int64_t)1 << (levels - 1) < world)
        levels++;
    return world > 2 ? (uint64_t)(world - 1) / 2 + 1 + levels : 0;
}

/* Leaves in the wire's type; fp32 sums where they are reduced after the last micro-step, and Muon's results. */
void sherd__plan_place_receive(sherd_plan *plan)
{
    uint64_t largest = 0, largest_sum = 0;
    if (sherd__plan_transport(&plan->config) == SHERD_TRANSPORT_DIRECT ||
        plan->config.transport.reduction == SHERD_REDUCTION_NATIVE)
        return;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        uint64_t bytes =
            (uint64_t)bucket->slice_elems * (plan->full_mode || (bucket->muon && sherd__plan_joins(plan))
                                                 ? sizeof(float)
                                                 : sherd_dtype_bytes(bucket->wire_dtype));
        uint64_t sum_bytes = (uint64_t)bucket->slice_elems * sizeof(float);
        largest = bytes > largest ? bytes : largest;
        largest_sum = sum_bytes > largest_sum ? sum_bytes : largest_sum;
    }
    plan->receive_bytes = largest * (uint64_t)(plan->world - 1);
    if (sherd__plan_transport(&plan->config) == SHERD_TRANSPORT_MPI)
        plan->receive_bytes += partial_slices(plan->world) * largest_sum;
    plan->comm_bytes += plan->receive_bytes;
}
