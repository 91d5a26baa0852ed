/* SPDX-License-Identifier: MIT
 *
 * Between steps: weights and moments in and out, by parameter and range, wherever they are stored. The idle gradient
 * ring is the staging buffer, so nothing is allocated; every call drains the streams first and leaves the ring as it
 * found it, read by everybody.
 */
#include <inttypes.h>
#include <string.h>

#include "engine/engine.h"

/* What a call is about: elements [first, first + count) of one parameter's state `which`. */
typedef struct range {
    const char *call;
    const sherd__plan_param *param; /* of id */
    uint32_t id, which;
    int64_t first, count;
    int whole; /* all of it, whatever count says */
    int32_t root; /* whose values are written */
} range;

typedef struct stage {
    const sherd__window *window;
    int64_t elems; /* fp32 values that fit */
    sherd__ticket ticket;
} stage;

static stage stage_open(const sherd_engine *engine)
{
    const sherd__window *ring = &engine->ring, *scratch = &engine->scratch;
    stage stage = {ring->bytes > scratch->bytes ? ring : scratch, 0, 0};

    stage.elems = (int64_t)(stage.window->bytes / sizeof(float));
    return stage;
}

/* Enqueues: root's `data` (root only), as fp32, into every rank's staging buffer. */
static sherd_status stage_broadcast(sherd_engine *engine, stage *stage, sherd__values data, int64_t elems, int32_t root)
{
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "transfer", -1);
    uint64_t bytes = (uint64_t)elems * sizeof(float);
    sherd_status status = engine->comm->ops->released(engine->comm, stream, tag, stage->ticket, "staging reuse");

    if (status == SHERD_OK && engine->rank == root)
        status = sherd__engine_values_out(engine, tag, stage->window->local, SHERD_FP32, data, elems);
    if (status == SHERD_OK)
        status = engine->comm->ops->broadcast(engine->comm, stream, tag, stage->window, 0, bytes, root, &stage->ticket);
    engine->last_ticket = stage->ticket;
    return status;
}

static sherd_status stage_close(sherd_engine *engine, stage *stage, sherd_status status, sherd_error *err)
{
    if (status == SHERD_OK)
        status =
            engine->comm->ops->released(engine->comm, engine->stream[SHERD__COMM],
                                        sherd__engine_tag(engine, "transfer", -1), stage->ticket, "staging release");
    status = sherd__engine_check(engine, status, err);
    return status == SHERD_OK ? sherd__engine_sync(engine, SHERD__COMM, "transfer sync", err) : status;
}

static void *working_copy(const sherd_engine *engine, const sherd__plan_param *param, int64_t elem)
{
    return sherd__at(engine->params.local, param->param_offset + (uint64_t)elem * sherd_dtype_bytes(param->dtype));
}

/* 1: the master is not the working copy. */
static int has_master(const sherd_engine *engine, const sherd__plan_param *param)
{
    return param->bucket >= 0 &&
           (param->dtype != SHERD_FP32 || sherd__bucket_offloaded(&engine->plan->buckets[param->bucket]));
}

/* 1: this state of the parameter lies in the parts that ranks update, not in the working copy. */
static int in_parts(const sherd_engine *engine, const sherd__plan_param *param, uint32_t which)
{
    return which > 0 || has_master(engine, param);
}

/* This rank's part of elements [first, first + *n) of a state that lies in parts: where it starts, clipped to what is
 * owned and lies in a row. *skip is how many elements of the request lie before it. Nowhere: nothing of it. */
static sherd__values state_part(const sherd_engine *engine, const range *range, int64_t first, int64_t *n,
                                int64_t *skip)
{
    const sherd__plan_param *param = range->param;
    const sherd__bucket *bucket = &engine->plan->buckets[param->bucket];
    int64_t part = sherd__engine_part_begin(engine, bucket);
    int64_t begin = param->offset + first, end = begin + *n;
    int64_t from = begin > part ? begin : part;
    int64_t part_end = part + sherd__engine_part_elems(engine, bucket);
    int64_t to = end < part_end ? end : part_end;

    if (from >= to)
        return (sherd__values){NULL, SHERD_FP32, NULL};
    *skip = from - begin;
    sherd__values values = sherd__engine_state(engine, (uint32_t)param->bucket, range->which, from - part, n);
    *n = *n < to - from ? *n : to - from;
    return values;
}

/* Staged values of elements [first, first + n) to where they live. */
static sherd_status write_chunk(sherd_engine *engine, const range *range, const float *staged, int64_t first, int64_t n)
{
    const sherd__device_ops *ops = engine->device->ops;
    const sherd__plan_param *param = range->param;
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "param write", param->bucket);
    sherd_status status = SHERD_OK;
    int64_t done = 0;

    if (range->which == 0)
        status = ops->convert(stream, tag, working_copy(engine, param, first), param->dtype, staged, SHERD_FP32, n, 0);
    if (status == SHERD_OK && range->which == 0)
        status = sherd__engine_lend(engine, range->id, first, n, tag, stream);
    while (status == SHERD_OK && in_parts(engine, param, range->which) && done < n) {
        int64_t part = n - done, skip = 0;
        sherd__values state = state_part(engine, range, first + done, &part, &skip);
        if (!state.at)
            break;
        status = sherd__engine_values_in(engine, tag, state, staged + done + skip, SHERD_FP32, part);
        done += skip + part;
    }
    return status;
}

