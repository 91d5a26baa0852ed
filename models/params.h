/* SPDX-License-Identifier: MIT
 *
 * Where a parameter stands in the table: the embedding, nine per layer, the last norm, the head unless it is tied.
 */
#ifndef SHERD_MODELS_PARAMS_H
#define SHERD_MODELS_PARAMS_H

#include "models/internal.h"

enum {
    SHERD__NORM1,
    SHERD__Q,
    SHERD__K,
    SHERD__V,
    SHERD__O,
    SHERD__NORM2,
    SHERD__GATE,
    SHERD__UP,
    SHERD__DOWN,
    SHERD__LAYER_PARAMS
};
#define SHERD__EMBED 0u

static inline uint32_t sherd__layer_param(int64_t layer, int which)
{
    return (uint32_t)(1 + layer * SHERD__LAYER_PARAMS + which);
}

static inline uint32_t sherd__final_norm_param(const sherd_model_shape *s)
{
    return sherd__layer_param(s->layers, 0);
}

static inline uint32_t sherd__head_param(const sherd_model_shape *s)
{
    return s->tied ? SHERD__EMBED : sherd__final_norm_param(s) + 1;
}

#endif
