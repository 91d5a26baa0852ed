/* SPDX-License-Identifier: MIT
 *
 * How one node's arena is laid out, in one walk that runs twice: first to count bytes (base NULL), then to hand out
 * addresses. In order: sums (and steps of Muon's matrices, where sums are narrower), state, second state, second emits,
 * emit slots, disk slots (each at a page's start, as the disk wants).
 */
#include "offload/internal.h"

typedef struct walk {
    char *base; /* NULL: count only */
    uint64_t at;
} walk;

static void *take(walk *w, uint64_t bytes)
{
    void *place = w->base ? w->base + w->at : NULL;
    w->at += bytes;
    return place;
}

static void page_up(walk *w)
{
    w->at = (w->at + SHERD__AIO_ALIGN - 1) / SHERD__AIO_ALIGN * SHERD__AIO_ALIGN;
}

static uint64_t elems_of(const sherd__place *place)
{
    return (uint64_t)(place->end - place->begin);
}

static uint32_t states(const sherd__offload *offload, uint32_t bucket)
{
    return 1 + sherd__bucket_moments(offload->plan, &offload->plan->buckets[bucket]);
}

static uint64_t record_bytes(const sherd__offload *offload, uint32_t b, const sherd__place *place)
{
    const sherd_plan *plan = offload->plan;
    uint64_t bytes = elems_of(place) *
                     (sherd__plan_state_width(plan, 0) + (states(offload, b) - 1) * sherd__plan_state_width(plan, 1));
    return (bytes + SHERD__AIO_ALIGN - 1) / SHERD__AIO_ALIGN * SHERD__AIO_ALIGN;
}

static void take_own(sherd__offload *offload, walk *w, uint32_t b, int32_t node)
{
    const sherd__bucket *bucket = &offload->plan->buckets[b];
    sherd__place *place = sherd__places(offload, b) + node;
    uint64_t n = elems_of(place);

    place->sum = take(w, n * sherd_dtype_bytes(sherd__plan_sum_dtype(offload->plan, bucket)));
    if (bucket->muon)
        place->step = sherd__bucket_has_step(offload->plan, bucket) ? take(w, n * sizeof(float)) : place->sum;
    if (bucket->tier == SHERD_TIER_HOST)
        for (uint32_t s = 0; s < states(offload, b); s++)
            place->state[s] = take(w, n * sherd__plan_state_width(offload->plan, s));
    if (!bucket->speculated)
        return;
    for (uint32_t s = 0; s < states(offload, b); s++)
        place->shadow[s] = take(w, n * sherd__plan_state_width(offload->plan, s));
    if (bucket->dtype != SHERD_FP32)
        place->emit = take(w, n * sizeof(uint16_t));
}

/* Slots are as large as their largest user on this node. */
static void take_emit_slots(sherd__offload *offload, walk *w, int32_t node)
{
    const sherd_plan *plan = offload->plan;
    const sherd__placement *placement = &plan->placement;
    void *slots[SHERD__EMIT_SLOTS] = {NULL};
    uint64_t largest = 0;

    for (uint32_t b = 0; b < placement->n_off; b++) {
        uint64_t n = elems_of(sherd__places(offload, b) + node);
        if (plan->buckets[b].dtype != SHERD_FP32 && !plan->buckets[b].speculated && n > largest)
            largest = n;
    }
    for (uint32_t s = 0; s < placement->emit_slots; s++)
        slots[s] = take(w, largest * sizeof(uint16_t));
    for (uint32_t b = 0; b < placement->n_off; b++)
        if (plan->buckets[b].dtype != SHERD_FP32 && !plan->buckets[b].speculated)
            sherd__places(offload, b)[node].emit = slots[plan->buckets[b].emit_slot.index];
}

static void take_disk_slots(sherd__offload *offload, walk *w, int32_t node)
{
    const sherd_plan *plan = offload->plan;
    char *slots[SHERD__MAX_SLOTS] = {NULL};
    uint64_t largest = 0;

    for (uint32_t b = 0; b < plan->placement.n_disk; b++) {
        uint64_t bytes = record_bytes(offload, b, sherd__places(offload, b) + node);
        largest = bytes > largest ? bytes : largest;
    }
    page_up(w);
    for (uint32_t s = 0; s < plan->placement.disk_slots; s++)
        slots[s] = take(w, largest);
    offload->slot_area[node] = slots[0];
    offload->slot_area_bytes[node] = largest * plan->placement.disk_slots;
    for (uint32_t b = 0; b < plan->placement.n_disk; b++) {
        sherd__place *place = sherd__places(offload, b) + node;
        char *record = slots[plan->buckets[b].disk_slot.index];
        place->record = record;
        place->record_bytes = record_bytes(offload, b, place);
        for (uint32_t s = 0; s < states(offload, b) && record; s++) {
            place->state[s] = record;
            record += elems_of(place) * sherd__plan_state_width(plan, s);
        }
    }
}

static uint64_t walk_node(sherd__offload *offload, int32_t node, void *base)
{
    walk w = {base, 0};
    for (uint32_t b = 0; b < offload->plan->placement.n_off; b++)
        take_own(offload, &w, b, node);
    take_emit_slots(offload, &w, node);
    if (offload->plan->placement.n_disk > 0)
        take_disk_slots(offload, &w, node);
    return w.at;
}

void sherd__places_cut(sherd__offload *offload)
{
    const sherd_plan *plan = offload->plan;

    offload->file_bytes = 0;
    for (uint32_t b = 0; b < plan->placement.n_off; b++) {
        const sherd__bucket *bucket = &plan->buckets[b];
        for (int32_t node = 0; node < offload->n_nodes; node++) {
            sherd__place *place = sherd__places(offload, b) + node;
            sherd__even_part(sherd__plan_part_elems(plan, bucket), offload->n_nodes, node, &place->begin, &place->end);
            place->file_offset = offload->file_bytes;
            if (bucket->tier == SHERD_TIER_DISK)
                offload->file_bytes += record_bytes(offload, b, place);
        }
    }
    for (int32_t node = 0; node < offload->n_nodes; node++)
        offload->arena_bytes[node] = walk_node(offload, node, NULL);
}

void sherd__places_address(sherd__offload *offload)
{
    for (int32_t node = 0; node < offload->n_nodes; node++)
        if (offload->arenas[node])
            (void)walk_node(offload, node, sherd__arena_base(offload->arenas[node]));
}

void *sherd__offload_state(const sherd__offload *offload, uint32_t bucket, int32_t parity, uint32_t which,
                           int64_t local, int64_t *run)
{
    const sherd__place *place = sherd__places(offload, bucket);
    while (local >= place->end)
        place++;
    *run = place->end - local;
    return (char *)sherd__place_now(place, parity, which) +
           (uint64_t)(local - place->begin) * sherd__plan_state_width(offload->plan, which);
}

int32_t sherd__offload_nodes(const sherd__offload *offload)
{
    return offload->n_nodes;
}