/* Arguments, and the engine between steps with the state within reach. */
static sherd_status range_open(sherd_engine *engine, range *range, sherd_error *err)
{
    const sherd_plan *plan = engine->plan;
    const sherd__plan_param *param;
    sherd_status status;

    if (range->id >= plan->n_params)
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "%s: there is no parameter %" PRIu32 ", the plan has %" PRIu32, range->call,
                                    range->id, plan->n_params);
    param = range->param = &plan->params[range->id];
    if (range->which >= sherd__plan_param_states(plan, range->id))
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "%s of '%s': there is no state %" PRIu32 "; the master is 0, and %" PRIu32
                                    " moments follow (none where it is frozen)",
                                    range->call, param->name, range->which,
                                    sherd__plan_param_states(plan, range->id) - 1);
    range->count = range->whole ? param->elems : range->count;
    if (range->first < 0 || range->count < 0 || range->first > param->elems ||
        range->count > param->elems - range->first)
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "%s of '%s': %" PRId64 " elements from %" PRId64 " on are not within its %" PRId64,
                                    range->call, param->name, range->count, range->first, param->elems);
    status = sherd__engine_idle(engine, range->call, err);
    if (status == SHERD_OK && param->bucket >= 0)
        status = sherd__engine_state_open(engine, (uint32_t)param->bucket, err);
    return status;
}

static sherd_status range_close(sherd_engine *engine, const range *range, int32_t changed, sherd_error *err)
{
    if (range->param->bucket < 0)
        return SHERD_OK;
    return sherd__engine_state_close(engine, (uint32_t)range->param->bucket, changed, err);
}

static sherd_status write_range(sherd_engine *engine, range *range, const float *data, sherd_error *err)
{
    sherd_status status;
    stage stage;

    status = range_open(engine, range, err);
    if (status == SHERD_OK && engine->rank == range->root && !data && range->count)
        status = sherd__engine_refuse(engine, err, SHERD_EINVAL, "%s of '%s': rank 0 must pass the values", range->call,
                                      range->param->name);
    if (status != SHERD_OK)
        return status;
    stage = stage_open(engine);
    for (int64_t i = 0; status == SHERD_OK && i < range->count; i += stage.elems) {
        int64_t n = range->count - i < stage.elems ? range->count - i : stage.elems;
        status = stage_broadcast(engine, &stage, sherd__values_of(data ? data + i : NULL, SHERD_FP32), n, range->root);
        if (status == SHERD_OK)
            status = write_chunk(engine, range, stage.window->local, range->first + i, n);
    }
    status = stage_close(engine, &stage, status, err);
    return status == SHERD_OK ? range_close(engine, range, 1, err) : status;
}

sherd_status sherd_param_write(sherd_engine *engine, uint32_t id, const float *data, sherd_error *err)
{
    range range = {.call = "sherd_param_write", .id = id, .whole = 1};
    return write_range(engine, &range, data, err);
}

sherd_status sherd_state_write(sherd_engine *engine, uint32_t id, uint32_t which, int64_t first, int64_t count,
                               const float *data, sherd_error *err)
{
    range range = {"sherd_state_write", NULL, id, which, first, count, 0, 0};
    return write_range(engine, &range, data, err);
}

/* A part's elements lie in a row per node, and all ranks must agree on the pieces: where one rank has several nodes,
 * pieces are of one block each. */
static int64_t within_node(const sherd_engine *engine, const sherd__bucket *bucket, int64_t local, int64_t n)
{
    int64_t block = SHERD__ALIGN_ELEMS - local % SHERD__ALIGN_ELEMS;
    return sherd__bucket_offloaded(bucket) && engine->several_nodes && n > block ? block : n;
}

/* What lies in ranks' slices travels through the staging buffer, slice by slice. */
static sherd_status read_sharded(sherd_engine *engine, const range *range, stage *stage, float *data)
{
    const sherd__plan_param *param = range->param;
    const sherd__bucket *bucket = &engine->plan->buckets[param->bucket];
    sherd__tag tag = sherd__engine_tag(engine, "param read", param->bucket);
    sherd_status status = SHERD_OK;
    int64_t i = 0, run;

    while (status == SHERD_OK && i < range->count) {
        int64_t at = param->offset + range->first + i, owner = at / bucket->slice_elems;
        int64_t slice_end = (owner + 1) * bucket->slice_elems;
        int64_t n = range->count - i < slice_end - at ? range->count - i : slice_end - at;
        if (n > stage->elems)
            n = stage->elems;
        n = within_node(engine, bucket, at % bucket->slice_elems, n);
        sherd__values values = sherd__values_of(NULL, SHERD_FP32);
        if (engine->rank == owner)
            values = sherd__engine_state(engine, (uint32_t)param->bucket, range->which, at % bucket->slice_elems, &run);
        status = stage_broadcast(engine, stage, values, n, (int32_t)owner);
        if (status == SHERD_OK)
            status = engine->device->ops->copy(engine->stream[SHERD__COMM], tag, data + i, stage->window->local,
                                               (uint64_t)n * sizeof(float));
        i += n;
    }
    return status;
}

