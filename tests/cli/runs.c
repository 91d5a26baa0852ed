/* SPDX-License-Identifier: MIT
 *
 * The command end to end on the smallest decoder: what it prints, logs and exits with. With a second argument, the
 * program that starts MPI ranks: those runs only.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/cli/command.h"

#define TRAIN "train --model tiny --data text.txt --set train_batch_size=12 --seq 16 --threads 1 "

static const char *mpirun;
static outcome o;

static void assert_says(const char *what)
{
    if (strstr(o.out, what) == NULL) {
        fail_msg("'%s' is not in: %s", what, o.out);
    }
}

static void assert_code(int code)
{
    if (o.code != code) {
        fail_msg("exit code %d, not %d: %s", o.code, code, o.out);
    }
}

static void wrong_arguments_end_in_a_sentence(void **state)
{
    static const struct {
        const char *arguments, *sentence;
        int code;
    } rows[] = {
        {"", "usage: sherd COMMAND", 2},
        {"fly", "sherd: 'fly' is not a command; give train, bench, memory, plan, info, checkpoint or tokens\n", 2},
        {"train", "sherd: train needs --model and --data; `sherd train --help` says more\n", 2},
        {"train --fly", "sherd train: unrecognized option '--fly'", 2},
        {"train fly", "sherd train: 'fly' is not understood", 2},
        {"train --steps 0", "sherd train: --steps 0: not an integer from 1 to 2147483647", 2},
        {"train --ranks two", "sherd train: --ranks two: not an integer from 1 to 1048576", 2},
        {"train --device tpu", "sherd train: --device tpu: give host, cuda or check", 2},
        {"train --comm mpi", "sherd train: --comm mpi: give direct or nccl", 2},
        {TRAIN "--ranks 2 --comm nccl", "sherd: NCCL is for GPUs; add --device cuda, or leave out --comm nccl", 2},
        {TRAIN "--ranks-per-node 1", "sherd: --ranks-per-node is for MPI's messages between nodes: start the ranks with mpirun", 2},
        {"plan --model tiny --ranks-per-node 1", "sherd: --ranks-per-node is for plans with --set sherd.transport=mpi", 2},
        {"memory", "sherd: memory needs either --model or --params", 2},
        {"memory --params 1e9 --gpu-memory 3X", "sherd memory: --gpu-memory 3X: not a number of bytes", 2},
        {"bench --model tiny --batch 1,x", "sherd bench: --batch x: not an integer", 2},
        {"plan", "sherd: plan needs --model", 2},
        {TRAIN "--set zero_optimization.stge=1", "sherd: --set zero_optimization.stge=1: zero_optimization.stge: "
         "unknown key, did you mean zero_optimization.stage?\n", 1},
        {TRAIN "--set zero_optimization.stage=3", "sherd: --set zero_optimization.stage=3: zero_optimization.stage: "
         "3 is refused", 1},
        {TRAIN "--config missing.json", "sherd: missing.json: cannot be opened: No such file or directory\n", 1},
        {TRAIN "--ranks 5", "sherd: train_batch_size 12, train_micro_batch_size_per_gpu 0, "
         "gradient_accumulation_steps 0 on 5 ranks", 1},
        {TRAIN "--data missing.txt", "sherd: missing.txt: No such file or directory\n", 1},
        {TRAIN "--seq 50000", "sherd: text.txt: 40", 1},
        {TRAIN "--log missing/run.jsonl", "sherd: --log missing/run.jsonl: cannot be written: No such file or "
         "directory\n", 1},
        {"train --model none --data text.txt --set train_batch_size=1", "sherd: model 'none' is neither a preset", 1},
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        command_run(&o, "", "%s 2>&1", rows[i].arguments);
        assert_says(rows[i].sentence);
        assert_code(rows[i].code);
    }
}

static void the_log_has_every_field(void **state)
{
    static const char *const fields[] = {"step", "loss", "grad_norm", "lr", "loss_scale", "step_ms", "forward_ms",
                                         "backward_ms", "exposed_comm_ms", "update_ms", "tokens_per_s",
                                         "samples_per_s"};
    FILE *old = fopen("fields.jsonl", "w");
    json_t *log, *last;
    double first, loss = 0;

    (void)state;
    assert_non_null(old);
    fputs("what stood there before\n", old);
    fclose(old);
    command_run(&o, "", TRAIN "--steps 12 --log fields.jsonl --sample 20 --prompt 'the ' 2>&1");
    assert_code(0);
    assert_says("loss at start");
    assert_says("process PSS");
    assert_says("continuation of \"the \"");
    log = command_log("fields.jsonl");
    assert_int_equal(json_array_size(log), 13);
    for (size_t i = 0; i < 12; i++) {
        json_t *record = json_array_get(log, i);

        for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
            if (!json_is_number(json_object_get(record, fields[f]))) {
                fail_msg("step %zu has no number %s", i + 1, fields[f]);
            }
        }
        assert_int_equal(json_integer_value(json_object_get(record, "step")), (json_int_t)i + 1);
        assert_true(json_is_false(json_object_get(record, "skipped")));
        assert_true(json_integer_value(json_object_get(json_object_get(json_object_get(record, "memory"), "device"),
                                                       "moments")) > 0);
        loss = json_number_value(json_object_get(record, "loss"));
    }
    first = json_number_value(json_object_get(json_array_get(log, 0), "loss"));
    assert_true(first > 5.2 && first < 5.8); /* about ln 256 */
    assert_true(loss < first - 0.5);
    last = json_array_get(log, 12);
    assert_true(json_number_value(json_object_get(last, "loss_last")) == loss);
    assert_int_equal(json_integer_value(json_object_get(last, "tokens")), 12 * 12 * 16);
    assert_int_equal(json_array_size(json_object_get(last, "ranks")), 1);
    json_decref(log);
}

