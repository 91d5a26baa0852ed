/* SPDX-License-Identifier: MIT
 *
 * Each key of the table: its default changes nothing and warns of nothing, an honoured key reaches its member, a key
 * without effect warns and changes nothing, a refused key is refused unless it asks for nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/keys.h"
#include "tests/config/parse.h"

/* What a scheduler needs besides this parameter. */
static const char *needed_beside(const sherd__key *key)
{
    if (key->members & SHERD__FOR_CYCLE) {
        return strstr(key->path, "cycle_min_lr")   ? ", \"cycle_max_lr\": 1"
               : strstr(key->path, "cycle_max_lr") ? ", \"cycle_min_lr\": 1"
                                                   : ", \"cycle_min_lr\": 1, \"cycle_max_lr\": 1";
    }
    return (key->members & SHERD__FOR_COSINE) && !(key->members & (SHERD__FOR_WARMUP | SHERD__FOR_DECAY))
               ? ", \"total_num_steps\": 5000"
               : "";
}

/* {"a": {"b": VALUE}} for the path a.b, with the type that the parameter needs beside it. */
static void compose(const sherd__key *key, const char *value, char *text, size_t capacity)
{
    char path[160], *rest = path, *part;
    size_t used = 0, depth = 0;

    snprintf(path, sizeof path, "%s", key->path);
    text[0] = '\0';
    while ((part = strsep(&rest, ".")) != NULL) {
        const char *type = "";

        if (depth == 1 && strcmp(part, "params") == 0) {
            type = key->members & SHERD__FOR_ADAM     ? "\"type\": \"Adam\", "
                   : key->members & SHERD__FOR_SGD    ? "\"type\": \"SGD\", "
                   : key->members & SHERD__FOR_LAMB   ? "\"type\": \"Lamb\", "
                   : key->members & SHERD__FOR_MUON   ? "\"type\": \"Muon\", "
                   : key->members & SHERD__FOR_WARMUP ? "\"type\": \"WarmupLR\", "
                   : key->members & SHERD__FOR_DECAY  ? "\"type\": \"WarmupDecayLR\", "
                   : key->members & SHERD__FOR_COSINE ? "\"type\": \"WarmupCosineLR\", "
                   : key->members & SHERD__FOR_CYCLE  ? "\"type\": \"OneCycle\", "
                   : key->members & SHERD__FOR_RANGE  ? "\"type\": \"LRRangeTest\", "
                                                      : "";
        }
        used += (size_t)snprintf(text + used, capacity - used, "{%s\"%s\": ", type, part);
        depth++;
    }
    used += (size_t)snprintf(text + used, capacity - used, "%s%s", value, needed_beside(key));
    for (; depth > 0; depth--) {
        used += (size_t)snprintf(text + used, capacity - used, "}");
    }
    assert_true(used < capacity);
}

static void parse_key(parsed *p, const char *path, const char *value)
{
    const sherd__key *key = sherd__key_find(path);
    char text[512];

    assert_non_null(key);
    compose(key, value, text, sizeof text);
    parse(p, text);
    if (p->status != SHERD_OK && p->status != SHERD_EUNSUPPORTED) {
        fail_msg("%s: %s", text, p->error.text);
    }
}

static void defaults_change_nothing(void **state)
{
    size_t seen = 0;

    (void)state;
    for (size_t i = 0; i < sherd__keys_count; i++) {
        const sherd__key *key = &sherd__keys[i];
        parsed p, bare;

        if (key->default_value[0] == '\0') {
            continue;
        }
        parse_key(&p, key->path, key->default_value);
        parse_key(&bare, key->path, "\"auto\"");
        if (p.status != SHERD_OK || p.warnings != 0) {
            fail_msg("%s: %s%s", key->path, p.error.text, p.lines);
        }
        assert_int_equal(bare.status, SHERD_OK);
        if (memcmp(&p.config, &bare.config, sizeof p.config) != 0) {
            fail_msg("%s: the table's default is not sherd_config_init's", key->path);
        }
        parse_key(&p, key->path, "null");
        assert_memory_equal(&p.config, &bare.config, sizeof p.config);
        seen++;
    }
    assert_true(seen > 60);
}

