/* SPDX-License-Identifier: MIT
 *
 * The safetensors format: what was written is read back, and what nobody would have written is refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "store/safetensors.h"
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

static const sherd__tensor tensors[] = {
    {"model.embed_tokens.weight", "F32", {7, 3}, 2},
    {"a scalar", "F32", {0}, 0},
    {"empty", "F32", {0, 5}, 2},
    {"quote \" slash \\ newline \n tab \t \xC3\xA9 \xE2\x82\xAC", "BF16", {5}, 1},
    {"eight", "F16", {1, 1, 1, 1, 1, 1, 1, 3}, 8},
    {"bytes", "U8", {11}, 1},
    {"last and empty", "BOOL", {0}, 1},
};
enum { TENSORS = sizeof tensors / sizeof tensors[0], DATA_BYTES = 21 * 4 + 4 + 5 * 2 + 3 * 2 + 11 };
static const sherd__pair metadata[] = {{"format", "pt"}, {"a \"key\"", "value\n"}};

/* Byte i of the data. Floats of it are of no account: bits are compared. */
static unsigned char byte_of(uint64_t i)
{
    return (unsigned char)(i * 37 + 11 + i / 256);
}

static void write_sample(const char *name, uint64_t piece, uint64_t *bytes, uint8_t digest[16])
{
    sherd__safetensors_writer *writer = NULL;
    unsigned char data[DATA_BYTES];
    for (uint64_t i = 0; i < DATA_BYTES; i++) {
        data[i] = byte_of(i);
    }
    assert_int_equal(
        sherd__safetensors_create(folder_file(&place, name), tensors, TENSORS, metadata, 2, NULL, NULL, &writer, &err),
        SHERD_OK);
    for (uint64_t at = 0; at < DATA_BYTES; at += piece) {
        uint64_t n = piece < DATA_BYTES - at ? piece : DATA_BYTES - at;
        assert_int_equal(sherd__safetensors_write(writer, data + at, n, &err), SHERD_OK);
    }
    assert_int_equal(sherd__safetensors_commit(writer, bytes, digest, &err), SHERD_OK);
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    for (uint64_t piece = 1; piece <= DATA_BYTES; piece += 6) {
        uint64_t bytes = 0, at = 0;
        uint8_t digest[16], plain[16];
        size_t length = 0;
        write_sample("a.safetensors", piece, &bytes, digest);
        unsigned char *whole = folder_read(&place, "a.safetensors", &length);
        assert_int_equal(length, bytes);
        assert_int_equal(bytes, sherd__safetensors_file_bytes(tensors, TENSORS, metadata, 2));
        sherd__hash_plain(whole, length, plain);
        assert_memory_equal(digest, plain, 16);
        free(whole);
        sherd_safetensors *file = NULL;
        assert_int_equal(sherd_safetensors_open(folder_file(&place, "a.safetensors"), NULL, &file, &err), SHERD_OK);
        assert_int_equal(sherd_safetensors_count(file), TENSORS);
        assert_string_equal(sherd_safetensors_metadata(file, "format"), "pt");
        assert_string_equal(sherd_safetensors_metadata(file, "a \"key\""), "value\n");
        assert_null(sherd_safetensors_metadata(file, "nothing"));
        assert_int_equal(sherd_safetensors_find(file, "no such tensor"), -1);
        for (size_t i = 0; i < TENSORS; i++) {
            sherd_tensor_info info;
            unsigned char data[DATA_BYTES];
            int64_t index = sherd_safetensors_find(file, tensors[i].name);
            assert_true(index >= 0);
            assert_int_equal(sherd_safetensors_info(file, (size_t)index, &info), SHERD_OK);
            assert_string_equal(info.name, tensors[i].name);
            assert_string_equal(info.dtype, tensors[i].dtype);
            assert_int_equal(info.ndim, tensors[i].ndim);
            assert_memory_equal(info.shape, tensors[i].shape, info.ndim * sizeof info.shape[0]);
            assert_int_equal(sherd_safetensors_read(file, (size_t)index, 0, info.elems, data, &err), SHERD_OK);
            for (uint64_t b = 0; b < info.bytes; b++) {
                assert_int_equal(data[b], byte_of(at++));
            }
        }
        assert_int_equal(at, DATA_BYTES);
        assert_int_equal(sherd_safetensors_info(file, TENSORS, &(sherd_tensor_info){0}), SHERD_EINVAL);
        sherd_safetensors_close(file);
    }
    folder_remove(&place, 1);
}

