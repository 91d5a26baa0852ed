/* SPDX-License-Identifier: MIT
 *
 * The synthetic model's gradients, and the order in which they come.
 */
#include "tests/engine/case_parts.h"

#include <math.h>
#include <stdlib.h>

#include "base/half.h"
#include "tests/support/leaves.h"

int64_t case_elems(const sherd_param *param)
{
    int64_t n = 1;
    for (uint32_t d = 0; d < param->ndim; d++)
        n *= param->shape[d];
    return n;
}

/* As a client's scaled loss does: exact for powers of two, as long as nothing overflows. */
static void scale_leaf(const engine_case *c, sherd_dtype dtype, int64_t n, void *out)
{
    float scale = (float)c->scale;

    for (int64_t i = 0; c->scaling != SHERD_SCALING_NONE && i < n; i++)
        if (dtype == SHERD_BF16)
            ((uint16_t *)out)[i] = sherd__bf16_of_f32(sherd__f32_of_bf16(((uint16_t *)out)[i]) * scale);
        else if (dtype == SHERD_FP16)
            ((uint16_t *)out)[i] = sherd__f16_of_f32(sherd__f32_of_f16(((uint16_t *)out)[i]) * scale);
        else
            ((float *)out)[i] *= scale;
}

/* The gradient of one use. The tied parameter has two: what the ring must hold is their sum, narrowed once. */
void case_use_leaf(const engine_case *c, int64_t step, int64_t micro, uint32_t p, uint32_t use, int64_t n, void *out)
{
    sherd_dtype dtype = case_grad_dtype(c, p);

    sherd_test_leaf(c->seed + 1000 * use, step, micro, p, dtype, n, out);
    scale_leaf(c, dtype, n, out);
    if ((c->bad_step == step || (c->bad_steps >> step & 1)) && p == ODD && micro == 0) {
        if (dtype != SHERD_FP32)
            ((uint16_t *)out)[5] = dtype == SHERD_BF16 ? 0x7F80 : 0x7C00;
        else
            ((float *)out)[5] = INFINITY;
    }
}

void case_add_use(sherd_dtype dtype, int64_t n, void *to, const void *from)
{
    for (int64_t i = 0; i < n; i++)
        if (dtype == SHERD_BF16)
            ((uint16_t *)to)[i] = sherd__bf16_of_f32(sherd__f32_of_bf16(((uint16_t *)to)[i]) +
                                                     sherd__f32_of_bf16(((const uint16_t *)from)[i]));
        else if (dtype == SHERD_FP16)
            ((uint16_t *)to)[i] = sherd__f16_of_f32(sherd__f32_of_f16(((uint16_t *)to)[i]) +
                                                    sherd__f32_of_f16(((const uint16_t *)from)[i]));
        else
            ((float *)to)[i] += ((const float *)from)[i];
}

/* Which parameter has two uses, and which none. */
static uint32_t tied_param(const engine_case *c)
{
    return c->tied_large ? UNUSED : TIED;
}

static int unused_param(const engine_case *c, uint32_t p)
{
    return p == (c->tied_large ? (uint32_t)TIED : (uint32_t)UNUSED) && !c->all_used;
}

int case_oracle_leaf(void *ctx, int64_t step, int64_t micro, uint32_t p, sherd_dtype dtype, int64_t n, void *out)
{
    const engine_case *c = ctx;
    void *second;

    if (unused_param(c, p))
        return 0;
    case_use_leaf(c, step, micro, p, 0, n, out);
    if (p == tied_param(c)) {
        second = malloc((size_t)n * 4);
        case_use_leaf(c, step, micro, p, 1, n, second);
        case_add_use(dtype, n, out, second);
        free(second);
    }
    return 1;
}

/* Uses in the order in which backward reaches them: the tied parameter's first use first, as a tied head is. */
uint32_t case_arrival_order(const engine_case *c, int64_t step, int64_t micro, uint32_t order[CASE_PARAMS + 1])
{
    uint32_t n = 0;

    order[n++] = tied_param(c);
    for (uint32_t p = CASE_PARAMS; p-- > 0;)
        if (p != FROZEN && !unused_param(c, p))
            order[n++] = p;
    for (uint32_t i = 0; c->arrival == ARRIVE_FORWARD && i < n / 2; i++) {
        uint32_t swap = order[i];
        order[i] = order[n - 1 - i];
        order[n - 1 - i] = swap;
    }
    for (uint32_t i = n - 1; c->arrival == ARRIVE_SHUFFLED && i > 0; i--) {
        uint32_t j = (uint32_t)(sherd_test_mix(c->seed, (uint64_t)step, (uint64_t)micro, i, 99) % (i + 1));
        uint32_t swap = order[i];
        order[i] = order[j];
        order[j] = swap;
    }
    return n;
}
