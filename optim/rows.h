/* SPDX-License-Identifier: MIT
 *
 * What the optimizers' files share with the table: their rows, and the rate of a group.
 */
#ifndef SHERD_OPTIM_ROWS_H
#define SHERD_OPTIM_ROWS_H

#include "optim/list.h"
#include "optim/optim.h"

#define X(KIND, name, moments) extern const sherd__optim sherd__##name;
SHERD__OPTIM_MAP(X)
#undef X

/* The rate that was set for the group, or the voted rate times group.lr / optimizer.lr. The quotient comes first, so that
 * a group without a rate of its own gets the voted one exactly; optimizer.lr = 0 has no quotient, and groups then follow
 * the vote. */
static inline double sherd__group_rate(const sherd__step_rules *rules, double lr, uint32_t group)
{
    if (rules->own_rate >> group & 1)
        return rules->groups[group].lr;
    return rules->base_lr != 0.0 ? lr * (rules->groups[group].lr / rules->base_lr) : lr;
}

#endif
