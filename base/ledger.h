/* SPDX-License-Identifier: MIT
 *
 * The memory ledger: what is held now and the most that was ever held, by tier and category, exact at every moment.
 * Any thread; one mutex, which no step takes (nothing in a step allocates, parking excepted).
 */
#ifndef SHERD_BASE_LEDGER_H
#define SHERD_BASE_LEDGER_H

#include <pthread.h>

#include "base/status.h"

typedef struct sherd__ledger {
    pthread_mutex_t lock;
    sherd_memory live, peak;
    uint64_t total[SHERD_TIERS], total_peak[SHERD_TIERS];
    uint64_t limit[SHERD_TIERS]; /* 0: none */
} sherd__ledger;

sherd_status sherd__ledger_init(sherd__ledger *ledger, sherd_error *err);
void sherd__ledger_fini(sherd__ledger *ledger);
/* Books `bytes` under the category and `rounding` (what pages and alignment add) under SHERD_CAT_ROUNDING. ENOMEM, and
 * nothing booked, if the tier's limit would be passed; the sentence names both numbers. */
sherd_status sherd__ledger_add(sherd__ledger *ledger, sherd_tier tier, sherd_category category, uint64_t bytes,
                               uint64_t rounding, sherd_error *err);
void sherd__ledger_sub(sherd__ledger *ledger, sherd_tier tier, sherd_category category, uint64_t bytes,
                       uint64_t rounding);
void sherd__ledger_read(sherd__ledger *ledger, sherd_memory *live, sherd_memory *peak, uint64_t *total_peak);

#endif