/* The ledger is the plan, category by category, on every rank. */
static void assert_ledger_is_plan(const char *name, size_t ranks)
{
    json_t *log = command_log(name), *list, *rank, *bytes;
    const char *category;
    size_t index, seen = 0;

    list = json_object_get(json_array_get(log, json_array_size(log) - 1), "ranks");
    assert_int_equal(json_array_size(list), ranks);
    json_array_foreach(list, index, rank) {
        json_t *plan = json_object_get(json_object_get(rank, "plan"), "device");
        json_t *live = json_object_get(json_object_get(rank, "live"), "device");

        json_object_foreach(plan, category, bytes) {
            assert_int_equal(json_integer_value(json_object_get(live, category)), json_integer_value(bytes));
            seen++;
        }
    }
    assert_true(seen >= 4 * ranks);
    json_decref(log);
}

static void every_way_to_start_ranks_gives_the_same_bits(void **state)
{
    static const char *const ways[] = {
        "--set zero_optimization.stage=0", "--set zero_optimization.stage=1", "--set zero_optimization.stage=2",
        "--set zero_optimization.stage=2 --device check", "--set zero_optimization.stage=1 --threads 2",
    };
    char first[80] = "", text[80];

    (void)state;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        command_run(&o, "", TRAIN "--set bf16.enabled=true --steps 5 --ranks 2 --log bits.jsonl %s 2>&1", ways[i]);
        assert_code(0);
        command_hashes("bits.jsonl", text);
        assert_string_equal(i > 0 ? first : text, text);
        memcpy(first, text, sizeof text);
        assert_ledger_is_plan("bits.jsonl", 2);
    }
    assert_int_equal(remove("bits.jsonl"), 0);
}

