/* SPDX-License-Identifier: MIT
 *
 * Written from the header's words, not from the code: small plans only.
 */
#include "tests/shard/invariants.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct piece {
    uint64_t begin, end;
} piece;

static int by_begin(const void *a, const void *b)
{
    const piece *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

/* Pieces are disjoint and inside [0, bytes); with `tight` they leave no gap. */
static void check_disjoint(piece *pieces, uint32_t n, uint64_t bytes, int tight)
{
    uint64_t at = 0;
    qsort(pieces, n, sizeof *pieces, by_begin);
    for (uint32_t i = 0; i < n; i++) {
        assert_true(pieces[i].begin >= at);
        assert_true(pieces[i].begin <= pieces[i].end);
        if (tight)
            assert_int_equal(pieces[i].begin, at);
        at = pieces[i].end;
    }
    assert_true(at <= bytes);
    if (tight)
        assert_int_equal(at, bytes);
}

static int has_gradient(const sherd_param *param, const sherd__plan_param *planned)
{
    return planned->elems > 0 && !(param->flags & SHERD_PARAM_FROZEN);
}

static void check_params(const sherd_plan *plan, const sherd_param *params, uint32_t n_params)
{
    int64_t total = 0;
    uint32_t place = 0;
    assert_int_equal(plan->n_params, n_params);
    for (uint32_t i = 0; i < n_params; i++) {
        int64_t elems = 1;
        for (uint32_t d = 0; d < params[i].ndim; d++)
            elems *= params[i].shape[d];
        assert_int_equal(plan->params[i].elems, elems);
        assert_string_equal(plan->params[i].name, params[i].name);
        assert_int_equal(plan->params[i].uses, params[i].uses ? params[i].uses : 1);
        total += elems;
    }
    assert_int_equal(plan->total_elems, total);
    for (uint32_t left = n_params; left > 0; left--) {
        if (!has_gradient(&params[left - 1], &plan->params[left - 1])) {
            assert_int_equal(plan->params[left - 1].bucket, -1);
            continue;
        }
        assert_int_equal(plan->order[place], left - 1);
        assert_true(plan->params[left - 1].bucket >= 0);
        place++;
    }
    uint32_t counted = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        assert_int_equal(plan->buckets[b].first, counted);
        assert_true(plan->buckets[b].count > 0);
        counted += plan->buckets[b].count;
    }
    assert_int_equal(counted, place);
}

static int64_t up256(int64_t value)
{
    return (value + 255) / 256 * 256;
}

static void check_bucket(const sherd_plan *plan, uint32_t b, int64_t target)
{
    const sherd__bucket *bucket = &plan->buckets[b];
    int64_t end = 0;
    uint32_t uses = 0;
    for (uint32_t i = 0; i < bucket->count; i++) {
        const sherd__plan_param *param = &plan->params[plan->order[bucket->first + i]];
        assert_int_equal(param->bucket, b);
        assert_int_equal(param->dtype, bucket->dtype);
        assert_int_equal(param->grad_dtype, bucket->grad_dtype);
        assert_int_equal(param->offset, up256(end));
        assert_true(i == 0 || param->offset + param->elems <= target);
        assert_int_equal(param->param_offset,
                         bucket->param_offset + (uint64_t)param->offset * sherd_dtype_bytes(param->dtype));
        end = param->offset + param->elems;
        uses += param->uses;
    }
    assert_int_equal(bucket->contributions, uses);
    assert_int_equal(bucket->slice_elems % 256, 0);
    assert_int_equal(bucket->elems, bucket->slice_elems * plan->world);
    assert_true(bucket->elems >= end);
    assert_true((bucket->slice_elems - 256) * plan->world < end); /* no slice could be shorter */
    if (b + 1 < plan->n_buckets) {
        const sherd__plan_param *next = &plan->params[plan->order[bucket->first + bucket->count]];
        assert_true(next->dtype != bucket->dtype || next->grad_dtype != bucket->grad_dtype ||
                    up256(end) + next->elems > target);
    }
}

