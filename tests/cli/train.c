/* SPDX-License-Identifier: MIT
 *
 * sherd train beyond its steps: token files, first weights from a file, validation, monitors.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/cli/command.h"

#define TRAIN "train --model tiny --set train_batch_size=4 --seq 16 --threads 1 "

#define run(code, says, ...) command_expect(&o, code, says, __VA_ARGS__)

static outcome o;

/* One token per byte: the same training, to the bit. */
static void tokens_of_bytes_train_as_the_text_does(void **state)
{
    char want[80], got[80];

    (void)state;
    run(0, "text.bin: 40", "tokens --data text.txt --out text.bin");
    run(0, "bytes of text in 1 file", TRAIN "--data text.txt --steps 4 --log text.jsonl");
    run(0, "tokens in 1 file", TRAIN "--data 'te?t.bin' --steps 4 --log tokens.jsonl --ranks 2");
    run(0, "tokens in 1 file", TRAIN "--data text.bin --steps 4 --log tokens.jsonl");
    command_hashes("text.jsonl", want);
    command_hashes("tokens.jsonl", got);
    assert_string_equal(want, got);
    run(1, "sherd: --sample continues text, but --data text.bin holds tokens; leave --sample out\n",
        TRAIN "--data text.bin --steps 1 --sample 5");
    run(1, "text.bin: is a token file, but the files before it are text; give one kind\n",
        TRAIN "--data text.txt --data text.bin --steps 1");
    run(1, "sherd: --data text.bin: holds tokens already\n", "tokens --data text.bin --out other.bin");
    run(1, "sherd: --out missing/text.bin: cannot be written: No such file or directory\n",
        "tokens --data text.txt --out missing/text.bin");
    run(2, "sherd: tokens needs --data and --out", "tokens --data text.txt");
    assert_int_equal(system("head -c 2001 text.bin >cut.bin"), 0);
    run(1, "cut.bin: a token file that says it has 40", TRAIN "--data cut.bin --steps 1");
}

/* Its file is that of the checkpoint, so a run of rate 0 that begins with it has the checkpoint's parameters. */
static void weights_come_from_a_file(void **state)
{
    char saved[80], begun[80];

    (void)state;
    run(0, "saved first/step-3", TRAIN "--data text.txt --steps 3 --save first --log saved.jsonl");
    run(0, "", "checkpoint export first --out weights.safetensors");
    run(0, "loss",
        TRAIN "--data text.txt --steps 1 --init weights.safetensors --set optimizer.type=SGD "
              "--set optimizer.params.lr=0 --seed 9 --log begun.jsonl --ranks 2");
    command_hashes("saved.jsonl", saved);
    command_hashes("begun.jsonl", begun);
    saved[32] = begun[32] = '\0'; /* the parameters' */
    assert_string_equal(saved, begun);
    run(2, "sherd: --init and --resume both give the weights; leave one out\n",
        TRAIN "--data text.txt --init weights.safetensors --resume first");
    run(0, "goes on after step 3",
        TRAIN "--data text.txt --steps 4 --init gone.safetensors --save first --resume auto");
}

static void write_safetensors(const char *path, const char *header)
{
    FILE *file = fopen(path, "wb");
    uint64_t bytes = strlen(header);

    assert_non_null(file);
    assert_int_equal(fwrite(&bytes, 8, 1, file), 1);
    fprintf(file, "%s%8s", header, "");
    assert_int_equal(fclose(file), 0);
}

