/* SPDX-License-Identifier: MIT */
#include "tests/engine/case_api.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "tests/engine/case_parts.h"
#include "tests/support/leaves.h"

/* NaN: left alone. */
typedef struct rate_change {
    int64_t step;
    uint32_t group;
    double lr, weight_decay;
} rate_change;

static const rate_change changes[] = {
    {2, 0, 1.7e-2, NAN},
    {2, 1, NAN, 0.3},
    {3, 1, 5e-4, NAN},
    {4, 0, SHERD_AS_CONFIGURED, 0.0},
    {5, 0, 0.0, SHERD_AS_CONFIGURED},
};

sherd_status case_set_rates(const engine_case *c, sherd_engine *engine, int32_t rank, int64_t step, int64_t k)
{
    sherd_status status = SHERD_OK;

    for (size_t i = 0; i < sizeof changes / sizeof *changes && c->rates; i++) {
        const rate_change *change = &changes[i];
        if (change->step != step || k != (int64_t)i % c->accumulation)
            continue;
        if (status == SHERD_OK && !isnan(change->lr))
            status = sherd_engine_set_lr(engine, change->group, rank ? 0.25 * rank : change->lr, NULL);
        if (status == SHERD_OK && !isnan(change->weight_decay))
            status = sherd_engine_set_weight_decay(engine, change->group, rank ? 0.5 : change->weight_decay, NULL);
    }
    return status;
}

static double after(double now, double change)
{
    return isnan(change) ? now : change == SHERD_AS_CONFIGURED ? NAN : change;
}

void case_set_rates_oracle(const engine_case *c, sherd_oracle *oracle, int64_t step)
{
    double lr[2] = {NAN, NAN}, decay[2] = {NAN, NAN};

    for (size_t i = 0; i < sizeof changes / sizeof *changes && c->rates; i++)
        if (changes[i].step <= step) {
            lr[changes[i].group] = after(lr[changes[i].group], changes[i].lr);
            decay[changes[i].group] = after(decay[changes[i].group], changes[i].weight_decay);
        }
    for (uint32_t group = 0; group < 2 && c->rates; group++)
        sherd_oracle_set_group(oracle, group, lr[group], decay[group]);
}

int64_t case_micros(const engine_case *c, int64_t step)
{
    return c->early ? 1 + (int64_t)((c->seed + (uint64_t)step) % (uint64_t)c->accumulation) : c->accumulation;
}

int case_discards(const engine_case *c, int64_t step, int64_t attempt, int32_t rank, uint32_t uses, uint32_t *after)
{
    uint64_t drawn = sherd_test_mix(c->seed, (uint64_t)step, (uint64_t)attempt, 77, 1);
    uint64_t own = sherd_test_mix(c->seed, (uint64_t)step, (uint64_t)attempt, (uint64_t)rank, 2);

    *after = drawn / 8 % 3 == 0 ? 0 : drawn / 8 % 3 == 1 ? uses : (uint32_t)(own % (uses + 1));
    return c->discard && attempt < 5 && drawn % 2 == 0;
}

size_t case_borrow(sherd_param *params, uint32_t n, unsigned char *block)
{
    size_t used = 0;
    for (uint32_t p = 0; p < n; p++) {
        if (p % 2 == 1 && params[p].flags == 0)
            continue; /* but frozen ones are lent too */
        if (block)
            params[p].storage = block + used;
        used += (size_t)case_elems(&params[p]) * sherd_dtype_bytes(params[p].dtype) + 4;
        used -= used % 4;
    }
    return used;
}

static sherd_status wrong(case_result *out, const char *name, uint32_t which, const char *what)
{
    snprintf(out->error.text, sizeof out->error.text, "'%s', state %u: %s", name, which, what);
    return out->error.status = SHERD_EMISMATCH;
}

sherd_status case_check_borrowed(sherd_engine *engine, const sherd_param *params, uint32_t n, case_result *out)
{
    sherd_status status = SHERD_OK;
    uint32_t lent = 0;

    for (uint32_t p = 0; status == SHERD_OK && p < n; p++) {
        const void *data;
        status = sherd_param_acquire(engine, p, &data);
        if (status == SHERD_OK && params[p].storage && case_elems(&params[p]) > 0 && data != params[p].storage)
            status = wrong(out, params[p].name, 0, "the client's memory is not what it reads");
        lent += params[p].storage && data == params[p].storage;
        if (status == SHERD_OK)
            status = sherd_param_release(engine, p);
    }
    return status == SHERD_OK && lent < 3 ? wrong(out, "all", lent, "too few are lent") : status;
}

static sherd_status read_pieces(sherd_engine *engine, uint32_t p, uint32_t which, int64_t elems, float *values,
                                case_result *out)
{
    sherd_status status = SHERD_OK;
    int64_t n = 1;

    for (int64_t i = 0; status == SHERD_OK && i < elems; i += n, n = n * 5 + 3) {
        n = n < elems - i ? n : elems - i;
        status = sherd_state_read(engine, p, which, i, n, values + i, &out->error);
    }
    return status;
}

