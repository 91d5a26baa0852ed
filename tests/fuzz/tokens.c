/* SPDX-License-Identifier: MIT
 *
 * Any bytes as a token file; the first byte is the model's vocabulary. What is accepted is exactly as long as it says,
 * and every token is in the vocabulary.
 */
#include "cli/tokens.h"

#include <string.h>

#include "tests/fuzz/target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    int64_t vocab = bytes > 0 ? 256 * (int64_t)data[0] : 0;
    const uint8_t *file = data + 1;
    sherd_error err = {.text = ""};
    uint64_t count = 0;

    if (bytes < 5 || !cli_tokens_begin(file, bytes - 1)) {
        return 0;
    }
    if (cli_tokens_check(file, bytes - 1, vocab, "fuzz", &count, &err) != SHERD_OK) {
        FUZZ_REQUIRE(err.text[0] != '\0');
        return 0;
    }
    FUZZ_REQUIRE(count >= 1 && bytes - 1 == CLI_TOKENS_HEADER + 2 * count);
    for (uint64_t i = 0; i < count; i++) {
        FUZZ_REQUIRE(vocab == 0 || file[CLI_TOKENS_HEADER + 2 * i] + 256 * file[CLI_TOKENS_HEADER + 2 * i + 1] < vocab);
    }
    return 0;
}

long fuzz_seed(int index, uint8_t *out)
{
    static const struct {
        uint8_t vocab;
        uint32_t count, first;
    } seeds[] = {{1, 1, 0}, {1, 200, 7}, {197, 60, 50000}, {0, 5, 65530}, {1, 3, 254}};

    if (index >= (int)(sizeof seeds / sizeof seeds[0])) {
        return -1;
    }
    out[0] = seeds[index].vocab;
    cli_tokens_header(seeds[index].count, out + 1);
    for (uint32_t i = 0; i < seeds[index].count; i++) {
        uint32_t token = seeds[index].first + i;

        out[1 + CLI_TOKENS_HEADER + 2 * i] = (uint8_t)token;
        out[2 + CLI_TOKENS_HEADER + 2 * i] = (uint8_t)(token >> 8);
    }
    return 1 + CLI_TOKENS_HEADER + 2 * (long)seeds[index].count;
}

/* The magic, so that mutations reach what stands behind it. */
void fuzz_mend(uint8_t *data, size_t bytes)
{
    uint8_t header[CLI_TOKENS_HEADER];

    cli_tokens_header(0, header);
    if (bytes >= 5 && data[bytes - 1] % 8 != 0) {
        memcpy(data + 1, header, 4);
    }
}