/* One row per honoured key that stores a number: a value other than the default, and where it must arrive. */
typedef struct arrival {
    const char *path, *value;
    char kind; /* i int32, l int64, d double */
    size_t offset;
    double expected;
} arrival;

#define ARRIVES(path, value, kind, member, expected) {path, value, kind, offsetof(sherd_config, member), expected}

static const arrival arrivals[] = {
    ARRIVES("train_batch_size", "96", 'l', train_batch_size, 96),
    ARRIVES("train_micro_batch_size_per_gpu", "4", 'l', train_micro_batch_size_per_gpu, 4),
    ARRIVES("gradient_accumulation_steps", "3e0", 'l', gradient_accumulation_steps, 3),
    ARRIVES("steps_per_print", "7", 'l', steps_per_print, 7),
    ARRIVES("gradient_clipping", "0.5", 'd', gradient_clipping, 0.5),
    ARRIVES("prescale_gradients", "true", 'i', prescale_gradients, 1),
    ARRIVES("gradient_predivide_factor", "2", 'd', gradient_predivide_factor, 2),
    ARRIVES("gradient_allreduce_op", "\"sum\"", 'i', allreduce_sum, 1),
    ARRIVES("wall_clock_breakdown", "true", 'i', wall_clock_breakdown, 1),
    ARRIVES("memory_breakdown", "true", 'i', memory_breakdown, 1),
    ARRIVES("zero_optimization", "true", 'i', zero.stage, 1),
    ARRIVES("zero_optimization.stage", "2", 'i', zero.stage, 2),
    ARRIVES("zero_optimization.reduce_bucket_size", "2e7", 'l', zero.reduce_bucket_size, 2e7),
    ARRIVES("zero_optimization.allgather_bucket_size", "9007199254740993", 'l', zero.allgather_bucket_size,
            9007199254740993.0),
    ARRIVES("zero_optimization.overlap_comm", "false", 'i', zero.overlap_comm, 0),
    ARRIVES("zero_optimization.ignore_unused_parameters", "false", 'i', zero.ignore_unused_parameters, 0),
    ARRIVES("bf16.enabled", "true", 'i', dtype, SHERD_BF16),
    ARRIVES("bf16.check_grad_overflow", "false", 'i', check_grad_overflow, 0),
    ARRIVES("communication_data_type", "\"bf16\"", 'i', wire, SHERD_WIRE_BF16),
    ARRIVES("bf16.bf16_optimizer_states", "true", 'i', moments_bf16, 1),
    ARRIVES("optimizer.type", "\"SGD\"", 'i', optimizer.kind, SHERD_SGD),
    ARRIVES("optimizer.type", "\"adamw\"", 'i', optimizer.kind, SHERD_ADAMW),
    ARRIVES("optimizer.type", "\"Lion\"", 'i', optimizer.kind, SHERD_LION),
    ARRIVES("optimizer.type", "\"Adagrad\"", 'i', optimizer.kind, SHERD_ADAGRAD),
    ARRIVES("optimizer.type", "\"lamb\"", 'i', optimizer.kind, SHERD_LAMB),
    ARRIVES("optimizer.type", "\"muon\"", 'i', optimizer.kind, SHERD_MUON),
    ARRIVES("optimizer.type", "\"Muon\"", 'd', optimizer.momentum, 0.95),
    ARRIVES("optimizer.params.muon_lr", "0.02", 'd', muon.muon_lr, 0.02),
    ARRIVES("optimizer.params.adam_lr", "3e-4", 'd', muon.adam_lr, 3e-4),
    ARRIVES("optimizer.params.nesterov", "false", 'i', muon.nesterov, 0),
    ARRIVES("optimizer.params.ns_steps", "6", 'i', muon.ns_steps, 6),
    ARRIVES("optimizer.params.max_coeff", "0.3", 'd', lamb.max_coeff, 0.3),
    ARRIVES("optimizer.params.min_coeff", "0.02", 'd', lamb.min_coeff, 0.02),
    ARRIVES("optimizer.params.lr", "3e-4", 'd', optimizer.lr, 3e-4),
    ARRIVES("optimizer.params.betas", "[0.8, 0.95]", 'd', optimizer.beta1, 0.8),
    ARRIVES("optimizer.params.betas", "[0.8, 0.95]", 'd', optimizer.beta2, 0.95),
    ARRIVES("optimizer.params.eps", "1e-6", 'd', optimizer.eps, 1e-6),
    ARRIVES("optimizer.params.weight_decay", "0.1", 'd', optimizer.weight_decay, 0.1),
    ARRIVES("optimizer.params.bias_correction", "false", 'i', optimizer.bias_correction, 0),
    ARRIVES("optimizer.params.adam_w_mode", "false", 'i', optimizer.kind, SHERD_ADAM),
    ARRIVES("optimizer.params.adam_w_mode", "true", 'i', optimizer.kind, SHERD_ADAMW),
    ARRIVES("optimizer.params.momentum", "0.9", 'd', optimizer.momentum, 0.9),
    ARRIVES("scheduler.type", "\"WarmupLR\"", 'i', scheduler.kind, SHERD_SCHED_WARMUP),
    ARRIVES("scheduler.params.warmup_min_lr", "1e-6", 'd', scheduler.warmup_min_lr, 1e-6),
    ARRIVES("scheduler.params.warmup_max_lr", "2e-4", 'd', scheduler.warmup_max_lr, 2e-4),
    ARRIVES("scheduler.params.warmup_num_steps", "20", 'l', scheduler.warmup_num_steps, 20),
    ARRIVES("scheduler.params.warmup_type", "\"linear\"", 'i', scheduler.warmup_linear, 1),
    ARRIVES("scheduler.params.total_num_steps", "2000", 'l', scheduler.total_num_steps, 2000),
    ARRIVES("scheduler.params.warmup_min_ratio", "0.25", 'd', scheduler.warmup_min_ratio, 0.25),
    ARRIVES("scheduler.params.cos_min_ratio", "0.01", 'd', scheduler.cos_min_ratio, 0.01),
    ARRIVES("scheduler.type", "\"LRRangeTest\"", 'i', scheduler.kind, SHERD_SCHED_LR_RANGE_TEST),
    ARRIVES("scheduler.params.cycle_min_lr", "1e-5", 'd', one_cycle.min_lr, 1e-5),
    ARRIVES("scheduler.params.cycle_min_lr", "1e-5", 'i', scheduler.kind, SHERD_SCHED_ONE_CYCLE),
    ARRIVES("scheduler.params.cycle_max_lr", "3e-3", 'd', one_cycle.max_lr, 3e-3),
    ARRIVES("scheduler.params.decay_lr_rate", "0.25", 'd', one_cycle.decay_lr_rate, 0.25),
    ARRIVES("scheduler.params.cycle_first_step_size", "70", 'l', one_cycle.first_step_size, 70),
    ARRIVES("scheduler.params.cycle_second_step_size", "90", 'l', one_cycle.second_step_size, 90),
    ARRIVES("scheduler.params.cycle_first_stair_count", "7", 'l', one_cycle.first_stair_count, 7),
    ARRIVES("scheduler.params.cycle_second_stair_count", "0", 'l', one_cycle.second_stair_count, 0),
    ARRIVES("scheduler.params.decay_step_size", "40", 'l', one_cycle.decay_step_size, 40),
    ARRIVES("scheduler.params.cycle_momentum", "false", 'i', one_cycle.cycle_momentum, 0),
    ARRIVES("scheduler.params.cycle_min_mom", "0.7", 'd', one_cycle.min_mom, 0.7),
    ARRIVES("scheduler.params.cycle_max_mom", "0.97", 'd', one_cycle.max_mom, 0.97),
    ARRIVES("scheduler.params.decay_mom_rate", "0.01", 'd', one_cycle.decay_mom_rate, 0.01),
    ARRIVES("scheduler.params.lr_range_test_min_lr", "1e-6", 'd', lr_range_test.min_lr, 1e-6),
    ARRIVES("scheduler.params.lr_range_test_step_size", "200", 'l', lr_range_test.step_size, 200),
    ARRIVES("scheduler.params.lr_range_test_step_rate", "5", 'd', lr_range_test.step_rate, 5),
    ARRIVES("scheduler.params.lr_range_test_staircase", "true", 'i', lr_range_test.staircase, 1),
    ARRIVES("fp16.enabled", "true", 'i', dtype, SHERD_FP16),
    ARRIVES("fp16.enabled", "true", 'i', scaling.kind, SHERD_SCALING_DYNAMIC),
    ARRIVES("fp16.loss_scale", "128", 'd', scaling.loss_scale, 128),
    ARRIVES("fp16.initial_scale_power", "12", 'i', scaling.initial_scale_power, 12),
    ARRIVES("fp16.loss_scale_window", "500", 'l', scaling.loss_scale_window, 500),
    ARRIVES("fp16.hysteresis", "4", 'i', scaling.hysteresis, 4),
    ARRIVES("fp16.consecutive_hysteresis", "true", 'i', scaling.consecutive_hysteresis, 1),
    ARRIVES("fp16.min_loss_scale", "0.5", 'd', scaling.min_loss_scale, 0.5),
    ARRIVES("tensorboard.enabled", "true", 'i', tensorboard.enabled, 1),
    ARRIVES("csv_monitor.enabled", "true", 'i', csv_monitor.enabled, 1),
    ARRIVES("sherd.grad_sum", "\"bf16\"", 'i', sherd.grad_sum_bf16, 1),
    ARRIVES("sherd.exact_bucket_size", "true", 'i', sherd.exact_bucket_size, 1),
    ARRIVES("sherd.reproducible", "true", 'i', reproducible, 1),
    ARRIVES("sherd.replan", "true", 'i', replan, 1),
    ARRIVES("sherd.master_remainder", "true", 'i', master_remainder, 1),
    ARRIVES("sherd.transport", "\"nccl\"", 'i', transport.kind, SHERD_TRANSPORT_NCCL),
    ARRIVES("sherd.transport", "\"mpi\"", 'i', transport.kind, SHERD_TRANSPORT_MPI),
    ARRIVES("sherd.reduction", "\"native\"", 'i', transport.reduction, SHERD_REDUCTION_NATIVE),
    ARRIVES("zero_optimization.cpu_offload", "true", 'i', offload.tier, SHERD_TIER_HOST),
    ARRIVES("zero_optimization.cpu_offload_use_pin_memory", "false", 'i', offload.pin_memory, 0),
    ARRIVES("zero_optimization.offload_optimizer.device", "\"cpu\"", 'i', offload.tier, SHERD_TIER_HOST),
    ARRIVES("zero_optimization.offload_optimizer.buffer_count", "6", 'i', offload.buffer_count, 6),
    ARRIVES("zero_optimization.offload_optimizer.pin_memory", "false", 'i', offload.pin_memory, 0),
    ARRIVES("zero_optimization.offload_optimizer.ratio", "0.3", 'd', offload.ratio, 0.3),
    ARRIVES("aio.block_size", "65536", 'l', offload.aio_block_size, 65536),
    ARRIVES("aio.queue_depth", "32", 'i', offload.aio_queue_depth, 32),
    ARRIVES("aio.single_submit", "true", 'i', offload.aio_single_submit, 1),
    ARRIVES("aio.overlap_events", "false", 'i', offload.aio_overlap_events, 0),
    ARRIVES("sherd.speculate", "true", 'i', offload.speculate, 1),
    ARRIVES("sherd.host_kernels", "\"portable\"", 'i', offload.host_kernels, 3),
    ARRIVES("sherd.host_threads", "3", 'i', offload.host_threads, 3),
    ARRIVES("sherd.device_memory_budget", "12e9", 'l', offload.device_memory_budget, 12e9),
    ARRIVES("sherd.device_memory_budget", "\"auto\"", 'l', offload.device_memory_budget, SHERD_BUDGET_AUTO),
    ARRIVES("sherd.host_memory_budget", "\"1.5 GiB\"", 'l', offload.host_memory_budget, 1610612736.0),
    ARRIVES("sherd.warn_after_s", "2.5", 'd', sherd.warn_after_s, 2.5),
    ARRIVES("sherd.nonfinite", "\"stop\"", 'i', faults.nonfinite, 2),
    ARRIVES("sherd.check_replicas", "50", 'l', faults.check_replicas, 50),
    ARRIVES("sherd.fail_after_s", "30", 'd', sherd.fail_after_s, 30),
    ARRIVES("sherd.silent_after_s", "0", 'd', silent_after_s, 0),
};

