/* SPDX-License-Identifier: MIT
 *
 * Shapes of decoders: presets, Hugging Face's config.json, checks and counts.
 */
#include "models/internal.h"

#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

sherd_status sherd__model_fail(sherd_error *err, sherd_status status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        err->rank = -1;
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
    }
    return status;
}

typedef struct preset {
    const char *name;
    int64_t layers, hidden, heads, kv_heads, intermediate, vocab;
    int32_t tied;
} preset;

/* The three small ones read bytes; 124m and 350m tie the head as GPT-2 does; 1.3b and 7b have DeepSeek's shapes. The
 * 30m preset's intermediate size makes it 30.2 M parameters. */
static const preset PRESETS[] = {
    {"tiny", 2, 64, 4, 2, 176, 256, 0},         {"10m", 6, 384, 6, 6, 1024, 256, 0},
    {"30m", 8, 512, 8, 8, 1728, 512, 0},        {"124m", 12, 768, 12, 12, 2048, 50304, 1},
    {"350m", 24, 1024, 16, 16, 2816, 50304, 1}, {"1.3b", 24, 2048, 16, 16, 5504, 32256, 0},
    {"7b", 30, 4096, 32, 32, 11008, 102400, 0},
};
#define N_PRESETS (sizeof PRESETS / sizeof *PRESETS)

const char *sherd_model_preset_name(size_t index)
{
    return index < N_PRESETS ? PRESETS[index].name : NULL;
}

static sherd_model_shape defaults(void)
{
    return (sherd_model_shape){
        .size = sizeof(sherd_model_shape), .rope_theta = 10000.0, .norm_eps = 1e-5, .init_std = 0.02};
}

static sherd_model_shape of_preset(const preset *p)
{
    sherd_model_shape s = defaults();
    s.layers = p->layers;
    s.hidden = p->hidden;
    s.heads = p->heads;
    s.kv_heads = p->kv_heads;
    s.intermediate = p->intermediate;
    s.vocab = p->vocab;
    s.tied = p->tied;
    return s;
}

sherd_status sherd_model_shape_check(const sherd_model_shape *s, sherd_error *err)
{
    const struct {
        const char *name;
        int64_t value, limit;
    } sizes[] = {
        {"num_hidden_layers", s->layers, 100000},        {"hidden_size", s->hidden, 1 << 20},
        {"num_attention_heads", s->heads, 1 << 20},      {"num_key_value_heads", s->kv_heads, 1 << 20},
        {"intermediate_size", s->intermediate, 1 << 24}, {"vocab_size", s->vocab, 1 << 24},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].limit) {
            return sherd__model_fail(err, SHERD_EINVAL, "model: %s is %lld, it must be 1 to %lld", sizes[i].name,
                                     (long long)sizes[i].value, (long long)sizes[i].limit);
        }
    }
    if (s->hidden % s->heads != 0 || s->hidden / s->heads % 2 != 0) {
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "model: hidden_size %lld over %lld heads is not an even number, as rotary "
                                 "embedding needs; change one of them",
                                 (long long)s->hidden, (long long)s->heads);
    }
    if (s->heads % s->kv_heads != 0) {
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "model: %lld attention heads cannot share %lld key-value heads evenly",
                                 (long long)s->heads, (long long)s->kv_heads);
    }
    if (!(s->rope_theta > 0) || !(s->norm_eps >= 0) || !(s->init_std >= 0) ||
        !isfinite(s->rope_theta + s->norm_eps + s->init_std)) {
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "model: rope_theta %g, rms_norm_eps %g, initializer_range %g: the first must "
                                 "be positive, the others not negative",
                                 s->rope_theta, s->norm_eps, s->init_std);
    }
    return SHERD_OK;
}

static sherd_status read_integer(json_t *root, const char *key, const char *name, int required, int64_t *out,
                                 sherd_error *err)
{
    json_t *value = json_object_get(root, key);
    if (!value && !required) {
        return SHERD_OK;
    }
    if (!json_is_integer(value)) {
        return sherd__model_fail(err, SHERD_EINVAL, "%s: %s: %s, expected an integer", name, key,
                                 value ? "wrong type" : "missing");
    }
    *out = json_integer_value(value);
    return SHERD_OK;
}

static sherd_status read_number(json_t *root, const char *key, const char *name, double *out, sherd_error *err)
{
    json_t *value = json_object_get(root, key);
    if (!value) {
        return SHERD_OK;
    }
    if (!json_is_number(value)) {
        return sherd__model_fail(err, SHERD_EINVAL, "%s: %s: wrong type, expected a number", name, key);
    }
    *out = json_number_value(value);
    return SHERD_OK;
}

