/* SPDX-License-Identifier: MIT
 *
 * A case as one rank of the engine trains it, and as the oracle does.
 */
#include "tests/engine/case_api.h"
#include "tests/engine/case_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/half.h"
#include "base/hash.h"
#include "tests/support/leaves.h"

static sherd_status bring_gradient(const engine_case *c, sherd_engine *engine, int64_t step, int64_t micro, uint32_t p,
                                   uint32_t use, int64_t n, void *scratch)
{
    sherd_grad grad;
    sherd_status status;

    case_use_leaf(c, step, micro, p, use, n, scratch);
    if (c->copy_grads)
        return sherd_grad_copy(engine, p, scratch, case_grad_dtype(c, p));
    status = sherd_grad_acquire(engine, p, &grad);
    if (status != SHERD_OK)
        return status;
    if (grad.beta != (int32_t)use)
        return SHERD_EINVAL;
    if (grad.beta)
        case_add_use(grad.dtype, n, grad.data, scratch);
    else if (n)
        memcpy(grad.data, scratch, (size_t)n * sherd_dtype_bytes(grad.dtype));
    return sherd_grad_ready(engine, p);
}

static sherd_status read_all(sherd_engine *engine)
{
    for (uint32_t p = 0; p < CASE_PARAMS; p++) {
        const void *data;
        sherd_status status = sherd_param_acquire(engine, p, &data);
        if (status == SHERD_OK)
            status = sherd_param_release(engine, p);
        if (status != SHERD_OK)
            return status;
    }
    return SHERD_OK;
}

/* What a data loader or a shell does: a child that touches nothing of the engine, and ends. */
static sherd_status fork_once(void)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0 ? SHERD_OK : SHERD_ESYSTEM;
}

/* One attempt at a micro-step. *closed 1: it is to be closed by sherd_engine_step; 0: it was discarded. */
typedef struct attempt {
    int64_t number; /* within the step */
    int32_t rank;
    int closed;
    sherd_micro micro;
} attempt;

/* Void gradients: of another seed, and one more acquired than ready. */
static sherd_status discard_micro(const engine_case *c, sherd_engine *engine, const sherd_param *params,
                                  const attempt *a, const uint32_t *order, uint32_t uses, void *scratch)
{
    uint32_t used[CASE_PARAMS] = {0};
    engine_case other = *c;
    sherd_status status = SHERD_OK;
    sherd_grad grad;

    other.seed += 4711;
    other.bad_step = a->number == 1 ? a->micro.step : 0;
    for (uint32_t i = 0; status == SHERD_OK && i < uses; i++)
        status = bring_gradient(&other, engine, a->micro.step, a->micro.number, order[i], used[order[i]]++,
                                case_elems(&params[order[i]]), scratch);
    if (status == SHERD_OK && uses > 0 && uses < CASE_PARAMS - 3 && a->number % 2)
        status = sherd_grad_acquire(engine, order[uses], &grad);
    return status == SHERD_OK ? sherd_micro_discard(engine, NULL) : status;
}

static sherd_status bring_all(const engine_case *c, sherd_engine *engine, const sherd_param *params, const attempt *a,
                              const uint32_t *order, uint32_t n, void *scratch)
{
    uint32_t uses[CASE_PARAMS] = {0};
    sherd_status status = SHERD_OK;

    for (uint32_t i = 0; status == SHERD_OK && i < n; i++) {
        const void *data; /* backward reads the weights it is about to leave */
        status = c->blind ? SHERD_OK : sherd_param_acquire(engine, order[i], &data);
        if (status == SHERD_OK)
            status = bring_gradient(c, engine, a->micro.step, a->micro.number, order[i], uses[order[i]]++,
                                    case_elems(&params[order[i]]), scratch);
        if (status == SHERD_OK && !c->blind)
            status = sherd_param_release(engine, order[i]);
    }
    return status;
}

