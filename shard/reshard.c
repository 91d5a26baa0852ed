/* SPDX-License-Identifier: MIT */
#include "shard/reshard.h"

#include <inttypes.h>
#include <stdlib.h>

uint32_t sherd__reshard_ranges(const sherd_plan *plan, int32_t rank, sherd__range_of_param *out, uint32_t capacity)
{
    uint32_t n = 0;

    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        int64_t begin = rank < 0 ? 0 : rank * bucket->slice_elems;
        int64_t end = rank < 0 ? bucket->elems : begin + bucket->slice_elems;
        for (uint32_t i = 0; i < bucket->count; i++) {
            uint32_t id = plan->order[bucket->first + i];
            const sherd__plan_param *param = &plan->params[id];
            int64_t from = param->offset > begin ? param->offset : begin;
            int64_t to = param->offset + param->elems < end ? param->offset + param->elems : end;
            if (from >= to)
                continue;
            if (n < capacity)
                out[n] = (sherd__range_of_param){id, b, from - param->offset, to - from, from};
            n++;
        }
    }
    return n;
}

static int order(const void *left, const void *right)
{
    const sherd__piece *a = left, *b = right;

    if (a->param != b->param)
        return a->param < b->param ? -1 : 1;
    if (a->which != b->which)
        return a->which < b->which ? -1 : 1;
    return (a->first > b->first) - (a->first < b->first);
}

/* Pieces [*i, …) that belong to one state of one parameter, in a row from 0 to its end. */
static sherd_status cover(const sherd__plan_param *param, uint32_t id, uint32_t which, const sherd__piece *pieces,
                          size_t n, size_t *i, sherd_error *err)
{
    int64_t at = 0;

    for (; *i < n && pieces[*i].param == id && pieces[*i].which == which; ++*i) {
        const sherd__piece *piece = &pieces[*i];
        if (piece->first != at || piece->elems < 1 || piece->elems > param->elems - at)
            break;
        at += piece->elems;
    }
    if (at != param->elems)
        return sherd__fail(err, SHERD_EINVAL,
                           "state %" PRIu32 " of parameter '%s': element %" PRId64
                           " is missing from the checkpoint's files, or there twice; use another checkpoint",
                           which, param->name, at);
    return SHERD_OK;
}

sherd_status sherd__reshard_prepare(const sherd_plan *plan, sherd__piece *pieces, size_t n, sherd_error *err)
{
    size_t i = 0;

    if (n > 0)
        qsort(pieces, n, sizeof *pieces, order);
    for (uint32_t p = 0; p < plan->n_params; p++)
        for (uint32_t which = 0; plan->params[p].bucket >= 0 && which < sherd__plan_param_states(plan, p); which++) {
            sherd_status status = cover(&plan->params[p], p, which, pieces, n, &i, err);
            if (status != SHERD_OK)
                return status;
        }
    if (i < n)
        return sherd__fail(err, SHERD_EINVAL,
                           "the checkpoint's files hold state %" PRIu32 " of parameter %" PRIu32
                           " from element %" PRId64 " on, which nobody asks for; use another checkpoint",
                           pieces[i].which, pieces[i].param, pieces[i].first);
    return SHERD_OK;
}

const sherd__piece *sherd__reshard_find(const sherd__piece *pieces, size_t n, uint32_t param, uint32_t which,
                                        int64_t at)
{
    const sherd__piece key = {.param = param, .which = which, .first = at};
    size_t low = 0, high = n; /* the last piece that does not begin after the key */

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (order(&pieces[middle], &key) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    const sherd__piece *piece = &pieces[low - 1];
    return piece->param == param && piece->which == which && at < piece->first + piece->elems ? piece : NULL;
}
