/* SPDX-License-Identifier: MIT
 *
 * The manifest: every bit survives the text, every damaged byte of it and of the files it names is detected.
 */
#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "store/manifest_text.h"
#include "tests/store/folder.h"
#include "tests/support/fail_alloc.h"
#include "tests/support/fail_io.h"

static folder place;
static sherd_error err;

static int set_up(void **state)
{
    (void)state;
    folder_make(&place);
    memset(&err, 0, sizeof err);
    return 0;
}

static void fill_digest(uint8_t out[16], int from)
{
    for (int i = 0; i < 16; i++) {
        out[i] = (uint8_t)(from + 17 * i);
    }
}

static sherd_status make_sample(sherd__manifest *m, const sherd_allocator *allocator)
{
    sherd__manifest_init(m, allocator);
    sherd_status status = sherd__manifest_reserve(m, 3, 2, 2, &err);
    if (status != SHERD_OK) {
        return status;
    }
    m->step = INT64_MAX;
    m->updates = 41;
    m->world = 8;
    m->stage = 2;
    strcpy(m->optimizer, "adamw");
    m->n_states = 3;
    strcpy(m->states[0], "master");
    strcpy(m->states[1], "exp_avg");
    strcpy(m->states[2], "exp_avg_sq");
    m->sampler.seed = UINT64_MAX;
    m->sampler.position = 0x8000000000000001u;
    m->loss_scale.scale = 65536.0;
    m->loss_scale.good_steps = 12;
    m->loss_scale.hysteresis = 2;
    m->loss_scale.skipped = 3;
    m->lr = 0.1;
    fill_digest(m->param_hash, 1);
    fill_digest(m->state_hash, 99);
    m->params[0] = (sherd__manifest_param){.name = "w", .shape = {3, 4}, .ndim = 2, .dtype = SHERD_BF16, .group = 1};
    m->params[1] =
        (sherd__manifest_param){.name = "odd \"\\\n\t \xC3\xA9", .shape = {0}, .ndim = 1, .dtype = SHERD_FP32};
    m->params[2] = (sherd__manifest_param){.name = "scalar", .dtype = SHERD_FP16, .frozen = 1};
    memset(m->params[2].name, 'n', 255);
    strcpy(m->files[0].name, "model.safetensors");
    m->files[0].bytes = 10;
    strcpy(m->files[1].name, "optimizer-00000-of-00001.safetensors");
    m->files[1].bytes = 5;
    sherd__hash_plain("0123456789", 10, m->files[0].digest);
    sherd__hash_plain("abcde", 5, m->files[1].digest);
    strcpy(m->notes[0].key, "config");
    strcpy(m->notes[0].value, "{\"train\": \"…\"}");
    strcpy(m->notes[1].key, "machine");
    return SHERD_OK;
}

static void write_files(void)
{
    folder_write(&place, "model.safetensors", "0123456789", 10);
    folder_write(&place, "optimizer-00000-of-00001.safetensors", "abcde", 5);
}

static void expect_equal(const sherd__manifest *a, const sherd__manifest *b)
{
    assert_int_equal(a->step, b->step);
    assert_int_equal(a->updates, b->updates);
    assert_int_equal(a->world, b->world);
    assert_int_equal(a->stage, b->stage);
    assert_string_equal(a->optimizer, b->optimizer);
    assert_int_equal(a->n_states, b->n_states);
    assert_memory_equal(a->states, b->states, sizeof a->states);
    assert_memory_equal(&a->sampler, &b->sampler, sizeof a->sampler);
    assert_memory_equal(&a->loss_scale, &b->loss_scale, sizeof a->loss_scale);
    assert_memory_equal(&a->lr, &b->lr, sizeof a->lr);
    assert_memory_equal(a->param_hash, b->param_hash, 16);
    assert_memory_equal(a->state_hash, b->state_hash, 16);
    assert_int_equal(a->n_params, b->n_params);
    assert_int_equal(a->n_files, b->n_files);
    assert_int_equal(a->n_notes, b->n_notes);
    for (uint32_t i = 0; i < a->n_params; i++) {
        const sherd__manifest_param *p = &a->params[i], *q = &b->params[i];
        assert_string_equal(p->name, q->name);
        assert_int_equal(p->ndim, q->ndim);
        assert_memory_equal(p->shape, q->shape, sizeof p->shape);
        assert_int_equal(p->dtype, q->dtype);
        assert_int_equal(p->group, q->group);
        assert_int_equal(p->frozen, q->frozen);
    }
    for (uint32_t i = 0; i < a->n_files; i++) {
        assert_string_equal(a->files[i].name, b->files[i].name);
        assert_int_equal(a->files[i].bytes, b->files[i].bytes);
        assert_memory_equal(a->files[i].digest, b->files[i].digest, 16);
    }
    for (uint32_t i = 0; i < a->n_notes; i++) {
        assert_string_equal(a->notes[i].key, b->notes[i].key);
        assert_string_equal(a->notes[i].value, b->notes[i].value);
    }
}