static sherd_status run_micro(const engine_case *plain, sherd_engine *engine, const sherd_param *params, attempt *a,
                              void *scratch)
{
    engine_case scaled = *plain;
    const engine_case *c = &scaled;
    uint32_t order[CASE_PARAMS + 1], n, after;
    sherd_status status = sherd_micro_begin(engine, &a->micro);
    int64_t micros = case_micros(c, a->micro.step);

    scaled.scale = sherd_engine_loss_scale(engine);
    if (status == SHERD_OK && a->micro.index == micros - 1 && micros < c->accumulation)
        status = sherd_micro_last(engine, NULL);
    if (status == SHERD_OK && !c->blind)
        status = read_all(engine);
    if (status == SHERD_OK && c->fork_at == a->micro.step && a->micro.index == 0)
        status = fork_once();
    if (status != SHERD_OK)
        return status;
    n = case_arrival_order(c, a->micro.step, a->micro.number, order);
    a->closed = !case_discards(c, a->micro.step, a->number, a->rank, n, &after);
    if (!a->closed)
        status = discard_micro(c, engine, params, a, order, after, scratch);
    else
        status = bring_all(c, engine, params, a, order, n, scratch);
    if (status == SHERD_OK && c->evaluate && !a->closed)
        status = read_all(engine);
    return status;
}

/* A report may be the former step's, and the first may be none. */
static void record(case_result *out, const sherd_report *report)
{
    int64_t step = report->step - 1;
    if (step < 0)
        return;
    out->norm[step] = report->grad_norm;
    out->loss_scale[step] = report->loss_scale;
    out->skipped[step] = report->skipped;
    if (report->skipped)
        out->bad_param = report->bad_param;
    out->updates = report->updates;
    out->parked = report->parked;
    if (step == 0)
        out->parked_first = report->parked;
    out->speculated = report->speculated;
    out->missed = report->speculation_missed;
}

/* Where the plan put the state, and who worked on it. */
static void note_places(const sherd_plan *plan, sherd_engine *engine, case_result *out)
{
    char text[4096] = "";
    const char *threads;

    for (uint32_t b = 0; b < sherd_plan_buckets(plan); b++) {
        sherd_bucket_info info;
        if (sherd_plan_bucket(plan, b, &info) == SHERD_OK)
            out->buckets[info.tier]++;
    }
    sherd_engine_offload_text(engine, text, sizeof text);
    threads = strstr(text, "threads ");
    if (threads && sscanf(threads, "threads %d on %d", &out->threads, &out->nodes) != 2)
        out->threads = out->nodes = -1;
}

static int memory_matches(sherd_device *device, const sherd_plan *plan, int32_t rank)
{
    sherd_memory live, planned;

    sherd_device_memory(device, &live, NULL);
    if (sherd_plan_memory(plan, rank, &planned) != SHERD_OK)
        return 0;
    for (int t = 0; t < SHERD_TIERS; t++)
        for (int category = 0; category < SHERD_CATEGORIES; category++)
            if (sherd_category_planned((sherd_category)category) &&
                live.bytes[t][category] != planned.bytes[t][category]) {
                fprintf(stderr, "%s: ledger %llu, plan %llu\n", sherd_category_name((sherd_category)category),
                        (unsigned long long)live.bytes[t][category], (unsigned long long)planned.bytes[t][category]);
                return 0;
            }
    return 1;
}

/* Two sums in a row, with nothing between them but the reading of the first. */
static sherd_status sum_twice(const engine_case *c, sherd_engine *engine, int32_t rank, case_result *out)
{
    for (int32_t times = 1; times <= 2; times++) {
        double value = (double)times * (rank + 1), expected = (double)times * c->world * (c->world + 1) / 2;
        sherd_status status = sherd_engine_sum(engine, &value, &out->error);
        if (status != SHERD_OK)
            return status;
        if (value != expected) {
            snprintf(out->error.text, sizeof out->error.text, "sherd_engine_sum: %g, not %g", value, expected);
            return out->error.status = SHERD_EMISMATCH;
        }
    }
    return SHERD_OK;
}

/* Host devices only: the working copy of a 16-bit parameter is its master, narrowed. */
static sherd_status working_copy_matches(sherd_engine *engine, const sherd_param *param, uint32_t p,
                                         const float *master, case_result *out)
{
    const void *data;
    sherd_status status = sherd_param_acquire(engine, p, &data);
    int64_t wrong = 0;

    if (status != SHERD_OK)
        return status;
    if (param->dtype == SHERD_FP32)
        wrong = case_elems(param) && memcmp(data, master, (size_t)case_elems(param) * sizeof *master) != 0;
    for (int64_t i = 0; param->dtype != SHERD_FP32 && i < case_elems(param); i++)
        wrong += ((const uint16_t *)data)[i] !=
                 (param->dtype == SHERD_BF16 ? sherd__bf16_of_f32(master[i]) : sherd__f16_of_f32(master[i]));
    status = sherd_param_release(engine, p);
    if (status == SHERD_OK && wrong) {
        snprintf(out->error.text, sizeof out->error.text, "'%s': %lld values are not their masters' narrowing",
                 param->name, (long long)wrong);
        status = out->error.status = SHERD_EMISMATCH;
    }
    return status;
}

