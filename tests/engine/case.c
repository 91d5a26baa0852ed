/* SPDX-License-Identifier: MIT */
#include "tests/engine/case.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/half.h"
#include "base/hash.h"
#include "tests/support/leaves.h"

enum { MATRIX, BIAS, SCALAR, EMPTY, ODD, FROZEN, TIED, UNUSED, LARGE, LAST, N_PARAMS };

static const struct {
    const char *name;
    uint32_t ndim;
    int64_t shape[3];
    uint32_t group, uses, flags;
} model[N_PARAMS] = {
    [MATRIX] = {"matrix", 2, {40, 50, 0}, 0, 1, 0}, [BIAS] = {"bias", 1, {50, 0, 0}, 1, 1, 0},
    [SCALAR] = {"scalar", 0, {0, 0, 0}, 1, 1, 0},   [EMPTY] = {"empty", 2, {0, 7, 0}, 0, 1, 0},
    [ODD] = {"odd", 3, {7, 13, 11}, 0, 1, 0},       [FROZEN] = {"frozen", 1, {300, 0, 0}, 0, 1, SHERD_PARAM_FROZEN},
    [TIED] = {"tied", 2, {30, 21, 0}, 0, 2, 0},     [UNUSED] = {"unused", 1, {77, 0, 0}, 1, 1, 0},
    [LARGE] = {"large", 2, {97, 61, 0}, 0, 1, 0},   [LAST] = {"last", 1, {513, 0, 0}, 1, 1, 0},
};

const char *case_name(const engine_case *c)
{
    static _Thread_local char text[280];
    static const char *const arrivals[] = {"backward", "shuffled", "forward"};
    snprintf(text, sizeof text,
             "world %d stage %d bucket %lld %s %s K %lld clip %g grad_sum %s overlap %d arrival %s tenths %d disk %d "
             "speculate %d workers %d seed %llu",
             c->world, c->stage, (long long)c->bucket,
             c->optimizer == SHERD_ADAMW  ? "AdamW"
             : c->optimizer == SHERD_ADAM ? "Adam"
                                          : "SGD",
             sherd_dtype_name(c->dtype), (long long)c->accumulation, c->clipping, c->grad_sum_bf16 ? "bf16" : "fp32",
             c->overlap, arrivals[c->arrival], c->tenths, c->disk, c->speculate, c->workers,
             (unsigned long long)c->seed);
    return text;
}

int case_at(uint32_t index, int32_t world, int64_t steps, int wide, engine_case *out)
{
    static const int64_t buckets[] = {1, 3000, (int64_t)1 << 40};
    static const sherd_optimizer optimizers[] = {SHERD_ADAMW, SHERD_SGD, SHERD_ADAM};
    static const int64_t accumulations[] = {1, 3};
    uint32_t n_optimizers = wide ? 3 : 2, n_accumulations = wide ? 2 : 1, n_sums = wide ? 2 : 1;
    uint32_t n_dtypes = wide ? 3 : 2;
    uint32_t i = index;

    memset(out, 0, sizeof *out);
    out->world = world;
    out->steps = steps;
    out->seed = 7 + world;
    out->clipping = 0.02;
    out->overlap = 1;
    out->stage = (int32_t)(i % 3);
    i /= 3;
    out->bucket = buckets[i % 3];
    i /= 3;
    out->dtype = (sherd_dtype)(i % n_dtypes);
    i /= n_dtypes;
    out->optimizer = optimizers[i % n_optimizers];
    i /= n_optimizers;
    out->accumulation = accumulations[i % n_accumulations];
    i /= n_accumulations;
    out->grad_sum_bf16 = (int32_t)(i % n_sums);
    i /= n_sums;
    out->arrival = wide ? (case_arrival)((index / 3 + index / 7) % 3) : ARRIVE_BACKWARD;
    out->copy_grads = wide && index % 5 == 4;
    out->overlap = !(wide && index % 11 == 10);
    out->bad_step = wide && index % 4 == 3 ? 2 : 0;
    return i == 0;
}

engine_case case_plain(int32_t world, uint32_t i, int64_t steps)
{
    engine_case c;
    memset(&c, 0, sizeof c);
    c.world = world;
    c.stage = (int32_t)(i % 3);
    c.bucket = i % 2 ? 1 : 3000;
    c.optimizer = (sherd_optimizer)(i / 3 % 3);
    c.dtype = i / 2 % 4 == 3 ? SHERD_FP32 : i % 5 == 2 ? SHERD_FP16 : SHERD_BF16;
    c.accumulation = i / 5 % 2 ? 3 : 1;
    c.steps = steps;
    c.clipping = 0.02;
    c.overlap = 1;
    c.grad_sum_bf16 = i / 4 % 2;
    c.bad_step = i / 3 % 2 ? 2 : 0;
    c.read_back = i % 4 == 0;
    c.seed = 11 + i;
    return c;
}