static void ranges_are_read_alone(void **state)
{
    (void)state;
    uint64_t bytes;
    uint8_t digest[16];
    sherd_safetensors *file = NULL;
    write_sample("a", DATA_BYTES, &bytes, digest);
    assert_int_equal(sherd_safetensors_open(folder_file(&place, "a"), NULL, &file, &err), SHERD_OK);
    size_t index = (size_t)sherd_safetensors_find(file, tensors[0].name);
    int ranges = 0;
    for (int64_t first = -1; first <= 22; first++) {
        for (int64_t elems = -1; elems <= 22; elems++) {
            unsigned char data[22 * 4];
            int good = first >= 0 && elems >= 0 && first + elems <= 21;
            assert_int_equal(sherd_safetensors_read(file, index, first, elems, data, &err),
                             good ? SHERD_OK : SHERD_EINVAL);
            for (int64_t b = 0; good && b < elems * 4; b++) {
                assert_int_equal(data[b], byte_of((uint64_t)(first * 4 + b)));
                ranges++;
            }
        }
    }
    assert_true(ranges > 1000);
    assert_int_equal(sherd_safetensors_read(file, index, INT64_MAX, INT64_MAX, NULL, &err), SHERD_EINVAL);
    index = (size_t)sherd_safetensors_find(file, "bytes");
    float value;
    assert_int_equal(sherd_safetensors_read_fp32(file, index, 0, 1, &value, &err), SHERD_EUNSUPPORTED);
    assert_non_null(strstr(err.text, "U8"));
    sherd_safetensors_close(file);
    folder_remove(&place, 1);
}

/* Every 16-bit pattern, against ldexp. */
static void narrow_types_widen_exactly(void **state)
{
    (void)state;
    static const sherd__tensor both[] = {{"half", "F16", {65536}, 1}, {"brain", "BF16", {65536}, 1}};
    static uint16_t data[65536];
    static float wide[65536];
    sherd__safetensors_writer *writer = NULL;
    sherd_safetensors *file = NULL;
    for (int i = 0; i < 65536; i++) {
        data[i] = (uint16_t)i;
    }
    assert_int_equal(sherd__safetensors_create(folder_file(&place, "w"), both, 2, NULL, 0, NULL, NULL, &writer, &err),
                     0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sherd__safetensors_write(writer, data, sizeof data, &err), SHERD_OK);
    }
    assert_int_equal(sherd__safetensors_commit(writer, NULL, NULL, &err), SHERD_OK);
    assert_int_equal(sherd_safetensors_open(folder_file(&place, "w"), NULL, &file, &err), SHERD_OK);
    for (int t = 0; t < 2; t++) {
        int bits = t == 0 ? 10 : 7, top = t == 0 ? 31 : 255, bias = t == 0 ? 15 : 127;
        assert_int_equal(
            sherd_safetensors_read_fp32(file, (size_t)sherd_safetensors_find(file, both[t].name), 0, 65536, wide, &err),
            SHERD_OK);
        for (int i = 0; i < 65536; i++) {
            int exponent = i >> bits & top, fraction = i & ((1 << bits) - 1);
            double expected = exponent == 0 ? ldexp(fraction, 1 - bias - bits)
                                            : ldexp(fraction + (1 << bits), exponent - bias - bits);
            if (exponent == top) {
                assert_int_equal(isnan(wide[i]) != 0, fraction != 0);
                assert_int_equal(isinf(wide[i]) != 0, fraction == 0);
            } else {
                assert_true((double)fabsf(wide[i]) == expected);
            }
            assert_int_equal(signbit(wide[i]) != 0, i >> 15);
        }
    }
    sherd_safetensors_close(file);
    folder_remove(&place, 1);
}

/* --------------------------------------------------------------------------------------------------------- distrust */

/* A file of this header and `data_bytes` zeros; what opening says. */
static sherd_status open_header(const char *header, uint64_t data_bytes)
{
    uint64_t n = strlen(header), bytes = 8 + n;
    unsigned char *text = calloc(1, bytes);
    sherd_safetensors *file = NULL;
    assert_non_null(text);
    for (int i = 0; i < 8; i++) {
        text[i] = (unsigned char)(n >> 8 * i);
    }
    memcpy(text + 8, header, n);
    sherd_status status = sherd__safetensors_parse(text, bytes, bytes + data_bytes, "test", NULL, &file, &err);
    sherd_safetensors_close(file);
    free(text);
    return status;
}

