/* SPDX-License-Identifier: MIT
 *
 * The weights of a model as Hugging Face stores them: one safetensors file, or several with an index.
 */
#ifndef SHERD_CLI_WEIGHTS_H
#define SHERD_CLI_WEIGHTS_H

#include "sherd/sherd.h"

typedef struct cli_weights cli_weights;

/* `path`: a safetensors file; an index (its name ends in .json); or a folder with model.safetensors or, failing that,
 * model.safetensors.index.json. Headers are read and compared with the index; one sentence where they disagree. */
sherd_status cli_weights_open(const char *path, cli_weights **out, sherd_error *err);
void cli_weights_close(cli_weights *weights); /* NULL is fine */
/* Tensors of all files, file by file. */
size_t cli_weights_count(const cli_weights *weights);
sherd_status cli_weights_info(const cli_weights *weights, size_t index, sherd_tensor_info *out);
int64_t cli_weights_find(const cli_weights *weights, const char *name); /* -1: there is none of that name */
/* As sherd_safetensors_read_fp32. */
sherd_status cli_weights_read(const cli_weights *weights, size_t index, int64_t first, int64_t elems, float *values,
                              sherd_error *err);

#endif
