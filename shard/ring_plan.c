/* SPDX-License-Identifier: MIT
 *
 * The gradient ring's layout. Buckets take static offsets in reduction order and wrap to 0 when the next does not
 * fit. Since the offsets never change, so does the former user of each slot's bytes: one number per bucket is all the
 * engine needs at run time.
 *
 * The former user is found by painting the ring twice, as two consecutive micro-steps do: a list of intervals, in
 * order of offset, says who was the last to use which bytes. Within a lap the brush moves upwards only, and every
 * interval it passes is replaced, so the whole costs O(buckets).
 */
#include <inttypes.h>

#include "base/alloc.h"
#include "base/checked.h"
#include "shard/build.h"

#define NOBODY (-1)

typedef struct interval {
    uint64_t end;  /* begins where the one before it ends */
    int64_t user;  /* bucket; in the second micro-step plus n_buckets */
    uint32_t next; /* index; 0: none */
} interval;

/* Bytes of one bucket as the target would have it, padded like any bucket, of the widest gradient type in use. */
static uint64_t target_bytes(const sherd_plan *plan)
{
    sherd_dtype widest = SHERD_BF16;
    for (uint32_t b = 0; b < plan->n_buckets; b++)
        if (plan->buckets[b].grad_dtype == SHERD_FP32)
            widest = SHERD_FP32;
    int64_t target = sherd__plan_target_elems(plan, widest);
    target = target < SHERD__MAX_ELEMS ? target : SHERD__MAX_ELEMS;
    return (uint64_t)sherd__round_up(target, (int64_t)plan->world * SHERD__ALIGN_ELEMS) * sherd_dtype_bytes(widest);
}

/* Room for the largest bucket and two more of the usual size: one is reduced while the next is filled. The usual size
 * is the target, or the mean where parameters larger than the target are buckets of their own. */
static uint64_t choose_capacity(sherd_plan *plan)
{
    uint64_t all = 0, largest = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__bucket *bucket = &plan->buckets[b];
        bucket->ring_bytes = (uint64_t)bucket->elems * sherd_dtype_bytes(bucket->grad_dtype);
        all += bucket->ring_bytes;
        largest = bucket->ring_bytes > largest ? bucket->ring_bytes : largest;
    }
    uint64_t usual = target_bytes(plan), mean = plan->n_buckets ? all / plan->n_buckets / 64 * 64 : 0;
    usual = usual > mean ? usual : mean;
    return all < largest + 2 * usual ? all : largest + 2 * usual;
}

static void choose_offsets(sherd_plan *plan)
{
    uint64_t cursor = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__bucket *bucket = &plan->buckets[b];
        if (bucket->ring_bytes > plan->ring_bytes - cursor)
            cursor = 0;
        bucket->ring_offset = cursor;
        cursor += bucket->ring_bytes;
    }
}

/* Paints from the brush's interval's end up to `end`; returns the latest user of what was there. */
static int64_t paint(interval *list, uint32_t *used, uint32_t *brush, uint64_t end, int64_t user)
{
    uint32_t at = list[*brush].next;
    int64_t latest = list[at].user;
    while (list[at].end < end) {
        at = list[at].next;
        latest = list[at].user > latest ? list[at].user : latest;
    }
    if (list[at].end == end)
        at = list[at].next; /* swallowed whole; else it now begins at `end` */
    list[++*used] = (interval){.end = end, .user = user, .next = at};
    list[*brush].next = *used;
    *brush = *used;
    return latest;
}

/* One micro-step's lap or laps over the ring. User numbers count on from `first_user`. */
static void paint_micro_step(sherd_plan *plan, interval *list, uint32_t *used, int64_t first_user)
{
    uint32_t brush = 0;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        sherd__bucket *bucket = &plan->buckets[b];
        if (bucket->ring_offset == 0)
            brush = 0;
        int64_t latest = paint(list, used, &brush, bucket->ring_offset + bucket->ring_bytes, first_user + b);
        if (first_user == 0)
            continue; /* the first micro-step only primes the list */
        bucket->ring_after_previous = latest < first_user;
        bucket->ring_after = (uint32_t)(latest < first_user ? latest : latest - first_user);
    }
}

sherd_status sherd__plan_place_ring(sherd_plan *plan, sherd_error *err)
{
    size_t nodes = 2 * (size_t)plan->n_buckets + 2;
    plan->ring_bytes = choose_capacity(plan);
    choose_offsets(plan);
    interval *list = sherd__alloc(&sherd__default_allocator, nodes, sizeof *list);
    if (!list)
        return sherd__fail(err, SHERD_ENOMEM, "no memory to lay out the ring of %" PRIu32 " buckets",
                           plan->n_buckets);
    uint32_t used = 1;
    list[0] = (interval){.end = 0, .user = NOBODY, .next = 1};
    list[1] = (interval){.end = plan->ring_bytes, .user = NOBODY, .next = 0};
    paint_micro_step(plan, list, &used, 0);
    paint_micro_step(plan, list, &used,
                     plan->n_buckets); /* now every slot has a former user: at least the bucket itself */
    sherd__free(&sherd__default_allocator, list, nodes, sizeof *list);
    return SHERD_OK;
}
