/* SPDX-License-Identifier: MIT
 *
 * One function per kind of action, and the walk. Waits and records are the schedule's, not theirs. Enqueueing never
 * waits for a peer: what must wait does so on its stream.
 */
#include <assert.h>
#include <stddef.h>

#include "engine/engine.h"

typedef sherd_status (*execute_fn)(sherd_engine *engine, const sherd__action *action, sherd__stream *stream);

_Static_assert(sizeof(sherd__step_block) <= SHERD__STEP_BYTES, "the step block outgrew what the plan reports for it");
_Static_assert(SHERD__VOTE_SUMS + SHERD__VOTE_MINS <= SHERD__VOTE_MAX, "the vote outgrew the communicator's limit");

static const sherd__bucket *plan_bucket(const sherd_engine *engine, const sherd__action *action)
{
    return &engine->plan->buckets[action->bucket];
}

static void move_shard(sherd_engine *engine, uint32_t bucket, sherd__shard_state to)
{
    sherd__engine_bucket *entry = &engine->buckets[bucket];
    assert(entry->state == to || sherd__shard_move_legal(entry->state, to));
    entry->state = to;
}

/* The slot's former user must have been read by every rank before anything is written here; where the caller acquired a
 * gradient in the slot, it has waited for that already and READY carries it. */
static sherd_status wait_slot(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    sherd__ticket ticket = engine->buckets[bucket->ring_after].slot_ticket;

    if (engine->plan->full_mode || engine->ring_buckets[action->bucket].slot_free)
        return SHERD_OK;
    return engine->comm->ops->released(engine->comm, stream, sherd__engine_tag(engine, "slot", (int32_t)action->bucket),
                                       ticket, "slot release (comm)");
}

static sherd_status move_param(sherd_engine *engine, uint32_t id, sherd__tag tag, sherd__stream *stream)
{
    const sherd__plan_param *param = &engine->plan->params[id];
    const sherd__byte_range *slot = &engine->param[id].slot;
    const sherd__device_ops *ops = engine->device->ops;

    switch (engine->ring_params[id].place) {
    case SHERD__GRAD_SLOT:
        return SHERD_OK;
    case SHERD__GRAD_SHARED:
        return ops->copy(stream, tag, sherd__at(engine->ring.local, slot->begin),
                         sherd__at(engine->shared, param->shared_offset), slot->end - slot->begin);
    case SHERD__GRAD_PARKED:
        return ops->copy(stream, tag, sherd__at(engine->ring.local, slot->begin), engine->param[id].parked,
                         slot->end - slot->begin);
    case SHERD__GRAD_NONE:
        break;
    }
    return ops->zero(stream, tag, engine->ring.local, slot, 1);
}

static sherd_status execute_move(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    sherd__tag tag = sherd__engine_tag(engine, "move", (int32_t)action->bucket);
    sherd_status status = wait_slot(engine, action, stream);

    for (uint32_t i = 0; status == SHERD_OK && i < bucket->count; i++)
        status = move_param(engine, engine->plan->order[bucket->first + i], tag, stream);
    return status;
}

static sherd_status execute_pads(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__engine_bucket *entry = &engine->buckets[action->bucket];
    if (!entry->n_pads)
        return SHERD_OK;
    return engine->device->ops->zero(stream, sherd__engine_tag(engine, "pads", (int32_t)action->bucket),
                                     sherd__at(engine->ring.local, plan_bucket(engine, action)->ring_offset),
                                     entry->pads, entry->n_pads);
}

static sherd_status execute_narrow(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    return engine->device->ops->narrow(stream, sherd__engine_tag(engine, "narrow", (int32_t)action->bucket),
                                       sherd__at(engine->ring.local, bucket->ring_offset), bucket->wire_dtype,
                                       bucket->grad_dtype, bucket->elems);
}

