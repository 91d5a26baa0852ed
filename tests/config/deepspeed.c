/* SPDX-License-Identifier: MIT
 *
 * Whole configurations in the style of public ones, tests/config/deepspeed/NAME.json, each with NAME.expect beside it:
 *
 *     world 8                        ranks that the batch triad is resolved for
 *     MEMBER = VALUE                 of the resolved sherd_config; every member not named has its default
 *     warning: LINE  or  info: LINE  what the log says, in this order and nothing else
 *     refused: SENTENCE              or invalid: SENTENCE: EUNSUPPORTED or EINVAL, from reading or from the triad
 *
 * A configuration is honoured, explained or refused, and this says which, to the letter.
 */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/config/parse.h"

enum { TEXT_MAX = 8192 };

static const char *folder;

#define M(name, kind)                                                                                                  \
    {                                                                                                                  \
#name, offsetof(sherd_config, name), kind                                                                      \
    }

/* Kinds: i int32, l int64, d double, s text. */
static const struct {
    const char *name;
    size_t offset;
    char kind;
} members[] = {
    M(train_batch_size, 'l'),
    M(train_micro_batch_size_per_gpu, 'l'),
    M(gradient_accumulation_steps, 'l'),
    M(steps_per_print, 'l'),
    M(gradient_clipping, 'd'),
    M(gradient_predivide_factor, 'd'),
    M(prescale_gradients, 'i'),
    M(allreduce_sum, 'i'),
    M(wall_clock_breakdown, 'i'),
    M(memory_breakdown, 'i'),
    M(dtype, 'i'),
    M(check_grad_overflow, 'i'),
    M(zero.stage, 'i'),
    M(zero.reduce_bucket_size, 'l'),
    M(zero.allgather_bucket_size, 'l'),
    M(zero.overlap_comm, 'i'),
    M(zero.ignore_unused_parameters, 'i'),
    M(optimizer.kind, 'i'),
    M(optimizer.lr, 'd'),
    M(optimizer.beta1, 'd'),
    M(optimizer.beta2, 'd'),
    M(optimizer.eps, 'd'),
    M(optimizer.weight_decay, 'd'),
    M(optimizer.momentum, 'd'),
    M(optimizer.bias_correction, 'i'),
    M(scheduler.kind, 'i'),
    M(scheduler.warmup_min_lr, 'd'),
    M(scheduler.warmup_max_lr, 'd'),
    M(scheduler.warmup_min_ratio, 'd'),
    M(scheduler.cos_min_ratio, 'd'),
    M(scheduler.warmup_num_steps, 'l'),
    M(scheduler.total_num_steps, 'l'),
    M(scheduler.warmup_linear, 'i'),
    M(n_groups, 'i'),
    M(sherd.grad_sum_bf16, 'i'),
    M(moments_bf16, 'i'),
    M(wire, 'i'),
    M(sherd.exact_bucket_size, 'i'),
    M(sherd.warn_after_s, 'd'),
    M(sherd.fail_after_s, 'd'),
    M(silent_after_s, 'd'),
    M(offload.tier, 'i'),
    M(offload.ratio, 'd'),
    M(offload.device_memory_budget, 'l'),
    M(offload.host_memory_budget, 'l'),
    M(offload.speculate, 'i'),
    M(offload.buffer_count, 'i'),
    M(offload.pin_memory, 'i'),
    M(offload.host_threads, 'i'),
    M(offload.host_kernels, 'i'),
    M(offload.aio_block_size, 'l'),
    M(offload.aio_queue_depth, 'i'),
    M(offload.aio_single_submit, 'i'),
    M(offload.aio_overlap_events, 'i'),
    M(offload.nvme_path, 's'),
    M(offload.host_topology, 's'),
    M(offload.host_cores, 's'),
    M(transport.kind, 'i'),
    M(transport.reduction, 'i'),
    M(one_cycle.min_lr, 'd'),
    M(one_cycle.max_lr, 'd'),
    M(one_cycle.decay_lr_rate, 'd'),
    M(one_cycle.first_step_size, 'l'),
    M(one_cycle.second_step_size, 'l'),
    M(one_cycle.first_stair_count, 'l'),
    M(one_cycle.second_stair_count, 'l'),
    M(one_cycle.decay_step_size, 'l'),
    M(one_cycle.cycle_momentum, 'i'),
    M(one_cycle.min_mom, 'd'),
    M(one_cycle.max_mom, 'd'),
    M(one_cycle.decay_mom_rate, 'd'),
    M(lr_range_test.min_lr, 'd'),
    M(lr_range_test.step_rate, 'd'),
    M(lr_range_test.step_size, 'l'),
    M(lr_range_test.staircase, 'i'),
    M(lamb.max_coeff, 'd'),
    M(lamb.min_coeff, 'd'),
    M(muon.muon_lr, 'd'),
    M(muon.adam_lr, 'd'),
    M(muon.nesterov, 'i'),
    M(muon.ns_steps, 'i'),
    M(scaling.kind, 'i'),
    M(scaling.loss_scale, 'd'),
    M(scaling.min_loss_scale, 'd'),
    M(scaling.initial_scale_power, 'i'),
    M(scaling.hysteresis, 'i'),
    M(scaling.consecutive_hysteresis, 'i'),
    M(tensorboard.enabled, 'i'),
    M(tensorboard.output_path, 's'),
    M(tensorboard.job_name, 's'),
    M(csv_monitor.enabled, 'i'),
    M(csv_monitor.output_path, 's'),
    M(csv_monitor.job_name, 's'),
    M(reproducible, 'i'),
    M(scaling.loss_scale_window, 'l'),
};
enum { MEMBERS = sizeof members / sizeof members[0] };

