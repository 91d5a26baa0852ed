/* SPDX-License-Identifier: MIT
 *
 * Any bytes as an index of safetensors files: what is accepted names for every tensor a file that cannot lie in another
 * folder, each file once and in order.
 */
#include "cli/index.h"

#include <string.h>

#include "tests/fuzz/target.h"

static void check_file(const char *file)
{
    size_t length = strlen(file);

    FUZZ_REQUIRE(length > 12 && length <= 255 && strcmp(file + length - 12, ".safetensors") == 0);
    FUZZ_REQUIRE(file[0] != '.');
    for (const char *c = file; *c != '\0'; c++) {
        FUZZ_REQUIRE(*c != '/' && *c != '\\' && (unsigned char)*c >= ' ');
    }
}

static int is_found(void *ctx, const char *tensor, size_t file)
{
    const cli_index *index = ctx;

    return file < index->n_files && cli_index_find(index, tensor) == (long)file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    sherd_error err = {.text = ""};
    cli_index index = {.root = NULL};

    if (cli_index_parse((const char *)data, bytes, "fuzz", &index, &err) != SHERD_OK) {
        FUZZ_REQUIRE(err.text[0] != '\0' && index.root == NULL);
        return 0;
    }
    FUZZ_REQUIRE(index.n_files > 0);
    for (size_t i = 0; i < index.n_files; i++) {
        check_file(index.files[i]);
        FUZZ_REQUIRE(i == 0 || strcmp(index.files[i - 1], index.files[i]) < 0);
    }
    FUZZ_REQUIRE(cli_index_first_unknown(&index, is_found, &index) == NULL);
    cli_index_free(&index);
    return 0;
}

long fuzz_seed(int index, uint8_t *out)
{
    static const char *const seeds[] = {
        "{\"weight_map\":{\"a\":\"m.safetensors\"}}",
        ("{\"metadata\":{\"total_size\":24},\"weight_map\":{\"b.weight\":\"model-00002-of-00002.safetensors\","
         "\"a.weight\":\"model-00001-of-00002.safetensors\",\"c\":\"model-00002-of-00002.safetensors\"}}"),
        "{\"weight_map\":{\"a\":\"../m.safetensors\",\"b\":\"..\",\"c\":7,\"\\u00e9\":\"n\\\\m.safetensors\"}}",
        "{\"weight_map\":{\"a\":\"m.safetensors\",\"a\":\"n.safetensors\"}}",
    };

    if (index >= (int)(sizeof seeds / sizeof seeds[0])) {
        return -1;
    }
    memcpy(out, seeds[index], strlen(seeds[index]));
    return (long)strlen(seeds[index]);
}

void fuzz_mend(uint8_t *data, size_t bytes)
{
    (void)data;
    (void)bytes;
}
