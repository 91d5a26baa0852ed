/* SPDX-License-Identifier: MIT
 *
 * The parameter table: every descriptor is validated with a sentence that names it, then copied.
 */
#include <inttypes.h>
#include <string.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "shard/build.h"

#define NAME_MAX_BYTES 255
#define USES_MAX       65535u

static sherd_status count_elems(const sherd_param *param, int64_t *out, sherd_error *err)
{
    int64_t elems = 1;
    int empty = 0;
    for (uint32_t d = 0; d < param->ndim; d++) {
        if (param->shape[d] < 0)
            return sherd__fail(err, SHERD_EINVAL,
                               "parameter '%s': dimension %" PRIu32 " is %" PRId64 "; give 0 or more", param->name, d,
                               param->shape[d]);
        empty |= param->shape[d] == 0;
    }
    for (uint32_t d = 0; d < param->ndim && !empty; d++)
        if (!sherd__mul_i64(elems, param->shape[d], &elems) || elems > SHERD__MAX_ELEMS)
            return sherd__fail(err, SHERD_EINVAL, "parameter '%s': its shape has more than 2^57 elements; split it",
                               param->name);
    *out = empty ? 0 : elems;
    return SHERD_OK;
}

static sherd_status check_types(const sherd_param *param, sherd_error *err)
{
    if (param->dtype != SHERD_FP32 && param->dtype != SHERD_BF16 && param->dtype != SHERD_FP16)
        return sherd__fail(err, SHERD_EINVAL, "parameter '%s': unknown dtype %d; use fp32, bf16 or fp16", param->name,
                           (int)param->dtype);
    if (param->grad_dtype != SHERD_FP32 && param->grad_dtype != param->dtype)
        return sherd__fail(
            err, SHERD_EINVAL,
            "parameter '%s': gradient dtype %d with dtype %d; a gradient is fp32 or of its parameter's dtype",
            param->name, (int)param->grad_dtype, (int)param->dtype);
    return SHERD_OK;
}

static sherd_status check_param(const sherd_plan *plan, const sherd_param *param, uint32_t index, sherd_error *err)
{
    uint32_t n_groups = plan->config.n_groups ? plan->config.n_groups : 1;
    if (!param->name || !param->name[0])
        return sherd__fail(err, SHERD_EINVAL, "parameter %" PRIu32 " has no name; give every parameter a unique one",
                           index);
    if (strnlen(param->name, NAME_MAX_BYTES + 1) > NAME_MAX_BYTES)
        return sherd__fail(err, SHERD_EINVAL,
                           "parameter %" PRIu32 " ('%.40s…'): the name is longer than %d bytes; shorten it", index,
                           param->name, NAME_MAX_BYTES);
    if (param->ndim > SHERD_MAX_DIMS)
        return sherd__fail(err, SHERD_EINVAL, "parameter '%s': %" PRIu32 " dimensions; at most %d", param->name,
                           param->ndim, SHERD_MAX_DIMS);
    if (param->group >= n_groups)
        return sherd__fail(err, SHERD_EINVAL,
                           "parameter '%s': group %" PRIu32 ", but the configuration has %" PRIu32
                           "; add the group or lower the index",
                           param->name, param->group, n_groups);
    if (param->uses > USES_MAX)
        return sherd__fail(err, SHERD_EINVAL, "parameter '%s': %" PRIu32 " uses; at most %u", param->name,
                           param->uses, USES_MAX);
    if (param->flags & ~(SHERD_PARAM_FROZEN | SHERD_PARAM_MUON))
        return sherd__fail(err, SHERD_EINVAL, "parameter '%s': unknown flags 0x%" PRIx32 "; use SHERD_PARAM_ values",
                           param->name, param->flags);
    if (param->flags & SHERD_PARAM_MUON && (param->ndim != 2 || param->shape[0] < 1 || param->shape[1] < 1))
        return sherd__fail(err, SHERD_EINVAL,
                           "parameter '%s': SHERD_PARAM_MUON is for matrices, but it has %" PRIu32
                           " dimensions, or an empty one; take the flag away, and Muon updates it by AdamW",
                           param->name, param->ndim);
    return check_types(param, err);
}

static sherd_status copy_param(sherd__plan_param *to, const sherd_param *from, sherd_error *err)
{
    size_t bytes = strlen(from->name) + 1;
    to->name = sherd__alloc(&sherd__default_allocator, bytes, 1);
    if (!to->name)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the plan's copy of parameter '%s'", from->name);
    memcpy(to->name, from->name, bytes);
    for (uint32_t d = 0; d < from->ndim; d++)
        to->shape[d] = from->shape[d];
    to->ndim = from->ndim;
    to->dtype = from->dtype;
    to->grad_dtype = from->grad_dtype;
    to->group = from->group;
    to->uses = from->uses ? from->uses : 1;
    to->flags = from->flags;
    to->storage = from->storage;
    to->bucket = -1;
    to->owner = -1;
    return SHERD_OK;
}

static uint64_t name_hash(const char *name)
{
    uint64_t hash = 14695981039346656037u; /* FNV-1a: only spreads names over a table that lives for one call */
    for (; *name; name++)
        hash = (hash ^ (unsigned char)*name) * 1099511628211u;
    return hash ^ hash >> 32;
}

/* Names must be unique: one pass through an open table of indices + 1, half empty. */
static sherd_status check_unique(const sherd_plan *plan, sherd_error *err)
{
    size_t slots = 16;
    while (slots < 2 * (size_t)plan->n_params)
        slots *= 2;
    uint32_t *table = sherd__alloc(&sherd__default_allocator, slots, sizeof *table);
    if (!table)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a table of %" PRIu32 " parameter names", plan->n_params);
    sherd_status status = SHERD_OK;
    for (uint32_t i = 0; i < plan->n_params && !status; i++) {
        const char *name = plan->params[i].name;
        size_t at = (size_t)name_hash(name) & (slots - 1);
        while (table[at] && strcmp(plan->params[table[at] - 1].name, name))
            at = (at + 1) & (slots - 1);
        if (table[at])
            status = sherd__fail(err, SHERD_EINVAL,
                                 "parameters %" PRIu32 " and %" PRIu32 " are both named '%s'; names must differ",
                                 table[at] - 1, i, name);
        table[at] = i + 1;
    }
    sherd__free(&sherd__default_allocator, table, slots, sizeof *table);
    return status;
}

sherd_status sherd__plan_take_params(sherd_plan *plan, const sherd_param *params, uint32_t n_params, sherd_error *err)
{
    sherd_status status = SHERD_OK;
    if (n_params > INT32_MAX)
        return sherd__fail(err, SHERD_EINVAL, "%" PRIu32 " parameters; at most %d", n_params, INT32_MAX);
    plan->params = sherd__alloc(&sherd__default_allocator, n_params, sizeof *plan->params);
    if (!plan->params)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for a table of %" PRIu32 " parameters", n_params);
    plan->n_params = n_params;
    for (uint32_t i = 0; i < n_params; i++) {
        sherd__plan_param *param = &plan->params[i];
        if ((status = check_param(plan, &params[i], i, err)) ||
            (status = count_elems(&params[i], &param->elems, err)) || (status = copy_param(param, &params[i], err)))
            return status;
        plan->total_elems += param->elems; /* cannot wrap: checked at once, and each is at most 2^57 */
        if (plan->total_elems > SHERD__MAX_ELEMS)
            return sherd__fail(err, SHERD_EINVAL, "parameter '%s' brings the model above 2^57 elements", param->name);
    }
    return check_unique(plan, err);
}