/* What stands for numbers in the expectations. */
static const struct {
    const char *name;
    double value;
} words[] = {
    {"fp32", SHERD_FP32},
    {"bf16", SHERD_BF16},
    {"fp16", SHERD_FP16},
    {"AdamW", SHERD_ADAMW},
    {"Adam", SHERD_ADAM},
    {"SGD", SHERD_SGD},
    {"Lion", SHERD_LION},
    {"Lamb", SHERD_LAMB},
    {"Muon", SHERD_MUON},
    {"Adagrad", SHERD_ADAGRAD},
    {"WarmupLR", SHERD_SCHED_WARMUP},
    {"WarmupDecayLR", SHERD_SCHED_WARMUP_DECAY},
    {"WarmupCosineLR", SHERD_SCHED_WARMUP_COSINE},
    {"OneCycle", SHERD_SCHED_ONE_CYCLE},
    {"LRRangeTest", SHERD_SCHED_LR_RANGE_TEST},
    {"host", SHERD_TIER_HOST},
    {"disk", SHERD_TIER_DISK},
    {"static", SHERD_SCALING_STATIC},
    {"dynamic", SHERD_SCALING_DYNAMIC},
    {"fp32-wire", SHERD_WIRE_FP32},
    {"bf16-wire", SHERD_WIRE_BF16},
    {"fp16-wire", SHERD_WIRE_FP16},
};

typedef struct expectation {
    int world;
    sherd_status status;
    char lines[TEXT_MAX], sentence[512]; /* of the log; of the fault */
    char seen[MEMBERS];
    sherd_config config;
} expectation;

static double number_of(const char *file, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i].name) == 0) {
            return words[i].value;
        }
    }
    if (end == text || *end != '\0') {
        fail_msg("%s: '%s' is neither a number nor a word", file, text);
    }
    return value;
}

static void set_member(expectation *e, const char *file, const char *name, const char *text)
{
    for (size_t i = 0; i < MEMBERS; i++) {
        char *at = (char *)&e->config + members[i].offset;

        if (strcmp(members[i].name, name) != 0) {
            continue;
        }
        if (members[i].kind == 's') {
            snprintf(at, SHERD_PATHS_MAX, "%s", text);
        } else if (members[i].kind == 'd') {
            *(double *)(void *)at = number_of(file, text);
        } else if (members[i].kind == 'l') {
            *(int64_t *)(void *)at = (int64_t)number_of(file, text);
        } else {
            *(int32_t *)(void *)at = (int32_t)number_of(file, text);
        }
        e->seen[i] = 1;
        return;
    }
    fail_msg("%s: there is no member '%s'", file, name);
}

static void read_line(expectation *e, const char *file, char *line)
{
    char name[64], value[256];
    size_t used = strlen(e->lines);
    char *colon = strstr(line, ": ");

    if (sscanf(line, "world %d", &e->world) == 1) {
        return;
    }
    if (strncmp(line, "warning: ", 9) == 0 || strncmp(line, "info: ", 6) == 0) {
        snprintf(e->lines + used, sizeof e->lines - used, "%s\n", line);
    } else if (strncmp(line, "refused: ", 9) == 0 || strncmp(line, "invalid: ", 9) == 0) {
        e->status = line[0] == 'r' ? SHERD_EUNSUPPORTED : SHERD_EINVAL;
        snprintf(e->sentence, sizeof e->sentence, "%s", colon + 2);
    } else if (sscanf(line, "%63s = %255s", name, value) == 2) {
        set_member(e, file, name, value);
    } else {
        fail_msg("%s: '%s' is not understood", file, line);
    }
}