static double member_of(const sherd_config *config, const arrival *a)
{
    const char *at = (const char *)config + a->offset;
    int32_t i;
    int64_t l;
    double d;

    memcpy(&i, at, sizeof i);
    memcpy(&l, at, sizeof l);
    memcpy(&d, at, sizeof d);
    return a->kind == 'i' ? i : a->kind == 'l' ? (double)l : d;
}

static void honoured_keys_arrive(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof arrivals / sizeof arrivals[0]; i++) {
        const arrival *a = &arrivals[i];
        parsed p;

        parse_key(&p, a->path, a->value);
        if (p.status != SHERD_OK || p.warnings != 0 || member_of(&p.config, a) != a->expected) {
            fail_msg("%s: %s: %s%s", a->path, a->value, p.error.text, p.lines);
        }
    }
}

/* So that a new honoured key cannot be forgotten above. Not numbers: sections. */
static void folders_and_cores_arrive(void **state)
{
    parsed p;

    (void)state;
    parse_key(&p, "zero_optimization.offload_optimizer.nvme_path", "\"/a:/b\"");
    assert_string_equal(p.config.offload.nvme_path, "/a:/b");
    parse_key(&p, "tensorboard.output_path", "\"out\"");
    assert_string_equal(p.config.tensorboard.output_path, "out");
    parse_key(&p, "tensorboard.job_name", "\"job\"");
    assert_string_equal(p.config.tensorboard.job_name, "job");
    parse_key(&p, "csv_monitor.output_path", "\"out\"");
    assert_string_equal(p.config.csv_monitor.output_path, "out");
    parse_key(&p, "csv_monitor.job_name", "\"job\"");
    assert_string_equal(p.config.csv_monitor.job_name, "job");
    parse_key(&p, "sherd.host_cores", "\"0-3@0\"");
    assert_string_equal(p.config.offload.host_cores, "0-3@0");
    parse(&p, "{\"zero_optimization\": {\"offload_optimizer\": {\"device\": \"nvme\", \"nvme_path\": \"/a\"}}}");
    assert_int_equal(p.status, SHERD_OK);
    assert_int_equal(p.config.offload.tier, SHERD_TIER_DISK);
}

