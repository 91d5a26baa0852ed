/* SPDX-License-Identifier: MIT
 *
 * Micro-steps and the boundary. On the host device sherd_engine_step returns when the vote is known: updates and
 * gathers go on beside the caller, who meets them again at sherd_param_acquire.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/agree.h"

void sherd_report_init(sherd_report *report, size_t size)
{
    memset(report, 0, size);
    report->size = size;
    report->bad_param = -1;
}

sherd_status sherd_micro_begin(sherd_engine *engine, sherd_micro *out)
{
    int64_t now = sherd__now_ns();
    sherd_status status = sherd__engine_health(engine, NULL);

    if (status != SHERD_OK)
        return status;
    if (engine->open)
        return sherd__engine_refuse(engine, NULL, SHERD_ESTATE,
                                    "sherd_micro_begin: micro-step %" PRId64 " of step %" PRId64
                                    " is open; close it with sherd_engine_step",
                                    engine->micro, engine->step);
    pthread_mutex_lock(&engine->lock);
    sherd__ring_begin(&engine->ring_state);
    engine->open = 1;
    if (engine->micro == 0)
        engine->n_arrived = 0;
    pthread_mutex_unlock(&engine->lock);
    if (engine->micro == 0)
        engine->times.step_begin = now;
    engine->times.micro_begin = now;
    engine->times.backward_begin = 0;
    if (out) {
        out->step = engine->step;
        out->index = engine->micro;
        out->number = sherd__plan_micro_number(engine->plan, engine->rank, engine->micro);
        out->last = sherd__engine_last_micro(engine);
    }
    return SHERD_OK;
}

/* Names the parameters whose gradients never came; SHERD_OK where that is allowed or none is missing. */
static sherd_status check_missing(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    uint32_t id = sherd__ring_missing(&engine->ring_state, 0);
    char names[320] = "";
    size_t used = 0;
    uint32_t n = 0;

    if (plan->config.zero.ignore_unused_parameters || id == plan->n_params)
        return SHERD_OK;
    for (; id < plan->n_params; id = sherd__ring_missing(&engine->ring_state, id + 1), n++)
        if (n < 4 && used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s'%s'", n ? ", " : "", plan->params[id].name);
    return sherd__fail(err, SHERD_ESTATE,
                       "no gradient came for %s%s (%" PRIu32 " in all); compute them, freeze them, or set "
                       "zero_optimization.ignore_unused_parameters",
                       names, n > 4 ? ", …" : "", n);
}

static sherd_status close_micro(sherd_engine *engine, sherd_error *err)
{
    const char *why = "";
    uint32_t from = 0, to = 0;
    sherd_status status;
    sherd_error error;

    pthread_mutex_lock(&engine->lock);
    status = check_missing(engine, &error);
    if (status == SHERD_OK && sherd__ring_close(&engine->ring_state, &from, &to, &why) == SHERD__RING_REFUSED)
        status = sherd__fail(&error, SHERD_ESTATE, "sherd_engine_step: %s", why);
    if (status != SHERD_OK) /* the other ranks' reductions wait for this one's: there is no way on */
        sherd__device_poison(engine->device, &error);
    else
        status = sherd__engine_start(engine, from, to);
    pthread_mutex_unlock(&engine->lock);
    return sherd__engine_check(engine, status, err);
}

static void book_micro_times(sherd_engine *engine, int64_t now)
{
    sherd__engine_times *times = &engine->times;
    int64_t split = times->backward_begin ? times->backward_begin : now;

    times->forward += split - times->micro_begin;
    times->backward += now - split;
}

/* Offloaded buckets come first in the plan and last in time. */
static uint32_t last_update(const sherd_plan *plan)
{
    return plan->placement.n_off > 0 ? plan->schedule.last_raised : plan->schedule.last_update;
}

/* From the vote to the update that comes last. */
static void book_update_time(sherd_engine *engine)
{
    const sherd__device_ops *ops = engine->device->ops;
    int64_t begin, end;

    if (!engine->plan->n_buckets)
        return;
    begin = ops->event_time_ns(engine->voted);
    end = ops->event_time_ns(engine->buckets[last_update(engine->plan)].event[SHERD__EV_UPDATED]);
    if (begin && end > begin)
        engine->times.last_update = end - begin;
}

/* What this rank has to say in the vote. */
static void speak(sherd_engine *engine)
{
    uint64_t *says = engine->mirror->says;
    double rate = sherd_config_lr(&engine->plan->config, engine->last.updates);

    engine->spoken[0] = (uint64_t)(engine->micro + 1);
    engine->spoken[1] = (uint64_t)engine->step;
    engine->spoken[2] = (uint64_t)engine->last.updates;
    memcpy(&engine->spoken[3], &engine->loss_scale, sizeof engine->loss_scale);
    engine->mirror->micros[0] = engine->spoken[0];
    engine->mirror->micros[1] = -engine->spoken[0];
    engine->mirror->where[0] = sherd__engine_spoken_digest(engine);
    engine->mirror->where[1] = -engine->mirror->where[0];
    if (engine->rank)
        return;
    memcpy(says, &rate, sizeof rate);
    memcpy(says + SHERD__VOTE_GROUPS - SHERD__VOTE_LR, engine->set, sizeof engine->set);
}

/* The step's own times; its figures come with the vote. */
static void close_times(sherd_engine *engine, int64_t now)
{
    sherd__engine_times *times = &engine->times;
    sherd_report *closing = &engine->closing;

    closing->step = engine->step;
    closing->step_ns = now - times->step_begin;
    closing->forward_ns = times->forward;
    closing->backward_ns = times->backward;
    closing->exposed_comm_ns = atomic_exchange_explicit(&times->exposed, 0, memory_order_relaxed);
    closing->update_ns = times->last_update;
    closing->parked = engine->parked_count;
    times->forward = times->backward = 0;
}

static void fill_report(sherd_engine *engine)
{
    const sherd__step_scalars *scalars = &engine->mirror->scalars;
    sherd_report *report = &engine->last;

    *report = engine->closing;
    report->updates = (int64_t)scalars->updates;
    report->skipped = (int32_t)scalars->skip;
    report->bad_param =
        scalars->bad_block == SHERD__NO_BAD_BLOCK ? -1 : sherd__plan_param_of_block(engine->plan, scalars->bad_block);
    report->grad_norm = scalars->norm;
    report->lr = scalars->lr;
    report->loss_scale = scalars->loss_scale;
    engine->loss_scale = scalars->next_scale;
    engine->stuck = (int32_t)scalars->stuck;
    sherd__engine_guessed(engine);
    report->speculated = engine->speculated;
    report->speculation_missed = engine->speculation_missed;
}

static sherd_status await_vote(sherd_engine *engine, sherd_error *err)
{
    sherd_status status = sherd__engine_host_wait(engine, engine->voted, "vote (report)");

    status = sherd__engine_check(engine, status, err);
    return status == SHERD_OK
               ? sherd__engine_touch(engine, "report", &engine->mirror->scalars, sizeof engine->mirror->scalars, 0, err)
               : status;
}

/* There is no way on: the sums may be of different lengths. Nothing was updated. */
static sherd_status check_torn(sherd_engine *engine, sherd_error *err)
{
    sherd_error error;
    sherd_status status;

    if (!engine->mirror->scalars.torn)
        return SHERD_OK;
    status = sherd__engine_fail_spoken(engine, &error);
    if (status == SHERD_EMISMATCH)
        sherd__device_poison(engine->device, &error);
    return sherd__engine_health(engine, err);
}

sherd_status sherd__engine_collect(sherd_engine *engine, sherd_error *err)
{
    sherd_status status;

    if (!engine->uncollected)
        return SHERD_OK;
    status = await_vote(engine, err);
    if (status == SHERD_OK)
        status = check_torn(engine, err);
    if (status != SHERD_OK)
        return status;
    engine->uncollected = 0;
    fill_report(engine);
    return SHERD_OK;
}

/* Where the caller's thread only enqueues (a GPU), waiting for this step's vote would leave the GPU without work: it
 * learns the former step's, which is long known, and goes on. */
static sherd_status boundary(sherd_engine *engine, sherd_error *err)
{
    int late = engine->device->kind == SHERD_DEVICE_CUDA;
    sherd_status status = sherd__engine_collect(engine, err);

    if (status != SHERD_OK)
        return status;
    book_update_time(engine);
    speak(engine);
    status = engine->device->ops->event_record(engine->device->compute, engine->closed);
    if (status == SHERD_OK)
        status = sherd__engine_execute_range(engine, engine->plan->schedule.boundary);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK && !late)
        status = await_vote(engine, err);
    if (status != SHERD_OK)
        return status;
    close_times(engine, sherd__now_ns());
    engine->uncollected = late;
    if (late)
        return SHERD_OK;
    status = check_torn(engine, err);
    if (status == SHERD_OK)
        fill_report(engine);
    return status;
}