static void everything_survives_the_text(void **state)
{
    (void)state;
    static const double reals[] = {0.1,    1.0,       65536.0, DBL_MIN, DBL_TRUE_MIN, DBL_MAX,
                                   1e-300, 1.0 / 3.0, 0.0,     -0.0,    3e-4};
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        sherd__manifest out, in;
        assert_int_equal(make_sample(&out, NULL), SHERD_OK);
        out.lr = reals[i];
        out.loss_scale.scale = reals[sizeof reals / sizeof reals[0] - 1 - i];
        assert_int_equal(sherd__manifest_write(&out, place.path, NULL, &err), SHERD_OK);
        sherd__manifest_init(&in, NULL);
        assert_int_equal(sherd__manifest_read(&in, place.path, NULL, &err), SHERD_OK);
        expect_equal(&in, &out);
        sherd__manifest_fini(&in);
        sherd__manifest_fini(&out);
    }
    folder_remove(&place, 1);
}

static void what_cannot_be_written_is_refused(void **state)
{
    (void)state;
    char *text;
    uint64_t bytes;
    for (int turn = 0; turn < 8; turn++) {
        sherd__manifest m;
        assert_int_equal(make_sample(&m, NULL), SHERD_OK);
        switch (turn) {
        case 0:
            m.lr = NAN;
            break;
        case 1:
            m.loss_scale.scale = INFINITY;
            break;
        case 2:
            strcpy(m.params[1].name, "w");
            break;
        case 3:
            strcpy(m.files[1].name, m.files[0].name);
            break;
        case 4:
            strcpy(m.files[1].name, "../x");
            break;
        case 5:
            strcpy(m.notes[1].key, "config");
            break;
        case 6:
            strcpy(m.params[0].name, "\xFF\xFE");
            break;
        default:
            m.files[0].bytes = UINT64_MAX;
        }
        assert_int_equal(sherd__manifest_to_text(&m, &text, &bytes, &err), SHERD_EINVAL);
        sherd__manifest_fini(&m);
    }
    folder_remove(&place, 0);
}

/* Every byte flipped in every bit, every truncation, an added byte: the checksum. */
static void every_damage_of_the_text_is_detected(void **state)
{
    (void)state;
    sherd__manifest m, in;
    char *text;
    uint64_t bytes;
    assert_int_equal(make_sample(&m, NULL), SHERD_OK);
    assert_int_equal(sherd__manifest_to_text(&m, &text, &bytes, &err), SHERD_OK);
    sherd__manifest_init(&in, NULL);
    assert_true(bytes > 500);
    for (uint64_t at = 0; at < bytes; at++) {
        for (int bit = 0; bit < 8; bit++) {
            text[at] ^= (char)(1u << bit);
            assert_int_equal(sherd__manifest_parse(&in, text, bytes, "m", &err), SHERD_EINVAL);
            text[at] ^= (char)(1u << bit);
        }
        assert_int_equal(sherd__manifest_parse(&in, text, at, "m", &err), SHERD_EINVAL);
    }
    text[bytes] = ' ';
    assert_int_equal(sherd__manifest_parse(&in, text, bytes + 1, "m", &err), SHERD_EINVAL);
    assert_int_equal(sherd__manifest_parse(&in, text, bytes, "m", &err), SHERD_OK);
    expect_equal(&in, &m);
    sherd__manifest_fini(&in);
    text[bytes] = '\0';
    sherd__free(&m.own.allocator, text, 1, bytes + 1);
    sherd__manifest_fini(&m);
    folder_remove(&place, 0);
}

