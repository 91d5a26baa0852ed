/* SPDX-License-Identifier: MIT */
#include "base/ledger.h"

#include <inttypes.h>
#include <string.h>

sherd_status sherd__ledger_init(sherd__ledger *ledger, sherd_error *err)
{
    memset(ledger, 0, sizeof *ledger);
    if (pthread_mutex_init(&ledger->lock, NULL))
        return sherd__fail(err, SHERD_ESYSTEM, "memory ledger: the mutex could not be created");
    return SHERD_OK;
}

void sherd__ledger_fini(sherd__ledger *ledger)
{
    pthread_mutex_destroy(&ledger->lock);
}

static void raise_peaks(sherd__ledger *ledger, sherd_tier tier, sherd_category category)
{
    if (ledger->live.bytes[tier][category] > ledger->peak.bytes[tier][category])
        ledger->peak.bytes[tier][category] = ledger->live.bytes[tier][category];
    if (ledger->total[tier] > ledger->total_peak[tier])
        ledger->total_peak[tier] = ledger->total[tier];
}

sherd_status sherd__ledger_add(sherd__ledger *ledger, sherd_tier tier, sherd_category category, uint64_t bytes,
                               uint64_t rounding, sherd_error *err)
{
    uint64_t held, limit;

    pthread_mutex_lock(&ledger->lock);
    held = ledger->total[tier];
    limit = ledger->limit[tier];
    if (limit && (bytes > limit || rounding > limit - bytes || held > limit - bytes - rounding)) {
        pthread_mutex_unlock(&ledger->lock);
        return sherd__fail(err, SHERD_ENOMEM,
                           "%s memory: %" PRIu64 " bytes for %s do not fit: %" PRIu64
                           " are held and the limit is %" PRIu64
                           "; raise the limit, or use more ranks, a higher ZeRO stage or a smaller batch",
                           sherd_tier_name(tier), bytes + rounding, sherd_category_name(category), held, limit);
    }
    ledger->live.bytes[tier][category] += bytes;
    ledger->live.bytes[tier][SHERD_CAT_ROUNDING] += rounding;
    ledger->total[tier] += bytes + rounding;
    raise_peaks(ledger, tier, category);
    raise_peaks(ledger, tier, SHERD_CAT_ROUNDING);
    pthread_mutex_unlock(&ledger->lock);
    return SHERD_OK;
}

void sherd__ledger_sub(sherd__ledger *ledger, sherd_tier tier, sherd_category category, uint64_t bytes,
                       uint64_t rounding)
{
    pthread_mutex_lock(&ledger->lock);
    ledger->live.bytes[tier][category] -= bytes;
    ledger->live.bytes[tier][SHERD_CAT_ROUNDING] -= rounding;
    ledger->total[tier] -= bytes + rounding;
    pthread_mutex_unlock(&ledger->lock);
}

void sherd__ledger_read(sherd__ledger *ledger, sherd_memory *live, sherd_memory *peak, uint64_t *total_peak)
{
    pthread_mutex_lock(&ledger->lock);
    if (live)
        *live = ledger->live;
    if (peak)
        *peak = ledger->peak;
    if (total_peak)
        memcpy(total_peak, ledger->total_peak, sizeof ledger->total_peak);
    pthread_mutex_unlock(&ledger->lock);
}
