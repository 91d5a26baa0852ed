/* SPDX-License-Identifier: MIT */
#include "optim/optim.h"
#include "tests/engine/case_parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t ndim;
    int64_t shape[3];
    uint32_t group, uses, flags;
} model[CASE_PARAMS] = {
    [MATRIX] = {"matrix", 2, {40, 50, 0}, 0, 1, SHERD_PARAM_MUON}, [BIAS] = {"bias", 1, {50, 0, 0}, 1, 1, 0},
    [SCALAR] = {"scalar", 0, {0, 0, 0}, 1, 1, 0},   [EMPTY] = {"empty", 2, {0, 7, 0}, 0, 1, 0},
    [ODD] = {"odd", 3, {7, 13, 11}, 0, 1, 0},       [FROZEN] = {"frozen", 1, {300, 0, 0}, 0, 1, SHERD_PARAM_FROZEN},
    [TIED] = {"tied", 2, {30, 21, 0}, 0, 2, SHERD_PARAM_MUON},     [UNUSED] = {"unused", 1, {77, 0, 0}, 1, 1, 0},
    [LARGE] = {"large", 2, {97, 61, 0}, 0, 1, SHERD_PARAM_MUON},   [LAST] = {"last", 1, {513, 0, 0}, 1, 1, 0},
};

const char *case_name(const engine_case *c)
{
    static _Thread_local char text[320];
    static const char *const arrivals[] = {"backward", "shuffled", "forward"};
    static const char *const wires[] = {"own", "fp32", "bf16", "fp16"};
    snprintf(text, sizeof text,
             "world %d stage %d bucket %lld %s %s K %lld clip %g grad_sum %s overlap %d arrival %s tenths %d disk %d "
             "speculate %d workers %d%s moments %s wire %s%s%s seed %llu",
             c->world, c->stage, (long long)c->bucket,
             sherd__optim_get(c->optimizer)->name,
             sherd_dtype_name(c->dtype), (long long)c->accumulation, c->clipping, c->grad_sum_bf16 ? "bf16" : "fp32",
             c->overlap, arrivals[c->arrival], c->tenths, c->disk, c->speculate, c->workers,
             c->reproducible ? " reproducible" : "", c->moments_bf16 ? "bf16" : "fp32", wires[c->wire],
             c->mixed ? " mixed" : "", c->remainder ? " remainder" : "", (unsigned long long)c->seed);
    return text;
}

