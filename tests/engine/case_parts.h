/* SPDX-License-Identifier: MIT */
#ifndef SHERD_TESTS_ENGINE_CASE_PARTS_H
#define SHERD_TESTS_ENGINE_CASE_PARTS_H

/* What the files of the synthetic model share. */
#include "tests/engine/case.h"

enum { MATRIX, BIAS, SCALAR, EMPTY, ODD, FROZEN, TIED, UNUSED, LARGE, LAST, CASE_PARAMS };

/* Of a parameter and of its gradient; mixed: norms fp32, matrices bf16 and fp16. */
sherd_dtype case_dtype(const engine_case *c, uint32_t p);
sherd_dtype case_grad_dtype(const engine_case *c, uint32_t p);
int64_t case_elems(const sherd_param *param);
/* The gradient of one use, scaled as a client's loss is; some uses have none. */
void case_use_leaf(const engine_case *c, int64_t step, int64_t micro, uint32_t p, uint32_t use, int64_t n, void *out);
void case_add_use(sherd_dtype dtype, int64_t n, void *to, const void *from);
/* A parameter's whole gradient, as the oracle asks for it. */
int case_oracle_leaf(void *ctx, int64_t step, int64_t micro, uint32_t p, sherd_dtype dtype, int64_t n, void *out);
uint32_t case_arrival_order(const engine_case *c, int64_t step, int64_t micro, uint32_t order[CASE_PARAMS + 1]);

#endif
