/* SPDX-License-Identifier: MIT
 *
 * What must hold for every plan, checked the slow way: element by element, byte by byte.
 */
#ifndef SHERD_TESTS_SHARD_INVARIANTS_H
#define SHERD_TESTS_SHARD_INVARIANTS_H

#include "shard/plan.h"

/* Asserts all of them. `target` is the bucket target in elements the plan was made with. Counts what it looked at. */
typedef struct invariants_seen {
    uint64_t plans, elements, overlaps, wraps;
} invariants_seen;

void invariants_check(const sherd_plan *plan, const sherd_param *params, uint32_t n_params, int64_t target,
                      invariants_seen *seen);

#endif
