/* SPDX-License-Identifier: MIT
 *
 * Saving and going on, end to end: resumed runs equal the uninterrupted, SIGTERM saves, SIGKILL at random moments never
 * loses what was reported, and `sherd checkpoint` says what there is. The second argument is how many times to kill.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/cli/command.h"

#define TRAIN "train --model tiny --data text.txt --set train_batch_size=4 --seq 8 --threads 1 "
#define STAGE "--set zero_optimization.stage="

static int kills = 4;
static outcome o;

#define run(...) command_expect(&o, __VA_ARGS__)

static void resumed_equals_uninterrupted(void **state)
{
    static const struct {
        const char *whole, *first, *second;
    } rows[] = {
        {"--ranks 2", "--ranks 2 " STAGE "2", "--ranks 2 " STAGE "1"},
        {"--ranks 2 --set bf16.enabled=true --set gradient_accumulation_steps=2 " STAGE "2",
         "--ranks 2 --set bf16.enabled=true --set gradient_accumulation_steps=2 " STAGE "2",
         "--ranks 2 --set bf16.enabled=true --set gradient_accumulation_steps=2 " STAGE "2 "
         "--set zero_optimization.offload_optimizer.device=cpu"},
        {"--ranks 3 --set train_batch_size=6 " STAGE "1", "--ranks 3 --set train_batch_size=6 " STAGE "1",
         "--ranks 3 --set train_batch_size=6 " STAGE "2 --set zero_optimization.offload_optimizer.device=nvme "
         "--set zero_optimization.offload_optimizer.nvme_path=."},
    };
    char want[80], got[80];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run(0, "loss", TRAIN "--steps 6 --log whole.jsonl %s", rows[i].whole);
        run(0, "step-4", TRAIN "--steps 4 --save saved%zu --save-every 2 --log part.jsonl %s", i, rows[i].first);
        run(0, "goes on after step 4", TRAIN "--steps 6 --save saved%zu --resume auto --keep 2 --log part.jsonl %s", i,
            rows[i].second);
        command_hashes("whole.jsonl", want);
        command_hashes("part.jsonl", got);
        assert_string_equal(want, got);
        run(0, "goes on after step 4", TRAIN "--steps 6 --resume saved%zu/step-4 --log other.jsonl %s", i,
            rows[i].first);
        command_hashes("other.jsonl", got);
        assert_string_equal(want, got);
        run(0, "step-6: whole", "checkpoint verify saved%zu", i);
        assert_null(strstr(o.out, "step-2"));
    }
}

/* Another world takes the same sequences in the same order: the losses are those of the first world but for rounding.
 */
static void another_world_goes_on(void **state)
{
    json_t *whole, *part;

    (void)state;
    run(0, "loss", TRAIN "--steps 6 --log whole.jsonl");
    run(0, "step-3", TRAIN "--steps 3 --save world --ranks 4 " STAGE "2");
    run(0, "goes on after step 3", TRAIN "--steps 6 --resume world --log world.jsonl");
    whole = command_log("whole.jsonl");
    part = command_log("world.jsonl");
    for (size_t s = 3; s < 6; s++) {
        double a = json_real_value(json_object_get(json_array_get(whole, s), "loss"));
        double b = json_real_value(json_object_get(json_array_get(part, s - 3), "loss"));
        assert_true(a > 1 && a - b < 1e-3 && b - a < 1e-3);
        assert_int_equal(json_integer_value(json_object_get(json_array_get(part, s - 3), "step")), s + 1);
    }
    json_decref(whole);
    json_decref(part);
}

static void the_command_says_what_there_is(void **state)
{
    (void)state;
    run(0, "step-2", TRAIN "--steps 2 --save dir --save-every 1");
    run(0, "dir/step-1: step 1, 1 updates, AdamW, 1 rank at stage 0", "checkpoint list dir");
    run(0, "model.embed_tokens.weight", "checkpoint show dir");
    run(0, "position 8", "checkpoint show dir");
    run(0, "", "checkpoint export dir --out model.safetensors");
    assert_int_equal(system("cmp model.safetensors dir/step-2/model.safetensors"), 0);
    assert_int_equal(system("printf x | dd of=dir/step-1/model.safetensors bs=1 seek=4000 conv=notrunc 2>/dev/null"),
                     0);
    run(1, "dir/step-1: bad: 'dir/step-1/model.safetensors' does not hold what was written", "checkpoint verify dir");
    assert_non_null(strstr(o.out, "dir/step-2: whole"));
    run(1, "does not hold what was written", TRAIN "--steps 3 --resume dir/step-1");
    assert_null(strstr(o.out, "step 2/3"));
    assert_int_equal(system("rm dir/step-2/manifest.json"), 0);
    run(1, "step-2: bad:", "checkpoint verify dir");
    run(1, "no complete checkpoint", TRAIN "--steps 3 --resume dir/step-2");
    run(1, "dir/step-1 has 1 steps already and --steps 1 is the total", TRAIN "--steps 1 --resume dir");
    run(1, "was made with --seed 1, this run has 2", TRAIN "--steps 3 --seed 2 --resume dir");
    run(1, "was made with --seq 8, this run has 16", TRAIN "--steps 3 --seq 16 --resume dir");
    run(1, "none: No such file or directory", "checkpoint verify none");
    run(2, "need --save DIR", TRAIN "--resume auto");
    run(2, "checkpoint needs list, verify, show or export", "checkpoint look dir");
    run(2, "checkpoint needs list, verify, show or export", "checkpoint export dir");
    run(1, "--save text.txt/dir: the folder cannot be made: Not a directory", TRAIN "--steps 1 --save text.txt/dir");
}

