/* SPDX-License-Identifier: MIT
 *
 * What a step costs, by running the plan's schedule on streams whose clocks are numbers. All ranks are taken to be
 * alike, so a collective ends on all of them at once and a slot is released when its reduction ends. Moves, pads,
 * narrowing, local additions and the scalars are taken to cost nothing. The caller's part is modelled as a decoder's:
 * forward visits buckets last to first, backward first to last, and the caller returns from the boundary when the vote
 * is known.
 *
 * Steady state: the first steps fill the pipeline and are not counted.
 */
#include <stddef.h>
#include <string.h>

#include "base/alloc.h"
#include "shard/build.h"

#define WARM_STEPS       3
#define COUNTED_STEPS    4
#define MOST_MICRO_STEPS 16 /* simulated; further ones in the middle repeat the last of them */

typedef struct simulation {
    const sherd_plan *plan;
    const sherd_profile *cost;
    double now;                     /* of the compute stream */
    double free_at[SHERD__STREAMS]; /* when the stream has done what was enqueued */
    double *event[SHERD__EVENTS];   /* [n_buckets + 1] */
    double exposed_comm, exposed_update;
} simulation;

static double content(const sherd_plan *plan, const sherd__bucket *bucket)
{
    const sherd__plan_param *last = &plan->params[plan->order[bucket->first + bucket->count - 1]];
    return (double)(last->offset + last->elems);
}

static double duration(const simulation *sim, const sherd__action *action)
{
    const sherd_plan *plan = sim->plan;
    const sherd_profile *cost = sim->cost;
    if (action->kind == SHERD__ACT_VOTE)
        return cost->collective_ns;
    if (action->kind == SHERD__ACT_RATIOS) /* at stage 0 nothing is exchanged */
        return plan->whole_state ? 0
                                 : cost->collective_ns + (double)(plan->trust_slices * plan->trust_slice_bytes) *
                                                             cost->gather_ns_per_byte;
    if (action->kind == SHERD__ACT_SCALARS)
        return 0;
    const sherd__bucket *bucket = &plan->buckets[action->bucket];
    double elems = (double)bucket->elems, state = (double)sherd__plan_part_elems(plan, bucket);
    switch (action->kind) {
    case SHERD__ACT_REDUCE:
        return cost->collective_ns + elems * (double)sherd_dtype_bytes(bucket->wire_dtype) * cost->reduce_ns_per_byte;
    case SHERD__ACT_REDUCE_OWN: return cost->collective_ns + elems * 4 * cost->reduce_ns_per_byte;
    case SHERD__ACT_GATHER_SUMS:
        return cost->collective_ns +
               elems * (double)sherd__plan_sum_elem_bytes(plan, bucket) * cost->gather_ns_per_byte;
    case SHERD__ACT_UPDATE: return state * cost->update_ns_per_elem / (bucket->muon ? 2 : 1);
    case SHERD__ACT_TRUST: return state * cost->update_ns_per_elem / 2; /* reads what the update reads, writes nothing */
    case SHERD__ACT_HOST_TRUST: return state * cost->host_update_ns_per_elem / 2;
    case SHERD__ACT_GATHER:
        return cost->collective_ns + elems * (double)sherd_dtype_bytes(bucket->dtype) * cost->gather_ns_per_byte;
    case SHERD__ACT_LOWER: return state * (double)sherd__plan_sum_elem_bytes(plan, bucket) * cost->bus_ns_per_byte;
    case SHERD__ACT_RAISE: return state * (double)sherd_dtype_bytes(bucket->dtype) * cost->bus_ns_per_byte;
    case SHERD__ACT_HOST_DIRECT: return state * cost->host_update_ns_per_elem / 2;
    case SHERD__ACT_RAISE_DIRECT:
    case SHERD__ACT_LOWER_STEP: return state * sizeof(float) * cost->bus_ns_per_byte;
    case SHERD__ACT_DIRECT: return state * cost->update_ns_per_elem / 2; /* the other half is the update's */
    case SHERD__ACT_JOIN: return cost->collective_ns + elems * 4 * cost->gather_ns_per_byte;
    case SHERD__ACT_ORTHO: return bucket->ortho_flops * cost->ortho_ns_per_flop;
    case SHERD__ACT_SHARE:
        return plan->whole_state ? bucket->count * cost->collective_ns + elems * 4 * cost->gather_ns_per_byte
                                 : cost->collective_ns + elems * 4 * cost->reduce_ns_per_byte;
    case SHERD__ACT_SPECULATE: return state * cost->host_update_ns_per_elem;
    case SHERD__ACT_HOST_UPDATE: return bucket->speculated ? 0 : state * cost->host_update_ns_per_elem / (bucket->muon ? 2 : 1);
    case SHERD__ACT_FETCH:
    case SHERD__ACT_STORE:
        return state * (double)sherd__plan_state_bytes_per_elem(plan, bucket) * cost->disk_ns_per_byte;
    default: return 0;
    }
}

static double *event_of(simulation *sim, sherd__event_kind kind, uint32_t bucket)
{
    return &sim->event[kind][bucket];
}

