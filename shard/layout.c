/* SPDX-License-Identifier: MIT
 *
 * Where everything lies: one arena per kind of data, filled in bucket order. Bucket sizes are multiples of 256
 * elements, so every offset is a multiple of 512 bytes or more. Padded sizes were bounded when the buckets were
 * formed.
 */
#include "base/checked.h"
#include "shard/build.h"

#define SHARED_ALIGN_BYTES 64

static void place_buckets(sherd_plan *plan)
{
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__bucket *bucket = &plan->buckets[b];
        uint64_t state = (uint64_t)sherd__plan_state_elems(plan, bucket);
        bucket->param_offset = plan->param_bytes;
        plan->param_bytes += (uint64_t)bucket->elems * sherd_dtype_bytes(bucket->dtype);
        bucket->sum_offset = plan->sum_bytes;
        plan->sum_bytes += (uint64_t)sherd__plan_sum_elems(plan, bucket) * sherd__plan_sum_elem_bytes(plan, bucket);
        bucket->state_offset = plan->moment_elems;
        plan->moment_elems += state;
        bucket->master_offset = plan->master_elems;
        plan->master_elems += bucket->dtype == SHERD_FP32 ? 0 : state;
    }
}

static void place_params(sherd_plan *plan)
{
    uint32_t with_bucket =
        plan->n_buckets ? plan->buckets[plan->n_buckets - 1].first + plan->buckets[plan->n_buckets - 1].count : 0;
    for (uint32_t i = 0; i < with_bucket; i++) {
        sherd__plan_param *param = &plan->params[plan->order[i]];
        const sherd__bucket *bucket = &plan->buckets[param->bucket];
        param->param_offset = bucket->param_offset + (uint64_t)param->offset * sherd_dtype_bytes(param->dtype);
        if (param->uses > 1) {
            uint64_t bytes = (uint64_t)param->elems * sherd_dtype_bytes(param->grad_dtype);
            param->shared_offset = plan->shared_bytes;
            plan->shared_bytes += (bytes + SHARED_ALIGN_BYTES - 1) / SHARED_ALIGN_BYTES * SHARED_ALIGN_BYTES;
        }
    }
}

static void place_frozen(sherd_plan *plan)
{
    for (uint32_t i = 0; i < plan->n_params; i++) {
        sherd__plan_param *param = &plan->params[i];
        if (param->bucket >= 0 || param->elems == 0)
            continue;
        param->param_offset = plan->param_bytes;
        plan->param_bytes +=
            (uint64_t)sherd__round_up(param->elems, SHERD__ALIGN_ELEMS) * sherd_dtype_bytes(param->dtype);
    }
}

void sherd__plan_place_arenas(sherd_plan *plan)
{
    int any_bf16 = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++)
        any_bf16 |= plan->buckets[b].dtype == SHERD_BF16;
    plan->narrow_sums = plan->config.sherd.grad_sum_bf16 && any_bf16;
    plan->sums_bf16 = plan->narrow_sums && plan->config.gradient_accumulation_steps == 1;
    place_buckets(plan);
    place_params(plan);
    place_frozen(plan);
}
