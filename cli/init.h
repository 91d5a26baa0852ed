/* SPDX-License-Identifier: MIT
 *
 * First weights from safetensors files with Hugging Face's Llama names.
 */
#ifndef SHERD_CLI_INIT_H
#define SHERD_CLI_INIT_H

#include "cli/weights.h"
#include "models/model.h"

/* Opens what `path` means (weights.h) and compares its table with the model's: every parameter there, in its shape, in
 * fp32, bf16 or fp16, and nothing else, except what such files hold beside weights. One sentence where not. *out may be
 * NULL: only looks.
 */
sherd_status cli_init_open(const char *path, const sherd_param *params, uint32_t n_params, cli_weights **out,
                           sherd_error *err);
/* The same for a model that has no table yet. */
sherd_status cli_init_look(const char *path, const sherd_model_shape *shape, sherd_error *err);
/* One parameter's values, widened to fp32. */
sherd_status cli_init_read(const cli_weights *file, const sherd_param *param, float *values, sherd_error *err);

#endif
