/* SPDX-License-Identifier: MIT
 *
 * Buckets: runs of consecutive parameters in reverse registration order (or as asked), which is the order in which backward
 * completes their gradients. Small enough that the first reduction starts early and the last one, which nothing
 * hides, is short; large enough that the fixed cost of a collective does not matter.
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "shard/build.h"

#define LEAST_BYTES ((int64_t)1 << 20)
#define MOST_BYTES  ((int64_t)64 << 20)
#define MODEL_SHARE 8

static int has_bucket(const sherd__plan_param *param)
{
    return param->elems > 0 && !(param->flags & SHERD_PARAM_FROZEN);
}

/* Bytes of all gradients as they come: buckets are the same whatever travels. */
static int64_t gradient_bytes(const sherd_plan *plan)
{
    int64_t bytes = 0;
    for (uint32_t i = 0; i < plan->n_params; i++)
        if (has_bucket(&plan->params[i]))
            bytes += plan->params[i].elems * (int64_t)sherd_dtype_bytes(plan->params[i].grad_dtype);
    return bytes;
}

static int64_t clamp(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static int64_t target_from(const sherd_plan *plan, int64_t model_bytes, sherd_dtype grad_dtype)
{
    int64_t upper = plan->config.zero.reduce_bucket_size;
    if (plan->config.sherd.exact_bucket_size)
        return upper;
    if (plan->config.zero.stage > 0 && plan->config.zero.allgather_bucket_size < upper)
        upper = plan->config.zero.allgather_bucket_size; /* both collectives move the same buckets */
    int64_t own = clamp(model_bytes / MODEL_SHARE, LEAST_BYTES, MOST_BYTES) / (int64_t)sherd_dtype_bytes(grad_dtype);
    return own < upper ? own : upper;
}

int64_t sherd__plan_target_elems(const sherd_plan *plan, sherd_dtype grad_dtype)
{
    return target_from(plan, gradient_bytes(plan), grad_dtype);
}

/* Stepped as a whole. Only one kind lies in a bucket, since they have different moments. */
static int is_matrix(const sherd_plan *plan, const sherd__plan_param *param)
{
    return plan->config.optimizer.kind == SHERD_MUON && (param->flags & SHERD_PARAM_MUON) != 0;
}

/* 1 if `param` cannot join a bucket that holds `content` elements so far. */
static int closes(const sherd_plan *plan, const sherd__bucket *bucket, const sherd__plan_param *param, int64_t content,
                  int64_t target)
{
    int64_t start = sherd__round_up(content, SHERD__ALIGN_ELEMS);
    if (bucket->muon != is_matrix(plan, param))
        return 1;
    return bucket->dtype != param->dtype || bucket->grad_dtype != param->grad_dtype || start > target ||
           param->elems > target - start;
}

static void open_bucket(sherd_plan *plan, const sherd__plan_param *param, uint32_t first, uint64_t first_block)
{
    sherd__bucket *bucket = &plan->buckets[plan->n_buckets++];
    bucket->first = first;
    bucket->dtype = param->dtype;
    bucket->grad_dtype = param->grad_dtype;
    bucket->first_block = first_block;
    bucket->muon = is_matrix(plan, param);
}

static sherd_status seal_bucket(sherd_plan *plan, int64_t content, int64_t *padded, sherd_error *err)
{
    sherd__bucket *bucket = &plan->buckets[plan->n_buckets - 1];
    bucket->slice_elems = sherd__round_up((content + plan->world - 1) / plan->world, SHERD__ALIGN_ELEMS);
    bucket->elems = bucket->slice_elems * plan->world; /* at most 2^57 + 2^39 */
    *padded += bucket->elems;
    if (*padded > SHERD__MAX_ELEMS)
        return sherd__fail(err, SHERD_EINVAL,
                           "%" PRIu32 " buckets padded for %" PRId32
                           " ranks hold more than 2^57 elements; use fewer ranks or a larger reduce_bucket_size",
                           plan->n_buckets, plan->world);
    return SHERD_OK;
}

/* Appends one parameter to the open bucket; *content is where the bucket's last parameter ends. */
static sherd_status join_bucket(sherd_plan *plan, uint32_t id, uint32_t place, int64_t *content, sherd_error *err)
{
    sherd__bucket *bucket = &plan->buckets[plan->n_buckets - 1];
    sherd__plan_param *param = &plan->params[id];
    plan->order[place] = id;
    param->bucket = (int32_t)(plan->n_buckets - 1);
    param->offset = sherd__round_up(*content, SHERD__ALIGN_ELEMS);
    *content = param->offset + param->elems;
    bucket->count++;
    if (__builtin_add_overflow(bucket->contributions, param->uses, &bucket->contributions))
        return sherd__fail(err, SHERD_EINVAL,
                           "parameter '%s': its bucket has more than 2^32 uses; lower reduce_bucket_size",
                           param->name);
    return SHERD_OK;
}

/* Parameters as they are laid out. */
static uint32_t nth_param(const sherd_plan *plan, uint32_t i)
{
    return plan->arrival ? plan->arrival[i] : plan->n_params - 1 - i;
}

static sherd_status fill_buckets(sherd_plan *plan, sherd_error *err)
{
    int64_t model_bytes = gradient_bytes(plan), content = 0, padded = 0;
    uint64_t block = 0;
    uint32_t place = 0;
    sherd_status status;
    for (uint32_t i = 0; i < plan->n_params; i++) {
        uint32_t id = nth_param(plan, i);
        const sherd__plan_param *param = &plan->params[id];
        if (!has_bucket(param))
            continue;
        int64_t target = target_from(plan, model_bytes, param->grad_dtype);
        int open = plan->n_buckets > 0;
        if (open && closes(plan, &plan->buckets[plan->n_buckets - 1], param, content, target)) {
            if ((status = seal_bucket(plan, content, &padded, err)))
                return status;
            open = 0;
        }
        if (!open) {
            open_bucket(plan, param, place, block);
            content = 0;
        }
        if ((status = join_bucket(plan, id, place++, &content, err)))
            return status;
        block += (uint64_t)((param->elems + SHERD__ALIGN_ELEMS - 1) / SHERD__ALIGN_ELEMS);
    }
    return plan->n_buckets ? seal_bucket(plan, content, &padded, err) : SHERD_OK;
}

sherd_status sherd__plan_form_buckets(sherd_plan *plan, sherd_error *err)
{
    plan->order = sherd__alloc(&sherd__default_allocator, plan->n_params, sizeof *plan->order);
    plan->buckets = sherd__alloc(&sherd__default_allocator, plan->n_params, sizeof *plan->buckets);
    if (!plan->order || !plan->buckets)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the buckets of %" PRIu32 " parameters", plan->n_params);
    return fill_buckets(plan, err);
}