/* Marks what the spans of [begin, end) cover; each must be one group's, aligned, and clipped to the range. */
static void mark_spans(const sherd_plan *plan, uint32_t b, int64_t begin, int64_t end, int32_t *group_of)
{
    sherd__span spans[64];
    uint32_t n = sherd__plan_spans(plan, b, begin, end, spans, 64);
    assert_true(n <= 64);
    assert_int_equal(sherd__plan_spans(plan, b, begin, end, NULL, 0), n);
    for (uint32_t capacity = n; n && capacity + 1 >= n && capacity < 64; capacity--) { /* all but the last, or all */
        sherd__span few[64] = {0};
        assert_int_equal(sherd__plan_spans(plan, b, begin, end, few, capacity), n);
        for (uint32_t s = 0; s < capacity; s++)
            assert_true(few[s].begin == spans[s].begin && few[s].end == spans[s].end &&
                        few[s].group == spans[s].group);
        assert_int_equal(few[capacity].end, 0);
    }
    for (uint32_t s = 0; s < n; s++) {
        assert_true(spans[s].begin >= begin && spans[s].begin < spans[s].end && spans[s].end <= end);
        assert_int_equal(spans[s].begin % 256, 0);
        assert_true(s == 0 || spans[s].begin > spans[s - 1].end || spans[s].group != spans[s - 1].group);
        for (int64_t e = spans[s].begin; e < spans[s].end; e++) {
            assert_int_equal(group_of[e], -1);
            group_of[e] = (int32_t)spans[s].group;
        }
    }
}

static void check_cover(const sherd_plan *plan, uint32_t b, invariants_seen *seen)
{
    const sherd__bucket *bucket = &plan->buckets[b];
    int32_t *got = malloc((size_t)bucket->elems * sizeof *got), *want = malloc((size_t)bucket->elems * sizeof *want);
    assert_non_null(got);
    assert_non_null(want);
    for (int64_t e = 0; e < bucket->elems; e++)
        got[e] = want[e] = -1;
    for (uint32_t i = 0; i < bucket->count; i++) {
        const sherd__plan_param *param = &plan->params[plan->order[bucket->first + i]];
        for (int64_t e = 0; e < param->elems; e++)
            want[param->offset + e] = (int32_t)param->group;
    }
    for (int32_t rank = 0; rank < plan->world; rank++)
        mark_spans(plan, b, rank * bucket->slice_elems, (rank + 1) * bucket->slice_elems, got);
    assert_memory_equal(got, want, (size_t)bucket->elems * sizeof *got);
    seen->elements += (uint64_t)bucket->elems;
    free(got);
    free(want);
}

static void check_blocks(const sherd_plan *plan)
{
    uint64_t block = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        assert_int_equal(plan->buckets[b].first_block, block);
        for (uint32_t i = 0; i < plan->buckets[b].count; i++) {
            uint32_t id = plan->order[plan->buckets[b].first + i];
            for (int64_t e = 0; e < plan->params[id].elems; e += 256)
                assert_int_equal(sherd__plan_param_of_block(plan, block++), id);
        }
    }
    assert_int_equal(sherd__plan_param_of_block(plan, block), -1);
    assert_int_equal(sherd__plan_param_of_block(plan, block + 1000000), -1);
    assert_int_equal(sherd__plan_param_of_block(plan, UINT64_MAX), -1);
}

static uint64_t sum_elem_bytes(const sherd_plan *plan, const sherd__bucket *bucket)
{
    return plan->config.sherd.grad_sum_bf16 && plan->config.gradient_accumulation_steps == 1 &&
                   bucket->dtype == SHERD_BF16
               ? 2
               : 4;
}

static void check_arenas(const sherd_plan *plan)
{
    uint32_t n = 0, n_master = 0, n_param = 0, n_shared = 0;
    piece sum[64], state[64], master[64], param[128], shared[64];
    int whole = plan->config.zero.stage == 0;
    int full = plan->config.zero.stage < 2 && plan->config.gradient_accumulation_steps > 1;
    assert_int_equal(plan->whole_state, whole);
    assert_int_equal(plan->full_mode, full);
    for (uint32_t b = 0; b < plan->n_buckets; b++, n++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        uint64_t own = (uint64_t)(whole ? bucket->elems : bucket->slice_elems);
        uint64_t sums =
            (uint64_t)(whole || full ? bucket->elems : bucket->slice_elems) * sum_elem_bytes(plan, bucket);
        sum[n] = (piece){bucket->sum_offset, bucket->sum_offset + sums};
        state[n] = (piece){bucket->state_offset, bucket->state_offset + own};
        if (bucket->dtype != SHERD_FP32)
            master[n_master++] = (piece){bucket->master_offset, bucket->master_offset + own};
        param[n_param++] = (piece){bucket->param_offset,
                                   bucket->param_offset + (uint64_t)bucket->elems * sherd_dtype_bytes(bucket->dtype)};
    }
    for (uint32_t i = 0; i < plan->n_params; i++) {
        const sherd__plan_param *p = &plan->params[i];
        uint64_t bytes = (uint64_t)up256(p->elems) * sherd_dtype_bytes(p->dtype);
        assert_int_equal(p->param_offset % 64, 0);
        if (p->bucket < 0 && p->elems > 0)
            param[n_param++] = (piece){p->param_offset, p->param_offset + bytes};
        uint64_t grad = ((uint64_t)p->elems * sherd_dtype_bytes(p->grad_dtype) + 63) / 64 * 64;
        if (p->bucket >= 0 && p->uses > 1)
            shared[n_shared++] = (piece){p->shared_offset, p->shared_offset + grad};
    }
    check_disjoint(sum, n, plan->sum_bytes, 1);
    check_disjoint(state, n, plan->moment_elems, 1);
    check_disjoint(master, n_master, plan->master_elems, 1);
    check_disjoint(param, n_param, plan->param_bytes, 1);
    check_disjoint(shared, n_shared, plan->shared_bytes, 1);
}

