/* SPDX-License-Identifier: MIT
 *
 * Ranks that must hold the same and do not: which thing it is, and who is alone with it. Every rank tells digests of
 * eight parts at a time, so that a thing among a million is found by seven exchanges; all see the same lines and take
 * the same way.
 */
#include "engine/agree.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"

enum { PARTS = SHERD__SCRATCH_BYTES_PER_RANK / sizeof(uint64_t), FIELDS = 1024 };

static uint64_t told(const sherd_engine *engine, int32_t rank, uint32_t word)
{
    uint64_t value;
    memcpy(&value, engine->scratch_host + (size_t)rank * SHERD__SCRATCH_BYTES_PER_RANK + word * sizeof value,
           sizeof value);
    return value;
}

/* Who tells otherwise than most: the first such rank. Without a majority the first that is not as rank 0, and *alone is
 * 0. */
static int32_t odd_one(const sherd_engine *engine, uint32_t word, int32_t *alone)
{
    int32_t most = 0;

    for (int32_t r = 0; r < engine->world && !*alone; r++) {
        int32_t same = 0;
        for (int32_t s = 0; s < engine->world; s++)
            same += told(engine, s, word) == told(engine, r, word);
        *alone = 2 * same > engine->world;
        most = *alone ? r : 0;
    }
    for (int32_t r = 0; r < engine->world; r++)
        if (told(engine, r, word) != told(engine, most, word))
            return r;
    return -1;
}

/* Of the last exchange: 0 if all ranks told the same word. */
static int differ(const sherd_engine *engine, uint32_t word, sherd__difference *out)
{
    int32_t alone = 0;
    int32_t odd = odd_one(engine, word, &alone);

    if (odd < 0)
        return 0;
    out->odd = odd;
    out->alone = alone;
    out->other = 0;
    while (told(engine, out->other, word) == told(engine, odd, word))
        out->other++;
    for (int32_t r = out->other; alone && r < engine->world; r++) /* one of the majority */
        if (told(engine, r, word) != told(engine, odd, word)) {
            out->other = r;
            break;
        }
    return 1;
}

sherd_status sherd__engine_difference(sherd_engine *engine, uint32_t n, sherd__digest_fn digest, void *ctx,
                                      sherd__difference *out, sherd_error *err)
{
    uint32_t begin = 0, end = n;

    *out = (sherd__difference){.index = n, .odd = -1, .other = -1};
    while (begin < end) {
        uint32_t step = (end - begin + PARTS - 1) / PARTS, part = 0;
        uint64_t line[PARTS] = {0};
        sherd_status status;

        for (uint32_t i = 0; i < PARTS && begin + i * step < end; i++)
            line[i] = digest(ctx, begin + i * step, end - begin - i * step < step ? end : begin + (i + 1) * step);
        status = sherd__engine_exchange(engine, line, sizeof line, err);
        if (status != SHERD_OK)
            return status;
        while (part < PARTS && !differ(engine, part, out))
            part++;
        if (part == PARTS)
            return SHERD_OK;
        begin += part * step;
        end = end - begin < step ? end : begin + step;
        if (step == 1)
            break;
    }
    out->index = begin;
    return SHERD_OK;
}

/* Word `word` of the last exchange, whose values read as `field` says. */
static sherd_status fail_values(const sherd_engine *engine, const char *what, uint32_t word,
                                const sherd__plan_field *field, sherd_error *err)
{
    sherd__difference who = {.odd = -1};
    char there[32], here[32];

    if (!differ(engine, word, &who))
        return SHERD_OK;
    sherd__plan_value_text(field, told(engine, who.odd, word), there, sizeof there);
    sherd__plan_value_text(field, told(engine, who.other, word), here, sizeof here);
    return sherd__fail_rank(err, SHERD_EMISMATCH, who.alone ? who.odd : -1,
                            "%s is %s on rank %" PRId32 " and %s on rank %" PRId32, what, there, who.odd, here,
                            who.other);
}

/* ------------------------------------------------------------------------------------------------------------- plans
 */

static uint64_t fields_digest(void *ctx, uint32_t begin, uint32_t end)
{
    return sherd__plan_fields_digest(ctx, begin, end);
}

static uint64_t params_digest(void *ctx, uint32_t begin, uint32_t end)
{
    return sherd__plan_params_digest(ctx, begin, end);
}

