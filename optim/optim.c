/* SPDX-License-Identifier: MIT */
#include "optim/optim.h"

#include "optim/rows.h"

static const sherd__optim *const rows[] = {
#define X(KIND, name, moments) [SHERD_##KIND] = &sherd__##name,
    SHERD__OPTIM_MAP(X)
#undef X
};

#define X(KIND, name, moments) _Static_assert((moments) <= SHERD__MAX_MOMENTS, "raise SHERD__MAX_MOMENTS for " #name);
SHERD__OPTIM_MAP(X)
#undef X
_Static_assert((int)SHERD__RULE_MUON_DIRECT == (int)SHERD_MUON && (int)SHERD__RULE_LAMB == (int)SHERD_LAMB,
               "an optimizer of one rule has that rule's number");

const sherd__optim *sherd__optim_get(sherd_optimizer kind)
{
    return (size_t)kind < sizeof rows / sizeof *rows ? rows[kind] : NULL;
}