static void every_honoured_key_is_tested(void **state)
{
    (void)state;
    for (size_t i = 0; i < sherd__keys_count; i++) {
        const sherd__key *key = &sherd__keys[i];
        int found = key->type == SHERD__OBJECT || key->store == SHERD__STORE_PATHS;

        for (size_t k = 0; k < sizeof arrivals / sizeof arrivals[0]; k++) {
            found |= strcmp(arrivals[k].path, key->path) == 0;
        }
        if (key->status == SHERD_KEY_HONOURED && !found) {
            fail_msg("%s is honoured, but no test says where it arrives", key->path);
        }
    }
}

/* A valid value that is not the default. */
static const char *other_value(const sherd__key *key)
{
    switch (key->type) {
    case SHERD__BOOLEAN:
        return strcmp(key->default_value, "true") == 0 ? "false" : "true";
    case SHERD__INTEGER:
        return "3";
    case SHERD__NUMBER:
        return "0.75";
    case SHERD__STRING:
        return "\"x\"";
    case SHERD__INTEGERS:
        return "[7]";
    case SHERD__OBJECT:
        return "{\"x\": 1}";
    case SHERD__CHOICE:
        return strstr(key->path, "ns_method")      ? "\"Standard\""
               : key->flags & SHERD__KEY_ANY_CASE ? "\"ignore\""
                                                   : "\"bf16\"";
    default:
        return "\"24GB\"";
    }
}