/* Puts the right checksum on a text in which `from` is replaced, and parses it. */
static sherd_status parse_changed(const char *text, const char *from, const char *to)
{
    static char changed[8192];
    sherd__manifest in;
    uint8_t digest[16];
    char digits[SHERD__DIGEST_TEXT];
    const char *at = strstr(text, from);
    assert_non_null(at);
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    memcpy(changed + SHERD__MANIFEST_SUM_AT, SHERD__MANIFEST_ZEROS, 32);
    sherd__hash_plain(changed, strlen(changed), digest);
    sherd__digest_text(digest, digits);
    memcpy(changed + SHERD__MANIFEST_SUM_AT, digits, 32);
    sherd__manifest_init(&in, NULL);
    sherd_status status = sherd__manifest_parse(&in, changed, strlen(changed), "m", &err);
    sherd__manifest_fini(&in);
    return status;
}

static void a_right_checksum_is_not_enough(void **state)
{
    (void)state;
    static const struct {
        const char *from, *to, *words; /* words NULL: it is good */
    } cases[] = {
        {"\"world\": 8", "\"world\": 16", NULL},
        {"\"world\": 8", "\"world\": 8, \"later\": [1]", NULL}, /* a later version's key */
        {"\"world\": 8", "\"world\": 0", "world: the number is out of range"},
        {"\"world\": 8", "\"world\": -1", "world"},
        {"\"world\": 8", "\"world\": 8.0", "world: an integer"},
        {"\"world\": 8", "\"word\": 8", "world: an integer is missing"},
        {"\"world\": 8", "\"world\": 8, \"world\": 8", "duplicate"},
        {"\"world\": 8", "\"world\": 4294967296", "world"},
        {"\"world\": 8", "\"world\": 99999999999999999999", "m: line"},
        {"\"format\": 1", "\"format\": 2", "format"},
        {"\"stage\": 2", "\"stage\": 4", "stage"},
        {"\"step\": 9223372036854775807", "\"step\": -1", "step"},
        {"65536.0", "65536", "scale: a real"},
        {"65536.0", "\"x\"", "scale: a real"},
        {"\"bf16\"", "\"bf17\"", "parameters[0]."},
        {"\"bf16\"", "null", "parameters[0]."},
        {"\"frozen\": false", "\"frozen\": 0", "parameters[0]."},
        {"\"group\": 1", "\"group\": 16", "group"},
        {"\"name\": \"w\"", "\"name\": \"\"", "parameters[0]."},
        {"\"scale\"", "\"scales\"", "scale"},
        {"model.safetensors", "../model", "files[0]."},
        {"model.safetensors", ".hidden", "files[0]."},
        {"model.safetensors", "a/b", "files[0]."},
        {"model.safetensors", "optimizer-00000-of-00001.safetensors", "comes twice"},
        {"\"bytes\": 10", "\"bytes\": -10", "files[0].bytes"},
        {"ffffffffffffffff", "fffffffffffffff", "seed"},
        {"ffffffffffffffff", "FFFFFFFFFFFFFFFF", "seed"},
        {"ffffffffffffffff", "fffffffffffffffg", "seed"},
        {"\"exp_avg\"", "7", "states"},
        {"\"parameters\"", "\"params\"", "parameters, files or notes"},
        {"\"machine\": \"\"", "\"machine\": {}", "machine"},
    };
    sherd__manifest m;
    char *text;
    uint64_t bytes;
    assert_int_equal(make_sample(&m, NULL), SHERD_OK);
    assert_int_equal(sherd__manifest_to_text(&m, &text, &bytes, &err), SHERD_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sherd_status status = parse_changed(text, cases[i].from, cases[i].to);
        if (status != (cases[i].words == NULL ? SHERD_OK : SHERD_EINVAL) ||
            (cases[i].words != NULL && strstr(err.text, cases[i].words) == NULL)) {
            fail_msg("%s -> %s: %d, %s", cases[i].from, cases[i].to, (int)status, err.text);
        }
    }
    sherd__free(&m.own.allocator, text, 1, bytes + 1);
    sherd__manifest_fini(&m);
    folder_remove(&place, 0);
}

