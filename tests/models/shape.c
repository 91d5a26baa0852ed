/* SPDX-License-Identifier: MIT
 *
 * Shapes, parameter tables and initial values.
 */
#include "models/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static int64_t table_elems(const sherd_model_shape *shape)
{
    uint32_t n = sherd_model_param_count(shape);
    sherd_param *params = calloc(n, sizeof *params);
    char *names = calloc(n, SHERD_MODEL_NAME_MAX);
    int64_t sum = 0;
    assert_int_equal(sherd_model_params(shape, SHERD_FP32, SHERD_FP32, 0, params, names, NULL), SHERD_OK);
    for (uint32_t i = 0; i < n; i++) {
        sum += params[i].ndim == 2 ? params[i].shape[0] * params[i].shape[1] : params[i].shape[0];
        for (uint32_t j = 0; j < i; j++) {
            assert_string_not_equal(params[i].name, params[j].name);
        }
    }
    free(names);
    free(params);
    return sum;
}

static void presets_have_their_sizes(void **state)
{
    (void)state;
    const struct {
        const char *name;
        double least, most;
    } want[] = {
        {"tiny", 0.1e6, 0.2e6}, {"10m", 9.5e6, 11e6},   {"30m", 29.5e6, 30.5e6}, {"124m", 123e6, 125e6},
        {"350m", 345e6, 365e6}, {"1.3b", 1.3e9, 1.4e9}, {"7b", 6.5e9, 7.5e9},
    };
    size_t n = sizeof want / sizeof *want;
    for (size_t i = 0; i < n; i++) {
        sherd_model_shape shape;
        assert_string_equal(sherd_model_preset_name(i), want[i].name);
        assert_int_equal(sherd_model_shape_read(want[i].name, &shape, NULL), SHERD_OK);
        assert_int_equal(sherd_model_shape_check(&shape, NULL), SHERD_OK);
        int64_t elems = sherd_model_elems(&shape);
        assert_true((double)elems >= want[i].least && (double)elems <= want[i].most);
        assert_int_equal(elems, table_elems(&shape));
    }
    assert_null(sherd_model_preset_name(n));
}

static void table_is_in_forward_order_with_known_names(void **state)
{
    (void)state;
    static const char *const want[] = {"model.embed_tokens.weight",
                                       "model.layers.0.input_layernorm.weight",
                                       "model.layers.0.self_attn.q_proj.weight",
                                       "model.layers.0.self_attn.k_proj.weight",
                                       "model.layers.0.self_attn.v_proj.weight",
                                       "model.layers.0.self_attn.o_proj.weight",
                                       "model.layers.0.post_attention_layernorm.weight",
                                       "model.layers.0.mlp.gate_proj.weight",
                                       "model.layers.0.mlp.up_proj.weight",
                                       "model.layers.0.mlp.down_proj.weight",
                                       "model.norm.weight",
                                       "lm_head.weight"};
    sherd_model_shape shape;
    sherd_param params[12];
    char names[12 * SHERD_MODEL_NAME_MAX];
    assert_int_equal(sherd_model_shape_read("tiny", &shape, NULL), SHERD_OK);
    shape.layers = 1;
    assert_int_equal(sherd_model_param_count(&shape), 12);
    assert_int_equal(sherd_model_params(&shape, SHERD_BF16, SHERD_FP32, SHERD_MODEL_GROUP_NORMS, params, names, NULL),
                     SHERD_OK);
    for (int i = 0; i < 12; i++) {
        assert_string_equal(params[i].name, want[i]);
        assert_int_equal(params[i].group, params[i].ndim == 1);
        assert_int_equal(params[i].uses, 1);
        assert_int_equal(params[i].dtype, SHERD_BF16);
        assert_int_equal(params[i].grad_dtype, SHERD_FP32);
    }
    assert_int_equal(params[3].shape[0], 32); /* k_proj: 2 of 4 heads */
    assert_int_equal(params[3].shape[1], 64);
    shape.tied = 1;
    assert_int_equal(sherd_model_param_count(&shape), 11);
    assert_int_equal(sherd_model_params(&shape, SHERD_FP32, SHERD_FP32, 0, params, names, NULL), SHERD_OK);
    assert_int_equal(params[0].uses, 2);
    assert_int_equal(params[10].group, 0);
}

static sherd_status parse(const char *json, sherd_model_shape *shape, sherd_error *err)
{
    return sherd_model_shape_parse(json, strlen(json), "config.json", shape, err);
}

#define GOOD "\"num_hidden_layers\": 3, \"hidden_size\": 64, \"num_attention_heads\": 4, \"intermediate_size\": 96"

static void hugging_face_keys_are_read(void **state)
{
    (void)state;
    sherd_model_shape shape;
    assert_int_equal(
        parse("{" GOOD ", \"vocab_size\": 300, \"num_key_value_heads\": 2, \"tie_word_embeddings\": true,"
              "\"rope_theta\": 5e5, \"rms_norm_eps\": 1e-6, \"initializer_range\": 0.01, \"torch_dtype\": \"x\"}",
              &shape, NULL),
        SHERD_OK);
    assert_int_equal(shape.layers, 3);
    assert_int_equal(shape.kv_heads, 2);
    assert_int_equal(shape.vocab, 300);
    assert_int_equal(shape.tied, 1);
    assert_true(shape.rope_theta == 5e5 && shape.norm_eps == 1e-6 && shape.init_std == 0.01);
    assert_int_equal(parse("{" GOOD ", \"vocab_size\": 300}", &shape, NULL), SHERD_OK);
    assert_int_equal(shape.kv_heads, 4);
    assert_int_equal(shape.tied, 0);
}