/* The masters as they are read have the digest that the engine says. */
static sherd_status read_back(const engine_case *c, sherd_engine *engine, const sherd_param *params, uint32_t n,
                              case_result *out)
{
    sherd__hash_sum sum = {0, 0};
    uint8_t digest[16];

    for (uint32_t p = 0; p < n; p++) {
        int64_t elems = case_elems(&params[p]);
        float *values = calloc((size_t)elems + 1, sizeof *values);
        sherd_status status = sherd_param_read(engine, p, values, &out->error);
        if (status == SHERD_OK)
            sherd__hash_add(&sum, p, 0, 0, values, elems);
        if (status == SHERD_OK && (c->load_from || c->borrow))
            status = working_copy_matches(engine, &params[p], p, values, out);
        free(values);
        if (status != SHERD_OK)
            return status;
    }
    sherd__hash_bytes(sum, digest);
    if (memcmp(digest, out->param_hash, sizeof digest) == 0)
        return SHERD_OK;
    snprintf(out->error.text, sizeof out->error.text, "sherd_param_read does not give what sherd_engine_hash digests");
    return out->error.status = SHERD_EMISMATCH;
}

/* Micro-steps until one closes the step. */
static sherd_status run_step(const engine_case *c, sherd_engine *engine, const sherd_param *params, int32_t rank,
                             void *scratch, sherd_report *report, case_result *out)
{
    attempt a = {.rank = rank};
    sherd_status status = SHERD_OK;
    int over = 0;

    for (; status == SHERD_OK && !over; a.number++) {
        status = run_micro(c, engine, params, &a, scratch);
        if (status == SHERD_OK)
            status = case_set_rates(c, engine, rank, a.micro.step, a.micro.index);
        if (status == SHERD_OK && a.closed)
            status = sherd_engine_step(engine, report, &out->error);
        else if (status != SHERD_OK)
            sherd_engine_error(engine, &out->error);
        if (status == SHERD_OK && c->evaluate)
            status = read_all(engine);
        over = a.closed && a.micro.index == case_micros(c, a.micro.step) - 1;
        out->discarded += !a.closed;
        out->restarted += !a.closed && a.micro.index > 0;
    }
    return status;
}

static sherd_status train(const engine_case *c, sherd_engine *engine, const sherd_param *params, uint32_t n,
                          int32_t rank, void *scratch, case_result *out)
{
    sherd_status status = SHERD_OK;
    sherd_report report;

    sherd_report_init(&report, sizeof report);
    for (uint32_t p = 0; status == SHERD_OK && p < n; p++) {
        sherd_test_weights(c->seed + (c->load_from != NULL), p, case_elems(&params[p]), scratch);
        status = sherd_param_write(engine, p, scratch, &out->error);
    }
    if (status == SHERD_OK && c->load_from)
        status = sherd_engine_load(engine, c->load_from, NULL, &out->error);
    for (int64_t s = c->load_from ? c->first : 0; status == SHERD_OK && s < c->steps; s++) {
        status = run_step(c, engine, params, rank, scratch, &report, out);
        if (status == SHERD_ESTATE && c->nonfinite == SHERD_NONFINITE_STOP && report.skipped) {
            out->stops++;
            status = SHERD_OK;
        }
        if (status == SHERD_OK)
            record(out, &report);
        if (status == SHERD_OK && c->save_to && s + 1 == c->save_at)
            status = sherd_engine_save(engine, c->save_to, NULL, &out->error);
    }
    if (status == SHERD_OK && !c->leave_early) {
        status = sherd_engine_wait(engine, &out->error);
        sherd_engine_report(engine, &report);
        record(out, &report);
    }
    if (status == SHERD_OK && !c->leave_early)
        status = sum_twice(c, engine, rank, out);
    if (status == SHERD_OK && !c->leave_early)
        status = sherd_engine_hash(engine, out->param_hash, out->state_hash, &out->error);
    if (status == SHERD_OK && c->borrow)
        status = case_check_borrowed(engine, params, n, out);
    if (status == SHERD_OK && c->ranges)
        status = case_state_ranges(sherd_engine_plan(engine), engine, params, n, rank, out);
    return status == SHERD_OK && c->read_back ? read_back(c, engine, params, n, out) : status;
}

