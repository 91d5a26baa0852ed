/* SPDX-License-Identifier: MIT
 *
 * Birth and death of an engine. Creation is collective: a rank that fails tells its peers why, so that none waits for
 * it.
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "engine/agree.h"

static sherd_status check_arguments(const sherd_plan *plan, const sherd_device *device, const sherd_comm *comm,
                                    sherd_error *err)
{
    if (!plan || !device || !comm)
        return sherd__fail(err, SHERD_EINVAL, "sherd_engine_create: plan, device and communicator must be given");
    if (plan->world != comm->world)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_engine_create: the plan was made for %" PRId32
                           " ranks, the communicator has %" PRId32,
                           plan->world, comm->world);
    if (sherd__plan_transport(&plan->config) != comm->transport)
        return sherd__fail(err, SHERD_EINVAL,
                           "sherd_engine_create: the plan was made for transport '%s', the communicator is '%s' (%s): set "
                           "sherd.transport to what the communicator is",
                           sherd__transport_name(sherd__plan_transport(&plan->config)),
                           sherd__transport_name(comm->transport), comm->description);
    if (comm->device)
        return sherd__fail(err, SHERD_ESTATE,
                           "sherd_engine_create: the communicator serves another engine; destroy that first");
    return SHERD_OK;
}

/* Operations that may wait in a stream at once: two steps of the longest walk, every action at its widest. */
static uint32_t stream_capacity(const sherd_plan *plan)
{
    uint64_t capacity =
        64 + 2 * (8 * (uint64_t)plan->schedule.n_actions + plan->n_params + 16 * (uint64_t)plan->n_buckets +
                  8 * (uint64_t)plan->n_matrices);
    return capacity > 1u << 20 ? 1u << 20 : (uint32_t)capacity;
}

static const char *const offload_streams[] = {"lower", "raise", "host", "read", "write"};

static sherd_status create_streams(sherd_engine *engine, sherd_error *err)
{
    const sherd__device_ops *ops = engine->device->ops;
    uint32_t capacity = stream_capacity(engine->plan);
    sherd_status status = SHERD_OK;

    engine->stream[SHERD__COMPUTE] = engine->device->compute;
    if (!engine->stream[SHERD__COMM])
        status = ops->stream_create(engine->device, "comm", capacity, &engine->stream[SHERD__COMM], err);
    if (status == SHERD_OK)
        status = ops->stream_create(engine->device, "update", capacity, &engine->stream[SHERD__UPDATE], err);
    for (int s = SHERD__LOWER; status == SHERD_OK && s < SHERD__STREAMS; s++)
        if (s >= SHERD__READ ? engine->plan->placement.n_disk > 0 : engine->plan->placement.n_off > 0)
            status = ops->stream_create(engine->device, offload_streams[s - SHERD__LOWER], capacity, &engine->stream[s], err);
    return status;
}

sherd_status sherd__engine_window(sherd_engine *engine, uint64_t bytes, sherd_category category, sherd__window *out,
                                  sherd_error *err)
{
    return bytes ? engine->comm->ops->window_create(engine->comm, bytes, category, out, err) : SHERD_OK;
}

sherd_status sherd__engine_arena(sherd_engine *engine, uint64_t bytes, sherd_category category, void *out,
                                 sherd_error *err)
{
    sherd__byte_range *all = &engine->clear[engine->n_clear];
    void *block = NULL;
    sherd_status status;

    if (!bytes)
        return SHERD_OK;
    assert(engine->n_clear < SHERD__ARENAS);
    engine->n_clear++;
    status = sherd__device_alloc(engine->device, SHERD_TIER_DEVICE, category, bytes, &block, err);
    if (status != SHERD_OK)
        return status;
    memcpy(out, &block, sizeof block);
    *all = (sherd__byte_range){0, bytes};
    status =
        engine->device->ops->zero(engine->stream[SHERD__COMM], sherd__engine_tag(engine, "clear", -1), block, all, 1);
    return sherd__engine_check(engine, status, err);
}