/* What this rank has itself: the working copy, or its own part, in which the range must lie. */
static sherd_status read_local(sherd_engine *engine, const range *range, float *data)
{
    sherd__tag tag = sherd__engine_tag(engine, "param read", range->param->bucket);
    sherd_status status = SHERD_OK;
    int64_t n, skip = 0;

    if (!in_parts(engine, range->param, range->which)) {
        sherd__values working = sherd__values_of(working_copy(engine, range->param, range->first), range->param->dtype);
        return range->count == 0 ? SHERD_OK
                                 : sherd__engine_values_out(engine, tag, data, SHERD_FP32, working, range->count);
    }
    for (int64_t i = 0; status == SHERD_OK && i < range->count; i += n) {
        n = range->count - i;
        sherd__values state = state_part(engine, range, range->first + i, &n, &skip);
        status = sherd__engine_values_out(engine, tag, data + i, SHERD_FP32, state, n);
    }
    return status;
}

static sherd_status read_range(sherd_engine *engine, range *range, int local, float *data, sherd_error *err)
{
    sherd_status status = range_open(engine, range, err);
    stage stage;

    if (status != SHERD_OK)
        return status;
    stage = stage_open(engine);
    if (local || engine->plan->whole_state || !in_parts(engine, range->param, range->which))
        status = read_local(engine, range, data);
    else
        status = read_sharded(engine, range, &stage, data);
    status = stage_close(engine, &stage, status, err);
    return status == SHERD_OK ? range_close(engine, range, 0, err) : status;
}

sherd_status sherd_param_read(sherd_engine *engine, uint32_t id, float *data, sherd_error *err)
{
    range range = {.call = "sherd_param_read", .id = id, .whole = 1};
    return read_range(engine, &range, 0, data, err);
}

sherd_status sherd_state_read(sherd_engine *engine, uint32_t id, uint32_t which, int64_t first, int64_t count,
                              float *out, sherd_error *err)
{
    range range = {"sherd_state_read", NULL, id, which, first, count, 0, 0};
    return read_range(engine, &range, 0, out, err);
}

sherd_status sherd_state_read_own(sherd_engine *engine, uint32_t id, uint32_t which, int64_t first, int64_t count,
                                  float *out, sherd_error *err)
{
    range range = {"sherd_state_read_own", NULL, id, which, first, count, 0, 0};
    int64_t own_first, own_count;

    if (sherd_plan_own(engine->plan, id, engine->rank, &own_first, &own_count) == SHERD_OK && count > 0 &&
        (first < own_first || count > own_count || first - own_first > own_count - count))
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "sherd_state_read_own of '%s': %" PRId64 " elements from %" PRId64
                                    " on are not within rank %" PRId32 "'s %" PRId64 " from %" PRId64 " on",
                                    engine->plan->params[id].name, count, first, engine->rank, own_count, own_first);
    return read_range(engine, &range, 1, out, err);
}

sherd_status sherd__engine_state_read_here(sherd_engine *engine, uint32_t id, uint32_t which, int64_t first, int64_t count,
                                           float *out, sherd_error *err)
{
    range range = {"re-plan", NULL, id, which, first, count, 0, 0};
    return read_range(engine, &range, 1, out, err);
}

sherd_status sherd__engine_state_write_from(sherd_engine *engine, int32_t root, uint32_t id, uint32_t which, int64_t first,
                                            int64_t count, const float *data, sherd_error *err)
{
    range range = {"re-plan", NULL, id, which, first, count, 0, root};
    return write_range(engine, &range, data, err);
}

sherd_status sherd__engine_share(sherd_engine *engine, int32_t root, uint32_t *words, int64_t count, sherd_error *err)
{
    sherd__tag tag = sherd__engine_tag(engine, "share", -1);
    stage stage = stage_open(engine);
    sherd_status status = SHERD_OK;

    for (int64_t i = 0; status == SHERD_OK && i < count; i += stage.elems) {
        int64_t n = count - i < stage.elems ? count - i : stage.elems;
        status = stage_broadcast(engine, &stage, sherd__values_of(words + i, SHERD_FP32), n, root);
        if (status == SHERD_OK)
            status = engine->device->ops->copy(engine->stream[SHERD__COMM], tag, words + i, stage.window->local,
                                               (uint64_t)n * sizeof *words);
    }
    return stage_close(engine, &stage, status, err);
}