static void give_report(const sherd_engine *engine, int32_t at_boundary, sherd_report *report)
{
    sherd_report full = engine->last;
    size_t size;

    if (!report)
        return;
    size = report->size && report->size < sizeof full ? report->size : sizeof full;
    full.size = size;
    full.boundary = at_boundary;
    memcpy(report, &full, size);
}

static sherd_status stop(sherd_engine *engine, const char *name, sherd_error *err)
{
    return sherd__engine_refuse(
        engine, err, SHERD_ESTATE,
        "step %" PRId64 ": the gradient of '%s' is not finite (the first in the order of backward), and "
        "sherd.nonfinite is \"stop\": the update was not made; lower the learning rate, or look at this "
        "step's data",
        engine->last.step, name);
}

/* Every rank sees the same vote and so the same verdict. The engine is as after any skipped step. */
static sherd_status check_finite(sherd_engine *engine, sherd_error *err)
{
    int64_t bad = engine->last.bad_param;

    if (engine->last.skipped && engine->judged != engine->last.step &&
        engine->plan->config.faults.nonfinite == SHERD_NONFINITE_STOP) {
        engine->judged = engine->last.step;
        return stop(engine, bad < 0 ? "" : engine->plan->params[bad].name, err);
    }
    if (!engine->stuck)
        return SHERD_OK;
    engine->stuck = 0;
    return sherd__engine_refuse(
        engine, err, SHERD_ESTATE,
        "step %" PRId64 ": the loss scale is at its minimum, %g, and gradients still overflow (first "
        "that of '%s'); lower the learning rate, or use bf16",
        engine->last.step, engine->rules.min_scale, bad < 0 ? "" : engine->plan->params[bad].name);
}