static void bad_shapes_are_refused_by_name(void **state)
{
    (void)state;
    const struct {
        const char *json, *word;
    } bad[] = {
        {"{" GOOD "}", "vocab_size"},
        {"{" GOOD ", \"vocab_size\": \"many\"}", "vocab_size"},
        {"{" GOOD ", \"vocab_size\": 0}", "vocab_size"},
        {"{" GOOD ", \"vocab_size\": 300, \"num_key_value_heads\": 3}", "key-value"},
        {"{" GOOD ", \"vocab_size\": 300, \"attention_bias\": true}", "attention_bias"},
        {"{" GOOD ", \"vocab_size\": 300, \"rope_scaling\": {\"factor\": 4}}", "rope_scaling"},
        {"{" GOOD ", \"vocab_size\": 300, \"hidden_act\": \"gelu\"}", "hidden_act"},
        {"{" GOOD ", \"vocab_size\": 300, \"head_dim\": 32}", "head_dim"},
        {"{" GOOD ", \"vocab_size\": 300, \"vocab_size\": 300}", "line 1"},
        {"[1]", "object"},
        {"{", "line 1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sherd_model_shape shape;
        sherd_error err = {0};
        assert_int_not_equal(parse(bad[i].json, &shape, &err), SHERD_OK);
        assert_non_null(strstr(err.text, bad[i].word));
    }
    sherd_model_shape shape;
    sherd_error err = {0};
    assert_int_equal(sherd_model_shape_read("/nowhere/config.json", &shape, &err), SHERD_EINVAL);
    assert_non_null(strstr(err.text, "preset"));
}

static void initial_values_depend_on_seed_name_and_index_only(void **state)
{
    (void)state;
    sherd_model_shape shape;
    sherd_param p = {.name = "model.layers.0.mlp.up_proj.weight", .ndim = 2, .shape = {100, 101}}, q = p, norm = p;
    enum { N = 10100 };
    static float whole[N], piece[N], other[N];
    assert_int_equal(sherd_model_shape_read("tiny", &shape, NULL), SHERD_OK);
    sherd_model_init_values(&shape, &p, 7, 0, N, whole);
    for (int64_t at = 0, step = 1; at < N; at += step, step = step % 13 + 1) {
        int64_t n = at + step > N ? N - at : step;
        sherd_model_init_values(&shape, &p, 7, at, n, piece + at);
    }
    assert_memory_equal(whole, piece, sizeof whole);
    sherd_model_init_values(&shape, &p, 8, 0, N, other);
    assert_memory_not_equal(whole, other, sizeof whole);
    q.name = "model.layers.1.mlp.up_proj.weight";
    sherd_model_init_values(&shape, &q, 7, 0, N, other);
    assert_memory_not_equal(whole, other, sizeof whole);
    double sum = 0, squares = 0, cross = 0, fourth = 0;
    for (int i = 0; i < N; i++) {
        sum += whole[i];
        squares += (double)whole[i] * whole[i];
        cross += (double)whole[i] * other[i];
        fourth += pow(whole[i] / 0.02, 4);
    }
    /* four standard errors of each statistic of N normal numbers */
    assert_true(fabs(sum / N) < 4 * 0.02 / sqrt(N));
    assert_true(fabs(squares / N / 4e-4 - 1) < 4 * sqrt(2.0 / N));
    assert_true(fabs(cross / N / 4e-4) < 4 / sqrt(N));
    assert_true(fabs(fourth / N - 3) < 4 * sqrt(96.0 / N));
    norm.ndim = 1;
    sherd_model_init_values(&shape, &norm, 7, 5, 3, other);
    assert_true(other[0] == 1.0f && other[1] == 1.0f && other[2] == 1.0f);
}

static void initial_values_are_the_same_from_any_number_of_threads(void **state)
{
    (void)state;
    sherd_model_shape shape;
    sherd_param p = {.name = "lm_head.weight", .ndim = 2, .shape = {700, 331}}; /* four tasks, the last one short */
    enum { N = 700 * 331 };
    static float whole[N], again[N];
    sherd_error err = {0};
    assert_int_equal(sherd_model_shape_read("tiny", &shape, NULL), SHERD_OK);
    sherd_model_init_values(&shape, &p, 11, 0, N, whole);
    for (int32_t threads = 0; threads <= 9; threads += 3) {
        memset(again, 0, sizeof again);
        assert_int_equal(sherd_model_init_param(&shape, &p, 11, threads, again, &err), SHERD_OK);
        assert_memory_equal(whole, again, sizeof whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_have_their_sizes),
        cmocka_unit_test(table_is_in_forward_order_with_known_names),
        cmocka_unit_test(hugging_face_keys_are_read),
        cmocka_unit_test(bad_shapes_are_refused_by_name),
        cmocka_unit_test(initial_values_depend_on_seed_name_and_index_only),
        cmocka_unit_test(initial_values_are_the_same_from_any_number_of_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
