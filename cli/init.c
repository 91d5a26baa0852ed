/* SPDX-License-Identifier: MIT
 *
 * The tables are compared whole before anything is said, so that the sentence can tell how much is wrong: one tensor,
 * or the wrong model.
 */
#include "cli/init.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/session.h"

/* "64 x 32", or "a scalar". */
static const char *shape_text(const int64_t *shape, uint32_t ndim, char *buffer, size_t capacity)
{
    size_t used = (size_t)snprintf(buffer, capacity, "%s", ndim == 0 ? "a scalar" : "");

    for (uint32_t d = 0; d < ndim && used < capacity; d++) {
        used += (size_t)snprintf(buffer + used, capacity - used, "%s%lld", d > 0 ? " x " : "", (long long)shape[d]);
    }
    return buffer;
}

static int same_shape(const sherd_tensor_info *info, const sherd_param *param)
{
    int same = info->ndim == param->ndim;

    for (uint32_t d = 0; d < param->ndim && same; d++) {
        same = info->shape[d] == param->shape[d];
    }
    return same;
}

/* Tensors of the model that the file has not. */
static sherd_status check_missing(const cli_weights *file, const char *path, const sherd_param *params, uint32_t n,
                                  sherd_error *err)
{
    const char *first = NULL;
    uint32_t missing = 0;
    int tied_head;

    for (uint32_t i = 0; i < n; i++) {
        if (cli_weights_find(file, params[i].name) < 0) {
            first = first != NULL ? first : params[i].name;
            missing++;
        }
    }
    if (missing == 0) {
        return SHERD_OK;
    }
    tied_head = missing == 1 && strcmp(first, "lm_head.weight") == 0;
    return cli_fail(err, SHERD_EINVAL, "--init %.200s: %u of the model's %u tensors %s not there, the first '%s'; %s",
                    path, (unsigned)missing, (unsigned)n, missing > 1 ? "are" : "is", first,
                    tied_head ? "for tied embeddings give a --model with tie_word_embeddings"
                              : "give the --model that the file was made for, in Hugging Face's names for Llama");
}

static sherd_status check_shapes(const cli_weights *file, const char *path, const sherd_param *params, uint32_t n,
                                 sherd_error *err)
{
    sherd_tensor_info info, first = {0};
    const sherd_param *wanted = NULL;
    char found[128], expected[128];
    uint32_t wrong = 0;

    for (uint32_t i = 0; i < n; i++) {
        int64_t index = cli_weights_find(file, params[i].name);

        if (cli_weights_info(file, (size_t)index, &info) == SHERD_OK && info.kind < 0) {
            return cli_fail(err, SHERD_EUNSUPPORTED,
                            "--init %.200s: tensor '%s' is of type %s; F32, BF16 and F16 are read", path, info.name,
                            info.dtype);
        }
        if (!same_shape(&info, &params[i])) {
            first = wrong == 0 ? info : first;
            wanted = wrong == 0 ? &params[i] : wanted;
            wrong++;
        }
    }
    if (wrong == 0) {
        return SHERD_OK;
    }
    return cli_fail(err, SHERD_EINVAL,
                    "--init %.200s: %u of %u tensors %s another shape than the model's, the first '%s', "
                    "%s, not %s; give the --model that the file was made for",
                    path, (unsigned)wrong, (unsigned)n, wrong > 1 ? "have" : "has", first.name,
                    shape_text(first.shape, first.ndim, found, sizeof found),
                    shape_text(wanted->shape, wanted->ndim, expected, sizeof expected));
}

/* What such files hold beside weights: tables of rotary angles, and a head that is the embedding once more. */
static int beside_weights(const char *name)
{
    static const char ending[] = "rotary_emb.inv_freq";
    size_t length = strlen(name), tail = sizeof ending - 1;

    return (length >= tail && strcmp(name + length - tail, ending) == 0) || strcmp(name, "lm_head.weight") == 0;
}

static sherd_status check_others(const cli_weights *file, const char *path, const sherd_param *params, uint32_t n,
                                 sherd_error *err)
{
    sherd_tensor_info info, first = {0};
    uint32_t others = 0;

    for (size_t i = 0; i < cli_weights_count(file); i++) {
        int known = 0;

        if (cli_weights_info(file, i, &info) != SHERD_OK || beside_weights(info.name)) {
            continue;
        }
        for (uint32_t p = 0; p < n && !known; p++) {
            known = strcmp(params[p].name, info.name) == 0;
        }
        first = !known && others == 0 ? info : first;
        others += !known;
    }
    if (others == 0) {
        return SHERD_OK;
    }
    return cli_fail(err, SHERD_EINVAL,
                    "--init %.200s: holds %u tensor%s that the model has not, the first '%.120s'; give the "
                    "--model that the file was made for",
                    path, (unsigned)others, others > 1 ? "s" : "", first.name);
}

sherd_status cli_init_open(const char *path, const sherd_param *params, uint32_t n_params, cli_weights **out,
                           sherd_error *err)
{
    cli_weights *file;
    sherd_status status = cli_weights_open(path, &file, err);

    if (status != SHERD_OK) {
        return status;
    }
    status = check_missing(file, path, params, n_params, err);
    if (status == SHERD_OK) {
        status = check_shapes(file, path, params, n_params, err);
    }
    if (status == SHERD_OK) {
        status = check_others(file, path, params, n_params, err);
    }
    if (status == SHERD_OK && out != NULL) {
        *out = file;
        return SHERD_OK;
    }
    cli_weights_close(file);
    return status;
}

sherd_status cli_init_look(const char *path, const sherd_model_shape *shape, sherd_error *err)
{
    sherd_config config;
    sherd_param *params = NULL;
    char *names = NULL;
    uint32_t n = 0;
    sherd_status status;

    sherd_config_init(&config, sizeof config);
    status = cli_model_table(shape, &config, &params, &names, &n, err);
    if (status == SHERD_OK) {
        status = cli_init_open(path, params, n, NULL, err);
    }
    free(params);
    free(names);
    return status;
}

sherd_status cli_init_read(const cli_weights *file, const sherd_param *param, float *values, sherd_error *err)
{
    int64_t index = cli_weights_find(file, param->name), elems = 1;

    for (uint32_t d = 0; d < param->ndim; d++) {
        elems *= param->shape[d];
    }
    return cli_weights_read(file, (size_t)index, 0, elems, values, err);
}