/* 1 if the key lies in a section that only speaks where it is enabled, which these texts do not do. */
static int lies_in_silence(const char *path)
{
    char section[160], enabled[200];
    char *dot;

    snprintf(section, sizeof section, "%s", path);
    dot = strrchr(section, '.');
    if (dot == NULL) {
        return 0;
    }
    *dot = '\0';
    snprintf(enabled, sizeof enabled, "%s.enabled", section);
    return (sherd__key_find(section)->flags & SHERD__KEY_QUIET) != 0 ||
           (strcmp(enabled, path) != 0 && sherd__key_find(section)->status == SHERD_KEY_NO_EFFECT &&
            sherd__key_find(enabled) != NULL);
}

static void keys_without_effect_warn_and_change_nothing(void **state)
{
    size_t seen = 0;

    (void)state;
    for (size_t i = 0; i < sherd__keys_count; i++) {
        const sherd__key *key = &sherd__keys[i];
        int silent = lies_in_silence(key->path);
        parsed p, bare;

        if (key->status != SHERD_KEY_NO_EFFECT || (key->type == SHERD__OBJECT && !(key->flags & SHERD__KEY_OPEN))) {
            continue;
        }
        parse_key(&p, key->path, other_value(key));
        parse_key(&bare, key->path, "null");
        if (p.status != SHERD_OK || p.warnings != !silent) {
            fail_msg("%s: %d warnings, %d expected: %s", key->path, p.warnings, !silent, p.lines);
        }
        assert_memory_equal(&p.config, &bare.config, sizeof p.config);
        seen++;
    }
    assert_true(seen > 40);
}

