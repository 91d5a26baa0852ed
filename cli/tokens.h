/* SPDX-License-Identifier: MIT
 *
 * Token files as llm.c's data scripts write them: 256 int32 (magic 20240520, version 1, count of tokens, zeros), then
 * the tokens, 16 bits each; all little endian.
 */
#ifndef SHERD_CLI_TOKENS_H
#define SHERD_CLI_TOKENS_H

#include <stdint.h>

#include "sherd/sherd.h"

enum { CLI_TOKENS_HEADER = 1024, CLI_TOKENS_MAGIC = 20240520, CLI_TOKENS_VERSION = 1 };

/* 1: the file's first bytes are those of a token file, be it a good one or not, or of a kind that is not read. */
int cli_tokens_begin(const unsigned char *file, uint64_t bytes);
/* A whole file in memory that begins like one. Header, length and every token are checked; a token must be below
 * `vocab` (0: any). `name` stands before the sentence. Pure. */
sherd_status cli_tokens_check(const unsigned char *file, uint64_t bytes, int64_t vocab, const char *name,
                              uint64_t *count, sherd_error *err);
/* The header of a file of `count` tokens. */
void cli_tokens_header(uint32_t count, unsigned char out[CLI_TOKENS_HEADER]);

#endif
