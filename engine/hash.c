/* SPDX-License-Identifier: MIT
 *
 * Digests of masters and moments. Every rank hashes the blocks of its own slice, wherever they are stored; the sums are
 * added over the ranks as integers, so the digest does not know about sharding.
 */
#include <string.h>

#include "base/half.h"
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

static sherd_status touch_values(sherd_engine *engine, const void *values, int64_t n)
{
    return sherd__engine_touch(engine, "hash", values, (uint64_t)n * sizeof(float), 0, NULL);
}

/* Elements [first, first + n) of a parameter, all in this rank's slice. `at` is their place in the bucket. */
static sherd_status hash_segment(sherd_engine *engine, digest *digest, uint32_t id, const sherd__bucket *bucket,
                                 int64_t at, int64_t first, int64_t n)
{
    int64_t local = at - sherd__engine_part_begin(engine, bucket);
    const float *master = bucket->dtype == SHERD_FP32
                              ? (const float *)sherd__at(engine->params.local, bucket->param_offset) + at
                              : engine->master + bucket->master_offset + local;
    sherd_status status = touch_values(engine, master, n);

    add_values(digest, id, 0, first, master, n);
    for (uint32_t m = 0; status == SHERD_OK && m < engine->plan->n_moments; m++) {
        const float *moment = engine->moment[m] + bucket->state_offset + local;
        status = touch_values(engine, moment, n);
        add_values(digest, id, (uint8_t)(m + 1), first, moment, n);
    }
    return status;
}

static sherd_status hash_bucket(sherd_engine *engine, digest *digest, const sherd__bucket *bucket)
{
    int64_t begin = engine->rank * bucket->slice_elems, end = begin + bucket->slice_elems;
    sherd_status status = SHERD_OK;

    for (uint32_t i = 0; status == SHERD_OK && i < bucket->count; i++) {
        uint32_t id = engine->plan->order[bucket->first + i];
        const sherd__plan_param *param = &engine->plan->params[id];
        int64_t from = param->offset > begin ? param->offset : begin;
        int64_t to = param->offset + param->elems < end ? param->offset + param->elems : end;
        if (from < to)
            status = hash_segment(engine, digest, id, bucket, from, from - param->offset, to - from);
    }
    return status;
}

/* Frozen parameters are whole on every rank: rank 0 speaks for them. */
static void hash_frozen(const sherd_engine *engine, digest *digest, uint32_t id)
{
    const sherd__plan_param *param = &engine->plan->params[id];
    const void *stored = sherd__at(engine->params.local, param->param_offset);
    float block[SHERD__BLOCK_ELEMS];

    for (int64_t first = 0; first < param->elems; first += SHERD__BLOCK_ELEMS) {
        int64_t n = param->elems - first < SHERD__BLOCK_ELEMS ? param->elems - first : SHERD__BLOCK_ELEMS;
        for (int64_t i = 0; i < n; i++)
            block[i] = param->dtype == SHERD_FP32 ? ((const float *)stored)[first + i]
                                                  : sherd__f32_of_bf16(((const uint16_t *)stored)[first + i]);
        add_values(digest, id, 0, first, block, n);
    }
}

sherd_status sherd_engine_hash(sherd_engine *engine, uint8_t param_hash[16], uint8_t state_hash[16], sherd_error *err)
{
    digest digest = {{0, 0}, {0, 0}};
    uint64_t *limbs = engine->block->vote;
    sherd_status status = sherd__engine_idle(engine, "sherd_engine_hash", err);

    if (status != SHERD_OK)
        return status;
    for (uint32_t b = 0; status == SHERD_OK && b < engine->plan->n_buckets; b++)
        status = hash_bucket(engine, &digest, &engine->plan->buckets[b]);
    if (status != SHERD_OK)
        return sherd__engine_check(engine, status, err);
    for (uint32_t p = 0; engine->rank == 0 && p < engine->plan->n_params; p++)
        if (engine->plan->params[p].bucket < 0)
            hash_frozen(engine, &digest, p);
    sherd__hash_to_limbs(digest.param, limbs);
    sherd__hash_to_limbs(digest.state, limbs + 4);
    status = engine->comm->ops->all_reduce(engine->comm, engine->stream[SHERD__COMM],
                                           sherd__engine_tag(engine, "hash", -1), limbs, 8, 0);
    status = sherd__engine_check(engine, status, err);
    if (status == SHERD_OK)
        status = sherd__engine_sync(engine, SHERD__COMM, "hash sync", err);
    if (status == SHERD_OK)
        status = sherd__engine_touch(engine, "hash", limbs, 8 * sizeof *limbs, 0, err);
    if (status != SHERD_OK)
        return status;
    if (param_hash)
        sherd__hash_bytes(sherd__hash_from_limbs(limbs), param_hash);
    if (state_hash)
        sherd__hash_bytes(sherd__hash_from_limbs(limbs + 4), state_hash);
    return SHERD_OK;
}
