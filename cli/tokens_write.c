/* SPDX-License-Identifier: MIT
 *
 * sherd tokens: text as a token file, one token per byte: small corpora for tests, and for programs that read such
 * files.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/data.h"
#include "cli/tokens.h"

static int write_tokens(FILE *out, const cli_text *text)
{
    unsigned char header[CLI_TOKENS_HEADER];
    int good;

    cli_tokens_header((uint32_t)text->size, header);
    good = fwrite(header, 1, sizeof header, out) == sizeof header;
    for (uint64_t i = 0; i < text->size && good; i++) {
        good = putc(text->bytes[i], out) != EOF && putc(0, out) != EOF;
    }
    return good;
}

static sherd_status write_file(const char *path, const cli_text *text, sherd_error *err)
{
    FILE *out = fopen(path, "wb");
    int good;

    if (out == NULL) {
        return cli_fail(err, SHERD_EIO, "--out %.300s: cannot be written: %s", path, strerror(errno));
    }
    good = write_tokens(out, text);
    good = fclose(out) == 0 && good;
    if (!good) {
        cli_fail(err, SHERD_EIO, "--out %.300s: cannot be written to its end: %s", path, strerror(errno));
        remove(path);
        return SHERD_EIO;
    }
    return SHERD_OK;
}

int cli_tokens(const cli_options *options)
{
    cli_text text = {0};
    sherd_error err;
    sherd_status status;

    if (options->n_data == 0 || options->out == NULL) {
        return cli_usage("tokens needs --data and --out; `sherd tokens --help` says more");
    }
    status = cli_text_read(options->data, options->n_data, 0, &text, &err);
    if (status == SHERD_OK && text.wide) {
        status = cli_fail(&err, SHERD_EINVAL, "--data %.300s: holds tokens already", options->data[0]);
    }
    if (status == SHERD_OK && (text.size < 1 || text.size > INT32_MAX)) {
        status = cli_fail(&err, SHERD_EINVAL, "--data %.300s: %llu bytes, but a token file holds 1 to %d tokens",
                          options->data[0], (unsigned long long)text.size, INT32_MAX);
    }
    if (status == SHERD_OK) {
        status = write_file(options->out, &text, &err);
    }
    if (status == SHERD_OK) {
        cli_message(-1, "%s: %llu tokens, one per byte", options->out, (unsigned long long)text.size);
    }
    cli_text_free(&text);
    return status == SHERD_OK ? CLI_OK : cli_failure(-1, &err);
}