static void refused_keys_are_refused(void **state)
{
    static const char *const more[][2] = {
        {"zero_optimization.stage", "3"}, {"optimizer.type", "\"onebitadam\""},
        {"zero_optimization.offload_param.device", "\"nvme\""},
    };
    size_t seen = 0;
    parsed p;

    (void)state;
    for (size_t i = 0; i < sherd__keys_count; i++) {
        const sherd__key *key = &sherd__keys[i];

        if (key->status != SHERD_KEY_REFUSED || (key->flags & SHERD__KEY_FORBIDDEN) || strstr(key->path, "device") ||
            key->store != SHERD__STORE_NONE) {
            continue;
        }
        parse_key(&p, key->path, other_value(key));
        assert_int_equal(p.status, SHERD_EUNSUPPORTED);
        assert_non_null(strstr(p.error.text, key->note));
        seen++;
    }
    assert_true(seen >= 9);
    for (size_t i = 0; i < sizeof more / sizeof more[0]; i++) {
        parse_key(&p, more[i][0], more[i][1]);
        assert_int_equal(p.status, SHERD_EUNSUPPORTED);
    }
}

static void what_asks_for_nothing_is_fine(void **state)
{
    parsed p;

    (void)state;
    parse(&p, "{\"fp16\": {\"enabled\": false, \"loss_scale\": 128, \"hysteresis\": 4},"
              " \"zero_optimization\": {\"offload_optimizer\": {\"device\": \"none\", \"ratio\": 0.5},"
              " \"offload_param\": null, \"cpu_offload\": false, \"zenflow\": null},"
              " \"elasticity\": {\"enabled\": false, \"micro_batch_sizes\": [8]}, \"wandb\": {\"enabled\": false, "
              "\"project\": \"p\"}, \"communication_data_type\": \"fp32\", \"optimizer\": {\"type\": \"AdamW\"}}");
    assert_string_equal(p.error.text, "");
    assert_string_equal(p.lines, "");
}

static void warnings_name_place_and_reason(void **state)
{
    parsed p;

    (void)state;
    parse(&p, "{\"optimizer\": {\"type\": \"SGD\"},\n \"gradient_cliping\": 1, \"x\": {\"y\": 2},\n"
              " \"zero_optimization\": {\"sub_group_size\": 3}, \"elasticity\": {\"enabled\": false}, "
              "\"comms_logger\": {\"verbose\": true}}");
    assert_int_equal(p.status, SHERD_OK);
    assert_string_equal(p.lines,
                        "ds.json: line 2, column 2: gradient_cliping: unknown key, ignored; did you mean "
                        "gradient_clipping?\n"
                        "ds.json: line 2, column 25: x: unknown key, ignored; remove it\n"
                        "ds.json: line 3, column 24: zero_optimization.sub_group_size: has no effect: updates run bucket by "
                        "bucket\n"
                        "ds.json: line 3, column 80: comms_logger: has no effect: Sherd has no such profiler; sherd train "
                        "--trace FILE and sherd bench show where the time goes\n");
}

