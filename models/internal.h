/* SPDX-License-Identifier: MIT
 *
 * What the files of models/ share and nobody else needs.
 */
#ifndef SHERD_MODELS_INTERNAL_H
#define SHERD_MODELS_INTERNAL_H

#include "models/model.h"

/* Fills *err (may be NULL), rank -1, and returns `status`. */
__attribute__((format(printf, 3, 4))) sherd_status sherd__model_fail(sherd_error *err, sherd_status status,
                                                                     const char *format, ...);

static inline int64_t sherd__model_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}
static inline int64_t sherd__model_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t sherd__model_ceil(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit;
}
static inline int64_t sherd__model_round(int64_t n, int64_t unit)
{
    return sherd__model_ceil(n, unit) * unit;
}
static inline int64_t sherd__model_bytes(sherd_dtype dtype)
{
    return dtype == SHERD_FP32 ? 4 : 2;
}

#endif