int case_offload_at(uint32_t index, int32_t world, int64_t steps, engine_case *out)
{
    uint32_t way = index % 4;
    *out = case_plain(world, index, steps);
    out->tenths = (int32_t)(index / 4);
    out->speculate = way == 1 || way == 3;
    out->disk = way == 2 ? 1 : way == 3 ? 2 : 0;
    out->workers = 1 + (int32_t)(index % 3);
    return out->tenths <= 10;
}

const sherd_param *case_params(const engine_case *c, sherd_param out[16], uint32_t *n)
{
    memset(out, 0, 16 * sizeof *out);
    for (int p = 0; p < N_PARAMS; p++) {
        out[p].name = model[p].name;
        out[p].ndim = model[p].ndim;
        memcpy(out[p].shape, model[p].shape, sizeof model[p].shape);
        out[p].dtype = out[p].grad_dtype = c->dtype;
        out[p].group = model[p].group;
        out[p].uses = model[p].uses;
        out[p].flags = model[p].flags;
    }
    if (c->tied_large) { /* registered just before LARGE: its bucket comes right after LARGE's */
        out[UNUSED].shape[0] = 90 * 61;
        out[UNUSED].uses = 2;
        out[TIED].uses = 1;
    }
    *n = N_PARAMS;
    return out;
}

const char *case_folder(void)
{
    static const char *const folder = "/tmp";
    const char *given = getenv("TMPDIR");
    return given && given[0] ? given : folder;
}

static void config_offload(const engine_case *c, sherd_config *out)
{
    out->offload.tier = c->tenths == 0 ? SHERD_TIER_DEVICE : c->disk == 1 ? SHERD_TIER_DISK : SHERD_TIER_HOST;
    out->offload.ratio = c->tenths / 10.0;
    out->offload.speculate = c->speculate;
    out->offload.host_threads = c->workers;
    out->offload.host_kernels = c->kernels;
    if (c->nodes > 1)
        snprintf(out->offload.host_topology, sizeof out->offload.host_topology, "numa:%d core:1 pu:1",
                 c->nodes * c->world);
    out->offload.pin_memory = c->pin;
    out->offload.buffer_count = c->disk == 2 ? 1 : 2; /* two slots of this small model are as large as all of it */
    out->offload.aio_block_size = 4096;
    snprintf(out->offload.nvme_path, sizeof out->offload.nvme_path, "%s", c->disk ? case_folder() : "");
}

static void config_rarer(const engine_case *c, sherd_config *out)
{
    out->scaling.kind = c->scaling;
    out->scaling.loss_scale = 128;
    out->scaling.initial_scale_power = 4;
    out->scaling.loss_scale_window = 2;
    if (!c->one_cycle)
        return;
    out->scheduler.kind = SHERD_SCHED_ONE_CYCLE;
    out->one_cycle.min_lr = 1e-3;
    out->one_cycle.max_lr = 4e-3;
    out->one_cycle.first_step_size = 2;
    out->one_cycle.second_step_size = 3;
}

sherd_status case_config(const engine_case *c, sherd_config *out, sherd_error *err)
{
    sherd_config_init(out, sizeof *out);
    out->transport.kind = c->transport;
    out->transport.reduction = c->reduction;
    out->train_micro_batch_size_per_gpu = 1;
    out->gradient_accumulation_steps = c->accumulation;
    out->gradient_clipping = c->clipping;
    out->dtype = c->dtype;
    out->check_grad_overflow = 1;
    out->zero.stage = c->stage;
    out->zero.overlap_comm = c->overlap;
    if (c->bucket) {
        out->zero.reduce_bucket_size = c->bucket;
        out->sherd.exact_bucket_size = 1;
    }
    out->optimizer.kind = c->optimizer;
    out->optimizer.lr = 3e-3;
    out->optimizer.momentum = 0.9;
    out->optimizer.weight_decay = 0.1;
    out->scheduler.kind = SHERD_SCHED_WARMUP;
    out->scheduler.warmup_max_lr = 3e-3;
    out->scheduler.warmup_num_steps = 4;
    config_rarer(c, out);
    out->n_groups = 2;
    out->groups[0] = (sherd_group){3e-3, 0.1};
    out->groups[1] = (sherd_group){1e-3, 0.0};
    out->sherd.grad_sum_bf16 = c->grad_sum_bf16;
    out->sherd.fail_after_s = 60;
    config_offload(c, out);
    return sherd_config_resolve(out, c->world, err);
}

static int64_t elems_of(const sherd_param *param)
{
    int64_t n = 1;
    for (uint32_t d = 0; d < param->ndim; d++)
        n *= param->shape[d];
    return n;
}

