/* SPDX-License-Identifier: MIT
 *
 * A configuration as a value: defaults, the batch triad, and the learning rate as a function of finished updates.
 */
#include "config/config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/cycle.h"
#include "base/status.h"
#include "config/keys.h"

static void set_defaults(sherd_config *config)
{
    memset(config, 0, sizeof *config);
    config->size = sizeof *config;
    config->steps_per_print = 10;
    config->gradient_clipping = 1.0;
    config->gradient_predivide_factor = 1.0;
    config->check_grad_overflow = 1;
    config->dtype = SHERD_FP32;
    config->zero.reduce_bucket_size = 500000000;
    config->zero.allgather_bucket_size = 500000000;
    config->zero.overlap_comm = 1;
    config->zero.ignore_unused_parameters = 1;
    config->optimizer.kind = SHERD_ADAMW;
    config->optimizer.lr = 1e-3;
    config->optimizer.beta1 = 0.9;
    config->optimizer.beta2 = 0.999;
    config->optimizer.eps = 1e-8;
    config->optimizer.bias_correction = 1;
    config->lamb.max_coeff = 10;
    config->lamb.min_coeff = 0.01;
    config->muon.muon_lr = -1;
    config->muon.adam_lr = -1;
    config->muon.nesterov = 1;
    config->muon.ns_steps = 5;
    config->scheduler.warmup_max_lr = 1e-3;
    config->scheduler.warmup_num_steps = 1000;
    config->scheduler.cos_min_ratio = 1e-4;
    config->one_cycle = (sherd_one_cycle){.first_step_size = 2000,
                                          .second_stair_count = -1,
                                          .cycle_momentum = 1,
                                          .min_mom = 0.8,
                                          .max_mom = 0.9};
    config->lr_range_test.min_lr = 1e-3;
    config->lr_range_test.step_rate = 1;
    config->lr_range_test.step_size = 2000;
    config->scaling.min_loss_scale = 1;
    config->scaling.initial_scale_power = 16;
    config->scaling.hysteresis = 2;
    config->scaling.loss_scale_window = 1000;
    strcpy(config->tensorboard.job_name, "DeepSpeedJobName");
    strcpy(config->csv_monitor.job_name, "DeepSpeedJobName");
    config->sherd.warn_after_s = 60;
    config->sherd.fail_after_s = 600;
    config->silent_after_s = 30;
    config->offload.ratio = 1.0;
    config->offload.device_memory_budget = SHERD_BUDGET_NONE;
    config->offload.host_memory_budget = SHERD_BUDGET_NONE;
    config->offload.buffer_count = 4;
    config->offload.pin_memory = 1;
    config->offload.aio_block_size = 1048576;
    config->offload.aio_queue_depth = 8;
    config->offload.aio_overlap_events = 1;
}

void sherd__config_load(sherd_config *to, const sherd_config *from)
{
    set_defaults(to);
    memcpy(to, from, from->size < sizeof *to ? from->size : sizeof *to);
    to->size = sizeof *to;
}

void sherd__config_save(sherd_config *to, const sherd_config *from)
{
    size_t size = to->size;

    memcpy(to, from, size < sizeof *from ? size : sizeof *from);
    to->size = size;
}

void sherd_config_init(sherd_config *config, size_t size)
{
    sherd_config defaults;

    if (config == NULL || size < sizeof config->size) {
        return;
    }
    set_defaults(&defaults);
    memset(config, 0, size);
    config->size = size;
    sherd__config_save(config, &defaults);
}

static sherd_status fail_triad(const sherd_config *c, int32_t world, sherd_error *err, const char *what)
{
    return sherd__fail(err, SHERD_EINVAL,
                       "train_batch_size %" PRId64 ", train_micro_batch_size_per_gpu %" PRId64
                       ", gradient_accumulation_steps %" PRId64 " on %" PRId32 " ranks (0: not given): %s",
                       c->train_batch_size, c->train_micro_batch_size_per_gpu, c->gradient_accumulation_steps, world,
                       what);
}

/* Fills the unknown ones of batch = micro · steps · world. What does not divide is caught by the caller's product. */
static sherd_status infer_triad(const sherd_config *given, int32_t world, int64_t *batch, int64_t *micro,
                                int64_t *steps, sherd_error *err)
{
    *batch = given->train_batch_size;
    *micro = given->train_micro_batch_size_per_gpu;
    *steps = given->gradient_accumulation_steps;
    if (*batch < 0 || *micro < 0 || *steps < 0) {
        return fail_triad(given, world, err, "a size is negative, give positive ones");
    }
    if (*batch == 0 && *micro == 0) {
        return fail_triad(given, world, err, "give train_batch_size or train_micro_batch_size_per_gpu");
    }
    if (*steps == 0) {
        *steps = *batch > 0 && *micro > 0 ? *batch / *micro / world : 1;
    }
    if (*micro == 0) {
        *micro = *batch / world / *steps;
    }
    return SHERD_OK;
}

sherd_status sherd_config_resolve(sherd_config *config, int32_t world, sherd_error *err)
{
    sherd_config full;
    int64_t batch, micro, steps, product;
    sherd_status status;

    if (config == NULL || config->size < sizeof config->size || world < 1) {
        return sherd__fail(err, SHERD_EINVAL, "sherd_config_resolve: %s",
                           world < 1 ? "the world must be at least 1" : "the config is not initialised");
    }
    sherd__config_load(&full, config);
    status = infer_triad(&full, world, &batch, &micro, &steps, err);
    if (status != SHERD_OK) {
        return status;
    }
    if (__builtin_mul_overflow(micro, steps, &product) || __builtin_mul_overflow(product, (int64_t)world, &product)) {
        return fail_triad(&full, world, err, "their product does not fit 64 bits, give smaller ones");
    }
    if (product < 1 || (batch > 0 && product != batch)) {
        return fail_triad(&full, world, err, "train_batch_size must be micro-batch times accumulation steps times "
                          "ranks");
    }
    full.train_batch_size = product;
    full.train_micro_batch_size_per_gpu = micro;
    full.gradient_accumulation_steps = steps;
    sherd__config_save(config, &full);
    return SHERD_OK;
}

