/* SPDX-License-Identifier: MIT
 *
 * Text, and the order in which its sequences are taken.
 */
#ifndef SHERD_CLI_DATA_H
#define SHERD_CLI_DATA_H

#include "sherd/sherd.h"

typedef struct cli_text {
    unsigned char *bytes;
    uint64_t size; /* of them */
    uint32_t files;
    int32_t wide; /* 0: a token is a byte; 1: two, little endian, from token files */
} cli_text;

/* Files, folders, and patterns of file names where no file has the name itself. Text and token files do not mix; a
 * token must be below `vocab` (0: any). */
sherd_status cli_text_read(const char *const *paths, size_t n_paths, int64_t vocab, cli_text *out, sherd_error *err);
uint64_t cli_text_tokens(const cli_text *text);
void cli_text_free(cli_text *text);

/* Sequences by position in the concatenated permutations of all epochs. */
typedef struct cli_sampler {
    uint64_t seed;
    int64_t windows;
    int64_t base;     /* position at which micro-batch 0 of step 0 begins */
    int64_t epoch[2]; /* which permutation each of `order` holds; -1: none */
    uint32_t *order[2];
} cli_sampler;

sherd_status cli_sampler_create(uint64_t seed, int64_t windows, cli_sampler *out, sherd_error *err);
void cli_sampler_destroy(cli_sampler *sampler);
int64_t cli_sampler_window(cli_sampler *sampler, int64_t position);
/* The B sequences of micro-batch g of step s (both from 0), G micro-batches per step. */
void cli_sampler_batch(cli_sampler *sampler, const cli_text *text, int64_t seq, int64_t batch, int64_t s, int64_t g,
                       int64_t g_per_step, int32_t *tokens, int32_t *targets);
/* Window number `window`: seq tokens, and those that follow each. */
void cli_text_window(const cli_text *text, int64_t window, int64_t seq, int32_t *tokens, int32_t *targets);
uint64_t cli_random(uint64_t *state); /* splitmix64 */

#endif