/* As a client's scaled loss does: exact for powers of two, as long as nothing overflows. */
static void scale_leaf(const engine_case *c, int64_t n, void *out)
{
    float scale = (float)c->scale;

    for (int64_t i = 0; c->scaling != SHERD_SCALING_NONE && i < n; i++)
        if (c->dtype == SHERD_BF16)
            ((uint16_t *)out)[i] = sherd__bf16_of_f32(sherd__f32_of_bf16(((uint16_t *)out)[i]) * scale);
        else if (c->dtype == SHERD_FP16)
            ((uint16_t *)out)[i] = sherd__f16_of_f32(sherd__f32_of_f16(((uint16_t *)out)[i]) * scale);
        else
            ((float *)out)[i] *= scale;
}

/* The gradient of one use. The tied parameter has two: what the ring must hold is their sum, narrowed once. */
static void use_leaf(const engine_case *c, int64_t step, int64_t micro, uint32_t p, uint32_t use, int64_t n, void *out)
{
    sherd_test_leaf(c->seed + 1000 * use, step, micro, p, c->dtype, n, out);
    scale_leaf(c, n, out);
    if ((c->bad_step == step || (c->bad_steps >> step & 1)) && p == ODD && micro == 0) {
        if (c->dtype != SHERD_FP32)
            ((uint16_t *)out)[5] = c->dtype == SHERD_BF16 ? 0x7F80 : 0x7C00;
        else
            ((float *)out)[5] = INFINITY;
    }
}

static void add_use(sherd_dtype dtype, int64_t n, void *to, const void *from)
{
    for (int64_t i = 0; i < n; i++)
        if (dtype == SHERD_BF16)
            ((uint16_t *)to)[i] = sherd__bf16_of_f32(sherd__f32_of_bf16(((uint16_t *)to)[i]) +
                                                     sherd__f32_of_bf16(((const uint16_t *)from)[i]));
        else if (dtype == SHERD_FP16)
            ((uint16_t *)to)[i] = sherd__f16_of_f32(sherd__f32_of_f16(((uint16_t *)to)[i]) +
                                                    sherd__f32_of_f16(((const uint16_t *)from)[i]));
        else
            ((float *)to)[i] += ((const float *)from)[i];
}

/* Which parameter has two uses, and which none. */
static uint32_t tied_param(const engine_case *c)
{
    return c->tied_large ? UNUSED : TIED;
}

static int unused_param(const engine_case *c, uint32_t p)
{
    return p == (c->tied_large ? (uint32_t)TIED : (uint32_t)UNUSED) && !c->all_used;
}

static int oracle_leaf(void *ctx, int64_t step, int64_t micro, uint32_t p, sherd_dtype dtype, int64_t n, void *out)
{
    const engine_case *c = ctx;
    void *second;

    if (unused_param(c, p))
        return 0;
    use_leaf(c, step, micro, p, 0, n, out);
    if (p == tied_param(c)) {
        second = malloc((size_t)n * 4);
        use_leaf(c, step, micro, p, 1, n, second);
        add_use(dtype, n, out, second);
        free(second);
    }
    return 1;
}