static void run(simulation *sim, sherd__range range)
{
    for (uint32_t a = range.begin; a < range.end; a++) {
        const sherd__action *action = &sim->plan->schedule.actions[a];
        double begin = sim->free_at[action->stream] > sim->now ? sim->free_at[action->stream] : sim->now;
        for (uint32_t w = 0; w < action->n_waits; w++) {
            double at = *event_of(sim, action->wait[w].kind, action->wait[w].bucket);
            begin = at > begin ? at : begin;
        }
        sim->free_at[action->stream] = begin + duration(sim, action);
        if (action->record.kind != SHERD__EV_NONE)
            *event_of(sim, action->record.kind, action->record.bucket) = sim->free_at[action->stream];
    }
}

/* The compute stream waits until `at`; what lies before `updated` is the update's fault, the rest communication's. */
static void wait_until(simulation *sim, double at, double updated)
{
    if (at <= sim->now)
        return;
    double until = updated < at ? updated : at;
    double update = until > sim->now ? until - sim->now : 0;
    sim->exposed_update += update;
    sim->exposed_comm += at - sim->now - update;
    sim->now = at;
}

static void forward(simulation *sim)
{
    for (uint32_t left = sim->plan->n_buckets; left > 0; left--) {
        uint32_t b = left - 1;
        wait_until(sim, *event_of(sim, sim->plan->schedule.acquire_wait, b), *event_of(sim, SHERD__EV_UPDATED, b));
        sim->now += content(sim->plan, &sim->plan->buckets[b]) * sim->cost->forward_ns_per_elem;
    }
}

static void backward(simulation *sim, sherd__phase phase)
{
    const sherd_plan *plan = sim->plan;
    for (uint32_t b = 0; b < plan->n_buckets; b++) {
        wait_until(sim, *event_of(sim, SHERD__EV_REDUCED, plan->buckets[b].ring_after), 0);
        sim->now += content(plan, &plan->buckets[b]) * sim->cost->ready_ns_per_elem;
        *event_of(sim, SHERD__EV_READY, b) = sim->now;
        run(sim, plan->schedule.on_ready[phase][b]);
        if (!plan->config.zero.overlap_comm)
            wait_until(sim, *event_of(sim, SHERD__EV_REDUCED, b), 0);
    }
}

/* `times` more micro-steps like the one that began at `begin` with these exposures: everything moves on. */
static void repeat(simulation *sim, double times, double begin, double comm, double update)
{
    double shift = (sim->now - begin) * times;
    sim->now += shift;
    sim->exposed_comm += (sim->exposed_comm - comm) * times;
    sim->exposed_update += (sim->exposed_update - update) * times;
    for (int stream = 0; stream < SHERD__STREAMS; stream++)
        sim->free_at[stream] += shift;
    for (int kind = 0; kind < SHERD__EVENTS; kind++)
        for (uint32_t b = 0; b <= sim->plan->n_buckets; b++)
            sim->event[kind][b] += shift;
}

static void step(simulation *sim)
{
    int64_t accumulation = sim->plan->config.gradient_accumulation_steps;
    int64_t skipped = accumulation > MOST_MICRO_STEPS ? accumulation - MOST_MICRO_STEPS : 0;
    for (int64_t k = 0; k < accumulation; k++) {
        double begin = sim->now, comm = sim->exposed_comm, update = sim->exposed_update;
        forward(sim);
        backward(sim, sherd__phase_of(k, accumulation));
        if (skipped && k == MOST_MICRO_STEPS - 2) {
            repeat(sim, (double)skipped, begin, comm, update);
            k += skipped;
        }
    }
    *event_of(sim, SHERD__EV_CLOSED, 0) = sim->now;
    run(sim, sim->plan->schedule.boundary);
    wait_until(sim, *event_of(sim, SHERD__EV_VOTED, 0), 0);
}

static void simulate(simulation *sim, sherd_forecast *out)
{
    for (int s = 0; s < WARM_STEPS; s++)
        step(sim);
    double begin = sim->now, comm = sim->exposed_comm, update = sim->exposed_update;
    for (int s = 0; s < COUNTED_STEPS; s++)
        step(sim);
    out->step_ns = (sim->now - begin) / COUNTED_STEPS;
    out->exposed_comm_ns = (sim->exposed_comm - comm) / COUNTED_STEPS;
    out->exposed_update_ns = (sim->exposed_update - update) / COUNTED_STEPS;
}

sherd_status sherd_plan_forecast(const sherd_plan *plan, const sherd_profile *profile, sherd_forecast *out)
{
    sherd_profile cost = {0}; /* what an older caller does not know costs nothing */

    if (!plan || !profile || !out || profile->size < offsetof(sherd_profile, bus_ns_per_byte))
        return SHERD_EINVAL;
    memcpy(&cost, profile, profile->size < sizeof cost ? profile->size : sizeof cost);
    size_t events = (size_t)SHERD__EVENTS * ((size_t)plan->n_buckets + 1);
    double *times = sherd__alloc(&sherd__default_allocator, events, sizeof *times);
    if (!times)
        return SHERD_ENOMEM;
    simulation sim = {.plan = plan, .cost = &cost};
    for (int kind = 0; kind < SHERD__EVENTS; kind++)
        sim.event[kind] = times + (size_t)kind * ((size_t)plan->n_buckets + 1);
    simulate(&sim, out);
    sherd__free(&sherd__default_allocator, times, events, sizeof *times);
    return SHERD_OK;
}
