/* SPDX-License-Identifier: MIT */
#include "cli/tokens.h"

#include <string.h>

#include "cli/cli.h"

enum { WIDE_MAGIC = 20240801 }; /* the same with 32-bit tokens, for larger vocabularies */

static uint32_t word(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void put_word(unsigned char *at, uint32_t value)
{
    for (int i = 0; i < 4; i++) {
        at[i] = (unsigned char)(value >> 8 * i);
    }
}

int cli_tokens_begin(const unsigned char *file, uint64_t bytes)
{
    return bytes >= 4 && (word(file) == CLI_TOKENS_MAGIC || word(file) == WIDE_MAGIC);
}

static sherd_status check_header(const unsigned char *file, uint64_t bytes, const char *name, uint64_t *count,
                                 sherd_error *err)
{
    uint64_t expected;

    if (word(file) == WIDE_MAGIC) {
        return cli_fail(err, SHERD_EUNSUPPORTED,
                        "%.300s: a file of 32-bit tokens (magic %d); only 16-bit ones (magic %d) "
                        "are read",
                        name, (int)WIDE_MAGIC, (int)CLI_TOKENS_MAGIC);
    }
    if (bytes < CLI_TOKENS_HEADER) {
        return cli_fail(err, SHERD_EINVAL,
                        "%.300s: a token file that ends after %llu bytes, within its header of %d; it "
                        "is cut off, get it again",
                        name, (unsigned long long)bytes, (int)CLI_TOKENS_HEADER);
    }
    if (word(file + 4) != CLI_TOKENS_VERSION) {
        return cli_fail(err, SHERD_EUNSUPPORTED, "%.300s: a token file of version %d; only version %d is read", name,
                        (int)(int32_t)word(file + 4), (int)CLI_TOKENS_VERSION);
    }
    *count = word(file + 8);
    expected = CLI_TOKENS_HEADER + *count * 2;
    if (*count < 1 || *count > INT32_MAX || bytes != expected) {
        return cli_fail(err, SHERD_EINVAL,
                        "%.300s: a token file that says it has %d tokens, but %llu bytes stand behind "
                        "its header; it is damaged or cut off, get it again",
                        name, (int)(int32_t)word(file + 8), (unsigned long long)(bytes - CLI_TOKENS_HEADER));
    }
    return SHERD_OK;
}

sherd_status cli_tokens_check(const unsigned char *file, uint64_t bytes, int64_t vocab, const char *name,
                              uint64_t *count, sherd_error *err)
{
    const unsigned char *at = file + CLI_TOKENS_HEADER;
    sherd_status status = check_header(file, bytes, name, count, err);

    for (uint64_t i = 0; i < *count && status == SHERD_OK && vocab > 0 && vocab <= UINT16_MAX; i++) {
        uint32_t token = (uint32_t)at[2 * i] | (uint32_t)at[2 * i + 1] << 8;

        if (token >= vocab) {
            status = cli_fail(err, SHERD_EINVAL,
                              "%.300s: token number %llu is %u, but the model's vocabulary has %lld; "
                              "take the model that the tokens were made for",
                              name, (unsigned long long)i, (unsigned)token, (long long)vocab);
        }
    }
    return status;
}

void cli_tokens_header(uint32_t count, unsigned char out[CLI_TOKENS_HEADER])
{
    memset(out, 0, CLI_TOKENS_HEADER);
    put_word(out, CLI_TOKENS_MAGIC);
    put_word(out + 4, CLI_TOKENS_VERSION);
    put_word(out + 8, count);
}