static sherd_status fail_field(sherd_engine *engine, uint32_t index, sherd_error *err)
{
    sherd__plan_field field;
    sherd_status status;

    sherd__plan_field_at(engine->plan, index, &field);
    status = sherd__engine_exchange(engine, &field.bits, sizeof field.bits, err);
    return status == SHERD_OK ? fail_values(engine, field.name, 0, &field, err) : status;
}

/* What is written about a parameter fits a line. */
static sherd_status fail_param(sherd_engine *engine, uint32_t id, sherd_error *err)
{
    static const char *const names[PARTS] = {"number of elements",
                                             "number of dimensions",
                                             "type",
                                             "gradient's type",
                                             "group",
                                             "number of uses",
                                             "flags",
                                             "name or shape (its digest)"};
    const sherd__plan_param *param = &engine->plan->params[id];
    uint64_t line[PARTS] = {
        (uint64_t)param->elems, param->ndim, param->dtype, param->grad_dtype,
        param->group,           param->uses, param->flags, sherd__plan_params_digest(engine->plan, id, id + 1)};
    sherd_status status = sherd__engine_exchange(engine, line, sizeof line, err);

    for (uint32_t i = 0; status == SHERD_OK && i < PARTS; i++) {
        const sherd__plan_field type = {.choices = "fp32|bf16|fp16"}, number = {.choices = NULL};
        char what[320];
        snprintf(what, sizeof what, "the %s of parameter %" PRIu32 " ('%.200s')", names[i], id, param->name);
        status = fail_values(engine, what, i, strstr(names[i], "type") ? &type : &number, err);
    }
    return status;
}

/* The sentence of what differs gets its frame. */
static sherd_status frame(const sherd__difference *who, const sherd_error *what, sherd_error *err)
{
    return sherd__fail_rank(err, SHERD_EMISMATCH, who->alone ? who->odd : -1,
                            "rank %" PRId32 " holds another plan than rank %" PRId32
                            ": %.300s; give every rank the same configuration, parameters and world",
                            who->odd, who->other, what->text);
}

sherd_status sherd__engine_compare_plans(sherd_engine *engine, sherd_error *err)
{
    sherd_plan *plan = (sherd_plan *)(uintptr_t)engine->plan; /* read only: digests take a context */
    sherd_error what = {SHERD_OK, -1, "its buckets are others"};
    sherd__difference who = {.odd = -1}, found;
    sherd_status status = sherd__engine_exchange(engine, plan->hash, sizeof plan->hash, err);

    if (status != SHERD_OK || (!differ(engine, 0, &who) && !differ(engine, 1, &who)))
        return status;
    status = sherd__engine_difference(engine, FIELDS, fields_digest, plan, &found, err);
    if (status != SHERD_OK)
        return status;
    if (found.index < FIELDS) {
        status = fail_field(engine, found.index, &what);
    } else {
        status = sherd__engine_difference(engine, plan->n_params, params_digest, plan, &found, err);
        if (status == SHERD_OK && found.index < plan->n_params)
            status = fail_param(engine, found.index, &what);
    }
    return status == SHERD_OK || status == SHERD_EMISMATCH ? frame(&who, &what, err) : sherd__pass(err, &what);
}

/* -------------------------------------------------------------------------------------------------------------- steps
 */

uint64_t sherd__engine_spoken_digest(const sherd_engine *engine)
{
    uint8_t hash[16];
    uint64_t digest;

    sherd__hash_plain(engine->spoken, sizeof engine->spoken, hash);
    memcpy(&digest, hash, sizeof digest);
    return digest ? digest : 1;
}

sherd_status sherd__engine_fail_spoken(sherd_engine *engine, sherd_error *err)
{
    static const char *const names[SHERD__SPOKEN] = {"the number of micro-steps", "the number of the step",
                                                     "the number of updates so far", "the loss scale"};
    sherd_error what = {SHERD_OK, -1, "no more is known"};
    sherd_status status = sherd__engine_exchange(engine, engine->spoken, sizeof engine->spoken, err);

    if (status != SHERD_OK)
        return status;
    for (uint32_t i = 0; status == SHERD_OK && i < SHERD__SPOKEN; i++)
        status = fail_values(engine, names[i], i, &(sherd__plan_field){.real = i == 3}, &what);
    return sherd__fail_rank(err, SHERD_EMISMATCH, what.rank,
                            "step %" PRId64 ": ranks disagree on where they are: %.300s; nothing was updated; make the "
                                            "same calls (sherd_micro_last too) on "
                            "every rank",
                            (int64_t)engine->spoken[1], what.text);
}