/* Where a bucket's sums lie on the device: their place, or a slot on the way to the host. */
static void *sums_of(const sherd_engine *engine, const sherd__bucket *bucket)
{
    const sherd__placement *placement = &engine->plan->placement;
    if (placement->sum_slots > 0 && sherd__bucket_offloaded(bucket))
        return sherd__at(engine->sum_slots, bucket->sum_slot.index * placement->sum_slot_bytes);
    return sherd__at(engine->sums, bucket->sum_offset);
}

/* Place p of a bucket's counter. Where there are several, no sums pass through slots. */
static void *place_of(const sherd_engine *engine, const sherd__bucket *bucket, uint32_t place)
{
    if (place == 0)
        return sums_of(engine, bucket);
    return sherd__at(engine->carries, (place - 1) * engine->plan->sum_bytes + bucket->sum_offset);
}

/* Where this micro-step's sum goes, and whether it is added; without a counter as the schedule says. */
static sherd__count count_of(const sherd_engine *engine, const sherd__action *action)
{
    if (action->flags & SHERD__F_COUNT)
        return sherd__plan_count(engine->micro);
    return (sherd__count){.assign = (action->flags & SHERD__F_ASSIGN) != 0};
}

/* What the reductions into the owned slice have in common. */
static sherd__tree_sum slice_sum(const sherd_engine *engine, const sherd__action *action)
{
    const sherd_plan *plan = engine->plan;
    const sherd__bucket *bucket = plan_bucket(engine, action);
    int final = (action->flags & SHERD__F_FINAL) != 0;
    int bf16_sums = sherd__plan_sum_dtype(plan, bucket) == SHERD_BF16;
    sherd__tree_sum sum = {0};
    int64_t begin = plan->full_mode || plan->whole_state ? engine->rank * bucket->slice_elems : 0;

    sum.dst_dtype = sherd__plan_sum_dtype(plan, bucket);
    sum.dst = sherd__at(sums_of(engine, bucket), (uint64_t)begin * sherd_dtype_bytes(sum.dst_dtype));
    sum.elems = bucket->slice_elems;
    sum.narrow = bf16_sums || (final && plan->narrow_sums && bucket->dtype == SHERD_BF16);
    sum.norm = final ? &engine->block->norm : NULL;
    sum.first_block = bucket->first_block + (uint64_t)(engine->rank * bucket->slice_elems) / SHERD__NORM_BLOCK;
    return sum;
}

static sherd_status execute_reduce(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    sherd__count count = count_of(engine, action);
    sherd__action as = *action;
    sherd__tree_sum sum;
    sherd_status status;

    if (count.place > 0) /* joined by CARRY */
        as.flags &= ~SHERD__F_FINAL;
    sum = slice_sum(engine, &as);
    if (action->flags & SHERD__F_COUNT)
        sum.dst = place_of(engine, bucket, count.place);
    sum.src_dtype = bucket->wire_dtype;
    sum.add = !count.assign;
    move_shard(engine, action->bucket, as.flags & SHERD__F_FINAL ? SHERD__SUMMED : SHERD__ACCUMULATING);
    status = engine->comm->ops->reduce_scatter(engine->comm, stream,
                                               sherd__engine_tag(engine, "reduce", (int32_t)action->bucket),
                                               &engine->ring, bucket->ring_offset, &sum, &engine->last_ticket);
    engine->buckets[action->bucket].slot_ticket = engine->last_ticket;
    return status;
}

static sherd_status execute_accumulate(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    sherd__count count = count_of(engine, action);
    sherd__tree_sum sum = {0};

    sum.src = &engine->ring_source;
    sum.n_src = 1;
    sum.src_offset = bucket->ring_offset;
    sum.src_dtype = bucket->wire_dtype;
    sum.dst_dtype = SHERD_FP32;
    sum.dst = place_of(engine, bucket, count.place);
    sum.elems = bucket->elems;
    sum.add = !count.assign;
    move_shard(engine, action->bucket, SHERD__ACCUMULATING);
    return engine->device->ops->tree_sum(stream, sherd__engine_tag(engine, "accumulate", (int32_t)action->bucket),
                                         &sum);
}

