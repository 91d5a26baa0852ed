/* SPDX-License-Identifier: MIT
 *
 * gpu SHERD absent|train: the command's --device cuda. `absent`: without CUDA in the build, without a driver or a GPU
 * it ends with one sentence, however the ranks would have come to be. `train`: losses beside the host's, bits equal
 * between ways to start, memory told from the ledger. Skipped (77) where there is a GPU, or none.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cli/command.h"

enum { SKIPPED = 77, STEPS = 4 };

#define TRAIN "train --model tiny --data text.txt --set train_batch_size=4 --seq 16 --threads 1 --steps 4 "

static outcome o;
static const char *reason; /* what the sentence says where nothing can run on a GPU; NULL: something can */

static void learn(void)
{
    command_run(&o, "", "info");
    reason = strstr(o.out, "cuda: no") != NULL        ? "built without CUDA"
             : strstr(o.out, "no usable GPU") != NULL ? "no usable GPU"
                                                      : NULL;
}

static void one_sentence_and_no_step(void **state)
{
    static const char *const ways[] = {"", "--ranks 2", "--comm direct --ranks 4", "--comm nccl",
                                       "--comm nccl --ranks 2"};

    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        char *found;

        command_run(&o, "", TRAIN "--device cuda %s 2>&1", ways[i]);
        found = strstr(o.out, reason);
        if (found == NULL || strstr(found + 1, reason) != NULL) {
            fail_msg("'%s' is not said once: %s", reason, o.out);
        }
        assert_int_equal(o.code, 1);
        assert_null(strstr(o.out, "loss at"));
    }
    command_run(&o, "", "bench --model tiny --seq 16 --device cuda 2>&1 >/dev/null");
    assert_non_null(strstr(o.out, reason));
    assert_int_equal(o.code, 1);
}

/* Losses of the steps, and the last record. */
static json_t *train(const char *how, double loss[STEPS])
{
    json_t *log, *last;

    command_run(&o, "", TRAIN "%s --log gpu.jsonl 2>&1", how);
    if (o.code != 0) {
        fail_msg("%s: exit code %d: %s", how, o.code, o.out);
    }
    log = command_log("gpu.jsonl");
    assert_int_equal(json_array_size(log), STEPS + 1);
    for (size_t s = 0; s < STEPS; s++) {
        loss[s] = json_number_value(json_object_get(json_array_get(log, s), "loss"));
    }
    last = json_incref(json_array_get(log, STEPS));
    json_decref(log);
    return last;
}

static void losses_are_near_the_host_s(void **state)
{
    static const struct {
        const char *config;
        double bound; /* fp32: other orders of sums; bf16: 8 bits a rounding, fp16: 11, over a few layers */
    } rows[] = {
        {"--ranks 2 --set zero_optimization.stage=2", 1e-3},
        {"--ranks 1 --set bf16.enabled=true", 3e-2},
        {"--ranks 2 --set fp16.enabled=true --set fp16.initial_scale_power=10", 3e-2},
        {"--ranks 2 --set bf16.enabled=true --set zero_optimization.stage=1", 3e-2},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        double host[STEPS], gpu[STEPS];
        char how[256];

        json_decref(train(rows[i].config, host));
        snprintf(how, sizeof how, "--device cuda %s", rows[i].config);
        json_decref(train(how, gpu));
        for (int s = 0; s < STEPS; s++) {
            if (!(fabs(gpu[s] - host[s]) <= rows[i].bound)) {
                fail_msg("%s: step %d: loss %.6f, on the host %.6f", rows[i].config, s + 1, gpu[s], host[s]);
            }
        }
        assert_true(gpu[STEPS - 1] < gpu[0]);
    }
}

static void stages_have_the_same_bits(void **state)
{
    char first[80] = "", text[80];
    double loss[STEPS];

    (void)state;
    for (int i = 0; i < 3; i++) {
        char how[128];

        snprintf(how, sizeof how, "--device cuda --ranks 2 --set bf16.enabled=true --set zero_optimization.stage=%d",
                 i % 3);
        json_decref(train(how, loss));
        command_hashes("gpu.jsonl", text);
        assert_string_equal(i > 0 ? first : text, text);
        memcpy(first, text, sizeof text);
    }
}

