/* SPDX-License-Identifier: MIT
 *
 * Between steps: initial weights in, masters out, small lines between all ranks. The idle gradient ring is the staging
 * buffer, so nothing is allocated; every call drains the streams first and leaves the ring as it found it, read by
 * everybody.
 */
#include <inttypes.h>
#include <string.h>

#include "engine/engine.h"

typedef struct stage {
    const sherd__window *window;
    int64_t elems; /* fp32 values that fit */
    sherd__ticket ticket;
} stage;

sherd_status sherd__engine_idle(sherd_engine *engine, const char *call, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);

    if (status != SHERD_OK)
        return status;
    if (engine->open || engine->micro)
        return sherd__engine_refuse(engine, err, SHERD_ESTATE,
                                    "%s: micro-step %" PRId64 " of step %" PRId64
                                    " is under way; call it between steps",
                                    call, engine->micro, engine->step);
    return sherd_engine_wait(engine, err);
}

static stage stage_open(const sherd_engine *engine)
{
    const sherd__window *ring = &engine->ring, *scratch = &engine->scratch;
    stage stage = {ring->bytes > scratch->bytes ? ring : scratch, 0, 0};

    stage.elems = (int64_t)(stage.window->bytes / sizeof(float));
    return stage;
}

/* Enqueues: root's `data` (root only) into every rank's staging buffer. */
static sherd_status stage_broadcast(sherd_engine *engine, stage *stage, const float *data, int64_t elems, int32_t root)
{
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "transfer", -1);
    uint64_t bytes = (uint64_t)elems * sizeof(float);
    sherd_status status = engine->comm->ops->released(engine->comm, stream, tag, stage->ticket, "staging reuse");

    if (status == SHERD_OK && engine->rank == root)
        status = engine->device->ops->copy(stream, tag, stage->window->local, data, bytes);
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

/* This rank's fp32 master of elements [first, first + *n) of a parameter that has one: where it starts, clipped to what is
 * owned and lies in a row. *skip is how many elements of the request lie before it. NULL: nothing of it. */
static float *master_part(const sherd_engine *engine, const sherd__plan_param *param, int64_t first, int64_t *n,
                          int64_t *skip)
{
    const sherd__bucket *bucket = &engine->plan->buckets[param->bucket];
    int64_t part = sherd__engine_part_begin(engine, bucket);
    int64_t begin = param->offset + first, end = begin + *n;
    int64_t from = begin > part ? begin : part;
    int64_t part_end = part + sherd__engine_part_elems(engine, bucket);
    int64_t to = end < part_end ? end : part_end;

    if (from >= to)
        return NULL;
    *skip = from - begin;
    float *at = sherd__engine_state(engine, (uint32_t)param->bucket, 0, from - part, n);
    *n = *n < to - from ? *n : to - from;
    return at;
}

static sherd_status write_chunk(sherd_engine *engine, const sherd__plan_param *param, const float *staged,
                                int64_t first, int64_t n)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "param write", param->bucket);
    sherd_status status =
        ops->convert(stream, tag, working_copy(engine, param, first), param->dtype, staged, SHERD_FP32, n, 0);
    int64_t done = 0;

    while (status == SHERD_OK && has_master(engine, param) && done < n) {
        int64_t part = n - done, skip = 0;
        float *master = master_part(engine, param, first + done, &part, &skip);
        if (!master)
            break;
        status = ops->copy(stream, tag, master, staged + done + skip, (uint64_t)part * sizeof(float));
        done += skip + part;
    }
    return status;
}

sherd_status sherd_param_write(sherd_engine *engine, uint32_t id, const float *data, sherd_error *err)
{
    const sherd__plan_param *param;
    sherd_status status;
    stage stage;

    if (id >= engine->plan->n_params)
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "sherd_param_write: there is no parameter %" PRIu32 ", the plan has %" PRIu32, id,
                                    engine->plan->n_params);
    param = &engine->plan->params[id];
    if (engine->rank == 0 && !data && param->elems)
        return sherd__engine_refuse(engine, err, SHERD_EINVAL, "sherd_param_write of '%s': rank 0 must pass the values",
                                    param->name);
    status = sherd__engine_idle(engine, "sherd_param_write", err);
    if (status != SHERD_OK)
        return status;
    if (param->bucket >= 0)
        status = sherd__engine_state_open(engine, (uint32_t)param->bucket, err);
    if (status != SHERD_OK)
        return status;
    stage = stage_open(engine);
    for (int64_t i = 0; status == SHERD_OK && i < param->elems; i += stage.elems) {
        int64_t n = param->elems - i < stage.elems ? param->elems - i : stage.elems;
        status = stage_broadcast(engine, &stage, data ? data + i : NULL, n, 0);
        if (status == SHERD_OK)
            status = write_chunk(engine, param, stage.window->local, i, n);
    }
    status = stage_close(engine, &stage, status, err);
    return status == SHERD_OK && param->bucket >= 0
               ? sherd__engine_state_close(engine, (uint32_t)param->bucket, 1, err)
               : status;
}

/* A part's elements lie in a row per node, and all ranks must agree on the pieces: where one rank has several nodes, pieces are
 * of one block each. */
static int64_t within_node(const sherd_engine *engine, const sherd__bucket *bucket, int64_t local, int64_t n)
{
    int64_t block = SHERD__ALIGN_ELEMS - local % SHERD__ALIGN_ELEMS;
    return sherd__bucket_offloaded(bucket) && engine->several_nodes && n > block ? block : n;
}

