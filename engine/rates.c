/* SPDX-License-Identifier: MIT
 *
 * Learning rates and weight decays that change while training. What rank 0 has set travels with the vote, so ranks
 * cannot drift apart, whatever the others set.
 */
#include <inttypes.h>
#include <math.h>

#include "engine/engine.h"

static sherd_status set_word(sherd_engine *engine, const char *call, uint32_t group, uint32_t which, double value,
                             sherd_error *err)
{
    if (group >= engine->rules.n_groups)
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "%s: there is no group %" PRIu32 ", the configuration has %" PRIu32, call, group,
                                    engine->rules.n_groups);
    if (value != SHERD_AS_CONFIGURED && !(value >= 0 && isfinite(value)))
        return sherd__engine_refuse(engine, err, SHERD_EINVAL,
                                    "%s of group %" PRIu32 ": %g is not a number from 0 up, nor SHERD_AS_CONFIGURED",
                                    call, group, value);
    engine->set[2 * group + which] = value == SHERD_AS_CONFIGURED ? 0 : sherd__vote_word(value);
    return SHERD_OK;
}

sherd_status sherd_engine_set_lr(sherd_engine *engine, uint32_t group, double lr, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);
    return status == SHERD_OK ? set_word(engine, "sherd_engine_set_lr", group, 0, lr, err) : status;
}

sherd_status sherd_engine_set_weight_decay(sherd_engine *engine, uint32_t group, double weight_decay, sherd_error *err)
{
    sherd_status status = sherd__engine_health(engine, err);
    return status == SHERD_OK ? set_word(engine, "sherd_engine_set_weight_decay", group, 1, weight_decay, err) : status;
}