/* A world of one over NCCL, which then has nothing to send; --comm and the configuration mean the same. */
static void nccl_alone_has_the_bits_of_direct(void **state)
{
    static const char *const ways[] = {"", "--comm nccl", "--set sherd.transport=nccl"};
    char first[80] = "", text[80];

    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        command_run(&o, "", TRAIN "--device cuda --set bf16.enabled=true --log nccl.jsonl %s 2>&1", ways[i]);
        if (i > 0 && o.code == 1 && strstr(o.out, "libnccl") != NULL) {
            print_message("no NCCL here: %s\n", o.out);
            skip();
        }
        if (o.code != 0) {
            fail_msg("%s: exit code %d: %s", ways[i], o.code, o.out);
        }
        assert_true((strstr(o.out, "NCCL") != NULL) == (i > 0));
        command_hashes("nccl.jsonl", text);
        assert_string_equal(i > 0 ? first : text, text);
        memcpy(first, text, sizeof text);
    }
}

/* The engine's own categories: as planned. And what only a device has. */
static void memory_is_told(void **state)
{
    double loss[STEPS];
    json_t *last = train("--device cuda --ranks 2 --set zero_optimization.stage=2", loss), *ranks, *rank, *bytes;
    const char *category;
    size_t index, seen = 0;

    (void)state;
    assert_non_null(strstr(o.out, "total on the device"));
    assert_non_null(strstr(o.out, "the ranks are threads of one process"));
    ranks = json_object_get(last, "ranks");
    assert_int_equal(json_array_size(ranks), 2);
    json_array_foreach(ranks, index, rank)
    {
        json_t *plan = json_object_get(json_object_get(rank, "plan"), "device");
        json_t *live = json_object_get(json_object_get(rank, "live"), "device");

        json_object_foreach(plan, category, bytes)
        {
            if (strcmp(category, "rounding") != 0) {
                assert_int_equal(json_integer_value(json_object_get(live, category)), json_integer_value(bytes));
                seen++;
            }
        }
        assert_true(json_integer_value(json_object_get(live, "activations")) > 0);
        assert_true(json_integer_value(json_object_get(rank, "peak_bytes")) > 0);
    }
    assert_true(seen >= 8);
    assert_true(json_integer_value(json_object_get(json_object_get(last, "gpu"), "total_bytes")) > 0);
    json_decref(last);
}

static void bench_runs_and_nccl_wants_a_gpu_a_rank(void **state)
{
    (void)state;
    command_run(&o, "",
                "bench --model tiny --seq 16 --batch 2,16000000 --steps 2 --device cuda --ranks 2 --json 2>/dev/null");
    assert_int_equal(o.code, 0);
    assert_non_null(strstr(o.out, "\"fits\": true"));
    assert_non_null(strstr(o.out, "\"fits\": false"));
    assert_non_null(strstr(o.out, "\"flops_per_token\": "));
    command_run(&o, "", TRAIN "--device cuda --comm nccl --set train_batch_size=64 --ranks 64 2>&1");
    assert_int_equal(o.code, 1);
    assert_non_null(strstr(o.out, "a GPU for each rank"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest absent[] = {cmocka_unit_test(one_sentence_and_no_step)};
    const struct CMUnitTest present[] = {
        cmocka_unit_test(losses_are_near_the_host_s),
        cmocka_unit_test(stages_have_the_same_bits),
        cmocka_unit_test(nccl_alone_has_the_bits_of_direct),
        cmocka_unit_test(memory_is_told),
        cmocka_unit_test(bench_runs_and_nccl_wants_a_gpu_a_rank),
    };
    int wants_absent;

    if (argc != 3) {
        fprintf(stderr, "usage: %s SHERD absent|train\n", argv[0]);
        return EXIT_FAILURE;
    }
    wants_absent = strcmp(argv[2], "absent") == 0;
    command_begin(argv[1]);
    learn();
    if ((reason != NULL) != wants_absent) {
        printf("skipped: %s\n", reason != NULL ? reason : "there is a GPU");
        command_end(NULL);
        return SKIPPED;
    }
    return wants_absent ? cmocka_run_group_tests(absent, NULL, command_end)
                        : cmocka_run_group_tests(present, NULL, command_end);
}
