/* SPDX-License-Identifier: MIT
 *
 * Half-open ranges, the currency of plan, engine and kernels.
 */
#ifndef SHERD_BASE_INTERVAL_H
#define SHERD_BASE_INTERVAL_H

#include <stdint.h>

/* Elements [begin, end) of one bucket that belong to one parameter group: what one run of an update covers. begin is a multiple
 * of 256; end is one too, or a parameter's true end. Where the optimizer treats parameters as wholes, a span belongs to one. */
typedef struct sherd__span {
    int64_t begin, end;
    uint32_t group;
    uint32_t tensor; /* the parameter's place in the plan's order; 0 where nobody asks */
} sherd__span;

typedef struct sherd__byte_range {
    uint64_t begin, end;
} sherd__byte_range;

#endif