static void read_expectation(const char *name, expectation *e)
{
    char path[512], line[1024];
    FILE *file;

    memset(e, 0, sizeof *e);
    e->world = 8;
    sherd_config_init(&e->config, sizeof e->config);
    snprintf(path, sizeof path, "%s/%s.expect", folder, name);
    file = fopen(path, "r");
    if (file == NULL) {
        fail_msg("%s: there is no expectation", path);
        return;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0' && line[0] != '#') {
            read_line(e, path, line);
        }
    }
    fclose(file);
}

typedef struct log_lines {
    char text[TEXT_MAX];
} log_lines;

static void keep_line(void *ctx, sherd_log_level level, const char *text)
{
    log_lines *log = ctx;
    size_t used = strlen(log->text);

    snprintf(log->text + used, sizeof log->text - used, "%s: %s\n", level == SHERD_LOG_WARNING ? "warning" : "info",
             text);
}

static sherd_status read_and_resolve(const char *name, int world, sherd_config *config, log_lines *lines,
                                     sherd_error *err)
{
    char path[512], file_name[256];
    static char text[TEXT_MAX];
    sherd_log log = {keep_line, lines};
    sherd_status status;
    FILE *file;
    size_t bytes;

    snprintf(path, sizeof path, "%s/%s.json", folder, name);
    snprintf(file_name, sizeof file_name, "%s.json", name);
    file = fopen(path, "r");
    assert_non_null(file);
    bytes = fread(text, 1, sizeof text, file);
    assert_true(bytes < sizeof text && !ferror(file));
    fclose(file);
    sherd_config_init(config, sizeof *config);
    status = sherd_config_parse(config, text, bytes, file_name, NULL, 0, &log, err);
    return status == SHERD_OK ? sherd_config_resolve(config, world, err) : status;
}

static int same_member(size_t i, const sherd_config *a, const sherd_config *b)
{
    const char *x = (const char *)a + members[i].offset, *y = (const char *)b + members[i].offset;
    size_t bytes = members[i].kind == 'i' ? 4 : 8;

    return members[i].kind == 's' ? strcmp(x, y) == 0 : memcmp(x, y, bytes) == 0;
}

static int check(const char *name)
{
    static expectation e;
    static log_lines lines;
    sherd_config got;
    sherd_error err = {.text = ""};
    int wrong = 0;

    memset(&lines, 0, sizeof lines);
    read_expectation(name, &e);
    if (read_and_resolve(name, e.world, &got, &lines, &err) != e.status || strcmp(err.text, e.sentence) != 0) {
        print_error("%s: says '%s', not '%s'\n", name, err.text, e.sentence);
        wrong++;
    }
    if (strcmp(lines.text, e.lines) != 0) {
        print_error("%s: the log says\n%snot\n%s", name, lines.text, e.lines);
        wrong++;
    }
    for (size_t i = 0; i < MEMBERS && e.status == SHERD_OK; i++) {
        if (!same_member(i, &got, &e.config)) {
            print_error("%s: %s is not %s\n", name, members[i].name, e.seen[i] ? "what is expected" : "its default");
            wrong++;
        }
    }
    return wrong;
}

static void every_configuration_is_as_expected(void **state)
{
    int seen[3] = {0}, wrong = 0;
    struct dirent *entry;
    DIR *dir = opendir(folder);

    (void)state;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char name[256];
        static expectation e;
        char *dot;

        snprintf(name, sizeof name, "%s", entry->d_name);
        dot = strrchr(name, '.');
        if (dot == NULL || strcmp(dot, ".json") != 0) {
            continue;
        }
        *dot = '\0';
        wrong += check(name);
        read_expectation(name, &e);
        seen[e.status != SHERD_OK ? 2 : e.lines[0] != '\0']++;
    }
    closedir(dir);
    print_message("%d honoured without a word, %d explained, %d refused\n", seen[0], seen[1], seen[2]);
    assert_int_equal(wrong, 0);
    assert_true(seen[0] + seen[1] + seen[2] >= 25 && seen[0] >= 8 && seen[1] >= 4 && seen[2] >= 8);
}

/* The comparison itself: an expectation that is wrong in one place is found. */
static void a_wrong_expectation_is_found(void **state)
{
    sherd_config a, b;

    (void)state;
    sherd_config_init(&a, sizeof a);
    for (size_t i = 0; i < MEMBERS; i++) {
        sherd_config_init(&b, sizeof b);
        assert_true(same_member(i, &a, &b));
        *((char *)&b + members[i].offset) ^= 1;
        assert_false(same_member(i, &a, &b));
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_configuration_is_as_expected),
        cmocka_unit_test(a_wrong_expectation_is_found),
    };

    if (argc != 2) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return EXIT_FAILURE;
    }
    folder = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