/* The first scale overflows; the steps skipped then, the scale and the way products go are said. */
static void fp16_trains_and_says_its_scale(void **state)
{
    char first[80] = "", text[80];

    (void)state;
    for (int stage = 0; stage < 3; stage++) {
        command_run(&o, "", TRAIN "--set fp16.enabled=true --set fp16.initial_scale_power=32 --set fp16.hysteresis=1 "
                    "--steps 24 --ranks 2 --log fp16.jsonl --set zero_optimization.stage=%d 2>&1", stage);
        assert_code(0);
        assert_says("stored in fp16, computed in fp32");
        assert_says("  loss scale 4.29497e+09  ");
        assert_says("is not finite)");
        command_hashes("fp16.jsonl", text);
        assert_string_equal(stage > 0 ? first : text, text);
        memcpy(first, text, sizeof text);
        assert_ledger_is_plan("fp16.jsonl", 2);
    }
    json_t *log = command_log("fp16.jsonl"), *last = json_array_get(log, 24);
    json_int_t skipped = json_integer_value(json_object_get(last, "skipped"));
    double scale = json_number_value(json_object_get(json_array_get(log, 23), "loss_scale"));
    assert_true(skipped >= 8 && skipped < 24 && scale == 4294967296.0 / (double)(1 << skipped));
    snprintf(text, sizeof text, "loss scale             %g, %d of 24 steps skipped\n", scale, (int)skipped);
    assert_says(text);
    assert_true(json_number_value(json_object_get(last, "loss_last")) <
                json_number_value(json_object_get(last, "loss_first")));
    json_decref(log);
    assert_int_equal(remove("fp16.jsonl"), 0);
}

/* Losses, norms and weights of eight micro-batches per step, whoever computes them; and that the key is what does it. */
static void reproducible_runs_agree_over_worlds(void **state)
{
    static const struct {
        const char *arguments;
        int reproducible;
    } rows[] = {{"--set zero_optimization.stage=2 --ranks 1", 1}, {"--set zero_optimization.stage=2 --ranks 2", 1},
                {"--set zero_optimization.stage=2 --ranks 4", 1}, {"--set zero_optimization.stage=1 --ranks 2", 1},
                {"--set zero_optimization.stage=0 --ranks 4", 1}, {"--set zero_optimization.stage=2 --ranks 1", 0}};
    char first[80] = "", text[80];
    double want[4][2];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        json_t *log;

        command_run(&o, "", "train --model tiny --data text.txt --seq 16 --threads 1 --steps 4 --log worlds.jsonl "
                    "--set train_batch_size=8 --set train_micro_batch_size_per_gpu=1 %s %s 2>&1", rows[i].arguments,
                    rows[i].reproducible ? "--set sherd.reproducible=true" : "");
        assert_code(0);
        command_hashes("worlds.jsonl", text);
        log = command_log("worlds.jsonl");
        for (size_t s = 0; s < 4; s++) {
            double loss = json_number_value(json_object_get(json_array_get(log, s), "loss"));
            double norm = json_number_value(json_object_get(json_array_get(log, s), "grad_norm"));

            if (i == 0) {
                want[s][0] = loss;
                want[s][1] = norm;
            }
            assert_true(!rows[i].reproducible || (loss == want[s][0] && norm == want[s][1]));
        }
        json_decref(log);
        memcpy(i == 0 ? first : text, text, sizeof text);
        assert_int_equal(strcmp(first, text) == 0, rows[i].reproducible);
    }
    assert_int_equal(remove("worlds.jsonl"), 0);
}

static void the_checking_device_says_what_it_saw(void **state)
{
    (void)state;
    command_run(&o, "", TRAIN "--steps 2 --ranks 3 --device check --set zero_optimization.stage=2 2>&1");
    assert_code(0);
    assert_says("no conflicting accesses without a wait between them");
    assert_says("the ranks are threads of one process");
}

/* A helper process does `what` to the last of the ranks ($rank) as soon as the first step is in the log, and says when it
 * was through. Markers have this test's process number: other runs of it may be under way. */
static void to_a_rank_later(const char *what)
{
    char script[640];

    snprintf(script, sizeof script,
             "(for i in $(seq 300); do test -s death.jsonl && break; sleep 0.1; done; "
             "rank=$(for p in $(pgrep -f 'sherd-death-%d-marke[r]'); do pgrep -P $p -f 'sherd-death-%d-marke[r]'; done | "
             "sort -n | tail -1); %s; cut -d' ' -f1 /proc/uptime >done) >/dev/null 2>&1 &",
             (int)getpid(), (int)getpid(), what);
    remove("death.jsonl");
    assert_int_equal(system(script), 0);
}