/* Keys that would change the arithmetic this decoder does: better refused than silently different. */
static sherd_status refuse_unsupported(json_t *root, const char *name, sherd_error *err)
{
    static const char *const off[] = {"attention_bias", "mlp_bias", "rope_scaling"};
    for (size_t i = 0; i < sizeof off / sizeof *off; i++) {
        json_t *value = json_object_get(root, off[i]);
        if (value && !json_is_null(value) && !json_is_false(value)) {
            return sherd__model_fail(err, SHERD_EUNSUPPORTED, "%s: %s: not built; set it to %s", name, off[i],
                                     i < 2 ? "false" : "null");
        }
    }
    const char *act = json_string_value(json_object_get(root, "hidden_act"));
    if (act && strcmp(act, "silu") != 0) {
        return sherd__model_fail(err, SHERD_EUNSUPPORTED, "%s: hidden_act: '%s' is not built, only 'silu'", name, act);
    }
    return SHERD_OK;
}

static sherd_status of_json(json_t *root, const char *name, sherd_model_shape *out, sherd_error *err)
{
    sherd_model_shape s = defaults();
    const struct {
        const char *key;
        int64_t *to;
    } integers[] = {
        {"num_hidden_layers", &s.layers},       {"hidden_size", &s.hidden}, {"num_attention_heads", &s.heads},
        {"intermediate_size", &s.intermediate}, {"vocab_size", &s.vocab},
    };
    const struct {
        const char *key;
        double *to;
    } numbers[] = {
        {"rope_theta", &s.rope_theta},
        {"rms_norm_eps", &s.norm_eps},
        {"initializer_range", &s.init_std},
    };
    sherd_status status = json_is_object(root)
                              ? refuse_unsupported(root, name, err)
                              : sherd__model_fail(err, SHERD_EINVAL, "%s: expected a JSON object", name);
    for (size_t i = 0; i < sizeof integers / sizeof *integers && status == SHERD_OK; i++) {
        status = read_integer(root, integers[i].key, name, 1, integers[i].to, err);
    }
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && status == SHERD_OK; i++) {
        status = read_number(root, numbers[i].key, name, numbers[i].to, err);
    }
    if (status != SHERD_OK) {
        return status;
    }
    s.kv_heads = s.heads;
    int64_t head_dim = s.heads > 0 ? s.hidden / s.heads : 0, given = head_dim;
    status = read_integer(root, "num_key_value_heads", name, 0, &s.kv_heads, err);
    if (status == SHERD_OK && !json_is_null(json_object_get(root, "head_dim"))) {
        status = read_integer(root, "head_dim", name, 0, &given, err);
    }
    if (status == SHERD_OK && given != head_dim) {
        status = sherd__model_fail(err, SHERD_EUNSUPPORTED,
                                   "%s: head_dim: %lld, but only hidden_size / num_attention_heads = %lld "
                                   "is built",
                                   name, (long long)given, (long long)head_dim);
    }
    s.tied = json_is_true(json_object_get(root, "tie_word_embeddings"));
    if (status == SHERD_OK) {
        status = sherd_model_shape_check(&s, err);
    }
    if (status == SHERD_OK) {
        *out = s;
    }
    return status;
}

sherd_status sherd_model_shape_parse(const char *json, size_t bytes, const char *name, sherd_model_shape *out,
                                     sherd_error *err)
{
    json_error_t at;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &at);
    if (!root) {
        return sherd__model_fail(err, SHERD_EINVAL, "%s: line %d, column %d: %s", name, at.line, at.column, at.text);
    }
    sherd_status status = of_json(root, name, out, err);
    json_decref(root);
    return status;
}

sherd_status sherd_model_shape_read(const char *name, sherd_model_shape *out, sherd_error *err)
{
    for (size_t i = 0; i < N_PRESETS; i++) {
        if (strcmp(name, PRESETS[i].name) == 0) {
            *out = of_preset(&PRESETS[i]);
            return SHERD_OK;
        }
    }
    json_error_t at;
    json_t *root = json_load_file(name, JSON_REJECT_DUPLICATES, &at);
    if (!root && at.line == -1) {
        return sherd__model_fail(err, SHERD_EINVAL,
                                 "model '%s' is neither a preset (tiny, 10m, 30m, 124m, 350m, 1.3b, 7b) nor a "
                                 "readable JSON file: %s",
                                 name, at.text);
    }
    if (!root) {
        return sherd__model_fail(err, SHERD_EINVAL, "%s: line %d, column %d: %s", name, at.line, at.column, at.text);
    }
    sherd_status status = of_json(root, name, out, err);
    json_decref(root);
    return status;
}

static int64_t layer_matrix_elems(const sherd_model_shape *s)
{
    int64_t kv = s->hidden / s->heads * s->kv_heads;
    return s->hidden * (2 * s->hidden + 2 * kv + 3 * s->intermediate);
}

int64_t sherd_model_elems(const sherd_model_shape *s)
{
    return s->layers * (layer_matrix_elems(s) + 2 * s->hidden) + s->hidden + (s->tied ? 1 : 2) * s->vocab * s->hidden;
}

double sherd_model_flops_per_token(const sherd_model_shape *s, int64_t seq)
{
    double matrices = (double)s->layers * (double)layer_matrix_elems(s) + (double)s->vocab * (double)s->hidden;
    return 6.0 * matrices + 6.0 * (double)s->layers * (double)s->hidden * (double)seq;
}
