/* SPDX-License-Identifier: MIT
 *
 * The table of a model whose weights lie in several safetensors files: Hugging Face's model.safetensors.index.json.
 */
#ifndef SHERD_CLI_INDEX_H
#define SHERD_CLI_INDEX_H

#include <stddef.h>

#include "sherd/sherd.h"

typedef struct cli_index {
    struct json_t *root;
    const char **files; /* [n_files] the files that it names, each once, in the order of their bytes */
    size_t n_files;
} cli_index;

/* `name` stands for the file in sentences. What is accepted names a file for every tensor, each a plain name of a file
 * in the index's own folder. */
sherd_status cli_index_parse(const char *text, size_t bytes, const char *name, cli_index *out, sherd_error *err);
void cli_index_free(cli_index *index); /* zeros are fine */
/* Place in `files` of the tensor's file; -1: the index does not know the tensor. */
long cli_index_find(const cli_index *index, const char *tensor);
/* The first tensor that the index has and `known` says 0 to, or NULL. */
const char *cli_index_first_unknown(const cli_index *index, int (*known)(void *ctx, const char *tensor, size_t file),
                                    void *ctx);

#endif
