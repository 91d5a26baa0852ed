/* SPDX-License-Identifier: MIT
 *
 * What each piece of work reads and writes, said once at creation, for the checking device. A step of a speculated
 * bucket may write or not; it declares that it does.
 */
#include "base/alloc.h"
#include "offload/internal.h"

/* At most, per place: sum or step, two sets of state, emit; and per work the two scalars, or what whole parameters
 * have. */
#define PER_PLACE (2 * SHERD__STATES + 2)
#define PER_WORK 5

static void add(sherd__work *work, const void *address, uint64_t bytes, int32_t write)
{
    if (address && bytes)
        work->access[work->n_access++] = (sherd__access){address, bytes, write};
}

/* The bucket's parameters, of an array by place in the plan's order. */
static void declare_tensors(sherd__work *work, const void *array, uint64_t bytes, int32_t write)
{
    const sherd__bucket *bucket = &work->offload->plan->buckets[work->bucket];
    if (array)
        add(work, (const char *)array + bucket->first * bytes, bucket->count * bytes, write);
}

static void declare_trust(sherd__work *work)
{
    const sherd__offload *offload = work->offload;
    const sherd__bucket *bucket = &offload->plan->buckets[work->bucket];
    uint64_t sum_width = sherd_dtype_bytes(sherd__plan_sum_dtype(offload->plan, bucket));

    add(work, offload->scalars, sizeof *offload->scalars, 0);
    declare_tensors(work, offload->trust, sizeof *offload->trust, 1);
    for (int32_t node = 0; node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, work->bucket) + node;
        uint64_t n = (uint64_t)(place->end - place->begin);
        add(work, place->sum, n * sum_width, 0);
        for (uint32_t s = 0; s <= sherd__bucket_moments(offload->plan, bucket); s++)
            add(work, sherd__place_now(place, 0, s), n * sherd__plan_state_width(offload->plan, s), 0);
    }
}

/* What the sum was, the direction is: sums of fp32 are overwritten. */
static void declare_direct(sherd__work *work)
{
    const sherd__offload *offload = work->offload;
    const sherd__bucket *bucket = &offload->plan->buckets[work->bucket];

    add(work, offload->scalars, sizeof *offload->scalars, 0);
    for (int32_t node = 0; node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, work->bucket) + node;
        uint64_t n = (uint64_t)(place->end - place->begin);
        if (sherd__bucket_has_step(offload->plan, bucket))
            add(work, place->sum, n * sherd_dtype_bytes(sherd__plan_sum_dtype(offload->plan, bucket)), 0);
        add(work, place->step, n * sizeof *place->step, 1);
        add(work, place->state[1], n * sherd__plan_state_width(offload->plan, 1), 1);
    }
}

/* The step is there: the sum and the moment are not looked at any more. */
static void declare_apply(sherd__work *work)
{
    const sherd__offload *offload = work->offload;

    add(work, offload->scalars, sizeof *offload->scalars, 0);
    for (int32_t node = 0; node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, work->bucket) + node;
        uint64_t n = (uint64_t)(place->end - place->begin);
        add(work, place->step, n * sizeof *place->step, 0);
        add(work, place->state[0], n * sherd__plan_state_width(offload->plan, 0), 1);
        add(work, place->emit, n * sizeof(uint16_t), 1);
    }
}