static sherd_status create_sums(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    sherd_status status;

    if (!plan->full_mode && !plan->whole_state)
        return sherd__engine_arena(engine, plan->sum_bytes, SHERD_CAT_GRAD_SUMS, &engine->sums, err);
    status = sherd__engine_window(engine, plan->sum_bytes, SHERD_CAT_GRAD_SUMS, &engine->sums_window, err);
    engine->sums = engine->sums_window.local;
    return status;
}

static sherd_status create_memory(sherd_engine *engine, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    sherd_status status = sherd__engine_window(engine, plan->param_bytes, SHERD_CAT_PARAMETERS, &engine->params, err);

    if (status == SHERD_OK)
        status = sherd__engine_window(engine, plan->ring_bytes, SHERD_CAT_GRADIENTS, &engine->ring, err);
    engine->ring_source = engine->ring.local;
    if (status == SHERD_OK)
        status = create_sums(engine, err);
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, plan->sum_bytes * plan->carries, SHERD_CAT_GRAD_SUMS, &engine->carries, err);
    engine->carry_source = engine->carries;
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, plan->placement.sum_slots * plan->placement.sum_slot_bytes, SHERD_CAT_STAGING,
                       &engine->sum_slots, err);
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, plan->shared_bytes, SHERD_CAT_GRADIENTS_SHARED, &engine->shared, err);
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, plan->master_elems * sizeof(float), SHERD_CAT_MASTER, &engine->master, err);
    if (status == SHERD_OK)
        status = sherd__engine_arena(engine, plan->remainder_elems * sizeof *engine->remainder, SHERD_CAT_MASTER,
                                     &engine->remainder, err);
    for (uint32_t m = 0; status == SHERD_OK && m < plan->n_moments; m++)
        status = sherd__engine_arena(engine, sherd__plan_moment_elems(plan, m) * sherd_dtype_bytes(plan->moment_dtype),
                                     SHERD_CAT_MOMENTS, &engine->moment[m], err);
    return status;
}

/* The step block is made on the host and copied: no device need give the host its memory. */
static sherd_status create_block(sherd_engine *engine, sherd_error *err)
{
    void *host, *block;
    sherd_status status = sherd__device_alloc(engine->device, SHERD_TIER_HOST, SHERD_CAT_COMMUNICATION,
                                              SHERD__HOST_COMM_BYTES, &host, err);

    if (status != SHERD_OK)
        return status;
    engine->mirror = host;
    engine->stage = sherd__at(host, SHERD__STEP_BYTES);
    status =
        sherd__device_alloc(engine->device, SHERD_TIER_DEVICE, SHERD_CAT_COMMUNICATION, SHERD__STEP_BYTES, &block, err);
    if (status != SHERD_OK)
        return status;
    engine->block = block;
    memset(host, 0, SHERD__STEP_BYTES);
    sherd__norm_clear(&engine->mirror->norm);
    sherd__norm_clear(&engine->mirror->clear);
    sherd__step_state_init(&engine->mirror->state);
    sherd__step_rules_init(&engine->rules, &engine->plan->config, engine->world);
    sherd__step_scale_init(&engine->mirror->state, &engine->rules);
    engine->loss_scale = engine->mirror->state.scale;
    status = engine->device->ops->copy(engine->stream[SHERD__COMM], sherd__engine_tag(engine, "clear", -1),
                                       engine->block, engine->mirror, SHERD__STEP_BYTES);
    return sherd__engine_check(engine, status, err);
}