static sherd_status own_part(const sherd_plan *plan, sherd_engine *engine, const sherd_param *param, uint32_t p,
                             uint32_t which, int32_t rank, const float *values, case_result *out)
{
    int64_t first = -1, count = -1, elems = case_elems(param);
    float *own = malloc((size_t)elems * sizeof *own + 1), none;
    sherd_status status = sherd_plan_own(plan, p, rank, &first, &count);

    if (status == SHERD_OK && count > 0)
        status = sherd_state_read_own(engine, p, which, first, count, own, &out->error);
    if (status == SHERD_OK && count > 0 && memcmp(own, values + first, (size_t)count * sizeof *own) != 0)
        status = wrong(out, param->name, which, "the own part is not what all ranks read");
    free(own);
    if (status != SHERD_OK || count == elems)
        return status;
    if (sherd_state_read_own(engine, p, which, first > 0 ? first - 1 : first + count, 1, &none, NULL) != SHERD_EINVAL)
        return wrong(out, param->name, which, "another rank's element was read as the own");
    return SHERD_OK;
}

/* Elements [elems / 3, elems / 3 + n) get other values and then their old ones back. */
static sherd_status write_and_restore(sherd_engine *engine, const sherd_param *param, uint32_t p, uint32_t which,
                                      int32_t rank, const float *values, case_result *out)
{
    int64_t elems = case_elems(param), first = elems / 3, n = elems / 2;
    float *other = malloc((size_t)elems * sizeof *other + 1), *got = malloc((size_t)elems * sizeof *got + 1);
    sherd_status status;

    memcpy(other, values, (size_t)elems * sizeof *other);
    for (int64_t i = first; i < first + n; i++)
        other[i] = (float)(i % 200 + which) * 0.5f; /* exact in bf16, as moments may be */
    status = sherd_state_write(engine, p, which, first, n, rank ? NULL : other + first, &out->error);
    if (status == SHERD_OK)
        status = sherd_state_read(engine, p, which, 0, elems, got, &out->error);
    if (status == SHERD_OK && memcmp(got, other, (size_t)elems * sizeof *got) != 0)
        status = wrong(out, param->name, which, "what was written is not what is read");
    if (status == SHERD_OK)
        status = sherd_state_write(engine, p, which, first, n, rank ? NULL : values + first, &out->error);
    free(other);
    free(got);
    return status;
}

static sherd_status one_state(const sherd_plan *plan, sherd_engine *engine, const sherd_param *param, uint32_t p,
                              uint32_t which, int32_t rank, sherd__hash_sum *sum, case_result *out)
{
    int64_t elems = case_elems(param);
    float *values = malloc((size_t)elems * sizeof *values + 1);
    sherd_status status = read_pieces(engine, p, which, elems, values, out);

    if (status == SHERD_OK)
        sherd__hash_add(sum, p, (uint8_t)which, 0, values, elems);
    if (status == SHERD_OK && !(param->flags & SHERD_PARAM_FROZEN) && elems > 0) {
        status = own_part(plan, engine, param, p, which, rank, values, out);
        if (status == SHERD_OK)
            status = write_and_restore(engine, param, p, which, rank, values, out);
    }
    free(values);
    return status;
}

sherd_status case_state_ranges(const sherd_plan *plan, sherd_engine *engine, const sherd_param *params, uint32_t n,
                               int32_t rank, case_result *out)
{
    sherd__hash_sum sum = {0, 0};
    uint8_t digest[16], again[16];
    sherd_status status = SHERD_OK;
    uint32_t states = 0;

    for (uint32_t p = 0; status == SHERD_OK && p < n; p++)
        for (uint32_t which = 0; status == SHERD_OK && sherd_plan_state(plan, which); which++, states++) {
            if (sherd_plan_param_state(plan, p, which))
                status = one_state(plan, engine, &params[p], p, which, rank, &sum, out);
            else if (sherd_state_read(engine, p, which, 0, 0, NULL, NULL) != SHERD_EINVAL)
                status = wrong(out, params[p].name, which, "a state that it has not (a frozen parameter's moment) was read");
        }
    sherd__hash_bytes(sum, digest);
    if (status == SHERD_OK)
        status = sherd_engine_hash(engine, NULL, again, &out->error);
    if (status == SHERD_OK && (states < 2 * n || memcmp(digest, out->state_hash, 16) != 0))
        status = wrong(out, "all", states, "state read by ranges has not the engine's digest");
    if (status == SHERD_OK && memcmp(again, out->state_hash, 16) != 0)
        status = wrong(out, "all", states, "state written back has another digest");
    return status;
}