static void declare_update(sherd__work *work, sherd__work_kind kind)
{
    const sherd__offload *offload = work->offload;
    const sherd__bucket *bucket = &offload->plan->buckets[work->bucket];
    uint64_t sum_width = sherd_dtype_bytes(sherd__plan_sum_dtype(offload->plan, bucket));

    if (kind == SHERD__WORK_STEP)
        add(work, offload->scalars, sizeof *offload->scalars, 0);
    declare_tensors(work, offload->ratios, sizeof *offload->ratios, 0);
    if (kind == SHERD__WORK_STEP && sherd__work_guesses(offload, work->bucket)) {
        add(work, offload->state, sizeof *offload->state, 0);
        for (int next = 0; next < 2; next++) /* which of them: the work knows */
            add(work, offload->guess[next], sizeof *offload->guess[next], 1);
    } else if (bucket->speculated) {
        add(work, offload->guess[work->parity], sizeof *offload->guess[0], 0);
    }
    for (int32_t node = 0; node < offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(offload, work->bucket) + node;
        uint64_t n = (uint64_t)(place->end - place->begin);
        add(work, place->sum, n * sum_width, 0);
        for (uint32_t s = 0; s <= sherd__bucket_moments(offload->plan, bucket); s++) {
            uint64_t width = sherd__plan_state_width(offload->plan, s);
            add(work, sherd__place_now(place, work->parity, s), n * width, !bucket->speculated);
            if (bucket->speculated)
                add(work, sherd__place_next(place, work->parity, s), n * width, 1);
        }
        add(work, place->emit, n * sizeof(uint16_t), 1);
    }
}

static void declare_disk(sherd__work *work, sherd__work_kind kind)
{
    for (int32_t node = 0; node < work->offload->n_nodes; node++) {
        const sherd__place *place = sherd__places(work->offload, work->bucket) + node;
        add(work, place->record, place->record_bytes, kind == SHERD__WORK_FETCH);
    }
}

static int occurs(const sherd__bucket *bucket, sherd__work_kind kind, int32_t parity, int32_t trust)
{
    if (parity && !bucket->speculated)
        return 0;
    switch (kind) {
    case SHERD__WORK_SPECULATE:
        return bucket->speculated;
    case SHERD__WORK_FETCH:
    case SHERD__WORK_STORE:
        return bucket->tier == SHERD_TIER_DISK;
    case SHERD__WORK_TRUST:
        return trust;
    case SHERD__WORK_DIRECT:
        return bucket->muon;
    default:
        return 1;
    }
}

sherd_status sherd__works_create(sherd__offload *offload, sherd_error *err)
{
    uint32_t n_off = offload->plan->placement.n_off;
    size_t room = (size_t)offload->n_nodes * PER_PLACE + PER_WORK;
    sherd__access *next;

    offload->n_accesses = (size_t)n_off * SHERD__WORKS * 2 * room;
    offload->works =
        sherd__device_metadata_alloc(offload->device, (size_t)n_off * SHERD__WORKS * 2, sizeof *offload->works);
    offload->accesses = sherd__device_metadata_alloc(offload->device, offload->n_accesses, sizeof *offload->accesses);
    if (!offload->works || !offload->accesses)
        return sherd__fail(err, SHERD_ENOMEM, "no memory for the tables of %u offloaded buckets", (unsigned)n_off);
    next = offload->accesses;
    for (uint32_t b = 0; b < n_off; b++)
        for (int kind = 0; kind < SHERD__WORKS; kind++)
            for (int32_t parity = 0; parity < 2; parity++, next += room) {
                sherd__work *work = sherd__work_of(offload, b, (sherd__work_kind)kind, parity);
                *work = (sherd__work){offload, b, parity, next, 0};
                if (!occurs(&offload->plan->buckets[b], (sherd__work_kind)kind, parity, offload->plan->trust))
                    continue;
                if (kind == SHERD__WORK_FETCH || kind == SHERD__WORK_STORE)
                    declare_disk(work, (sherd__work_kind)kind);
                else if (kind == SHERD__WORK_TRUST)
                    declare_trust(work);
                else if (kind == SHERD__WORK_DIRECT)
                    declare_direct(work);
                else if (offload->plan->buckets[b].muon)
                    declare_apply(work);
                else
                    declare_update(work, (sherd__work_kind)kind);
            }
    return SHERD_OK;
}

void sherd__works_destroy(sherd__offload *offload)
{
    uint32_t n_off = offload->plan->placement.n_off;
    sherd__device_metadata_free(offload->device, offload->accesses, offload->n_accesses, sizeof *offload->accesses);
    sherd__device_metadata_free(offload->device, offload->works, (size_t)n_off * SHERD__WORKS * 2,
                                sizeof *offload->works);
}