/* Joins places as the counter says; in RING mode the step's last joining takes the norm. */
static sherd_status execute_carry(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    sherd__count count = sherd__plan_count(engine->micro);
    uint32_t joins = action->flags & SHERD__F_DRAIN ? count.place : count.joins;
    sherd__tag tag = sherd__engine_tag(engine, "carry", (int32_t)action->bucket);
    sherd_status status = SHERD_OK;

    for (uint32_t place = count.place; status == SHERD_OK && joins > 0; place--, joins--) {
        int final = joins == 1 && (action->flags & SHERD__F_FINAL);
        sherd__action as = *action;
        as.flags = final ? SHERD__F_FINAL : 0;
        sherd__tree_sum sum = slice_sum(engine, &as);
        sum.src = &engine->carry_source;
        sum.n_src = 1;
        sum.src_offset = (place - 1) * engine->plan->sum_bytes + bucket->sum_offset;
        sum.src_dtype = SHERD_FP32;
        sum.dst = place_of(engine, bucket, place - 1);
        sum.elems = engine->plan->full_mode ? bucket->elems : bucket->slice_elems;
        sum.add = 1;
        if (final)
            move_shard(engine, action->bucket, SHERD__SUMMED);
        status = engine->device->ops->tree_sum(stream, tag, &sum);
    }
    return status;
}

static sherd_status execute_reduce_own(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    sherd__tree_sum sum = slice_sum(engine, action);

    sum.src_dtype = SHERD_FP32;
    move_shard(engine, action->bucket, SHERD__SUMMED);
    return engine->comm->ops->reduce_scatter(
        engine->comm, stream, sherd__engine_tag(engine, "reduce_own", (int32_t)action->bucket), &engine->sums_window,
        plan_bucket(engine, action)->sum_offset, &sum, &engine->last_ticket);
}

static sherd_status execute_gather_sums(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    uint64_t bytes = (uint64_t)bucket->slice_elems * sherd_dtype_bytes(sherd__plan_sum_dtype(engine->plan, bucket));

    return engine->comm->ops->all_gather(engine->comm, stream,
                                         sherd__engine_tag(engine, "gather_sums", (int32_t)action->bucket),
                                         &engine->sums_window, bucket->sum_offset, bytes, &engine->last_ticket);
}

/* The words of the vote are assembled by copies on the stream, so that no device needs its memory to be the host's. */
static sherd_status execute_vote(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__step_block *block = engine->block;
    sherd__tag tag = sherd__engine_tag(engine, "vote", -1);
    sherd_status status;

    (void)action;
    status = ops->copy(stream, tag, block->vote, block->norm.limb, sizeof block->norm.limb);
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, &block->vote[SHERD__VOTE_LR], engine->mirror->says, sizeof block->says);
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, &block->vote[SHERD__VOTE_BAD], &block->norm.bad_block, sizeof(uint64_t));
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, &block->vote[SHERD__VOTE_MICROS], engine->mirror->micros,
                           sizeof block->micros + sizeof block->where);
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, &block->norm, &block->clear, sizeof block->norm);
    if (status == SHERD_OK)
        status =
            engine->comm->ops->all_reduce(engine->comm, stream, tag, block->vote, SHERD__VOTE_SUMS, SHERD__VOTE_MINS);
    return status;
}

/* The host reads them from the mirror once VOTED is reached. */
static sherd_status execute_scalars(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__step_block *block = engine->block;
    sherd__tag tag = sherd__engine_tag(engine, "scalars", -1);
    sherd_status status = ops->prepare(stream, tag, &engine->rules, block->vote, &block->state, &block->scalars);

    (void)action;
    if (status == SHERD_OK && engine->plan->trust)
        status = sherd__engine_trust_clear(engine, stream);
    if (status == SHERD_OK) /* and the scalars, which lie behind the state */
        status = ops->copy(stream, tag, &engine->mirror->state, &block->state,
                           sizeof *block - offsetof(sherd__step_block, state));
    if (status == SHERD_OK && engine->plan->placement.n_speculated > 0)
        status = ops->host_call(stream, tag, sherd__offload_voted, engine->offload, NULL, 0);
    return status;
}

