/* SPDX-License-Identifier: MIT
 *
 * A value in one of the 16-bit types and back, by the engine's own rules: what the models' are compared with.
 */
#ifndef SHERD_TESTS_MODELS_HALF_H
#define SHERD_TESTS_MODELS_HALF_H

#include "base/half.h"
#include "sherd/sherd.h"

static inline uint16_t half_of(sherd_dtype type, float value)
{
    return type == SHERD_FP16 ? sherd__f16_of_f32(value) : sherd__bf16_of_f32(value);
}

static inline float float_of(sherd_dtype type, uint16_t half)
{
    return type == SHERD_FP16 ? sherd__f32_of_f16(half) : sherd__f32_of_bf16(half);
}

#endif
