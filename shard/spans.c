/* SPDX-License-Identifier: MIT
 *
 * Questions about who owns which elements and blocks.
 */
#include "shard/build.h"

static const sherd__plan_param *param_at(const sherd_plan *plan, const sherd__bucket *bucket, uint32_t place)
{
    return &plan->params[plan->order[bucket->first + place]];
}

/* Place of the last parameter of the bucket that starts at or before `element`. */
static uint32_t place_of(const sherd_plan *plan, const sherd__bucket *bucket, int64_t element)
{
    uint32_t low = 0, high = bucket->count;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (param_at(plan, bucket, middle)->offset <= element)
            low = middle;
        else
            high = middle;
    }
    return low;
}

uint32_t sherd__plan_spans(const sherd_plan *plan, uint32_t bucket, int64_t begin, int64_t end, sherd__span *out,
                           uint32_t capacity)
{
    const sherd__bucket *of = &plan->buckets[bucket];
    sherd__span last = {0, 0, 0, 0};
    uint32_t n = 0;
    if (begin >= end)
        return 0;
    for (uint32_t place = place_of(plan, of, begin); place < of->count; place++) {
        const sherd__plan_param *param = param_at(plan, of, place);
        int64_t from = param->offset > begin ? param->offset : begin;
        int64_t to = param->offset + param->elems < end ? param->offset + param->elems : end;
        if (param->offset >= end)
            break;
        if (from >= to)
            continue;
        int joins = n > 0 && last.end == from && last.group == param->group && !plan->trust;
        last = (sherd__span){joins ? last.begin : from, to, param->group, plan->trust ? of->first + place : 0};
        n += !joins;
        if (n <= capacity)
            out[n - 1] = last;
    }
    return n;
}

int64_t sherd__plan_param_of_block(const sherd_plan *plan, uint64_t number)
{
    uint32_t low = 0, high = plan->n_buckets;
    if (high == 0)
        return -1;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (plan->buckets[middle].first_block <= number)
            low = middle;
        else
            high = middle;
    }
    const sherd__bucket *bucket = &plan->buckets[low];
    uint64_t inside = number - bucket->first_block; /* bucket 0 begins with block 0 */
    if (inside > (uint64_t)bucket->elems / SHERD__ALIGN_ELEMS)
        return -1;
    uint32_t place = place_of(plan, bucket, (int64_t)inside * SHERD__ALIGN_ELEMS);
    const sherd__plan_param *param = param_at(plan, bucket, place);
    return (int64_t)inside * SHERD__ALIGN_ELEMS < param->offset + param->elems
               ? (int64_t)plan->order[bucket->first + place]
               : -1;
}