static void step_shard(sherd_engine *engine, uint32_t bucket)
{
    move_shard(engine, bucket, SHERD__STEPPING);
    move_shard(engine, bucket, SHERD__STEPPED);
    if (engine->plan->whole_state)
        move_shard(engine, bucket, SHERD__CLEAN);
}

/* At stage 0 no gather follows: a bucket's new values go to the client's own memory right after `status`'s work. */
static sherd_status lend_whole(sherd_engine *engine, uint32_t bucket, sherd__stream *stream, sherd_status status)
{
    if (status != SHERD_OK || !engine->plan->whole_state)
        return status;
    return sherd__engine_lend_bucket(engine, bucket, sherd__engine_tag(engine, "lend", (int32_t)bucket), stream);
}

sherd__update sherd__engine_update_of(const sherd_engine *engine, uint32_t index)
{
    const sherd_plan *plan = engine->plan;
    const sherd__bucket *bucket = &plan->buckets[index];
    const sherd__engine_bucket *entry = &engine->buckets[index];
    int64_t begin = sherd__engine_part_begin(engine, bucket);
    /* FULL mode keeps whole-size sums at stage 1 too; the part begins inside them there. */
    uint64_t sum_begin = plan->full_mode ? (uint64_t)begin : 0;
    void *working =
        sherd__at(engine->params.local, bucket->param_offset + (uint64_t)begin * sherd_dtype_bytes(bucket->dtype));
    sherd__update update = {0};

    update.kind = plan->config.optimizer.kind;
    update.scalars = &engine->block->scalars;
    update.sum_dtype = sherd__plan_sum_dtype(plan, bucket);
    update.sum = sherd__at(engine->sums, bucket->sum_offset + sum_begin * sherd_dtype_bytes(update.sum_dtype));
    if (bucket->remainder)
        update.remainder = engine->remainder + bucket->master_offset;
    else
        update.master = bucket->dtype == SHERD_FP32 ? working : engine->master + bucket->master_offset;
    update.emit = bucket->dtype == SHERD_FP32 ? NULL : working;
    update.emit_dtype = bucket->dtype;
    for (uint32_t m = 0; m < sherd__bucket_moments(plan, bucket); m++)
        update.moment[m] =
            sherd__at(engine->moment[m], sherd__bucket_moment_offset(bucket, m) * sherd_dtype_bytes(plan->moment_dtype));
    update.moment_dtype = plan->moment_dtype;
    update.origin = begin;
    update.spans = entry->spans;
    update.n_spans = entry->n_spans;
    update.ratios = engine->trust.ratios;
    update.trust = engine->trust.own;
    return update;
}

static sherd_status execute_update(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    sherd__update update = sherd__engine_update_of(engine, action->bucket);

    step_shard(engine, action->bucket);
    if (plan_bucket(engine, action)->muon)
        sherd__engine_muon_apply(engine, action->bucket, &update);
    return lend_whole(
        engine, action->bucket, stream,
        engine->device->ops->update(stream, sherd__engine_tag(engine, "update", (int32_t)action->bucket), &update));
}

static sherd_status execute_lower(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd_plan *plan = engine->plan;
    const sherd__bucket *bucket = plan_bucket(engine, action);
    int64_t begin = plan->full_mode ? sherd__engine_part_begin(engine, bucket) : 0;
    const void *sum =
        sherd__at(sums_of(engine, bucket), (uint64_t)begin * sherd_dtype_bytes(sherd__plan_sum_dtype(plan, bucket)));

    return sherd__offload_lower(engine->offload, stream, sherd__engine_tag(engine, "lower", (int32_t)action->bucket),
                                action->bucket, sum);
}

static sherd_status execute_speculate(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    return sherd__offload_speculate(engine->offload, stream,
                                    sherd__engine_tag(engine, "speculate", (int32_t)action->bucket), action->bucket,
                                    engine->buckets[action->bucket].parity);
}