/* ---- signals */

static void pause_ms(long ms)
{
    const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* A run that saves every few steps, in a process group of its own. Its messages go to `messages`. */
static pid_t start(const char *folder, const char *ranks, const char *messages)
{
    int out = open(messages, O_WRONLY | O_CREAT | O_TRUNC,
                   0644); /* here: what a former run said is gone before anybody looks */
    pid_t child = fork();

    assert_true(out >= 0 && child >= 0);
    if (child == 0) {
        setpgid(0, 0);
        dup2(out, 1);
        dup2(out, 2);
        execl(command_path(), "sherd", "train", "--model", "tiny", "--data", "text.txt", "--set", "train_batch_size=4", "--seq",
              "8", "--threads", "1", "--steps", "100000", "--save", folder, "--save-every", "2", "--keep", "3",
              "--resume", "auto", "--ranks", ranks, (char *)NULL);
        _exit(127);
    }
    setpgid(child, child);
    close(out);
    return child;
}

/* The last step that `messages` reports as saved; 0: none. */
static long reported(const char *messages)
{
    FILE *file = fopen(messages, "r");
    char line[512];
    long last = 0;

    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL) {
        const char *at = strstr(line, ": saved ") ? strstr(line, "/step-") : NULL;
        if (at != NULL && strchr(line, '\n') != NULL) {
            last = strtol(at + 6, NULL, 10);
        }
    }
    fclose(file);
    return last;
}

/* The newest step of a folder in which everything must be whole; 0: none. */
static long newest(const char *folder)
{
    const char *at;
    long step = 0;

    command_run(&o, "", "checkpoint verify %s 2>&1", folder);
    if (access(folder, F_OK) != 0 || strstr(o.out, "holds no complete checkpoint") != NULL) {
        return 0;
    }
    if (o.code != 0) {
        fail_msg("%s", o.out);
    }
    for (at = strstr(o.out, "/step-"); at != NULL; at = strstr(at + 1, "/step-")) {
        long found = strtol(at + 6, NULL, 10);
        step = found > step ? found : step;
    }
    return step;
}

/* From the newest on, three more steps: as if nothing had happened. */
static void goes_on_as_if_nothing(const char *folder, const char *ranks, long step)
{
    char want[80], got[80];

    run(0, "goes on", TRAIN "--steps %ld --resume %s --ranks %s --log part.jsonl", step + 3, folder, ranks);
    run(0, "loss", TRAIN "--steps %ld --ranks %s --log whole.jsonl", step + 3, ranks);
    command_hashes("whole.jsonl", want);
    command_hashes("part.jsonl", got);
    assert_string_equal(want, got);
}

static void wait_for_a_save(pid_t child, const char *messages)
{
    for (int tries = 0; reported(messages) == 0; tries++) {
        if (tries == 400 || waitpid(child, NULL, WNOHANG) == child) {
            fail_msg("no checkpoint within 20 s: see %s", messages);
        }
        pause_ms(50);
    }
}

static void sigterm_saves_and_ends(void **state)
{
    static const char *const ranks[] = {"1", "2"};

    (void)state;
    for (int i = 0; i < 2; i++) {
        const char *folder = i ? "term2" : "term1";
        pid_t child = start(folder, ranks[i], "messages");
        int status;
        long step;

        pause_ms(20);
        wait_for_a_save(child, "messages");
        assert_int_equal(kill(child, SIGTERM), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        step = newest(folder);
        assert_true(step > 0);
        assert_int_equal(step, reported("messages"));
        command_run(&o, "", "info >/dev/null; grep 'as SIGTERM asks' messages");
        assert_non_null(strstr(o.out, "--resume goes on"));
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        goes_on_as_if_nothing(folder, ranks[i], step);
    }
}

static void sigkill_loses_nothing_reported(void **state)
{
    unsigned seed = 12345;
    long step = 0, before = 0;

    (void)state;
    for (int i = 0; i < kills; i++) {
        const char *ranks = i % 2 ? "2" : "1";
        pid_t child = start("kill", ranks, "messages");
        int status;

        if (i == 0) {
            wait_for_a_save(child, "messages");
        }
        seed = seed * 1664525u + 1013904223u;
        pause_ms(20 + (long)(seed >> 16) % 400);
        assert_int_equal(kill(-child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        pause_ms(20); /* the ranks of the group */
        step = newest("kill");
        if (step < reported("messages") || step < before) {
            fail_msg("kill %d: step %ld is the newest, but %ld was reported and %ld was there before", i, step,
                     reported("messages"), before);
        }
        before = step;
    }
    assert_true(step > 0);
    print_message("%d kills, up to step %ld\n", kills, step);
    run(0, "goes on", TRAIN "--steps %ld --resume kill", step + 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resumed_equals_uninterrupted),   cmocka_unit_test(another_world_goes_on),
        cmocka_unit_test(the_command_says_what_there_is), cmocka_unit_test(sigterm_saves_and_ends),
        cmocka_unit_test(sigkill_loses_nothing_reported),
    };

    if (argc < 2) {
        return 2;
    }
    kills = argc > 2 ? atoi(argv[2]) : kills;
    command_begin(argv[1]);
    return cmocka_run_group_tests(tests, NULL, command_end);
}
