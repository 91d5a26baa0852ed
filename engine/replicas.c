/* SPDX-License-Identifier: MIT
 *
 * sherd.check_replicas: after a step all ranks' working copies of the parameters must have the same bits, whoever
 * computed them. Each rank digests its own; where they differ the first parameter is looked for, and the rank that is
 * alone with it.
 */
#include <inttypes.h>
#include <string.h>

#include "base/hash.h"
#include "engine/agree.h"
#include "engine/checkpoint.h"

typedef struct reader {
    sherd_engine *engine;
    sherd_status status;
    sherd_error err;
} reader;

static uint64_t mix(uint64_t digest, const void *data, uint64_t bytes)
{
    uint8_t hash[16];
    uint64_t low;

    sherd__hash_plain(data, bytes, hash);
    memcpy(&low, hash, sizeof low);
    return (digest ^ low) * UINT64_C(0x9E3779B97F4A7C15);
}

/* Where main memory is the device's it is read in place; else it passes through the stage. */
static uint64_t digest_bytes(reader *r, uint64_t digest, const void *data, uint64_t bytes)
{
    const uint64_t most = SHERD__STAGE_BYTES;
    int direct = r->engine->device->kind != SHERD_DEVICE_CUDA;

    if (direct) {
        r->status = sherd__engine_touch(r->engine, "replica check", data, bytes, 0, &r->err);
        return r->status == SHERD_OK ? mix(digest, data, bytes) : 0;
    }
    for (uint64_t at = 0; r->status == SHERD_OK && at < bytes; at += most) {
        uint64_t part = bytes - at < most ? bytes - at : most;
        r->status =
            sherd__checkpoint_lower(r->engine, sherd__values_of(sherd__at(data, at), SHERD_BF16), SHERD_BF16,
                                    (int64_t)(part / sizeof(uint16_t)), &r->err); /* as it is: two bytes at a time */
        digest = mix(digest, r->engine->stage, part);
    }
    return digest;
}

static uint64_t digest_params(void *ctx, uint32_t begin, uint32_t end)
{
    reader *r = ctx;
    const sherd_plan *plan = r->engine->plan;
    uint64_t digest = 1;

    for (uint32_t p = begin; r->status == SHERD_OK && p < end; p++) {
        const sherd__plan_param *param = &plan->params[p];
        uint64_t bytes = (uint64_t)param->elems * sherd_dtype_bytes(param->dtype);
        if (bytes)
            digest = digest_bytes(r, digest, sherd__at(r->engine->params.local, param->param_offset), bytes);
    }
    return digest;
}

static void sentence(const sherd_engine *engine, const sherd__difference *found, sherd_error *out)
{
    const char *name = engine->plan->params[found->index].name;
    int64_t step = engine->step - 1;

    if (found->alone)
        sherd__fail_rank(out, SHERD_EMISMATCH, found->odd,
                         "step %" PRId64 ": rank %" PRId32
                         " has another working copy of '%.200s' than most ranks; go back to a "
                         "checkpoint, and do not trust that rank's memory and processor",
                         step, found->odd, name);
    else if (engine->world == 2)
        sherd__fail(out, SHERD_EMISMATCH,
                    "step %" PRId64
                    ": ranks 0 and 1 have different working copies of '%.200s': one of the two is wrong; go back "
                    "to a checkpoint",
                    step, name);
    else
        sherd__fail(out, SHERD_EMISMATCH,
                    "step %" PRId64 ": ranks have different working copies of '%.200s', rank %" PRId32
                    " another than rank %" PRId32 ", and none that most have; go back to a checkpoint",
                    step, name, found->odd, found->other);
}

sherd_status sherd__engine_check_replicas(sherd_engine *engine, sherd_error *err)
{
    reader r = {.engine = engine, .status = SHERD_OK};
    sherd__difference found;
    sherd_status status = sherd__engine_difference(engine, engine->plan->n_params, digest_params, &r, &found, err);
    sherd_error error;

    if (r.status != SHERD_OK)
        return sherd__engine_check(engine, r.status, err);
    if (status != SHERD_OK || found.index == engine->plan->n_params)
        return status;
    sentence(engine, &found, &error);
    sherd__device_poison(engine->device, &error);
    return sherd__engine_health(engine, err);
}