static sherd_status host_bytes(const sherd_config *config, const sherd_param *params, uint32_t n, int32_t world,
                               uint64_t *out)
{
    sherd_memory memory = {.bytes = {{0}}};
    sherd_plan *plan = NULL;
    sherd_status status = sherd_plan_create(config, params, n, world, &plan, NULL);
    if (status == SHERD_OK)
        status = sherd_plan_memory(plan, 0, &memory);
    sherd_plan_destroy(plan);
    *out = sherd_memory_total(&memory, SHERD_TIER_HOST);
    return status;
}

/* A budget of host memory half-way between all that is offloaded there, and all of it on disk. */
static sherd_status halve_host(const sherd_param *params, uint32_t n, int32_t world, sherd_config *config)
{
    uint64_t most = 0, least = 0;
    sherd_status status;

    config->offload.speculate = 0;
    status = host_bytes(config, params, n, world, &most);
    config->offload.tier = SHERD_TIER_DISK;
    if (status == SHERD_OK)
        status = host_bytes(config, params, n, world, &least);
    config->offload.tier = SHERD_TIER_HOST;
    config->offload.host_memory_budget = (int64_t)(least < most   ? least + (most - least) / 2
                                                   : least > most ? most
                                                                  : least);
    return status;
}

void case_run_rank(const engine_case *c, sherd_device *device, sherd_comm *comm, case_result *out)
{
    sherd_param params[16];
    sherd_config config;
    sherd_plan *plan = NULL;
    sherd_engine *engine = NULL;
    uint32_t n;
    void *scratch = malloc(1 << 20);
    unsigned char *lent;

    memset(out, 0, sizeof *out);
    out->bad_param = -1;
    case_params(c, params, &n);
    lent = c->borrow ? malloc(case_borrow(params, n, NULL)) : NULL;
    if (lent)
        case_borrow(params, n, lent);
    out->status = case_config(c, &config, &out->error);
    if (out->status == SHERD_OK && c->disk == 2) {
        out->status = halve_host(params, n, c->world, &config);
        config.offload.speculate = c->speculate;
    }
    if (out->status == SHERD_OK)
        out->status = sherd_plan_create(&config, params, n, c->world, &plan, &out->error);
    if (out->status == SHERD_OK)
        out->status = sherd_engine_create(plan, device, comm, &engine, &out->error);
    if (out->status == SHERD_OK)
        out->status = train(c, engine, params, n, sherd_comm_rank(comm), scratch, out);
    if (out->status == SHERD_OK)
        note_places(sherd_engine_plan(engine), engine, out);
    if (out->status == SHERD_OK)
        out->memory_matches = memory_matches(device, sherd_engine_plan(engine), sherd_comm_rank(comm));
    if (out->status == SHERD_OK)
        out->replanned = sherd_engine_plan(engine) != plan;
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
    free(scratch);
    free(lent);
}

void case_run_oracle(const engine_case *c, sherd_oracle_fault fault, case_result *out)
{
    sherd_param params[16];
    sherd_config config;
    sherd_oracle *oracle;
    sherd_oracle_report report;
    uint32_t n;
    float *weights = malloc(1 << 20);

    memset(out, 0, sizeof *out);
    out->bad_param = -1;
    case_params(c, params, &n);
    out->status = case_config(c, &config, &out->error);
    oracle = sherd_oracle_create(&config, params, n, c->world);
    sherd_oracle_break(oracle, fault);
    for (uint32_t p = 0; p < n; p++) {
        sherd_test_weights(c->seed, p, case_elems(&params[p]), weights);
        sherd_oracle_write(oracle, p, weights);
    }
    for (int64_t s = 0; s < c->steps; s++) {
        engine_case copy = *c;
        copy.scale = sherd_oracle_scale(oracle);
        case_set_rates_oracle(c, oracle, s + 1);
        sherd_oracle_set_micros(oracle, case_micros(c, s + 1));
        sherd_oracle_step(oracle, sherd_config_lr(&config, sherd_oracle_updates(oracle)), case_oracle_leaf, &copy,
                          &report);
        out->norm[s] = report.norm;
        out->loss_scale[s] = report.loss_scale;
        out->skipped[s] = report.skipped;
        if (report.skipped)
            out->bad_param = report.bad_param;
        out->updates = report.updates;
    }
    sherd_oracle_hash(oracle, out->param_hash, out->state_hash);
    sherd_oracle_destroy(oracle);
    free(weights);
}