/* Share of the way up, in [0, 1). Only called below `warmup`, which is at least 2. */
static double warmup_share(const sherd_config *config, double it, double warmup)
{
    return config->scheduler.warmup_linear ? it / warmup : log(it + 1) / log(warmup);
}

static double decay_share(double it, double warmup, double total)
{
    return fmax(0, (total - it) / fmax(1, total - warmup));
}

static double cosine_ratio(const sherd_config *config, double it, double warmup, double total)
{
    const double pi = 3.14159265358979323846;
    double progress = fmin(1, (it - warmup + 1) / fmax(1, total - warmup));
    double floor_ratio = config->scheduler.cos_min_ratio, start = config->scheduler.warmup_min_ratio;

    if (it < warmup) {
        return start + warmup_share(config, it, warmup) * (1 - start);
    }
    return floor_ratio + (1 - floor_ratio) * (1 + cos(pi * progress)) / 2;
}

static double range_test_lr(const sherd_config *config, double it)
{
    double interval = it / (double)(config->lr_range_test.step_size > 0 ? config->lr_range_test.step_size : 1);

    interval = config->lr_range_test.staircase ? floor(interval) : interval;
    return config->lr_range_test.min_lr * (1 + config->lr_range_test.step_rate * interval);
}

static double warmup_lr(const sherd_config *config, double it)
{
    double warmup = config->scheduler.warmup_num_steps > 2 ? (double)config->scheduler.warmup_num_steps : 2, share = 1;
    double total = (double)config->scheduler.total_num_steps;

    if (config->scheduler.kind == SHERD_SCHED_WARMUP_COSINE)
        return config->optimizer.lr * cosine_ratio(config, it, warmup, total);
    if (it < warmup)
        share = warmup_share(config, it, warmup);
    else if (config->scheduler.kind == SHERD_SCHED_WARMUP_DECAY)
        share = decay_share(it, warmup, total);
    return config->scheduler.warmup_min_lr +
           (config->scheduler.warmup_max_lr - config->scheduler.warmup_min_lr) * share;
}

double sherd_config_lr(const sherd_config *config, int64_t updates)
{
    int64_t it = updates > 0 ? updates : 0;
    sherd_config full;

    if (config == NULL || config->size < sizeof config->size) {
        return 0;
    }
    sherd__config_load(&full, config);
    switch (full.scheduler.kind) {
    case SHERD_SCHED_NONE:
        break;
    case SHERD_SCHED_WARMUP:
    case SHERD_SCHED_WARMUP_DECAY:
    case SHERD_SCHED_WARMUP_COSINE:
        return warmup_lr(&full, (double)it);
    case SHERD_SCHED_ONE_CYCLE:
        return sherd__cycle_lr(&full.one_cycle, it);
    case SHERD_SCHED_LR_RANGE_TEST:
        return range_test_lr(&full, (double)it);
    }
    return full.optimizer.lr;
}

size_t sherd_config_key_count(void)
{
    return sherd__keys_count;
}

/* Static text: the type with its range; for a choice the list itself, where braces mark what is refused. */
static const char *type_text(const sherd__key *key)
{
    static const char *const plain[] = {
        [SHERD__BOOLEAN] = "boolean", [SHERD__STRING] = "string", [SHERD__INTEGERS] = "list of integers",
        [SHERD__BETAS] = "list of two numbers in [0, 1)", [SHERD__ANY] = "any", [SHERD__OBJECT] = "object",
        [SHERD__BYTES] = "bytes, text as \"12GiB\", or \"auto\"",
    };
    static const char *const ranged[][2] = {
        [SHERD__RANGE_ANY] = {"integer", "number"},
        [SHERD__RANGE_ZERO_UP] = {"integer >= 0", "number >= 0"},
        [SHERD__RANGE_ONE_UP] = {"integer >= 1", "number >= 1"},
        [SHERD__RANGE_POSITIVE] = {"integer > 0", "number > 0"},
        [SHERD__RANGE_UNIT] = {"0 or 1", "number in [0, 1]"},
        [SHERD__RANGE_BELOW_ONE] = {"0", "number in [0, 1)"},
        [SHERD__RANGE_STAGE] = {"integer in [0, 3]", "number in [0, 3]"},
        [SHERD__RANGE_POWER] = {"integer in [0, 100]", "number in [0, 100]"},
    };

    if (key->type == SHERD__INTEGER || key->type == SHERD__NUMBER) {
        return ranged[key->range][key->type == SHERD__NUMBER];
    }
    return key->type == SHERD__CHOICE ? key->choices : plain[key->type];
}

sherd_status sherd_config_key(size_t index, sherd_config_key_info *out)
{
    if (index >= sherd__keys_count || out == NULL) {
        return SHERD_EINVAL;
    }
    *out = (sherd_config_key_info){sherd__keys[index].path, type_text(&sherd__keys[index]),
                                   sherd__keys[index].default_value, sherd__keys[index].status,
                                   sherd__keys[index].note};
    return SHERD_OK;
}