static void other_weights_are_refused(void **state)
{
    FILE *config = fopen("other.json", "w");

    (void)state;
    assert_non_null(config);
    fputs("{\"num_hidden_layers\": 2, \"hidden_size\": 64, \"num_attention_heads\": 4, \"intermediate_size\": 176, "
          "\"vocab_size\": 256}",
          config);
    assert_int_equal(fclose(config), 0);
    run(1,
        "sherd: --init weights.safetensors: 4 of 21 tensors have another shape than the model's, the first "
        "'model.layers.0.self_attn.k_proj.weight', 32 x 64, not 64 x 64; give the --model that the file was made for\n",
        "train --model other.json --data text.txt --set train_batch_size=4 --init weights.safetensors");
    run(1,
        "sherd: --init weights.safetensors: 36 of the model's 57 tensors are not there, the first "
        "'model.layers.2.input_layernorm.weight'; give the --model that the file was made for, in Hugging Face's names "
        "for "
        "Llama\n",
        "train --model 10m --data text.txt --set train_batch_size=4 --init weights.safetensors");
    config = fopen("one.json", "w");
    assert_non_null(config);
    fputs("{\"num_hidden_layers\": 1, \"hidden_size\": 64, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
          "\"intermediate_size\": 176, \"vocab_size\": 256, \"tie_word_embeddings\": true}",
          config);
    assert_int_equal(fclose(config), 0);
    run(1, "sherd: --init weights.safetensors: holds 9 tensors that the model has not, the first 'model.layers.1.",
        "train --model one.json --data text.txt --set train_batch_size=4 --init weights.safetensors");
    run(1, "sherd: text.txt: ", TRAIN "--data text.txt --init text.txt");
    run(1, "gone.safetensors", TRAIN "--data text.txt --init gone.safetensors");
    write_safetensors("few.safetensors", "{\"model.embed_tokens.weight\":{\"dtype\":\"F64\",\"shape\":[1],"
                                         "\"data_offsets\":[0,8]}}");
    run(1,
        "sherd: --init few.safetensors: 20 of the model's 21 tensors are not there, the first "
        "'model.layers.0.input_layernorm.weight'",
        TRAIN "--data text.txt --init few.safetensors");
}

/* ---- validation */

/* Member `name` of record i of a log; -1: none. */
static double number(const char *log, size_t i, const char *name)
{
    json_t *all = command_log(log), *value = json_object_get(json_array_get(all, i), name);
    double number = json_is_number(value) ? json_number_value(value) : -1;

    json_decref(all);
    return number;
}

/* Its matrices are the model's own choice. Stages and tiers give the same bits, and the loss falls well below where it began. */
static void muon_trains(void **state)
{
    char one[80], two[80];

    (void)state;
    run(0, "loss", TRAIN "--data text.txt --steps 20 --log one.jsonl --ranks 2 --set optimizer.type=Muon "
                         "--set optimizer.params.lr=0.01 --set zero_optimization.stage=1");
    run(0, "loss", TRAIN "--data text.txt --steps 20 --log two.jsonl --ranks 2 --set optimizer.type=Muon "
                         "--set optimizer.params.lr=0.01 --set zero_optimization.stage=2");
    command_hashes("one.jsonl", one);
    command_hashes("two.jsonl", two);
    assert_string_equal(one, two);
    if (!(number("one.jsonl", 19, "loss") < number("one.jsonl", 0, "loss") - 1))
        fail_msg("loss %g, at first %g", number("one.jsonl", 19, "loss"), number("one.jsonl", 0, "loss"));
    run(0, "loss", TRAIN "--data text.txt --steps 20 --log two.jsonl --ranks 2 --set optimizer.type=Muon "
                         "--set optimizer.params.lr=0.01 --set zero_optimization.cpu_offload=true");
    command_hashes("two.jsonl", two);
    assert_string_equal(one, two);
    run(1, "which Muon steps only after the vote",
        TRAIN "--data text.txt --set optimizer.type=Muon --set zero_optimization.cpu_offload=true --set sherd.speculate=true");
}