/* -------------------------------------------------------------------------------------------------- the files named */

static void every_damage_of_a_file_is_detected(void **state)
{
    (void)state;
    sherd__manifest m;
    assert_int_equal(make_sample(&m, NULL), SHERD_OK);
    write_files();
    assert_int_equal(sherd__manifest_verify(&m, place.path, NULL, NULL, &err), SHERD_OK);
    char data[11] = "0123456789";
    for (size_t at = 0; at < 10; at++) {
        for (int bit = 0; bit < 8; bit++) {
            data[at] ^= (char)(1u << bit);
            folder_write(&place, "model.safetensors", data, 10);
            data[at] ^= (char)(1u << bit);
            assert_int_equal(sherd__manifest_verify(&m, place.path, NULL, NULL, &err), SHERD_EIO);
            assert_non_null(strstr(err.text, "model.safetensors"));
        }
        folder_write(&place, "model.safetensors", data, at);
        assert_int_equal(sherd__manifest_verify(&m, place.path, NULL, NULL, &err), SHERD_EIO);
    }
    folder_write(&place, "model.safetensors", data, 11);
    assert_int_equal(sherd__manifest_verify(&m, place.path, "model.safetensors", NULL, &err), SHERD_EIO);
    assert_non_null(strstr(err.text, "has 11 bytes, its manifest says 10"));
    /* The other one is still good, and found by its name. */
    assert_int_equal(sherd__manifest_verify(&m, place.path, m.files[1].name, NULL, &err), SHERD_OK);
    assert_int_equal(sherd__manifest_verify(&m, place.path, "nothing", NULL, &err), SHERD_EINVAL);
    write_files();
    assert_int_equal(remove(folder_file(&place, m.files[1].name)), 0);
    assert_int_equal(sherd__manifest_verify(&m, place.path, NULL, NULL, &err), SHERD_EIO);
    assert_non_null(strstr(err.text, "optimizer-00000-of-00001"));
    sherd__manifest_fini(&m);
    folder_remove(&place, 1);
}

static void every_system_call_and_allocation_fails_once(void **state)
{
    (void)state;
    int open_before = sherd_test_open_files(), failures[2] = {0, 0};
    write_files();
    for (int mode = 0; mode < 2; mode++) {
        int k = 1;
        for (; k < 100; k++) {
            sherd_test_io faults = {.fail_at = mode == 0 ? k : 0, .code = EIO};
            sherd_test_alloc memory = {.fail_at = mode == 1 ? k : 0};
            sherd__io io = sherd_test_io_hook(&faults);
            sherd_allocator allocator = sherd_test_allocator(&memory);
            sherd__manifest out, in;
            sherd__manifest_init(&in, &allocator);
            sherd_status status = make_sample(&out, &allocator);
            status = status == SHERD_OK ? sherd__manifest_write(&out, place.path, &io, &err) : status;
            status = status == SHERD_OK ? sherd__manifest_read(&in, place.path, &io, &err) : status;
            status = status == SHERD_OK ? sherd__manifest_verify(&in, place.path, NULL, &io, &err) : status;
            sherd__manifest_fini(&in);
            sherd__manifest_fini(&out);
            assert_int_equal(memory.live_blocks, 0);
            assert_int_equal(memory.wrong_sizes, 0);
            assert_int_equal(sherd_test_open_files(), open_before);
            assert_true(folder_count(&place) <= 3);
            failures[mode] += status != SHERD_OK;
            if ((mode == 0 ? faults.struck : memory.calls >= k) == 0) {
                assert_int_equal(status, SHERD_OK);
                break;
            }
        }
        assert_true(k > 10 && k < 100);
    }
    assert_true(failures[0] > 10 && failures[1] > 10);
    folder_remove(&place, 3);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(everything_survives_the_text, set_up),
        cmocka_unit_test_setup(what_cannot_be_written_is_refused, set_up),
        cmocka_unit_test_setup(every_damage_of_the_text_is_detected, set_up),
        cmocka_unit_test_setup(a_right_checksum_is_not_enough, set_up),
        cmocka_unit_test_setup(every_damage_of_a_file_is_detected, set_up),
        cmocka_unit_test_setup(every_system_call_and_allocation_fails_once, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
