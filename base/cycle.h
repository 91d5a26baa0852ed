/* SPDX-License-Identifier: MIT
 *
 * The one-cycle schedule (Smith 2018) as DeepSpeed forms it: over `first` updates up, over `second` down, then decay.
 * Rate and momentum follow the same share of the way up. Only correctly rounded double operations, in the order in
 * which DeepSpeed does them, so that every rank forms the same bits.
 */
#ifndef SHERD_BASE_CYCLE_H
#define SHERD_BASE_CYCLE_H

#include "sherd/sherd.h"

/* `it`: finished updates. Rate of the next one. */
double sherd__cycle_lr(const sherd_one_cycle *cycle, int64_t it);
/* Its beta1. The first update has the least, as DeepSpeed starts there; the second is on the way down from the most. */
double sherd__cycle_momentum(const sherd_one_cycle *cycle, int64_t it);

#endif