static void validation_changes_no_bit(void **state)
{
    static const char *const rows[] = {
        "",
        "--ranks 2 --set zero_optimization.stage=2 --set gradient_accumulation_steps=2",
        "--ranks 2 --set zero_optimization.stage=1 --set bf16.enabled=true --set zero_optimization.cpu_offload=true",
        "--ranks 2 --device check",
    };
    char want[80], got[80];

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run(0, "loss", TRAIN "--data text.txt --steps 5 --log without.jsonl %s", rows[i]);
        run(0, "step 2/5  validation loss",
            TRAIN "--data text.txt --steps 5 --log with.jsonl --val text.txt --eval-every 2 "
                  "--eval-batches 3 %s",
            rows[i]);
        assert_non_null(strstr(o.out, "validation loss        "));
        assert_non_null(strstr(o.out, "of 12 sequences; 3 times"));
        command_hashes("without.jsonl", want);
        command_hashes("with.jsonl", got);
        assert_string_equal(want, got);
        for (size_t s = 0; s < 5; s++) { /* after steps 2, 4 and the last */
            assert_true((number("with.jsonl", s, "eval_loss") > 1) == (s != 0 && s != 2));
            assert_true(number("with.jsonl", s, "loss") == number("without.jsonl", s, "loss"));
        }
        assert_true(number("with.jsonl", 5, "eval_loss_first") == number("with.jsonl", 1, "eval_loss"));
        assert_true(number("with.jsonl", 5, "eval_loss_last") == number("with.jsonl", 4, "eval_loss"));
    }
}

/* Over the sequences of one batch, with a rate of 0: the loss that training has just told. 7 sequences on 3 ranks, so
 * that one has less to do. */
static void validation_is_the_loss_of_its_sequences(void **state)
{
    double whole, trained;

    (void)state;
    assert_int_equal(system("head -c 97 text.txt >six.txt; head -c 113 text.txt >seven.txt"), 0);
    run(0, "of 6 sequences",
        TRAIN "--data six.txt --val six.txt --steps 1 --set train_batch_size=6 --set "
              "optimizer.params.lr=0 --set optimizer.type=SGD --log six.jsonl --ranks 2");
    trained = number("six.jsonl", 0, "loss");
    whole = number("six.jsonl", 0, "eval_loss");
    assert_true(trained > 5 && trained < 6 && whole - trained < 1e-6 && trained - whole < 1e-6);
    run(0, "of 7 sequences",
        TRAIN "--data text.txt --val seven.txt --steps 1 --set train_batch_size=6 --log seven.jsonl");
    whole = number("seven.jsonl", 0, "eval_loss");
    run(0, "of 7 sequences",
        TRAIN "--data text.txt --val seven.txt --steps 1 --set train_batch_size=6 --log seven.jsonl "
              "--ranks 3");
    trained = number("seven.jsonl", 0, "eval_loss");
    assert_true(whole > 5 && whole - trained < 1e-4 && trained - whole < 1e-4);
}

static void validation_needs_text_of_its_own_kind(void **state)
{
    (void)state;
    run(2, "sherd: --eval-every and --eval-batches need --val PATH\n", TRAIN "--data text.txt --eval-every 3");
    run(1, "sherd: gone.txt: No such file", TRAIN "--data text.txt --val gone.txt");
    run(1, "sherd: --val text.bin: is tokens, but --data is text; give one kind\n",
        TRAIN "--data text.txt --val text.bin");
    assert_int_equal(system("head -c 16 text.txt >short.txt"), 0);
    run(1, "sherd: short.txt: 16 bytes of text, but a sequence of 16 tokens and its last target need 17",
        TRAIN "--data text.txt --val short.txt");
}

static void a_log_that_has_no_room_is_told(void **state)
{
    (void)state;
    run(1, "--log /dev/full: could not be written to its end\n", TRAIN "--data text.txt --steps 2 --log /dev/full");
    run(1, "--log /dev/full: could not be written to its end\n",
        TRAIN "--data text.txt --steps 2 --log /dev/full --ranks 2");
}

/* ---- monitors */

#define MONITORS                                                                                                       \
    "--set csv_monitor.enabled=true --set csv_monitor.output_path=mon --set csv_monitor.job_name=j "                   \
    "--set tensorboard.enabled=true --set tensorboard.output_path=mon --set tensorboard.job_name=j "