/* Masters that lie in other ranks' slices travel through the staging buffer, slice by slice. */
static sherd_status read_sharded(sherd_engine *engine, const sherd__plan_param *param, stage *stage, float *data)
{
    const sherd__bucket *bucket = &engine->plan->buckets[param->bucket];
    sherd__tag tag = sherd__engine_tag(engine, "param read", param->bucket);
    sherd_status status = SHERD_OK;
    int64_t i = 0, run;

    while (status == SHERD_OK && i < param->elems) {
        int64_t at = param->offset + i, owner = at / bucket->slice_elems;
        int64_t slice_end = (owner + 1) * bucket->slice_elems;
        int64_t n = param->elems - i < slice_end - at ? param->elems - i : slice_end - at;
        if (n > stage->elems)
            n = stage->elems;
        n = within_node(engine, bucket, at % bucket->slice_elems, n);
        status = stage_broadcast(engine, stage,
                                 engine->rank == owner ? sherd__engine_state(engine, (uint32_t)param->bucket, 0,
                                                                             at % bucket->slice_elems, &run)
                                                       : NULL,
                                 n, (int32_t)owner);
        if (status == SHERD_OK)
            status = engine->device->ops->copy(engine->stream[SHERD__COMM], tag, data + i, stage->window->local,
                                               (uint64_t)n * sizeof(float));
        i += n;
    }
    return status;
}

sherd_status sherd_param_read(sherd_engine *engine, uint32_t id, float *data, sherd_error *err)
{
    const sherd__plan_param *param;
    sherd_status status;
    stage stage;

    if (id >= engine->plan->n_params)
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "sherd_param_read: there is no parameter %" PRIu32 ", the plan has %" PRIu32, id,
                                    engine->plan->n_params);
    status = sherd__engine_idle(engine, "sherd_param_read", err);
    if (status != SHERD_OK)
        return status;
    param = &engine->plan->params[id];
    if (has_master(engine, param))
        status = sherd__engine_state_open(engine, (uint32_t)param->bucket, err);
    if (status != SHERD_OK)
        return status;
    stage = stage_open(engine);
    if (param->bucket < 0 ||
        param->dtype == SHERD_FP32) { /* the working copy is whole on every rank, and is the master */
        sherd__tag tag = sherd__engine_tag(engine, "param read", param->bucket);
        if (param->elems)
            status = engine->device->ops->convert(engine->stream[SHERD__COMM], tag, data, SHERD_FP32,
                                                  working_copy(engine, param, 0), param->dtype, param->elems, 0);
    } else if (engine->plan->whole_state) {
        sherd__tag tag = sherd__engine_tag(engine, "param read", param->bucket);
        int64_t n, skip = 0;
        for (int64_t i = 0; status == SHERD_OK && i < param->elems; i += n) {
            n = param->elems - i;
            float *master = master_part(engine, param, i, &n, &skip);
            status = engine->device->ops->copy(engine->stream[SHERD__COMM], tag, data + i, master,
                                               (uint64_t)n * sizeof(float));
        }
    } else {
        status = read_sharded(engine, param, &stage, data);
    }
    status = stage_close(engine, &stage, status, err);
    return status == SHERD_OK && has_master(engine, param)
               ? sherd__engine_state_close(engine, (uint32_t)param->bucket, 0, err)
               : status;
}

sherd_status sherd__engine_exchange(sherd_engine *engine, const void *line, size_t bytes, sherd_error *err)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "exchange", -1);
    uint64_t own = (uint64_t)engine->rank * SHERD__SCRATCH_BYTES_PER_RANK;
    /* The caller may still be reading the last exchange's lines: nothing else lies between two calls in a row. */
    sherd_status status = sherd__engine_follow(engine, "exchange reuse");

    if (status == SHERD_OK)
        status = engine->comm->ops->released(engine->comm, stream, tag, engine->scratch_ticket, "scratch reuse");
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, sherd__at(engine->scratch.local, own), line, bytes);
    if (status == SHERD_OK)
        status = engine->comm->ops->all_gather(engine->comm, stream, tag, &engine->scratch, 0,
                                               SHERD__SCRATCH_BYTES_PER_RANK, &engine->scratch_ticket);
    engine->last_ticket = engine->scratch_ticket;
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, engine->scratch_host, engine->scratch.local, engine->scratch.bytes);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = sherd__engine_sync(engine, SHERD__COMM, "exchange sync", err);
    return status == SHERD_OK
               ? sherd__engine_touch(engine, "exchange", engine->scratch_host, engine->scratch.bytes, 0, err)
               : status;
}

/* sum(l, h) = sum(l, l+p) + sum(l+p, h), p the largest power of two below h − l (NUMERICS: Tree over ranks). */
static double tree_sum(const uint8_t *lines, int32_t low, int32_t high)
{
    int32_t power = 1;
    double value;

    if (high - low == 1) {
        memcpy(&value, lines + (size_t)low * SHERD__SCRATCH_BYTES_PER_RANK, sizeof value);
        return value;
    }
    while (power * 2 < high - low)
        power *= 2;
    return tree_sum(lines, low, low + power) + tree_sum(lines, low + power, high);
}

sherd_status sherd_engine_sum(sherd_engine *engine, double *value, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);

    if (status == SHERD_OK)
        status = sherd__engine_exchange(engine, value, sizeof *value, err);
    if (status == SHERD_OK)
        *value = tree_sum(engine->scratch_host, 0, engine->world);
    return status;
}