static sherd_status check_replicas(sherd_engine *engine, sherd_report *report, sherd_error *err)
{
    int64_t every = engine->plan->config.faults.check_replicas;
    sherd_status status;

    if (every == 0 || (engine->step - 1) % every != 0)
        return SHERD_OK;
    status = sherd_engine_wait(engine, err); /* on a GPU this step's report comes with it */
    if (status == SHERD_OK)
        give_report(engine, 1, report);
    return status == SHERD_OK ? sherd__engine_check_replicas(engine, err) : status;
}

sherd_status sherd_engine_step(sherd_engine *engine, sherd_report *report, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);
    int last = sherd__engine_last_micro(engine);

    if (status != SHERD_OK)
        return status;
    if (!engine->open)
        return sherd__engine_refuse(engine, err, SHERD_ESTATE,
                                    "sherd_engine_step: no micro-step is open; call sherd_micro_begin first");
    book_micro_times(engine, sherd__now_ns());
    status = close_micro(engine, err);
    if (status == SHERD_OK && last)
        status = boundary(engine, err);
    if (status != SHERD_OK)
        return status;
    engine->open = 0;
    if (last) {
        engine->step++;
        engine->micro = 0;
        engine->micros = engine->plan->config.gradient_accumulation_steps;
    } else {
        engine->micro++;
    }
    if (last && engine->arrival) {
        status = sherd__engine_replan(engine, err);
        if (status != SHERD_OK)
            return status;
    }
    give_report(engine, last, report);
    if (!last)
        return SHERD_OK;
    status = check_replicas(engine, report, err);
    return status == SHERD_OK ? check_finite(engine, err) : status;
}

double sherd_engine_loss_scale(sherd_engine *engine)
{
    if (engine->rules.scaling == SHERD_SCALING_DYNAMIC)
        (void)sherd__engine_collect(engine, NULL); /* a failure is told by the next call */
    return engine->loss_scale;
}

void sherd_engine_report(const sherd_engine *engine, sherd_report *report)
{
    give_report(engine, 0, report);
}