int case_at(uint32_t index, int32_t world, int64_t steps, int wide, engine_case *out)
{
    static const int64_t buckets[] = {1, 3000, (int64_t)1 << 40};
    static const sherd_optimizer optimizers[] = {SHERD_ADAMW, SHERD_SGD, SHERD_ADAM};
    static const int64_t accumulations[] = {1, 3};
    uint32_t n_optimizers = wide ? 3 : 2, n_accumulations = wide ? 2 : 1, n_sums = wide ? 2 : 1;
    uint32_t n_dtypes = 3;
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
    out->moments_bf16 = index / 9 % 2;
    out->remainder = (int32_t)((index + (uint32_t)world) % 2);
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
    c.moments_bf16 = i % 7 == 1 || i % 7 == 4;
    c.remainder = i / 2 % 2;
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

int case_wire_at(uint32_t index, int32_t world, int64_t steps, engine_case *out)
{
    static const struct {
        sherd_dtype dtype;
        int32_t mixed;
        sherd_wire wire;
    } pairs[] = {
        {SHERD_FP32, 0, SHERD_WIRE_BF16}, {SHERD_BF16, 0, SHERD_WIRE_FP16}, {SHERD_FP16, 0, SHERD_WIRE_BF16},
        {SHERD_FP32, 0, SHERD_WIRE_FP16}, {SHERD_BF16, 1, SHERD_WIRE_BF16}, {SHERD_BF16, 1, SHERD_WIRE_FP16},
        {SHERD_BF16, 0, SHERD_WIRE_FP32}, {SHERD_FP16, 0, SHERD_WIRE_FP32},
    };
    enum { PAIRS = sizeof pairs / sizeof *pairs };
    static const int64_t buckets[] = {3000, 1, (int64_t)1 << 40};
    uint32_t pair = index % PAIRS, rest = index / PAIRS;

    *out = case_plain(world, index, steps);
    out->dtype = pairs[pair].dtype;
    out->mixed = pairs[pair].mixed;
    out->wire = pairs[pair].wire;
    out->stage = (int32_t)(rest % 3);
    out->accumulation = rest / 3 % 2 ? 3 : 1;
    out->bucket = buckets[(index + rest) % 3];
    out->optimizer = index % 4 == 3 ? SHERD_SGD : SHERD_ADAMW;
    out->arrival = (case_arrival)(index / 5 % 3);
    out->copy_grads = index % 5 == 4;
    out->remainder = (int32_t)(rest % 2);
    out->bad_step = index % 7 == 3 ? 2 : 0;
    return rest < 6;
}

sherd_dtype case_dtype(const engine_case *c, uint32_t p)
{
    static const sherd_dtype mixed[CASE_PARAMS] = {
        [MATRIX] = SHERD_BF16, [BIAS] = SHERD_FP32,  [SCALAR] = SHERD_FP32, [EMPTY] = SHERD_BF16, [ODD] = SHERD_FP16,
        [FROZEN] = SHERD_FP16, [TIED] = SHERD_BF16, [UNUSED] = SHERD_FP32, [LARGE] = SHERD_FP16, [LAST] = SHERD_FP32,
    };
    return c->mixed ? mixed[p] : c->dtype;
}

sherd_dtype case_grad_dtype(const engine_case *c, uint32_t p)
{
    return c->mixed && p == TIED ? SHERD_FP32 : case_dtype(c, p);
}

int case_muon_at(uint32_t index, int32_t world, int64_t steps, engine_case *out)
{
    int more = case_lamb_at(index, world, steps, out);

    out->optimizer = SHERD_MUON;
    return more;
}

int case_lamb_at(uint32_t index, int32_t world, int64_t steps, engine_case *out)
{
    static const int64_t buckets[] = {1, 3000, (int64_t)1 << 40};
    uint32_t i = index;
    int more = 1;

    if (index >= CASE_LAMB_PLAIN) {
        more = case_offload_at(index - CASE_LAMB_PLAIN, world, steps, out);
    } else {
        *out = case_plain(world, i, steps);
        out->stage = (int32_t)(i % 3);
        out->bucket = buckets[i / 3 % 3];
        out->dtype = (sherd_dtype)(i / 9 % 3);
        out->accumulation = i / 27 ? 3 : 1;
        out->bad_step = i % 4 == 3 ? 2 : 0;
    }
    out->optimizer = SHERD_LAMB;
    out->speculate = 0;
    return more;
}

const sherd_param *case_params(const engine_case *c, sherd_param out[16], uint32_t *n)
{
    memset(out, 0, 16 * sizeof *out);
    for (int p = 0; p < CASE_PARAMS; p++) {
        out[p].name = model[p].name;
        out[p].ndim = model[p].ndim;
        memcpy(out[p].shape, model[p].shape, sizeof model[p].shape);
        out[p].dtype = case_dtype(c, (uint32_t)p);
        out[p].grad_dtype = case_grad_dtype(c, (uint32_t)p);
        out[p].group = model[p].group;
        out[p].uses = model[p].uses;
        out[p].flags = model[p].flags;
    }
    if (c->tied_large) { /* registered just before LARGE: its bucket comes right after LARGE's */
        out[UNUSED].shape[0] = 90 * 61;
        out[UNUSED].uses = 2;
        out[TIED].uses = 1;
    }
    *n = CASE_PARAMS;
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

/* Rates of matrices and of all else, one of them or none its own. */
static void config_muon(const engine_case *c, sherd_config *out)
{
    if (c->optimizer != SHERD_MUON)
        return;
    if (c->seed % 3 == 1)
        out->muon.muon_lr = 0.02;
    if (c->seed % 3 == 2)
        out->muon.adam_lr = 1e-3;
    out->muon.nesterov = c->seed % 4 != 3;
    out->muon.ns_steps = c->seed % 5 == 4 ? 2 : 5;
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
    out->check_grad_overflow = !c->unchecked;
    out->faults.nonfinite = c->nonfinite;
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
    config_muon(c, out);
    out->n_groups = 2;
    out->groups[0] = (sherd_group){3e-3, 0.1};
    out->groups[1] = (sherd_group){1e-3, 0.0};
    out->sherd.grad_sum_bf16 = c->grad_sum_bf16;
    out->reproducible = c->reproducible;
    out->replan = c->replan;
    out->moments_bf16 = c->moments_bf16;
    out->wire = c->wire;
    out->master_remainder = c->remainder;
    out->faults.check_replicas = c->check_replicas;
    out->sherd.fail_after_s = 60;
    config_offload(c, out);
    return sherd_config_resolve(out, c->world, err);
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