sherd_status sherd__engine_layout_create(sherd_engine *engine, sherd_error *err)
{
    sherd_status status = create_streams(engine, err);

    if (status == SHERD_OK)
        status = sherd__engine_tables_create(engine, err);
    if (status == SHERD_OK && !engine->block)
        status = create_block(engine, err);
    if (status == SHERD_OK && !engine->scratch.local)
        status = sherd__engine_window(engine, (uint64_t)engine->world * SHERD__SCRATCH_BYTES_PER_RANK, SHERD_CAT_COMMUNICATION,
                        &engine->scratch, err);
    if (status == SHERD_OK)
        status = sherd__engine_compare_plans(engine, err);
    if (status == SHERD_OK)
        status = create_memory(engine, err);
    if (status == SHERD_OK)
        status = sherd__engine_trust_create(engine, err);
    if (status == SHERD_OK)
        status = sherd__engine_muon_create(engine, err);
    if (status == SHERD_OK && engine->plan->placement.n_off > 0)
        status = sherd__engine_offload_create(engine, err);
    if (status == SHERD_OK) {
        status = engine->comm->ops->barrier(engine->comm, engine->stream[SHERD__COMM],
                                            sherd__engine_tag(engine, "barrier", -1));
        status = sherd__engine_check(engine, status, err);
    }
    return status == SHERD_OK ? sherd__engine_sync(engine, SHERD__COMM, "creation sync", err) : status;
}

/* `at`: address of a pointer of any type. */
static void drop(sherd_engine *engine, void *at)
{
    void *block;

    memcpy(&block, at, sizeof block);
    sherd_device_free(engine->device, block);
    block = NULL;
    memcpy(at, &block, sizeof block);
}

static void drop_window(sherd_engine *engine, sherd__window *window)
{
    engine->comm->ops->window_destroy(engine->comm, window);
    *window = (sherd__window){0};
}

void sherd__engine_layout_release(sherd_engine *engine)
{
    for (int s = SHERD__UPDATE; s < SHERD__STREAMS; s++) {
        engine->device->ops->stream_destroy(engine->stream[s]);
        engine->stream[s] = NULL;
    }
    for (uint32_t p = 0; engine->param && p < engine->plan->n_params; p++)
        sherd_device_free(engine->device, engine->param[p].parked);
    for (uint32_t m = 0; m < SHERD__MAX_MOMENTS; m++)
        drop(engine, &engine->moment[m]);
    sherd__engine_offload_destroy(engine);
    drop(engine, &engine->master);
    drop(engine, &engine->remainder);
    drop(engine, &engine->sum_slots);
    drop(engine, &engine->carries);
    drop(engine, &engine->shared);
    if (!engine->sums_window.local)
        drop(engine, &engine->sums);
    engine->sums = NULL;
    drop_window(engine, &engine->sums_window);
    drop_window(engine, &engine->ring);
    drop_window(engine, &engine->params);
    sherd__engine_trust_destroy(engine);
    sherd__engine_muon_destroy(engine);
    sherd__engine_tables_destroy(engine);
    engine->n_clear = 0;
    engine->last_ticket = 0;
}

/* Freeing is a write, as far as order goes. */
static void touch_all(sherd_engine *engine)
{
    const sherd_plan *plan = engine->plan;
    const sherd__window *windows[] = {&engine->params, &engine->ring, &engine->sums_window, &engine->scratch,
                                      &engine->trust.slices, &engine->muon.window};

    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
        (void)sherd__engine_touch(engine, "destruction", windows[w]->local, windows[w]->bytes, 1, NULL);
    if (!engine->sums_window.local)
        (void)sherd__engine_touch(engine, "destruction", engine->sums, plan->sum_bytes, 1, NULL);
    (void)sherd__engine_touch(engine, "destruction", engine->carries, plan->sum_bytes * plan->carries, 1, NULL);
    (void)sherd__engine_touch(engine, "destruction", engine->master, plan->master_elems * sizeof(float), 1, NULL);
    (void)sherd__engine_touch(engine, "destruction", engine->remainder,
                              plan->remainder_elems * sizeof *engine->remainder, 1, NULL);
    for (uint32_t m = 0; m < plan->n_moments; m++)
        (void)sherd__engine_touch(engine, "destruction", engine->moment[m],
                                  sherd__plan_moment_elems(plan, m) * sherd_dtype_bytes(plan->moment_dtype), 1,
                                  NULL);
}

sherd_status sherd__engine_settle(sherd_engine *engine, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);

    if (status != SHERD_OK || !engine->stream[SHERD__UPDATE] || !engine->scratch.local)
        return status;
    status =
        engine->comm->ops->released(engine->comm, engine->stream[SHERD__COMM], sherd__engine_tag(engine, "leave", -1),
                                    engine->last_ticket, "destroy release");
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = sherd_engine_wait(engine, err);
    if (status == SHERD_OK)
        touch_all(engine);
    return status;
}