static int overlap(const sherd__bucket *a, const sherd__bucket *b)
{
    return a->ring_offset < b->ring_offset + b->ring_bytes && b->ring_offset < a->ring_offset + a->ring_bytes;
}

static void check_ring(const sherd_plan *plan, invariants_seen *seen)
{
    uint64_t largest_param = 0, smallest = UINT64_MAX, all = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        assert_int_equal(bucket->ring_bytes, (uint64_t)bucket->elems * sherd_dtype_bytes(bucket->grad_dtype));
        assert_int_equal(bucket->ring_offset % 64, 0);
        assert_true(bucket->ring_offset + bucket->ring_bytes <= plan->ring_bytes);
        smallest = bucket->ring_bytes < smallest ? bucket->ring_bytes : smallest;
        all += bucket->ring_bytes;
        int64_t n = plan->n_buckets, former = -1;
        for (int64_t at = n + b - 1; at >= 0 && former < 0; at--)
            if (overlap(bucket, &plan->buckets[at % n]))
                former = at;
        assert_true(former >= 0);
        assert_int_equal(bucket->ring_after, former % n);
        assert_int_equal(bucket->ring_after_previous != 0, former < n);
        seen->overlaps += former >= n;
        seen->wraps += b > 0 && bucket->ring_offset == 0;
    }
    for (uint32_t i = 0; i < plan->n_params; i++) {
        uint64_t bytes = (uint64_t)plan->params[i].elems * sherd_dtype_bytes(plan->params[i].grad_dtype);
        if (plan->params[i].bucket >= 0 && bytes > largest_param)
            largest_param = bytes;
    }
    assert_true(plan->ring_bytes <= all);
    if (plan->n_buckets)
        assert_true(plan->ring_bytes == all || plan->ring_bytes >= largest_param + smallest);
}

static void check_memory(const sherd_plan *plan)
{
    for (int32_t rank = 0; rank < plan->world; rank++) {
        sherd_memory memory;
        assert_int_equal(sherd_plan_memory(plan, rank, &memory), SHERD_OK);
        const uint64_t *device = memory.bytes[SHERD_TIER_DEVICE];
        assert_int_equal(device[SHERD_CAT_PARAMETERS], plan->param_bytes);
        assert_int_equal(device[SHERD_CAT_GRADIENTS], plan->ring_bytes);
        assert_int_equal(device[SHERD_CAT_GRADIENTS_SHARED], plan->shared_bytes);
        assert_int_equal(device[SHERD_CAT_GRAD_SUMS], plan->sum_bytes);
        assert_int_equal(device[SHERD_CAT_MASTER], plan->master_elems * 4);
        assert_int_equal(device[SHERD_CAT_MOMENTS],
                         plan->moment_elems * 4 * (plan->config.optimizer.kind == SHERD_SGD ? 1 : 2));
        assert_int_equal(device[SHERD_CAT_COMMUNICATION], 8192 + 64 * plan->world);
        for (int tier = 0; tier < SHERD_TIERS; tier++)
            for (int c = 0; c < SHERD_CATEGORIES; c++)
                if (tier == SHERD_TIER_HOST && c == SHERD_CAT_COMMUNICATION)
                    assert_int_equal(memory.bytes[tier][c], 4096 + 65536);
                else if (tier != SHERD_TIER_DEVICE || !sherd_category_planned((sherd_category)c))
                    assert_int_equal(memory.bytes[tier][c], 0);
    }
    sherd_memory none;
    assert_int_equal(sherd_plan_memory(plan, plan->world, &none), SHERD_EINVAL);
    assert_int_equal(sherd_plan_memory(plan, -1, &none), SHERD_EINVAL);
}

void invariants_check(const sherd_plan *plan, const sherd_param *params, uint32_t n_params, int64_t target,
                      invariants_seen *seen)
{
    check_params(plan, params, n_params);
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        check_bucket(plan, b, target);
        check_cover(plan, b, seen);
    }
    check_blocks(plan);
    check_arenas(plan);
    check_ring(plan, seen);
    check_memory(plan);
    seen->plans++;
}