static sherd_status execute_host_update(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    step_shard(engine, action->bucket);
    return sherd__offload_step(engine->offload, stream,
                               sherd__engine_tag(engine, "host_update", (int32_t)action->bucket), action->bucket,
                               engine->buckets[action->bucket].parity);
}

/* The step's last look at the parity: from here on the truth is in the other set. */
static sherd_status execute_raise(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    sherd__engine_bucket *entry = &engine->buckets[action->bucket];
    uint64_t begin = (uint64_t)sherd__engine_part_begin(engine, bucket) * sherd_dtype_bytes(bucket->dtype);
    int32_t parity = entry->parity;

    entry->parity = bucket->speculated ? !parity : 0;
    return lend_whole(engine, action->bucket, stream,
                      sherd__offload_raise(engine->offload, stream,
                                           sherd__engine_tag(engine, "raise", (int32_t)action->bucket), action->bucket,
                                           parity, sherd__at(engine->params.local, bucket->param_offset + begin)));
}

static sherd_status execute_fetch(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    return sherd__offload_fetch(engine->offload, stream, sherd__engine_tag(engine, "fetch", (int32_t)action->bucket),
                                action->bucket);
}

static sherd_status execute_store(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    return sherd__offload_store(engine->offload, stream, sherd__engine_tag(engine, "store", (int32_t)action->bucket),
                                action->bucket);
}

static sherd_status execute_gather(sherd_engine *engine, const sherd__action *action, sherd__stream *stream)
{
    const sherd__bucket *bucket = plan_bucket(engine, action);
    uint64_t bytes = (uint64_t)bucket->slice_elems * sherd_dtype_bytes(bucket->dtype);
    sherd_status status;

    move_shard(engine, action->bucket, SHERD__CLEAN);
    status = engine->comm->ops->all_gather(engine->comm, stream,
                                           sherd__engine_tag(engine, "gather", (int32_t)action->bucket),
                                           &engine->params, bucket->param_offset, bytes, &engine->last_ticket);
    return status == SHERD_OK
               ? sherd__engine_lend_bucket(engine, action->bucket,
                                           sherd__engine_tag(engine, "lend", (int32_t)action->bucket), stream)
               : status;
}

static const execute_fn executors[SHERD__ACTIONS] = {
    [SHERD__ACT_MOVE] = execute_move,
    [SHERD__ACT_PADS] = execute_pads,
    [SHERD__ACT_REDUCE] = execute_reduce,
    [SHERD__ACT_ACCUMULATE] = execute_accumulate,
    [SHERD__ACT_REDUCE_OWN] = execute_reduce_own,
    [SHERD__ACT_GATHER_SUMS] = execute_gather_sums,
    [SHERD__ACT_VOTE] = execute_vote,
    [SHERD__ACT_SCALARS] = execute_scalars,
    [SHERD__ACT_UPDATE] = execute_update,
    [SHERD__ACT_GATHER] = execute_gather,
    [SHERD__ACT_LOWER] = execute_lower,
    [SHERD__ACT_SPECULATE] = execute_speculate,
    [SHERD__ACT_HOST_UPDATE] = execute_host_update,
    [SHERD__ACT_RAISE] = execute_raise,
    [SHERD__ACT_FETCH] = execute_fetch,
    [SHERD__ACT_STORE] = execute_store,
    [SHERD__ACT_CARRY] = execute_carry,
    [SHERD__ACT_TRUST] = sherd__engine_execute_trust,
    [SHERD__ACT_HOST_TRUST] = sherd__engine_execute_host_trust,
    [SHERD__ACT_RATIOS] = sherd__engine_execute_ratios,
    [SHERD__ACT_NARROW] = execute_narrow,
    [SHERD__ACT_DIRECT] = sherd__engine_execute_direct,
    [SHERD__ACT_JOIN] = sherd__engine_execute_join,
    [SHERD__ACT_ORTHO] = sherd__engine_execute_ortho,
    [SHERD__ACT_SHARE] = sherd__engine_execute_share,
    [SHERD__ACT_HOST_DIRECT] = sherd__engine_execute_host_direct,
    [SHERD__ACT_RAISE_DIRECT] = sherd__engine_execute_raise_direct,
    [SHERD__ACT_LOWER_STEP] = sherd__engine_execute_lower_step,
};

