/* SPDX-License-Identifier: MIT
 *
 * First weights in several files, as Hugging Face stores large models: the bits of the one file that they were cut
 * from, and a sentence for whatever is wrong with index and files.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/weights.h"
#include "store/safetensors.h"
#include "tests/cli/command.h"

#define TRAIN "train --model tiny --data text.txt --set train_batch_size=4 --seq 16 --threads 1 "
#define INDEX "model.safetensors.index.json"

enum { SHARDS = 3, TENSORS_MAX = 64 };

static outcome o;

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* ---- the same weights in several files */

static void shard_path(char path[128], const char *folder, int shard)
{
    snprintf(path, 128, "%s/model-%05d-of-%05d.safetensors", folder, shard + 1, SHARDS);
}

/* Every third tensor of the file, from `shard` on, with their names in the map. */
static void write_shard(const sherd_safetensors *file, const char *folder, int shard, json_t *map)
{
    sherd__safetensors_writer *writer;
    sherd__tensor tensors[TENSORS_MAX];
    sherd_tensor_info info;
    uint32_t n = 0;
    char path[128];

    shard_path(path, folder, shard);
    for (size_t i = (size_t)shard; i < sherd_safetensors_count(file); i += SHARDS, n++) {
        assert_int_equal(sherd_safetensors_info(file, i, &info), SHERD_OK);
        tensors[n] = (sherd__tensor){.name = info.name, .dtype = info.dtype, .ndim = info.ndim};
        memcpy(tensors[n].shape, info.shape, sizeof info.shape);
        json_object_set_new(map, info.name, json_string(strrchr(path, '/') + 1));
    }
    assert_int_equal(sherd__safetensors_create(path, tensors, n, NULL, 0, NULL, NULL, &writer, NULL), SHERD_OK);
    for (size_t i = (size_t)shard; i < sherd_safetensors_count(file); i += SHARDS) {
        assert_int_equal(sherd_safetensors_info(file, i, &info), SHERD_OK);
        void *data = malloc(info.bytes);
        assert_non_null(data);
        assert_int_equal(sherd_safetensors_read(file, i, 0, info.elems, data, NULL), SHERD_OK);
        assert_int_equal(sherd__safetensors_write(writer, data, info.bytes, NULL), SHERD_OK);
        free(data);
    }
    assert_int_equal(sherd__safetensors_commit(writer, NULL, NULL, NULL), SHERD_OK);
}

static void split(const char *whole, const char *folder)
{
    json_t *map = json_object(), *index = json_pack("{s{si}so}", "metadata", "total_size", 1, "weight_map", map);
    sherd_safetensors *file;
    char path[128];

    assert_int_equal(mkdir(folder, 0777), 0);
    assert_int_equal(sherd_safetensors_open(whole, NULL, &file, NULL), SHERD_OK);
    assert_true(sherd_safetensors_count(file) > SHARDS && sherd_safetensors_count(file) < TENSORS_MAX);
    for (int shard = 0; shard < SHARDS; shard++) {
        write_shard(file, folder, shard, map);
    }
    snprintf(path, sizeof path, "%s/" INDEX, folder);
    assert_int_equal(json_dump_file(index, path, JSON_INDENT(2)), 0);
    json_decref(index);
    sherd_safetensors_close(file);
}

/* At a rate of 0 a run's parameters are those that it began with. */
static void several_files_are_as_one(void **state)
{
    static const char *const given[] = {"hf", "hf/", ("hf/" INDEX), "first/step-2", "weights.safetensors"};
    char want[80], got[80];

    (void)state;
    command_expect(&o, 0, "saved first/step-2", TRAIN "--steps 2 --save first --log saved.jsonl");
    command_expect(&o, 0, "", "checkpoint export first --out weights.safetensors");
    split("weights.safetensors", "hf");
    command_hashes("saved.jsonl", want);
    want[32] = '\0'; /* the parameters' */
    for (size_t i = 0; i < sizeof given / sizeof given[0]; i++) {
        command_expect(&o, 0, "loss",
                       TRAIN "--steps 1 --init %s --set optimizer.type=SGD --set optimizer.params.lr=0 --seed 9 "
                             "--log begun.jsonl --ranks %d",
                       given[i], 1 + (int)(i % 2));
        command_hashes("begun.jsonl", got);
        got[32] = '\0';
        assert_string_equal(want, got);
    }
    command_expect(&o, 1, "sherd: --init hf: 36 of the model's 57 tensors are not there",
                   "train --model 10m --data text.txt --set train_batch_size=4 --init hf");
    assert_int_equal(truncate("hf/model-00002-of-00003.safetensors", 5000), 0);
    command_expect(&o, 1, "sherd: hf/model-00002-of-00003.safetensors: ", TRAIN "--steps 1 --init hf");
    assert_int_equal(remove("hf/model-00002-of-00003.safetensors"), 0);
    command_expect(&o, 1, "sherd: hf/model-00002-of-00003.safetensors: ", TRAIN "--steps 1 --init hf");
}

/* ---- what is wrong */

static void write_small(const char *path, const char *first, const char *second)
{
    const sherd__tensor tensors[] = {{.name = first, .dtype = "F32", .ndim = 1, .shape = {2}},
                                     {.name = second, .dtype = "F32", .ndim = 1, .shape = {1}}};
    const float values[] = {1, 2, 3};
    sherd__safetensors_writer *writer;
    uint32_t n = second != NULL ? 2 : 1;

    assert_int_equal(sherd__safetensors_create(path, tensors, n, NULL, 0, NULL, NULL, &writer, NULL), SHERD_OK);
    assert_int_equal(sherd__safetensors_write(writer, values, n == 2 ? 12 : 8, NULL), SHERD_OK);
    assert_int_equal(sherd__safetensors_commit(writer, NULL, NULL, NULL), SHERD_OK);
}