static void optimizers_have_their_own_defaults(void **state)
{
    parsed p;
    (void)state;
    parse(&p, "{\"optimizer\": {\"type\": \"Adagrad\"}}");
    assert_true(p.config.optimizer.lr == 1e-2 && p.config.optimizer.eps == 1e-10);
    parse(&p, "{\"optimizer\": {\"type\": \"Adagrad\", \"params\": {\"lr\": 0.5, \"eps\": \"auto\"}}}");
    assert_true(p.config.optimizer.lr == 0.5 && p.config.optimizer.eps == 1e-10);
    parse(&p, "{\"optimizer\": {\"type\": \"Adagrad\", \"params\": {\"lr\": \"auto\", \"eps\": 1e-3}}}");
    assert_true(p.config.optimizer.lr == 1e-2 && p.config.optimizer.eps == 1e-3);
    parse(&p, "{\"optimizer\": {\"type\": \"Lion\"}}");
    assert_true(p.config.optimizer.lr == 1e-3 && p.config.optimizer.beta1 == 0.9 && p.config.optimizer.beta2 == 0.999);
}

static void absent_optimizer_is_said(void **state)
{
    parsed p;

    (void)state;
    parse(&p, "{}");
    assert_int_equal(p.infos, 1);
    assert_string_equal(p.lines, "ds.json: no optimizer section, so AdamW with lr 0.001, betas [0.9, 0.999], eps "
                        "1e-08, weight_decay 0\n");
}

static void adamw_is_not_changed_by_adam_w_mode(void **state)
{
    parsed p;

    (void)state;
    parse(&p, "{\"optimizer\": {\"type\": \"AdamW\", \"params\": {\"adam_w_mode\": false}}}");
    assert_int_equal(p.config.optimizer.kind, SHERD_ADAMW);
    assert_int_equal(p.warnings, 1);
}

static void sets_make_objects_and_come_in_order(void **state)
{
    const char *sets[] = {"bf16.enabled=true", "optimizer.type=SGD", "optimizer.params.lr=0.5",
                          "optimizer.params.lr=5e-1",
                          "zero_optimization=true", "zero_optimization.stage=2", "sherd.grad_sum=bf16",
                          "optimizer.params={\"momentum\": 0.5}"};
    sherd_config config;
    sherd_error err;

    (void)state;
    sherd_config_init(&config, sizeof config);
    assert_int_equal(sherd_config_read(&config, NULL, sets, sizeof sets / sizeof sets[0], NULL, &err), SHERD_OK);
    assert_int_equal(config.dtype, SHERD_BF16);
    assert_int_equal(config.optimizer.kind, SHERD_SGD);
    assert_true(config.optimizer.lr == 1e-3); /* the last set replaced the whole object */
    assert_true(config.optimizer.momentum == 0.5);
    assert_int_equal(config.zero.stage, 2);
    assert_int_equal(config.sherd.grad_sum_bf16, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_change_nothing),
        cmocka_unit_test(honoured_keys_arrive),
        cmocka_unit_test(every_honoured_key_is_tested),
        cmocka_unit_test(folders_and_cores_arrive),
        cmocka_unit_test(keys_without_effect_warn_and_change_nothing),
        cmocka_unit_test(refused_keys_are_refused),
        cmocka_unit_test(what_asks_for_nothing_is_fine),
        cmocka_unit_test(warnings_name_place_and_reason),
        cmocka_unit_test(absent_optimizer_is_said), cmocka_unit_test(optimizers_have_their_own_defaults),
        cmocka_unit_test(adamw_is_not_changed_by_adam_w_mode),
        cmocka_unit_test(sets_make_objects_and_come_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