/* Uses in the order in which backward reaches them: the tied parameter's first use first, as a tied head is. */
static uint32_t arrival_order(const engine_case *c, int64_t step, int64_t micro, uint32_t order[N_PARAMS + 1])
{
    uint32_t n = 0;

    order[n++] = tied_param(c);
    for (uint32_t p = N_PARAMS; p-- > 0;)
        if (p != FROZEN && !unused_param(c, p))
            order[n++] = p;
    for (uint32_t i = 0; c->arrival == ARRIVE_FORWARD && i < n / 2; i++) {
        uint32_t swap = order[i];
        order[i] = order[n - 1 - i];
        order[n - 1 - i] = swap;
    }
    for (uint32_t i = n - 1; c->arrival == ARRIVE_SHUFFLED && i > 0; i--) {
        uint32_t j = (uint32_t)(sherd_test_mix(c->seed, (uint64_t)step, (uint64_t)micro, i, 99) % (i + 1));
        uint32_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    return n;
}

static sherd_status bring_gradient(const engine_case *c, sherd_engine *engine, int64_t step, int64_t micro, uint32_t p,
                                   uint32_t use, int64_t n, void *scratch)
{
    sherd_grad grad;
    sherd_status status;

    use_leaf(c, step, micro, p, use, n, scratch);
    if (c->copy_grads)
        return sherd_grad_copy(engine, p, scratch, c->dtype);
    status = sherd_grad_acquire(engine, p, &grad);
    if (status != SHERD_OK)
        return status;
    if (grad.beta != (int32_t)use)
        return SHERD_EINVAL;
    if (grad.beta)
        add_use(c->dtype, n, grad.data, scratch);
    else if (n)
        memcpy(grad.data, scratch, (size_t)n * sherd_dtype_bytes(c->dtype));
    return sherd_grad_ready(engine, p);
}

static sherd_status read_all(sherd_engine *engine)
{
    for (uint32_t p = 0; p < N_PARAMS; p++) {
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

static sherd_status run_micro(const engine_case *plain, sherd_engine *engine, const sherd_param *params, void *scratch)
{
    engine_case scaled = *plain;
    const engine_case *c = &scaled;
    uint32_t order[N_PARAMS + 1], n, uses[N_PARAMS] = {0};
    sherd_micro micro;
    sherd_status status = sherd_micro_begin(engine, &micro);

    scaled.scale = sherd_engine_loss_scale(engine);
    if (status == SHERD_OK && !c->blind)
        status = read_all(engine);
    if (status == SHERD_OK && c->fork_at == micro.step && micro.index == 0)
        status = fork_once();
    n = arrival_order(c, micro.step, micro.number, order);
    for (uint32_t i = 0; status == SHERD_OK && i < n; i++) {
        const void *data; /* backward reads the weights it is about to leave */
        status = c->blind ? SHERD_OK : sherd_param_acquire(engine, order[i], &data);
        if (status == SHERD_OK)
            status = bring_gradient(c, engine, micro.step, micro.number, order[i], uses[order[i]]++,
                                    elems_of(&params[order[i]]), scratch);
        if (status == SHERD_OK && !c->blind)
            status = sherd_param_release(engine, order[i]);
    }
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

/* Host devices only: the working copy of a bf16 parameter is its master, narrowed. */
static sherd_status working_copy_matches(sherd_engine *engine, const sherd_param *param, uint32_t p,
                                         const float *master, case_result *out)
{
    const void *data;
    sherd_status status = sherd_param_acquire(engine, p, &data);
    int64_t wrong = 0;

    if (status != SHERD_OK)
        return status;
    for (int64_t i = 0; param->dtype == SHERD_BF16 && i < elems_of(param); i++)
        wrong += ((const uint16_t *)data)[i] != sherd__bf16_of_f32(master[i]);
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
        int64_t elems = elems_of(&params[p]);
        float *values = calloc((size_t)elems + 1, sizeof *values);
        sherd_status status = sherd_param_read(engine, p, values, &out->error);
        if (status == SHERD_OK)
            sherd__hash_add(&sum, p, 0, 0, values, elems);
        if (status == SHERD_OK && c->load_from)
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

static sherd_status train(const engine_case *c, sherd_engine *engine, const sherd_param *params, uint32_t n,
                          int32_t rank, void *scratch, case_result *out)
{
    sherd_status status = SHERD_OK;
    sherd_report report;

    sherd_report_init(&report, sizeof report);
    for (uint32_t p = 0; status == SHERD_OK && p < n; p++) {
        sherd_test_weights(c->seed + (c->load_from != NULL), p, elems_of(&params[p]), scratch);
        status = sherd_param_write(engine, p, scratch, &out->error);
    }
    if (status == SHERD_OK && c->load_from)
        status = sherd_engine_load(engine, c->load_from, NULL, &out->error);
    for (int64_t s = c->load_from ? c->first : 0; status == SHERD_OK && s < c->steps; s++) {
        for (int64_t k = 0; status == SHERD_OK && k < c->accumulation; k++) {
            status = run_micro(c, engine, params, scratch);
            if (status == SHERD_OK)
                status = sherd_engine_step(engine, &report, &out->error);
            else
                sherd_engine_error(engine, &out->error);
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

    memset(out, 0, sizeof *out);
    out->bad_param = -1;
    case_params(c, params, &n);
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
        note_places(plan, engine, out);
    if (out->status == SHERD_OK)
        out->memory_matches = memory_matches(device, plan, sherd_comm_rank(comm));
    sherd_engine_destroy(engine);
    sherd_plan_destroy(plan);
    free(scratch);
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
        sherd_test_weights(c->seed, p, elems_of(&params[p]), weights);
        sherd_oracle_write(oracle, p, weights);
    }
    for (int64_t s = 0; s < c->steps; s++) {
        engine_case copy = *c;
        copy.scale = sherd_oracle_scale(oracle);
        sherd_oracle_step(oracle, sherd_config_lr(&config, sherd_oracle_updates(oracle)), oracle_leaf, &copy, &report);
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

static int same_double(double a, double b)
{
    return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0;
}

int case_equal(const case_result *a, const case_result *b, int64_t steps)
{
    for (int64_t s = 0; s < steps; s++)
        if (!same_double(a->norm[s], b->norm[s]) || a->skipped[s] != b->skipped[s] ||
            !same_double(a->loss_scale[s], b->loss_scale[s]))
            return 0;
    return a->updates == b->updates && a->bad_param == b->bad_param && memcmp(a->param_hash, b->param_hash, 16) == 0 &&
           memcmp(a->state_hash, b->state_hash, 16) == 0;
}