static void refuse(const char *path, sherd_status status, const char *says)
{
    cli_weights *weights = NULL;
    sherd_error err;

    if (cli_weights_open(path, &weights, &err) != status || strstr(err.text, says) == NULL) {
        fail_msg("%s: not %d '%s' but %d: %s", path, (int)status, says, (int)err.status, err.text);
    }
    assert_null(weights);
}

static void a_wrong_index_is_refused(void **state)
{
    static const struct {
        const char *map, *says;
    } rows[] = {
        {"\"a\": \"../one.safetensors\"", "the file of tensor 'a', '../one.safetensors', leads to another folder"},
        {"\"a\": \"/tmp/one.safetensors\"", "leads to another folder"},
        {"\"a\": \"small/one.safetensors\"", "leads to another folder"},
        {"\"a\": \"small\\u002fone.safetensors\"", "leads to another folder"},
        {"\"a\": \"..\\\\one.safetensors\"", "leads to another folder"},
        {"\"a\": \"one\\u0000.safetensors\"", "small/" INDEX ": line 1: "},
        {"\"a\": \"one\\n.safetensors\"", "has control characters"},
        {"\"a\": \"..\"", "the file of tensor 'a', '..', is no safetensors file's name"},
        {"\"a\": \".safetensors\"", "is no safetensors file's name"},
        {"\"a\": \"\"", "is no safetensors file's name"},
        {"\"a\": \"one.bin\"", "is no safetensors file's name"},
        {"\"a\": 1", "the file of tensor 'a' is no text"},
        {"\"a\": null", "the file of tensor 'a' is no text"},
        {"", "has no weight_map of tensors"},
        {"\"a\": \"one.safetensors\", \"a\": \"two.safetensors\"", "duplicate object key"},
        {"\"a\": \"none.safetensors\"", "small/none.safetensors: "},
        {"\"a\": \"one.safetensors\", \"b\": \"one.safetensors\", \"c\": \"one.safetensors\"",
         "tensor 'c' is not in one.safetensors, where the index says it is"},
        {"\"a\": \"one.safetensors\", \"b\": \"one.safetensors\", \"c\": \"two.safetensors\", \"d\": "
         "\"one.safetensors\"",
         "tensor 'd' is not in one.safetensors"},
        {"\"a\": \"one.safetensors\"", "one.safetensors holds tensor 'b', which the index does not name"},
        {"\"a\": \"one.safetensors\", \"b\": \"one.safetensors\", \"c\": \"two.safetensors\", "
         "\"d\": \"three.safetensors\"",
         "tensor 'b' is in one.safetensors and in three.safetensors; one is too much"},
    };

    (void)state;
    assert_int_equal(mkdir("small", 0777), 0);
    write_small("small/one.safetensors", "a", "b");
    write_small("small/two.safetensors", "c", NULL);
    write_small("small/three.safetensors", "d", "b");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char text[512];

        snprintf(text, sizeof text, "{\"weight_map\": {%s}}", rows[i].map);
        write_text("small/" INDEX, text);
        refuse("small", strstr(rows[i].map, "none.") != NULL ? SHERD_EIO : SHERD_EINVAL, rows[i].says);
    }
    write_text("small/" INDEX, "[1]");
    refuse("small/" INDEX, SHERD_EINVAL, "has no weight_map");
    write_text("small/" INDEX, "{\"weight_map\"");
    refuse("small", SHERD_EINVAL, "small/" INDEX ": line 1: ");
    refuse("small/other.json", SHERD_EIO, "small/other.json: cannot be opened");
    assert_int_equal(remove("small/" INDEX), 0);
    refuse("small", SHERD_EIO, "holds neither model.safetensors nor model.safetensors.index.json");
}

static void tensors_are_found_across_files(void **state)
{
    static const char *const names[] = {"a", "b", "c"};
    sherd_tensor_info info;
    cli_weights *weights;
    float value[2];

    (void)state;
    write_text("small/" INDEX, "{\"weight_map\": {\"c\": \"two.safetensors\", \"b\": \"one.safetensors\", "
                               "\"a\": \"one.safetensors\"}}");
    assert_int_equal(cli_weights_open("small", &weights, NULL), SHERD_OK);
    assert_int_equal(cli_weights_count(weights), 3);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(cli_weights_find(weights, names[i]), (int64_t)i);
        assert_int_equal(cli_weights_info(weights, i, &info), SHERD_OK);
        assert_string_equal(info.name, names[i]);
        assert_int_equal(cli_weights_read(weights, i, 0, info.elems, value, NULL), SHERD_OK);
        assert_true(value[0] == (i == 1 ? 3 : 1) && info.elems == (i == 1 ? 1 : 2));
    }
    assert_int_equal(cli_weights_find(weights, "d"), -1);
    cli_weights_close(weights);
    write_small("small/model.safetensors", "z", NULL); /* goes before the index */
    assert_int_equal(cli_weights_open("small", &weights, NULL), SHERD_OK);
    assert_int_equal(cli_weights_find(weights, "z"), 0);
    assert_int_equal(cli_weights_find(weights, "a"), -1);
    cli_weights_close(weights);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_files_are_as_one),
        cmocka_unit_test(a_wrong_index_is_refused),
        cmocka_unit_test(tensors_are_found_across_files),
    };

    if (argc < 2) {
        return 2;
    }
    command_begin(argv[1]);
    return cmocka_run_group_tests(tests, NULL, command_end);
}