sherd__event *sherd__engine_event(sherd_engine *engine, sherd__event_ref ref)
{
    switch (ref.kind) {
    case SHERD__EV_CLOSED:
        return engine->closed;
    case SHERD__EV_VOTED:
        return engine->voted;
    case SHERD__EV_RATED:
        return engine->rated;
    case SHERD__EV_READY:
    case SHERD__EV_REDUCED:
    case SHERD__EV_UPDATED:
    case SHERD__EV_GATHERED:
    case SHERD__EV_SUMMED:
    case SHERD__EV_LOWERED:
    case SHERD__EV_STEPPED:
    case SHERD__EV_FETCHED:
    case SHERD__EV_STORED:
    case SHERD__EV_WEIGHED:
    case SHERD__EV_DIRECTED:
    case SHERD__EV_TURNED:
    case SHERD__EV_SHARED:
    case SHERD__EV_AIMED:
    case SHERD__EV_LANDED:
        return engine->buckets[ref.bucket].event[ref.kind];
    case SHERD__EV_NONE:
        break;
    }
    return NULL;
}

/* Names of the schedule's waits, as the checking device and traces know them. */
#define SITES_OF(action)                                                                                               \
    {                                                                                                                  \
        [SHERD__EV_READY] = action " waits for ready", [SHERD__EV_REDUCED] = action " waits for reduced",              \
        [SHERD__EV_UPDATED] = action " waits for updated", [SHERD__EV_GATHERED] = action " waits for gathered",        \
        [SHERD__EV_SUMMED] = action " waits for summed", [SHERD__EV_LOWERED] = action " waits for lowered",            \
        [SHERD__EV_STEPPED] = action " waits for stepped", [SHERD__EV_FETCHED] = action " waits for fetched",          \
        [SHERD__EV_STORED] = action " waits for stored", [SHERD__EV_CLOSED] = action " waits for closed",              \
        [SHERD__EV_VOTED] = action " waits for voted", [SHERD__EV_WEIGHED] = action " waits for weighed",              \
        [SHERD__EV_RATED] = action " waits for rated", [SHERD__EV_DIRECTED] = action " waits for directed",            \
        [SHERD__EV_TURNED] = action " waits for turned", [SHERD__EV_SHARED] = action " waits for shared",              \
        [SHERD__EV_AIMED] = action " waits for aimed", [SHERD__EV_LANDED] = action " waits for landed",                \
    }
static const char *const sites[SHERD__ACTIONS][SHERD__EVENTS] = {
#define X(name, text) [SHERD__ACT_##name] = SITES_OF(text),
    SHERD__ACTION_MAP(X)
#undef X
};

sherd_status sherd__engine_execute(sherd_engine *engine, const sherd__action *action)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *stream = engine->stream[action->stream];
    sherd_status status = SHERD_OK;

    for (uint32_t i = 0; status == SHERD_OK && i < action->n_waits; i++)
        status = ops->event_wait(stream, sherd__engine_event(engine, action->wait[i]),
                                 sites[action->kind][action->wait[i].kind]);
    if (status == SHERD_OK)
        status = executors[action->kind](engine, action, stream);
    if (status == SHERD_OK && action->record.kind != SHERD__EV_NONE)
        status = ops->event_record(stream, sherd__engine_event(engine, action->record));
    return status;
}

sherd_status sherd__engine_execute_range(sherd_engine *engine, sherd__range range)
{
    sherd_status status = SHERD_OK;
    for (uint32_t i = range.begin; status == SHERD_OK && i < range.end; i++)
        status = sherd__engine_execute(engine, &engine->plan->schedule.actions[i]);
    return status;
}
