/* SPDX-License-Identifier: MIT
 *
 * Digests of masters and moments. Every rank hashes the blocks of its own slice, wherever they are stored; the sums are
 * added over the ranks as integers, so the digest does not know about sharding.
 */
#include "base/hash.h"
#include "engine/engine.h"

typedef struct digest {
    sherd__hash_sum param, state;
} digest;

static void add_values(digest *digest, uint32_t id, uint8_t place, int64_t first, const float *values, int64_t n)
{
    sherd__hash_add(&digest->state, id, place, first, values, n);
    if (place == 0)
        sherd__hash_add(&digest->param, id, place, first, values, n);
}

/* `n` values on the device: elements from `first` (a multiple of 256) on of a parameter's state `place`. */
static sherd_status hash_values(sherd_engine *engine, digest *digest, uint32_t id, uint8_t place, int64_t first,
                                sherd__values values, int64_t n)
{
    const int64_t most = SHERD__STAGE_BYTES / sizeof(float);
    sherd__tag tag = sherd__engine_tag(engine, "hash", -1);
    sherd_status status = SHERD_OK;

    for (int64_t i = 0; status == SHERD_OK && i < n; i += most) {
        int64_t part = n - i < most ? n - i : most;
        status = sherd__engine_follow(engine, "hash reuse");
        if (status == SHERD_OK)
            status =
                sherd__engine_values_out(engine, tag, engine->stage, SHERD_FP32, sherd__values_from(values, i), part);
        status = sherd__engine_check(engine, status, NULL);
        if (status == SHERD_OK)
            status = sherd__engine_sync(engine, SHERD__COMM, "hash sync", NULL);
        if (status == SHERD_OK)
            status = sherd__engine_touch(engine, "hash", engine->stage, (uint64_t)part * sizeof(float), 0, NULL);
        add_values(digest, id, place, first + i, engine->stage, part);
    }
    return status;
}

/* Elements [first, first + n) of a parameter, all in this rank's slice. `at` is their place in the bucket. */
static sherd_status hash_segment(sherd_engine *engine, digest *digest, uint32_t id, const sherd__bucket *bucket,
                                 int64_t at, int64_t first, int64_t n)
{
    uint32_t index = (uint32_t)(bucket - engine->plan->buckets);
    int64_t local = at - sherd__engine_part_begin(engine, bucket);
    sherd_status status = SHERD_OK;

    for (uint32_t which = 0; which <= sherd__bucket_moments(engine->plan, bucket); which++) {
        int64_t run;
        for (int64_t i = 0; status == SHERD_OK && i < n; i += run) {
            sherd__values values = sherd__engine_state(engine, index, which, local + i, &run);
            run = run < n - i ? run : n - i;
            status = hash_values(engine, digest, id, (uint8_t)which, first + i, values, run);
        }
    }
    return status;
}

static sherd_status hash_bucket(sherd_engine *engine, digest *digest, const sherd__bucket *bucket)
{
    int64_t begin = engine->rank * bucket->slice_elems, end = begin + bucket->slice_elems;
    uint32_t index = (uint32_t)(bucket - engine->plan->buckets);
    sherd_status status = sherd__engine_state_open(engine, index, NULL);

    for (uint32_t i = 0; status == SHERD_OK && i < bucket->count; i++) {
        uint32_t id = engine->plan->order[bucket->first + i];
        const sherd__plan_param *param = &engine->plan->params[id];
        int64_t from = param->offset > begin ? param->offset : begin;
        int64_t to = param->offset + param->elems < end ? param->offset + param->elems : end;
        if (from < to)
            status = hash_segment(engine, digest, id, bucket, from, from - param->offset, to - from);
    }
    return status == SHERD_OK ? sherd__engine_state_close(engine, index, 0, NULL) : status;
}

/* Frozen parameters are whole on every rank: rank 0 speaks for them. */
static sherd_status hash_frozen(sherd_engine *engine, digest *digest)
{
    const sherd_plan *plan = engine->plan;
    sherd_status status = SHERD_OK;

    for (uint32_t p = 0; status == SHERD_OK && engine->rank == 0 && p < plan->n_params; p++)
        if (plan->params[p].bucket < 0)
            status = hash_values(
                engine, digest, p, 0, 0,
                sherd__values_of(sherd__at(engine->params.local, plan->params[p].param_offset), plan->params[p].dtype),
                plan->params[p].elems);
    return status;
}

/* Adds the ranks' digests as integers, through the words of the vote. */
static sherd_status add_over_ranks(sherd_engine *engine, digest *digest, sherd_error *err)
{
    const sherd__device_ops *ops = engine->device->ops;
    sherd__stream *stream = engine->stream[SHERD__COMM];
    sherd__tag tag = sherd__engine_tag(engine, "hash", -1);
    uint64_t *limbs = engine->mirror->vote, bytes = 8 * sizeof *limbs;
    sherd_status status;

    sherd__hash_to_limbs(digest->param, limbs);
    sherd__hash_to_limbs(digest->state, limbs + 4);
    status = ops->copy(stream, tag, engine->block->vote, limbs, bytes);
    if (status == SHERD_OK)
        status = engine->comm->ops->all_reduce(engine->comm, stream, tag, engine->block->vote, 8, 0);
    if (status == SHERD_OK)
        status = ops->copy(stream, tag, limbs, engine->block->vote, bytes);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = sherd__engine_sync(engine, SHERD__COMM, "hash sync", err);
    if (status == SHERD_OK)
        status = sherd__engine_touch(engine, "hash", limbs, bytes, 0, err);
    digest->param = sherd__hash_from_limbs(limbs);
    digest->state = sherd__hash_from_limbs(limbs + 4);
    return status;
}

sherd_status sherd_engine_hash(sherd_engine *engine, uint8_t param_hash[16], uint8_t state_hash[16], sherd_error *err)
{
    digest digest = {{0, 0}, {0, 0}};
    sherd_status status = sherd__engine_idle(engine, "sherd_engine_hash", err);

    if (status != SHERD_OK)
        return status;
    for (uint32_t b = 0; status == SHERD_OK && b < engine->plan->n_buckets; b++)
        status = hash_bucket(engine, &digest, &engine->plan->buckets[b]);
    if (status == SHERD_OK)
        status = hash_frozen(engine, &digest);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = add_over_ranks(engine, &digest, err);
    if (status != SHERD_OK)
        return status;
    if (param_hash)
        sherd__hash_bytes(digest.param, param_hash);
    if (state_hash)
        sherd__hash_bytes(digest.state, state_hash);
    return SHERD_OK;
}