static void headers_that_do_not_fit_are_refused(void **state)
{
    (void)state;
#define ONE "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
    static const struct {
        const char *header;
        uint64_t data_bytes;
        const char *words; /* NULL: it is good */
    } cases[] = {
        {ONE "}", 8, NULL},
        {ONE "}   ", 8, NULL},
        {"{}", 0, NULL},
        {"{\"__metadata__\":{\"a\":\"b\"}}", 0, NULL},
        {ONE ",\"b\":{\"shape\":[],\"data_offsets\":[8,10],\"dtype\":\"BF16\"}}", 10, NULL},
        {ONE "}", 7, "ends after the file's end"},
        {ONE "}", 9, "1 bytes follow the last tensor"},
        {"{}", 1, "follow the last tensor"},
        {ONE ",\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16, "duplicate"},
        {ONE ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "overlaps"},
        {ONE ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "overlaps"},
        {ONE ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[9,13]}}", 13, "gap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]}}", 5, "gap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "do not fit"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, "do not fit"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype is not known"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "no dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "more elements"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,0]}}", 0, "more elements"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9223372036854775807],\"data_offsets\":[0,0]}}", 0, NULL},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "more elements"},
        {"{\"a\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[0,2]}}", 2, NULL},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,99999999999999999999]}}", 8, "header is no JSON"},
        {"{\"a\":7}", 0, "no dtype"},
        {"[]", 0, "no JSON object"},
        {"", 0, "no JSON object"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "is no string"},
        {"{\"__metadata__\":[]}", 0, "no object"},
        {"{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "header is no JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sherd_status status = open_header(cases[i].header, cases[i].data_bytes);
        assert_int_equal(status, cases[i].words == NULL ? SHERD_OK : SHERD_EINVAL);
        if (cases[i].words != NULL && strstr(err.text, cases[i].words) == NULL) {
            fail_msg("%s: %s", cases[i].header, err.text);
        }
    }
    folder_remove(&place, 0);
}

static void a_header_length_is_not_believed(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {3, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        unsigned char bytes[10] = {0};
        sherd_safetensors *file = NULL;
        for (int b = 0; b < 8; b++) {
            bytes[b] = (unsigned char)(lengths[i] >> 8 * b);
        }
        folder_write(&place, "bad", bytes, sizeof bytes);
        assert_int_equal(sherd_safetensors_open(folder_file(&place, "bad"), NULL, &file, &err), SHERD_EINVAL);
        assert_null(file);
    }
    folder_remove(&place, 1);
}

/* A file with a byte missing or too many is refused; one with a changed header byte is refused or says something else
 * (a name's letter); its data is always within the file. */
static void damage_is_refused_or_harmless(void **state)
{
    (void)state;
    uint64_t bytes;
    uint8_t digest[16];
    size_t length;
    sherd_safetensors *file = NULL;
    write_sample("a", DATA_BYTES, &bytes, digest);
    unsigned char *whole = folder_read(&place, "a", &length);
    for (size_t n = 0; n < length; n++) {
        folder_write(&place, "b", whole, n);
        assert_int_equal(sherd_safetensors_open(folder_file(&place, "b"), NULL, &file, &err), SHERD_EINVAL);
    }
    int refused = 0, accepted = 0;
    for (size_t at = 0; at < length - DATA_BYTES; at++) {
        for (int bit = 0; bit < 8; bit++) {
            whole[at] ^= (unsigned char)(1u << bit);
            sherd_status status = sherd__safetensors_parse(whole, length, length, "b", NULL, &file, &err);
            whole[at] ^= (unsigned char)(1u << bit);
            refused += status != SHERD_OK;
            accepted += status == SHERD_OK;
            if (status == SHERD_OK) {
                sherd_tensor_info info;
                for (size_t i = 0; i < sherd_safetensors_count(file); i++) {
                    sherd_safetensors_info(file, i, &info);
                    assert_true(info.offset + info.bytes <= length);
                }
                sherd_safetensors_close(file);
            } else {
                assert_int_equal(status, SHERD_EINVAL);
            }
        }
    }
    assert_true(refused > 1000 && accepted > 100);
    free(whole);
    folder_remove(&place, 2);
}

static void files_that_are_none_are_refused(void **state)
{
    (void)state;
    sherd_safetensors *file = NULL;
    assert_int_equal(sherd_safetensors_open(folder_file(&place, "absent"), NULL, &file, &err), SHERD_EIO);
    assert_int_equal(sherd_safetensors_open(place.path, NULL, &file, &err), SHERD_EIO);
    assert_int_equal(sherd_safetensors_open(NULL, NULL, &file, &err), SHERD_EINVAL);
    sherd_safetensors_close(NULL);
    folder_remove(&place, 0);
}

/* ---------------------------------------------------------------------------------------------------------- writing */