/* Rows of mon/j/metrics.csv against the log's records. */
static void compare_rows(const char *log, int64_t rows)
{
    FILE *file = fopen("mon/j/metrics.csv", "r");
    char line[512];
    int64_t n = 0;

    assert_non_null(file);
    assert_non_null(fgets(line, sizeof line, file));
    for (; fgets(line, sizeof line, file) != NULL; n++) {
        double got[8] = {0, 0, 0, 0, 0, 0, 0, -1};
        static const char *const names[] = {"step", "loss", "lr", "loss_scale", "grad_norm", "tokens_per_s"};
        char *rest = line;

        for (int c = 0; c < 8; c++) {
            char *cell = strsep(&rest, ",\n");
            assert_non_null(cell);
            got[c] = cell[0] != '\0' ? strtod(cell, NULL) : -1;
        }
        for (int c = 0; c < 6; c++) {
            double want = number(log, (size_t)n, names[c]);
            assert_true(got[c] - want <= 1e-5 * want && want - got[c] <= 1e-5 * want);
        }
        assert_true(got[6] > 100000);
        assert_true((got[7] > 1) == (number(log, (size_t)n, "eval_loss") > 1));
    }
    fclose(file);
    assert_int_equal(n, rows);
}

static void monitors_say_what_the_log_says(void **state)
{
    char want[80], got[80];

    (void)state;
    run(0, "saved kept/step-4",
        TRAIN MONITORS "--data text.txt --val text.txt --eval-every 3 --steps 5 --ranks 2 --save kept "
                       "--save-every 2 --log run.jsonl");
    compare_rows("run.jsonl", 5);
    run(0, "goes on after step 4",
        TRAIN MONITORS "--data text.txt --val text.txt --eval-every 3 --steps 7 --resume "
                       "kept/step-4 --log part.jsonl");
    run(0, "loss", TRAIN "--data text.txt --val text.txt --eval-every 3 --steps 7 --log run.jsonl --ranks 2");
    run(0, "goes on after step 4",
        TRAIN MONITORS "--data text.txt --val text.txt --eval-every 3 --steps 7 --ranks 2 --resume "
                       "kept/step-4 --log part.jsonl");
    command_hashes("run.jsonl", want);
    command_hashes("part.jsonl", got);
    assert_string_equal(want, got);
    assert_int_equal(system("test $(wc -l <mon/j/metrics.csv) = 8 && cut -d, -f1 mon/j/metrics.csv | tr '\\n' ' ' | "
                            "grep -q 'step 1 2 3 4 5 6 7 ' && ls mon/j/events.out.tfevents.* >/dev/null"),
                     0);
    run(1, "sherd: csv_monitor.output_path: the folder text.txt/j cannot be made: Not a directory\n",
        TRAIN MONITORS "--set csv_monitor.output_path=text.txt --data text.txt");
    run(1, "wandb.enabled: true is refused: Sherd sends nothing over the network",
        TRAIN "--set wandb.enabled=true --data text.txt");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_of_bytes_train_as_the_text_does),
        cmocka_unit_test(weights_come_from_a_file),
        cmocka_unit_test(other_weights_are_refused),
        cmocka_unit_test(validation_changes_no_bit),
        cmocka_unit_test(muon_trains),
        cmocka_unit_test(validation_is_the_loss_of_its_sequences),
        cmocka_unit_test(validation_needs_text_of_its_own_kind),
        cmocka_unit_test(monitors_say_what_the_log_says),
        cmocka_unit_test(a_log_that_has_no_room_is_told),
    };

    if (argc < 2) {
        fprintf(stderr, "usage: %s SHERD\n", argv[0]);
        return EXIT_FAILURE;
    }
    command_begin(argv[1]);
    return cmocka_run_group_tests(tests, NULL, command_end);
}
