/* SPDX-License-Identifier: MIT
 *
 * Micro-steps that go another way: the last one of a step that ends early, and one that is discarded.
 *
 * What a discarded micro-step has added to sums cannot be taken out again, so the step starts over, and its first
 * micro-step assigns. Where reductions are collectives (the ring mode, and the last micro-step of the other) peers may
 * already wait for this rank in any of them: all of them run, with whatever the slots hold, and their results are void.
 * Where a micro-step is added to this rank's own sums only, nothing need run, and if no rank has added anything the
 * step goes on as it is.
 */
#include <inttypes.h>
#include <string.h>

#include "engine/engine.h"

static sherd_status refuse_closed(sherd_engine *engine, const char *call, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);

    if (status == SHERD_OK && !engine->open)
        return sherd__engine_refuse(engine, err, SHERD_ESTATE,
                                    "%s: no micro-step is open; call sherd_micro_begin first", call);
    return status;
}

/* Under the lock. */
static int any_gradient(const sherd_engine *engine)
{
    for (uint32_t p = 0; p < engine->plan->n_params; p++)
        if (engine->ring_params[p].acquired)
            return 1;
    return 0;
}

sherd_status sherd_micro_last(sherd_engine *engine, sherd_error *err)
{
    sherd_status status = refuse_closed(engine, "sherd_micro_last", err);
    int late;

    if (status != SHERD_OK || sherd__engine_last_micro(engine))
        return status;
    if (engine->plan->config.reproducible)
        return sherd__engine_refuse(engine, err, SHERD_EUNSUPPORTED,
                                    "sherd_micro_last: under sherd.reproducible a step has the micro-steps that its tree was "
                                    "planned for, here %" PRId64 "; make them all, or train without it",
                                    engine->micros);
    pthread_mutex_lock(&engine->lock);
    late = any_gradient(engine);
    if (!late)
        engine->micros = engine->micro + 1;
    pthread_mutex_unlock(&engine->lock);
    return late ? sherd__engine_refuse(engine, err, SHERD_ESTATE,
                                       "sherd_micro_last: gradients of micro-step %" PRId64
                                       " have come already; call it right after sherd_micro_begin",
                                       engine->micro)
                : SHERD_OK;
}

/* Sums and norm of the step are void. What the update path has begun with them (copies to the host, guesses) must have
 * ended before the next reductions write there. */
static sherd_status clear_sums(sherd_engine *engine)
{
    static const struct {
        sherd__stream_id stream;
        const char *site;
    } users[] = {{SHERD__LOWER, "discard waits for lowered"}, {SHERD__HOST, "discard waits for speculated"}};
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *comm = engine->stream[SHERD__COMM];
    sherd_status status = ops->copy(comm, sherd__engine_tag(engine, "discard", -1), &engine->block->norm,
                                    &engine->block->clear, sizeof engine->block->norm);

    for (size_t i = 0; status == SHERD_OK && i < sizeof users / sizeof *users; i++) {
        if (!engine->stream[users[i].stream])
            continue;
        status = ops->event_record(engine->stream[users[i].stream], engine->sync[users[i].stream]);
        if (status == SHERD_OK)
            status = ops->event_wait(comm, engine->sync[users[i].stream], users[i].site);
    }
    for (uint32_t b = 0; b < engine->plan->n_buckets; b++)
        engine->buckets[b].state = SHERD__CLEAN;
    return status;
}

/* What every rank says about its discard: `started` is how many buckets it had started. */
typedef struct discard_line {
    char what[8];
    int64_t step, micro;
    uint32_t started;
} discard_line;

/* *any: some rank had started a bucket. */
static sherd_status agree(sherd_engine *engine, uint32_t started, int *any, sherd_error *err)
{
    discard_line mine = {"discard", engine->step, engine->micro, started};
    sherd_status status = sherd__engine_exchange(engine, &mine, sizeof mine, err);
    sherd_error error;

    for (int32_t r = 0; status == SHERD_OK && r < engine->world; r++) {
        discard_line theirs;
        memcpy(&theirs, engine->scratch_host + (size_t)r * SHERD__SCRATCH_BYTES_PER_RANK, sizeof theirs);
        *any |= theirs.started > 0;
        if (memcmp(theirs.what, mine.what, sizeof mine.what) == 0 && theirs.step == mine.step &&
            theirs.micro == mine.micro)
            continue;
        sherd__fail_rank(&error, SHERD_EMISMATCH, r,
                         "rank %" PRId32 " discards micro-step %" PRId64 " of step %" PRId64 ", rank %" PRId32
                         " does not: call sherd_micro_discard on every rank",
                         engine->rank, engine->micro, engine->step, r);
        sherd__device_poison(engine->device, &error);
        return sherd__engine_health(engine, err);
    }
    return status;
}

sherd_status sherd_micro_discard(sherd_engine *engine, sherd_error *err)
{
    int must_run = !engine->plan->full_mode || sherd__engine_last_micro(engine), any = must_run;
    uint32_t from = 0, to = 0;
    sherd_status status = refuse_closed(engine, "sherd_micro_discard", err);

    if (status != SHERD_OK)
        return status;
    pthread_mutex_lock(&engine->lock);
    sherd__ring_discard(&engine->ring_state, must_run, &from, &to);
    status = sherd__engine_start(engine, from, to);
    pthread_mutex_unlock(&engine->lock);
    if (status == SHERD_OK && must_run)
        status = clear_sums(engine);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = agree(engine, from, &any, err);
    if (status != SHERD_OK)
        return status;
    if (any && !must_run)
        status = sherd__engine_check(engine, clear_sums(engine), err);
    engine->open = 0;
    engine->micro = any ? 0 : engine->micro;
    engine->micros = engine->plan->config.gradient_accumulation_steps;
    return status;
}