static void a_killed_rank_ends_the_others(void **state)
{
    double killed = 0, ended = 0;
    FILE *file;

    (void)state;
    to_a_rank_later("kill -9 $rank");
    command_run(&o, "", TRAIN "--steps 2000000 --ranks 3 --log death.jsonl --prompt sherd-death-%d-marker 2>&1",
                (int)getpid());
    file = fopen("/proc/uptime", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lf", &ended), 1);
    fclose(file);
    assert_code(137);
    assert_says("was ended by signal 9");
    assert_says(") died during ");
    sleep(1);
    file = fopen("done", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lf", &killed), 1);
    fclose(file);
    assert_true(ended - killed < 10);
}

/* Standard error of a run of two ranks, of which the second is stopped after the first step, and then has done to it what
 * `later` says. */
static void run_with_a_stopped_rank(const char *later)
{
    char what[300];
    FILE *file;

    snprintf(what, sizeof what,
             "kill -STOP $rank; for i in $(seq 200); do grep -q 'did not arrive' stopped.txt && break; sleep 0.1; done; %s",
             later);
    to_a_rank_later(what);
    command_run(&o, "", TRAIN "--steps 2000000 --ranks 2 --log death.jsonl --prompt sherd-death-%d-marker "
                              "--set sherd.warn_after_s=0.5 --set sherd.fail_after_s=2 >/dev/null 2>stopped.txt",
                (int)getpid());
    file = fopen("stopped.txt", "r");
    assert_non_null(file);
    o.out[fread(o.out, 1, sizeof o.out - 1, file)] = '\0';
    fclose(file);
    assert_says("rank 0 waited ");
    assert_says("sherd: rank 0: rank 1 (pid ");
    assert_says(") did not arrive within 2 s at ");
}

/* The survivor says who is missing, and the one that wakes up finds itself alone. */
static void a_stopped_rank_ends_the_others(void **state)
{
    (void)state;
    run_with_a_stopped_rank("kill -CONT $rank");
    assert_code(1);
    assert_says("sherd: rank 1: ");
    assert_null(strstr(o.out, "are killed"));
}

/* One that never wakes up is killed in the end. */
static void a_rank_that_stays_stopped_is_killed(void **state)
{
    (void)state;
    run_with_a_stopped_rank("true");
    assert_code(1);
    assert_says("1 of 2 ranks did not end within 15 s and are killed");
    assert_says("was ended by signal 9");
}

/* 143 = 128 + SIGTERM: the command's own code, which timeout hands on. No rank is left behind. */
static void a_signal_reaches_the_ranks(void **state)
{
    char left[80];

    (void)state;
    command_run(&o, "timeout --preserve-status -s TERM 3",
                TRAIN "--steps 2000000 --ranks 2 --prompt sherd-term-%d-marker 2>&1", (int)getpid());
    assert_code(143);
    assert_says("was ended by signal 15");
    snprintf(left, sizeof left, "pgrep -f 'sherd-term-%d-marke[r]' >/dev/null", (int)getpid());
    assert_int_not_equal(system(left), 0);
}

static void bench_prints_a_row_per_batch(void **state)
{
    json_t *log, *row;

    (void)state;
    command_run(&o, "", "bench --model tiny --batch 1,3,16000000 --seq 16 --steps 3 --ranks 2 --threads 1 --json "
                        "--set zero_optimization.stage=2 >bench.jsonl");
    assert_code(0);
    log = command_log("bench.jsonl");
    assert_int_equal(json_array_size(log), 3);
    for (size_t i = 0; i < 2; i++) {
        static const char *const fields[] = {"samples_per_s", "samples_per_s_spread", "tokens_per_s", "step_ms",
                                             "forward_ms", "backward_ms", "exposed_comm_ms", "update_ms"};

        row = json_array_get(log, i);
        assert_int_equal(json_integer_value(json_object_get(row, "batch")), i == 0 ? 1 : 3);
        assert_int_equal(json_integer_value(json_object_get(row, "seq")), 16);
        assert_int_equal(json_integer_value(json_object_get(row, "ranks")), 2);
        for (size_t f = 0; f < sizeof fields / sizeof fields[0]; f++) {
            assert_true(json_is_number(json_object_get(row, fields[f])));
        }
        assert_true(json_is_object(json_object_get(json_object_get(row, "memory"), "device")));
        assert_true(json_is_object(json_object_get(json_object_get(row, "plan"), "device")));
    }
    row = json_array_get(log, 2);
    assert_true(json_is_false(json_object_get(row, "fits")));
    assert_true(json_number_value(json_object_get(row, "needed_bytes")) >
                json_number_value(json_object_get(row, "available_bytes")));
    json_decref(log);
    command_run(&o, "", "bench --model tiny --batch 16000000 --seq 16 2>/dev/null");
    assert_code(0);
    assert_says("does not fit");
}

/* A trillion parameters on 4096 ranks: nothing is allocated for them. */
static void memory_adds_up(void **state)
{
    double per_param[3];
    json_t *log;

    (void)state;
    command_run(&o, "", "memory --params 1e12 --ranks 4096 --set bf16.enabled=true --gpu-memory 80GB --json "
                ">memory.jsonl");
    assert_code(0);
    log = command_log("memory.jsonl");
    assert_int_equal(json_array_size(log), 4);
    for (size_t s = 0; s < 3; s++) {
        json_t *row = json_array_get(log, s), *device = json_object_get(json_object_get(row, "plan"), "device"), *bytes;
        const char *category;
        json_int_t sum = 0;

        json_object_foreach(device, category, bytes) {
            sum += json_integer_value(bytes);
        }
        assert_int_equal(sum, json_integer_value(json_object_get(row, "total")));
        assert_true(json_is_false(json_object_get(row, "fits")));
        per_param[s] = (double)sum / json_number_value(json_object_get(row, "parameters"));
    }
    /* 2 + 4 + 12 bytes at stage 0, 2 + 16/N and more at stages 1 and 2, and the ring's share on top */
    assert_true(per_param[0] > 17.99 && per_param[0] < 18.01);
    assert_true(per_param[1] > 2 + 16.0 / 4096 && per_param[1] < 2.01 && per_param[2] > 2 + 16.0 / 4096 &&
                per_param[2] < 2.01);
    assert_true(json_is_false(json_object_get(json_array_get(log, 3), "built")));
    json_decref(log);
    command_run(&o, "", "memory --model 7b --ranks 8 --gpu-memory 40GB 2>/dev/null");
    assert_code(0);
    assert_says("stage 3 is not built");
    assert_says("fits 37.3 GiB");
}

/* A rate that throws every weight out of its type: from the second step on no gradient is finite. */
static void gradients_that_are_not_finite_are_named(void **state)
{
    static const char *const overflow = TRAIN "--steps 3 --ranks 2 --log bad.jsonl --set optimizer.type=SGD "
                                        "--set optimizer.params.lr=1e38 --set gradient_clipping=0 --set steps_per_print=1 ";
    char sentence[160];
    json_t *log, *bad;

    (void)state;
    command_run(&o, "", "%s 2>&1", overflow);
    assert_code(0);
    log = command_log("bad.jsonl");
    bad = json_array_get(log, 1);
    assert_true(json_is_true(json_object_get(bad, "skipped")));
    assert_non_null(json_string_value(json_object_get(bad, "nonfinite")));
    snprintf(sentence, sizeof sentence, "the gradient of '%s' is not finite",
             json_string_value(json_object_get(bad, "nonfinite")));
    assert_says(sentence);
    assert_null(json_object_get(json_array_get(log, 0), "nonfinite"));
    json_decref(log);
    command_run(&o, "", "%s --set sherd.nonfinite=stop 2>&1", overflow);
    assert_code(1);
    assert_says(sentence);
    assert_says("rank 0: step 2: the gradient of '");
    assert_says("rank 1: step 2: the gradient of '");
}

static void plan_and_info_speak(void **state)
{
    (void)state;
    command_run(&o, "", "plan --model tiny --ranks 3 --set zero_optimization.stage=2 2>/dev/null");
    assert_code(0);
    assert_says("ranks 3, ZeRO stage 2");
    command_run(&o, "", "info");
    assert_code(0);
    assert_says("host kernels:");
    assert_says("decoder: host ops:");
    command_run(&o, "", "info --keys");
    assert_says("zero_optimization.stage  [integer in [0, 3], default 0] honoured: ");
    command_run(&o, "", "--version");
    assert_code(0);
    assert_says("sherd 0.");
    command_run(&o, "", "plan --model tiny >/dev/full 2>full.txt; grep -q 'standard output could not be written' "
                "full.txt");
    assert_code(0);
}

static void a_trace_is_valid(void **state)
{
    json_t *trace, *events;
    json_error_t fault;

    (void)state;
    command_run(&o, "", TRAIN "--steps 3 --ranks 2 --trace trace.json --set zero_optimization.stage=2 2>&1");
    assert_code(0);
    trace = json_load_file("trace.json", 0, &fault);
    assert_non_null(trace);
    events = json_object_get(trace, "traceEvents");
    assert_true(json_array_size(events) >= 6);
    assert_string_equal(json_string_value(json_object_get(json_array_get(events, 0), "ph")), "X");
    json_decref(trace);
}

static void mpirun_gives_the_same_bits(void **state)
{
    char forked[80], under_mpi[80], start[512];

    (void)state;
    snprintf(start, sizeof start, "%s -n 2", mpirun);
    command_run(&o, "", TRAIN "--steps 5 --ranks 2 --set zero_optimization.stage=2 --log forked.jsonl 2>&1");
    assert_code(0);
    command_run(&o, start, TRAIN "--steps 5 --set zero_optimization.stage=2 --log mpi.jsonl 2>&1");
    assert_code(0);
    assert_says("2 ranks of 1 thread");
    command_hashes("forked.jsonl", forked);
    command_hashes("mpi.jsonl", under_mpi);
    assert_string_equal(forked, under_mpi);
    command_run(&o, start, TRAIN "--steps 5 --set zero_optimization.stage=2 --ranks-per-node 1 --log nodes.jsonl 2>&1");
    assert_says("MPI between 2 nodes");
    assert_code(0);
    command_hashes("nodes.jsonl", under_mpi);
    assert_string_equal(forked, under_mpi);
    command_run(&o, start, TRAIN "--ranks 2 2>&1");
    assert_code(2);
    assert_says("sherd: --ranks under mpirun: leave it out, mpirun starts the ranks\n");
    command_run(&o, start, TRAIN "--config missing.json 2>&1");
    assert_code(1);
    assert_says("cannot be opened");
    assert_ptr_equal(strstr(strstr(o.out, "cannot be opened") + 1, "cannot be opened"), NULL); /* said once */
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wrong_arguments_end_in_a_sentence),
        cmocka_unit_test(the_log_has_every_field),
        cmocka_unit_test(every_way_to_start_ranks_gives_the_same_bits),
        cmocka_unit_test(fp16_trains_and_says_its_scale),
        cmocka_unit_test(reproducible_runs_agree_over_worlds),
        cmocka_unit_test(the_checking_device_says_what_it_saw),
        cmocka_unit_test(a_killed_rank_ends_the_others),
        cmocka_unit_test(a_stopped_rank_ends_the_others),
        cmocka_unit_test(a_signal_reaches_the_ranks),
        cmocka_unit_test(bench_prints_a_row_per_batch),
        cmocka_unit_test(memory_adds_up),
        cmocka_unit_test(gradients_that_are_not_finite_are_named),
        cmocka_unit_test(plan_and_info_speak),
        cmocka_unit_test(a_trace_is_valid),
    };
    const struct CMUnitTest mpi_tests[] = {cmocka_unit_test(mpirun_gives_the_same_bits)};
    const struct CMUnitTest long_tests[] = {cmocka_unit_test(a_rank_that_stays_stopped_is_killed)};

    if (argc < 2) {
        fprintf(stderr, "usage: %s SHERD [long|MPIRUN]\n", argv[0]);
        return EXIT_FAILURE;
    }
    mpirun = argc > 2 ? argv[2] : NULL;
    command_begin(argv[1]);
    if (mpirun != NULL && strcmp(mpirun, "long") == 0) {
        return cmocka_run_group_tests(long_tests, NULL, command_end);
    }
    return mpirun != NULL ? cmocka_run_group_tests(mpi_tests, NULL, command_end)
                          : cmocka_run_group_tests(tests, NULL, command_end);
}