void sherd_engine_destroy(sherd_engine *engine)
{
    sherd_device *device;

    if (!engine)
        return;
    device = engine->device;
    (void)sherd__engine_settle(engine, NULL); /* an error is kept, the peers are told: there is nobody left to pass it to */
    device->ops->stream_destroy(engine->stream[SHERD__COMM]);
    sherd__engine_replan_end(engine);
    sherd__engine_layout_release(engine);
    engine->comm->ops->window_destroy(engine->comm, &engine->scratch);
    sherd_device_free(device, engine->block);
    sherd_device_free(device, engine->mirror);
    sherd_plan_destroy(engine->own_plan);
    engine->comm->ops->unbind(engine->comm);
    pthread_mutex_destroy(&engine->lock);
    sherd__ledger_sub(&device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, sizeof *engine, 0);
    sherd__free(&device->allocator, engine, 1, sizeof *engine);
}

static sherd_engine *engine_block(const sherd_plan *plan, sherd_device *device, sherd_comm *comm, sherd_error *err)
{
    sherd_engine *engine;

    if (sherd__ledger_add(&device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, sizeof *engine, 0, err) != SHERD_OK)
        return NULL;
    engine = sherd__alloc(&device->allocator, 1, sizeof *engine);
    if (!engine || pthread_mutex_init(&engine->lock, NULL)) {
        sherd__free(&device->allocator, engine, 1, sizeof *engine);
        sherd__ledger_sub(&device->ledger, SHERD_TIER_HOST, SHERD_CAT_METADATA, sizeof *engine, 0);
        sherd__fail(err, SHERD_ENOMEM, "sherd_engine_create: no memory for the engine itself");
        return NULL;
    }
    engine->plan = plan;
    engine->device = device;
    engine->comm = comm;
    engine->rank = comm->rank;
    engine->world = comm->world;
    engine->step = 1;
    for (uint32_t p = 0; p < plan->n_params; p++)
        engine->borrows |= plan->params[p].storage != NULL && plan->params[p].elems > 0;
    engine->micros = plan->config.gradient_accumulation_steps;
    sherd_report_init(&engine->last, sizeof engine->last);
    return engine;
}

sherd_status sherd_engine_create(const sherd_plan *plan, sherd_device *device, sherd_comm *comm, sherd_engine **out,
                                 sherd_error *err)
{
    sherd_engine *engine;
    sherd_error error = {SHERD_OK, -1, ""};
    sherd_status status = check_arguments(plan, device, comm, err);

    if (status != SHERD_OK)
        return status;
    engine = engine_block(plan, device, comm, &error);
    if (!engine) {
        comm->ops->abort(comm, &error);
        return sherd__pass(err, &error);
    }
    atomic_store(&device->wait_limit_ns, (int64_t)((plan->config.sherd.fail_after_s + 60) * 1e9));
    comm->receive_bytes = plan->receive_bytes;
    comm->native = plan->config.transport.reduction == SHERD_REDUCTION_NATIVE;
    status = comm->ops->bind(comm, device, &error);
    if (status == SHERD_OK)
        status = sherd__engine_layout_create(engine, &error);
    if (status == SHERD_OK && plan->config.replan)
        status = sherd__engine_replan_watch(engine, &error);
    if (status != SHERD_OK) {
        comm->ops->abort(comm, &error);
        sherd_engine_destroy(engine);
        return sherd__pass(err, &error);
    }
    sherd__ring_init(&engine->ring_state, plan, engine->ring_params, engine->ring_buckets);
    sherd__log(&device->log, SHERD_LOG_DEBUG,
               "engine: rank %" PRId32 " of %" PRId32 ", stage %" PRId32 ", %" PRIu32 " bucket%s, %s, %s", engine->rank,
               engine->world, plan->config.zero.stage, plan->n_buckets, plan->n_buckets == 1 ? "" : "s",
               device->description, comm->description);
    *out = engine;
    return SHERD_OK;
}
