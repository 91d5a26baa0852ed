/* SPDX-License-Identifier: MIT
 *
 * Any bytes as a safetensors file: what is accepted lies within the file, in order, without gaps, and is found by name.
 */
#include <stdlib.h>
#include <string.h>

#include "store/safetensors.h"
#include "tests/fuzz/target.h"

static void check_tensors(const sherd_safetensors *file, size_t bytes)
{
    uint64_t end = 0;
    for (size_t i = 0; i < sherd_safetensors_count(file); i++) {
        sherd_tensor_info info;
        FUZZ_REQUIRE(sherd_safetensors_info(file, i, &info) == SHERD_OK);
        FUZZ_REQUIRE(info.ndim <= SHERD_MAX_DIMS && info.elems >= 0);
        FUZZ_REQUIRE(info.offset >= 8 && info.offset <= bytes && info.bytes <= bytes - info.offset);
        FUZZ_REQUIRE(i == 0 || info.offset == end);
        FUZZ_REQUIRE(sherd_safetensors_find(file, info.name) == (int64_t)i);
        FUZZ_REQUIRE(info.kind < 0 || info.bytes == (uint64_t)info.elems * sherd_dtype_bytes((sherd_dtype)info.kind));
        FUZZ_REQUIRE(sherd_safetensors_read(file, i, 0, info.elems, NULL, NULL) != SHERD_OK || info.elems == 0);
        end = info.offset + info.bytes;
    }
    FUZZ_REQUIRE(sherd_safetensors_count(file) == 0 || end == bytes);
    (void)sherd_safetensors_metadata(file, "format");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    sherd_safetensors *file = NULL;
    sherd_error err;
    sherd_status status = sherd__safetensors_parse(data, bytes, bytes, "fuzz", NULL, &file, &err);
    if (status == SHERD_OK) {
        check_tensors(file, bytes);
        sherd_safetensors_close(file);
    } else {
        FUZZ_REQUIRE(file == NULL && err.text[0] != '\0');
    }
    return 0;
}

static const struct {
    const char *header;
    unsigned data_bytes;
} seeds[] = {
    {"{}", 0},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
    {"{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[8,16]},\"a\":{"
     "\"dtype\":\"F32\","
     "\"shape\":[2],\"data_offsets\":[0,8]},\"e\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[8,8]}}   ",
     16},
    {"{\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},\"q\\\"\\u00e9\":{\"dtype\":\"F4\",\"shape\":[1,1,"
     "1,1,1,1,1,4],"
     "\"data_offsets\":[8,10]}}",
     10},
};

long fuzz_seed(int index, uint8_t *out)
{
    if (index >= (int)(sizeof seeds / sizeof seeds[0])) {
        return -1;
    }
    size_t header = strlen(seeds[index].header);
    memset(out, 0, 8 + header + seeds[index].data_bytes);
    memcpy(out + 8, seeds[index].header, header);
    out[0] = (uint8_t)header;
    out[1] = (uint8_t)(header >> 8);
    return (long)(8 + header + seeds[index].data_bytes);
}

void fuzz_mend(uint8_t *data, size_t bytes)
{
    (void)data;
    (void)bytes;
}