static void tables_that_cannot_be_written_are_refused(void **state)
{
    (void)state;
    static const sherd__tensor bad[][2] = {
        {{"a", "F32", {2}, 1}, {"a", "F32", {2}, 1}},
        {{"__metadata__", "F32", {2}, 1}, {"a", "F32", {2}, 1}},
        {{"a", "F31", {2}, 1}, {"b", "F32", {2}, 1}},
        {{"a", "BF16", {1}, 1}, {"b", "F32", {2}, 1}}, /* begins at byte 2 */
        {{"a", "F32", {-1}, 1}, {"b", "F32", {2}, 1}},
        {{"a", "F32", {INT64_MAX, 8}, 2}, {"b", "F32", {2}, 1}},
        {{"\xFF", "F32", {1}, 1}, {"b", "F32", {2}, 1}},
        {{"a", "U8", {INT64_MAX / 8 - 7}, 1}, {"b", "F32", {INT64_MAX / 32}, 9}},
    };
    sherd__safetensors_writer *writer = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(
            sherd__safetensors_create(folder_file(&place, "a"), bad[i], 2, NULL, 0, NULL, NULL, &writer, &err),
            SHERD_EINVAL);
        assert_int_equal(sherd__safetensors_file_bytes(bad[i], 2, NULL, 0), 0);
    }
    assert_int_equal(
        sherd__safetensors_create(folder_file(&place, "a"), tensors, 1, NULL, 0, NULL, NULL, &writer, &err), 0);
    assert_int_equal(sherd__safetensors_write(writer, bad, 85, &err), SHERD_EINVAL); /* one byte too many */
    assert_int_equal(sherd__safetensors_write(writer, bad, 83, &err), SHERD_OK);
    assert_int_equal(sherd__safetensors_commit(writer, NULL, NULL, &err), SHERD_EINVAL); /* one is missing */
    assert_non_null(strstr(err.text, "83 of 84 bytes"));
    folder_remove(&place, 0);
}

static sherd_status write_and_read(sherd_test_io *faults, sherd_test_alloc *memory)
{
    sherd__io io = sherd_test_io_hook(faults);
    sherd_allocator allocator = sherd_test_allocator(memory);
    sherd__safetensors_writer *writer = NULL;
    sherd_safetensors *file = NULL;
    unsigned char data[DATA_BYTES] = {1}, back[DATA_BYTES];
    sherd_status status = sherd__safetensors_create(folder_file(&place, "f"), tensors, TENSORS, metadata, 2, &allocator,
                                                    &io, &writer, &err);
    if (status == SHERD_OK && (status = sherd__safetensors_write(writer, data, DATA_BYTES, &err)) != SHERD_OK) {
        sherd__safetensors_abandon(writer);
    } else if (status == SHERD_OK) {
        status = sherd__safetensors_commit(writer, NULL, NULL, &err);
    }
    if (status == SHERD_OK) {
        status = sherd__safetensors_open(folder_file(&place, "f"), &allocator, &io, &file, &err);
    }
    if (status == SHERD_OK) {
        status = sherd_safetensors_read(file, (size_t)sherd_safetensors_find(file, tensors[0].name), 0, 21, back, &err);
    }
    sherd_safetensors_close(file);
    return status;
}

static void every_system_call_and_allocation_fails_once(void **state)
{
    (void)state;
    int open_before = sherd_test_open_files(), failures = 0;
    for (int mode = 0; mode < 2; mode++) {
        for (int k = 1; k < 100; k++) {
            sherd_test_io faults = {.fail_at = mode == 0 ? k : 0, .code = EIO};
            sherd_test_alloc memory = {.fail_at = mode == 1 ? k : 0};
            sherd_status status = write_and_read(&faults, &memory);
            assert_int_equal(memory.live_blocks, 0);
            assert_int_equal(memory.wrong_sizes, 0);
            assert_int_equal(sherd_test_open_files(), open_before);
            if ((mode == 0 ? faults.struck : memory.calls >= k) == 0) {
                assert_int_equal(status, SHERD_OK);
                assert_true(k > 5);
                break;
            }
            failures += status != SHERD_OK;
            if (status != SHERD_OK) {
                assert_int_equal(status, mode == 0 ? SHERD_EIO : SHERD_ENOMEM);
            }
            assert_true(folder_count(&place) <= 1); /* no .tmp */
            (void)remove(folder_file(&place, "f"));
        }
    }
    assert_true(failures > 10);
    folder_remove(&place, 1);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_is_written_is_read_back, set_up),
        cmocka_unit_test_setup(ranges_are_read_alone, set_up),
        cmocka_unit_test_setup(narrow_types_widen_exactly, set_up),
        cmocka_unit_test_setup(headers_that_do_not_fit_are_refused, set_up),
        cmocka_unit_test_setup(a_header_length_is_not_believed, set_up),
        cmocka_unit_test_setup(damage_is_refused_or_harmless, set_up),
        cmocka_unit_test_setup(files_that_are_none_are_refused, set_up),
        cmocka_unit_test_setup(tables_that_cannot_be_written_are_refused, set_up),
        cmocka_unit_test_setup(every_system_call_and_allocation_fails_once, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
